"""What only a GPU can show; run by `make gpu`. Without a GPU every test here says why it was not run."""

import os
from collections.abc import Callable

import pytest

from engines import Bundle, load_bundle, shipped_bundles
from tests.gpu.bed import real

Say = Callable[[str], None]


@pytest.fixture(scope="session")
def gpu() -> str:
    """The GPU of this machine, by name; skips without one, or fails under KIZASHI_REQUIRE=gpu."""
    found = real.device()
    if isinstance(found, str):
        if "gpu" in os.environ.get("KIZASHI_REQUIRE", "").replace(",", " ").split():
            pytest.fail(f"KIZASHI_REQUIRE=gpu, but there is none: {found}", pytrace=False)
        pytest.skip(f"NOT TESTED on a GPU: {found}")
    pytest.importorskip("pycuda", reason="NOT TESTED on a GPU: package pycuda is missing")
    return f"{found[0]} ({found[1]})"


@pytest.fixture
def say(gpu, capsys) -> Say:
    """Print through pytest, each block under the device's name: these figures are what the run is for."""
    told = []

    def print_it(text: str) -> None:
        with capsys.disabled():
            print(("" if told else f"\n-- {gpu}\n") + text, flush=True)
        told.append(text)

    return print_it


@pytest.fixture(scope="session")
def tensorrt(gpu) -> str:
    """The TensorRT of this machine: its name as an engine."""
    from engines import EngineError
    from tests.gpu.plans import flavour_name

    try:
        return flavour_name()
    except EngineError as error:
        pytest.skip(f"NOT TESTED with TensorRT on {gpu}: {error}")


@pytest.fixture(params=sorted(shipped_bundles()))
def bundle(request) -> Bundle:
    return load_bundle(shipped_bundles()[request.param])
