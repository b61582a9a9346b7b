"""Training reads images by URL as it reads those on this machine."""

from __future__ import annotations

import pytest

from mirror_pl.data.training_set import find_training_images
from mirror_pl.locate import miniature_dir
from mirror_pl.sources.place import path_of


def test_the_same_images() -> None:
    pytest.importorskip("upath", reason="mirror_pl[remote] is not installed")
    import fsspec

    memory, here = fsspec.filesystem("memory"), miniature_dir() / "test"
    for folder in ("reals", "shuffle"):
        memory.put(str(here / folder), f"/training/{folder}", recursive=True)
    try:
        there = path_of("memory://training")
        remote = find_training_images([there / "reals"], [there / "shuffle"])
        local = find_training_images([here / "reals"], [here / "shuffle"])
        assert remote.fingerprint() == local.fingerprint()
        assert len(remote) == 320
        for image in (0, 319):
            assert remote.source(image).read_bytes() == local.source(image).read_bytes()
    finally:
        memory.rm("/training", recursive=True)
