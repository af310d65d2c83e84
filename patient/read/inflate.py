"""Deflated data (PS3.5 A.5) as a file that inflates no further than it is read, within limits."""

from __future__ import annotations

import os
import zlib
from typing import BinaryIO

from patient.errors import InputError

MIB = 1 << 20
ALWAYS = 64 * MIB
"""Bytes that anything may expand to: an image of air is almost nothing when it is compressed."""
RATIO = 100
"""Times its own size that a larger one may expand to. Images reach 2 to 10, contours as text 5."""
DEFLATE = 1032
"""Times its own size that deflate can expand to at all, as a picture of one number does."""
MOST = 4096 * MIB
_CHUNK = 64 * 1024


def most_expanded(compressed: int, ratio: int = RATIO) -> int:
    """Bytes that so many compressed ones may expand to."""
    return min(MOST, max(ALWAYS, ratio * compressed))


def refuse_expansion(expanded: int, compressed: int, name: str, ratio: int = RATIO) -> None:
    """Refuse to expand what would fill the memory.

    Args:
        expanded: bytes it would expand to, or has so far.
        compressed: bytes of its file.
        name: of the file.
        ratio: of large files; higher where what is held is mostly one number.

    Raises:
        InputError: more than `most_expanded`.
    """
    if expanded > (most := most_expanded(compressed, ratio)):
        raise InputError(
            f"Expands to more than {most // MIB} MiB from {compressed / MIB:.1f} MiB",
            where=name,
            why="It would fill the memory: damaged, or made to do so",
            remedy="Export it uncompressed",
        )


class Inflating:
    """A raw deflate stream, from where the file stands to its end, as a file that can be read and sought in.

    Raises InputError on reading where it expands beyond the limits, and zlib.error where it is damaged.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name, self._file = name, file
        self._compressed = os.fstat(file.fileno()).st_size
        self._decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
        self._inflated, self._at = bytearray(), 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes; fewer at the end, all that are left where `size` is negative."""
        end = self._at + size if size >= 0 else most_expanded(self._compressed) + 1
        while len(self._inflated) < end and self._more():
            pass
        part = bytes(self._inflated[self._at : end])
        self._at += len(part)
        return part

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place in the inflated bytes, counted from the start or from here."""
        self._at = offset if whence == os.SEEK_SET else self._at + offset
        return self._at

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def _more(self) -> bool:
        """Inflate a little further; whether there was anything."""
        if self._decompressor.eof:
            return False
        waiting = self._decompressor.unconsumed_tail or self._file.read(_CHUNK)
        part = self._decompressor.decompress(waiting, _CHUNK) if waiting else self._decompressor.flush()
        self._inflated += part
        refuse_expansion(len(self._inflated), self._compressed, self.name)
        return bool(part or waiting)
