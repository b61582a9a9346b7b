"""Files that mean no good: a few bytes that ask for much memory or time, and what no writer writes. Each is refused by name."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from baseline_set import BaselineSet
from golden_set import SMALL

from mirror_pl.detectors import load_detector
from mirror_pl.detectors.baseline import VitSize
from mirror_pl.detectors.bfree import BfreeDetector
from mirror_pl.detectors.checkpoint import load_backbone, load_bank, read_checkpoint, read_detector, save_folder
from mirror_pl.detectors.checkpoint.backbone_folder import read_backbone_folder
from mirror_pl.detectors.checkpoint.torch_file import is_plain
from mirror_pl.detectors.dda import DdaDetector
from mirror_pl.detectors.detector_config import BackboneConfig
from mirror_pl.detectors.mirror import MirrorDetector
from mirror_pl.detectors.univfd import UnivfdDetector
from mirror_pl.errors import CheckpointError, ConfigError, shown

pytestmark = pytest.mark.timeout(30)
HEAD = BaselineSet("univfd").folder / "fc_weights.pth"
BFREE = BaselineSet("bfree").folder / "weights" / "BFREE_dino2reg4"
DEEP = "[" * 100_000 + "]" * 100_000
MAGIC = 0x1950A86A20F9469CFC6C


def zip_file(path: Path, content: bytes, compression: int = zipfile.ZIP_STORED, name: str = "x/data.pkl") -> Path:
    """What `torch.save` writes, around a pickle of any kind."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(name, content)
        archive.writestr("x/version", "3\n")
        archive.writestr("x/byteorder", "little")
    return path


def legacy_file(path: Path, content: bytes) -> Path:
    """What the first versions of torch wrote."""
    head = [MAGIC, 1001, {"protocol_version": 1001, "little_endian": True}]
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + content + pickle.dumps([], 2))
    return path


def refusal(path: Path, load: Callable[[Path], object] = read_checkpoint) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 2000
    return str(caught.value)


def bytes_of_any_number() -> bytes:
    return b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R."


def a_key_that_holds_itself(levels: int = 60) -> bytes:
    body = b"\x80\x02}K\x01\x85q\x00"
    return body + b"".join(b"h%c\x86q%c" % (level, level + 1) for level in range(levels)) + b"K\x01s."


def the_same_list_many_times() -> bytes:
    return b"\x80\x02]q\x00(" + b"K\x01" * 10_000 + b"e0]q\x01(" + b"c__builtin__\nset\nh\x00\x85R" * 1000 + b"e."


def keys_of_one_hash(count: int = 50_000) -> bytes:
    prime = 2**61 - 1
    return (
        b"\x80\x02}("
        + b"".join(b"\x8a\x0a" + (prime * (n + 1)).to_bytes(10, "little") + b"K\x01" for n in range(count))
        + b"u."
    )


@pytest.mark.parametrize("write", [zip_file, legacy_file])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (bytes_of_any_number(), "__builtin__.bytearray"),
        (b"\x80\x02c_codecs\nencode\n.", "_codecs.encode"),
        (b"\x80\x02ctorch\nFloatTensor\nJ\xff\xff\xff\x7f\x85R.", "torch.FloatTensor"),
        (a_key_that_holds_itself(), "too many values"),
        (the_same_list_many_times(), "too many values"),
        (keys_of_one_hash(), "too many values"),
        (b"\x80\x02" + b"]" * 2**20 + b".", "too many values"),
        (b"\x80\x02h\x05.", "no PyTorch checkpoint"),
        (b"\x80\x02\x86.", "no PyTorch checkpoint"),
    ],
    ids=["bytearray", "codec", "tensor", "tuples", "lists", "integers", "large", "no memo", "no stack"],
)
def test_pickles_that_ask_for_much(tmp_path: Path, write: Callable[..., Path], content: bytes, said: str) -> None:
    assert said in refusal(write(tmp_path / "x.pth", content))


