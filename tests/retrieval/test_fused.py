"""The CUDA kernel against its definition in float64: on a GPU where there is one, else in Triton's interpreter on a CPU."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mirror_pl.retrieval import chunked, dense, expand, fused
from mirror_pl.retrieval.cpu import pool_cpu
from mirror_pl.retrieval.fused import pool_fused, select_fused

pytest.importorskip("triton", reason="triton is installed with the dev extra, on Linux")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# As for the other paths, and 2**-22 more of each logit for products of three tf32 ones.
TOLERANCE = {"rtol": 2e-5, "atol": 5e-6}


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes its time."""
    if DEVICE == "cpu":
        monkeypatch.setattr(fused, "ROUNDS", 4)


SIZES = [  # images, heads, tokens, width, slots, top_k
    pytest.param(2, 2, 9, 20, 300, 17, id="nothing a multiple of a block"),
    pytest.param(3, 1, 50, 16, 128, 64, id="rows of a tile from several images, as many groups as slots"),
    pytest.param(1, 2, 40, 40, 70, 70, id="all slots kept, two tiles"),
    pytest.param(1, 1, 5, 8, 200, 1, id="one slot kept"),
]


def sample(images: int, heads: int, tokens: int, width: int, slots: int) -> tuple[Tensor, Tensor]:
    """Queries with the memory bank's strides, and keys."""
    queries = torch.randn(images, tokens, heads * width).unflatten(-1, (heads, width)).transpose(1, 2)
    return queries.to(DEVICE), torch.randn(heads, slots, width, device=DEVICE)


def check(queries: Tensor, keys: Tensor, top_k: int) -> None:
    """Compare with the definition: column sums by values that are the unit vectors."""
    tokens, slots = queries.shape[2], keys.shape[1]
    unit = torch.eye(slots, dtype=torch.float64).expand(len(keys), -1, -1)
    logits = torch.einsum("bhnd,hkd->bhnk", queries.cpu().double(), keys.cpu().double())
    expected = dense(logits * queries.shape[3] ** -0.5 * slots**0.5, unit, unit, top_k)
    sums, max_weight, entropy = (part.cpu().double() for part in pool_fused(queries, keys, top_k))
    want = expected.attended.unflatten(-1, (len(keys), slots)).sum(dim=1)
    torch.testing.assert_close(sums, want, rtol=2e-5, atol=5e-6 * tokens)
    torch.testing.assert_close(max_weight, expected.max_weight.mean(dim=(1, 2)), **TOLERANCE)
    torch.testing.assert_close(entropy, expected.entropy.mean(dim=(1, 2)), **TOLERANCE)


@pytest.mark.parametrize(("images", "heads", "tokens", "width", "slots", "top_k"), SIZES)
def test_equals_the_definition(images: int, heads: int, tokens: int, width: int, slots: int, top_k: int) -> None:
    queries, keys = sample(images, heads, tokens, width, slots)
    check(queries, keys, top_k)
    columns = select_fused(queries, keys, top_k).cpu()
    logits = torch.einsum("bhnd,hkd->bhnk", queries, keys).cpu()
    kept = logits.gather(-1, columns).sort(dim=-1).values
    torch.testing.assert_close(kept, logits.sort(dim=-1).values[..., -top_k:], **TOLERANCE)
    assert (columns.diff(dim=-1) > 0).all(), "each slot once, in order"


