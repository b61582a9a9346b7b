"""An evaluation with a cache of crops, cold, warm and damaged, gives the predictions of one without, to the byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden_set import SMALL

from mirror_pl.config.command import compose
from mirror_pl.errors import ConfigError
from mirror_pl.jobs.eval import run


def evaluate(output: Path, *overrides: str) -> bytes:
    settings = ["benchmark=wildrf", f"data_root={SMALL.data_root}", f"checkpoint={SMALL.checkpoint}"]
    run(compose("eval", [f"output_dir={output}", "trainer.accelerator=cpu", "num_workers=0", *settings, *overrides]))
    return (output / "predictions.parquet").read_bytes()


def test_predictions_do_not_change_by_a_byte(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    off = evaluate(tmp_path / "off")
    assert evaluate(tmp_path / "cold", f"cache_dir={cache}") == off
    (segment,) = cache.rglob("*.crops")
    assert segment.stat().st_size == 21 * 224 * 224 * 3
    assert evaluate(tmp_path / "warm", f"cache_dir={cache}", "num_workers=2") == off
    assert list(cache.rglob("*.crops")) == [segment], "all were found"
    segment.write_bytes(bytes(segment.stat().st_size))
    assert evaluate(tmp_path / "damaged", f"cache_dir={cache}") == off


def test_a_limit_that_makes_no_sense(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cache_limit_gb must be more than 0, got 0"):
        evaluate(tmp_path / "x", f"cache_dir={tmp_path / 'cache'}", "cache_limit_gb=0")
    assert not (tmp_path / "cache").exists()
