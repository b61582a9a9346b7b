"""Scores on their way to the prediction table: files that only grow, one per process, which stay when the process ends.

A part begins with `MAGIC` and the key of the run that it belongs to. Then come frames: length and CRC-32 of a payload, and
the payload, a record batch in Arrow's stream format. A frame is written in one go and synchronised with the disk; what a
killed process or a full disk leaves is a frame that is cut short at the end of a file, and is passed over. Nobody writes to
a part that he has not begun himself.
"""

from __future__ import annotations

import os
import secrets
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mirror_pl.errors import DataError, OutputError
from mirror_pl.scores.table import Status
from mirror_pl.texts import storable

MAGIC: Final = b"mirror_pl part 1"
SUFFIX: Final = ".part"
_FRAME: Final = struct.Struct("<QI")
_SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("status", pa.int8(), nullable=False),
        pa.field("logit", pa.float32(), nullable=False),
        pa.field("p_fake", pa.float32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class PartialScores:
    """What became of some images of an index, in any order.

    Attributes:
        ids: ``(P,)`` int64.
        statuses: ``(P,)`` int8 of `Status`.
        logits: ``(P,)`` float32; NaN where there is none.
        p_fake: ``(P,)`` float32; likewise.
        reasons: Why an image was not read as it should have been, by its id; for those alone where there is a reason.
    """

    ids: NDArray[np.int64]
    statuses: NDArray[np.int8]
    logits: NDArray[np.float32]
    p_fake: NDArray[np.float32]
    reasons: dict[int, str]

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def none(cls) -> PartialScores:
        """Return the scores of no image."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int8), np.empty(0, np.float32), np.empty(0, np.float32), {})

    def once(self) -> PartialScores:
        """Return them with each image once, as it came first."""
        _, first = np.unique(self.ids, return_index=True)
        return self.at(np.sort(first))

    def at(self, places: NDArray[np.integer] | NDArray[np.bool_]) -> PartialScores:
        """Return those at some places."""
        ids = self.ids[places]
        reasons = self.reasons if len(ids) == len(self.ids) else {i: self.reasons[i] for i in ids if i in self.reasons}
        return PartialScores(ids, self.statuses[places], self.logits[places], self.p_fake[places], reasons)


def join(parts: list[PartialScores]) -> PartialScores:
    """Put scores one after the other."""
    if not parts:
        return PartialScores.none()
    return PartialScores(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.statuses for part in parts]),
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.p_fake for part in parts]),
        {i: reason for part in parts for i, reason in part.reasons.items()},
    )


class PartWriter:
    """A part of this process alone, made at the first `append`.

    Args:
        folder: Where the parts of the run are; made if it does not exist.
        key: 32 bytes that tell the run from others.
        rank: Of this process; part of the file's name.
    """

    def __init__(self, folder: Path, key: bytes, rank: int) -> None:
        self.path = folder / f"{rank:04d}-{secrets.token_hex(6)}{SUFFIX}"
        self._head = MAGIC + key
        self._file: FileIO | None = None

    def append(self, scores: PartialScores) -> None:
        """Add scores, and see that they are on the disk.

        Raises:
            OutputError: If they cannot be written. What was appended before stays.
        """
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = FileIO(self.path, "x")
                self._write(self._head)
            content = _encoded(scores)
            self._write(_FRAME.pack(len(content), zlib.crc32(content)) + content)
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written: {error.strerror or error}; scores until now are kept: make room, then go "
                "on with resume=true"
            ) from error

    def _write(self, content: bytes) -> None:
        assert self._file is not None
        rest = memoryview(content)
        while rest:  # a disk that fills up takes a part first, and says why at the next try
            rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def read_parts(folder: Path, key: bytes) -> PartialScores:
    """Read all that the parts of a run hold whole; each image once.

    Raises:
        DataError: If a part belongs to another run, or cannot be read.
    """
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        content = _content(path)
        head, frames = content[: len(MAGIC) + len(key)], memoryview(content)[len(MAGIC) + len(key) :]
        if len(head) < len(MAGIC) + len(key):  # its process was stopped before it came to a score
            continue
        if head != MAGIC + key:
            raise DataError(f"resume: {path} belongs to another run; give another output_dir=FOLDER")
        found += [_decoded(frame, path) for frame in _whole(frames)]
    return join(found).once()


def count_scored(folder: Path) -> int:
    """Return how many images the parts in a folder hold, whichever run they belong to; 0 where there are none.

    Raises:
        DataError: If a part cannot be read.
    """
    head = len(MAGIC) + 32
    return sum(
        len(_decoded(frame, path))
        for path in sorted(folder.glob(f"*{SUFFIX}"))
        for frame in _whole(memoryview(_content(path))[head:])
    )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"resume: {path} cannot be read: {error.strerror}") from error


def _whole(frames: memoryview) -> Iterator[memoryview]:
    """Yield the payloads up to the first that is cut short or damaged."""
    place = 0
    while place + _FRAME.size <= len(frames):
        size, checksum = _FRAME.unpack_from(frames, place)
        content = frames[place + _FRAME.size : place + _FRAME.size + size]
        if len(content) < size or zlib.crc32(content) != checksum:
            return
        yield content
        place += _FRAME.size + size


def _encoded(scores: PartialScores) -> bytes:
    reasons = [storable(scores.reasons.get(int(i), "")) for i in scores.ids]
    columns = [scores.ids, scores.statuses, scores.logits, scores.p_fake]
    arrays = [*map(pa.array, columns), pa.array(reasons, pa.string())]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, _SCHEMA) as stream:
        stream.write_batch(pa.record_batch(arrays, schema=_SCHEMA))
    return sink.getvalue().to_pybytes()


def _decoded(content: memoryview, path: Path) -> PartialScores:
    try:
        with pa.ipc.open_stream(content) as stream:
            if stream.schema != _SCHEMA:
                raise ValueError("its columns are others")
            if any(_is_compressed(message) for message in pa.ipc.MessageReader.open_stream(content)):
                raise ValueError("it is compressed")
            table = stream.read_all()
        table.validate(full=True)
        if any(column.null_count for column in table.columns):
            raise ValueError("a value is missing")
        ids, statuses, logits, p_fake = (table[name].to_numpy().copy() for name in _SCHEMA.names[:4])
        with_reason = {int(i): reason for i, reason in zip(ids, table["reason"].to_pylist(), strict=True) if reason}
        if ids.min(initial=0) < 0 or not set(statuses.tolist()) <= set(Status):
            raise ValueError("an id or a status is out of range")
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        MemoryError,
        struct.error,
    ) as error:  # with a true checksum: nobody's accident
        raise DataError(
            f"resume: {path} holds no scores, though its checksum is right ({' '.join(str(error).split())}); delete that "
            "file, and its images are scored anew"
        ) from error
    return PartialScores(ids, statuses, logits, p_fake, with_reason)


def _is_compressed(message: pa.ipc.Message) -> bool:
    """Whether a message is a record batch of which a few bytes could become gigabytes; pyarrow does not say.

    Its header is a flatbuffer: tables, before each of which an offset leads to the places of its fields.
    """
    head = message.metadata.to_pybytes()

    def field(table: int, number: int) -> int:
        places = table - struct.unpack_from("<i", head, table)[0]
        entry = 4 + 2 * number
        offset = (
            struct.unpack_from("<H", head, places + entry)[0] if entry < struct.unpack_from("<H", head, places)[0] else 0
        )
        return table + offset if offset else 0

    def pointed(place: int) -> int:
        return place + struct.unpack_from("<I", head, place)[0]

    return message.type == "record batch" and field(pointed(field(pointed(0), 2)), 3) != 0
