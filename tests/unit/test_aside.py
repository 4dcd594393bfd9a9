"""Aside: results and errors come back to the loop; what hangs does not keep the process."""

import asyncio
import subprocess
import sys
import threading

import pytest

from pipeline.aside import aside


async def test_a_result_and_an_error_come_back_and_the_loop_goes_on_meanwhile() -> None:
    go = threading.Event()

    def slow(x: int, *, y: int) -> int:
        assert go.wait(10)
        return x + y
    task = asyncio.create_task(aside(slow, 1, y=2))
    await asyncio.sleep(0.01)
    assert not task.done()
    go.set()
    assert await task == 3
    with pytest.raises(ZeroDivisionError):
        await aside(lambda: 1 // 0)


def test_a_process_ends_although_something_hangs_aside() -> None:
    code = """
import asyncio, threading
from pipeline.aside import aside

async def main():
    task = asyncio.create_task(aside(threading.Event().wait))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

asyncio.run(main())
print("ended")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "ended\n"