def test_archives_that_are_larger_than_they_look(tmp_path: Path) -> None:
    content = b"\x80\x02(" + b"K\x01" * 10**6 + b"t."
    assert "x/data.pkl is compressed" in refusal(zip_file(tmp_path / "x.pth", content, zipfile.ZIP_DEFLATED))
    torch.save({"model": {"a": torch.zeros(10**6)}}, tmp_path / "whole.pth")
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(tmp_path / "y.pth", "w") as archive:
        for member in whole.infolist():
            is_storage = member.filename.endswith("data/0")
            compression = zipfile.ZIP_DEFLATED if is_storage else zipfile.ZIP_STORED
            archive.writestr(member.filename, whole.read(member), compression)
    assert "data/0 is compressed" in refusal(tmp_path / "y.pth")
    with zipfile.ZipFile(tmp_path / "z.pth", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({}, 2))
        archive.writestr("x/data/0", bytes(1000))
        archive.filelist += archive.filelist[1:] * 5  # of one member, six names
        archive.NameToInfo = {str(number): member for number, member in enumerate(archive.filelist)}
    assert "members overlap" in refusal(tmp_path / "z.pth")
    assert "DATA.PKL has" in refusal(zip_file(tmp_path / "capitals.pth", bytes(2**21 + 1), name="x/DATA.PKL"))
    whole = (tmp_path / "whole.pth").read_bytes()
    for around in (whole[:30] + whole, whole + whole, whole[:-2] + b"\x04\x00note", whole[:-34] + bytes(8) + whole[-26:]):
        (tmp_path / "around.pth").write_bytes(around)
        refusal(tmp_path / "around.pth")
    assert "x/data.pkl has" in refusal(zip_file(tmp_path / "large.pth", bytes(2**21 + 1)))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torch.zeros(3, device="meta"), "_rebuild_meta_tensor_no_storage"),
        (lambda: torch.eye(3).to_sparse(), "_rebuild_sparse_tensor"),
        (lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8), "_rebuild_qtensor"),
        (lambda: torch.zeros(1).expand(10**6, 10**6), "takes 4000000000000 bytes, of which the file has 4"),
    ],
    ids=["meta", "sparse", "quantised", "expanded"],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_weights(tmp_path: Path, make: Callable[[], torch.Tensor], said: str, legacy: bool) -> None:
    torch.save({"model": {"head.x": make()}}, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    assert said in refusal(tmp_path / "x.pth")


@pytest.mark.parametrize("name", [1, None, (1, 2), 1.5], ids=repr)
def test_names_that_are_no_text(tmp_path: Path, name: object) -> None:
    torch.save({"model": {"a": torch.zeros(1), name: torch.zeros(1)}}, tmp_path / "x.pth")
    assert f"{shown(name)} cannot be a weight: its name is no text" in refusal(tmp_path / "x.pth")


def test_what_tensors_say_of_their_sizes(tmp_path: Path) -> None:
    """Shapes and names that the architecture is read off."""
    model = torch.load(SMALL.checkpoint, weights_only=False)["model"]
    layer = "backbone.dino.layer.0.base_model.model."
    for name, tensor in (
        (f"{layer}mlp.up_proj.weight", torch.zeros(())),
        ("backbone.dino.embeddings.register_tokens", torch.zeros(3)),
        (f"backbone.dino.layer.{'9' * 5000}.norm1.weight", torch.zeros(3)),
        ("memory_bank.memory", torch.zeros(2**40, 0)),
        ("detector.head.0.weight", torch.zeros(0, 2**40)),
        ("detector.residual_mlp.0.weight", torch.zeros(2, 3)),
    ):
        torch.save({"model": model | {name: tensor}}, tmp_path / "x.pth")
        with pytest.raises(CheckpointError):
            load_detector(tmp_path / "x.pth")


def test_what_a_bank_says_of_itself(tmp_path: Path) -> None:
    for sizes in ({"num_heads": "abc"}, {"num_heads": None}, {"top_k": float("inf")}, {"top_k": 10**9}, {"num_heads": 0}):
        bank = torch.load(SMALL.memory_path, weights_only=False)
        torch.save(bank | {"memory_config": sizes}, tmp_path / "bank.pth")
        with pytest.raises(CheckpointError, match=r"x\.pth|checkpoint-h-cur"):
            load_detector(SMALL.checkpoint, memory_path=tmp_path / "bank.pth")
        refusal(tmp_path / "bank.pth", lambda path: load_bank(path, read_backbone_folder(SMALL.backbone_path)))


def test_values_beside_the_tensors(tmp_path: Path) -> None:
    knot: list[Any] = []
    for _ in range(60):
        knot = [knot, knot]
    deep: dict[str, Any] = {}
    for _ in range(200):
        deep = {"a": deep}
    endless: dict[str, Any] = {}
    endless["a"] = endless
    assert is_plain({"a": [1, "b", None, (2.0, True)]})
    for value in (knot, deep, endless, [0] * 10**6):
        assert not is_plain(value)
        assert len(shown(value)) < 1000
    for training in (knot, endless):
        for ours in ({"bank": {}, "training": training}, {"detector": {}, "training": training}, {"detector": training}):
            torch.save({"model": {"head.x": torch.zeros(1)}, "mirror_pl": ours}, tmp_path / "x.pth")
            with pytest.raises(CheckpointError):
                read_detector(tmp_path / "x.pth")


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    tensors, config = read_detector(SMALL.checkpoint)
    save_folder(tmp_path / "out", tensors, config)
    return tmp_path / "out"


def rewrite(file: Path, change: Callable[[Any], Any]) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


NUMBERS = {
    "backbone": ("width", "depth", "heads", "mlp_width", "patch_px", "registers", "native_px"),
    "lora": ("rank",),
    "memory_bank": ("slots", "heads", "top_k"),
    "head": ("perplexity_width", "residual_hidden", "residual_width", "hidden"),
    "preprocess": ("align_quality", "max_short_side_px"),
}


@pytest.mark.parametrize(("part", "key"), [(part, key) for part, keys in NUMBERS.items() for key in keys])
def test_numbers_of_a_config_have_bounds(converted: Path, part: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MirrorDetector, "__init__", lambda *_: pytest.fail("nothing is built"))
    before = (converted / "config.json").read_text()
    for value in (10**5, 10**9, 10**30, -1, True, 2.5, "abc", [2], {}):
        if (part, key) == ("memory_bank", "slots") and value == 10**5:
            continue  # there may be as many
        (converted / "config.json").write_text(before)
        rewrite(converted / "config.json", lambda c: c["detector"][part].update({key: value}) or c)  # noqa: B023
        assert key in refusal(converted, load_detector)


def test_a_depth_that_the_tensors_do_not_have(converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MirrorDetector, "__init__", lambda *_: pytest.fail("nothing is built"))
    rewrite(converted / "config.json", lambda c: c["detector"]["backbone"].update(depth=256) or c)
    with pytest.raises(CheckpointError, match=r"254 of 256 layers missing: backbone\.layers\.2\.\*(.|\n)*use backbone=tiny"):
        load_detector(converted)


def test_configs_whose_text_is_the_attack(converted: Path, tmp_path: Path) -> None:
    for text, said in ((DEEP, "nested too deeply"), ('{"detector": "' + "a" * 2**22 + '"}', "too large")):
        (converted / "config.json").write_text(text)
        assert said in refusal(converted, load_detector)
        (tmp_path / "hf").mkdir(exist_ok=True)
        (tmp_path / "hf" / "config.json").write_text(text)
        assert said in refusal(tmp_path / "hf", read_backbone_folder)
        assert said in refusal(tmp_path / "hf", lambda path: UnivfdDetector.load(HEAD, backbone_folder=path))
        (tmp_path / "hf" / "config.json").write_text((SMALL.backbone_path / "config.json").read_text())
        (tmp_path / "hf" / "model.safetensors.index.json").write_text(text)
        assert said in refusal(tmp_path / "hf", load_backbone)


STRANGE = ("abc", [1], None, -1, True, 32.5, {}, 10**9, float("nan"), 0)


@pytest.mark.parametrize(
    "key",
    ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size", "num_register_tokens"],
)
def test_numbers_of_a_dinov3_folder(tmp_path: Path, key: str) -> None:
    good = json.loads((SMALL.backbone_path / "config.json").read_text())
    for value in STRANGE:
        if (key, value) == ("num_register_tokens", 0):
            continue
        (tmp_path / "config.json").write_text(json.dumps(good | {key: value}))
        refusal(tmp_path, read_backbone_folder)


@pytest.mark.parametrize(
    "key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "patch_size", "image_size"]
)
def test_numbers_of_a_dinov2_folder(tmp_path: Path, key: str) -> None:
    for value in STRANGE:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2", key: value}))
        refusal(tmp_path, read_backbone_folder)


def test_other_keys_of_a_folder(tmp_path: Path) -> None:
    """What is not looked at does not reach transformers, which makes a name for each of so many labels."""
    good = json.loads((SMALL.backbone_path / "config.json").read_text())
    rest = {"num_labels": 3 * 10**7, "id2label": DEEP[:50], "torch_dtype": [], "out_features": 7, "architectures": {"a": 1}}
    (tmp_path / "config.json").write_text(json.dumps(good | rest))
    assert read_backbone_folder(tmp_path) == read_backbone_folder(SMALL.backbone_path)
    for change in (
        {"model_type": ["dinov2"]},
        {"model_type": {}},
        {"hidden_act": []},
        {"use_gated_mlp": "yes"},
        {"rope_theta": "a"},
    ):
        (tmp_path / "config.json").write_text(json.dumps(good | change))
        refusal(tmp_path, read_backbone_folder)
    for content in ([], 3, "a", None):
        (tmp_path / "config.json").write_text(json.dumps(content))
        refusal(tmp_path, read_backbone_folder)


def test_a_backbone_folder_without_its_last_layers(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SMALL.backbone_path, tmp_path / "hf"))
    rewrite(folder / "config.json", lambda c: c | {"num_hidden_layers": 250})
    assert "248 of 250 layers missing" in refusal(folder, load_backbone)


