"""Throughput of W1 against the peers: hand-written loops, Faust, Bytewax; with JVM=1 Kafka Streams and Flink too.

Every round runs each contestant once, one after the other, on topics of the same content; ratios within a round, second
half of the run, medians over ROUNDS (5). Environment: ENGINES ("null onnx"), PEERS ("confluent aiokafka bytewax
faust"), BROKER, BYTEWAX (a Python with bytewax; else one is made in .build). Without the peers' scripts only ours is
measured.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from tests.bench import report, rig, workload
from tests.bench.report import Bar, Run

PEERS = rig.ROOT.parent / "shared" / "peers"
SCRIPTS = {"confluent": ["limit_confluent.py"], "aiokafka": ["limit_aiokafka.py"], "bytewax": ["peer_bytewax.py"],
           "faust": ["peer_faust.py", "worker", "-l", "warn", "--without-web"]}
JVM = {"streams": ("streams", "peers.StreamsPeer"), "flink": ("flink", "peers.FlinkPeer")}
#: Versions that the peers' own table was made with.
BYTEWAX = ("bytewax==0.21.1", "confluent-kafka==2.16.1", "msgpack", "numpy", "onnxruntime", "onnx")
_OPENS = [f"--add-opens=java.base/java.{p}=ALL-UNNAMED" for p in ("util", "lang", "time")]

#: Frames of a run: some seconds each, and for ours more than one checkpoint.
FRAMES = {("kizashi", "null"): 1_500_000, ("kizashi", "onnx"): 500_000, ("confluent", "null"): 800_000,
          ("aiokafka", "null"): 500_000, ("bytewax", "null"): 500_000, ("faust", "null"): 100_000,
          ("faust", "onnx"): 60_000, ("streams", "null"): 1_500_000, ("flink", "null"): 1_500_000,
          ("streams", "onnx"): 500_000, ("flink", "onnx"): 500_000}


def frames(who: str, engine: str) -> int:
    n = FRAMES.get((who, engine), 250_000)
    return min(n, 20_000 if who == "faust" else 100_000) if rig.QUICK else n


def contestants(wanted: list[str]) -> dict[str, list[str]]:
    """Return the command of every peer that can run here; says which cannot."""
    if not PEERS.is_dir():
        print("the peers' scripts are not here: only ours is measured")
        return {}
    commands = {}
    for name in wanted:
        python = _bytewax_python() if name == "bytewax" else sys.executable
        if python is None:
            print(f"peer {name} is left out: no Python with bytewax (set BYTEWAX)")
        elif name in SCRIPTS:
            commands[name] = [python, *SCRIPTS[name]]
    if os.environ.get("JVM"):
        built = _build_jvm()
        for name, (kind, main_class) in JVM.items():
            path = f"{built}/target/{kind}/classes:{built}/target/{kind}/libs/*"
            commands[name] = ["java", "-Xmx1g", *_OPENS, "-cp", path, main_class]
    return commands


def _bytewax_python() -> str | None:
    if os.environ.get("BYTEWAX"):
        return os.environ["BYTEWAX"]
    home = rig.ROOT / ".build" / "bytewax"
    python = home / "bin" / "python"
    if not (home / "ok").exists():
        if rig.QUICK:
            return None
        try:
            subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
            subprocess.run([str(python), "-m", "pip", "-q", "install", *BYTEWAX], check=True)
        except subprocess.CalledProcessError:
            return None
        (home / "ok").touch()
    return str(python)


def _build_jvm() -> Path:
    home = rig.ROOT / ".build" / "peers-jvm"
    if not home.exists():
        shutil.copytree(PEERS / "jvm", home)
        home.chmod(0o755)
        for profile in ("streams", "flink"):
            subprocess.run(["mvn", "-q", "-B", f"-P{profile}", "package"], cwd=home, check=True)
    return home


def run_peer(command: list[str], env: dict[str, str], scripts: Path) -> Run:
    """Run a peer to its RESULT line. Raises RuntimeError with its last words."""
    done = subprocess.run(command, cwd=scripts, env={**os.environ, **env}, capture_output=True, text=True, timeout=300)
    found = report.parse(done.stdout + done.stderr)
    if found is None:
        raise RuntimeError(f"{command} printed no RESULT:\n{done.stdout[-500:]}{done.stderr[-1500:]}")
    return found[1]


def measure(address: str, engine: str, commands: dict[str, list[str]], scripts: Path) -> dict[str, list[Run]]:
    """Run all contestants `rounds` times, interleaved. scripts: a copy, since Faust writes beside its own."""
    prefix, stamp = workload.fresh_prefix(), f"{time.time():.0f}-{engine}"
    workload.create(address, prefix)
    rig.run_child("tests.bench.workload", address, prefix, frames("kizashi", engine) + 5_000)
    peers = {"BROKER": address, "TOPIC": f"peers-frames-{stamp}", "ALERTS": f"peers-alerts-{stamp}", "ENGINE": engine}
    if commands:
        most = max(frames(name, engine) for name in commands) + 5_000
        subprocess.run([sys.executable, "produce.py"], cwd=scripts, check=True, capture_output=True,
                       env={**os.environ, **peers, "N": str(most)})
    runs: dict[str, list[Run]] = defaultdict(list)
    for i in range(rig.rounds()):
        for name in ("kizashi", *commands):
            n = str(frames(name, engine))
            if name == "kizashi":
                env = {"BROKER": address, "PREFIX": prefix, "N": n, "ENGINE": engine, "THRESH": ""}
                found = report.parse(out := rig.run_child("tests.bench.w1", env=env))
                assert found is not None, out
                runs[name].append(found[1])
            else:
                more = {"STATE": "map"} if name == "streams" else {}
                runs[name].append(run_peer(commands[name], {**peers, **more, "N": n}, scripts))
            last = runs[name][-1]
            print(f"{engine} round {i + 1} {name}: {last['second_half_per_s']:.0f} frames/s, "
                  f"{last['second_half_cpu_us']:.2f} us", flush=True)
    workload.remove(address, prefix)
    return runs


def table(engine: str, runs: dict[str, list[Run]]) -> None:
    """Print one line per contestant, medians and ranges, second half of the run."""
    def middle(key: str, digits: int) -> str:
        values = [r[key] for r in mine if key in r]
        return f"{report.median(values):.{digits}f}" if values else "-"

    print(f"\n| {engine} | k frames/s | CPU us a frame | broker us | RSS MB | ours / theirs | CPU ours / theirs |\n"
          + "|---" * 7 + "|")
    for name, mine in runs.items():
        speed, cpu = ([r[k] for r in mine] for k in ("second_half_per_s", "second_half_cpu_us"))
        fast, cheap = (report.median(report.ratios(runs["kizashi"], mine, k))
                       for k in ("second_half_per_s", "second_half_cpu_us"))
        print(f"| {name} | {report.median(speed) / 1e3:.1f} ({min(speed) / 1e3:.1f}-{max(speed) / 1e3:.1f}) "
              f"| {report.median(cpu):.2f} ({min(cpu):.2f}-{max(cpu):.2f}) "
              f"| {middle('broker_cpu_us', 2)} | {middle('rss_mb', 0)} | {fast:.2f} | {cheap:.2f} |", flush=True)


def bars(engine: str, runs: dict[str, list[Run]]) -> list[Bar]:
    """Return the bars that these runs can judge."""
    known = {"null": {"confluent": ("tuned confluent loop", 0.9, 1.5), "bytewax": ("Bytewax", 1.5, 3.0),
                      "faust": ("Faust take", 12.0, 25.0)},
             "onnx": {"confluent": ("confluent loop, same ONNX Runtime", 1.2, 1.5)}}[engine]
    found = []
    for name, (words, must, moonshot) in known.items():
        if name in runs:
            each = report.ratios(runs["kizashi"], runs[name])
            found.append(Bar(f"W1 {engine} vs {words}", report.median(each), "x", must, moonshot,
                             spread=report.span(each)))
    if engine == "null":
        cpu = [r["second_half_cpu_us"] for r in runs["kizashi"]]
        found.append(Bar("CPU of W1 null", report.median(cpu), "us a frame", 7.0, 4.5, lower=True,
                         spread=report.span(cpu)))
    return found


def main() -> int:
    """Print both tables and the bars."""
    commands = contestants(os.environ.get("PEERS", "confluent aiokafka bytewax faust").split())
    found = []
    with rig.broker() as address, tempfile.TemporaryDirectory(prefix="kizashi-peers-") as folder:
        for script in PEERS.glob("*.py"):
            shutil.copy(script, folder)
        for engine in os.environ.get("ENGINES", "null onnx").split():
            runs = measure(address, engine, commands, Path(folder))
            table(engine, runs)
            found += bars(engine, runs)
    return report.judge(found)


if __name__ == "__main__":
    sys.exit(main())
