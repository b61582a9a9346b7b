"""Which images are found, under which label, and which of them are chosen."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from shard_files import FORMS, golden_pictures, in_folders, structs, write_parquet, write_zip

from mirror_pl.benchmarks import LabelTable
from mirror_pl.data.training_set import TrainingSet, find_training_images
from mirror_pl.errors import ConfigError, DataError


def write(root: Path, *names: str) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return root


def found(images: TrainingSet) -> list[tuple[str, int]]:
    return list(zip(images.paths, images.labels.tolist(), strict=True))


def test_folders_of_one_class(tmp_path: Path) -> None:
    """Everything below counts, in a fixed order, whatever the names of folders; each image knows its file."""
    write(tmp_path / "r", "b.png", "a.JPG", "fake/c.webp", "notes.txt")
    write(tmp_path / "s", "a.png")
    write(tmp_path / "f", "z.png", "1/y.png")
    images = find_training_images([tmp_path / "r", tmp_path / "s"], [tmp_path / "f"])
    expected = [("a.JPG", 0), ("b.png", 0), ("fake/c.webp", 0), ("a.png", 0), ("z.png", 1), ("1/y.png", 1)]
    assert found(images) == expected
    assert images.folder_ids.tolist() == [0, 0, 0, 1, 2, 2]
    assert [images.source(i).path.read_text() for i in range(6)] == [path for path, _ in expected]
    assert images.sizes.tolist() == [len(path) for path, _ in expected]
    assert images.mtimes[3] == (tmp_path / "s" / "a.png").stat().st_mtime_ns
    assert images.labels.dtype == np.int8
    assert images.passed_over.counts == {"suffix .txt": 1}


@pytest.mark.parametrize(("real", "fake"), [("0_real", "1_fake"), ("nature", "ai"), ("real", "fake"), ("Real", "AI")])
def test_labels_below_root(tmp_path: Path, real: str, fake: str) -> None:
    """By the innermost folder that says, at any depth; what none labels is counted."""
    write(tmp_path, f"{real}/a.png", f"x/y/{fake}/b/c.png", f"x/{fake}/{real}/d.png", "x/e.png")
    images = find_training_images(root=tmp_path)
    assert set(found(images)) == {(f"{real}/a.png", 0), (f"x/{fake}/{real}/d.png", 0), (f"x/y/{fake}/b/c.png", 1)}
    (reason,) = images.passed_over.counts
    assert reason.startswith("no folder 0_real")
    assert images.passed_over.examples[reason] == [str(tmp_path / "x/e.png")]


def test_genimage_trains_on_train_only(tmp_path: Path) -> None:
    names = [f"{g}/{split}/{c}/i.png" for g in ("sd14", "adm") for split in ("train", "val") for c in ("nature", "ai")]
    write(tmp_path, *names, "other/ai/i.png", "other/test/ai/i.png")
    shutil.rmtree(tmp_path / "adm" / "train")  # a generator with only its part for evaluation must not be trained on
    images = find_training_images(root=tmp_path)
    assert found(images) == [("sd14/train/nature/i.png", 0), ("other/ai/i.png", 1), ("sd14/train/ai/i.png", 1)]
    assert list(images.passed_over.counts.values()) == [5]


def test_val_is_taken_where_there_is_no_train(tmp_path: Path) -> None:
    write(tmp_path, "sd14/val/nature/i.png", "sd14/val/ai/i.png")
    (tmp_path / "sd14/train/ai").mkdir(parents=True)  # empty
    assert len(find_training_images(root=tmp_path)) == 2
    assert len(find_training_images(root=tmp_path / "sd14/val")) == 2


def test_caps_are_a_choice_by_seed(tmp_path: Path) -> None:
    """As many as asked for; others by another seed; the same where files appear in another order or go elsewhere."""
    r = write(tmp_path / "r", *(f"{i}.png" for i in range(200)))
    f = write(tmp_path / "f", *(f"{i}.png" for i in range(30)))

    def chosen(folder: Path = r, **settings: int) -> set[str]:
        images = find_training_images([folder], [f], max_per_class=50, **settings)
        assert images.labels.tolist() == [0] * 50 + [1] * 30
        assert images.paths[:50] == sorted(images.paths[:50])
        return set(images.paths[:50])

    first = chosen()
    assert chosen() == first
    assert 3 <= len(chosen(seed=1) & first) <= 25, "about a quarter in common"
    again = write(tmp_path / "again", *(f"{i}.png" for i in reversed(range(200))))
    assert chosen(again) == first
    gone = next(f"{i}.png" for i in range(200) if f"{i}.png" not in first)
    (r / gone).unlink()
    assert chosen() == first


def test_choice_is_fair(tmp_path: Path) -> None:
    r = write(tmp_path / "r", *(f"{i}.png" for i in range(20)))
    times = dict.fromkeys((f"{i}.png" for i in range(20)), 0)
    for seed in range(400):
        for path in find_training_images([r], labels=[0], max_per_class=5, seed=seed).paths:
            times[path] += 1
    assert all(abs(count - 100) < 5 * np.sqrt(400 * 0.25 * 0.75) for count in times.values())


def test_extra_reals(tmp_path: Path) -> None:
    """One for each fake, after those of the data; more than there are: each as often as another, but for one."""
    write(tmp_path / "r", "a.png", "b.png")
    f = write(tmp_path / "f", *(f"{i}.png" for i in range(12)))
    coco = write(tmp_path / "coco", *(f"{i:02}.png" for i in range(40)))

    def extras(**settings: float) -> list[str]:
        images = find_training_images([tmp_path / "r"], [f], extra_real=[coco], **settings)  # type: ignore[arg-type]
        fakes = min(12, int(settings.get("max_per_class", 12)))
        n = len(images) - fakes
        assert images.labels.tolist() == [0] * n + [1] * fakes
        assert images.paths[:2] == ["a.png", "b.png"]
        assert all(images.source(i).path.parent == coco for i in range(2, n))
        return images.paths[2:n]

    assert len(set(extras())) == 12
    assert extras() == extras()
    assert extras(seed=1) != extras()
    assert len(extras(max_per_class=5)) == 5
    assert len(extras(extra_reals_per_fake=0.5)) == 6
    many = extras(extra_reals_per_fake=5)
    assert sorted(np.unique(many, return_counts=True)[1].tolist()) == [1] * 20 + [2] * 20
    assert find_training_images((), [f], extra_real=[coco]).labels.tolist() == [0] * 12 + [1] * 12


def test_a_bank_takes_one_class(tmp_path: Path) -> None:
    root = write(tmp_path / "g", "train/nature/a.png", "train/ai/b.png")
    r = write(tmp_path / "r", "c.png")
    assert found(find_training_images([r], root=root, labels=[0])) == [("c.png", 0), ("train/nature/a.png", 0)]
    assert found(find_training_images([r], [tmp_path / "never"], labels=[0])) == [("c.png", 0)]
    assert found(find_training_images(root=root, labels=[1])) == [("train/ai/b.png", 1)]


def test_an_image_counts_once(tmp_path: Path) -> None:
    r = write(tmp_path / "r", "a.png", "in/b.png")
    (tmp_path / "link").symlink_to(r / "in")
    images = find_training_images([r, r / "in", tmp_path / "link", r], labels=[0])
    assert images.paths == ["a.png", "in/b.png"]
    with pytest.raises(DataError, match="not among the reals already"):
        find_training_images([r], [write(tmp_path / "f", "c.png")], extra_real=[tmp_path / "link"])


@pytest.mark.parametrize("how", ["the same", "inside", "link", "root", "extra"])
def test_the_same_image_under_both_labels(tmp_path: Path, how: str) -> None:
    r = write(tmp_path / "r", "a.png", "ai/b.png")
    f = write(tmp_path / "f", "c.png")
    (tmp_path / "link").symlink_to(r)
    with pytest.raises(DataError, match=r"\.png is both real, by .* and fake|is both fake, by .* and real") as raised:
        match how:
            case "the same":
                find_training_images([r], [r])
            case "inside":
                find_training_images([r], [r / "ai"])
            case "link":
                find_training_images([r], [tmp_path / "link"])
            case "root":
                find_training_images([r], root=r)
            case "extra":
                find_training_images([r], [f], extra_real=[f])
    assert "under one label only" in str(raised.value)


def test_what_is_missing(tmp_path: Path) -> None:
    r = write(tmp_path / "r", "a.png")
    empty = write(tmp_path / "empty", "notes.txt")
    bare = write(tmp_path / "bare", "x/a.png")
    cases = {
        "no folder to train on": lambda: find_training_images(),
        f"fake: {tmp_path}/no does not exist; .*data.fake=": lambda: find_training_images([r], [tmp_path / "no"]),
        "real: .*a.png is a file": lambda: find_training_images([r / "a.png"]),
        f"real: no image in {empty}": lambda: find_training_images([empty]),
        "root: no image to train on in .*nature and ai": lambda: find_training_images(root=bare),
        r"no fake image in .*fake=\[FOLDER\].*data.labels=\[0\]": lambda: find_training_images([r]),
        "no real image": lambda: find_training_images(fake=[r]),
    }
    for message, call in cases.items():
        with pytest.raises(DataError, match=message):
            call()
    for settings in ({"max_per_class": 0}, {"extra_reals_per_fake": 0}, {"labels": []}, {"labels": [2]}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            find_training_images([r], **settings)  # type: ignore[arg-type]


def test_fingerprint(tmp_path: Path) -> None:
    """Equal wherever the same data lies; another one for another path, size, label or choice."""
    for place in ("one", "two"):
        write(tmp_path / place / "r", "a.png", "b.png")
        write(tmp_path / place / "f", "c.png")

    def fingerprint(place: str = "one", **settings: int) -> str:
        base = tmp_path / place
        return find_training_images([base / "r"], [base / "f"], **settings).fingerprint()

    first = fingerprint()
    assert fingerprint("two") == first
    assert fingerprint(max_per_class=1) != first
    assert find_training_images([tmp_path / "one/f"], [tmp_path / "one/r"]).fingerprint() != first
    (tmp_path / "two/f/c.png").write_text("longer than before")
    assert fingerprint("two") != first


def test_listings_are_kept(tmp_path: Path) -> None:
    r = write(tmp_path / "r", "a.png")
    os.utime(r, ns=(0, 0))  # long ago: its listing can be trusted
    first = find_training_images([r], labels=[0], cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert find_training_images([r], labels=[0], cache=tmp_path / "cache").fingerprint() == first.fingerprint()


@pytest.mark.parametrize("form", FORMS)
def test_shards_hold_the_images_that_folders_do(tmp_path: Path, form: str) -> None:
    pictures = golden_pictures()
    FORMS[form](tmp_path, pictures)
    table = LabelTable(str(tmp_path / "labels.csv")) if form == "table" else None
    images = find_training_images(root=tmp_path, table=table)
    contents = [(int(images.labels[i]), images.source(i).read_bytes()) for i in range(len(images))]
    assert contents == [(label, content) for _, label, content in pictures]
    shards = [path for path in tmp_path.iterdir() if path.suffix.lower() in {".tar", ".zip", ".parquet"}]
    for shard in shards:
        alone = find_training_images(root=shard, table=table)
        assert found(alone) == found(images)
        assert alone.fingerprint() == images.fingerprint()
        assert alone.source(0) == images.source(0)
    assert len(find_training_images(root=tmp_path, table=table, max_per_class=3, seed=5)) == 6


def test_every_image_of_a_shard_of_one_class_counts(tmp_path: Path) -> None:
    pictures = golden_pictures()
    real = write_zip(tmp_path / "r/x.zip", in_folders(pictures))
    fake = write_parquet(tmp_path / "f.parquet", {"image": structs(pictures, paths=False), "label": [0] * len(pictures)})
    images = find_training_images([real], [fake])
    assert images.labels.tolist() == [0] * len(pictures) + [1] * len(pictures)
    assert images.shards == ("x.zip", "f.parquet")
    assert [images.source(i).read_bytes() for i in range(len(pictures), len(images))] == [p[2] for p in pictures]
    assert found(find_training_images([tmp_path / "r"], [fake])) == found(images)
    with pytest.raises(DataError, match=r"x\.zip.*is both real, by data\.real=.*x\.zip, and fake, by data\.fake="):
        find_training_images([real], [tmp_path / "r"])
    before = images.fingerprint()
    write_parquet(fake, {"image": structs([(*p[:2], p[2] + b"more") for p in pictures], paths=False)})
    assert find_training_images([real], [fake]).fingerprint() != before


def test_a_shard_beside_images_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "r/a.png", "root/0_real/a.png", "root/1_fake/b.png")
    for folder in ("r", "root/ai"):
        write_zip(tmp_path / folder / "x.zip", [("z.png", b"z")])
    images = find_training_images([tmp_path / "r"], root=tmp_path / "root")
    assert found(images) == [("a.png", 0), ("0_real/a.png", 0), ("1_fake/b.png", 1)]
    assert images.passed_over.counts == {"suffix .zip": 2}


def test_a_table_labels_what_is_below_the_root(tmp_path: Path) -> None:
    root = write(tmp_path / "root", "a.png", "1_fake/b.png", "1_fake/c.png", "d.png")
    (tmp_path / "t.csv").write_text("name,target\n1_fake/b,x\nc.png,y\nd.png,?\ne.png,x\n")
    images = find_training_images(root=root, table=LabelTable(str(tmp_path / "t.csv"), values={"x": 0, "y": 1}))
    assert found(images) == [("1_fake/b.png", 0), ("1_fake/c.png", 1)]
    assert images.passed_over.counts == {
        "no row in t.csv": 1,
        "a label that is not known: '?'": 1,
        "a row in t.csv but no image": 1,
    }


def test_what_cannot_be_read_of_a_shard_is_named(tmp_path: Path) -> None:
    write_zip(tmp_path / "r/x.zip", [("../a.png", b"a"), ("b.png", b"b")])
    (tmp_path / "r/y.zip").write_bytes(b"no zip")
    images = find_training_images([tmp_path / "r"], labels=[0])
    assert found(images) == [("x.zip/b.png", 0)]
    assert images.passed_over.examples == {
        "a name that leads out of the shard, by ..": [str(tmp_path / r"r/x.zip/\x2e\x2e/a.png")]
    }
    assert list(images.unreadable) == [str(tmp_path / "r/y.zip")]
