"""Decoding in other processes: in order, each once, and past pictures that hang or crash."""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mirror_pl.errors import LostProcessError
from mirror_pl.images import Limits, PreprocessSpec
from mirror_pl.images.pictures import PreparedPicture
from mirror_pl.prediction.decoding import prepared
from mirror_pl.prediction.inputs import Item
from mirror_pl.prediction.pictures import prepare_item

SPEC = PreprocessSpec()


def items(*names: str) -> Iterator[Item]:
    return map(Item.of_file, names)


def play(item: Item) -> PreparedPicture:
    """Do to a decoding process what a file's name says."""
    if item.suffix == ".hang":
        time.sleep(60)
    if item.suffix == ".crash":
        faulthandler.disable()
        os.kill(os.getpid(), signal.SIGSEGV)
    if item.suffix == ".exit":
        os._exit(7)
    if item.suffix == ".killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if item.suffix == ".slow":
        time.sleep(0.05)
    return PreparedPicture(np.full((1, 224, 224, 3), 7, np.uint8), reason=item.path)


def children() -> list[int]:
    return [int(p) for p in Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()]


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_each_once_and_in_order(workers: int) -> None:
    names = [f"{number}.{'slow' if number % 7 == 0 else 'png'}" for number in range(100)]
    with prepared(items(*names), play, 8, workers, 5) as pictures:
        found = [(item.path, picture.reason) for item, picture in pictures]
    assert found == [(name, name) for name in names]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_picture_costs_itself_only(workers: int) -> None:
    names = ["0.png", "1.hang", "2.png", "3.crash", "4.crash", "5.exit", "6.png", "7.hang", "8.png"]
    started = time.monotonic()
    with prepared(items(*names), play, 0.6, workers, 4) as pictures:
        found = [(item.path, picture.reason, picture.status) for item, picture in pictures]
    assert time.monotonic() - started < 15
    assert [path for path, _, _ in found] == names
    assert [status for _, _, status in found] == [
        "ok",
        *["undecodable"] * 1,
        "ok",
        *["undecodable"] * 3,
        "ok",
        "undecodable",
        "ok",
    ]
    reasons = {path: reason for path, reason, _ in found}
    assert reasons["1.hang"] == "given up after timeout_s=0.6 of decoding"
    assert reasons["3.crash"] == "the process that decoded it was ended by SIGSEGV"
    assert reasons["5.exit"] == "the process that decoded it ended with exit code 7"


def test_a_process_that_the_system_ends_is_an_error() -> None:
    with (
        pytest.raises(LostProcessError, match=r"was ended by SIGKILL at 2\.killed; .*memory"),
        prepared(items("0.png", "1.png", "2.killed", "3.png"), play, 8, 2, 4) as pictures,
    ):
        list(pictures)


@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_processes_that_are_no_copies(start: str) -> None:
    """As in an actor of Ray, whose threads a copy would not have."""
    Image.new("RGB", (20, 10)).save("a.png")
    prepare = partial(prepare_item, spec=SPEC, crops="center", limits=Limits())
    with prepared(items("a.png", "no.png"), prepare, 8, 1, 4, start) as pictures:
        found = [(picture.status, picture.size) for _, picture in pictures]
    assert found == [("ok", (20, 10)), ("undecodable", None)]


def test_nobody_is_left_behind() -> None:
    before = children()
    endless = (Item.of_file(f"{number}.png") for number in count())
    with prepared(endless, play, 8, 3, 4) as pictures:
        assert len(list(islice(pictures, 10))) == 10
        assert len(children()) == len(before) + 3
    assert children() == before


def test_taken_ahead_within_bounds() -> None:
    taken = 0

    def counted() -> Iterator[Item]:
        nonlocal taken
        for taken in range(1, 1000):
            yield Item.of_file(f"{taken}.png")

    with prepared(counted(), play, 8, 2, 5) as pictures:
        next(pictures)
        time.sleep(0.5)
        assert taken <= 1 + 2 * 5


def test_an_error_of_the_items_comes_through() -> None:
    def failing() -> Iterator[Item]:
        yield Item.of_file("a.png")
        raise OSError("the list is gone")

    with prepared(failing(), play, 8, 2, 5) as pictures, pytest.raises(OSError, match="the list is gone"):
        list(pictures)


def test_a_process_that_is_ended_at_any_moment_is_an_error() -> None:
    before = children()
    for moment in range(10):
        endless = (Item.of_file(f"{number}.png") for number in count())
        with (
            prepared(endless, play, 8, 2, 8) as pictures,
            pytest.raises(LostProcessError, match="SIGKILL at"),
        ):
            next(pictures)
            victim = [pid for pid in children() if pid not in before][moment % 2]
            threading.Timer(moment / 200, os.kill, (victim, signal.SIGKILL)).start()
            list(pictures)
    assert children() == before


def test_limits() -> None:
    Image.new("RGB", (1000, 1100)).save("large.png")
    Image.new("RGB", (1000, 900)).save("small.png")
    limits = Limits(max_megapixels=1)
    limit = Image.MAX_IMAGE_PIXELS
    large, small, folder, missing, nul = (
        prepare_item(Item.of_file(name), SPEC, "center", limits)
        for name in ("large.png", "small.png", ".", "no.png", "a\0b")
    )
    assert large.status == "undecodable"
    assert large.reason.startswith("DecompressionBombError: Image size (1100000 pixels) exceeds limit of 1000000")
    assert small.status == "ok"
    assert small.size == (1000, 900)
    assert folder.reason == "a folder, not a file"
    assert missing.reason == "FileNotFoundError: No such file or directory"
    assert "null" in nul.reason
    with open("sparse.jpg", "wb") as file:
        file.truncate(10**12)
    assert "1,000,000,000,000 bytes" in prepare_item(Item.of_file("sparse.jpg"), SPEC, "center", limits).reason
    assert limit == Image.MAX_IMAGE_PIXELS
