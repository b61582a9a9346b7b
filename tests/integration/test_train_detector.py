"""Phase 2 as a user runs it: a bank learnt by Phase 1, a detector trained around it, evaluated by the same command as any."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_set import SMALL
from interruptions import run_with_kills, stopped_after_saves
from PIL import Image
from torch import Tensor

from mirror_pl.config.command import compose
from mirror_pl.detectors import DetectorConfig, load_detector
from mirror_pl.detectors.checkpoint import load_backbone
from mirror_pl.detectors.checkpoint.backbone_folder import read_backbone_folder
from mirror_pl.errors import CheckpointError, ConfigError, DataError
from mirror_pl.jobs import eval as evaluation
from mirror_pl.jobs.train import run
from mirror_pl.modules import DetectorModule

IMAGES = Path(tempfile.gettempdir()) / f"mirror_pl_detector_images_{os.getpid()}"


@pytest.fixture(scope="module", autouse=True)
def _images() -> Iterator[None]:
    """37 small pictures and darker ones, half for training and half for validation."""
    for number, pixels in enumerate(SMALL.pixels()):
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        fake = image.point(lambda value: value // 3)
        for label, picture in (("0_real", image), ("1_fake", fake)):
            folder = IMAGES / ("train" if number % 2 else "val") / label
            folder.mkdir(parents=True, exist_ok=True)
            picture.save(folder / f"{number}.jpg", quality=95)
    shutil.copytree(IMAGES / "val/0_real", IMAGES / "reals/0_real")
    yield
    shutil.rmtree(IMAGES)


def overrides(output: Path, *more: str) -> list[str]:
    return [
        f"backbone.path={SMALL.backbone_path}", f"output_dir={output}", "trainer.accelerator=cpu", "logger=none", "batch_size=8",
        "num_workers=0", f"paths.outputs={output.parent / 'outputs'}", "~callbacks.progress", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bank") / "run"
    small = ["phase.slots=48", "phase.heads=4", "phase.top_k=6", "phase.epochs=2", "optimizer.lr=1e-2"]
    run(compose("train", overrides(output, "phase=memory", f"data.real={IMAGES}/train/0_real", *small)))
    return output / "memory_bank.pth"


BASE = ["phase=detector", f"data.root={IMAGES}/train", "phase.epochs=3", "optimizer.lr=1e-1", "save_every_steps=3"]
VALIDATED = [*BASE, f"+validation.seen={IMAGES}/val"]


def train(output: Path, *more: str) -> Path:
    run(compose("train", overrides(output, *more)))
    return output


def weights_of(file: Path) -> dict[str, Tensor]:
    return torch.load(file, weights_only=True)["state_dict"]


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def trained(bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("train") / "run", f"memory_path={bank}", *VALIDATED)


def facts_of(output: Path) -> dict[str, Any]:
    return json.loads((output / "run.json").read_text())


def test_what_a_run_leaves(trained: Path, bank: Path) -> None:
    facts = facts_of(trained)
    assert facts["steps"] == 3 * (36 // 8)
    assert facts["detector"]["memory_bank"] == {"slots": 48, "heads": 4, "top_k": 6}, "as the bank was trained"
    assert facts["detector"]["lora"] == {"rank": 8, "alpha": 16.0}
    assert facts["best"]["step"] in (4, 8, 12)
    assert set(facts["checkpoints"]) == {"last.ckpt", "best.ckpt"}
    ours = torch.load(trained / "best.ckpt", weights_only=True)["mirror_pl"]
    assert ours["training"]["data"] == facts["data"]["fingerprint"]
    assert ours["training"]["step"] == facts["best"]["step"]
    assert ours["training"]["config"]["memory_path"] == str(bank)
    assert DetectorConfig.from_dict(ours["detector"]) == DetectorConfig.from_dict(facts["detector"])


def test_it_learns(trained: Path) -> None:
    """The fakes are crude: that they are learnt shows that gradients arrive, nothing more."""
    assert facts_of(trained)["best"]["bal_acc"]["seen"] >= 0.8


def test_frozen_parts_do_not_change_and_are_not_in_the_file(trained: Path, bank: Path) -> None:
    saved = weights_of(trained / "last.ckpt")
    learnt = torch.load(bank, weights_only=True)["model_state_dict"]
    names = {"memory": "memory", "q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "out"}
    for name, tensor in learnt.items():
        first, _, rest = name.partition(".")
        assert torch.equal(saved[f"memory_bank.{names[first]}" + (f".{rest}" if rest else "")], tensor)
    assert not [name for name in saved if name.startswith("backbone.") and ".lora_" not in name]
    detector = load_detector(trained / "last.ckpt", merge=False)
    frozen = load_backbone(SMALL.backbone_path).state_dict()
    now = {name.replace(".base_layer.", "."): tensor for name, tensor in detector.backbone.state_dict().items()}
    assert all(torch.equal(now[name], tensor) for name, tensor in frozen.items())


def test_the_checkpoint_is_evaluated_like_any_other(trained: Path, tmp_path: Path) -> None:
    """By the command, the validation's own figure comes out again, from the checkpoint and from both exports of it."""
    from mirror_pl.jobs import convert as conversion

    conversion.run(compose("convert", [f"input={trained}/best.ckpt", f"output={tmp_path}/folder"]))
    conversion.run(compose("convert", [f"input={trained}/best.ckpt", f"output={tmp_path}/published.pth"]))
    figures = []
    for number, checkpoint in enumerate((trained / "best.ckpt", tmp_path / "folder", tmp_path / "published.pth")):
        output = tmp_path / f"eval{number}"
        settings = [f"checkpoint={checkpoint}", "benchmark=folder", f"data_root={IMAGES}/val", f"output_dir={output}"]
        settings += ["trainer.accelerator=cpu", "num_workers=0", "~callbacks.progress", f"paths.outputs={tmp_path}"]
        evaluation.run(compose("eval", settings))
        figures.append(json.loads((output / "metrics.json").read_text())["mean"]["bal_acc"])
    assert figures == [pytest.approx(facts_of(trained)["best"]["bal_acc"]["seen"], abs=1e-9)] * 3


