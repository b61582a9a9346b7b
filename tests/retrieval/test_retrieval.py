"""Retrieval against its definition in float64, and its behaviour at the edges."""

from __future__ import annotations

import sys
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mirror_pl.retrieval import PooledEvidence, TokenEvidence, chunked, dense, expand, pool


def sample(batch: int, heads: int, tokens: int, width: int, slots: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [
        torch.randn(batch, heads, tokens, width, dtype=dtype),
        torch.randn(heads, slots, width, dtype=dtype),
        torch.randn(heads, slots, width, dtype=dtype),
    ]


def pooled(evidence: TokenEvidence) -> PooledEvidence:
    return PooledEvidence(
        evidence.attended.mean(dim=1), evidence.max_weight.mean(dim=(1, 2)), evidence.entropy.mean(dim=(1, 2))
    )


def oracle(tensors: list[Tensor], top_k: int) -> TokenEvidence:
    return dense(*(tensor.detach().double() for tensor in tensors), top_k)


# Float32 rounds logits of size about 4 to 2e-7 of themselves; weights and sums follow within a few units of that.
TOLERANCE = {"rtol": 2e-5, "atol": 5e-6}
EXACT = {"rtol": 1e-10, "atol": 1e-11}


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 8), st.integers(1, 60), st.data())
@settings(max_examples=60, deadline=None)
def test_both_paths_equal_the_definition(
    batch: int, heads: int, tokens: int, width: int, slots: int, data: st.DataObject
) -> None:
    top_k = data.draw(st.integers(1, slots))
    for dtype, tolerance in ((torch.float32, TOLERANCE), (torch.float64, EXACT)):
        tensors = sample(batch, heads, tokens, width, slots, dtype)
        expected = oracle(tensors, top_k)
        for got, want in zip(expand(*tensors, top_k), expected, strict=True):
            torch.testing.assert_close(got.double(), want, **tolerance)
        for got, want in zip(pool(*tensors, top_k), pooled(expected), strict=True):
            torch.testing.assert_close(got.double(), want, **tolerance)


def test_published_size() -> None:
    tensors = sample(2, 8, 200, 16, 4096)
    expected = pooled(oracle(tensors, 128))
    for got, want in zip(pool(*tensors, 128), expected, strict=True):
        torch.testing.assert_close(got.double(), want, **TOLERANCE)


