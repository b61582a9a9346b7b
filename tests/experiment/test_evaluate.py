"""Evaluation's own promises: every sample once, nothing replaced, any number of shares."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror_pl.errors import DataError
from mirror_pl.experiment.batch import Flaw, Sample, collate
from mirror_pl.experiment.benchmark_data_module import ShareSampler
from mirror_pl.experiment.evaluate import _assemble, _Share
from mirror_pl.experiment.progress import ProgressLog
from mirror_pl.scores import Status


@given(st.integers(0, 60), st.integers(1, 9))
def test_shares_hold_every_sample_once(size: int, ranks: int) -> None:
    shares = [ShareSampler(size, ranks, rank) for rank in range(ranks)]
    assert sorted(sample for share in shares for sample in share) == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def share(ids: list[int], flaws: list[Flaw]) -> _Share:
    values = np.array(ids, np.float32)
    return _Share("x", np.array(ids, np.int64), values, values / 10, flaws)


def test_shares_are_put_in_the_indexs_order() -> None:
    bad, short = Flaw(1, Status.UNDECODABLE, "why"), Flaw(2, Status.TRUNCATED, "short")
    predictions = _assemble([share([3, 0], [bad]), share([2], [short])], 4)
    np.testing.assert_array_equal(predictions.logits, np.array([0, np.nan, 2, 3], np.float32))
    assert predictions.statuses.tolist() == [Status.OK, Status.UNDECODABLE, Status.TRUNCATED, Status.OK]
    assert predictions.flaws == [bad, short]


def test_a_sample_lost_or_doubled_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="of 3 samples 1 came back without a verdict and 0 more than once"):
        _assemble([share([0, 2], [])], 3)
    with pytest.raises(RuntimeError, match="0 came back without a verdict and 1 more than once"):
        _assemble([share([0, 1], []), share([1], [])], 2)


def test_processes_that_see_different_files_are_refused() -> None:
    other = share([1], [])
    other.fingerprint = "y"
    with pytest.raises(DataError, match="different files"):
        _assemble([share([0], []), other], 2)


def test_a_score_that_is_not_finite_is_no_score() -> None:
    broken = share([0, 1, 2], [Flaw(1, Status.TRUNCATED, "short")])
    broken.logits[:2] = np.nan, np.inf
    predictions = _assemble([broken], 3)
    assert predictions.statuses.tolist() == [Status.NON_FINITE, Status.NON_FINITE, Status.OK]
    assert [(flaw.id, flaw.reason) for flaw in predictions.flaws if flaw.status is Status.NON_FINITE] == [
        (0, "the detector's logit is nan"),
        (1, "the detector's logit is inf"),
    ]


def test_a_batch_may_be_empty() -> None:
    batch = collate([Sample(4, 0, 0, Status.UNDECODABLE, None, "why")])
    assert len(batch.ids) == len(batch.pixels) == 0
    assert batch.flaws == [Flaw(4, Status.UNDECODABLE, "why")]


def test_progress_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    class Trainer:
        world_size, is_global_zero = 1, True
        datamodule = type("Data", (), {"index": range(4000)})

    log = ProgressLog(every_s=0)
    log.on_test_start(Trainer(), None)
    batch = collate(
        [Sample(0, 0, 0, Status.OK, np.zeros((2, 2, 3), np.uint8), ""), Sample(1, 0, 0, Status.UNDECODABLE, None, "x")]
    )
    log.on_test_batch_end(Trainer(), None, None, batch, 0)
    assert re.match(r"2/4,000 images, \d+\.\d images/s, .* left$", capsys.readouterr().out)
    quiet = ProgressLog(every_s=1000)
    quiet.on_test_start(Trainer(), None)
    quiet.on_test_batch_end(Trainer(), None, None, batch, 0)
    assert capsys.readouterr().out == ""
