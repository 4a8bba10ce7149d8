"""Sessions: modes are listed once, share their weights, and take turns at fresh frames."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.config import Config
from seg_node.core.types import ConfigError
from seg_node.data.datasets import StreetClip
from seg_node.eval.session import open_session, open_sessions, parse_modes, steps
from seg_node.nets.build import model_for

if TYPE_CHECKING:
    from pathlib import Path

    from seg_node.core.types import Frame, StepResult
    from seg_node.eval.session import Session
    from seg_node.nets.build import Model


@pytest.fixture(scope="module")
def config(random_models: Path) -> Config:
    """Return settings that name the random model."""
    return Config(model=str(random_models / "swiftnet18-half.json"), device="cpu")


@pytest.fixture
def sessions(config: Config) -> dict[str, Session]:
    """Return three sessions of the same settings."""
    return {name: open_session(config) for name in ("a", "b", "c")}


def test_a_list_of_modes_keeps_its_order() -> None:
    assert parse_modes("warp, dense,a") == ("warp", "dense", "a")
    assert parse_modes("dense") == ("dense",)
    with pytest.raises(ConfigError, match=r"mode 'a' is named 2 times in 'a,b,a'"):
        parse_modes("a,b,a")


def test_the_model_is_loaded_once_and_unknown_modes_before_it(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def noted(config: Config) -> Model:
        loaded.append(config.model)
        return model_for(config)

    monkeypatch.setattr("seg_node.eval.session.model_for", noted)
    with pytest.raises(ConfigError, match="mode is 'fast'; choose one of dense"):
        open_sessions(config, ("dense", "fast"))
    assert loaded == []
    assert list(open_sessions(config)) == [config.mode]
    both = open_sessions(config.updated({"policy.score": "middle"}), ("segblocks", "dense"))
    assert [(mode, s.config.mode) for mode, s in both.items()] == [
        ("segblocks", "segblocks"),
        ("dense", "dense"),
    ]
    assert loaded == [config.model] * 2


def test_modes_that_share_weights_do_not_disturb_each_other(config: Config) -> None:
    ranked = config.updated({"policy.score": "middle", "policy.high_fraction": 0.5})
    together = open_sessions(ranked, ("dense", "segblocks"))
    apart = {mode: open_session(ranked.updated({"mode": mode})) for mode in together}
    for sample, results in steps(StreetClip(1, 2, (128, 64)), together):
        for mode, session in apart.items():
            alone = session.segmenter.step(sample.frame)
            assert np.array_equal(results[mode].labels, alone.labels)
            assert np.array_equal(results[mode].plan.grid, alone.plan.grid)
        assert not np.array_equal(results["dense"].plan.grid, results["segblocks"].plan.grid)


def test_every_new_size_is_warmed_up_in_every_mode_before_its_first_frame(
    sessions: dict[str, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = StreetClip(1, 3, (96, 64))
    small = replace(third, frame=replace(third.frame, image=third.frame.image[:32]))
    seen: list[tuple[int, int] | str] = []
    for session in sessions.values():
        monkeypatch.setattr(session.segmenter, "warm_up", lambda *size: seen.append(size))
    for sample, _ in steps([first, second, small], sessions):
        seen.append(sample.name)
    assert seen == [(64, 96)] * 3 + [first.name, second.name] + [(32, 96)] * 3 + [small.name]


def test_modes_take_turns_in_being_first_and_results_keep_their_order(
    sessions: dict[str, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    for name, session in sessions.items():
        step = session.segmenter.step

        def noted(frame: Frame, name: str = name, step: object = step) -> StepResult:
            seen.append(name)
            return step(frame)  # type: ignore[operator, no-any-return]  # a bound method

        monkeypatch.setattr(session.segmenter, "step", noted)
        monkeypatch.setattr(session.segmenter, "warm_up", lambda *_: None)
    for _, results in steps(StreetClip(1, 4, (32, 32)), sessions):
        assert list(results) == ["a", "b", "c"]
    assert seen == [*"abc", *"bca", *"cab", *"abc"]
