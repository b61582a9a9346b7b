"""Every benchmark in place: the official download and the published tree give one table."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from benchmark_trees import OFFICIAL, SERVED, Tree, published, table_of, write

from mirror_pl.benchmarks import BenchmarkIndex, Manifest, index_benchmark
from mirror_pl.config.build import build_manifest
from mirror_pl.config.command import compose
from mirror_pl.errors import DataError
from mirror_pl.images import IMAGE_SUFFIXES


@cache
def manifest_of(name: str) -> Manifest:
    return build_manifest(compose("eval", [f"benchmark={name}"]))


def index(name: str, root: Path, **kwargs: object) -> BenchmarkIndex:
    return index_benchmark(manifest_of(name), root, IMAGE_SUFFIXES, **kwargs)  # type: ignore[arg-type]


def rows_of(found: BenchmarkIndex) -> list[tuple[str, int, str]]:
    """(subset, label, picture) of each row; the picture is what the file holds."""
    ids, subsets = found.rows()
    return [
        (found.subsets[subset], int(found.labels[image]), found.source(image).read_bytes().decode())
        for image, subset in zip(ids, subsets, strict=True)
    ]


@pytest.mark.parametrize("name", OFFICIAL)
class TestContract:
    """What holds of every benchmark."""

    def test_the_official_download_is_read_in_place(self, name: str, tmp_path: Path) -> None:
        tree = OFFICIAL[name]()
        found = index(name, write(tmp_path, tree))
        assert Counter(rows_of(found)) == Counter(dict.fromkeys(table_of(name, tree), 1))
        assert not found.missing
        assert not found.passed_over.counts
        assert not found.unreadable
        assert len(found) == len([picture for picture in tree.values() if picture[0] != "never"]), "each file once"

    def test_the_published_tree_gives_the_same_table(self, name: str, tmp_path: Path) -> None:
        folder = manifest_of(name).layouts["published"].folders[0]
        rows = table_of(name, OFFICIAL[name]())
        found = index(name, write(tmp_path, published(name, folder)))
        if name == "rrdataset":  # pools its conditions
            assert found.subsets == ("ALL",)
            assert Counter(row[1:] for row in rows_of(found)) == Counter(row[1:] for row in rows)
        else:
            assert Counter(rows_of(found)) == Counter(dict.fromkeys(rows, 1))
        assert set(found.layouts.values()) == {"published"}

    def test_no_image_has_two_labels(self, name: str, tmp_path: Path) -> None:
        found = index(name, write(tmp_path, OFFICIAL[name]()))
        labels: dict[str, set[int]] = {}
        for image, label in zip(found.paths, found.labels, strict=True):
            labels.setdefault(image, set()).add(int(label))
        assert all(len(of_one) == 1 for of_one in labels.values())
        assert len(found.paths) == len(set(found.paths))

    def test_letter_case_does_not_matter(self, name: str, tmp_path: Path) -> None:
        tree = {path.swapcase(): picture for path, picture in OFFICIAL[name]().items()}
        assert Counter(rows_of(index(name, write(tmp_path, tree)))) == Counter(dict.fromkeys(table_of(name, tree), 1))

    def test_reports_are_in_the_manifests_order(self, name: str, tmp_path: Path) -> None:
        found = index(name, write(tmp_path, OFFICIAL[name]()))
        assert found.subsets == tuple(subset for subset in manifest_of(name).subsets if subset in found.subsets)

    def test_a_missing_folder_draws_the_expected_tree(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(DataError) as caught:
            index(name, tmp_path)
        message = str(caught.value)
        for layout in manifest_of(name).layouts.values():
            assert layout.draw(str(tmp_path)) in message
        assert "To get it: " in message


@pytest.mark.parametrize("name", SERVED)
def test_shared_reals_are_said_and_counted_once(name: str, tmp_path: Path) -> None:
    found = index(name, write(tmp_path, OFFICIAL[name]()))
    expected = {subset: f"shared:{group}" for group, served in SERVED[name].items() for subset in served}
    assert found.pairs == expected
    real = [path for path, label in zip(found.paths, found.labels, strict=True) if label == 0]
    assert len(real) == len(set(real))


@pytest.mark.parametrize("name", SERVED)
def test_the_published_code_pairs_nothing(name: str, tmp_path: Path) -> None:
    found = index(name, write(tmp_path, OFFICIAL[name]()), pair=False)
    assert not found.pairs
    single = {subset for group in SERVED[name].values() for subset in group}
    assert not [row for row in rows_of(found) if row[0] in single and row[1] == 0]


def test_users_reals_take_the_place_of_shared_ones(tmp_path: Path) -> None:
    write(tmp_path / "data", OFFICIAL["synthbuster"]())
    mine = write(
        tmp_path / "mine", {"deep/a.jpg": ("", 0, "mine a"), "b.jpg": ("", 0, "mine b"), "1_fake/c.jpg": ("", 1, "no")}
    )
    found = index("synthbuster", tmp_path / "data", reals=mine)
    assert {row for row in rows_of(found) if row[1] == 0} == {
        (subset, 0, picture) for subset in found.subsets for picture in ("mine a", "mine b")
    }
    assert set(found.pairs.values()) == {"shared:reals"}
    with pytest.raises(DataError, match=r"reals: .*nowhere does not exist"):
        index("synthbuster", tmp_path / "data", reals=tmp_path / "nowhere")
    for useless in (tmp_path / "empty", write(tmp_path / "fakes", {"1_fake/c.jpg": ("", 1, "no")})):
        useless.mkdir(exist_ok=True)
        with pytest.raises(DataError, match="reals: no image in"):
            index("synthbuster", tmp_path / "data", reals=useless)


def test_subsets_with_reals_of_their_own_are_not_paired(tmp_path: Path) -> None:
    tree = OFFICIAL["univfd"]()
    own = {"diffusion_datasets/guided/0_real/own.png": ("guided", 0, "own")}
    found = index("univfd", write(tmp_path, tree | own))
    assert "guided" not in found.pairs
    assert {row for row in rows_of(found) if row[0] == "guided" and row[1] == 0} == {("guided", 0, "own")}


def test_without_reals_there_are_none(tmp_path: Path) -> None:
    found = index("evalgen", write(tmp_path, OFFICIAL["evalgen"]()))
    assert {row[1] for row in rows_of(found)} == {1}


def test_drcts_reals_are_a_row_of_the_published_report_only(tmp_path: Path) -> None:
    tree: Tree = {"drct/real/0_real/a.png": ("real", 0, "a"), "drct/LDM/1_fake/b.png": ("LDM", 1, "b")}
    write(tmp_path, tree)
    assert rows_of(index("drct2m", tmp_path)) == [("LDM", 1, "b"), ("LDM", 0, "a")]
    assert rows_of(index("drct2m", tmp_path, pair=False)) == [("real", 0, "a"), ("LDM", 1, "b")]


@pytest.mark.parametrize("glide", ["glide", "Glide"])
@pytest.mark.parametrize("biggan", ["BigGAN", "biggan2"])
@pytest.mark.parametrize("between", ["", "imagenet_x/"])
def test_genimage_as_people_have_it(tmp_path: Path, glide: str, biggan: str, between: str) -> None:
    tree = {
        f"GenImage/{folder}/{between}{split}/{name}/x.png": (subset, label, f"{subset} {label} {split}")
        for subset, folder in (("Glide", glide), ("biggan2", biggan))
        for split in ("train", "val")
        for name, label in (("nature", 0), ("ai", 1))
    }
    found = index("genimage", write(tmp_path, tree))
    assert sorted(rows_of(found)) == sorted({picture for picture in tree.values() if picture[2].endswith("val")})
    assert len(found.missing) == 6
    assert found.missing["ADM"] == f"no folder ADM in {tmp_path / 'GenImage'}"


def test_a_tree_of_both_layouts(tmp_path: Path) -> None:
    tree: Tree = {
        "Genimage/Midjourney/0_real/a.png": ("Midjourney", 0, "a"),
        "Genimage/Midjourney/1_fake/b.png": ("Midjourney", 1, "b"),
        "Genimage/ADM/imagenet_ai_0508_adm/val/ai/c.png": ("ADM", 1, "c"),
    }
    found = index("genimage", write(tmp_path, tree))
    assert set(rows_of(found)) == set(tree.values())
    assert found.layouts == {"Midjourney": "published", "ADM": "official"}


def test_stray_images_of_a_labelled_subset_are_no_fakes(tmp_path: Path) -> None:
    tree: Tree = {"synthbuster/dalle2/0_real/a.png": ("", 0, "a"), "synthbuster/dalle2/stray.png": ("", 1, "stray")}
    found = index("synthbuster", write(tmp_path, tree))
    assert rows_of(found) == [("dalle2", 0, "a")]
    assert found.passed_over.counts == {"no folder 0_real or 1_fake above": 1}


@pytest.mark.parametrize(("real", "fake"), [("0_real", "1_fake"), ("nature", "ai"), ("REAL", "fake")])
def test_any_folder_will_do(tmp_path: Path, real: str, fake: str) -> None:
    tree: Tree = {f"x/{real}/a.png": ("ALL", 0, "a"), f"y/{fake}/z/b.png": ("ALL", 1, "b")}
    assert set(rows_of(index("folder", write(tmp_path, tree)))) == set(tree.values())
