"""A progress bar for commands that take minutes: on a terminal; elsewhere a line when there is something new to say."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(what: str, quiet: bool = False) -> Iterator[Callable[[float, str], None]]:
    """Yield a function that takes the share done (0 to 1) and what is going on. quiet: only on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        said = ""

        def tell(share: float, line: str) -> None:
            nonlocal said
            if line != said and not quiet:
                print(f"{what}: {line}", file=sys.stderr, flush=True)
            said = line

        yield tell
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(what, total=1.0)

        def advance(share: float, line: str) -> None:
            shown.update(task, completed=share, description=line)

        yield advance
