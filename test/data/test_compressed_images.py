"""JPEG and PNG give their colours back; what is damaged or no picture gives ImageError."""

from __future__ import annotations

from array import array
from contextlib import suppress
import struct
from typing import Any, TYPE_CHECKING
import zlib

import cv2
import numpy as np
import pytest

from seg_node.core.types import ImageError
from seg_node.data.compressed_images import compressed_to_rgb, encode_jpeg, encode_png
from test.data.image_samples import (
    assert_shows,
    BACKGROUND,
    BAYER,
    Compressed,
    HEIGHT,
    MARK,
    marked_picture,
    mosaic_of,
    picture_for,
    WIDTH,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


def blocks() -> NDArray[np.uint8]:
    """Return RGB [48, 64, 3] with one marked 16x16 block, which JPEG keeps but for rounding."""
    picture = np.empty((48, 64, 3), np.uint8)
    picture[:] = BACKGROUND
    picture[16:32, 32:48] = MARK
    return picture


def assert_shows_blocks(result: NDArray[np.uint8], expected: NDArray[np.uint8]) -> None:
    """Check all pixels but those beside the mark's edge, where JPEG mixes colours."""
    assert result.dtype == np.uint8
    assert result.shape == expected.shape
    difference = np.abs(result.astype(int) - expected)
    for edge in (16, 32):
        difference[edge - 2 : edge + 2] = 0
    for edge in (32, 48):
        difference[:, edge - 2 : edge + 2] = 0
    assert difference.max() <= 4


def jpeg_with(segment: bytes, picture: NDArray[np.uint8], *options: int) -> bytes:
    """Return a JPEG with an additional segment behind its start marker."""
    data = cv2.imencode(".jpg", picture[..., ::-1], options)[1].tobytes()
    return data[:2] + segment + data[2:]


def exif(body: bytes) -> bytes:
    """Return an APP1 segment."""
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


@pytest.mark.parametrize(
    "text", ["jpeg", "jpg", "JPEG", "", "rgb8; jpeg compressed bgr8", "bgr8; jpeg compressed bgr8"]
)
@pytest.mark.parametrize("container", [bytes, np.frombuffer, "array"])
def test_jpeg(text: str, container: Any) -> None:
    """Whatever its format says: the colours of the file are those of the picture."""
    data: Any = encode_jpeg(blocks(), quality=100)
    if container == "array":
        data = array("B", data)
    elif container is np.frombuffer:
        data = np.frombuffer(data, np.uint8)
    assert_shows_blocks(compressed_to_rgb(Compressed(text, data)), blocks())


@pytest.mark.parametrize(
    "text", ["png", "rgb8; png compressed bgr8", "bgr8; png compressed ", "jpeg"]
)
def test_png(text: str) -> None:
    """Lossless, so exact."""
    picture = marked_picture(slice(2, 3), slice(5, 6))
    result = compressed_to_rgb(Compressed(text, encode_png(picture)))
    np.testing.assert_array_equal(result, picture)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_grey_files(suffix: str) -> None:
    """One channel is repeated."""
    grey = blocks()[..., 0]
    data = cv2.imencode(suffix, grey)[1].tobytes()
    result = compressed_to_rgb(Compressed("mono8; png compressed mono8", data))
    assert_shows_blocks(result, np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_of_any_depth(channels: int, dtype: type[np.unsignedinteger[Any]]) -> None:
    """16 bit keep the high byte, as in raw images; transparency is dropped."""
    picture = marked_picture(slice(2, 3), slice(5, 6))
    alpha = np.full((HEIGHT, WIDTH, 1), 7, np.uint8)
    bgra = np.concatenate([picture[..., ::-1], alpha], axis=2)
    stored = picture[..., :1] if channels == 1 else bgra[..., :channels]
    if dtype == np.uint16:
        stored = stored.astype(np.uint16) * 256 + 0xEE
    data = cv2.imencode(".png", stored)[1].tobytes()
    expected = np.repeat(picture[..., :1], 3, axis=2) if channels == 1 else picture
    np.testing.assert_array_equal(compressed_to_rgb(Compressed("png", data)), expected)


@pytest.mark.parametrize("encoding", BAYER)
def test_a_compressed_mosaic_is_developed(encoding: str) -> None:
    """image_transport stores a Bayer picture as grey and names its pattern in the format."""
    mosaic: NDArray[Any] = mosaic_of(encoding, picture_for(encoding))
    if encoding.endswith("16"):
        mosaic = mosaic.astype(np.uint16) * 256 + 0xEE
    data = cv2.imencode(".png", mosaic)[1].tobytes()
    assert_shows(compressed_to_rgb(Compressed(f"{encoding}; png compressed ", data)), encoding)


def test_a_developed_bayer_picture_is_left_alone() -> None:
    """The format names the sensor's pattern, but the file has colours already."""
    data = encode_png(blocks())
    msg = Compressed("bayer_rggb8; png compressed bgr8", data)
    np.testing.assert_array_equal(compressed_to_rgb(msg), blocks())


@pytest.mark.parametrize(
    "options",
    [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 1)],
    ids=["baseline", "progressive", "restart markers"],
)
def test_a_jpeg_cut_anywhere_is_refused(options: tuple[int, ...]) -> None:
    """OpenCV alone would return a half-grey picture; padding behind the end is fine."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    data = jpeg_with(b"", noise, *options)
    whole = compressed_to_rgb(Compressed("jpeg", data))
    padded = compressed_to_rgb(Compressed("jpeg", data + bytes(500)))
    np.testing.assert_array_equal(padded, whole)
    for length in range(len(data)):
        with pytest.raises(ImageError, match=r"cut off|empty|neither"):
            compressed_to_rgb(Compressed("jpeg", data[:length]))


def test_a_png_cut_anywhere_is_refused() -> None:
    """Chunks are counted to the end chunk."""
    data = encode_png(blocks())
    for length in range(len(data)):
        with pytest.raises(ImageError, match=r"cut off|empty|neither"):
            compressed_to_rgb(Compressed("png", data[:length]))


def test_a_thumbnail_does_not_hide_a_cut() -> None:
    """The end marker of a thumbnail inside a segment is not that of the picture."""
    thumbnail = encode_jpeg(blocks()[:16, :16])
    data = jpeg_with(exif(b"Exif\0\0" + thumbnail), blocks())
    assert compressed_to_rgb(Compressed("jpeg", data)).shape == (48, 64, 3)
    with pytest.raises(ImageError, match="cut off"):
        compressed_to_rgb(Compressed("jpeg", data[:-2]))


def test_an_orientation_tag_is_ignored() -> None:
    """A mask has to fit camera_info, which knows no orientation."""
    tag = (
        b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0) + bytes(4)
    )
    data = jpeg_with(exif(tag), blocks(), cv2.IMWRITE_JPEG_QUALITY, 100)
    turned = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert turned is not None
    assert turned.shape == (64, 48, 3), "the tag is not read, so this test shows nothing"
    assert_shows_blocks(compressed_to_rgb(Compressed("jpeg", data)), blocks())


def claiming(width: int, height: int, suffix: str) -> bytes:
    """Return a small file whose header claims another size."""
    data = bytearray(cv2.imencode(suffix, blocks())[1].tobytes())
    if suffix == ".png":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    else:
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_decompression_bomb_is_not_decoded(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size is read from the header before any memory is taken for it."""
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("was decoded"))
    with pytest.raises(ImageError, match="more than 64000000 pixels") as caught:
        compressed_to_rgb(Compressed("x", claiming(64_000, 1_001, suffix)), "/camera")
    assert (caught.value.width, caught.value.height) == (64_000, 1_001)


