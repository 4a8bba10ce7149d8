"""Fixtures for tests of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def trained(random_models: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a model with settled random weights, the only one there is."""
    monkeypatch.setenv("SEG_NODE_MODELS", str(random_models))
    return "swiftnet18-half"
