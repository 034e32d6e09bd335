"""Waiting for something that an engine's events bring about, in a thread or in an event loop."""

from __future__ import annotations

import asyncio
import select
import time
from typing import TYPE_CHECKING, Callable, Optional

from .errors import DeadlineExceeded

if TYPE_CHECKING:
    from .engine import Engine

# Another thread that polls takes our event and leaves nothing to wake this one.
_SLICE_SECONDS = 0.02


class Waiting:
    """Something that becomes settled when the engine is polled."""

    def __init__(self, engine: "Engine") -> None:
        self.engine = engine
        self._callbacks: list[Callable[[], None]] = []

    def _is_settled(self) -> bool:
        raise NotImplementedError

    def _wake(self) -> None:
        """Called by the engine, under its lock, when something changed."""
        if self._is_settled():
            callbacks, self._callbacks = self._callbacks, []
            for callback in callbacks:
                callback()

    def _deadline_exceeded(self, timeout: float) -> DeadlineExceeded:
        return DeadlineExceeded(f"not within {timeout} s", -10)

    def _wait(self, timeout: Optional[float]) -> None:
        end = None if timeout is None else time.monotonic() + timeout
        poller = select.poll()
        poller.register(self.engine._descriptor, select.POLLIN)
        while True:
            self.engine._pump()
            if self._is_settled():
                return
            left = _SLICE_SECONDS if end is None else min(end - time.monotonic(), _SLICE_SECONDS)
            if left <= 0:
                assert timeout is not None
                raise self._deadline_exceeded(timeout)
            poller.poll(left * 1000)

    async def _wait_async(self, timeout: Optional[float]) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if not future.done():
                future.set_result(None)

        def wake() -> None:
            loop.call_soon_threadsafe(settle)

        with self.engine._watched_by(loop):
            self.engine._pump()
            with self.engine._lock:
                if self._is_settled():
                    return
                self._callbacks.append(wake)
            try:
                await asyncio.wait_for(future, timeout)
            except asyncio.TimeoutError:
                assert timeout is not None
                raise self._deadline_exceeded(timeout) from None