def damaged_png() -> bytes:
    """Return a whole PNG with one wrong byte in its pixels."""
    data = bytearray(encode_png(blocks()))
    data[data.index(b"IDAT") + 20] ^= 0x55
    return bytes(data)


@pytest.mark.parametrize(
    ("text", "data", "problem"),
    [
        ("16UC1; compressedDepth png", encode_png(blocks()), "depth is not a picture"),
        ("32FC1; compressedDepth", b"", "depth is not a picture"),
        ("jpeg", b"", "empty; supported are JPEG and PNG"),
        ("h264", b"\x00\x00\x00\x01\x67", "neither JPEG nor PNG .*00 00 00 01"),
        ("jpeg", b"\xff\xd8\xff\xd9", "cut off"),
        ("png", damaged_png(), "png cannot be decoded: its contents are damaged"),
        ("jpeg", claiming(0, 48, ".jpg"), "jpeg cannot be decoded"),
        ("png", claiming(0, 48, ".png"), "png cannot be decoded"),
        ("jpeg", [255, 216], "a list that cannot be read as bytes"),
        ("bayer_rggb8; png compressed ", encode_png(blocks()[:2, :, 0]), "at least 3"),
    ],
)
def test_a_bad_compressed_image_is_refused(text: str, data: Any, problem: str) -> None:
    """One error that names topic, format and problem."""
    with pytest.raises(ImageError, match=problem) as caught:
        compressed_to_rgb(Compressed(text, data), "/camera/compressed")
    assert "on /camera/compressed" in str(caught.value)
    assert caught.value.encoding == text


def test_random_damage_gives_a_picture_or_an_image_error() -> None:
    """No other exception gets out, whichever byte is wrong."""
    rng = np.random.default_rng(4)
    for original in (encode_png(blocks()), encode_jpeg(blocks())):
        for _ in range(150):
            data = bytearray(original)
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
            with suppress(ImageError):
                assert compressed_to_rgb(Compressed("x", bytes(data))).ndim == 3


# Encoding -----------------------------------------------------------------------------------


def test_encoded_masks_and_pictures_come_back() -> None:
    """PNG keeps every class id; JPEG is a JPEG."""
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    decoded = cv2.imdecode(np.frombuffer(encode_png(labels), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded, labels)
    assert encode_jpeg(blocks())[:3] == b"\xff\xd8\xff"
    assert len(encode_jpeg(blocks(), quality=10)) < len(encode_jpeg(blocks(), quality=95))


@pytest.mark.parametrize(
    "array_", [np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8), np.zeros((0, 4), np.uint8)]
)
def test_what_cannot_be_encoded_is_refused(array_: NDArray[np.uint8]) -> None:
    """Shapes are named."""
    with pytest.raises(ImageError, match=r"can encode uint8 \[H, W\]"):
        encode_png(array_)


def test_a_picture_too_large_for_jpeg_is_refused() -> None:
    """Its sides are 16 bit numbers."""
    with pytest.raises(ImageError, match=r"70000x1\): OpenCV cannot write it as \.jpg"):
        encode_jpeg(np.zeros((1, 70_000), np.uint8))
