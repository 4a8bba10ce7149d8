"""What a CUDA graph does, on a CPU: the operations of a function again, on the same memory.

Nothing of Python runs in a replay. So whatever the host looked up or made while the function was
recorded stays as it was then, as in a CUDA graph; and what would read a number back is refused.
"""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from seg_node.core.graphs import Work

ATEN = torch.ops.aten
READS = {
    *(ATEN._local_scalar_dense.default, ATEN.nonzero.default, ATEN.masked_select.default),
    *(ATEN._unique2.default, ATEN.unique_dim.default, ATEN.equal.default),
}
"""Operations for which the host waits."""


class Tape:
    """Captures the operations of functions.

    Attributes:
        replays: how often something was replayed.

    """

    def __init__(self) -> None:
        """Start without replays."""
        self.replays = 0

    def capture(self, work: Work) -> Taped:
        """Run a function, and note its operations."""
        with _Notes() as notes:
            outputs = work()
        return Taped(self, notes.calls, outputs)

    def clear(self) -> None:
        """There is nothing to free."""


class Taped:
    """Operations that were noted."""

    def __init__(self, tape: Tape, calls: list[_Call], outputs: tuple[Tensor, ...]) -> None:
        """Take the operations and what they wrote."""
        self._tape, self._calls, self.outputs = tape, calls, outputs

    def replay(self) -> None:
        """Run them again, into the tensors of the first time."""
        self._tape.replays += 1
        for func, args, kwargs, result in self._calls:
            again = func(*args, **kwargs)
            for there, made in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(there, Tensor) and not _shares(there, made):
                    there.copy_(made)


_Call = tuple[Any, tuple[Any, ...], dict[str, Any], Any]


class _Notes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Notes every operation inside `with`."""

    def __init__(self) -> None:
        """Start without operations."""
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.calls: list[_Call] = []

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation and note it."""
        assert func not in READS, f"{func} waits for the device"
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result


def _shares(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