@pytest.mark.parametrize(
    "names", [[".."], ["a\0.safetensors"], ["none.safetensors"], [3], ["config.json"], {"a": {}}], ids=repr
)
def test_shards_that_are_none(tmp_path: Path, names: Any) -> None:
    folder = Path(shutil.copytree(SMALL.backbone_path, tmp_path / "hf"))
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict(enumerate(names))}))
    refusal(folder, load_backbone)


@pytest.mark.parametrize(
    "head",
    [
        {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}},
        {"a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F4", "shape": [16], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F8_E8M0", "shape": [8], "data_offsets": [0, 8]}},
        {"a": {"dtype": "C64", "shape": [1], "data_offsets": [8, 0]}},
        {"__metadata__": {"format": ["pt"]}},
        [],
    ],
    ids=repr,
)
def test_safetensors_that_lie(converted: Path, head: Any) -> None:
    text = json.dumps(head).encode()
    for size in (len(text), 2**40, 0):
        (converted / "model.safetensors").write_bytes(struct.pack("<Q", size) + text + bytes(8))
        with pytest.raises(CheckpointError):
            load_detector(converted)
        folder = shutil.copytree(SMALL.backbone_path, converted.parent / "hf", dirs_exist_ok=True)
        shutil.copy(converted / "model.safetensors", folder)
        refusal(Path(folder), load_backbone)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 10**9}, {"num_hidden_layers": 10**9}, {"num_hidden_layers": 200}, {"num_attention_heads": 0},
        {"intermediate_size": [1]}, {"projection_dim": 10**9}, {"projection_dim": "a"}, {"projection_dim": None},
        {"model_type": []}, {"hidden_act": {}}, {"layer_norm_eps": "a"}, {"image_size": [224]},
        {"model_type": "clip"}, {"model_type": "clip", "vision_config": 3}, {"model_type": "clip", "vision_config": [1]},
    ],
    ids=repr,
)  # fmt: skip
def test_the_clip_of_univfd(tmp_path: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UnivfdDetector, "__init__", lambda *_: pytest.fail("nothing is built"))
    whole = BaselineSet("univfd").folder
    clip = Path(shutil.copytree(whole / "clip-tiny-hf", tmp_path / "clip"))
    rewrite(clip / "config.json", lambda values: values | change)
    refusal(clip, lambda path: UnivfdDetector.load(HEAD, backbone_folder=path))


