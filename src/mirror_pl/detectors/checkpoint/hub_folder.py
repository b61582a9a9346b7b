"""A detector's folder as it is published: config, weights, model card; written, loaded, pushed to the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
import yaml

from mirror_pl.detectors.checkpoint.load import load_mirror
from mirror_pl.detectors.checkpoint.names import with_our_names
from mirror_pl.detectors.checkpoint.write import save_folder
from mirror_pl.detectors.known_backbones import backbone_name
from mirror_pl.errors import ConfigError, OutputError
from mirror_pl.files import read_json, read_yaml
from mirror_pl.hub import PREFIX, HubId, local_path
from mirror_pl.texts import printable

if TYPE_CHECKING:
    from mirror_pl.detectors.mirror import MirrorDetector

Runs = str | Path | Sequence[str | Path]
"""Folders that a model card tells of: of a training, an evaluation, or a report on evaluations, which has intervals."""
_RECIPE: Final = ("phase", "optimizer", "scheduler", "augment", "batch_size", "seed")
_METRICS: Final = {"bal_acc": "Bal_Acc", "real_acc": "Real_Acc", "fake_acc": "Fake_Acc", "auc": "AUC", "ap": "AP"}
_LICENCES: Final = {"dinov2": ("apache-2.0", "Apache-2.0"), "dinov3": ("dinov3-license", "DINOv3 License")}
"""Of the weights of each family of backbones, as the Hub calls it and in words."""
_RANDOM: Final = ("tiny", "miniature")
"""Backbones whose weights are random, and nobody's."""


def write_pretrained(
    detector: MirrorDetector,
    folder: Path,
    runs: Runs = (),
    licence: str | None = None,
    dtype: torch.dtype = torch.float32,
    at: str | None = None,
) -> None:
    """Do what `MirrorDetector.save_pretrained` says; `at` is the repository that the card says it is loaded from."""
    if detector.quantised is not None:
        raise ConfigError("save_pretrained: the detector is quantised; load it anew, and save that")
    card = _card(detector, [runs] if isinstance(runs, str | Path) else runs, licence, at or folder.name)
    save_folder(folder, with_our_names(detector.state_dict()), detector.config, dtype, texts={"README.md": card})


def load_pretrained(source: str | Path, revision: str | None, **settings: Any) -> MirrorDetector:
    """Do what `MirrorDetector.from_pretrained` says."""
    name = str(source)
    if Path(name).exists():
        if revision is not None:
            raise ConfigError(f"revision: {name} is on this machine, and has no revisions; leave revision out")
        return load_mirror(name, **settings)
    name = name if name.startswith(PREFIX) else PREFIX + name
    return load_mirror(local_path(name if revision is None else f"{name}@{revision}"), **settings)


def push(
    detector: MirrorDetector, repo_id: str, runs: Runs, licence: str | None, private: bool | None, dtype: torch.dtype
) -> str:
    """Do what `MirrorDetector.push_to_hub` says."""
    from huggingface_hub import HfApi

    found = HubId.parse(PREFIX + repo_id, "repo_id")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "detector"
        write_pretrained(detector, folder, runs, licence, dtype, at=repo_id)
        try:
            api = HfApi()
            api.create_repo(repo_id, private=private, exist_ok=True)
            done = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=f"{detector.name}, by mirror_pl")
        except (OSError, ValueError) as error:  # all errors of huggingface_hub are one of these
            said = " ".join(str(error).split())[:300]
            raise OutputError(
                f"repo_id: {repo_id} cannot be written: {said}. It takes a network, HF_HUB_OFFLINE not set, and a token "
                "that may write: hf auth login"
            ) from error
    return str(HubId(found.repo, None, done.oid))


def _card(detector: MirrorDetector, runs: Sequence[str | Path], licence: str | None, at: str) -> str:
    """Return the model card: metadata that the Hub reads, and what a person wants to know."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    told = [_told(Path(run), detector.name) for run in runs]
    results = [result for _, found in told for result in found]
    family, named = detector.config.backbone.family, backbone_name(detector.config.backbone)
    hub_licence, words = (None, None) if named in _RANDOM else _LICENCES[family]
    data = ModelCardData(
        library_name="mirror_pl",
        pipeline_tag="image-classification",
        tags=["ai-generated-image-detection", family],
        license=licence if hub_licence in (None, licence) else "other",
        license_name=None if hub_licence in (None, licence) else hub_licence,
        model_name=detector.name if results else None,
        eval_results=[
            EvalResult("image-classification", benchmark, benchmark, metric, metrics[metric]["value"])
            for benchmark, metrics in results
            for metric in _METRICS
            if metrics.get(metric, {}).get("value") is not None
        ]
        or None,
    )
    of_backbone = "The backbone has random weights." if words is None else f"The backbone's are in it, a {family}: {words}."
    text = f"""\
