"""The golden pictures in every kind of file that pictures may lie in, written by the libraries that others write them with."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from benchmark_trees import write_shard
from golden_set import SMALL

Pictures = list[tuple[str, int, bytes]]
"""Name, label and bytes of each; reals first, then fakes, each by name."""


def golden_pictures() -> Pictures:
    files = sorted(path for path in SMALL.data_root.rglob("*") if path.is_file())
    labelled = [(int(path.parent.name == "1_fake"), path) for path in files]
    found = [(f"{i:03}{path.suffix}", label, path.read_bytes()) for i, (label, path) in enumerate(labelled)]
    return sorted(found, key=lambda picture: picture[1])


def in_folders(pictures: Pictures) -> list[tuple[str, bytes]]:
    return [(f"{('0_real', '1_fake')[label]}/{name}", content) for name, label, content in pictures]


def write_files(root: Path, members: Iterable[tuple[str, bytes]]) -> None:
    for name, content in members:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def write_zip(file: Path, members: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w", method) as shard:
        for name, content in members:
            shard.writestr(name, content)
    return file


def write_csv(file: Path, pictures: Pictures, header: str = "path,label") -> Path:
    file.write_text("\n".join([header, *(f"{name},{label}" for name, label, _ in pictures)]), encoding="utf-8")
    return file


def write_parquet(file: Path, columns: dict[str, Any], class_names: list[str] | None = None, rows: int = 4) -> Path:
    """Write a table in several row groups; `class_names` are those of a ClassLabel called label."""
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if class_names is not None:
        features = {"label": {"names": class_names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, file, row_group_size=rows)
    return file


def structs(pictures: Pictures, paths: bool) -> pa.Array:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": content, "path": name if paths else None} for name, _, content in pictures], kind)


def labels(pictures: Pictures) -> list[int]:
    return [label for _, label, _ in pictures]


def _flat(pictures: Pictures) -> list[tuple[str, bytes]]:
    return [(name, content) for name, _, content in pictures]


FORMS: dict[str, Callable[[Path, Pictures], object]] = {
    "files": lambda root, p: write_files(root, in_folders(p)),
    "tar": lambda root, p: write_shard(root / "a.tar", in_folders(p)),
    "stored": lambda root, p: write_zip(root / "a.zip", in_folders(p), zipfile.ZIP_STORED),
    "deflated": lambda root, p: write_zip(root / "A.ZIP", in_folders(p)),
    "table": lambda root, p: (write_zip(root / "a.zip", _flat(p)), write_csv(root / "labels.csv", p)),
    "struct": lambda root, p: write_parquet(
        root / "a.parquet", {"image": structs(p, paths=True), "label": [1 - label for label in labels(p)]}, ["fake", "Real"]
    ),
    "no_path": lambda root, p: write_parquet(root / "a.parquet", {"image": structs(p, paths=False), "label": labels(p)}),
    "binary": lambda root, p: write_parquet(
        root / "a.parquet",
        {"id": [n for n, _, _ in p], "jpg": [c for _, _, c in p], "IS_FAKE": [bool(i) for i in labels(p)]},
    ),
}
"""Ways to lay pictures down below a folder; `settings_of` are an evaluation's."""


def settings_of(form: str, root: Path) -> list[str]:
    return [f"data_root={root}", *([f"labels={root / 'labels.csv'}"] if form == "table" else [])]
