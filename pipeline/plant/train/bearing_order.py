"""`kizashi train bearing-order`: from recordings of a rig and the simulator to the bundle that names defects."""

from pipeline.plant.train import Job

#: Simulated windows of a trial, of the 3000 that there are.
_SAMPLE = 240


def train(job: Job) -> None:
    """Read NAME.npz and index.csv, choose by leaving each diameter out, fit on all of it, write the bundle.

    Takes half a minute, so nothing is kept of an interrupted run.
    """
    from engines.recipes import bearing_bundle, bearing_head
    from pipeline.plant import bearinggolden, bearingset

    job.progress(0.0, "features of recordings, moved copies and simulated bearings")
    head, facts = bearingset.build(job.data, job.seed, _SAMPLE if job.sample else bearingset.SIMULATED)
    job.progress(0.7, "golden vectors from the simulator")
    model = bearing_head.model(head)
    names, hashes = sorted(facts["hashes"]), facts["hashes"]
    shipped = bearing_bundle.digest(hashes) == bearing_bundle.SHIPPED_DATA and job.seed == 0 and not job.sample
    card = bearing_bundle.CARD if shipped else bearing_bundle.own_card(names, job.seed, job.sample)
    bearing_bundle.write(job.out, model, bearinggolden.rows(model), card, hashes)
    job.progress(1.0, "done")
    job.facts += [f"{len(names)} recordings, SHA-256 of them all {bearing_bundle.digest(hashes)}, seed {job.seed}",
                  f"chosen by leaving each diameter out: {facts['options']}, unknown from {head.limit:.3f}",
                  f"model.onnx: {len(model)} bytes"]
