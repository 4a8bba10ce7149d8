"""Which packets of an H.265 stream decoding may begin at, read without decoding them."""

from __future__ import annotations

from seg_node.data.h264 import Link, nal_units

_FIRST_IRAP, _LAST_IRAP, _LAST_PICTURE = 16, 21, 31


def hevc_link(packet: bytes) -> Link:
    """Return whether a packet holds a key picture (KEY), another (NEXT) or none (NONE).

    Gaps are not seen here: each picture lists the pictures it refers to, and libavcodec 62
    (FFmpeg 8) refuses a picture of which one is missing.

    Args:
        packet: one access unit as Annex B.

    """
    kinds = [unit[0] >> 1 & 63 for unit in nal_units(packet)]
    if any(_FIRST_IRAP <= kind <= _LAST_IRAP for kind in kinds):
        return Link.KEY
    return Link.NEXT if any(kind <= _LAST_PICTURE for kind in kinds) else Link.NONE