# {detector.name}

A MIRROR detector of AI-generated images (arXiv 2602.02222): {detector.config.backbone}.

```python
from mirror_pl.detectors import MirrorDetector

detector = MirrorDetector.from_pretrained("{at}")
print(detector.predict("picture.jpg").p_fake)
```

## Intended use

To study and to compare detectors of AI-generated images. A score says how a picture compares with the images that the
detector learnt from; it is no proof of where a picture comes from, and no ground for a decision about a person. Generators,
compression and resizing that it was not tried on may change every figure below. `p_fake` is a probability only once it is
calibrated.

{chr(10).join(section for section, _ in told) or _NOTHING}
## Licence

Of the weights that were trained: {printable(licence) if licence else "not said"}. {of_backbone}
"""
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"))


_NOTHING: Final = "## Training and figures\n\nNothing was recorded.\n"


def _told(folder: Path, detector: str) -> tuple[str, list[tuple[str, dict[str, Any]]]]:
    """Return a section on a folder that a command wrote, and the figures of each benchmark in it.

    Raises:
        ConfigError: If it is none, or of another detector.
    """
    try:
        if (folder / "report.json").is_file():
            report = read_json(folder / "report.json")
            found = [each for each in report["results"] if each["detector"] == detector]
            if not found:
                there = sorted({each["detector"] for each in report["results"]})
                raise ConfigError(f"run: {folder} reports on {', '.join(map(printable, there))}, and not on {detector}")
            note = f"Intervals are at {report['level']:.0%}, of {report['replicates']} bootstrap replicates."
            return _figures([(each["benchmark"], each["mean"]) for each in found], note)
        facts = read_json(folder / "run.json")
        if (own := facts["detector"].get("name", detector)) != detector:
            raise ConfigError(f"run: {folder} is of {printable(str(own))}, and not of {detector}")
        if (folder / "metrics.json").is_file():
            metrics = read_json(folder / "metrics.json")
            mean = {name: {"value": value} for name, value in metrics["mean"].items()}
            note = "Without intervals: the folder that `python -m mirror_pl.report` makes of the run has them."
            return _figures([(metrics["benchmark"], mean)], note)
        return _training(facts, read_yaml(folder / "config.yaml")), []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"run: {folder} is no complete folder of a training, an evaluation or a report ({error!r}); expected run.json "
            "or report.json, as train, eval and report write them"
        ) from error


def _figures(found: list[tuple[str, dict[str, Any]]], note: str) -> tuple[str, list[tuple[str, dict[str, Any]]]]:
    lines = [f"| benchmark | {' | '.join(_METRICS.values())} |", f"|---{'|---' * len(_METRICS)}|"]
    lines += [
        f"| {printable(str(benchmark))} | {' | '.join(_in_words(metrics.get(name, {})) for name in _METRICS)} |"
        for benchmark, metrics in found
    ]
    return "## Figures\n\n" + "\n".join(lines) + f"\n\nMeans over subsets, in percent. {note}\n", found


def _in_words(figure: Mapping[str, Any]) -> str:
    if figure.get("value") is None:
        return "-"
    text, low, high = f"{100 * figure['value']:.2f}", figure.get("low"), figure.get("high")
    return text if low is None or high is None else f"{text} ({100 * low:.2f} to {100 * high:.2f})"


def _training(facts: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Say what was learnt from, and how; nothing that names a place on the machine."""
    figures = "".join(
        f"- {printable(str(name))}: {value:.4g}\n" for name, value in facts["figures"].items() if value is not None
    )
    recipe = {name: _without_paths(config[name]) for name in _RECIPE if name in config}
    recipe.get("phase", {}).pop("batch_size", None)  # a default; what was taken is said once
    return (
        f"## Training\n\n{facts['images']['used']:,} images (fingerprint {printable(str(facts['data']['fingerprint']))}), "
        f"{facts['steps']:,} steps, in {printable(str(facts['precision']))}, with mirror_pl "
        f"{printable(str(facts['versions'].get('mirror_pl', '')))}.\n\n{figures}\n```yaml\n{yaml.safe_dump(recipe)}```\n"
    )


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _without_paths(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_paths(part) for part in value]
    return None if isinstance(value, str) and ("/" in value or "\\" in value) else value
