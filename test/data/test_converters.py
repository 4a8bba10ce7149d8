"""cv_bridge is used where it works and for what it converts as the built-in converter does."""

from __future__ import annotations

from array import array
from dataclasses import replace
from itertools import product
import sys
from typing import Any, TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.types import ConfigError, ImageError
from seg_node.data import converters
from seg_node.data.converters import choose_converter, ChosenConverter, CONVERTER_NAMES
from seg_node.data.raw_images import SUPPORTED_ENCODINGS
from test.data.image_samples import assert_shows, BAYER, message

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


WORKING = """
from seg_node.data.raw_images import image_to_rgb
calls = []
class CvBridge:
    def imgmsg_to_cv2(self, msg, desired_encoding):
        calls.append(msg.encoding)
        if bytes(msg.data[:3]) == b"bad":
            raise TypeError("as CvBridgeError is")
        return image_to_rgb(msg)
"""
SWAPPED = """
from seg_node.data.raw_images import image_to_rgb
class CvBridge:
    def imgmsg_to_cv2(self, msg, desired_encoding):
        return image_to_rgb(msg)[..., ::-1]
"""


@pytest.fixture(autouse=True)
def _forget_cv_bridge() -> Iterator[None]:
    """Remove what a test imported under this name."""
    before = sys.modules.pop("cv_bridge", None)
    yield
    sys.modules.pop("cv_bridge", None)
    if before is not None:
        sys.modules["cv_bridge"] = before


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, source: str) -> None:
    """Make a cv_bridge of this source importable."""
    (folder / "cv_bridge.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))


def test_unknown_names_are_refused() -> None:
    """With the known ones."""
    assert CONVERTER_NAMES == ("auto", "cv_bridge", "builtin")
    with pytest.raises(ConfigError, match="auto, cv_bridge, builtin, got 'opencv'"):
        choose_converter("opencv")


def test_builtin_can_be_asked_for() -> None:
    """And converts."""
    chosen = choose_converter("builtin")
    assert chosen.name == "builtin"
    assert "asked for" in chosen.note
    assert_shows(chosen(message("bgr8", 5), "/t"), "bgr8")


def test_without_cv_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Auto falls back and says so; asking for it is an error with the fix."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    chosen = choose_converter("auto")
    assert (chosen.name, "not installed" in chosen.note) == ("builtin", True)
    with pytest.raises(ConfigError, match=r"not installed .* set it to builtin or auto, or inst"):
        choose_converter("cv_bridge")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ImportError('libboost is missing')", "ImportError: libboost is missing"),
        ("raise AttributeError('_ARRAY_API not found')", "it was built for NumPy 1"),
        ("import os; print('noise'); os.abort()", "ended by signal 6"),
        ("import sys; sys.exit(3)", "exit status 3"),
        (SWAPPED, "it converts rgb8 wrongly"),
    ],
)
def test_a_broken_cv_bridge_is_not_used(
    source: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The reason is named, nothing is printed, and this process goes on."""
    install(monkeypatch, tmp_path, source)
    chosen = choose_converter("auto")
    assert chosen.name == "builtin"
    assert reason in chosen.note
    assert capfd.readouterr() == ("", "")
    assert "cv_bridge" not in sys.modules


def test_a_cv_bridge_that_hangs_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for by name, it is an error."""
    install(monkeypatch, tmp_path, "import time; time.sleep(60)")
    monkeypatch.setattr(converters, "SELF_CHECK_TIMEOUT_S", 0.2)
    with pytest.raises(ConfigError, match=r"did not finish its self-check within 0\.2 s"):
        choose_converter("cv_bridge")


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ChosenConverter, Any]]:
    """Return the converter around a cv_bridge that works, and that module."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        install(monkeypatch, tmp_path_factory.mktemp("working"), WORKING)
        chosen = choose_converter("auto")
        yield chosen, sys.modules["cv_bridge"]


def test_a_working_cv_bridge_is_used(working: tuple[ChosenConverter, Any]) -> None:
    """For what it converts as the built-in does; the rest it never sees."""
    chosen, bridge = working
    assert chosen.name == "cv_bridge"
    for encoding, padding, big_endian in product(SUPPORTED_ENCODINGS, (0, 5), (0, 1)):
        bridge.calls.clear()
        assert_shows(chosen(message(encoding, padding, big_endian)), encoding)
        trusted = encoding in ("bgr8", "bgra8", "mono8", "yuv422") or (
            encoding in BAYER and encoding.endswith("8")
        )
        asked = trusted and not padding and not big_endian
        assert bridge.calls == ([encoding] if asked else []), encoding


def test_messages_are_checked_before_cv_bridge_sees_them(
    working: tuple[ChosenConverter, Any],
) -> None:
    """It would read past the end of short data, or raise what nobody catches."""
    chosen, bridge = working
    bridge.calls.clear()
    for change in ({"data": b"x"}, {"width": 0}, {"encoding": "32FC1"}):
        with pytest.raises(ImageError, match="on /t"):
            chosen(replace(message("bgr8"), **change), "/t")
    assert not bridge.calls
    bad = message("bgr8")
    bad.data[:3] = array("B", b"bad")
    with pytest.raises(ImageError, match=r"on /t .*cv_bridge cannot convert it: as CvBridgeError"):
        chosen(bad, "/t")


def test_rgb8_stays_a_view_with_cv_bridge(working: tuple[ChosenConverter, Any]) -> None:
    """It would copy what needs no conversion."""
    msg = message("rgb8")
    assert np.shares_memory(working[0](msg), np.frombuffer(msg.data, np.uint8))
