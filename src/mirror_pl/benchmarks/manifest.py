"""A benchmark described as data: where its files are in each known layout, and how folder names become subsets and labels.

A manifest is a YAML file in ``configs/benchmark/``; adding a benchmark needs no Python. Letter case of folder names does not
matter anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from mirror_pl.errors import ConfigError, name_list, nearest
from mirror_pl.labels import FAKE, LABEL_NAMES, REAL

Group = Literal["standard", "in-the-wild", "human", "other"]

WHOLE = "ALL"
"""Row of a benchmark without subsets, named as in the published report."""


@dataclass(frozen=True)
class LabelTable:
    """A table that says which images are real and which are fake, in place of the names of folders.

    Attributes:
        file: CSV file, absolute or below ``data_root``, with a row an image; None for a column of the Parquet files that the
            images are in.
        path: Column that says which image a row is of; None looks for one that is called as such columns are.
        label: Column of the labels; likewise.
        values: Label of each value, in lower case; None takes what is known of them: the names of folders that decide a
            label, 0 and 1, false and true (is it fake?).
    """

    file: str | None = None
    path: str | None = None
    label: str | None = None
    values: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Layout:
    """One way the benchmark lies on disk.

    Attributes:
        folders: Folders below ``data_root`` to look for, with forward slashes; "." for ``data_root`` itself. The first that
            holds anything of a subset is used for it.
        subsets: For each subset by the name of its row, the folders below `folders` to look for; "." for the folder itself.
            With `subset_column`, the values of that column, in lower case. In YAML, null leaves a subset out of this layout.
        labels: Label of each folder name that decides one, at any depth below a subset; the innermost decides.
        bare: Label of the images of a subset that has no such folder at all; None passes them over.
        shards: Whether the images may lie in shards (tar, zip, Parquet); each is then a folder, and its members' names may
            have folders in it.
        table: What labels them in place of the names of folders; None for those.
        subset_column: Column of the table's file that says which subset an image is in; None for folders.
    """

    folders: tuple[str, ...]
    subsets: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, int] = field(default_factory=lambda: {"0_real": REAL, "1_fake": FAKE})
    bare: int | None = None
    shards: bool = False
    table: LabelTable | None = None
    subset_column: str | None = None

    def folders_of(self, subset: str) -> tuple[str, ...]:
        """Return the folders below `folders` to look for a subset in; none if this layout has no such subset."""
        return (".",) if self.subset_column is not None and subset in self.subsets else self.subsets.get(subset, ())

    def draw(self, data_root: str) -> str:
        """Draw the expected tree, for an error message."""
        lines = [f"{data_root}/" + ("" if self.folders[0] == "." else f"{self.folders[0]}/")]
        images = "**/{" + ",".join(self.labels) + "}/*"
        if self.bare is not None:
            images = "*" if set(self.labels) == {"0_real", "1_fake"} else f"{images} or *"
        if self.table is not None:
            images = "**/*"
        if self.shards:
            images = f"**/*.{{tar,zip,parquet}} with {images} in them"
        for folders in dict.fromkeys(map(self.folders_of, self.subsets)):
            lines.append(f"    {'' if folders[0] == '.' else folders[0] + '/'}{images}")
        return "\n".join(lines)


@dataclass(frozen=True)
class SharedReals:
    """Real images that serve several subsets, each of which has only fakes.

    Attributes:
        folders: Folders below ``data_root`` to look for; all images below the first that exists are real.
        serves: Subsets they serve.
    """

    folders: tuple[str, ...]
    serves: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """A benchmark.

    Attributes:
        name: Its name here, as in ``benchmark=name``.
        title: Its name in print.
        group: Which part of the published table it belongs to; "other" for none.
        layouts: The ways it lies on disk, by name, in the order they are tried for each subset; "published" is the tree of
            the published evaluation code.
        published_key: Its key in the published code, which the name of the published report begins with.
        source: Where the data comes from.
        licence: Of the data.
        how_to_get: What a user does to get it.
        citation: The paper to cite.
        aliases: What else ``benchmark=`` takes for it: its names in other releases of the published code.
        skip: Folder names never entered, such as a training split beside the test split.
        shared_reals: Sets of real images that serve several subsets, by name.
        published_rows: Subsets that are rows of the published report only: what they hold is a shared set here.
        pooled_row: Name of a row over all subsets together, where the published report has one; None for none.
        expected: Images to expect, by subset and label name; "*" stands for every subset that is not named.
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
    aliases: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    shared_reals: Mapping[str, SharedReals] = field(default_factory=dict)
    published_rows: tuple[str, ...] = ()
    pooled_row: str | None = None
    expected: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def subsets(self) -> tuple[str, ...]:
        """Names of all subsets, in report order, whether on disk or not."""
        return tuple(dict.fromkeys(name for layout in self.layouts.values() for name in layout.subsets))

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the sets that an image belongs to exactly one of: the subsets, then the shared reals."""
        return (*self.subsets, *(f"shared:{name}" for name in self.shared_reals), USER_REALS)

    def expected_of(self, subset: str) -> Mapping[str, int]:
        """Return the images to expect in a subset, by label name; empty where nothing is known."""
        return self.expected.get(subset, self.expected.get("*", {}))


USER_REALS = "shared:reals"
"""Group of the real images that a user names with ``reals=FOLDER``."""


def parse_manifest(values: Mapping[str, Any]) -> Manifest:
    """Check a manifest's plain values, as read from YAML, and build it.

    Raises:
        ConfigError: Naming the benchmark, the key, what was expected and what was got.
    """
    where = f"benchmark {values.get('name', '?')}"
    optional = ("aliases", "skip", "shared_reals", "published_rows", "pooled_row", "expected")
    _check_keys(values, Manifest, where, (*optional, "subsets"), extra=("subsets",))
    texts = ("name", "title", "published_key", "source", "licence", "how_to_get", "citation")
    wrong = [key for key in texts if not isinstance(values[key], str)]
    if wrong:
        raise ConfigError(f"{where}: {wrong[0]} must be a text, got {values[wrong[0]]!r}")
    for key in ("name", "published_key"):
        if not re.fullmatch(r"\w[\w.-]*", values[key]):  # parts of the names of files
            raise ConfigError(f"{where}: {key} must be of letters, digits, '_', '-' and '.', got {values[key]!r}")
    if values["group"] not in get_args(Group):
        raise ConfigError(f"{where}: group must be one of {name_list(get_args(Group))}, got {values['group']!r}")
    layouts = values["layouts"]
    if not isinstance(layouts, Mapping) or not layouts:
        raise ConfigError(f"{where}: layouts must hold at least one layout by name, got {layouts!r}")
    names = _strings(values.get("subsets", [WHOLE]), f"{where}, subsets")
    parsed = {name: _parse_layout(layout, names, f"{where}, layout {name}") for name, layout in layouts.items()}
    served = [name for name in names if name not in _strings(values.get("published_rows", ()), where)]
    shared = {
        str(name): _parse_shared(part, served, f"{where}, shared_reals {name}")
        for name, part in values.get("shared_reals", {}).items()
    }
    expected = values.get("expected", {})
    strangers = [name for name in expected if name not in (*names, "*")]
    if strangers:
        raise ConfigError(f"{where}: expected names the unknown subset {strangers[0]!r}.{nearest(str(strangers[0]), names)}")
    kept = {key: value for key, value in values.items() if key != "subsets"}
    kept |= {"layouts": parsed, "shared_reals": shared}
    kept |= {key: _strings(values.get(key, ()), f"{where}, {key}") for key in ("aliases", "skip", "published_rows")}
    return Manifest(**kept)


def _parse_layout(values: Mapping[str, Any], names: tuple[str, ...], where: str) -> Layout:
    _check_keys(values, Layout, where, ("subsets", "labels", "bare", "shards", "table", "subset_column"))
    subsets = values.get("subsets", {})
    if isinstance(subsets, list | tuple):  # this layout has subsets of its own, in folders of the same name
        subsets, names = {}, _strings(subsets, f"{where}, subsets")
    if not isinstance(subsets, Mapping):
        raise ConfigError(f"{where}: subsets must be a list of names or a mapping of name to folders, got {subsets!r}")
    unknown = [str(name) for name in subsets if name not in names]
    if unknown:
        raise ConfigError(
            f"{where}: unknown subset {unknown[0]!r}.{nearest(unknown[0], names)} Known: {name_list(names, 30)}"
        )
    places = {name: subsets.get(name, "." if name == WHOLE else name) for name in names}
    folders = {name: _strings(place, where) for name, place in places.items() if place is not None}
    labels = values.get("labels", {"0_real": "real", "1_fake": "fake"})
    bare, shards = values.get("bare"), values.get("shards", False)
    if not isinstance(shards, bool):
        raise ConfigError(f"{where}: shards must be true or false, got {shards!r}")
    table = parse_label_table(values["table"], f"{where}, table") if values.get("table") is not None else None
    column = values.get("subset_column")
    if column is not None:
        if not isinstance(column, str) or table is None or table.file is None:
            raise ConfigError(f"{where}: subset_column must name a column of a table's file, got {column!r} and {table!r}")
        folders = {name: tuple(value.casefold() for value in column_values) for name, column_values in folders.items()}
    return Layout(
        folders=_strings(values["folders"], f"{where}, folders"),
        subsets=folders,
        labels={str(name): _label(label, where) for name, label in labels.items()},
        bare=None if bare is None else _label(bare, where),
        shards=shards,
        table=table,
        subset_column=column,
    )


def parse_label_table(values: Any, where: str) -> LabelTable:
    """Check the plain value of a table of labels, and build it.

    Args:
        values: The name of a CSV file, or the attributes of a `LabelTable` by their names, none of them required.
        where: The setting, for messages.

    Raises:
        ConfigError: Naming the key, what was expected and what was got.
    """
    if isinstance(values, str):
        values = {"file": values}
    _check_keys(values, LabelTable, where, ("file", "path", "label", "values"))
    for key in ("file", "path", "label"):
        if not (values.get(key) is None or (isinstance(values[key], str) and values[key])):
            raise ConfigError(f"{where}: {key} must be a text, got {values[key]!r}")
    known = values.get("values")
    if known is not None and not (isinstance(known, Mapping) and known):
        raise ConfigError(f"{where}: values must be real or fake by value, such as {{0: real, 1: fake}}, got {known!r}")
    labels = None if known is None else {str(name).casefold(): _label(label, where) for name, label in known.items()}
    return LabelTable(values.get("file"), values.get("path"), values.get("label"), labels)


def _parse_shared(values: Mapping[str, Any], names: list[str], where: str) -> SharedReals:
    _check_keys(values, SharedReals, where, ("serves",))
    serves = _strings(values.get("serves", names), f"{where}, serves")
    if where.endswith(f" {USER_REALS.removeprefix('shared:')}"):
        raise ConfigError(f"{where}: this name is kept for what the user gives as reals=FOLDER; give the set another one")
    unknown = [name for name in serves if name not in names]
    if unknown:
        raise ConfigError(f"{where}: serves the unknown subset {unknown[0]!r}.{nearest(unknown[0], names)}")
    return SharedReals(_strings(values["folders"], f"{where}, folders"), serves)


def _label(value: Any, where: str) -> int:
    if value not in LABEL_NAMES:
        raise ConfigError(f"{where}: a label must be one of {name_list(LABEL_NAMES)}, got {value!r}")
    return LABEL_NAMES.index(value)


def _strings(value: Any, where: str) -> tuple[str, ...]:
    """Read one string or a list of them."""
    items: Iterable[Any] = [value] if isinstance(value, str | int | float) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, str | int | float) for item in items):
        raise ConfigError(f"{where}: expected a name or a list of names, got {value!r}")
    return tuple(str(item) for item in items)


def _check_keys(
    values: Mapping[str, Any], cls: type, where: str, optional: tuple[str, ...] = (), extra: tuple[str, ...] = ()
) -> None:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected keys and values, got {values!r}")
    known = [*(f.name for f in fields(cls)), *extra]
    unknown = [str(key) for key in values if key not in known]
    if unknown:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}.{nearest(unknown[0], known)} Known: {name_list(known, 20)}")
    missing = [key for key in known if key not in values and key not in optional]
    if missing:
        raise ConfigError(f"{where}: missing {name_list(missing)}")
