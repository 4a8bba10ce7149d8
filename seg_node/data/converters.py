"""The choice of what converts raw image messages: cv_bridge where it works, or our own."""

from __future__ import annotations

from dataclasses import dataclass
import importlib
import importlib.util
import os
from pathlib import Path
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, cast, Protocol, TYPE_CHECKING

import cv2
import numpy as np

from seg_node.core.types import ConfigError
from seg_node.data.raw_images import BAYER_CODES, checked_rows, image_error, image_to_rgb

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from seg_node.data.raw_images import ImageMessage

SELF_CHECK_TIMEOUT_S = 60.0
"""Time that cv_bridge gets to be imported and tried, in seconds."""

CONVERTER_NAMES = ("auto", "cv_bridge", "builtin")
"""Values of the parameter `input.converter`."""

# For these both converters give the same picture, bit for bit, so the choice changes no mask.
# rgb8 and rgba8 are absent because the built-in converter returns them without a copy; 16 bit
# because cv_bridge rounds x * 255 / 65535, which is the high byte or one more or less; the others
# because some version of cv_bridge does not know them.
_CV_BRIDGE_ENCODINGS = frozenset(
    {"bgr8", "bgra8", "mono8", "yuv422"} | {f"{name}8" for name in BAYER_CODES}
)


class Converter(Protocol):
    """Turns a raw image message into RGB."""

    def __call__(self, msg: ImageMessage, topic: str = "") -> NDArray[np.uint8]:
        """Return RGB, uint8 [H, W, 3]; raise ImageError if the message cannot be used."""
        ...


@dataclass(frozen=True)
class ChosenConverter:
    """A converter and why it was chosen.

    Attributes:
        name: what is used, "cv_bridge" or "builtin".
        note: the reason, one sentence for logs and `seg_node doctor`.
        convert: the converter itself.

    """

    name: str
    note: str
    convert: Converter

    def __call__(self, msg: ImageMessage, topic: str = "") -> NDArray[np.uint8]:
        """Convert a raw image to RGB, uint8 [H, W, 3]; errors as in `image_to_rgb`."""
        return self.convert(msg, topic)


def choose_converter(name: str) -> ChosenConverter:
    """Return the converter of raw images that `input.converter` asks for.

    "auto" takes cv_bridge where it can be imported and converts four known pictures right, else
    the built-in; the note says which and why. The trial runs in a process of its own, because
    a cv_bridge built for another NumPy may print pages of noise or end the process.

    Args:
        name: one of `CONVERTER_NAMES`.

    Raises:
        ConfigError: the name is unknown, or cv_bridge was asked for and does not work.

    """
    if name not in CONVERTER_NAMES:
        msg = f"`input.converter` must be one of {', '.join(CONVERTER_NAMES)}, got {name!r}"
        raise ConfigError(msg)
    if name == "builtin":
        return ChosenConverter("builtin", "the built-in converter was asked for", image_to_rgb)
    problem = _cv_bridge_problem()
    if not problem:
        note = (
            "cv_bridge converts known pictures right; padded rows, 16 bit and what needs no "
            "copy go to the built-in converter"
        )
        return ChosenConverter("cv_bridge", note, _cv_bridge_converter())
    if name == "auto":
        note = f"the built-in converter is used because {problem}"
        return ChosenConverter("builtin", note, image_to_rgb)
    msg = (
        f"`input.converter` is cv_bridge, but {problem}; set it to builtin or auto, or install a "
        f"cv_bridge that fits this Python {sys.version_info.major}.{sys.version_info.minor} and "
        f"NumPy {np.__version__}"
    )
    raise ConfigError(msg)


