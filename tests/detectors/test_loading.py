"""Loading without a copy: weights stay in the file's mapping, and go tensor by tensor to another device or dtype."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest
import torch
from golden_set import SMALL
from safetensors.torch import load_file, save_file

from mirror_pl.detectors import DetectorConfig, load_detector
from mirror_pl.detectors.checkpoint import read_detector, save_folder
from mirror_pl.detectors.known_backbones import KNOWN_BACKBONES
from mirror_pl.detectors.lora import adapter_shapes, merge_lora
from mirror_pl.detectors.mapped import MappedFiles
from mirror_pl.detectors.mirror import MirrorDetector
from mirror_pl.errors import CheckpointError
from mirror_pl.files import path_sha256


@pytest.fixture(params=["published", "converted"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "published":
        (tmp_path / "x.pth").write_bytes(SMALL.checkpoint.read_bytes())
        return tmp_path / "x.pth"
    save_folder(tmp_path / "x", *read_detector(SMALL.checkpoint))
    return tmp_path / "x"


def mapped_ranges(path: Path) -> list[range]:
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line]
    return [range(*(int(end, 16) for end in line[0].split("-"))) for line in lines]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="tells by Linux's list of mappings")
@pytest.mark.parametrize("merge", [True, False])
def test_weights_are_not_copied(checkpoint: Path, merge: bool) -> None:
    """Merged ones neither: only the pages that change take memory."""
    detector = load_detector(checkpoint, merge=merge)
    ranges = mapped_ranges(checkpoint)
    copied = [
        name for name, tensor in detector.state_dict().items() if not any(tensor.data_ptr() in mapped for mapped in ranges)
    ]
    assert not copied


def test_merging_does_not_reach_the_file(checkpoint: Path) -> None:
    """Not even where a program has asked torch for shared mappings, which write to their file."""
    before = path_sha256(checkpoint)
    with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
        merged = load_detector(checkpoint)
    assert path_sha256(checkpoint) == before
    with torch.no_grad():
        merged.head.classifier[0].weight.zero_()
    assert path_sha256(checkpoint) == before
    again = load_detector(checkpoint)
    assert torch.equal(again.backbone.model.norm.weight, merged.backbone.model.norm.weight)
    assert again.head.classifier[0].weight.count_nonzero()


@pytest.mark.parametrize("merge", [True, False])
@torch.inference_mode()
def test_a_dtype_is_the_backbones(checkpoint: Path, merge: bool) -> None:
    detector = load_detector(checkpoint, merge=merge, dtype=torch.bfloat16)
    for name, tensor in detector.state_dict().items():
        assert tensor.dtype == (torch.bfloat16 if name.startswith("backbone.") else torch.float32), name
    p_fake = detector(SMALL.pixels()[:4]).p_fake
    assert p_fake.dtype == torch.float32
    assert 0 < (p_fake - SMALL.column("prob_fake")[:4]).abs().max() < 0.1


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="tells by Linux's list of mappings")
@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_converting_leaves_no_pages_of_the_file(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"x.{kind}"
    content = {"a": torch.randn(2**11, 2**10), "b": torch.randn(2**10, 2**11), "c": torch.randn(3).bfloat16()}
    if kind == "pth":
        torch.save(content, file)
        with torch.serialization.set_default_mmap_options(mmap.MAP_PRIVATE):
            tensors = torch.load(file, mmap=True)
    else:
        save_file(content, file)
        tensors = load_file(file)
    files = MappedFiles()
    for name, tensor in tensors.items():
        assert torch.equal(files.converted(tensor, "cpu", torch.float16), content[name].half())
    assert resident_kib(file) < 256  # of 16 MiB; the kernel maps what is around a page that is read
    assert files.converted(tensors["a"], "cpu", torch.float32) is tensors["a"]
    with torch.no_grad():
        tensors["a"][-1, -1] += 1  # is not in the file
    assert torch.equal(files.copied(tensors["a"], "cpu", torch.float32), tensors["a"])
    assert not torch.equal(tensors["a"], content["a"])


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="tells by Linux's list of mappings")
def test_a_file_that_became_shorter_is_refused(tmp_path: Path) -> None:
    """To read its mapping would end the process."""
    file = tmp_path / "x.safetensors"
    save_file({"a": torch.randn(2**10, 2**10)}, file)
    tensor = load_file(file)["a"]
    os.truncate(file, 2**20)
    with pytest.raises(CheckpointError, match=r"x\.safetensors became shorter while it was read"):
        MappedFiles().converted(tensor, "cpu", torch.bfloat16)


def resident_kib(path: Path) -> int:
    """Of all mappings of a file."""
    parts = Path("/proc/self/smaps").read_text().split("VmFlags")
    return sum(int(part.split("Rss:")[1].split()[0]) for part in parts if str(path) in part)


@pytest.mark.parametrize("merge", [True, False])
def test_everything_goes_to_the_device(checkpoint: Path, merge: bool) -> None:
    """The meta device stands for one that is not the CPU."""
    detector = load_detector(checkpoint, merge=merge, device="meta")
    assert {tensor.device.type for tensor in (*detector.parameters(), *detector.buffers())} == {"meta"}
    assert detector.spec.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_merged_weights(dtype: torch.dtype) -> None:
    tensors, config = read_detector(SMALL.checkpoint)
    assert config.lora is not None
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    exact = {}
    for name, b in tensors.items():
        if name.endswith(".lora_b"):
            layer = name.removesuffix(".lora_b")
            delta = b.double() @ tensors[f"{layer}.lora_a"].double()
            exact[f"{layer}.weight"] = tensors[f"{layer}.weight"].double() + 2 * delta
    merged = merge_lora(tensors, config.lora)
    assert len(exact) == 6
    assert set(merged) == {name for name in tensors if ".lora_" not in name}
    for name, tensor in merged.items():
        assert tensor.dtype == dtype
        # Half a unit in the last place, and the product's own rounding.
        tolerance = 0.51 * torch.finfo(dtype).eps if dtype == torch.bfloat16 else 4 * torch.finfo(dtype).eps
        torch.testing.assert_close(tensor.double(), exact.get(name, tensor.double()), rtol=tolerance, atol=1e-7)


@pytest.mark.parametrize("name", ["tiny", "dinov2_l"])
def test_adapter_shapes_are_those_of_peft(name: str) -> None:
    from mirror_pl.detectors.checkpoint.load import _shapes

    with torch.device("meta"):
        config = DetectorConfig(KNOWN_BACKBONES[name])
        shapes = _shapes(MirrorDetector(config))
    assert config.lora is not None
    without = {name: shape for name, shape in shapes.items() if ".lora_" not in name}
    assert without | adapter_shapes(without, config.lora) == shapes


def test_a_mapped_file_may_have_a_line_end_of_unicode_in_its_name(tmp_path: Path) -> None:
    file = tmp_path / "a\u2028b.pth"
    torch.save({"weight": torch.arange(10_000.0)}, file)
    weight = torch.load(file, mmap=True)["weight"]
    copy = MappedFiles().copied(weight, "cpu", torch.float32)
    assert torch.equal(copy, weight)
    assert copy.data_ptr() != weight.data_ptr()
