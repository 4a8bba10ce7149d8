"""The node under `use_sim_time`, without and with a clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from test.ros.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from test.ros.rig import Client, NodeProcess, Status

pytestmark = pytest.mark.ros

BAG_TIME_S = 1_500_000_000


@pytest.fixture(scope="module")
def sim(client: Client, start_node: Callable[..., NodeProcess]) -> Iterator[Rig]:
    """Return an active node that waits for /clock."""
    args = ("-r", "__ns:=/sim", "-p", "use_sim_time:=true")
    rig = Rig(client, lambda: start_node(*args), "/sim/segmentation", "/sim/image", simulated=True)
    rig.bring_to("active")
    yield rig
    rig.close()
    assert rig.process is not None
    assert rig.process.end() == 0


def test_before_the_first_clock_masks_and_diagnostics_come(
    sim: Rig, rgb: NDArray[np.uint8]
) -> None:
    """A steady timer reports: one on the node's clock would stand still."""
    sim.segment(sim.picture(rgb))
    status = sim.wait_status("output", lambda s: s.level == "WARN", message=sim.picture(rgb))
    assert "--clock" in status.text
    assert status.stamp_ns == 0
    sim.wait_status("input", lambda s: s.text.startswith("stale"))


def test_with_a_clock_reports_follow_it(sim: Rig, rgb: NDArray[np.uint8]) -> None:
    """Then the stamps of a bag are young, however old they are."""
    from rosgraph_msgs.msg import Clock  # noqa: PLC0415 - only where there is ROS

    clock = Clock()
    clock.clock.sec = BAG_TIME_S

    def young(status: Status) -> bool:
        sim.client.publish(clock, "/clock")
        in_time = status.stamp_ns == BAG_TIME_S * 1_000_000_000
        return in_time and status.level == "OK" and "stamp_lag_ms" in status.values

    message = sim.picture(rgb, stamp_ns=BAG_TIME_S * 1_000_000_000 - 100_000_000)
    status = sim.wait_status("output", young, message=message)
    assert float(status.values["stamp_lag_ms"]) == pytest.approx(100.0)