def test_an_evaluation_may_be_given_the_bank_too(trained: Path, bank: Path, tmp_path: Path) -> None:
    """As the published script is; it must be the one that the checkpoint holds."""
    pixels = SMALL.pixels()[:2]
    alone = load_detector(trained / "last.ckpt")(pixels).logit
    assert torch.equal(load_detector(trained / "last.ckpt", memory_path=bank)(pixels).logit, alone)
    with pytest.raises(CheckpointError, match="is another bank than the one"):
        load_detector(trained / "last.ckpt", memory_path=SMALL.memory_path)


def test_the_same_seed_gives_the_same_bytes_whatever_the_workers(trained: Path, bank: Path, tmp_path: Path) -> None:
    again = train(tmp_path / "again", f"memory_path={bank}", *VALIDATED, "num_workers=2")
    assert equal(weights_of(trained / "last.ckpt"), weights_of(again / "last.ckpt"))
    assert equal(weights_of(trained / "best.ckpt"), weights_of(again / "best.ckpt"))
    unvalidated = train(tmp_path / "unvalidated", f"memory_path={bank}", *BASE)
    assert equal(weights_of(trained / "last.ckpt"), weights_of(unvalidated / "last.ckpt")), "looking changes nothing"
    assert not (unvalidated / "best.ckpt").exists()
    other = train(tmp_path / "other", f"memory_path={bank}", *BASE, "seed=1")
    assert not equal(weights_of(trained / "last.ckpt"), weights_of(other / "last.ckpt"))


@pytest.mark.parametrize("saves", [1, 2, 3])
def test_a_stopped_run_goes_on_to_the_same_weights(
    trained: Path, bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: int
) -> None:
    """Dropout, augmentation, the choice of the best and all."""
    output = tmp_path / "run"
    with stopped_after_saves(monkeypatch, saves):
        train(output, f"memory_path={bank}", *VALIDATED)
    train(output, f"memory_path={bank}", *VALIDATED, "resume=true")
    for name in ("last.ckpt", "best.ckpt"):
        assert equal(weights_of(output / name), weights_of(trained / name))
    assert facts_of(output)["best"] == facts_of(trained)["best"]
    assert facts_of(output)["resumed_after"] == {1: 3, 2: 4, 3: 6}[saves], "every third step, and after each epoch"


