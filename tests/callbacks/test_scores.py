"""Evaluation's own promises: every sample once, nothing replaced, any number of shares."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror_pl.callbacks.progress import ProgressLog
from mirror_pl.callbacks.scores import assemble
from mirror_pl.data.batch import Flaw, Sample, collate
from mirror_pl.data.sampler import ShareOfBatches
from mirror_pl.scores import Status
from mirror_pl.scores.parts import PartialScores

SIZES = st.integers(0, 200)
SMALL = st.integers(1, 9)


@given(SIZES, SMALL, SMALL, st.data())
def test_shares_hold_every_sample_once(size: int, ranks: int, batch_size: int, draw: st.DataObject) -> None:
    done = np.array(draw.draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool)
    shares = [ShareOfBatches(size, batch_size, ranks, rank, done) for rank in range(ranks)]
    assert all(len(share) >= 1 and len(share) == len(list(share)) for share in shares), "a rank always has a batch"
    batches = [batch for share in shares for batch in share if batch]
    whole = [list(range(start, min(start + batch_size, size))) for start in range(0, size, batch_size)]
    assert sorted(batches) == [batch for batch in whole if not done[batch].all()], "batches do not depend on the ranks"
    if not done.any():
        assert sorted(sample for batch in batches for sample in batch) == list(range(size))
    counts = [sum(map(bool, share)) for share in shares]
    assert max(counts) - min(counts) <= 1


def scores(
    ids: list[int], statuses: dict[int, Status] | None = None, reasons: dict[int, str] | None = None
) -> PartialScores:
    values = np.array(ids, np.float32)
    kinds = np.array([(statuses or {}).get(i, Status.OK) for i in ids], np.int8)
    values[kinds == Status.UNDECODABLE] = np.nan
    return PartialScores(np.array(ids, np.int64), kinds, values, values / 10, reasons or {})


def test_shares_are_put_in_the_indexs_order() -> None:
    first = scores([3, 0, 1], {1: Status.UNDECODABLE}, {1: "why"})
    predictions = assemble([first, scores([2], {2: Status.TRUNCATED}, {2: "short"})], 4)
    np.testing.assert_array_equal(predictions.logits, np.array([0, np.nan, 2, 3], np.float32))
    assert predictions.statuses.tolist() == [Status.OK, Status.UNDECODABLE, Status.TRUNCATED, Status.OK]
    assert predictions.flaws == [Flaw(1, Status.UNDECODABLE, "why"), Flaw(2, Status.TRUNCATED, "short")]


def test_a_sample_lost_or_doubled_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="of 3 samples 1 came back without a verdict and 0 more than once"):
        assemble([scores([0, 2])], 3)
    with pytest.raises(RuntimeError, match="0 came back without a verdict and 1 more than once"):
        assemble([scores([0, 1]), scores([1])], 2)


def test_a_score_that_is_not_finite_is_no_score() -> None:
    broken = scores([0, 1, 2], {1: Status.TRUNCATED}, {1: "short"})
    broken.logits[:2] = np.nan, np.inf
    predictions = assemble([broken], 3)
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
        datamodule = type("Data", (), {"left": 4000, "conditions": [None]})

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
