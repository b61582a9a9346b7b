"""What is in one folder, or in one folder of a shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Folder:
    """One folder's images, in the order of their names. A shard is a folder too, and so is each folder in it.

    Attributes:
        parts: Names of the folders from where the walk began down to this one.
        names: File names of images, as far as their suffix tells; of a Parquet file, what each row is called, in its order.
        sizes: Bytes; -1 where it cannot be read, and for rows of a Parquet file.
        mtimes: Time of last change in ns; -1 where it cannot be read.
        others: Names of files with other suffixes.
        shard: Shard that the images lie in, by its names below where the walk began joined by slashes; "" for files of their
            own. Its name is one of `parts`.
        offsets: Where each image is in that shard, as `shards.read_member` takes it; empty for files of their own.
        problems: Why a member of a shard with an image's suffix cannot be read, by its name, which is none of `names`.
        labels: What the label column of a Parquet file says of each image, as text; empty where there is none.
    """

    parts: tuple[str, ...]
    names: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    mtimes: list[int] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    shard: str = ""
    offsets: list[int] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)

    def only(self, images: Sequence[int]) -> Folder:
        """Return this folder with some of its images, by their positions, and nothing else in it."""
        return Folder(
            self.parts,
            names=[self.names[image] for image in images],
            sizes=[self.sizes[image] for image in images],
            mtimes=[self.mtimes[image] for image in images],
            shard=self.shard,
            offsets=[self.offsets[image] for image in images] if self.offsets else [],
            labels=[self.labels[image] for image in images] if self.labels else [],
        )


def suffix_of(name: str) -> str:
    """Return a file name's suffix, lower case, with the dot; "" where it has none."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""
