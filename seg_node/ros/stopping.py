"""SIGINT and SIGTERM as a request that the main thread follows when it is ready.

rclpy's own handlers end the context from a thread of theirs at any moment: under a callback, under
the worker that publishes, or while the main thread already frees the guard conditions which that
thread still walks through, which crashes the process at its end, rarely. Here a signal only leaves
a request and wakes the executor; everything is then torn down in order, by one thread.
"""

from __future__ import annotations

import signal
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType

    from typing_extensions import Self

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _noted(number: int, frame: FrameType | None) -> None:
    """Do nothing: Python has already written the signal's number to the wakeup socket."""


class StopRequest:
    """Listens to the stop signals of this process while it is entered, in the main thread.

    Args:
        wake: called in another thread when a signal has come; must not block.

    """

    def __init__(self, wake: Callable[[], object]) -> None:
        """Take what wakes the main thread."""
        self._wake = wake
        self._made = threading.Event()
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        self._thread = threading.Thread(target=self._listen, name="stop signals", daemon=True)

    @property
    def made(self) -> bool:
        """Whether a signal has come."""
        return self._made.is_set()

    def __enter__(self) -> Self:
        """Take over the signals."""
        self._thread.start()
        self._descriptor = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, _noted) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._descriptor)
        self._write.close()
        self._thread.join()
        self._read.close()

    def _listen(self) -> None:
        """Wait for bytes, one per signal; the closed socket ends the loop."""
        while numbers := self._read.recv(64):
            if any(number in STOP_SIGNALS for number in numbers):
                self._made.set()
                self._wake()
