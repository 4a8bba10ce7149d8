"""Recordings as tasks of Dask: workers to run them, and what becomes of each.

Dask places the work and notices workers that die. How often a recording is begun is counted here,
by what lies in its folder: a worker that dies takes with it what was only queued there, too.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from importlib.util import find_spec
import logging
from queue import Empty, Queue
from typing import Any, TYPE_CHECKING
from uuid import uuid4

from seg_node.core.types import ConfigError, DataError
from seg_node.eval.counts import COUNTS
from seg_node.eval.fleet_task import attempts_begun, BagEnd, BagTask, replay_bag, stop
from seg_node.eval.progress import noted_interrupt, progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from distributed import Client, Future

NEEDED = ("dask", "distributed")
"""Packages of the extra `fleet`."""
MOST_LOSSES = 5
"""How often a recording may be lost before it was begun, with a worker that did something else."""
CONNECT_S = 20
POLL_S = 0.5
"""Seconds between two looks at Ctrl-C."""

logger = logging.getLogger(__name__)


def check_packages(names: Sequence[str] = NEEDED) -> None:
    """Refuse to go on without Dask.

    Raises:
        ConfigError: a package is missing; the text says how to install it.

    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        what = "replaying several recordings needs"
        msg = f"{what} {' and '.join(missing)}: pip install 'seg_node[fleet]'"
        raise ConfigError(msg)


@contextmanager
def open_client(scheduler: str | None, workers: int) -> Iterator[Client]:
    """Connect to a scheduler, or start one with workers here.

    Raises:
        ConfigError: no scheduler answers, it has no workers, or they do several things at a time.

    """
    import dask  # noqa: PLC0415 - it may be missing
    from distributed import Client, LocalCluster  # noqa: PLC0415 - it may be missing

    if scheduler is not None:
        with _hushed("distributed"), _connected(scheduler) as client:
            yield client
        return
    # A worker that dies is told at once, so that attempts are counted here, and holds one task.
    own = {
        "distributed.scheduler.allowed-failures": 0,
        "distributed.scheduler.worker-saturation": 1,
    }
    with (
        _hushed("distributed"),
        dask.config.set(own),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address="localhost:0",
            preload=["seg_node.eval.fleet_task"],
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def _hushed(name: str) -> Iterator[None]:
    """Keep a library quiet: whatever it would tell of workers that come and go is told here."""
    talker = logging.getLogger(name)
    before = talker.level
    talker.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        talker.setLevel(before)


@contextmanager
def _connected(scheduler: str) -> Iterator[Client]:
    from distributed import Client  # noqa: PLC0415 - it may be missing

    try:
        client = Client(scheduler, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        msg = f"no Dask scheduler answers at {scheduler} ({error}): see docs/fleets.md"
        raise ConfigError(msg) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_S)
        except (TimeoutError, asyncio.TimeoutError) as error:  # one and the same from 3.11 on
            how = f"dask worker {scheduler} --nthreads 1"
            msg = f"the scheduler at {scheduler} has no workers: start some with `{how}`"
            raise ConfigError(msg) from error
        threads: Mapping[str, int] = client.nthreads()
        for address, count in threads.items():
            if count > 1:
                msg = (
                    f"worker {address} does {count} things at a time, which would slow each other "
                    "down: start it with --nthreads 1"
                )
                raise ConfigError(msg)
        yield client


def follow_fleet(client: Client, tasks: Sequence[BagTask], retries: int) -> dict[str, BagEnd]:
    """Have all recordings replayed and return how each has ended, by name.

    The first Ctrl-C ends those in work after their frame and begins no others.

    Args:
        client: a connected client of Dask.
        tasks: the recordings, of names that differ.
        retries: how often one is begun again whose worker has died or failed.

    """
    run = FleetRun(client, retries)
    with noted_interrupt() as interrupt, progress("replay", len(tasks), "recordings") as show:
        for task in tasks:
            run.submit(task)
        while run.waiting:
            if interrupt:
                client.run(stop, tasks[0].token, on_error="ignore")
            end = run.next_end()
            if end is not None:
                if end.state == "failed":
                    logger.info("%s failed: %s", end.name, end.error)
                show(len(run.ends))
    return run.ends


class FleetRun:
    """Recordings in work, and how the others have ended.

    Args:
        client: a connected client of Dask.
        retries: how often one is begun again whose worker has died or failed.

    Attributes:
        ends: how recordings have ended, by name.
        waiting: the others.

    """

    def __init__(self, client: Client, retries: int) -> None:
        """Begin with none."""
        self.ends: dict[str, BagEnd] = {}
        self.waiting: dict[str, BagTask] = {}
        self._client = client
        self._retries = retries
        self._losses: dict[str, int] = {}
        self._ended: Queue[tuple[BagTask, Future[Any]]] = Queue()

    def submit(self, task: BagTask) -> None:
        """Have a recording replayed."""
        self.waiting[task.name] = task
        future = self._client.submit(
            replay_bag, task, key=f"replay-{uuid4().hex}", pure=False, retries=0
        )
        future.add_done_callback(lambda done: self._ended.put((task, done)))

    def next_end(self) -> BagEnd | None:
        """Return the next recording that has ended; None where none has for a moment.

        Raises:
            DataError: the scheduler is gone.

        """
        try:
            task, future = self._ended.get(timeout=POLL_S)
        except Empty:
            return None
        if future.status in {"cancelled", "lost"}:
            msg = f"the scheduler is gone, and {task.name} with it: --resume keeps what is done"
            raise DataError(msg)
        error = future.exception()
        end = self.after(task, error) if error else future.result()
        if end is None:
            self.submit(task)
            return None
        if end.state == "done" and not (task.folder / COUNTS).exists():
            why = f"{task.folder} is not to be seen here: --out must lie on a disk that all share"
            end = BagEnd(task.name, "failed", f"its worker says that it is done, but {why}")
        del self.waiting[task.name]
        self.ends[task.name] = end
        return end

    def after(self, task: BagTask, error: BaseException) -> BagEnd | None:
        """Return how a recording ends whose worker has died or failed; None to begin it again.

        A worker takes with it what only waited there: that was not begun and costs no retry.

        Args:
            task: the recording.
            error: what Dask says of it.

        """
        from distributed import KilledWorker  # noqa: PLC0415 - it may be missing

        died = isinstance(error, KilledWorker)
        why = "its worker died" if died else f"{type(error).__name__}: {error}"
        begun = attempts_begun(task)
        losses = self._losses[task.name] = self._losses.get(task.name, 0) + 1
        if begun <= self._retries and losses <= self._retries + MOST_LOSSES:
            logger.info("%s: %s; it is begun again", task.name, why)
            return None
        return BagEnd(task.name, "failed", f"{why}, and it was begun {begun} times: {_HELP[died]}")


_HELP = {
    True: "too little memory, or a fault in a library; --resume tries again",
    False: "--resume tries again",
}
"""What to do about a recording, by whether its worker died."""
