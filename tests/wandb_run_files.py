"""Runs that W&B keeps on this machine, read back from their files without W&B's server."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK_BYTES = 32768
HEADER_BYTES = 7


@dataclass
class RunFiles:
    """What a run's .wandb file holds, and the files beside it."""

    folder: Path
    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    stats: int = 0
    artifacts: list[str] = field(default_factory=list)
    exit_code: int | None = None

    def table(self, key: str) -> list[dict[str, Any]]:
        """The rows of a table that was logged under a key."""
        entry = next(row[key] for row in self.history if key in row)
        content = json.loads((self.folder / "files" / entry["path"]).read_text())
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


def read_run(folder: Path) -> RunFiles:
    """Read a run back as far as it is written."""
    (path,) = folder.glob("run-*.wandb")
    found = RunFiles(folder)
    for content in _records(path.read_bytes()):
        record = Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = record.run
            _update(found.config, record.run.config.update)
        elif kind == "config":
            _update(found.config, record.config.update)
        elif kind == "summary":
            _update(found.summary, record.summary.update)
        elif kind == "history":
            row: dict[str, Any] = {}
            _update(row, record.history.item)
            found.history.append(row)
            found.summary |= row
        elif kind == "stats":
            found.stats += 1
        elif kind == "artifact":
            found.artifacts.append(record.artifact.name)
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def _update(target: dict[str, Any], items: Any) -> None:
    for item in items:
        keys, inner = list(item.nested_key) or [item.key], target
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        inner[keys[-1]] = json.loads(item.value_json)


def _records(content: bytes) -> Iterator[bytes]:
    """Take apart the format, LevelDB's log: blocks of 32 KB with pieces of records, each with checksum, length and kind.

    W&B's helper process may be writing the file: a last piece that is not whole yet ends it.
    """
    assert content[:4] == b":W&B"
    position, pieces = HEADER_BYTES, []
    while position + HEADER_BYTES <= len(content):
        left = BLOCK_BYTES - position % BLOCK_BYTES
        if left < HEADER_BYTES:
            position += left
            continue
        checksum, length, kind = struct.unpack_from("<IHB", content, position)
        piece = content[position + HEADER_BYTES : position + HEADER_BYTES + length]
        position += HEADER_BYTES + length
        if position > len(content):
            return
        assert checksum == zlib.crc32(bytes([kind]) + piece)
        pieces.append(piece)
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield b"".join(pieces)
            pieces = []
