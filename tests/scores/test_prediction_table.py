"""The prediction table: its columns, and that it comes back as written."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mirror_pl.scores import SCHEMA, make_table, read_table, write_table
from mirror_pl.scores.table import Status


def test_round_trip(tmp_path: Path) -> None:
    table = make_table(
        ids=np.arange(3),
        paths=["a/0_real/1.png", os.fsdecode(b"a/1_fake/\xff.png"), "b/1_fake/上.png"],
        benchmark="x",
        subsets=["a", "empty", "b"],
        subset_ids=np.array([0, 0, 2]),
        labels=np.array([0, 1, 1]),
        statuses=np.array([Status.OK, Status.UNDECODABLE, Status.TRUNCATED]),
        logits=np.array([-1.5, np.nan, 2.5], np.float32),
        p_fake=np.array([0.25, np.nan, 0.75], np.float32),
    )
    write_table(table, tmp_path / "predictions.parquet")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["predictions.parquet"]
    again = read_table(tmp_path / "predictions.parquet")
    assert again.schema == SCHEMA
    assert again.to_pylist() == [
        {"id": 0, "path": "a/0_real/1.png", "benchmark": "x", "subset": "a", "label": 0, "status": "ok", "logit": -1.5, "p_fake": 0.25},
        {"id": 1, "path": "a/1_fake/\\xff.png", "benchmark": "x", "subset": "a", "label": 1, "status": "undecodable", "logit": None, "p_fake": None},
        {"id": 2, "path": "b/1_fake/上.png", "benchmark": "x", "subset": "b", "label": 1, "status": "truncated", "logit": 2.5, "p_fake": 0.75},
    ]  # fmt: skip
    # Readable without this project, too.
    assert pq.read_table(tmp_path / "predictions.parquet").column_names == SCHEMA.names
    assert again["logit"].type == pa.float32()
