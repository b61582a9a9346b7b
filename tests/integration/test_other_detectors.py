"""UnivFD, DDA and B-Free wherever MIRROR is: evaluated, swept, reported, and used for prediction, as their own code scores."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from baseline_set import TOLERANCE, BaselineSet, logits_of
from detector_files import save_checkpoint
from golden_set import SMALL
from PIL import Image
from sweeps import Call

from mirror_pl.config.build_detector import loaded
from mirror_pl.config.command import compose
from mirror_pl.config.schema import DetectorTrainSettings, read_settings
from mirror_pl.detectors import LoraConfig, load_detector
from mirror_pl.detectors.baseline import Baseline
from mirror_pl.detectors.checkpoint.names import is_adapter, our_name
from mirror_pl.errors import CheckpointError, ConfigError
from mirror_pl.jobs import convert as conversion
from mirror_pl.jobs import eval as evaluation
from mirror_pl.jobs import gallery
from mirror_pl.jobs import predict as predicting
from mirror_pl.jobs import train as training
from mirror_pl.locate import miniature_dir
from mirror_pl.modules import DetectorModule

NAMES = ("univfd", "dda", "bfree")
TITLES = {"univfd": "UnivFD", "dda": "DDA", "bfree": "B-Free"}
SIZE = "size: {width: 64, depth: 2, heads: 4, mlp_width: 256}"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights by the names that their authors give them."""
    folder = tmp_path_factory.mktemp("weights")
    univfd, dda, bfree = (BaselineSet(name).folder for name in NAMES)
    shutil.copy(univfd / "fc_weights.pth", folder)
    shutil.copy(dda / "DDA_ckpt.pth", folder)
    shutil.copytree(univfd / "clip-tiny-hf", folder / "clip-vit-large-patch14")
    shutil.copytree(bfree / "weights/BFREE_dino2reg4", folder / "BFREE_dino2reg4")
    return folder


def arguments(name: str, weights: Path) -> list[str]:
    size = BaselineSet(name).size
    values = f"{{width: {size.width}, depth: {size.depth}, heads: {size.heads}, mlp_width: {size.mlp_width}}}"
    # CLIP's folder says how large it is; the other two are small ones of what the published size is expected of.
    return [f"detector={name}", f"paths.checkpoints={weights}", *([] if name == "univfd" else [f"detector.size={values}"])]


