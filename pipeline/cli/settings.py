"""`kizashi settings`: what can be set, and what is in force."""

import typer

from pipeline.cli.options import Assignments, Broker, ConfigFile, read_settings

app = typer.Typer(add_completion=False)


@app.command()
def settings(config: ConfigFile = None, broker: Broker = None, assignments: Assignments = None) -> None:
    """Print all settings as a TOML file, with units, ranges and the reason for each default.

    Values are those in force: file, then environment (KIZASHI_SECTION__KEY), then flags. Secrets are masked.
    """
    from pipeline.ops.document import as_toml

    print(as_toml(read_settings(config, broker, assignments)), end="")
