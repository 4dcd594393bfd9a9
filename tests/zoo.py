"""Train and score every model that is here, and write the figures down: `make models`, or some of them by name.

python -m tests.zoo [NAME ...]      NAME: a recipe of `kizashi train` or a set of `kizashi evaluate`; all if none

KIZASHI_DATA: folder of the public data sets, else ../shared/data. Each name has a section of tests/bench/MODELS.md,
which is written anew when it has run and left alone when it has not. A section has the command, hashes of the data, all
tables; a training also whether it gave the manifest that is shipped.
"""

import gzip
import hashlib
import importlib
import os
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

from engines.archive import MANIFEST
from engines.bundle import load_bundle
from engines.trust import PINS, TrustPolicy
from pipeline.cli import train as cli_train
from pipeline.cli.evaluate import EXACT, UNFITTED
from pipeline.cli.evaluate import app as evaluate_app
from pipeline.cli.main import main as kizashi
from pipeline.cli.train import RECIPES
from pipeline.ops.settings import Settings
from pipeline.plant import processfiles
from pipeline.plant.evaluate import Options
from pipeline.plant.evaluate.report import Report
from tests.bench import pca

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "tests" / "bench" / "MODELS.md"
DATA = Path(os.environ.get("KIZASHI_DATA", ROOT.parent / "shared" / "data"))
SEEDS = 5
#: Bundles that a set is scored by beside the one that serves it.
OTHERS = {"skab": ("anomaly-convae",)}
#: Folder below DATA of each set, and of what a recipe is trained on.
FOLDERS = {"battery": "nasa_battery", "rul-ewma": "cmapss", "bearing-order": "cwru"}
#: Recipes that simulate by themselves, and what is given to them instead of a folder.
GIVEN = dict(cli_train.SIMULATED)
#: Recipes that a plant trains on its own history: here on the simulator's.
SIMULATED = {"pca-t2q": ("python -m pipeline.plant.processfiles DIR", processfiles.write)}
#: A run without a fault, on which such a monitor is shown besides.
STEADY = Path("skab") / "anomaly-free" / "anomaly-free.csv.gz"
HEAD = """# Models

Every shipped recipe trained, every public set scored, by `make models` (`python -m tests.zoo NAME` for one). Intervals
are 95 % over whole files, units or bearings. `cv`: choices and headline, inside the training part; `shipped`: the
bundle as it is. Data are named by the head of the SHA-256 of their unpacked bytes. Times are those of a shared machine.
"""