def test_more_candidates_than_the_pad_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large logits in few groups: the maxima bound them badly, and the keys are gone over again with a better bound."""
    queries, keys = (part.abs() for part in sample(1, 1, 6, 16, 1500))
    keys[:, torch.arange(1500) % fused.COLUMNS < 20] += 5
    check(queries, keys, 60)
    assert not len(fused._launch(queries, keys, 60, sums=torch.zeros(1, 1, 1500, dtype=torch.int64, device=DEVICE))[2])
    monkeypatch.setattr(fused, "ROUNDS", 1)
    assert len(fused._launch(queries, keys, 60, sums=torch.zeros(1, 1, 1500, dtype=torch.int64, device=DEVICE))[2])
    check(queries, keys, 60)  # left over, and done in torch


@pytest.mark.parametrize(
    "change",
    [
        lambda keys: keys.zero_(),
        lambda keys: keys.copy_(keys[:, :1].expand_as(keys)),
        lambda keys: keys[:, 1::2].copy_(keys[:, ::2]),
    ],
    ids=["all logits equal", "all slots equal", "slots in pairs"],
)
def test_ties_keep_exactly_k(change: Callable[[Tensor], object]) -> None:
    """Rows whose ties do not fit into the pad are left over, and done in torch."""
    queries, keys = sample(2, 1, 5, 16, 600)
    change(keys)
    sums, max_weight, entropy = pool_fused(queries, keys, 31)
    torch.testing.assert_close(sums.sum(dim=-1), torch.full_like(sums[..., 0], 5.0))
    want = pool_cpu(queries.cpu(), keys.cpu(), 31)
    torch.testing.assert_close(max_weight.cpu(), want[1], **TOLERANCE)
    torch.testing.assert_close(entropy.cpu(), want[2], **TOLERANCE)
    columns = select_fused(queries, keys, 31)
    assert (columns.sort(dim=-1).values.diff(dim=-1) > 0).all()


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's, in the interpreter
def test_nan_stays_in_its_image() -> None:
    queries, keys = sample(3, 2, 5, 16, 100)
    queries[1, 0, 2, 3] = float("nan")
    for part in pool_fused(queries, keys, 9):
        assert part.reshape(3, -1).isnan().all(dim=1).tolist() == [False, True, False]
    sums, max_weight, _ = pool_fused(queries, keys, 9)
    clean = pool_fused(queries[[0, 2]], keys, 9)
    # Other rows share a tile: a product may round its last bit differently.
    torch.testing.assert_close(sums[[0, 2]], clean[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(max_weight[[0, 2]], clean[1], rtol=1e-6, atol=1e-6)


def test_the_same_bytes_whatever_the_batch() -> None:
    queries, keys = sample(3, 1, 20, 16, 100)
    together = pool_fused(queries, keys, 20)
    for i in range(3):
        for part, alone in zip(together, pool_fused(queries[i : i + 1], keys, 20), strict=True):
            torch.testing.assert_close(part[i], alone[0], rtol=1e-6, atol=1e-6)
    again = pool_fused(queries, keys, 20)
    assert all(torch.equal(one, two) for one, two in zip(together, again, strict=True))


def test_it_serves_float32_on_cuda_only(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, _ = sample(1, 1, 2, 8, 16)
    assert not fused.serves(queries.cpu(), 8)
    assert not fused.serves(queries.double(), 8)
    if DEVICE == "cuda":
        assert fused.serves(queries, 8)
        monkeypatch.setattr(fused, "_has_triton", lambda: False)
        assert not fused.serves(queries, 8)


@pytest.mark.parametrize("error", [RuntimeError("Failed to find C compiler"), OSError("no room for the cache")])
def test_a_kernel_that_does_not_work_is_done_without(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def launch(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(fused, "_launch", launch)
    monkeypatch.setattr(fused, "_failure", None)
    queries, keys = sample(2, 2, 5, 16, 100)
    with pytest.warns(UserWarning, match="the fused kernel does not work here"):
        sums, _, _ = pool_fused(queries, keys, 9)
    torch.testing.assert_close(sums.sum(dim=-1), torch.full_like(sums[..., 0], 5.0))
    assert fused.why_not_fused()
    with pytest.warns(UserWarning, match="goes on in torch"):
        assert select_fused(queries, keys, 9) is None
    monkeypatch.setattr(fused, "_launch", lambda *args, **kwargs: (_ for _ in ()).throw(torch.OutOfMemoryError("x")))
    with pytest.raises(torch.OutOfMemoryError):
        pool_fused(queries, keys, 9)


def test_a_defect_of_ours_is_no_slow_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_failure", None)
    monkeypatch.setattr(fused, "_launch", lambda *args, **kwargs: {}["no such thing"])
    with pytest.raises(KeyError):
        pool_fused(*sample(2, 2, 5, 16, 100), 9)
    assert fused.why_not_fused() is None


def test_a_kernel_that_is_wrong_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = fused._launch

    def wrong(*args: object, **kwargs: object) -> tuple[Tensor, Tensor, Tensor]:
        max_weight, entropy, left_over = launch(*args, **kwargs)  # type: ignore[arg-type]
        return max_weight, entropy + 0.01, left_over

    monkeypatch.setattr(fused, "_checked", set())
    monkeypatch.setattr(fused, "_failure", None)
    queries, keys = sample(2, 1, 5, 16, 100)
    pool_fused(queries, keys, 9)
    assert fused._checked
    assert fused.why_not_fused() is None
    fused._checked.clear()
    monkeypatch.setattr(fused, "_launch", wrong)
    with pytest.warns(UserWarning, match="it gives other evidence than torch, by 0.01"):
        _, _, entropy = pool_fused(queries, keys, 9)
    torch.testing.assert_close(entropy.cpu(), pool_cpu(queries.cpu(), keys.cpu(), 9)[2], **TOLERANCE)


def test_the_full_path_takes_the_kernels_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, keys = sample(2, 2, 7, 16, 90)
    values = torch.randn_like(keys).requires_grad_()
    queries.requires_grad_()
    plain = expand(queries, keys, values, 11)
    plain_grads = torch.autograd.grad(plain.attended.square().sum() + plain.entropy.sum(), (queries, values))
    monkeypatch.setattr(sys.modules[expand.__module__], "serves", lambda queries, top_k: True)
    monkeypatch.setattr(chunked, "_best_columns", None)
    by_kernel = expand(queries, keys, values, 11)
    grads = torch.autograd.grad(by_kernel.attended.square().sum() + by_kernel.entropy.sum(), (queries, values))
    for got, want in zip((*by_kernel, *grads), (*plain, *plain_grads), strict=True):
        torch.testing.assert_close(got, want, **TOLERANCE)
