"""What holds files or connections open until it is closed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


class Closing(ABC):
    """Closes itself at the end of a `with`, whatever ended the body."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is open, finished so far that it can be used."""

    def __enter__(self) -> Self:
        """Return itself; the constructor has opened what it holds."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()
