"""One camera's way from messages to frames: a decoder, counts and turns of its own."""

from __future__ import annotations

from collections import Counter
import time
from types import SimpleNamespace
from typing import Any, TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn, Tensor

pytest.importorskip("rclpy")

from seg_node.core import pipeline
from seg_node.core.budgeted import Budgeted
from seg_node.core.config import Config
from seg_node.core.intake import Intake, Turns
from seg_node.core.policy import UNTRAINED
from seg_node.core.transfers import Uploads
from seg_node.data.converters import choose_converter
from seg_node.data.encode import encode_packets, Encoding
from seg_node.data.street import Street
from seg_node.nets.build import build_network
from seg_node.ros.diagnostics import Health
from seg_node.ros.feed import Arrived, Feed
from seg_node.ros.inputs import VideoInput
from seg_node.ros.worker import Worker

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seg_node.core.pipeline import Segmenter
    from seg_node.core.types import Frame, StepResult

MS = 1_000_000


class Published:
    """Stands in for the publishers of a camera: notes what they would send.

    Args:
        log: list that every published frame is added to.

    """

    def __init__(self, log: list[Frame]) -> None:
        """Take the list."""
        self.log = log
        self.extra: dict[str, int] = {}

    def publish(self, frame: Frame, result: Any, settings: Any, extra: Any, info: Any) -> None:
        """Note a frame."""
        del result, settings, info
        self.log.append(frame)
        self.extra = extra


class Bench:
    """A feed with its intake.

    Args:
        topic: its topic.
        intake: where its messages wait; None for one of its own.
        log: what takes published frames.

    """

    def __init__(
        self,
        topic: str,
        intake: Intake[Arrived] | None = None,
        log: list[Frame] | None = None,
    ) -> None:
        """Make the feed."""
        self.intake: Intake[Arrived] = intake or Intake()
        self.health = Health()
        self.warnings: list[str] = []
        self.outputs = Published([] if log is None else log)
        outputs: Any = self.outputs
        self.feed = Feed(
            topic=topic,
            intake=self.intake,
            convert=choose_converter("builtin"),
            outputs=outputs,
            health=self.health,
            warn=lambda subject, _: self.warnings.append(subject),
        )

    def frames(self) -> list[Frame]:
        """Return what the feed makes of the next message."""
        arrived = self.intake.take(0.0)
        assert arrived is not None
        return [frame for frame, _ in self.feed.frames(arrived, motion=True)]


def header(stamp_ms: int, frame_id: str) -> Any:
    sec, rest = divmod(stamp_ms, 1000)
    return SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=rest * MS), frame_id=frame_id)


def picture(stamp_ms: int, side: int = 64, encoding: str = "rgb8") -> Any:
    """Return a grey image message."""
    data = np.full(side * side * 3, 128, np.uint8).tobytes()
    shape = {"height": side, "width": side, "step": side * 3, "is_bigendian": 0}
    return SimpleNamespace(
        header=header(stamp_ms, "optical"), encoding=encoding, data=data, **shape
    )


def packets(seed: int, count: int) -> list[Any]:
    """Return video messages of a street, 100 ms apart, with a key picture at the start."""
    images = (x.frame.image for x in Street(seed, 64, 48, 10.0).frames(count))
    encoded = encode_packets(images, Encoding(keyint=100))
    return [
        SimpleNamespace(header=header(1000 + 100 * i, f"street {seed}"), format="h264", data=data)
        for i, data in enumerate(encoded)
    ]


def test_interleaved_videos_each_have_their_own_decoder() -> None:
    """One decoder for both would see lost pictures and give none."""
    left, right = Bench("/left"), Bench("/right")
    found: dict[str, list[Frame]] = {"/left": [], "/right": []}
    for pair in zip(packets(1, 4), packets(2, 4), strict=True):
        for bench, message in zip((left, right), pair, strict=True):
            bench.feed.put(message)
            frames = bench.frames()
            found[frames[0].camera] += frames
    assert [len(frames) for frames in found.values()] == [4, 4]
    assert [frames[0].frame_id for frames in found.values()] == ["street 1", "street 2"]
    for frames in found.values():
        since = [frame.motion and frame.motion.since_ns for frame in frames]
        assert since == [None, *[frame.stamp_ns for frame in frames[:-1]]]


def test_lost_packet_of_one_video_leaves_the_other_alone() -> None:
    left, right = Bench("/left"), Bench("/right")
    for i, pair in enumerate(zip(packets(1, 4), packets(2, 4), strict=True)):
        left.feed.put(pair[0])
        assert len(left.frames()) == 1
        if i != 1:
            right.feed.put(pair[1])
            assert len(right.frames()) == (i < 1)
    assert left.health.video is not None
    assert left.health.video.trouble == ""
    assert right.health.video is not None
    assert "a packet is missing" in right.health.video.trouble