def test_the_config_of_bfree(tmp_path: Path) -> None:
    knot = "a: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
    merges = "b0: &b0 {x: 1}\n" + "".join(f"b{n}: &b{n} {{<<: [*b{n - 1}, *b{n - 1}]}}\n" for n in range(1, 60))
    for text, said in (
        (knot, "aliases"), (merges, "aliases"), (DEEP[:10_000], "nested deeply"), ("a: " + "b" * 2**14, "too large"),
        ("arch: [[[1]]]", "arch = [[[1]]]"), ("weights_file: {}", "arch = None"), ("a: 0x" + "f" * 5000, "arch"),
        ("arch: 0x" + "f" * 5000, "arch = <int>"), ("? [a]\n: b", "cannot be read"), ("", "expected keys and values, got None"),
    ):  # fmt: skip
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(CheckpointError, match=r"config\.yaml") as caught:
            BfreeDetector.load(tmp_path)
        assert said in str(caught.value)
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "size", [{"width": 10**9}, {"depth": 10**5}, {"heads": 0}, {"mlp_width": 2**40}, {"depth": True}], ids=repr
)
def test_sizes_that_are_asked_for_have_bounds(size: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(size))):
        VitSize(**({"width": 64, "depth": 2, "heads": 4, "mlp_width": 128} | size))