def test_early_stopping(bank: Path, tmp_path: Path) -> None:
    """A learning rate next to nothing: no validation is better than the first."""
    stopping = ["callbacks=[training,early_stopping]", "callbacks.early_stopping.patience=2"]
    more = [*VALIDATED, *stopping, "optimizer.lr=1e-12", "scheduler.last_lr=0", "phase.epochs=9"]
    output = train(tmp_path / "run", f"memory_path={bank}", *more)
    facts = facts_of(output)
    assert facts["stopped_early"]
    assert facts["steps"] == 3 * 4
    assert facts["best"]["step"] == 4
    (output / "run.json").unlink()  # killed before its last file
    train(output, f"memory_path={bank}", *more, "resume=true")
    assert facts_of(output)["steps"] == 3 * 4


@pytest.mark.parametrize(
    ("option", "evidence"),
    [
        ("mirror_no_cls", {"max_weight", "entropy", "mean_residual"}),
        ("mirror_perplexity", {"max_weight", "entropy", "mean_residual"}),
        ("mirror_residual", {"max_weight", "entropy", "mean_residual"}),
        ("direct", set()),
    ],
)
def test_the_variants_of_the_ablation(bank: Path, tmp_path: Path, option: str, evidence: set[str]) -> None:
    more = [] if option == "direct" else [f"memory_path={bank}"]
    output = train(tmp_path / "run", *BASE, "phase.epochs=1", f"detector={option}", *more)
    detector = load_detector(output / "last.ckpt")
    inputs = set(detector.config.head.inputs)
    assert ("cls" in inputs) == (option != "mirror_no_cls")
    assert ("perplexity" in inputs, "residual" in inputs) == {
        "mirror_no_cls": (True, True), "mirror_perplexity": (True, False), "mirror_residual": (False, True), "direct": (False, False),
    }[option]  # fmt: skip
    verdict = detector(SMALL.pixels()[:2])
    assert set(verdict.evidence) == {"logit_real", "logit_fake"} | evidence


def test_self_contained_files_need_no_folder(bank: Path, tmp_path: Path) -> None:
    backbone = tmp_path / "backbone"
    shutil.copytree(SMALL.backbone_path, backbone)
    settings = [f"memory_path={bank}", *BASE, "phase.epochs=1", f"backbone.path={backbone}"]
    alone = train(tmp_path / "alone", *settings, "phase.self_contained=true")
    leaning = train(tmp_path / "leaning", *settings)
    expected = load_detector(leaning / "last.ckpt", merge=False)(SMALL.pixels()[:3]).logit
    shutil.rmtree(backbone)
    assert torch.equal(load_detector(alone / "last.ckpt", merge=False)(SMALL.pixels()[:3]).logit, expected)
    with pytest.raises(CheckpointError, match=r"backbone_folder=FOLDER"):
        load_detector(leaning / "last.ckpt")


def test_options_of_the_phase(bank: Path, tmp_path: Path) -> None:
    """No LoRA trains the head alone; the other options run, and are kept."""
    output = train(
        tmp_path / "head", f"memory_path={bank}", *BASE, "phase.epochs=1", "phase.lora_rank=null", "phase.top_k=3"
    )
    assert not any(".lora_" in name for name in weights_of(output / "last.ckpt"))
    assert facts_of(output)["detector"]["memory_bank"]["top_k"] == 3
    more = [
        "phase.rope_rescale=2.0",
        "phase.gradient_checkpointing=true",
        "module.retrieval_gradient=false",
        "data.balanced=true",
    ]
    more += ["trainer.precision=bf16-mixed", "trainer.gradient_clip_val=1.0", "augment.jpeg_quality=[70,80]"]
    output = train(tmp_path / "all", f"memory_path={bank}", *BASE, "phase.epochs=1", *more)
    assert facts_of(output)["detector"]["backbone"]["rope_rescale"] == 2.0
    assert facts_of(output)["precision"] == "bf16-mixed"