def test_video_faster_than_its_decoder_gives_its_turn_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only what waited when its turn came is decoded, however much comes meanwhile."""
    bench = Bench("/left")
    messages = packets(1, 12)
    decode = VideoInput.frames

    def while_more_comes(self: VideoInput, message: Any, *, motion: bool) -> list[Frame]:
        for _ in range(2):
            if messages:
                bench.feed.put(messages.pop(0))
        return decode(self, message, motion=motion)

    monkeypatch.setattr(VideoInput, "frames", while_more_comes)
    bench.feed.put(messages.pop(0))
    bench.feed.put(messages.pop(0))
    (frame,) = bench.frames()
    assert frame.stamp_ns == 1100 * MS
    assert bench.intake.waiting == 4
    assert bench.feed.dropped == 1


def test_stamps_and_sizes_are_watched_per_camera() -> None:
    """Each goes its own way in time and size; mixed, every frame would be a jump."""
    early, late = Bench("/early"), Bench("/late")
    for i in range(3):
        for bench, start_ms, side in ((early, 1000, 64), (late, 9000, 32)):
            bench.feed.put(picture(start_ms + 100 * i, side))
            assert len(bench.frames()) == 1
    assert early.warnings == late.warnings == []
    late.feed.put(picture(500, 16))
    late.frames()
    assert (late.health.jumps, late.health.resizes) == (1, 1)
    assert (early.health.jumps, early.health.resizes) == (0, 0)
    assert late.warnings == ["jump", "size"]


def published_by_turns(
    segmenter: Segmenter, overload: str, counts: dict[str, int]
) -> tuple[dict[str, Bench], list[Frame]]:
    """Return what a worker publishes of messages that wait when it starts, in its order.

    Args:
        segmenter: makes the masks.
        overload: the setting.
        counts: number of messages of each camera; those of `broken` are garbage.

    """
    log: list[Frame] = []
    turns: Turns[Arrived] = Turns(counts)
    benches = {name: Bench(f"/{name}", turns[name], log) for name in counts}
    for name, bench in benches.items():
        bench.feed.keep(overload)
        for i in range(counts[name]):
            bench.feed.put(picture(1000 + i, encoding="32FC7" if name == "broken" else "rgb8"))
    feeds = {name: bench.feed for name, bench in benches.items()}
    worker = Worker(segmenter=segmenter, turns=turns, feeds=feeds, now_ns=lambda: 0)
    left = sum(bench.intake.waiting for bench in benches.values())
    worker.start()
    deadline_s = time.monotonic() + 60
    while done(benches) < left and time.monotonic() < deadline_s:
        time.sleep(0.005)
    assert worker.stop(60)
    assert worker.failure == ""
    return benches, log


def done(benches: dict[str, Bench]) -> int:
    """Return how many messages were published or refused."""
    return sum(bench.health.published + bench.health.refused for bench in benches.values())


class Crowded(nn.Module):
    """A network on a device whose memory suffices for every second frame only."""

    classes, stride, feature_channels = 2, 1, 3

    def __init__(self) -> None:
        """Have room for the first frame."""
        super().__init__()
        self.head = nn.Conv2d(3, 2, 1)
        self.tries = 0

    def features(self, image: Tensor) -> Tensor:
        """Return the image.

        Raises:
            OutOfMemoryError: it is the second frame, or its second try.

        """
        self.tries += 1
        if self.tries in {2, 3}:
            msg = "CUDA out of memory."
            raise torch.cuda.OutOfMemoryError(msg)
        return image.float()

    def forward(self, image: Tensor) -> Tensor:
        """Map RGB to logits."""
        logits: Tensor = self.head(self.features(image))
        return logits


def test_a_frame_for_which_there_is_no_memory_is_lost_and_the_next_is_published() -> None:
    net = Crowded()
    steps = pipeline.Segmenter(net, UNTRAINED, Config(mode="dense", device="cpu"))
    turns: Turns[Arrived] = Turns(["front"])
    bench = Bench("/front", turns["front"])
    bench.feed.keep("every")
    steps._executor.dense_macs(64, 64)
    net.tries = 0
    for i in range(3):
        bench.feed.put(picture(1000 + i))
    worker = Worker(segmenter=steps, turns=turns, feeds={"front": bench.feed}, now_ns=lambda: 0)
    worker.start()
    deadline_s = time.monotonic() + 60
    while done({"front": bench}) + bench.health.lost < 3 and time.monotonic() < deadline_s:
        time.sleep(0.005)
    assert worker.stop(60)
    assert worker.failure == ""
    assert [frame.stamp_ns for frame in bench.outputs.log] == [1000 * MS, 1002 * MS]
    assert (bench.health.lost, bench.warnings) == (1, ["memory"])


COUNTS = {"front": 4, "broken": 4, "silent": 0, "rear": 2}


def test_cameras_take_turns_and_broken_images_are_counted_where_they_came_from(
    segmenter: Segmenter,
) -> None:
    benches, log = published_by_turns(segmenter, "every", COUNTS)
    order = ["/front", "/rear", "/front", "/rear", "/front", "/front"]
    assert [frame.camera for frame in log] == order
    refused = {name: bench.health.refused for name, bench in benches.items()}
    assert refused == {"front": 0, "broken": 4, "silent": 0, "rear": 0}
    assert "image on /broken (encoding '32FC7'" in benches["broken"].health.refusal
    assert benches["front"].outputs.extra == {"dropped": 0, "refused": 0}


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("adaptive", [["/front", "/rear", "/left"], ["/front", "/rear"]]), ("warp", [])],
)
def test_what_waits_of_several_cameras_is_computed_together(
    monkeypatch: pytest.MonkeyPatch, mode: str, expected: list[list[str]]
) -> None:
    """In the order of the turns; a camera with broken images or none takes part in nothing."""
    config = Config(mode=mode, device="cpu").updated({"block_size": 32})
    policies = {**UNTRAINED, "adaptive": Budgeted()}
    steps = pipeline.Segmenter(build_network("swiftnet18-half", 3), policies, config)
    whole, groups = steps.step_together, list[list[str]]()

    def noted(frames: list[Frame]) -> list[StepResult]:
        groups.append([frame.camera for frame in frames])
        return whole(frames)

    monkeypatch.setattr(steps, "step_together", noted)
    counts = {"front": 3, "broken": 2, "silent": 0, "rear": 2, "left": 1}
    benches, log = published_by_turns(steps, "every", counts)
    assert groups == expected
    assert Counter(frame.camera for frame in log) == {"/front": 3, "/rear": 2, "/left": 1}
    for name in ("front", "rear"):
        stamps = [frame.stamp_ns for frame in log if frame.camera == f"/{name}"]
        assert stamps == sorted(stamps)
    assert benches["broken"].health.refused == 2


def test_what_was_opened_ahead_is_forgotten_with_what_waits(segmenter: Segmenter) -> None:
    turns: Turns[Arrived] = Turns(["front"])
    bench = Bench("/front", turns["front"])
    worker = Worker(
        segmenter=segmenter, turns=turns, feeds={"front": bench.feed}, now_ns=lambda: 0
    )
    worker._open("front", Arrived(picture(1000), 0))
    assert worker._fetch()
    assert len(worker._waiting) == 1
    turns.clear()
    worker._open("front", Arrived(picture(1001), 0))
    turns.close()
    assert not worker._fetch()
    assert not worker._waiting


@pytest.mark.parametrize(("overload", "sent"), [("every", 5), ("newest", 0)])
def test_the_next_frame_is_sent_beside_the_present_one(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, overload: str, sent: int
) -> None:
    """Only where it cannot be dropped for a newer one; the order stays, and what is counted."""
    ahead: list[NDArray[np.uint8]] = []
    send_ahead = Uploads.send_ahead

    def noted(self: Uploads, image: NDArray[np.uint8]) -> None:
        ahead.append(image)
        send_ahead(self, image)

    monkeypatch.setattr(Uploads, "beside", True)
    monkeypatch.setattr(Uploads, "send_ahead", noted)
    config = segmenter.config.updated({"overload": overload, "input.scale": 0.5})
    monkeypatch.setattr(segmenter, "config", config)  # it is shared by all tests
    benches, log = published_by_turns(segmenter, overload, COUNTS)
    order = ["/front", "/rear", "/front", "/rear", "/front", "/front"]
    assert [frame.camera for frame in log] == (order if overload == "every" else order[:2])
    assert len({id(image) for image in ahead}) == len(ahead) == sent
    refused = {name: bench.health.refused for name, bench in benches.items()}
    assert refused["broken"] == (4 if overload == "every" else 1)


def test_the_newest_frame_of_each_camera_is_segmented(segmenter: Segmenter) -> None:
    benches, log = published_by_turns(segmenter, "newest", COUNTS)
    found = [(frame.camera, frame.stamp_ns // MS) for frame in log]
    assert found == [("/front", 1003), ("/rear", 1001)]
    dropped = {name: bench.feed.dropped for name, bench in benches.items()}
    assert dropped == {"front": 3, "broken": 3, "silent": 0, "rear": 1}
    assert benches["front"].outputs.extra == {"dropped": 3, "refused": 0}