def eval_arguments(name: str, weights: Path, output: Path) -> list[str]:
    return [
        *arguments(name, weights),
        f"output_dir={output}",
        "trainer.accelerator=cpu",
        "num_workers=0",
        "~callbacks.progress",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_predict_gives_the_golden_scores(name: str, weights: Path) -> None:
    golden = BaselineSet(name)
    Path("list.txt").write_text("\n".join(map(str, golden.paths())))
    more = ["input=[list.txt]", "output=out.jsonl", "device=cpu", "num_workers=0"]
    predicting.run(compose("predict", [*arguments(name, weights), *more]))
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [row["image_path"] for row in rows] == [str(path) for path in golden.paths()]
    for row, logit in zip(rows, golden.logits().tolist(), strict=True):
        assert row["logit"] == pytest.approx(logit, abs=TOLERANCE)
        assert len(row["crops"]) == (5 if name == "bfree" else 1)


@pytest.mark.parametrize("name", NAMES)
def test_eval_gives_the_golden_scores(name: str, weights: Path, tmp_path: Path) -> None:
    more = ["benchmark=wildrf", f"data_root={SMALL.data_root}", "batch_size=10"]
    evaluation.run(compose("eval", [*eval_arguments(name, weights, tmp_path / "run"), *more]))
    table = pq.read_table(tmp_path / "run/predictions.parquet")
    found = dict(zip(table["path"].to_pylist(), table["logit"].to_pylist(), strict=True))
    rows = {row["path"]: float(row["logit"]) for row in BaselineSet(name).rows()}
    assert len(found) > 5
    for path, logit in found.items():
        assert logit == pytest.approx(rows[path], abs=TOLERANCE), path
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["detector"]["name"] == TITLES[name]
    assert run["protocol"]["as_published"] is True
    assert (run.get("backbone") is not None) == (name == "univfd")
    published = [
        (row["source"], row["published"]) for row in json.loads((tmp_path / "run/metrics.json").read_text())["published"]
    ]
    expected = {
        "univfd": [],
        "dda": [("project-readme", 0.911), ("dda-readme-2026-04-13", 0.903)],
        "bfree": [("readme-2026-04", 0.926)],
    }
    assert published == expected[name]


@pytest.mark.slow
def test_ten_detectors_in_one_sweep_and_one_report(
    weights: Path, tmp_path: Path, sweep: Call, caplog: pytest.LogCaptureFixture
) -> None:
    """With the user's own options for the sizes, as small or larger retrainings need them."""
    data = tmp_path / "data"
    for folder in sorted({path.parent for path in (miniature_dir() / "test").rglob("*.jpg")}):
        here = data / folder.relative_to(miniature_dir() / "test")
        here.mkdir(parents=True)
        for path in sorted(folder.iterdir())[:3]:
            shutil.copy(path, here)
    golden = BaselineSet("x").folder.parent
    shutil.copytree(golden / "commfor/commfor-model-384", tmp_path / "more/commfor-model-384")
    shutil.copytree(weights, tmp_path / "more", dirs_exist_ok=True)
    for name, file in (
        ("effort", "effort_clip_L14_trainOn_sdv14.pth"), ("rine", "model_4class_trainable.pth"),
        ("safe", "checkpoint-best.pth"), ("npr", "NPR.pth"), ("simplicity/dinov2lin", "dinov3lin0.pth"),
    ):  # fmt: skip
        (source,) = (golden / name).glob("*.pth")
        shutil.copy(source, tmp_path / "more" / file)
    heads = {"commfor": 3, "effort": 4}
    backbones = {"rine": golden / "rine/clip-tiny-hf", "simplicity": golden / "simplicity/dinov2lin/backbone"}
    options = {
        **dict.fromkeys(("dda", "bfree"), SIZE),
        **{name: f"size: {{heads: {number}}}" for name, number in heads.items()},
        **dict.fromkeys(backbones, ""),
    }
    for name, text in options.items():
        other = f", override /backbone@_global_.backbone: of_{name}" if name in backbones else ""
        option = tmp_path / f"options/detector/small_{name}.yaml"
        option.parent.mkdir(parents=True, exist_ok=True)
        option.write_text(f"defaults: [{name}{other}, _self_]\n{text}\n")
    for name, folder in backbones.items():
        option = tmp_path / f"options/backbone/of_{name}.yaml"
        option.parent.mkdir(parents=True, exist_ok=True)
        option.write_text(f"name: null\npath: {folder}\n")
    detectors = ["mirror", "univfd", "safe", "npr", *(f"small_{name}" for name in options)]
    assert len(detectors) == 10
    given = [f"--config-dir={tmp_path}/options", "-m", f"detector={','.join(detectors)}", "benchmark=miniature"]
    more = [f"data_root={data}", f"paths.checkpoints={tmp_path}/more", "trainer.accelerator=cpu", "num_workers=0"]
    first = sweep(*given, *more, f"output_dir={tmp_path}/sweep")
    assert first.returncode == 0, first.stderr
    assert "for non-profit use only" in caplog.text, "the licence of B-Free is said where it is loaded"
    assert sweep(*given, *more, f"output_dir={tmp_path}/sweep").stdout.count("Complete already") == 10

    from mirror_pl.jobs import report as reporting

    reporting.run(compose("report", [f"runs=[{tmp_path}/sweep]", f"output_dir={tmp_path}/report", "replicates=20"]))
    with (tmp_path / "report/table.csv").open() as file:
        (row,) = (row for row in csv.DictReader(file) if row["row"] == "benchmark")
    names = [
        "B-Free", "Community Forensics", "DDA", "dinov2lin", "Effort", "mirror/miniature", "NPR", "RINE", "SAFE", "UnivFD",
    ]  # fmt: skip
    assert sorted((column for column in row if f"{column} low" in row), key=str.lower) == sorted(names, key=str.lower)
    for name in names:
        found = [
            json.loads(path.with_name("metrics.json").read_text())["mean"]["bal_acc"]
            for path in (tmp_path / "sweep").glob("*/run.json")
            if json.loads(path.read_text())["detector"]["name"] == name
        ]
        assert [float(row[name])] == pytest.approx(found)


def test_other_crops_are_no_published_protocol(weights: Path, tmp_path: Path) -> None:
    more = ["benchmark=wildrf", f"data_root={SMALL.data_root}", "crops=center"]
    evaluation.run(compose("eval", [*eval_arguments("bfree", weights, tmp_path / "run"), *more]))
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["protocol"] == {
        "crops": "center",
        "aggregate": "mean",
        "of": "logit",
        "top_fraction": 1 / 3,
        "as_published": False,
    }


def test_a_run_is_repeated_to_the_bit(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["benchmark=wildrf", f"data_root={SMALL.data_root}"]
    evaluation.run(compose("eval", [*eval_arguments("univfd", weights, tmp_path / "run"), *more]))
    again = [f"repeat={tmp_path}/run", f"output_dir={tmp_path}/again"]
    evaluation.run(compose("eval", again))
    assert "are the same to the bit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["detector=univfd"],
            r"checkpoint: .*fc_weights\.pth does not exist\. detector=univfd wants fc_weights\.pth, and the f",
        ),
        (["detector=bfree"], r"BFREE_dino2reg4 does not exist\. detector=bfree wants the folder BFREE_dino2reg4"),
        (["detector=dda", "W", "memory_path=x"], "memory_path: detector=dda has no memory bank"),
        (["detector=dda", "W", "backbone=dinov3_l"], "backbone=dinov3_l: detector=dda has its own"),
        (["detector=dda", "W", "backbone.path=x"], r"backbone\.path: detector=dda has its backbone in its checkpoint"),
        (["detector=univfd", "W", "backbone.path=x"], r"backbone\.path: x does not exist\. detector=univfd wants"),
        (["detector=dda", "W", "detector.size={width: 64}"], r"detector\.size: depth, heads, mlp_width not given"),
        (["detector=dda", "W"], r"does not fit DDA \(DINOv2 with patch 14, width 1024"),
        (["detector.size={width: 64}"], r"detector\.size: the checkpoint or backbone=NAME says it"),
        (["checkpoint=DDA_ckpt.pth"], "holds no MIRROR.*are evaluated by their names"),
    ],
)
def test_what_cannot_be_is_said(settings: list[str], message: str, weights: Path, tmp_path: Path) -> None:
    shutil.copy(weights / "DDA_ckpt.pth", "DDA_ckpt.pth")
    given = [f"paths.checkpoints={weights}" if setting == "W" else setting for setting in settings]
    for command, run in (("eval", evaluation.run), ("predict", predicting.run)):
        own = [f"output_dir={tmp_path}/no"] if command == "eval" else ["input=[DDA_ckpt.pth]", f"output={tmp_path}/no.csv"]
        with pytest.raises((ConfigError, CheckpointError), match=message):
            run(compose(command, [*given, *own]))
    assert not list(tmp_path.glob("no*"))