def _cv_bridge_problem() -> str:
    """Return why cv_bridge cannot be used here, empty if it can."""
    if importlib.util.find_spec("cv_bridge") is None:
        return "cv_bridge is not installed for this Python"
    package_root = str(Path(__file__).resolve().parents[2])
    paths = [path or str(Path.cwd()) for path in sys.path]
    try:
        trial = subprocess.run(  # noqa: S603 - this interpreter, a constant program
            [sys.executable, "-c", f"import {__name__} as c; c.check_cv_bridge()"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([*paths, package_root])},
            capture_output=True,
            check=False,
            encoding="utf-8",
            errors="replace",
            timeout=SELF_CHECK_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return f"cv_bridge did not finish its self-check within {SELF_CHECK_TIMEOUT_S:g} s"
    except OSError as error:
        return f"the self-check of cv_bridge could not be started: {error}"
    return _trial_problem(trial.returncode, trial.stderr)


def _trial_problem(returncode: int, stderr: str) -> str:
    """Return in words how the trial failed, empty if it did not."""
    if returncode == 0:
        return ""
    if returncode < 0:
        end = f"ended by signal {-returncode}, {signal.strsignal(-returncode)}"
    else:
        end = (stderr.strip().splitlines() or [f"exit status {returncode}"])[-1]
    # The words of NumPy when a module was compiled for the C interface of NumPy 1.
    cause = "; it was built for NumPy 1" if "_ARRAY_API" in stderr else ""
    return f"cv_bridge fails its self-check ({end}{cause})"


def check_cv_bridge() -> None:
    """Import cv_bridge and convert four known pictures; meant for a process of its own.

    Raises:
        ConfigError: a picture comes out wrong. Anything that cv_bridge raises also gets out.

    """
    bridge = importlib.import_module("cv_bridge").CvBridge()
    for encoding, pixels, expected in _known_pictures():
        result = np.asarray(bridge.imgmsg_to_cv2(_plain_message(encoding, pixels), "rgb8"))
        if result.shape != expected.shape or not np.array_equal(result, expected):
            msg = f"it converts {encoding} wrongly"
            raise ConfigError(msg)


def _known_pictures() -> list[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Return (encoding, samples, expected RGB) of pictures whose conversion can be told by eye."""
    rgb = np.zeros((4, 6, 3), np.uint8)
    rgb[1, 2] = (200, 100, 50)
    mono = np.zeros((4, 6), np.uint8)
    mono[1, 2] = 70
    mosaic = np.tile(np.array([[200, 100], [100, 50]], np.uint8), (4, 5))
    even = np.broadcast_to(np.array([200, 100, 50], np.uint8), (8, 10, 3))
    return [
        ("rgb8", rgb, rgb),
        ("bgr8", np.ascontiguousarray(rgb[..., ::-1]), rgb),
        ("mono8", mono, np.repeat(mono[..., None], 3, axis=2)),
        ("bayer_rggb8", mosaic, even),
    ]


def _plain_message(encoding: str, pixels: NDArray[np.uint8]) -> ImageMessage:
    """Return samples [H, W] or [H, W, C] as an image message without padding."""
    height, width = pixels.shape[:2]
    message = SimpleNamespace(
        header=None,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=pixels.nbytes // height,
        data=pixels.tobytes(),
    )
    return cast("ImageMessage", message)


def _cv_bridge_converter() -> Converter:
    """Return a converter that uses cv_bridge for what every version of it converts right.

    Padded rows are not among it: cv_bridge 1.16 ignores `step` and shears the picture, later
    ones divide it by the bytes of a pixel and shear it whenever there is a remainder. Messages
    marked as big-endian are not either: that branch calls a method that NumPy 2 has removed.
    """
    bridge_convert: Callable[[Any, str], Any] = (
        importlib.import_module("cv_bridge").CvBridge().imgmsg_to_cv2
    )

    def convert(msg: ImageMessage, topic: str = "") -> NDArray[np.uint8]:
        rows = checked_rows(msg, topic)
        padded = int(msg.step) != rows.shape[1]
        if padded or msg.is_bigendian or msg.encoding not in _CV_BRIDGE_ENCODINGS:
            return image_to_rgb(msg, topic)
        try:
            picture = np.asarray(bridge_convert(msg, "rgb8"))
        except (TypeError, ValueError, AttributeError, RuntimeError, cv2.error) as error:
            # CvBridgeError is a TypeError
            raise image_error(msg, topic, f"cv_bridge cannot convert it: {error}") from error
        return cast("NDArray[np.uint8]", picture)

    return convert
