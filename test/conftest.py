"""Settings and fixtures shared by all tests.

ROS traffic of the tests stays on this machine and in a domain that nobody else uses. Both
settings are made here, before anything imports rclpy; the processes that tests start inherit
them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seg_node.ros.domain import choose_domain

CAMVID = Path(__file__).resolve().parents[2] / "shared" / "data" / "camvid"
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_DOMAIN_ID"] = str(choose_domain(os.getpid()))
# Pictures of tests are too small to be worth a second thread, and tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Without a GPU, kernels run in Triton's interpreter, which it must know when it is imported: torch
# does that wherever operations are counted.
if not any(Path("/dev").glob("nvidia[0-9]*")):
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def camvid_dir() -> Path:
    """Return the folder of the CamVid frames; skip the test where they are not there."""
    if not CAMVID.is_dir():
        pytest.skip("CamVid frames not found at ../shared/data/camvid")
    return CAMVID


@pytest.fixture(scope="session")
def random_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of models with one entry, `swiftnet18-half`, whose weights are random.

    Enough for everything but accuracy, and independent of what is shipped. BatchNorm statistics
    are settled on noise, so that the masks show several classes.
    """
    # Imported here, so that collecting tests does not load torch.
    import torch  # noqa: PLC0415

    from seg_node.core.types import CAMVID_CLASSES  # noqa: PLC0415
    from seg_node.nets.build import build_network  # noqa: PLC0415
    from seg_node.nets.manifest import Manifest  # noqa: PLC0415
    from seg_node.nets.weights import save_weights  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(7)
    net = build_network("swiftnet18-half", len(CAMVID_CLASSES)).train()
    with torch.no_grad():
        for _ in range(10):
            coarse = torch.rand(4, 3, 8, 8) * 255
            net(torch.nn.functional.interpolate(coarse, size=(96, 128)))
    file = "swiftnet18-half.safetensors"
    sha256 = save_weights(net.eval(), folder / file)
    Manifest(
        name="swiftnet18-half",
        network="swiftnet18-half",
        file=file,
        sha256=sha256,
        classes=CAMVID_CLASSES,
        training_size=(128, 96),
        data="none: random weights for tests",
        terms="none",
        command="test/conftest.py",
        commit="",
        scores={},
    ).write(folder)
    return folder