def trained(name: str) -> list[str]:
    """Train a recipe in full, seed 0; say what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        data, before = GIVEN.get(name, DATA / FOLDERS.get(name, name)), ""
        if name in SIMULATED:
            data, before = Path(folder) / "DIR", f"`{SIMULATED[name][0]}`, "
            SIMULATED[name][1](data)
        out, began = Path(folder) / name, time.perf_counter()
        code = kizashi(["train", name, "--data", str(data), "--out", str(out)])
        if code:
            raise SystemExit(f"train {name} ended with {code}")
        took = time.perf_counter() - began
        bundle = load_bundle(out, TrustPolicy(allow_unsigned=True))
        manifest = hashlib.sha256((out / MANIFEST).read_bytes()).hexdigest()
    pin = tomllib.loads(PINS.read_text()).get(name)
    shipped = "not shipped" if pin is None else "the shipped one" if pin == manifest else f"SHIPPED IS {pin[:12]}"
    return [f"{before}`kizashi train {name} --data {data.name} --out BUNDLE`", "",
            f"Manifest {manifest[:12]}, {shipped}; model.onnx {len(bundle.model) / 1000:.1f} kB; {took:.0f} s.", "",
            *(f"- {key}: {text[:12]}" for key, text in bundle.spec.card.trained_on.items() if len(text) == 64),
            *(_monitored() if name == "pca-t2q" else ())]


def _monitored() -> list[str]:
    """Show the monitor of a process on simulated plants and, where it is here, on a real run without a fault."""
    path, real = DATA / STEADY, []
    command = "python -m tests.bench.pca"
    if path.is_file():
        command += f" --skab {STEADY}"
        real = ["", f"- {STEADY}: {hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()[:12]}"]
    lines = [*pca.simulated(), *(pca.skab(path) if real else ())]
    return ["", f"`{command}`", *real, "", "```", *lines, "```"]


def scored(name: str) -> list[str]:
    """Evaluate a set, by the shipped bundle and by cross-validation where the set knows it; then by other bundles."""
    data, lines = DATA / FOLDERS.get(name, name), []
    module = importlib.import_module(f"pipeline.plant.evaluate.{name}")
    told: set[str] = set()  # what one protocol has shown is not shown again by the other
    ways = [Options("shipped", SEEDS), *([] if name in UNFITTED else [Options("cv", SEEDS)]),
            *(Options(bundle=bundle) for bundle in OTHERS.get(name, ()))]
    for options in ways:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            report = module.evaluate(data, Path(folder), Settings(), options)
            lines += _told(report, name, options, data, time.perf_counter() - began, told)
    return lines


def _told(report: Report, name: str, asked: Options, data: Path, took: float, told: set[str]) -> list[str]:
    facts = [(key, text) for key, text in report.facts if not (data / key).exists()]
    files = [f"{key} {text}" for key, text in report.facts if (data / key).exists()]
    hashed = [line.partition(", trained on: ")[0] for line in files]  # one hash, whatever the bundle has seen
    cv = asked.protocol == "cv"
    lines = [f"### {asked.bundle or asked.protocol}", "", f"`kizashi evaluate {name} --data {data.name} --out OUT"
             + (f" --bundle {asked.bundle}" if asked.bundle else "") + (" --protocol cv" if cv else "")
             + (f" --seeds {SEEDS}" if cv and name not in EXACT else "") + f"`, {took:.0f} s", "",
             *(f"- {key}: {text}" for key, text in facts)]
    if files:
        lines.append(f"- data, {len(files)} files: " + ("; ".join(files) if len(files) <= 12 else
                     "SHA-256 of names and hashes " + hashlib.sha256("\n".join(hashed).encode()).hexdigest()[:12]))
    blocks = ["\n".join(t.markdown()) for section in report.sections for t in section.tables if not t.private]
    for block in (*blocks, "\n".join(f"{line}  " for line in report.summary)):
        if block not in told:
            lines += ["", *block.split("\n")]
        told.add(block)
    return [*lines, ""]


def _parts() -> dict[str, Callable[[str], list[str]]]:
    sets = [command.name or "" for command in evaluate_app.registered_commands]
    return dict.fromkeys(RECIPES, trained) | dict.fromkeys(sets, scored)


def _sections() -> dict[str, str]:
    text = RESULTS.read_text("utf-8") if RESULTS.exists() else ""
    parts = text.split("\n## ")[1:]
    return {part.split("\n", 1)[0]: part.split("\n", 1)[1].strip("\n") for part in parts}


def main(wanted: list[str]) -> None:
    """Run those of `wanted`, all if it is empty; write each section when it is there."""
    parts = _parts()
    if unknown := [name for name in wanted if name not in parts]:
        raise SystemExit(f"no {', '.join(unknown)}; there are {', '.join(parts)}")
    for name in wanted or parts:
        print(f"\n== {name}", flush=True)
        if name not in SIMULATED and name not in GIVEN and not (DATA / FOLDERS.get(name, name)).is_dir():
            print(f"skipped: {DATA / FOLDERS.get(name, name)} is not there")
            continue
        lines = parts[name](name)
        found = _sections() | {name: "\n".join(lines).strip("\n")}
        order = [*(n for n in parts if n in found), *(n for n in found if n not in parts)]
        RESULTS.write_text(HEAD + "".join(f"\n## {n}\n\n{found[n].strip()}\n" for n in order), "utf-8")
        print(f"written: {RESULTS}")


if __name__ == "__main__":
    main(sys.argv[1:])