def test_what_is_for_mirror_alone(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no MIRROR"):
        conversion.run(compose("convert", [f"input={weights}/DDA_ckpt.pth", f"output={tmp_path}/no"]))
    start = ["detector=dda", f"checkpoint={weights}/DDA_ckpt.pth", f"data.root={SMALL.data_root}"]
    with pytest.raises(ConfigError, match="phase=probe learns detector=linear_probe"):
        training.run(compose("train", ["phase=probe", *start, "detector=dda"]))
    with pytest.raises(ConfigError, match=r"phase\.rope_rescale: it is MIRROR's alone, not of detector=dda"):
        training.run(compose("train", ["phase=detector", *start, "phase.rope_rescale=2.0"]))
    for name in ("hf_classifier", "timm_classifier"):
        with pytest.raises(ConfigError, match=f"detector={name}: it cannot be trained"):
            training.run(compose("train", ["phase=detector", *start, f"detector={name}"]))
    with pytest.raises(ConfigError, match="checkpoint: phase=memory does not use it"):
        training.run(compose("train", ["phase=memory", *start]))
    Path("a.jpg").write_bytes(SMALL.data_root.joinpath(SMALL.rows()[0]["path"]).read_bytes())
    with pytest.raises(ConfigError, match="maps: this detector has no memory bank"):
        settings = ["input=[a.jpg]", "output=out.csv", f"maps={tmp_path}/maps", "device=cpu"]
        predicting.run(compose("predict", [*arguments("dda", weights), *settings]))
    more = ["benchmark=wildrf", f"data_root={SMALL.data_root}"]
    evaluation.run(compose("eval", [*eval_arguments("dda", weights, tmp_path / "run"), *more]))
    gallery.run(compose("gallery", [f"runs=[{tmp_path}/run]", f"output_dir={tmp_path}/gallery", "count=1"]))
    with pytest.raises(ConfigError, match="maps: this detector has no memory bank"):
        gallery.run(compose("gallery", [f"runs=[{tmp_path}/run]", f"output_dir={tmp_path}/no", "count=1", "maps=true"]))


def test_adapters_stay_apart_where_training_goes_on(weights: Path, tmp_path: Path) -> None:
    detector = _loaded("univfd", weights, weights / "fc_weights.pth")
    detector.adapt(LoraConfig(2, 4))
    save_checkpoint(tmp_path / "x.ckpt", detector, backbone=None, training={})
    settings = read_settings(
        compose(
            "train",
            ["phase=detector", *arguments("univfd", weights), f"checkpoint={tmp_path}/x.ckpt", f"data.root={tmp_path}"],
        ),
        DetectorTrainSettings,
    )
    assert loaded(settings, merge=False).lora == detector.lora  # type: ignore[attr-defined]
    assert loaded(settings).lora is None  # type: ignore[attr-defined]


def test_a_network_without_layers_to_compute_anew() -> None:
    checkpoint = BaselineSet("safe").folder / "checkpoint-best.pth"
    with pytest.raises(ConfigError, match=r"phase\.gradient_checkpointing: SAFE has no model of transformers"):
        load_detector(checkpoint, detector="safe").checkpoint_gradients()


CROPS = {"univfd": 224, "dda": 336, "bfree": 504}


@pytest.mark.parametrize("name", ["univfd", "dda", pytest.param("bfree", marks=pytest.mark.slow)])  # at 504 px
def test_each_is_trained_further(name: str, weights: Path, tmp_path: Path) -> None:
    """From its published files: head and adapters learn, nothing else; the result scores alike in every way it is loaded."""
    data = _images(tmp_path)
    start = {"dda": "DDA_ckpt.pth", "univfd": "fc_weights.pth", "bfree": "BFREE_dino2reg4"}[name]
    output = tmp_path / "run"
    settings = [
        "phase=detector", *arguments(name, weights), f"checkpoint={weights / start}", f"data.root={data}", f"output_dir={output}",
        f"augment.crop_px={CROPS[name]}", "augment.rescale_px=[504,600]", f"+validation.own={data}", "phase.epochs=2", "batch_size=4", "optimizer.lr=1",
        "trainer.accelerator=cpu", "num_workers=0", "logger=none", "~callbacks.progress", f"paths.outputs={tmp_path}",
        "phase.gradient_checkpointing=true",
    ]  # fmt: skip
    training.run(compose("train", settings))
    before = _loaded(name, weights, weights / start)
    after = load_detector(output / "last.ckpt", detector=name, merge=False)
    was, now = ({our_name(n): t for n, t in d.state_dict().items()} for d in (before, after))
    changed = {key for key in was if not torch.equal(was[key], now[key])}
    assert {"head.weight", "head.bias"} <= changed
    assert all(key.startswith("head.") or is_adapter(key) for key in changed)
    adapters = [key for key in now if key.endswith(".lora_b")]
    assert adapters
    assert all(bool(now[key].any()) for key in adapters)
    pictures = sorted(data.rglob("*.png"))[:3]
    merged = load_detector(output / "last.ckpt", detector=name)
    assert type(merged) is type(after)
    torch.testing.assert_close(logits_of(merged, pictures), logits_of(after, pictures), rtol=1e-4, atol=1e-4)
    module = DetectorModule.load_from_checkpoint(output / "last.ckpt")
    assert torch.equal(logits_of(module.detector, pictures), logits_of(after, pictures))  # type: ignore[arg-type]
    assert not torch.allclose(logits_of(before, pictures), logits_of(after, pictures), atol=1e-2)
    # Evaluated without the published files, which it no longer needs.
    command = [f"detector={name}", f"checkpoint={output}/best.ckpt", "benchmark=folder", f"data_root={data}"]
    evaluation.run(compose("eval", [*command, f"output_dir={tmp_path}/eval", *eval_arguments(name, weights, tmp_path)[-3:]]))
    figures, trained = (json.loads(file.read_text()) for file in (tmp_path / "eval/metrics.json", output / "run.json"))
    assert figures["mean"]["bal_acc"] == pytest.approx(trained["best"]["bal_acc"]["own"])
    with pytest.raises(CheckpointError, match=f"holds another detector; give detector={name}"):
        load_detector(output / "last.ckpt")
    other = NAMES[NAMES.index(name) - 1]
    with pytest.raises(CheckpointError, match=f"holds another detector; give detector={name}"):
        load_detector(output / "last.ckpt", detector=other)
    # And further still: a file of ours is a start like the published one.
    training.run(
        compose("train", [*settings, f"checkpoint={output}/last.ckpt", f"output_dir={tmp_path}/again", "phase.epochs=1"])
    )
    assert json.loads((tmp_path / "again/run.json").read_text())["started_from"] == f"{output}/last.ckpt"


def _images(folder: Path) -> Path:
    """Bright fakes and dark reals, of noise."""
    rng = np.random.default_rng(0)
    for number in range(8):
        pixels = rng.integers(0, 128, (520, 520, 3), np.uint8) + np.uint8(100 * (number % 2))
        path = folder / "images" / ("0_real", "1_fake")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder / "images"


def _loaded(name: str, weights: Path, start: Path) -> Baseline:
    size = {} if name == "univfd" else {"size": BaselineSet(name).size}
    folder = {"backbone_folder": weights / "clip-vit-large-patch14"} if name == "univfd" else {}
    return load_detector(start, detector=name, merge=False, **size, **folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": {"width": 10**9}}, "carries a description that is damaged"),
        ({"size": 3}, "carries a description that is damaged"),
        ({"lora": {"rank": 0}}, "carries a description that is damaged"),
        ({"name": ["DDA"]}, "holds another detector"),
        ({"name": "MIRROR"}, "holds another detector; give detector=mirror"),
        ({"name": "Elsewhere"}, "holds another detector; install the package that registers 'Elsewhere'"),
        ({"size": {"width": 64, "depth": 3, "heads": 4, "mlp_width": 256}}, "1 of 3 layers missing"),
    ],
)
def test_a_damaged_description(weights: Path, tmp_path: Path, change: dict[str, object], message: str) -> None:
    detector = _loaded("dda", weights, weights / "DDA_ckpt.pth")
    save_checkpoint(tmp_path / "x.ckpt", detector, backbone=None, training={})
    assert load_detector(tmp_path / "x.ckpt", detector="dda").lora is None
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)
    content["mirror_pl"]["detector"] |= change
    torch.save(content, tmp_path / "y.ckpt")
    with pytest.raises(CheckpointError, match=message):
        load_detector(tmp_path / "y.ckpt", detector="dda")
