"""Features of a training set kept on disk, where every epoch sees the same pixels: computed once, by a frozen backbone.

A cache belongs to one identity: the images, how they are cropped, the backbone's weights, and what the features were
computed with. It lies in a folder named for it, which appears as a whole or not at all; no other identity ever reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import features as pillow_features
from torch import Tensor
from torch.utils.data import Dataset

from mirror_pl.data.batch import Batch, Flaw
from mirror_pl.data.training_set import TrainingSet
from mirror_pl.detectors.detector_config import DetectorConfig
from mirror_pl.errors import DataError, OutputError, name_list
from mirror_pl.files import read_json, whole_folder
from mirror_pl.images import AugmentSpec
from mirror_pl.provenance import versions
from mirror_pl.scores import Status

FORMAT: Final = "1"
"""To be raised when the same settings give other features, or the files change."""
TOKENS_FILE, RECORD_FILE = "tokens.npy", "features.json"


class FeatureShape(NamedTuple):
    """How many features there are.

    Attributes:
        images: S.
        tokens: N an image.
        width: D a token.
    """

    images: int
    tokens: int
    width: int

    @classmethod
    def of(cls, config: DetectorConfig, images: int) -> FeatureShape:
        """Return the shape of the features that a detector's bank is given."""
        backbone = config.backbone
        registers = 0 if config.drop_registers else backbone.registers
        return cls(images, registers + (config.preprocess.crop_px // backbone.patch_px) ** 2, backbone.width)

    @property
    def bytes(self) -> int:
        """Bytes that they take in float32."""
        return self.images * self.tokens * self.width * 4

    def __str__(self) -> str:
        size = f"{self.bytes / 1e9:,.1f} GB" if self.bytes >= 1e9 else f"{self.bytes / 1e6:,.1f} MB"
        return f"{self.images:,} images x {self.tokens} tokens x {self.width} x 4 bytes = {size}"


class FeatureCache:
    """The kept features of a training set; open for reading. May be forked and pickled.

    Args:
        folder: As `make_features` left it.

    Attributes:
        shape: How many there are.
        flaws: Images without features, as they could not be read, by id.

    Raises:
        DataError: If a file is missing, cut short, or not what it should be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            record = read_json(folder / RECORD_FILE)
            self.shape = FeatureShape(*(int(length) for length in record["shape"]))
            self.flaws = {flaw[0]: Flaw(flaw[0], Status(flaw[1]), flaw[2]) for flaw in record["flaws"]}
            self._mapped = self._map()
        except Exception as error:  # NumPy's header is Python's literals, which can be wrong in many ways
            raise DataError(
                f"phase.feature_cache: {folder} is damaged ({error}); delete that folder, and its features are computed anew"
            ) from error

    def tokens(self, image: int) -> NDArray[np.float32]:
        """Return a copy of an image's tokens, ``(N, D)`` float32, by its id; zeros for one among `flaws`."""
        return np.array(self._mapped[image])

    def _map(self) -> NDArray[np.float32]:
        path = self.folder / TOKENS_FILE
        mapped = np.load(path, mmap_mode="r")  # refuses a file that is shorter than its header says
        if mapped.shape != self.shape or mapped.dtype != np.float32:
            raise ValueError(f"{TOKENS_FILE} holds {mapped.dtype} {mapped.shape}, expected float32 {tuple(self.shape)}")
        if (extra := path.stat().st_size - mapped.offset - mapped.nbytes) != 0:
            raise ValueError(f"{TOKENS_FILE} has {extra} bytes too many")
        return mapped

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_mapped"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._mapped = self._map()  # pickled, a mapped array would be the whole file


def features_folder(
    parent: Path, training_set: TrainingSet, spec: AugmentSpec, config: DetectorConfig, weights: str, precision: str
) -> Path:
    """Return the folder for the features of this identity, ``parent/features-<hash>``.

    Every image is asked for its size and the time of its last change, now: listings may be kept from before.

    Args:
        parent: Folder of the caches.
        training_set: The images.
        spec: How they are cropped; must be fixed.
        config: Of the detector whose backbone computes the features.
        weights: What tells the backbone's weights from others.
        precision: What they are computed in, as Lightning names it.
    """
    library = versions()
    computed_by = [PIL.__version__, *(pillow_features.version(name) for name in ("jpg", "libjpeg_turbo", "webp"))]
    computed_by += [library["torch"], library["transformers"]]
    parts = [FORMAT, computed_by, training_set.fingerprint(), spec, config.backbone, weights, config.drop_registers]
    digest = hashlib.sha256(repr([*parts, config.preprocess, precision, "float32"]).encode())
    for image in range(len(training_set)):
        try:
            status = os.stat(training_set.source(image).path)  # noqa: PTH116 - pathlib takes twice as long
            digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
        except (OSError, ValueError):
            digest.update(b"unreadable\n")
    return parent / f"features-{digest.hexdigest()[:16]}"


def check_room(folder: Path, shape: FeatureShape) -> None:
    """Raise OutputError unless the features fit on the disk of `folder`, whose parent is made where it does not exist."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
    except OSError as error:
        raise OutputError(f"phase.feature_cache: {folder.parent} cannot be written: {error.strerror}") from error
    if free < shape.bytes:
        left = [path.name for path in folder.parent.glob(".features-*.tmp")]
        stopped = f", or delete what stopped runs have left there ({name_list(left)})" if left else ""
        raise OutputError(
            f"phase.feature_cache: {shape} do not fit into {folder.parent}, which has {free / 1e9:,.1f} GB free; give a "
            f"folder on another disk{stopped}, or leave phase.feature_cache out"
        )


def make_features(
    folder: Path,
    shape: FeatureShape,
    batches: Iterable[Batch],
    tokens_of: Callable[[Batch], Tensor],
    still_the_same: Callable[[], bool],
    say: Callable[[str], None],
    every_s: float = 30.0,
) -> None:
    """Compute the features of all images and keep them in `folder`, which appears when they are all there.

    If another run has made the same folder meanwhile, that one stays.

    Args:
        folder: As `features_folder` named it.
        shape: How many features there will be.
        batches: Every image once, by rising id, with pixels.
        tokens_of: Computes the tokens ``(B, N, D)`` of a batch, float32.
        still_the_same: Asked at the end: whether the images are those that `folder` was named for.
        say: Called with a line on the progress now and then.
        every_s: Seconds between two of them.

    Raises:
        OutputError: If they cannot be written.
        DataError: If the images have changed meanwhile.
    """
    flaws: list[Flaw] = []
    done, started = 0, time.monotonic()
    last = started
    try:
        with whole_folder(folder) as temporary:
            with (temporary / TOKENS_FILE).open("wb") as file:
                header = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
                np.lib.format.write_array_header_2_0(file, header)
                for batch in batches:
                    # Written in order rather than into a mapping, where a full disk would kill the process.
                    block = np.zeros((len(batch.ids) + len(batch.flaws), shape.tokens, shape.width), "<f4")
                    if len(batch.ids):
                        block[batch.ids.numpy() - done] = tokens_of(batch).cpu().numpy()
                    file.write(block.data)
                    flaws += batch.flaws
                    done += len(block)
                    if time.monotonic() - last >= every_s:
                        last = time.monotonic()
                        speed = done / (last - started)
                        left = timedelta(seconds=round((shape.images - done) / speed))
                        say(f"Features of {done:,}/{shape.images:,} images, {speed:.1f} images/s, {left} left")
            if not still_the_same():
                raise DataError(
                    "phase.feature_cache: images have changed while their features were computed; let copying finish, then "
                    "start again"
                )
            record = {"shape": shape, "flaws": [(flaw.id, int(flaw.status), flaw.reason) for flaw in flaws]}
            (temporary / RECORD_FILE).write_text(json.dumps(record), encoding="utf-8")
    except OutputError:
        if not folder.is_dir():
            raise


class FeatureSample(NamedTuple):
    """One image of a training set, or the reason why it has no features.

    Attributes:
        id: Its position in the training set.
        label: 0 real, 1 fake.
        tokens: ``(N, D)`` float32; None where the image cannot be read.
        flaw: Why not; None where it can.
    """

    id: int
    label: int
    tokens: NDArray[np.float32] | None
    flaw: Flaw | None


class FeatureDataset(Dataset[FeatureSample]):
    """Samples of a training set by epoch and id, as `TrainingDataset` has them; the same in every epoch.

    Args:
        training_set: The images.
        features: Theirs.
    """

    def __init__(self, training_set: TrainingSet, features: FeatureCache) -> None:
        self.training_set = training_set
        self.features = features

    def __len__(self) -> int:
        return len(self.training_set)

    def __getitem__(self, index: tuple[int, int]) -> FeatureSample:
        """Read the tokens of ``(epoch, id)``; an image that could not be read comes back without, to be counted."""
        _, sample_id = index
        label = int(self.training_set.labels[sample_id])
        flaw = self.features.flaws.get(sample_id)
        return FeatureSample(sample_id, label, None if flaw else self.features.tokens(sample_id), flaw)


def collate_features(samples: list[FeatureSample]) -> Batch:
    """Put samples together to a batch without pixels."""
    good = [(sample.id, sample.label, torch.from_numpy(sample.tokens)) for sample in samples if sample.tokens is not None]
    return Batch(
        ids=torch.tensor([sample_id for sample_id, _, _ in good], dtype=torch.int64),
        pixels=torch.empty(len(good), 3, 0, 0, dtype=torch.uint8),
        labels=torch.tensor([label for _, label, _ in good], dtype=torch.int64),
        groups=torch.zeros(len(good), dtype=torch.int64),
        flaws=[sample.flaw for sample in samples if sample.flaw is not None],
        tokens=torch.stack([tokens for _, _, tokens in good]) if good else torch.empty(0, 1, 1),
    )
