"""How frames come to the modes: every one in its turn, or as they arrive in simulated time."""

from __future__ import annotations

from typing import NamedTuple, Protocol, TYPE_CHECKING

from seg_node.eval.results import DENSE
from seg_node.eval.session import steps
from seg_node.eval.virtual import Arrival, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from seg_node.core.types import StepResult
    from seg_node.data.sources import Sample
    from seg_node.eval.session import Session
    from seg_node.eval.virtual import SimulatedNode

EVERY_FRAME, VIRTUAL, LIVE = "every-frame", "virtual", "live"
CLOCKS = (EVERY_FRAME, VIRTUAL, LIVE)
"""Clocks of a replay; docs/replay.md says what each answers."""


class Turn(NamedTuple):
    """What one frame of the source has led to.

    Attributes:
        sample: the frame; None at the end of the source.
        outcomes: mode and outcome of the frames that were decided by now, this one or earlier
            ones; of each mode in the order of the source.
        reference: what mode `dense` makes of the frame, where it runs beside the modes.

    """

    sample: Sample | None
    outcomes: list[tuple[str, Outcome]]
    reference: StepResult | None = None


class Course(Protocol):
    """Leads frames through every mode.

    Attributes:
        clock: one of `CLOCKS`.
        sessions: model and settings by mode.
        interrupted: whether Ctrl-C has ended it early, on its own account.

    """

    clock: str
    sessions: Mapping[str, Session]
    interrupted: bool

    def turns(self, samples: Iterable[Sample], done: int = 0) -> Iterator[Turn]:
        """Yield a turn for every frame.

        Args:
            samples: the frames, in time order.
            done: frames at the start whose outcomes are known from an earlier run; their turns
                hold those of the modes alone that have to see them again.

        """
        ...


class EveryFrame:
    """Every frame goes through every mode before the next one comes, however long it takes.

    Args:
        sessions: model and settings by mode; with `dense` among them, that is what the others
            are compared with.

    """

    clock = EVERY_FRAME
    interrupted = False

    def __init__(self, sessions: Mapping[str, Session]) -> None:
        """Take the sessions."""
        self.sessions = sessions

    def turns(self, samples: Iterable[Sample], done: int = 0) -> Iterator[Turn]:
        """Yield a turn for every frame; see `Course`."""
        for index, (sample, results) in enumerate(steps(samples, self.sessions, done)):
            dense = results[DENSE].labels if DENSE in results else None
            seen = {mode: None if mode == DENSE else dense for mode in results}
            outcomes = [
                (mode, Outcome(Arrival(index, sample, seen[mode]), result))
                for mode, result in results.items()
            ]
            yield Turn(sample, outcomes)


class Simulated:
    """Frames arrive at their stamps at a node of every mode, in simulated time.

    Args:
        nodes: the nodes by mode.
        dense: computes what every mode is compared with, outside of simulated time; None for no
            comparison.

    """

    clock = VIRTUAL
    interrupted = False

    def __init__(self, nodes: Mapping[str, SimulatedNode], dense: Session | None = None) -> None:
        """Take the nodes."""
        self.sessions: Mapping[str, Session] = {m: node.session for m, node in nodes.items()}
        self._nodes = nodes
        self._dense = dense

    def turns(self, samples: Iterable[Sample], done: int = 0) -> Iterator[Turn]:
        """Yield a turn for every frame, and one at the end; see `Course`."""
        assert not done, "simulated time begins at the first frame"
        for index, sample in enumerate(samples):
            dense = self._dense.segmenter.step(sample.frame) if self._dense else None
            arrival = Arrival(index, sample, dense.labels if dense else None)
            outcomes = [(mode, o) for mode, n in self._nodes.items() for o in n.arrive(arrival)]
            yield Turn(sample, outcomes, dense)
        yield Turn(None, [(mode, o) for mode, n in self._nodes.items() for o in n.finish()])