@pytest.mark.parametrize("chunk", [1, 2 * 7 * 50, 2**25])
def test_the_chunked_path_equals_the_cpus(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(chunked, "CHUNK_LOGITS", chunk)
    monkeypatch.setattr(chunked, "_best_columns", lambda logits, k: logits.topk(k, sorted=False).indices)
    tensors = sample(3, 2, 7, 4, 50)
    cpu = pool(*tensors, 5)
    monkeypatch.setattr(sys.modules[pool.__module__], "pool_cpu", chunked.pool_chunked)
    for got, want in zip(pool(*tensors, 5), cpu, strict=True):
        torch.testing.assert_close(got, want, **TOLERANCE)


def test_ties_any_valid_choice_gives_the_same_evidence() -> None:
    """Slots in pairs of equal keys: the threshold falls between twins, whose values are equal too."""
    queries, keys, values = sample(2, 3, 5, 4, 20)
    keys, values = keys.repeat_interleave(2, dim=1), values.repeat_interleave(2, dim=1)
    expected = pooled(oracle([queries, keys, values], 7))
    for got, want in zip(pool(queries, keys, values, 7), expected, strict=True):
        torch.testing.assert_close(got.double(), want, **TOLERANCE)


def test_all_logits_equal_keeps_exactly_k() -> None:
    queries, keys, values = sample(1, 2, 3, 4, 30)
    evidence = pool(queries, torch.zeros_like(keys), values, 6)
    torch.testing.assert_close(evidence.max_weight, torch.full((1,), 1 / 6))
    torch.testing.assert_close(evidence.entropy, torch.full((1,), 6.0).log())


def test_nan_stays_nan() -> None:
    queries, keys, values = sample(2, 2, 4, 4, 30)
    queries[1] = float("nan")
    evidence = pool(queries, keys, values, 6)
    assert evidence.max_weight.isnan().tolist() == [False, True]
    assert evidence.attended.isnan().all(dim=1).tolist() == [False, True]


def test_a_single_nan_in_the_keys_is_not_passed_over() -> None:
    queries, keys, values = sample(2, 2, 4, 4, 4096)
    keys[1, 77, 2] = float("nan")
    evidence = pool(queries, keys, values, 128)
    assert evidence.max_weight.isnan().all()
    assert evidence.attended.isnan().any(dim=1).all()


def test_one_slot_explains_everything() -> None:
    tensors = sample(2, 2, 4, 4, 30)
    evidence = pool(*tensors, 1)
    torch.testing.assert_close(evidence.max_weight, torch.ones(2))
    torch.testing.assert_close(evidence.entropy, torch.zeros(2), atol=1e-6, rtol=0)


def test_gradients_flow_and_equal_the_definitions() -> None:
    tensors = [tensor.requires_grad_() for tensor in sample(2, 2, 5, 3, 12, torch.float64)]
    readings = {}
    for name, evidence in {
        "dense": pooled(dense(*tensors, 4)),
        "pool": pool(*tensors, 4),
        "expand": pooled(expand(*tensors, 4)),
    }.items():
        total = evidence.attended.square().sum() + evidence.max_weight.sum() + evidence.entropy.square().sum()
        readings[name] = torch.autograd.grad(total, tensors)
    for name in ("pool", "expand"):
        for got, want in zip(readings[name], readings["dense"], strict=True):
            torch.testing.assert_close(got, want, **EXACT)


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_of_float32_at_a_size_beyond_16_bits_of_slots(frozen: bool) -> None:
    queries, *bank = sample(2, 3, 7, 4, 30_000)
    readings = {}
    for name, function, dtype in (
        ("definition", dense, torch.float64),
        ("own", expand, torch.float32),
        ("again", expand, torch.float32),
    ):
        tensors = [
            queries.to(dtype, copy=True).requires_grad_(),
            *(t.to(dtype, copy=True).requires_grad_(not frozen) for t in bank),
        ]
        function(*tensors, 128).attended.square().sum().backward()
        assert all((tensor.grad is None) == frozen for tensor in tensors[1:])
        readings[name] = [tensor.grad for tensor in tensors if tensor.grad is not None]
    for got, again, want in zip(readings["own"], readings["again"], readings["definition"], strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)
        assert torch.equal(got, again)


def test_gradients_through_the_means_of_a_frozen_bank() -> None:
    """Phase 2: only the queries learn."""
    queries, keys, values = sample(2, 2, 5, 4, 30, torch.float64)
    found = []
    for evidence in (pool(queries.requires_grad_(), keys, values, 4), pooled(dense(queries, keys, values, 4))):
        total = evidence.attended.square().sum() + evidence.max_weight.sum() + evidence.entropy.sum()
        found += torch.autograd.grad(total, queries)
    torch.testing.assert_close(*found, **EXACT)


def test_empty_batch() -> None:
    tensors = sample(0, 2, 5, 4, 30)
    assert [tuple(t.shape) for t in pool(*tensors, 3)] == [(0, 8), (0,), (0,)]
    assert [tuple(t.shape) for t in expand(*tensors, 3)] == [(0, 5, 8), (0, 2, 5), (0, 2, 5), (30,)]


def test_works_in_inference_mode_and_from_threads() -> None:
    tensors = sample(2, 2, 5, 4, 30)
    expected = pool(*tensors, 3)
    results: list[PooledEvidence] = []

    def work() -> None:
        with torch.inference_mode():
            results.append(pool(*tensors, 3))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for result in results:
        assert torch.equal(result.attended, expected.attended)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, k, v: (q, k[:1], v[:1], 3), "queries must be"),
        (lambda q, k, v: (q, k, v[:, :5], 3), "one shape"),
        (lambda q, k, v: (q, k, v, 0), "top_k"),
        (lambda q, k, v: (q, k, v, 31), "top_k"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change: object, message: str) -> None:
    for function in (pool, expand, dense):
        with pytest.raises(ValueError, match=message):
            function(*change(*sample(1, 2, 5, 4, 30)))  # type: ignore[operator]
