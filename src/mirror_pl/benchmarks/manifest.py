"""A benchmark described as data: where its files are, how folder names become subsets and labels, where it comes from.

A manifest is a YAML file in ``configs/benchmark/``; adding a benchmark needs no Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from mirror_pl.errors import ConfigError, name_list, nearest
from mirror_pl.labels import FAKE, LABEL_NAMES, REAL

Group = Literal["standard", "in-the-wild", "human", "other"]

WHOLE = "ALL"
"""Row of a benchmark without subsets, named as in the published report."""


@dataclass(frozen=True)
class Layout:
    """One way the benchmark lies on disk.

    Attributes:
        folder: Below ``data_root``, with forward slashes; "." for ``data_root`` itself.
        subsets: Folder, below `folder`, of each subset by the name its row has in reports; "." for `folder` itself.
        labels: Label of each folder name that decides one, at any depth below a subset; the innermost decides.
    """

    folder: str
    subsets: Mapping[str, str]
    labels: Mapping[str, int] = field(default_factory=lambda: {"0_real": REAL, "1_fake": FAKE})

    def draw(self, data_root: str) -> str:
        """Draw the expected tree, for an error message."""
        label_folders = "{" + ",".join(self.labels) + "}"
        lines = [data_root]
        indent = "  "
        if self.folder != ".":
            lines.append(f"{indent}{self.folder}/")
            indent += "  "
        lines += [f"{indent}{'' if folder == '.' else folder + '/'}**/{label_folders}/*" for folder in self.subsets.values()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Manifest:
    """A benchmark.

    Attributes:
        name: Its name here, as in ``benchmark=name``.
        title: Its name in print.
        group: Which part of the published table it belongs to; "other" for none.
        layouts: The ways it lies on disk, by name; "published" is the tree of the published evaluation code.
        published_key: Its key in the published code, which the name of the published report begins with.
        source: Where the data comes from.
        licence: Of the data.
        how_to_get: What a user does to get it.
        citation: The paper to cite.
    """

    name: str
    title: str
    group: Group
    layouts: Mapping[str, Layout]
    published_key: str
    source: str
    licence: str
    how_to_get: str
    citation: str

    @property
    def layout(self) -> Layout:
        """The layout in use."""
        return next(iter(self.layouts.values()))

    @property
    def subsets(self) -> tuple[str, ...]:
        """Names of all subsets, in report order, whether on disk or not."""
        return tuple(self.layout.subsets)


def parse_manifest(values: Mapping[str, Any]) -> Manifest:
    """Check a manifest's plain values, as read from YAML, and build it.

    Raises:
        ConfigError: Naming the benchmark, the key, what was expected and what was got.
    """
    where = f"benchmark {values.get('name', '?')}"
    _check_keys(values, Manifest, where)
    if values["group"] not in get_args(Group):
        raise ConfigError(f"{where}: group must be one of {name_list(get_args(Group))}, got {values['group']!r}")
    layouts = values["layouts"]
    if not isinstance(layouts, Mapping) or not layouts:
        raise ConfigError(f"{where}: layouts must hold at least one layout by name, got {layouts!r}")
    parsed = {name: _parse_layout(layout, f"{where}, layout {name}") for name, layout in layouts.items()}
    return Manifest(**{**values, "layouts": parsed})


def _parse_layout(values: Mapping[str, Any], where: str) -> Layout:
    _check_keys(values, Layout, where, optional=("labels",))
    subsets = values["subsets"]
    if isinstance(subsets, list | tuple):  # a list: each subset's folder has the subset's name
        subsets = {str(name): str(name) for name in subsets}
    if not isinstance(subsets, Mapping) or not subsets:
        raise ConfigError(f"{where}: subsets must be a list of folders or a mapping of name to folder, got {subsets!r}")
    result = Layout(folder=str(values["folder"]), subsets={str(name): str(f) for name, f in subsets.items()})
    if "labels" not in values:
        return result
    wrong = [label for label in values["labels"].values() if label not in LABEL_NAMES]
    if wrong:
        raise ConfigError(f"{where}: a label must be one of {name_list(LABEL_NAMES)}, got {wrong[0]!r}")
    labels = {str(name): LABEL_NAMES.index(label) for name, label in values["labels"].items()}
    return Layout(result.folder, result.subsets, labels)


def _check_keys(values: Mapping[str, Any], cls: type, where: str, optional: tuple[str, ...] = ()) -> None:
    known = [f.name for f in fields(cls)]
    unknown = [str(key) for key in values if key not in known]
    if unknown:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}.{nearest(unknown[0], known)} Known: {name_list(known, 20)}")
    missing = [key for key in known if key not in values and key not in optional]
    if missing:
        raise ConfigError(f"{where}: missing {name_list(missing)}")
