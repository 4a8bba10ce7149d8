"""Settings are checked one by one and refused with the name, the value and the fix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from seg_node.core.config import Config, InputConfig, options
from seg_node.core.types import ConfigError


def test_every_setting_is_documented_and_bounded() -> None:
    for option in options(Config()):
        assert option.limits.doc.endswith("."), option.name
        if isinstance(option.value, int | float) and not isinstance(option.value, bool):
            assert option.limits.low is not None, option.name
            assert option.limits.high is not None, option.name


def test_nested_names_join_with_a_dot() -> None:
    names = [option.name for option in options(Config())]
    assert "input.scale" in names
    assert "publish.overlay_opacity" in names
    assert len(names) == len(set(names))


def test_updating_leaves_the_original_and_the_other_settings_alone() -> None:
    before = Config()
    after = before.updated({"input.scale": 0.5, "overload": "every"})
    assert (after.input.scale, after.overload) == (0.5, "every")
    assert before == Config()
    assert after.input.transport == before.input.transport


def test_an_int_is_taken_for_a_float_but_not_the_other_way_round() -> None:
    assert Config().updated({"input.stale_s": 2}).input.stale_s == 2.0
    with pytest.raises(ConfigError, match=r"block_size is 32\.0 \(float\); expected a int"):
        Config().updated({"block_size": 32.0})


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("input.scale", 1.001, r"input.scale is 1.001; allowed are 0.05 to 1.0"),
        ("input.scale", 0.0499, r"input.scale is 0.0499"),
        ("input.scale", float("nan"), r"input.scale is nan"),
        ("input.stale_s", 0.0, r"input.stale_s is 0.0 s; allowed are 0.05 to 3600.0 s"),
        ("mode", "fast", r"mode is 'fast'; choose one of dense"),
        ("block_size", 48, r"block_size is 48; it must be a multiple of 32"),
        ("device", "gpu", r"device is 'gpu'; use auto, cpu, cuda, cuda:N or tensorrt"),
        ("device", "cuda:x", r"device is 'cuda:x'"),
        ("threads", True, r"threads is True \(bool\)"),
        ("speed", 1, r"unknown setting 'speed'; known: "),
        ("cameras", ("front cam",), r"cameras has 'front cam', .*; use letters, digits and _"),
        ("cameras", ("front/left",), r"cameras has 'front/left'"),
        ("cameras", ("2nd",), r"cameras has '2nd', .* beginning with a letter"),
        ("cameras", ("left", ""), r"cameras has '', which cannot be part of a topic name"),
        ("cameras", ("a", "b", "a"), r"cameras has 'a' twice; give each camera a name of its own"),
        ("cameras", "front", r"cameras is 'front'; expected a list of names"),
        ("cameras", (1, 2), r"cameras is \[1, 2\]; expected a list of names"),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, value: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Config().updated({name: value})


@pytest.mark.parametrize("value", [0.05, 1.0])
def test_both_ends_of_a_range_are_allowed(value: float) -> None:
    assert InputConfig(scale=value).scale == value


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_device_names_of_torch_are_allowed(device: str) -> None:
    assert Config(device=device).device == device


def test_names_of_cameras_keep_their_order() -> None:
    assert Config().cameras == ()
    names = ("right", "front_2", "Left")
    assert Config().updated({"cameras": names}).cameras == names


def test_blocks_have_the_side_that_suits_the_mode_unless_one_is_set() -> None:
    size = (360, 480)
    assert Config().block_side(size) == Config(mode="stmg").block_side(size) == 128
    assert Config(mode="segblocks").block_side(size) == 64
    assert Config(mode="segblocks", block_size=96).block_side(size) == 96


@pytest.mark.parametrize(
    ("size", "side"),
    [
        ((64, 96), 128),
        ((480, 640), 192),
        ((720, 960), 256),
        ((999, 375), 128),
        ((9000, 9000), 512),
    ],
)
def test_bins_of_stmg_grow_with_the_shorter_side(size: tuple[int, int], side: int) -> None:
    """Three to four lie along it, in steps of 64 pixels."""
    assert Config(mode="stmg").block_side(size) == side
    assert Config(mode="stmg", block_size=32).block_side(size) == 32
    assert Config(mode="adaptive").block_side(size) == 128


def test_blocks_are_shown_in_pixels_of_the_camera() -> None:
    """The network sees 360x480 of 900x1200, in bins of 128."""
    config = Config(mode="stmg").updated({"input.scale": 0.4})
    image = np.zeros((900, 1200, 3), np.uint8)
    assert config.seen_size((900, 1200)) == (360, 480)
    assert config.shown_side(image) == 320
