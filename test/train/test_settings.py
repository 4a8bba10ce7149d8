"""Settings refuse what cannot work, and the command line is made from them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from seg_node.core.types import ConfigError
from seg_node.train.arguments import (
    add_label_arguments,
    add_segment_arguments,
    label_request,
    segment_request,
)
from seg_node.train.settings import SegmentTraining


def test_learning_rate_warms_up_and_ends_near_zero() -> None:
    for schedule in ("cosine", "poly"):
        config = SegmentTraining(steps=100, warmup=10, learning_rate=1.0, schedule=schedule)
        rates = [config.rate(step) for step in range(100)]
        assert rates[0] == pytest.approx(0.1)
        assert max(rates) == pytest.approx(1.0)
        assert rates.index(max(rates)) in {9, 10}
        assert rates[-1] < 0.02


def test_a_short_run_warms_up_shortly() -> None:
    config = SegmentTraining(steps=50, warmup=150, learning_rate=1.0)
    assert config.rate(4) == pytest.approx(1.0)


def test_early_crops_are_smaller_and_whole() -> None:
    config = SegmentTraining(early_steps=5)
    assert config.crop_at(4) == (320, 256)
    assert config.crop_at(5) == (448, 320)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"batch": 0}, "batch is 0; allowed are 1 to"),
        ({"optimizer": "lion"}, "optimizer is 'lion'; choose one of adamw, sgd"),
        ({"scale_min": 3.0}, "scale_min 3.0 is above scale_max 2.0"),
        ({"crop_width": 100}, "the crop is 100x320; sides must be multiples of 16"),
        ({"softness": 0.5}, "softness is 0.5; use 0 for equal weights"),
        ({"street_share": 0.1, "streets": 0}, "street_share is 0.1 of 0 streets"),
        ({"low_norms": True}, "low_norms needs halved and full images; low_share is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        SegmentTraining(**changes)


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_segment_arguments(parser)
    return parser.parse_args(words)


def test_every_setting_is_a_flag() -> None:
    words = ["--data", "street:1,street:2", "--out", "x", "--teacher", "a,b", "--resume"]
    words += ["--learning-rate", "0.5", "--low-norms", "--low-share", "0.25", "--loss", "ohem"]
    request = segment_request(parse(*words))
    assert request.data == ("street:1", "street:2")
    assert request.teachers == ("a", "b")
    assert request.resume
    assert request.out == Path("x")
    expected = SegmentTraining(learning_rate=0.5, low_norms=True, low_share=0.25, loss="ohem")
    assert request.settings == expected


def test_flags_default_to_the_settings() -> None:
    assert segment_request(parse("--data", "d", "--out", "x")).settings == SegmentTraining()


@pytest.mark.parametrize("words", [["--scales", "big"], ["--scales", ""], ["--stride", "0"]])
def test_label_refuses_what_cannot_work(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    add_label_arguments(parser)
    args = parser.parse_args(["street:1", "--out", "x", *words])
    with pytest.raises(ConfigError, match=words[0]):
        label_request(args)
