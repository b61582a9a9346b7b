"""The audit of confounds: what is planted is found, and what is not there is reported as rarely as it says."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from mirror_pl.scores.audit import ERROR_RATE, FEWEST, Audit, audit, balanced_accuracy_interval, separability

Features = dict[str, Any]


def files(generator: np.random.Generator, count: int) -> Features:
    """Properties as files of mixed origin have them, some of which follow from others."""
    width, height = generator.choice([256, 512, 768, 1024], count), generator.choice([256, 512, 768], count)
    format = generator.choice(["JPEG", "PNG", "WEBP"], count, p=[0.6, 0.3, 0.1])
    quality = np.where(format == "JPEG", generator.choice([75, 85, 90, 95], count), np.nan)
    return {
        "width": width,
        "height": height,
        "aspect_ratio": width / height,
        "file_size": (width * height * generator.lognormal(0, 0.5, count)).astype(int),
        "format": format.tolist(),
        "jpeg_tables": [f"tables of {value}" for value in quality],
        "jpeg_quality": quality,
        "exif": generator.random(count) < 0.2,
    }


def half_and_half(count: int) -> NDArray[np.int64]:
    return np.arange(count) % 2


def audited(features: Features, labels: NDArray[np.integer]) -> Audit:
    found = audit(features, labels)
    assert found is not None
    return found


def test_a_planted_format_is_found_and_named() -> None:
    """Fakes are PNG, and 1 in 20 of each class is the other way round."""
    generator = np.random.default_rng(0)
    labels = half_and_half(200)
    features = files(generator, 200)
    png = (labels == 1) ^ (generator.random(200) < 0.05)
    features |= {"format": np.where(png, "PNG", "JPEG").tolist(), "jpeg_tables": [""] * 200, "jpeg_quality": np.zeros(200)}
    found = audited(features, labels)
    assert found.together.is_confound
    assert found.together.low > 0.8
    assert next(iter(found.alone)) == "format"
    assert found.alone["format"].balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, png)), (
        "each fold's majority is the same: PNG is fake"
    )
    assert not found.alone["height"].is_confound
    assert (found.reals, found.fakes) == (100, 100)


def test_planted_sizes_are_found() -> None:
    """Fakes are square, as generators make them; reals are not always."""
    labels = half_and_half(200)
    features = files(np.random.default_rng(1), 200)
    features["width"] = np.where(labels == 1, 512, features["width"])
    features["height"] = np.where(labels == 1, 512, features["height"])
    features["aspect_ratio"] = features["width"] / features["height"]
    found = audited(features, labels)
    assert found.together.is_confound
    assert {"width", "height", "aspect_ratio"} >= set(itertools.islice(found.alone, 2))


def test_a_rare_class_counts_as_much() -> None:
    """To call everything fake is half right, however many fakes there are."""
    labels = (np.arange(400) % 10 > 0).astype(int)
    constant = separability({"exif": np.zeros(400)}, labels)
    assert constant.balanced_accuracy == 0.5
    assert constant.p_value == 1
    told = separability({"exif": labels == 0}, labels)
    assert told.balanced_accuracy == 1
    assert told.low < 0.96, "40 reals that are all right leave a doubt of a few percent"
    assert told.p_value < 1e-9


def test_the_interval_holds_what_it_says() -> None:
    """Of independent decisions, 95 in 100 intervals hold the true value."""
    generator = np.random.default_rng(3)
    labels = np.repeat([0, 1], [60, 150])
    held = []
    for _ in range(400):
        right = generator.random(210) < np.where(labels == 0, 0.9, 0.7)
        value, low, high = balanced_accuracy_interval(right, labels)
        assert value == pytest.approx(balanced_accuracy_score(labels, np.where(right, labels, 1 - labels)))
        held.append(low <= 0.8 <= high)
    low_end, high_end = stats.binom.ppf([0.005, 0.995], 400, 0.95)
    assert low_end <= sum(held) <= high_end


def test_too_few_images_say_nothing() -> None:
    labels = np.repeat([0, 1], [FEWEST - 1, 100])
    assert audit(files(np.random.default_rng(0), len(labels)), labels) is None


def test_the_same_seed_gives_the_same() -> None:
    labels = half_and_half(80)
    features = files(np.random.default_rng(0), 80)
    assert audit(features, labels, seed=4) == audit(features, labels, seed=4)
    assert separability(features, labels, seed=4) != separability(features, labels, seed=5)


def test_more_names_than_trees_can_hold() -> None:
    """Each image has tables of its own: they tell nothing of an unseen one, and are no error."""
    labels = half_and_half(600)
    found = separability({"jpeg_tables": [f"{number}" for number in range(600)]}, labels)
    assert not found.is_confound


def reported(sets: int, images: int) -> int:
    """Of sets whose labels were shuffled, those in which a confound is found."""
    count = 0
    for number in range(sets):
        generator = np.random.default_rng(number)
        features = files(generator, images)
        count += separability(features, generator.permutation(half_and_half(images)), seed=number).is_confound
    return count


def test_shuffled_labels_are_rarely_told() -> None:
    assert reported(12, 60) <= stats.binom.ppf(0.995, 12, ERROR_RATE)


@pytest.mark.slow
def test_shuffled_labels_are_told_no_more_often_than_stated() -> None:
    """Twice the median of dependent p-values is careful: far fewer are told, none of these when it was written."""
    assert reported(200, 400) <= stats.binom.ppf(0.995, 200, ERROR_RATE)


@pytest.mark.slow
def test_planted_confounds_are_not_missed() -> None:
    """Of 200 sets of 200 images, whose fakes are PNG four times in five and reals once, nine in ten are found."""
    found = 0
    for number in range(200):
        generator = np.random.default_rng(number)
        labels = half_and_half(200)
        png = (labels == 1) ^ (generator.random(200) < 0.2)
        features = files(generator, 200) | {"format": np.where(png, "PNG", "JPEG").tolist()}
        found += separability(features, labels, seed=number).is_confound
    assert found >= 180
