"""What a video file says about itself, without a decoder, which takes one that was cut off for a shorter video."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
TS_PACKET, M2TS_PACKET, TS_SYNC = 188, 192, 0x47
WHOLE = 0.99
"""A file with less of the bytes that its container promises is cut off."""
MAX_MOOV = 1 << 26  # of many hours; a larger one is no index but damage


@dataclass(frozen=True, slots=True)
class Outline:
    """What the outermost parts of a file say."""

    promised_bytes: int = 0
    """The length that they add up to; 0 if they do not say, as recordings of live streams do not."""
    picture: bytes = b""
    """Of MP4 and MOV files, all that tells the size of the pictures and which way up they are, for comparison only."""
    hole_at: int | None = None
    """Where nothing stands that could follow, as after a download with gaps."""
    transport_stream: bool = False

    def require_whole(self, length: int) -> None:
        """Raise ValueError if a file of `length` bytes is cut off."""
        if length < WHOLE * self.promised_bytes:
            raise ValueError(f"the file is cut off: {length} of {self.promised_bytes} bytes are there")

    def require_readable(self) -> None:
        """Raise ValueError if a decoder would take this file for something else than it is."""
        if self.hole_at is not None:
            raise ValueError(f"the file is damaged at byte {self.hole_at}")
        if self.transport_stream:
            raise ValueError(
                "frames of an MPEG transport stream cannot be counted: repackage it (ffmpeg -i FILE -c copy FILE.mp4)"
            )


def outline(path: str) -> Outline:
    """Return what an MP4, MOV, Matroska, WebM, AVI or MPEG-TS file says; of others, nothing.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(M2TS_PACKET + 5)
        if start[4:8] in BOXES:
            return _of_boxes(file)
        if start[:4] == EBML:
            return _of_segment(file)
        if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
            return Outline(8 + int.from_bytes(start[4:8], "little"))
        for first, length in ((0, TS_PACKET), (4, M2TS_PACKET)):
            if len(start) > first + length and start[first] == start[first + length] == TS_SYNC:
                return Outline(transport_stream=True)
    return Outline()


def _of_boxes(file: BinaryIO) -> Outline:
    """ISO 14496-12: size (4 bytes), type (4). Size 1: the size follows in 8 bytes; size 0: up to the file's end."""
    end, length, picture = 0, os.fstat(file.fileno()).st_size, b""
    while end < length:
        file.seek(end)
        header = file.read(16)
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size < 8:
            return Outline(length, picture)
        if header[4:8] == b"moov" and size <= MAX_MOOV:
            file.seek(end + 8)
            picture = _picture(file.read(size - 8))
        end += size
    return Outline(end, picture)


def _picture(moov: bytes) -> bytes:
    """Return the matrices of the film and its video tracks, with their sizes and sample descriptions.

    A sample description holds the size and, for most codecs, the decoder's parameters. Without its `btrt` box, the bit
    rate, it is the same for all clips that one camera or program wrote with the same settings.
    """
    found = [body[-64:-28] for body in _children(moov, b"mvhd")]
    for track in _children(moov, b"trak"):
        for media in _children(track, b"mdia"):
            if any(body[8:12] == b"vide" for body in _children(media, b"hdlr")):
                found += [body[-44:] for body in _children(track, b"tkhd")]
                for table in _children(media, b"minf"):
                    found += [body for part in _children(table, b"stbl") for body in _children(part, b"stsd")]
    picture = b"".join(found)
    rate = picture.find(b"btrt")
    return picture if rate < 0 else picture[:rate] + picture[rate + 16 :]


def _children(box: bytes, wanted: bytes) -> Iterator[bytes]:
    place = 0
    while place + 8 <= len(box):
        size = int.from_bytes(box[place : place + 4], "big")
        if size < 8:
            return
        if box[place + 4 : place + 8] == wanted:
            yield box[place + 8 : place + size]
        place += size


def _of_segment(file: BinaryIO) -> Outline:
    """RFC 8794 and 9559: the header, then one segment that holds everything: elements of an identity and a length."""
    file.seek(len(EBML))
    file.seek(_length(file) or 0, os.SEEK_CUR)
    if file.read(len(SEGMENT)) != SEGMENT:
        return Outline()
    length = _length(file)
    if length is None:
        return Outline()
    place = file.tell()
    promised, there = place + length, os.fstat(file.fileno()).st_size
    while place < min(promised, there):
        file.seek(place)
        first = file.read(1)[0]
        if first < 0x10:  # identities have 1 to 4 bytes, as many as the first has leading zeros, plus one
            return Outline(promised, hole_at=place)
        file.seek(place + 9 - first.bit_length())
        size = _length(file)
        if size is None:  # a cluster of a live stream: where it ends shows only inside
            break
        place = file.tell() + size
    return Outline(promised)


def _length(file: BinaryIO) -> int | None:
    """A number of 1 to 8 bytes: as many as the first has leading zeros, plus one; None if all bits are set: unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    size = 9 - first[0].bit_length()
    rest = file.read(size - 1)
    value = int.from_bytes(bytes([first[0] & ((1 << (8 - size)) - 1)]) + rest, "big")
    return None if value == (1 << (7 * size)) - 1 else value
