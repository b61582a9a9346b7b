"""The files in a zip, listed and read in place: a member's place is where its own header begins."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO, Final

from mirror_pl.sources.members import Member

# Read by hand rather than by zipfile, which would read the whole directory of the zip for each image.


def list_zip(path: Path) -> list[Member]:
    """List the files in a zip, by its directory at the end.

    Raises:
        OSError: If the zip cannot be read, is damaged, or ends early.
    """
    try:
        with path.open("rb") as opened, zipfile.ZipFile(opened) as shard:
            return [
                Member(info.filename, info.header_offset, info.file_size, _problem(info))
                for info in shard.infolist()
                if not info.is_dir()
            ]
    except OSError:
        raise
    except Exception as error:  # zipfile raises many kinds on damage
        raise OSError(f"not a zip that can be read: {str(error) or type(error).__name__}") from error


def _problem(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & _ENCRYPTED:
        return "an encrypted member of the zip"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        name = _METHODS.get(info.compress_type, f"method {info.compress_type}")
        return f"a compression that is not read, {name}; stored and deflated members are"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "a symbolic link in the zip"
    return ""


_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000
"""Flags of a member: encrypted, strongly encrypted, and with its header masked."""
_DESCRIBED_LATER: Final = 0x8
"""Flag: the checksum is behind the member, not in its header."""
_METHODS: Final = {9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstd", 95: "xz", 99: "an encryption"}
_HEADER: Final = struct.Struct("<4s2xHH4xI8xHH")
"""Signature, flags, method, CRC-32, and the lengths of the name and of what else comes before the bytes."""
_BLOCK: Final = 2**18


def read_zip(path: Path, place: int, size: int) -> bytes:
    """Return the bytes of a member, checked by their CRC-32 where the zip has it beside them.

    Args:
        path: The zip.
        place: Where the member's header begins.
        size: Bytes that it is listed with; never more are made of it.

    Raises:
        OSError: If the zip cannot be read, has changed since it was listed, or the member is damaged.
    """
    with path.open("rb") as opened:
        opened.seek(place)
        header = opened.read(_HEADER.size)
        if len(header) < _HEADER.size or not header.startswith(b"PK\x03\x04"):
            raise OSError(f"{path.name} has no member at byte {place}: it is damaged, or has changed since it was listed")
        _, flags, method, crc, name_length, extra_length = _HEADER.unpack(header)
        if flags & _ENCRYPTED or method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise OSError(f"{path.name} has another member at byte {place} than its directory says")
        opened.seek(name_length + extra_length, os.SEEK_CUR)
        content, behind = _stored(opened, size) if method == zipfile.ZIP_STORED else _inflated(opened, size)
    if len(content) < size:
        raise OSError(f"{path.name} ends {size - len(content)} bytes before this image does")
    if flags & _DESCRIBED_LATER:
        if not behind.startswith(b"PK\x07\x08"):  # the mark is optional, and without it these may be any bytes
            return content
        crc = int.from_bytes(behind[4:8], "little")
    if zlib.crc32(content) != crc:
        raise OSError(f"{path.name} is damaged: this image's checksum is another than it was")
    return content


def _stored(opened: BinaryIO, size: int) -> tuple[bytes, bytes]:
    return opened.read(size), opened.read(8)


def _inflated(opened: BinaryIO, size: int) -> tuple[bytes, bytes]:
    """Return what a deflated member holds, and the first bytes behind it."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    pieces, left = [], size + 1  # one more, to see whether there is more than was listed
    try:
        while left and not inflater.eof:
            block = inflater.unconsumed_tail or opened.read(_BLOCK)
            if not block:
                break
            pieces.append(inflater.decompress(block, left))
            left -= len(pieces[-1])
    except zlib.error as error:
        raise OSError(f"damaged in the zip: {error}") from error
    if not left:
        raise OSError("damaged in the zip: it holds more bytes than the directory says")
    return b"".join(pieces), (inflater.unused_data + opened.read(8))[:8]