def test_a_depth_that_is_asked_for_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BfreeDetector, "__init__", lambda *_: pytest.fail("nothing is built"))
    folder = BFREE / "model_epoch_best.pth"
    with pytest.raises(CheckpointError, match="layers missing"):
        BfreeDetector.load(folder, size=VitSize(64, 256, 4, 128))


def test_heads_that_rope_does_not_fit() -> None:
    """No shape tells of them, so a detector with them would load, and stop at its first picture."""
    with pytest.raises(ConfigError, match="multiple of 4"):
        BackboneConfig("dinov3", width=32, depth=2, heads=16, mlp_width=64)


KINDS: dict[str, tuple[Path, str, Callable[[Path], object]]] = {
    "published": (SMALL.checkpoint, "", load_detector),
    "bank": (SMALL.memory_path, "", lambda path: load_detector(SMALL.checkpoint, memory_path=path)),
    "weights": (SMALL.backbone_path, "model.safetensors", load_backbone),
    "config": (SMALL.backbone_path, "config.json", load_backbone),
    "clip": (
        BaselineSet("univfd").folder / "clip-tiny-hf",
        "config.json",
        lambda path: UnivfdDetector.load(HEAD, backbone_folder=path),
    ),
    "fc_weights": (
        HEAD,
        "",
        lambda path: UnivfdDetector.load(path, backbone_folder=BaselineSet("univfd").folder / "clip-tiny-hf"),
    ),
    "dda": (
        BaselineSet("dda").folder / "DDA_ckpt.pth",
        "",
        lambda path: DdaDetector.load(path, size=BaselineSet("dda").size),
    ),
    "bfree": (BFREE, "config.yaml", lambda path: BfreeDetector.load(path, size=BaselineSet("bfree").size)),
}
"""For each kind of file: a whole one, the file in it if it is a folder, and how it is loaded."""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_flipped_at_random(tmp_path: Path, kind: str) -> None:
    """It loads or is refused, whichever bytes of head and tail, where there are names, sizes and places, are others."""
    whole, inside, load = KINDS[kind]
    copy = tmp_path / "copy"
    (shutil.copytree if whole.is_dir() else shutil.copy)(whole, copy)
    file = copy / inside if inside else copy
    before, rng, refused = file.read_bytes(), random.Random(kind), 0
    for _ in range(300):
        content = bytearray(before)
        for _ in range(rng.randint(1, 4)):
            reach = min(len(content), rng.choice([300, 5000, 30_000]))
            content[rng.choice([1, -1]) * rng.randrange(1, reach)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        file.write_bytes(content)
        try:
            load(copy)
        except CheckpointError:
            refused += 1
    assert refused > 50
