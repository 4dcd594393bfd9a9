"""Aside: what blocks, in a thread of its own that nobody waits for when the process ends.

`asyncio.to_thread` lends threads of an executor that the interpreter joins at its end: an engine or a device that hangs
would keep a worker from ending, and its supervisor from starting another.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def aside(do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `do` in a thread and wait for it; cancelled, nobody hears what becomes of it."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def hear(result: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type]  # there is one when there is no error

    def main() -> None:
        result, error = None, None
        try:
            result = do(*args, **kwargs)
        except BaseException as caught:  # whoever waits has to hear of it
            error = caught
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(hear, result, error)

    threading.Thread(target=main, name="kizashi-aside", daemon=True).start()
    return await answer
