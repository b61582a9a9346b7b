"""The weights job: fetch what was asked for, then list the published weights that are known, and what of them is here."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mirror_pl.config.schema import WeightsSettings, read_settings
from mirror_pl.errors import CheckpointError, ConfigError, IncompleteRunError, nearest
from mirror_pl.files import whole_file
from mirror_pl.hub import HubId, in_cache, local_path
from mirror_pl.pinned_weights import PublishedWeights, published_weights
from mirror_pl.reports import print_plain

_DRIVE: Final = "https://drive.google.com/drive/folders/"


def run(cfg: DictConfig) -> None:
    """Fetch and list as `cfg` says.

    Raises:
        ConfigError: If what is to be fetched is not known, or only a person can.
        CheckpointError: If it cannot be had, or is not what is pinned.
        IncompleteRunError: After the list, if a file is not what is pinned.
    """
    settings = read_settings(cfg, WeightsSettings)
    console, folder, known = Console(), Path(settings.paths.checkpoints), published_weights()
    for name in settings.fetch:
        if name not in known:
            raise ConfigError(f"fetch: there is no {name}.{nearest(name, known)} Known: {', '.join(known)}")
        if known[name].hub is None and known[name].drive is None:
            raise ConfigError(
                f"fetch: {name} cannot be fetched from here; get {known[name].file} from {known[name].page} and put it into "
                f"{folder}"
            )
    for name in settings.fetch:
        print_plain(f"{name}: licence {known[name].licence}", console)
        print_plain(f"{name}: {_fetched(known[name], folder)}", console)
    table = Table(title="Published weights", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("name", "detector=", "here", "licence", "where from"):
        table.add_column(column, overflow="fold")
    wrong = []
    for weights in known.values():
        state, place = "missing", weights.hub or (weights.drive and _DRIVE + weights.drive) or weights.page
        if (path := _found(weights, folder)) is not None:
            state, place = "verified" if weights.sha256 else "there, no sha256 is known", str(path)
            try:
                weights.check(path)
            except CheckpointError as error:
                state = "another file"
                wrong.append(str(error))
        table.add_row(*map(Text, (weights.name, weights.detector, state, weights.licence, place)))
    console.print(table)
    if wrong:
        raise IncompleteRunError("\n".join(wrong))


def _found(weights: PublishedWeights, folder: Path) -> Path | None:
    """Return where a file is: in the folder of checkpoints, or in the cache of huggingface_hub."""
    if (folder / weights.file).is_file():
        return folder / weights.file
    return None if weights.hub is None else in_cache(HubId.parse(weights.hub))


def _fetched(weights: PublishedWeights, folder: Path) -> str:
    """Fetch a file that is not here, and say where it is."""
    path = _found(weights, folder)
    if path is not None:
        weights.check(path)
        return f"{path} is there already"
    if weights.hub is not None:
        found = HubId.parse(weights.hub)
        whole = found.file == Path(weights.file).name != weights.file  # the folder is what the commands want
        return f"{local_path(str(HubId(found.repo, None, found.revision) if whole else found), 'fetch')}"
    path = folder / weights.file
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        _download_from_drive(weights, temporary)
        weights.check(temporary)
    return f"{path}"


def _download_from_drive(weights: PublishedWeights, path: Path) -> None:
    """Download the file of its name out of a folder on Google Drive."""
    try:
        import gdown
    except ImportError as error:
        raise ConfigError(
            f"fetch: {weights.name} is on Google Drive, which gdown reads; pip install 'mirror_pl[drive]', or get it from "
            f"{_DRIVE}{weights.drive}"
        ) from error
    try:
        listed = gdown.download_folder(id=weights.drive, output=str(path.parent), quiet=True, skip_download=True) or []
        ids = [file.id for file in listed if Path(file.path).name == weights.file]
        done = ids and gdown.download(id=ids[0], output=str(path), quiet=False)
    except Exception as error:  # gdown raises what it likes
        raise CheckpointError(f"fetch: {weights.name} cannot be downloaded: {' '.join(str(error).split())[:300]}") from error
    if not done or not path.is_file():
        raise CheckpointError(f"fetch: there is no {weights.file} to be had in {_DRIVE}{weights.drive}")
