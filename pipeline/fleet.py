"""Fleet: the servings of all bundles of a worker, and their devices, which are fitted while the CPU serves.

On the event loop; what blocks goes to threads.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

from engines.base import Staging
from pipeline.aside import aside
from pipeline.fitting import Differs, Fitter
from pipeline.pace import again_s
from pipeline.serving import CLOSE_S, Engines, Layout, Serving, Shapes, layout_of

Headers = list[tuple[str, bytes]]


class Fleet:
    """All servings of a worker, by bundle."""

    def __init__(self, servings: Mapping[str, Serving], fitter: Fitter | None) -> None:
        """fitter: None where the engines were given."""
        self.servings, self._fitter = servings, fitter
        self._restage: Callable[[str], Awaitable[None]] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._tried: set[tuple[str, Layout]] = set()
        for serving in servings.values():
            serving.on_change, serving.on_layout = self._on_change, self._on_layout

    def start(self, restage: Callable[[str], Awaitable[None]]) -> None:
        """Fit the devices that are not there yet. restage: lets a bundle's batches use the arrays of its new engine."""
        self._restage = restage
        for serving in self.servings.values():
            if self._fitter is not None and self._fitter.wants_device and serving.engines.device is None:
                self._spawn(self._equip(self._fitter, serving))

    def headers(self, bundle: str) -> Headers:
        """Return how a bundle is served, for its alerts; those that the clock alone tells have no engine."""
        serving = self.servings.get(bundle)
        return serving.headers if serving is not None else [("kizashi_backend", b"none")]

    def staging(self, bundle: str, shapes: Shapes, rows: int) -> Staging:
        """Return arrays for batches of a bundle."""
        return self.servings[bundle].staging(shapes, rows)

    async def stop(self) -> None:
        """Stop builds, close every engine."""
        if self._fitter is not None:
            self._fitter.stopped = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *(s.close() for s in self.servings.values()), return_exceptions=True)

    async def _equip(self, fitter: Fitter, serving: Serving) -> None:
        """Build what the device needs, and let it take over."""
        bundle, failures = serving.bundle, 0
        while serving.bundle is bundle and serving.engines.device is None:  # a new version brings its own device
            engines = serving.engines
            try:
                fitted = await aside(fitter.with_device, engines, serving.shapes)
            except Exception as error:  # whatever it is, the CPU goes on and says why
                failures += 1
                wait_s = None if isinstance(error, Differs) else again_s(failures)
                fitter.refuse(bundle, str(error) or type(error).__name__, wait_s)
                if serving.engines is engines:
                    why = f"{fitter.choice.name} cannot serve: {error}"
                    serving.replace(Engines(bundle, replace(engines.ground, why=why, degraded=True)))
                if wait_s is None:
                    return
                await asyncio.sleep(wait_s)
                continue
            if serving.engines is engines:
                serving.replace(fitted)
                for shapes in serving.shapes:  # what has come meanwhile
                    if layout_of(shapes) not in fitted.ready:
                        self._on_layout(serving, shapes)
            elif fitted.device is not None:  # a new version has come meanwhile
                await aside(fitted.device.thread.close, CLOSE_S)

    def _on_change(self, bundle: str) -> None:
        if self._restage is not None:
            self._spawn(self._settled(self._restage, bundle))

    async def _settled(self, restage: Callable[[str], Awaitable[None]], bundle: str) -> None:
        try:
            await restage(bundle)  # made here: a task that is cancelled before it begins would leave it unawaited
        except Exception:  # the worker has failed meanwhile, and says why
            return

    def _on_layout(self, serving: Serving, shapes: Shapes) -> None:
        key = serving.bundle.manifest_sha256, layout_of(shapes)
        if self._fitter is not None and key not in self._tried:
            self._tried.add(key)
            self._spawn(self._prepare(self._fitter, serving, shapes))

    async def _prepare(self, fitter: Fitter, serving: Serving, shapes: Shapes) -> None:
        engines, failures = serving.engines, 0
        while serving.engines is engines:
            try:
                await aside(fitter.prepare, engines, shapes)
            except Exception as error:  # whatever it is, the CPU goes on and says why
                failures += 1
                wait_s = None if isinstance(error, Differs) else again_s(failures)
                fitter.refuse(engines.bundle, f"rows of {dict(shapes)} stay on the CPU: {error}", wait_s)
                if wait_s is None:
                    return
                await asyncio.sleep(wait_s)
                continue
            if serving.engines is engines:
                serving.admit(shapes)
            return

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
