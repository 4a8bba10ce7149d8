"""The services ~/enable and ~/keyframe."""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from test.ros.rig import Rig

pytestmark = pytest.mark.ros


def enable(rig: Rig, *, on: bool) -> Any:
    """Call ~/enable."""
    from std_srvs.srv import SetBool  # noqa: PLC0415 - only where there is ROS

    return rig.client.call(SetBool, f"{rig.name}/enable", SetBool.Request(data=on))


def keyframe(rig: Rig) -> Any:
    """Call ~/keyframe."""
    from std_srvs.srv import Trigger  # noqa: PLC0415

    return rig.client.call(Trigger, f"{rig.name}/keyframe", Trigger.Request())


@pytest.fixture
def switched_off(front: Rig) -> Iterator[Rig]:
    """Return the active node switched off, and switch it on again afterwards."""
    assert enable(front, on=False).success
    yield front
    assert enable(front, on=True).success


def test_switched_off_the_node_does_not_subscribe(switched_off: Rig) -> None:
    switched_off.client.wait_for(lambda: not switched_off.readers(), "no subscription")
    status = switched_off.next_status("input")
    assert (status.level, status.text) == ("OK", "switched off by ~/enable")


def test_switched_on_again_masks_come(switched_off: Rig, rgb: NDArray[np.uint8]) -> None:
    answer = enable(switched_off, on=True)
    assert answer.message == "segmenting"
    switched_off.segment(switched_off.picture(rgb))


def test_activation_does_not_switch_on(switched_off: Rig, rgb: NDArray[np.uint8]) -> None:
    """Off stays off through the lifecycle, until ~/enable says otherwise."""
    switched_off.bring_to("inactive")
    switched_off.bring_to("active")
    assert switched_off.next_status("input").text == "switched off by ~/enable"
    assert switched_off.readers() == 0
    enable(switched_off, on=True)
    switched_off.segment(switched_off.picture(rgb))


def test_keyframe_answers_by_state(front: Rig) -> None:
    answer = keyframe(front)
    assert answer.success
    assert "the next frame is computed in full" in answer.message
    front.bring_to("inactive")
    answer = keyframe(front)
    assert not answer.success
    assert "activate it first" in answer.message
