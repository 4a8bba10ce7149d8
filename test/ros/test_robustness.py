"""Bad images, silent cameras and broken clocks: told, counted, survived."""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import pytest

from test.ros.rig import Client, set_header, stamp_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from test.ros.rig import Rig, Status

pytestmark = pytest.mark.ros


def unknown_encoding(rig: Rig, rgb: NDArray[np.uint8]) -> Any:
    return rig.picture(rgb, "32FC7")


def short_data(rig: Rig, rgb: NDArray[np.uint8]) -> Any:
    message = rig.picture(rgb)
    del message.data[-100:]
    return message


def no_data(rig: Rig, rgb: NDArray[np.uint8]) -> Any:
    message = rig.picture(rgb)
    del message.data[:]
    return message


def zero_size(rig: Rig, rgb: NDArray[np.uint8]) -> Any:
    message = rig.picture(rgb, width=0, height=0)
    del message.data[:]
    return message


def short_step(rig: Rig, rgb: NDArray[np.uint8]) -> Any:
    message = rig.picture(rgb)
    message.step = 10
    return message


def negative_stamp(rig: Rig, rgb: NDArray[np.uint8]) -> Any:
    message = rig.picture(rgb)
    message.header.stamp.sec = -1
    return message


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (unknown_encoding, ["'32FC7'", "not supported", "rgb8"]),
        (short_data, ["'rgb8'", "122x90"]),
        (no_data, ["'rgb8'", "122x90"]),
        (zero_size, ["0x0", "must be positive"]),
        (short_step, ["`step` is 10"]),
        (negative_stamp, ["stamp", "-1"]),
    ],
)
def test_unusable_image_is_named_counted_and_survived(
    front: Rig, rgb: NDArray[np.uint8], make: Any, words: list[str]
) -> None:
    front.segment(front.picture(rgb))
    before = front.next_status("input").count("refused")

    def refused(status: Status) -> bool:
        return status.level == "ERROR" and status.count("refused") > before

    status = front.wait_status("input", refused, message=make(front, rgb))
    assert status.text.startswith(f"unusable image: image on {front.image}")
    assert all(word in status.text for word in words), status.text
    front.segment(front.picture(rgb))
    front.wait_status("input", lambda status: "unusable" not in status.text)


def test_silent_camera_is_stale_until_it_speaks(front: Rig, rgb: NDArray[np.uint8]) -> None:
    front.segment(front.picture(rgb))
    status = front.wait_status("input", lambda s: s.level == "ERROR")
    assert status.text.startswith("stale: no image for")
    assert front.image in status.text
    front.wait_status("input", lambda s: s.level == "OK", message=front.picture(rgb))


def test_jump_back_in_time_is_counted_and_survived(front: Rig, rgb: NDArray[np.uint8]) -> None:
    """A looped bag starts again at its first stamp; told even right after one that repeats."""
    again = front.picture(rgb)
    front.segment(again)
    assert front.process is not None
    process = front.process
    front.insist(again, lambda: "repeats the previous one" in process.text, "a warning")
    before = front.next_status("input").count("stamp_jumps")
    earlier = front.next_stamp() - 60_000_000_000
    assert stamp_of(front.segment(front.picture(rgb, stamp_ns=earlier))) == earlier
    front.segment(front.picture(rgb))
    assert front.next_status("input").count("stamp_jumps") == before + 1
    front.client.wait_for(lambda: "before the previous one" in process.text, "a warning")


def test_zero_stamp_is_kept_and_told(front: Rig, rgb: NDArray[np.uint8]) -> None:
    """A driver that sets no stamp still gets masks."""
    message = front.picture(rgb, stamp_ns=0)
    assert stamp_of(front.segment(message)) == 0
    process: Any = front.process
    # Warnings about stamps are some seconds apart, and another test may just have caused one.
    front.insist(message, lambda: "the driver does not set it" in process.text, "a warning")


def test_camera_of_the_other_type_is_named(rear: Rig, rgb: NDArray[np.uint8]) -> None:
    """A CompressedImage on the raw topic matches nothing; DDS itself says nothing."""
    from sensor_msgs.msg import CompressedImage  # noqa: PLC0415 - only where there is ROS

    rear.client.forget(rear.image)
    rear.bring_to("active")
    # Its own participant: one participant cannot have a topic in two types.
    other = Client("other")
    try:
        publisher = other.node.create_publisher(CompressedImage, rear.image, 1)
        publisher.publish(set_header(CompressedImage(format="jpeg"), rear.next_stamp(), "camera"))
        status = rear.wait_status("input", lambda s: s.level == "ERROR")
    finally:
        other.close()
    assert "sensor_msgs/msg/CompressedImage" in status.text
    assert "set input.transport to compressed" in status.text
    rear.segment(rear.picture(rgb))


def test_topic_without_a_publisher_is_named(rear: Rig) -> None:
    rear.client.forget(rear.image)
    rear.bring_to("active")
    status = rear.wait_status("input", lambda s: s.level == "WARN")
    assert status.text.startswith(f"no publisher on {rear.image}")


def test_old_stamps_name_the_clock(front: Rig, rgb: NDArray[np.uint8]) -> None:
    """Somebody plays a bag without --clock: everything works, but no transform will be found."""
    message = front.picture(rgb, stamp_ns=1_500_000_000_000_000_000)
    status = front.wait_status("output", lambda s: s.level == "WARN", message=message)
    assert "--clock" in status.text
    assert "use_sim_time" in status.text
    assert float(status.values["stamp_lag_ms"]) > 1e9