def test_gradient_checkpointing_changes_nothing(
    trained: Path, bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    begin = DetectorModule.begin_training

    def count_layers(self: DetectorModule) -> None:
        begin(self)
        for layer in self.detector.backbone.modules():
            if type(layer).__name__.endswith("Attention"):
                layer.register_forward_pre_hook(lambda *_: calls.append("layer"))

    monkeypatch.setattr(DetectorModule, "begin_training", count_layers)
    output = train(tmp_path / "run", f"memory_path={bank}", *BASE, "phase.gradient_checkpointing=true")
    assert len(calls) == 12 * 2 * 2, "in every step each of the two layers forward, and again on the way back"
    assert equal(weights_of(output / "last.ckpt"), weights_of(trained / "last.ckpt"))


@pytest.mark.slow  # a rare setting, and two trainings
def test_positions_rescaled_at_random_are_so_from_the_first_step_and_after_a_stop(
    trained: Path, bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [f"memory_path={bank}", "phase.rope_rescale=2.0"]
    whole = weights_of(train(tmp_path / "whole", *settings, *VALIDATED) / "last.ckpt")
    assert not equal(whole, weights_of(trained / "last.ckpt"))
    assert equal(whole, weights_of(train(tmp_path / "unvalidated", *settings, *BASE) / "last.ckpt"))
    with stopped_after_saves(monkeypatch):
        train(tmp_path / "stopped", *settings, *VALIDATED)
    assert equal(whole, weights_of(train(tmp_path / "stopped", *settings, *VALIDATED, "resume=true") / "last.ckpt"))


def test_registers_are_dropped_as_the_bank_was_trained(tmp_path: Path) -> None:
    small = ["phase.slots=16", "phase.heads=4", "phase.top_k=6", "phase.epochs=1", "phase.drop_registers=true"]
    run(compose("train", overrides(tmp_path / "bank", "phase=memory", f"data.real={IMAGES}/train/0_real", *small)))
    output = train(tmp_path / "run", f"memory_path={tmp_path}/bank/memory_bank.pth", *BASE, "phase.epochs=1")
    assert load_detector(output / "last.ckpt").config.drop_registers


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (["memory_path=null"], ConfigError, "memory_path: not given"),
        (["detector=direct"], ConfigError, "detector=direct has no memory bank"),
        (["memory_path=nowhere.pth"], CheckpointError, r"nowhere\.pth does not exist"),
        ([f"memory_path={SMALL.checkpoint}"], CheckpointError, "holds no memory bank"),
        (["backbone.path=null", "backbone=tiny", "backbone.name=dinov3_b"], ConfigError, r"backbone\.path: not given"),
        (["detector.head.inputs=[]"], ConfigError, "head inputs must be some of perplexity, residual, cls"),
        (["detector.head.inputs=[clss]"], ConfigError, "head inputs must be some of"),
        (["detector.head.dropout=1.0"], ConfigError, "head dropout must be at least 0 and less than 1"),
        (["module.label_smoothing=1"], ConfigError, r"label_smoothing must be"),
        (["callbacks=[training,early_stopping]"], ConfigError, r"callbacks\.early_stopping: there is no validation set"),
        (["checkpoint=x.pth"], ConfigError, "checkpoint and memory_path: the checkpoint holds its bank"),
        (["phase.lora_rank=0"], ConfigError, "rank of LoRA must be at least 1"),
        (["phase.top_k=49"], ConfigError, "top_k must be between 1 and the 48 slots"),
        (["phase.rope_rescale=1.0"], ConfigError, "rope_rescale must be more than 1"),
        (["scheduler.warm_up_epochs=-1"], ConfigError, r"scheduler\.warm_up_epochs must be 0 or more"),
        (
            ["augment.crop_px=100", "augment.rescale_px=[100,200]"],
            ConfigError,
            r"augment\.crop_px must be a multiple .* use 96",
        ),
        (["+validation.here=nowhere"], DataError, "nowhere"),
        ([f"+validation.here={IMAGES}/train/0_real"], DataError, r"validation\.here: .*none of its 1 subsets has an image"),
        ([f"+validation.here={IMAGES}/reals"], DataError, r"validation\.here: none of the 0 fake images of subset ALL"),
        (["+validation.here={benchmark: folder, data_root: null}"], ConfigError, r"validation\.here: expected FOLDER"),
        (["+validation.here={benchmark: foldr, data_root: x}"], ConfigError, r"validation\.here: .* Did you mean folder"),
        (["data.labels=[0]"], DataError, "no fake image, and a detector learns to tell"),
        (["optimizer.lr=-1"], ConfigError, "Invalid learning rate"),
        (["phase.lora_alpha=nan"], ConfigError, "alpha of LoRA must be more than 0"),
        (["phase.rope_rescale=nan"], ConfigError, "rope_rescale must be more than 1"),
        (["+phase.lora_rnk=3"], ConfigError, r"phase\.lora_rnk: there is no such setting. Did you mean lora_rank"),
        (["trainer.strategy=fsdp"], ConfigError, "trainer"),
        (["+validation.here=3"], ConfigError, r"validation\.here: expected FOLDER"),
        (["data.root=null", f"data.real={IMAGES}/train/0_real"], DataError, "no fake image"),
        (["phase.name=third"], ConfigError, r"phase\.name must be one of memory, detector, probe, miniature"),
    ],
)
def test_bad_settings_write_nothing(
    bank: Path, tmp_path: Path, change: list[str], error: type[Exception], message: str
) -> None:
    from mirror_pl.config.schema import read_train_settings

    with pytest.raises(error, match=message):
        cfg = compose("train", overrides(tmp_path / "run", f"memory_path={bank}", *BASE, *change))
        read_train_settings(cfg)
        run(cfg)
    assert not (tmp_path / "run").exists()


