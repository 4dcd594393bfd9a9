"""The command line: `kizashi COMMAND`. Each command is a module of its own, imported only when it is called.

To add a command, list it in COMMANDS (name -> module, help line) and write the module with

    app = typer.Typer(add_completion=False)

    @app.command()
    def anything(...) -> None: ...

One function makes a plain command, `kizashi NAME`. Several functions, or a function under `@app.callback()` beside
them, make a group, `kizashi NAME FUNCTION` (so `import` is a callback and a function named `csv`). The help of a
function is its docstring. Heavy imports (numpy, onnxruntime, faust, aiokafka, rich) belong inside functions: a module
is imported for its own `--help` too.

Options that commands share, and how they become settings, are in `pipeline.cli.options`. A command ends by returning
(exit code 0), by `raise typer.Exit(code)`, or by a Fatal error of `pipeline.errors`, which `main` turns into its exit
code and one line on stderr. 0 ok, 1 crash or watchdog, 2 configuration or usage, 3 broker, 4 model, 5 input data.
"""

import importlib
import logging
import os
import sys
import traceback
from typing import Any, NamedTuple

os.environ.setdefault("TYPER_USE_RICH", "0")  # plain help: a fifth of the time, and nothing of rich in the worker

import typer  # noqa: E402
from typer.core import TyperGroup  # noqa: E402

from pipeline.errors import BrokerError, Fatal, Retryable  # noqa: E402


class Entry(NamedTuple):
    """Where a command is, and its line in `kizashi --help` (so that the list needs no import)."""

    module: str
    help: str


COMMANDS = {
    "run": Entry("pipeline.cli.run", "Run the worker: frames from the broker, alerts back to it."),
    "demo": Entry("pipeline.cli.demo", "Broker, simulated plant, worker and live view in one terminal, in a minute."),
    "doctor": Entry("pipeline.cli.doctor", "Say what is wrong with broker, topics, clock, disk, engine; and the fix."),
    "settings": Entry("pipeline.cli.settings", "Print all settings with units, ranges and reasons, as a file."),
    "topics": Entry("pipeline.cli.topics", "Compare the broker's topics with what Kizashi needs, and create them."),
    "tail": Entry("pipeline.cli.tail", "Show alerts, dead letters or assets, readable."),
    "deadletters": Entry("pipeline.cli.deadletters", "Send dead letters back to their topic as historical frames."),
    "models": Entry("pipeline.cli.models", "Bundles: list, check, build, bench; make a key, sign, roll back."),
    "calibrate": Entry("pipeline.cli.calibrate", "Let an asset's baseline be learnt anew, after a repair."),
    "simulate": Entry("pipeline.cli.simulate", "Publish a simulated plant, seeded, with faults by script."),
    "import": Entry("pipeline.cli.importhistory", "Turn history into frames: CSV, Parquet, public data sets."),
    "capture": Entry("pipeline.cli.capture", "Write a topic's frames to a capture file."),
    "replay": Entry("pipeline.cli.replay", "Run files through the same flow, without a broker."),
    "train": Entry("pipeline.cli.train", "Make a bundle from data: fit, check, seal, sign."),
    "evaluate": Entry("pipeline.cli.evaluate", "Score a labelled data set and write what its judge reads."),
}


class _Lazy(TyperGroup):
    """Knows its commands by name; imports one when it is called."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]  # names, for "did you mean"

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        return typer.main.get_command(importlib.import_module(COMMANDS[cmd_name].module).app)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


app = typer.Typer(
    cls=_Lazy, name="kizashi", no_args_is_help=True, add_completion=False, context_settings={"max_content_width": 120}
)


@app.callback()
def _root() -> None:
    """Streaming edge analytics: frames of sensor samples in, alerts that name the fault out."""


def main(args: list[str] | None = None) -> int:
    """Run a command line and return its exit code; `args` without the program's name."""
    # What a library wants to say reaches a person as our error; without a handler it would be said twice, and worse.
    if not logging.root.handlers:
        logging.root.addHandler(logging.NullHandler())
    try:
        typer.main.get_command(app).main(args, prog_name="kizashi")
    except SystemExit as done:  # every regular end, usage errors and Ctrl-C (130) included
        return done.code if isinstance(done.code, int) else 0
    except Fatal as error:
        print(f"kizashi: {error}", file=sys.stderr)
        return error.exit_code
    except Retryable as error:  # a command does not wait for a broker to come back, the worker does
        print(f"kizashi: {error}. Is the broker up and its address right? `kizashi doctor` tells", file=sys.stderr)
        return BrokerError.exit_code
    except Exception:  # what no class of ours describes is a fault in the program: show it whole
        traceback.print_exc()
        print("kizashi: this is a fault of Kizashi itself; please report it with the lines above", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
