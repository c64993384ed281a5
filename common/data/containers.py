"""How long a video file says that it is. Decoders take one that was cut off for a shorter video."""

from __future__ import annotations

import os
from typing import BinaryIO

BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def promised_bytes(path: str) -> int:
    """Return the length that the outermost parts of an MP4, MOV, Matroska, WebM or AVI file add up to.

    0 if the file is none of these or does not say, as recordings of live streams do not.
    """
    with open(path, "rb") as file:
        start = file.read(12)
        if start[4:8] in BOXES:
            return _end_of_boxes(file)
        if start[:4] == EBML:
            return _end_of_segment(file)
        if start[:4] == b"RIFF" and start[8:] == b"AVI ":
            return 8 + int.from_bytes(start[4:8], "little")
    return 0


def _end_of_boxes(file: BinaryIO) -> int:
    """ISO 14496-12: size (4 bytes), type (4). Size 1: the size follows in 8 bytes; size 0: up to the file's end."""
    end, length = 0, os.fstat(file.fileno()).st_size
    while end < length:
        file.seek(end)
        header = file.read(16)
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size < 8:
            return length
        end += size
    return end


def _end_of_segment(file: BinaryIO) -> int:
    """RFC 8794: the header, then one segment that holds everything."""
    file.seek(len(EBML))
    file.seek(_length(file) or 0, os.SEEK_CUR)
    if file.read(len(SEGMENT)) != SEGMENT:
        return 0
    length = _length(file)
    return 0 if length is None else file.tell() + length


def _length(file: BinaryIO) -> int | None:
    """A number of 1 to 8 bytes: as many as the first has leading zeros, plus one; None if all bits are set: unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    size = 9 - first[0].bit_length()
    rest = file.read(size - 1)
    value = int.from_bytes(bytes([first[0] & ((1 << (8 - size)) - 1)]) + rest, "big")
    return None if value == (1 << (7 * size)) - 1 else value