def test_a_bank_of_another_backbone_is_refused(tmp_path: Path, bank: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(SMALL.backbone_path, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"num_attention_heads": 2}))
    assert read_backbone_folder(other) != read_backbone_folder(SMALL.backbone_path)
    with pytest.raises(
        CheckpointError, match=r"features of another backbone: backbone dinov3, .* 4 heads.* here .* 2 heads"
    ):
        train(tmp_path / "run", f"memory_path={bank}", *BASE, f"backbone.path={other}")
    more = ["backbone.path=null", "backbone=tiny"]  # the same architecture
    with pytest.raises(CheckpointError, match=r"features of another backbone: weights .* here random, seed 0"):
        train(tmp_path / "run", f"memory_path={bank}", *BASE, *more)


def test_resuming_with_another_bank_or_validation_set_is_refused(
    bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(bank, tmp_path / "bank.pth")
    shutil.copytree(IMAGES / "val", tmp_path / "val")
    settings = [f"memory_path={tmp_path}/bank.pth", *BASE, f"+validation.seen={tmp_path}/val"]
    with stopped_after_saves(monkeypatch):
        train(tmp_path / "run", *settings)
    next((tmp_path / "val/0_real").iterdir()).unlink()
    content = torch.load(bank, weights_only=True)
    torch.save(content | {"epoch": 99}, tmp_path / "bank.pth")
    with pytest.raises(ConfigError, match=r"has changed since it was started: memory_bank: .* validation\.seen"):
        train(tmp_path / "run", *settings, "resume=true")


def test_resuming_with_other_backbone_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file, save_file

    backbone = tmp_path / "backbone"
    shutil.copytree(SMALL.backbone_path, backbone)
    settings = [*BASE, "detector=direct", f"backbone.path={backbone}"]
    with stopped_after_saves(monkeypatch):
        train(tmp_path / "run", *settings)
    weights = load_file(backbone / "model.safetensors")
    save_file({name: tensor * 1.1 for name, tensor in weights.items()}, backbone / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match="has changed since it was started: backbone"):
        train(tmp_path / "run", *settings, "resume=true")


def test_a_bank_that_goes_away_in_training_is_not_missed(
    bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(bank, tmp_path / "bank.pth")
    monkeypatch.setattr(DetectorModule, "on_train_end", lambda *args: (tmp_path / "bank.pth").unlink())
    output = train(tmp_path / "run", f"memory_path={tmp_path}/bank.pth", *BASE, "phase.epochs=1")
    assert len(facts_of(output)["memory"]["sha256"]) == 64


@pytest.mark.parametrize("change", [{"memory": torch.zeros(3)}, {"num_heads": "four"}, {"num_heads": 0}, {"top_k": 0}])
def test_damaged_banks_are_named(bank: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    content = torch.load(bank, weights_only=True)
    part = content["model_state_dict" if "memory" in change else "memory_config"]
    part.update(change)
    torch.save(content, tmp_path / "bank.pth")
    with pytest.raises(CheckpointError, match="is damaged"):
        train(tmp_path / "run", f"memory_path={tmp_path}/bank.pth", *BASE)


@pytest.mark.slow  # each start takes ten seconds
def test_killed_at_any_moment(trained: Path, bank: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    settings = overrides(output, f"memory_path={bank}", *VALIDATED, "save_every_steps=1")
    command = [sys.executable, "-m", "mirror_pl.train", *settings]
    assert run_with_kills(command, output, (0.0, 0.2, 0.5, 0.05, 0.9)) >= 2
    for name in ("last.ckpt", "best.ckpt"):
        assert equal(weights_of(output / name), weights_of(trained / name))


@pytest.mark.slow  # three processes that start anew
def test_two_processes_with_a_batch_that_one_of_them_cannot_read(bank: Path, tmp_path: Path) -> None:
    """Each step one image a process: where it cannot be read, the other's is all there is, and nobody waits for ever."""
    shutil.copytree(IMAGES / "train", tmp_path / "train")
    next((tmp_path / "train/0_real").iterdir()).write_bytes(b"no image")
    more = [f"memory_path={bank}", *BASE, f"data.root={tmp_path}/train", "batch_size=2", "phase.epochs=1"]
    ddp = ["trainer.devices=2", "trainer.strategy=ddp"]
    command = [sys.executable, "-m", "mirror_pl.train", *overrides(tmp_path / "run", *more, *ddp)]
    assert subprocess.run(command, stdout=subprocess.DEVNULL, timeout=240, check=False).returncode == 3
    assert facts_of(tmp_path / "run")["images"]["unreadable"] == 1


@pytest.mark.slow  # three processes that start anew
def test_two_processes_agree_with_one(bank: Path, tmp_path: Path) -> None:
    """The same global batches, shared out: without dropout the same weights, but for the order of float additions."""
    more = [f"memory_path={bank}", *VALIDATED, "optimizer.lr=1e-3", "detector.head.dropout=0.0"]
    alone = train(tmp_path / "alone", *more)
    ddp = ["trainer.devices=2", "trainer.strategy=ddp"]
    command = [sys.executable, "-m", "mirror_pl.train", *overrides(tmp_path / "two", *more, *ddp)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=240)
    one, two = weights_of(alone / "last.ckpt"), weights_of(tmp_path / "two/last.ckpt")
    for name, tensor in two.items():
        torch.testing.assert_close(tensor, one[name], rtol=1e-3, atol=1e-4)
    assert facts_of(tmp_path / "two")["best"] == facts_of(alone)["best"]


def test_a_detector_is_trained_further(trained: Path, tmp_path: Path) -> None:
    """The published file, with its own LoRA; one of ours, whose backbone is elsewhere; one that was merged, with a fresh LoRA."""
    from mirror_pl.jobs import convert as conversion

    merged = ["merge_lora=true", f"input={SMALL.checkpoint}", f"output={tmp_path}/merged"]
    conversion.run(compose("convert", merged))
    for number, (start, backbone) in enumerate(
        ((SMALL.checkpoint, "null"), (trained / "best.ckpt", "null"), (tmp_path / "merged", "null"))
    ):
        more = [*BASE, "phase.epochs=1", f"checkpoint={start}", f"backbone.path={backbone}", "optimizer.lr=1e-2"]
        output = train(tmp_path / str(number), *more)
        before, after = load_detector(start, merge=False), load_detector(output / "last.ckpt", merge=False)
        assert after.config.lora is not None
        was, now = ({n.replace(".base_layer.", "."): t for n, t in d.state_dict().items()} for d in (before, after))
        changed = {name for name, tensor in was.items() if not torch.equal(now[name], tensor)}
        assert any(name.startswith("head.") for name in changed)
        assert all(name.startswith("head.") or ".lora_" in name for name in changed)
        assert any(bool(now[name].any()) for name in now if ".lora_B." in name)
        assert facts_of(output)["started_from"] == str(start)
        left_out = not any(
            name.startswith("backbone.layers") and ".lora_" not in name for name in weights_of(output / "last.ckpt")
        )
        assert left_out == (start == trained / "best.ckpt")


def test_a_banks_checkpoint_is_a_bank(tmp_path: Path) -> None:
    small = ["phase.slots=16", "phase.heads=4", "phase.top_k=6", "phase.epochs=1"]
    run(compose("train", overrides(tmp_path / "bank", "phase=memory", f"data.real={IMAGES}/train/0_real", *small)))
    output = train(tmp_path / "run", f"memory_path={tmp_path}/bank/last.ckpt", *BASE, "phase.epochs=1")
    bank = torch.load(tmp_path / "bank/memory_bank.pth", weights_only=True)["model_state_dict"]["memory"]
    assert torch.equal(weights_of(output / "last.ckpt")["memory_bank.memory"], bank)
