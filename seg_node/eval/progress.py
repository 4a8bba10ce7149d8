"""Long work shown to a person: a progress bar on a terminal, plain lines otherwise, Ctrl-C kept.

A KeyboardInterrupt may strike between any two instructions, also between the two halves of a
record of a bag or a video. So the first Ctrl-C is only noted and the loop asks for it; the
second one interrupts as usual.
"""

from __future__ import annotations

from contextlib import contextmanager
import logging
import signal
import sys
import threading
import time
from typing import Any, TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXIT_INTERRUPTED = 130
"""Exit status after Ctrl-C, by the shells' convention: 128 + SIGINT."""

LINE_PERIOD_S = 5.0
"""Seconds between two plain lines."""

logger = logging.getLogger(__name__)


class Interrupt:
    """Whether Ctrl-C was pressed; true once it was."""

    def __init__(self) -> None:
        """Start without one."""
        self.pressed = False

    def __bool__(self) -> bool:
        """Return whether Ctrl-C was pressed."""
        return self.pressed


@contextmanager
def noted_interrupt() -> Iterator[Interrupt]:
    """Note the first Ctrl-C instead of raising it; the second one raises.

    Outside the main thread, where Python delivers no signals, nothing is ever noted.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:  # noqa: ARG001 - the signature of a handler
        interrupt.pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def progress(
    label: str, total: int, unit: str = "frames", *, quiet: bool = False
) -> Iterator[Callable[[int], None]]:
    """Show how many of `total` are done (0 = unknown); yields the function that is told so.

    On a terminal a bar on stderr; otherwise a log line every five seconds. `quiet` shows nothing,
    such as in all but one of several processes.
    """
    if quiet:
        yield lambda done: None  # noqa: ARG005 - nobody listens
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(label, total, unit)
        return
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=total or None)
        yield lambda done: bar.update(task, completed=done)


class _Lines:
    """Tells the progress as plain lines."""

    def __init__(
        self,
        label: str,
        total: int,
        unit: str = "frames",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label = label
        self._total = total
        self._unit = unit
        self._clock = clock
        self._began_s = clock()
        self._next_s = self._began_s + LINE_PERIOD_S

    def __call__(self, done: int) -> None:
        """Say it, if the last line is five seconds ago."""
        now_s = self._clock()
        if now_s >= self._next_s:
            self._next_s = now_s + LINE_PERIOD_S
            of = f" of {self._total}" if self._total else ""
            logger.info(
                "%s: %d%s %s%s", self._label, done, of, self._unit, self._left(done, now_s)
            )
            sys.stderr.flush()

    def _left(self, done: int, now_s: float) -> str:
        """Return how long the rest takes at the rate so far; nothing where that is not known."""
        if not 0 < done <= self._total:
            return ""
        left_s = round((now_s - self._began_s) * (self._total - done) / done)
        minutes, seconds = divmod(left_s, 60)
        return f", about {minutes}:{seconds:02} min left"
