"""The protocol of distances: every labelled frame once at each, keyframes where they belong."""

from __future__ import annotations

from dataclasses import replace
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.cli import main
from seg_node.core.config import Config
from seg_node.core.types import ConfigError, DataError, Motion
from seg_node.data.clips import StreetClip
from seg_node.data.encode import Encoding
from seg_node.eval.distances import (
    distance_table,
    DistanceRecord,
    parse_encoding,
    pictures,
    play,
    Protocol,
    score_distances,
)
from seg_node.eval.session import open_sessions

if TYPE_CHECKING:
    from pathlib import Path

    from seg_node.data.sources import Sample
    from seg_node.eval.session import Session

FRAMES = 7
INTERVAL = 3
SIZE = (96, 64)


class Agreeing(StreetClip):
    """A street whose labels are what mode dense says: there, distance 0 is always right."""

    def __init__(self) -> None:
        """Prepare the street and the network."""
        super().__init__(2, FRAMES, SIZE)
        self.dense = open_sessions(Config(mode="dense"))["dense"].segmenter
        self.loaded: list[int] = []

    def load(self, index: int) -> Sample:
        """Render a frame and label it."""
        self.loaded.append(index)
        sample = super().load(index)
        return replace(sample, labels=self.dense.step(sample.frame).labels)


@pytest.fixture
def sessions(random_models: Path) -> dict[str, Session]:  # noqa: ARG001 - it names the folder of models
    config = Config().updated({"keyframe_interval": INTERVAL})
    return open_sessions(config, ("dense", "warp"))


def test_every_labelled_frame_is_scored_once_at_every_distance(
    sessions: dict[str, Session],
) -> None:
    source = Agreeing()
    results = score_distances(source, sessions, Protocol(INTERVAL))
    assert results["labelled_frames"] == FRAMES - INTERVAL + 1
    dense, warp = results["modes"]["dense"], results["modes"]["warp"]
    assert dense["miou_by_distance"] == [1.0] * INTERVAL
    assert warp["miou_by_distance"][0] == 1.0
    assert warp["miou_by_distance"][1] < 1.0
    assert warp["miou"] == pytest.approx(np.mean(warp["miou_by_distance"]))
    assert warp["miou_min"] == min(warp["miou_by_distance"])
    assert warp["forced_keyframes"] == dense["forced_keyframes"] == 0
    # Passes from frames 0, 1 and 2 on compute keyframes 0 3 6, 1 4 and 2 5 of 18 frames.
    assert warp["gmac_saving"] == pytest.approx(1 - 7 / 18)
    assert dense["gmac_saving"] == pytest.approx(0.0)
    table = distance_table(results)
    assert table.header[1 : INTERVAL + 1] == ("0", "1", "2")
    assert [row[0] for row in table.rows] == ["dense", "warp"]
    assert source.loaded == [*range(7), *range(7), *range(1, 7), *range(2, 7)]


def test_encoded_frames_are_scored_through_the_decoder(sessions: dict[str, Session]) -> None:
    """At a starving bitrate even dense is wrong, and by distance: nothing is played just once."""
    source = Agreeing()
    protocol = Protocol(INTERVAL, Encoding(quality=45, keyint=INTERVAL, options={"scenecut": "0"}))
    results = score_distances(source, sessions, protocol)
    dense = results["modes"]["dense"]["miou_by_distance"]
    assert max(dense) < 1.0
    assert len(set(dense)) == INTERVAL
    assert results["encoding"]["quality"] == 45
    assert results["modes"]["warp"]["miou_by_distance"][0] == dense[0]


def test_a_pass_scores_what_it_reaches_and_counts_it(sessions: dict[str, Session]) -> None:
    """From frame 1 on, keyframes are 1 and 4; frames 2 to 6 are scored."""
    source, record = StreetClip(2, FRAMES, SIZE), DistanceRecord(11, INTERVAL)
    (clip,) = source.clips()
    play(sessions["warp"], pictures(clip, 1, Protocol(INTERVAL)), 1, record)
    assert record.scored == [1, 2, 2]
    assert record.forced == 0
    every = DistanceRecord(11, INTERVAL)
    play(sessions["dense"], pictures(clip, 0, Protocol(INTERVAL)), 0, every, same=True)
    assert every.scored == [FRAMES - INTERVAL + 1] * INTERVAL


def test_motion_that_frames_carry_is_what_source_codec_moves_by(
    sessions: dict[str, Session],
) -> None:
    """Exact motion comes to the pipeline like this; a wrong one must show in the score."""
    session = sessions["warp"]
    session.segmenter.reconfigure(session.config.updated({"motion.source": "codec"}))
    (clip,) = Agreeing().clips()
    shown = list(pictures(clip, 0, Protocol(INTERVAL)))
    street = StreetClip(2, FRAMES, SIZE).street
    scores = {}
    for sign in (1, -1):
        moved, before_ns = [], 0
        for index, (frame, labels) in enumerate(shown):
            truth = street.render(index)
            motion = Motion(sign * truth.flow, ~truth.occluded, since_ns=before_ns)
            moved.append((replace(frame, motion=motion), labels))
            before_ns = frame.stamp_ns
        record = DistanceRecord(11, INTERVAL)
        play(session, moved, 0, record)
        assert record.forced == 0
        scores[sign] = record.summary(1.0)["miou_by_distance"][2]
    assert scores[1] > scores[-1]


def test_a_clip_that_is_too_short_is_refused(sessions: dict[str, Session]) -> None:
    text = "street:2 has no clip with a labelled frame after its first 99"
    with pytest.raises(DataError, match=text):
        score_distances(StreetClip(2, FRAMES, SIZE), sessions, Protocol(100))
    with pytest.raises(ConfigError, match="distances is 0; use 1 to 1000"):
        Protocol(0)


def test_encodings_are_read_or_refused() -> None:
    encoding = parse_encoding("h265:3000@29.97", 12)
    assert (encoding.codec, encoding.bitrate_kbps, encoding.keyint) == ("h265", 3000, 12)
    assert encoding.rate_hz == pytest.approx(29.97)
    for wrong in ("h264", "h264:fast@30", "h264:3000"):
        with pytest.raises(ConfigError, match="expected CODEC:KBPS@HZ"):
            parse_encoding(wrong, 12)


def test_the_command_writes_and_shows_the_table(
    random_models: Path,  # noqa: ARG001 - it names the folder of models
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "distances.json"
    words = ["evaluate", "street:3", "--mode", "warp", "--distances", "2", "--json", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seg_node.data.clips.StreetClip.__init__.__defaults__", (4, SIZE))
        assert main(words) == 0
    assert "mIoU by frames since the keyframe" in capsys.readouterr().out
    assert json.loads(out.read_text())["interval"] == 2
    assert main(["evaluate", "street:3", "--encode", "h264:3000@30"]) == 1
    assert "--encode belongs to --distances L" in capsys.readouterr().err
    assert main(["evaluate", "street:3", "--distances", "2", "--size", "96x64"]) == 1
    assert "--size does not go together with --distances" in capsys.readouterr().err
