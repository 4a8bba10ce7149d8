"""What an H.264 stream says about the order of its pictures, read without decoding them.

libavcodec conceals a lost picture without a word: it repeats the one before and goes on. But
every picture carries `frame_num`, which counts the reference pictures, so a gap in it is a loss
(ITU-T H.264, 7.4.3). Only parameter sets and the first bytes of slices are read here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_START = b"\0\0\1"
_SLICE, _IDR, _SEI, _SPS, _PPS = 1, 5, 6, 7, 8
_RECOVERY_POINT = 6
_SLICE_HEAD = 32
"""Bytes of a slice that surely hold its frame_num."""

_HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
_YUV444 = 3
_AVCC_HEAD = 6


class Link(Enum):
    """How a picture follows the one before it in the stream."""

    NONE = "no picture"
    KEY = "decoding may begin here"
    NEXT = "may refer to the picture before it"
    ASIDE = "the picture before it is no reference, so it refers to an older one"
    GAP = "a reference picture before it is missing"


@dataclass(frozen=True)
class _Sequence:
    """The fields of a sequence parameter set that matter here."""

    frame_num_bits: int
    colour_planes: bool
    references: int
    gaps_allowed: bool


class PictureOrder:
    """Follows `frame_num` through a stream, packet by packet.

    A stream whose parameter sets have not been seen is taken as it comes: every picture is NEXT.

    Attributes:
        references: pictures that the newest sequence parameter set allows as references; 1 before
            any has been seen.

    """

    def __init__(self, extradata: bytes | None = None) -> None:
        """Read the parameter sets that stand apart from the stream, as in an mp4 file.

        Args:
            extradata: those of the container, as Annex B or as an AVC configuration record.

        """
        self.references = 1
        self._length_size = 0
        self._sequences: dict[int, _Sequence] = {}
        self._pictures: dict[int, int] = {}
        self._expected: int | None = None
        self._disposable = False
        if extradata and extradata[0] == 1:
            self._length_size = 1 + (extradata[4] & 3) if len(extradata) > _AVCC_HEAD else 4
            for unit in _avcc_sets(extradata):
                self._read_sets(unit)
        elif extradata:
            self.take(extradata)

    def take(self, packet: bytes) -> Link:
        """Return how the picture of one packet follows; of several, the worst.

        Damaged bytes are no error here: the decoder will complain about them.

        Args:
            packet: one access unit, as Annex B, or length-prefixed where `extradata` says so.

        """
        links = [Link.NONE]
        recovery = False
        for unit in nal_units(packet, self._length_size):
            kind = unit[0] & 31
            recovery = recovery or (kind == _SEI and _has_recovery_point(unit))
            try:
                self._read_sets(unit)
                if kind in {_SLICE, _IDR}:
                    links.append(self._follow(unit, recovery=recovery))
            except IndexError:  # the unit ends before its fields do
                links.append(Link.GAP)
        order = (Link.GAP, Link.KEY, Link.ASIDE, Link.NEXT, Link.NONE)
        return min(links, key=order.index)

    def forget(self) -> None:
        """Expect nothing of the next picture, but keep the parameter sets."""
        self._expected = None
        self._disposable = False

    def _read_sets(self, unit: bytes) -> None:
        kind = unit[0] & 31
        if kind == _SPS:
            identity, sequence = _read_sequence(unit)
            self._sequences[identity] = sequence
            self.references = max(1, sequence.references)
        elif kind == _PPS:
            bits = _Bits(unit[1:])
            picture, sequence_of_it = bits.exp(), bits.exp()
            self._pictures[picture] = sequence_of_it

    def _follow(self, unit: bytes, *, recovery: bool) -> Link:
        """Compare a slice with what was expected, and expect its successor."""
        bits = _Bits(unit[1 : 1 + _SLICE_HEAD])
        if bits.exp() > 0:  # not the first slice of its picture
            return Link.NONE
        bits.exp()  # slice_type
        sequence = self._sequences.get(self._pictures.get(bits.exp(), -1))
        if sequence is None:
            return Link.NEXT
        if sequence.colour_planes:
            bits.take(2)
        number = bits.take(sequence.frame_num_bits)
        idr = unit[0] & 31 == _IDR
        expected = number if idr or sequence.gaps_allowed else self._expected
        link = Link.ASIDE if self._disposable else Link.NEXT
        self._disposable = unit[0] & 0x60 == 0
        step = 0 if self._disposable else 1
        self._expected = (number + step) % (1 << sequence.frame_num_bits)
        if expected is not None and number != expected:
            return Link.GAP
        return Link.KEY if idr or recovery else link


def nal_units(packet: bytes, length_size: int = 0) -> Iterator[bytes]:
    """Yield the NAL units of a packet of H.264 or H.265, none of them empty.

    Args:
        packet: one or more units.
        length_size: bytes of the length in front of each unit; 0 for Annex B start codes.

    """
    if length_size:
        at = 0
        while at + length_size < len(packet):
            end = at + length_size + int.from_bytes(packet[at : at + length_size], "big")
            if end > at + length_size:
                yield packet[at + length_size : end]
            at = end
        return
    start = packet.find(_START)
    while start >= 0:
        following = packet.find(_START, start + 3)
        unit = packet[start + 3 : following if following >= 0 else None]
        if unit:
            yield unit
        start = following


def _avcc_sets(record: bytes) -> Iterator[bytes]:
    """Yield the parameter sets of an AVC configuration record (ISO/IEC 14496-15, 5.2.4.1)."""
    at = _AVCC_HEAD
    for count in (record[5:6], None):
        units = (count or record[at : at + 1] or b"\0")[0]
        at += 0 if count else 1
        for _ in range(units & 31):
            size = int.from_bytes(record[at : at + 2], "big")
            if unit := record[at + 2 : at + 2 + size]:
                yield unit
            at += 2 + size


def _has_recovery_point(unit: bytes) -> bool:
    """Tell whether a unit of supplemental information holds a recovery point (7.3.2.3)."""
    at = 1
    while at + 1 < len(unit) - 1:  # the last byte ends the unit
        kind, at = _stretched(unit, at)
        size, at = _stretched(unit, at)
        if kind == _RECOVERY_POINT:
            return True
        at += size
    return False


def _stretched(unit: bytes, at: int) -> tuple[int, int]:
    """Return a number written as bytes of 255 and a last one below, and where it ends."""
    number = 0
    while unit[at : at + 1] == b"\xff":
        number += 255
        at += 1
    return number + (unit[at] if at < len(unit) else 0), at + 1


def _read_sequence(unit: bytes) -> tuple[int, _Sequence]:
    """Return the identity and the fields of a sequence parameter set (7.3.2.1.1)."""
    bits = _Bits(unit[1:])
    profile = bits.take(8)
    bits.take(16)
    identity = bits.exp()
    colour_planes = False
    if profile in _HIGH_PROFILES:
        chroma = bits.exp()
        colour_planes = chroma == _YUV444 and bits.take(1) == 1
        bits.exp()
        bits.exp()
        bits.take(1)
        if bits.take(1):
            for index in range(12 if chroma == _YUV444 else 8):
                if bits.take(1):
                    _skip_scaling(bits, 16 if index < 6 else 64)  # noqa: PLR2004 - 4x4 come first
    frame_num_bits = bits.exp() + 4
    _skip_order_count(bits)
    references = bits.exp()
    return identity, _Sequence(frame_num_bits, colour_planes, references, bits.take(1) == 1)


def _skip_scaling(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed_exp()) % 256
        last = following or last


def _skip_order_count(bits: _Bits) -> None:
    kind = bits.exp()
    if kind == 0:
        bits.exp()
    elif kind == 1:
        bits.take(1)
        bits.exp()
        bits.exp()
        for _ in range(bits.exp()):
            bits.exp()


class _Bits:
    """Reads the bits of a NAL unit, its escape bytes taken out."""

    def __init__(self, payload: bytes) -> None:
        raw = payload.replace(b"\0\0\3", b"\0\0")
        self._value = int.from_bytes(raw, "big")
        self._left = 8 * len(raw)

    def take(self, count: int) -> int:
        """Return the next bits as a number; IndexError where there are too few."""
        if count > self._left:
            raise IndexError
        self._left -= count
        return self._value >> self._left & ((1 << count) - 1)

    def exp(self) -> int:
        """Return the next Exp-Golomb number, ue(v)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def signed_exp(self) -> int:
        """Return the next signed Exp-Golomb number, se(v)."""
        number = self.exp()
        return (number + 1) // 2 if number % 2 else -(number // 2)
