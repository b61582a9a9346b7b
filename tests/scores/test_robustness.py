"""What perturbing comes to, against a plain statement of it, and whether its intervals hold what they promise."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from prediction_tables import table_of
from scipy.stats import binom
from sklearn.metrics import roc_auc_score

from mirror_pl.scores import Status, bootstrap
from mirror_pl.scores.robustness import FIGURES, score_conditions
from mirror_pl.scores.threshold import fit_threshold


def table(logit: np.ndarray, label: np.ndarray, subset: np.ndarray, bad: tuple[int, ...] = ()) -> pa.Table:
    statuses = np.full(len(logit), Status.OK)
    statuses[list(bad)] = Status.UNDECODABLE
    return table_of([("one", "two")[i] for i in subset], label, logit, statuses=statuses.tolist())


def drawn(seed: int, size: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    label, subset = generator.integers(0, 2, size), generator.integers(0, 2, size)
    clean = 3 * (label - 0.5) + generator.normal(size=size)
    return label, subset, clean, 0.5 * clean + generator.normal(size=size) - 0.3


def plain(label: np.ndarray, subset: np.ndarray, logit: np.ndarray, threshold: float = 0.0) -> dict[str, float]:
    """The same figures, one subset after the other."""
    rows = []
    for name in (0, 1):
        here = subset == name
        real, fake = here & (label == 0), here & (label == 1)
        real_acc, fake_acc = np.mean(logit[real] <= threshold), np.mean(logit[fake] > threshold)
        auc = roc_auc_score(label[here], logit[here])
        rows.append([(real_acc + fake_acc) / 2, auc, real_acc, fake_acc])
    return dict(zip(FIGURES, np.mean(rows, axis=0), strict=True))


def test_figures() -> None:
    label, subset, clean, other = drawn(0)
    third = clean + 5
    tables = [table(logit, label, subset, bad) for logit, bad in ((clean, (3,)), (other, ()), (third, (5,)))]
    kept = np.setdiff1d(np.arange(len(label)), [3, 5])
    label, subset, clean, other, third = (column[kept] for column in (label, subset, clean, other, third))
    found = score_conditions(
        tables[0], tables[1:], {"a": ["weak"], "out": ["strong"]}, outside=("out",), other_threshold=1.0, replicates=200
    )
    assert (found.reals, found.fakes, found.left_out) == (int((label == 0).sum()), int(label.sum()), 2)
    threshold = fit_threshold(label, clean.astype(np.float32)).logit
    assert found.clean_threshold == threshold
    for one, logit, family in zip(found.conditions, (clean, other, third), ("", "a", "out"), strict=True):
        logit = logit.astype(np.float32)
        expected = plain(label, subset, logit)
        assert one.family == family
        for name in FIGURES:
            assert one.figures[name].value == pytest.approx(expected[name], abs=1e-12), name
            assert one.figures[name].low <= expected[name] <= one.figures[name].high
            if family:
                gap = plain(label, subset, clean.astype(np.float32))[name] - expected[name]
                assert one.gap[name].value == pytest.approx(gap, abs=1e-12)
        assert one.at_clean_threshold == pytest.approx(plain(label, subset, logit, threshold)["bal_acc"], abs=1e-12)
        assert one.at_other_threshold == pytest.approx(plain(label, subset, logit, 1.0)["bal_acc"], abs=1e-12)
        if family:
            for number, name in enumerate(("real", "fake")):
                change = logit[label == number].astype(float) - clean.astype(np.float32)[label == number]
                shift = one.shift[name]
                assert (shift.mean, shift.median) == pytest.approx((change.mean(), np.median(change)), abs=1e-12)
                assert (shift.low, shift.high) == pytest.approx(np.quantile(change, [0.05, 0.95]), abs=1e-12)
                assert shift.turned == np.mean((logit > 0)[label == number] != (clean > 0)[label == number])
    weak = found.conditions[1]
    assert found.mean["bal_acc"].value == weak.figures["bal_acc"].value, "what is outside is in no mean"
    assert found.worst["bal_acc"] == "weak"
    assert found.mean_gap["bal_acc"].value == pytest.approx(weak.gap["bal_acc"].value, abs=1e-12)


def test_without_a_class_nothing_is_made_up() -> None:
    label, subset, clean, other = drawn(1)
    label = np.zeros_like(label)
    tables = [table(logit, label, subset) for logit in (clean, other)]
    found = score_conditions(tables[0], tables[1:], {"a": ["x"]}, replicates=20)
    assert found.conditions[1].figures["bal_acc"].value is None
    assert found.conditions[1].figures["real_acc"].value is not None
    assert found.clean_threshold is None
    assert found.mean["auc"].value is None
    assert found.worst["auc"] == ""
    assert list(found.conditions[1].shift) == ["real"]


def test_replicates_are_of_the_same_images() -> None:
    """A condition that changes nothing but the order of scores on one scale has the very replicates of the clean one."""
    label, subset, clean, other = drawn(2)
    first, second = table(clean, label, subset), table(other, label, subset)
    own = bootstrap(first, replicates=300)
    assert bootstrap(first, replicates=300, paired_with=first).mean["auc"].tolist() == own.mean["auc"].tolist()
    # Of a table with the opposite order, an image's draws stay with the image: its class and errors do too.
    reverse = table(-clean, label, subset)
    mirrored = bootstrap(reverse, replicates=300, paired_with=first)
    np.testing.assert_allclose(mirrored.mean["auc"], 1 - own.mean["auc"], atol=1e-12)
    np.testing.assert_allclose(mirrored.mean["bal_acc"], 1 - own.mean["bal_acc"], atol=1e-12)
    alone = bootstrap(second, replicates=2000).mean["bal_acc"] - bootstrap(first, replicates=2000, seed=9).mean["bal_acc"]
    paired = (
        bootstrap(second, replicates=2000, paired_with=first).mean["bal_acc"]
        - bootstrap(first, replicates=2000).mean["bal_acc"]
    )
    assert paired.std() < 0.95 * alone.std(), "what both have in common is no uncertainty of their difference"
    with pytest.raises(ValueError, match="the same rows"):
        bootstrap(first, paired_with=table(clean, label, subset, bad=(1,)))


@pytest.mark.parametrize("simulations", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_paired_intervals_hold_the_gap(simulations: int) -> None:
    """As often as they promise, but for the percentile interval's own shortfall with 200 images a class and subset."""
    label, subset, clean, other = drawn(1000, 400_000)
    truth = plain(label, subset, clean)["bal_acc"] - plain(label, subset, other)["bal_acc"]
    held = 0
    for seed in range(simulations):
        label, subset, clean, other = drawn(seed)
        tables = [table(logit, label, subset) for logit in (clean, other)]
        gap = score_conditions(tables[0], tables[1:], {"a": ["x"]}, replicates=400).conditions[1].gap["bal_acc"]
        held += gap.low <= truth <= gap.high
    # 95 % less 2 points of the percentile method; in all but one of a thousand runs it is above this.
    assert held >= binom.ppf(0.001, simulations, 0.93), held / simulations
    assert held <= binom.ppf(0.999, simulations, 0.97), held / simulations
