"""The built-in converter against the real cv_bridge, which runs in an environment of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.data.converters import choose_converter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[2]
DEBIAN_PACKAGES = Path("/usr/lib/python3/dist-packages")
PYTHON = REPOSITORY / ".venv-oracle" / "bin" / "python"
WIDTH, HEIGHT = 10, 6
BYTES_PER_PIXEL = {
    "rgb8": 3,
    "bgr8": 3,
    "rgba8": 4,
    "bgra8": 4,
    "mono8": 1,
    "mono16": 2,
    "yuv422": 2,
    **{f"bayer_{order}8": 1 for order in ("rggb", "bggr", "gbrg", "grbg")},
    **{f"bayer_{order}16": 2 for order in ("rggb", "bggr", "gbrg", "grbg")},
}

pytestmark = [
    pytest.mark.skipif(
        not (DEBIAN_PACKAGES / "cv_bridge").is_dir(),
        reason="cv_bridge oracle: Debian's python3-cv-bridge is not installed",
    ),
    pytest.mark.skipif(
        not PYTHON.exists(),
        reason="cv_bridge oracle: .venv-oracle is missing (see test/oracle/cv_bridge_oracle.py)",
    ),
]


def _case(encoding: str, padding: int, big_endian: int = 0) -> dict[str, object]:
    step = WIDTH * BYTES_PER_PIXEL[encoding] + padding
    data = np.random.default_rng(step).integers(0, 256, HEIGHT * step, dtype=np.uint8)
    return {
        "name": f"{encoding}+{padding}{'be' if big_endian else ''}",
        "encoding": encoding,
        "width": WIDTH,
        "height": HEIGHT,
        "step": step,
        "is_bigendian": big_endian,
        "data": data.tobytes().hex(),
    }


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, NDArray[np.uint8]]:
    """Return what cv_bridge and the built-in converter make of the same random messages."""
    folder = tmp_path_factory.mktemp("oracle")
    cases = [_case(encoding, padding) for encoding in BYTES_PER_PIXEL for padding in (0, 6)]
    cases.append(_case("mono16", 0, big_endian=1))
    (folder / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    script = REPOSITORY / "test" / "oracle" / "cv_bridge_oracle.py"
    # The oracle's environment has to find its own ROS libraries, not those of this one.
    of_this_environment = ("LD_LIBRARY_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")
    env = {key: value for key, value in os.environ.items() if key not in of_this_environment}
    done = subprocess.run(
        [PYTHON, script, folder / "cases.json", folder / "results.npz"],
        env={**env, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "results.npz") as results:
        return dict(results)


@pytest.mark.parametrize("encoding", [name for name in BYTES_PER_PIXEL if "16" not in name])
def test_8_bit_equals_cv_bridge(oracle: Mapping[str, NDArray[np.uint8]], encoding: str) -> None:
    """Copies, YUV and Bayer alike: both end in the same functions of OpenCV."""
    np.testing.assert_array_equal(
        oracle[f"{encoding}+0/builtin"], oracle[f"{encoding}+0/cv_bridge"]
    )


@pytest.mark.parametrize(
    "case", ["mono16+0", "mono16+0be", *(f"bayer_{o}16+0" for o in ("rggb", "gbrg"))]
)
def test_16_bit_is_within_one_of_cv_bridge(
    oracle: Mapping[str, NDArray[np.uint8]], case: str
) -> None:
    """cv_bridge rounds x * 255 / 65535; the high byte is x // 256. A wrong byte differs by far."""
    ours, theirs = oracle[f"{case}/builtin"].astype(int), oracle[f"{case}/cv_bridge"].astype(int)
    assert np.abs(ours - theirs).max() == 1


@pytest.mark.parametrize("encoding", BYTES_PER_PIXEL)
def test_padding_shears_the_picture_of_cv_bridge_but_not_ours(
    oracle: Mapping[str, NDArray[np.uint8]], encoding: str
) -> None:
    """The built-in is right: row y starts at byte y * step, by the definition of `step`.

    cv_bridge 1.16 takes rows to follow each other without a gap. Its first row is therefore
    still right, and the last one is not.
    """
    ours, theirs = oracle[f"{encoding}+6/builtin"], oracle[f"{encoding}+6/cv_bridge"]
    assert np.abs(ours[-1].astype(int) - theirs[-1]).max() > 50
    if "bayer" not in encoding:  # there, interpolation looks into the second row
        assert np.abs(ours[0].astype(int) - theirs[0]).max() <= 1


def test_choosing_cv_bridge_changes_no_pixel(oracle: Mapping[str, NDArray[np.uint8]]) -> None:
    """Padded rows and 16 bit are given to the built-in, so both choices give one picture."""
    assert "chose cv_bridge" in str(oracle["versions"])
    names = [name.removesuffix("/chosen") for name in oracle if name.endswith("/chosen")]
    assert len(names) == 2 * len(BYTES_PER_PIXEL) + 1
    for name in names:
        np.testing.assert_array_equal(oracle[f"{name}/chosen"], oracle[f"{name}/builtin"], name)


@pytest.mark.skipif(np.__version__ < "2", reason="NumPy 1: Debian's cv_bridge works here")
def test_cv_bridge_built_for_numpy_1_is_survived(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Under NumPy 2 it ends the process that uses it by SIGSEGV, after a page of noise."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(DEBIAN_PACKAGES)])
    chosen = choose_converter("auto")
    assert chosen.name == "builtin"
    assert "cv_bridge fails its self-check" in chosen.note
    assert capfd.readouterr() == ("", "")
