"""Retrieval as one kernel for CUDA, in Triton: from queries and keys to each row's weights, no ``(N, K)`` tensor in memory.

A program takes a tile of rows of one head, of any images, and goes over all K keys at least twice. First it keeps the maxima
of G groups of columns; their k-th largest is at most a row's k-th largest logit, since k different columns reach it
(`select.py` does the same on a CPU). Then it makes the logits again and writes those above that bound, few more than k of
them, to a scratch pad that stays in the second-level cache. If they are more than the pad holds, the k-th largest of what it
holds is a better bound, and it goes over the keys once more. From the pad the exact k largest are chosen, by bisection over
the bits of the k-th, and become weights, entropy and largest weight.

Column sums are added up in fixed point: integers may be added in any order, so the result is the same bytes every time.
"""

import triton
import triton.language as tl


@triton.jit
def _ordered(x):
    """Map float32 to uint32 in the same order, NaN largest, and none to 0."""
    x = tl.where(x == x, x, float("nan"))  # one positive NaN for all
    bits = x.to(tl.uint32, bitcast=True)
    return tl.where((bits >> 31) == 1, bits ^ 0xFFFFFFFF, bits | 0x80000000)


@triton.jit
def _kth_largest(keys, k: tl.constexpr):
    """Return each row's k-th largest of uint32 ``(M, W)``, one bit at a time."""
    kth = tl.zeros([keys.shape[0]], tl.uint32)
    bit = tl.full([], 0x80000000, tl.uint32)
    for _ in range(32):
        tried = kth | bit
        enough = tl.sum((keys >= tried[:, None]).to(tl.int32), axis=1) >= k
        kth = tl.where(enough, tried, kth)
        bit = bit >> 1
    return kth


@triton.jit
def _logits(
    queries, keys, row_offsets, row_mask, columns, column_mask, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scaled logits of a tile of rows against a block of keys; -inf where there is no key."""
    logits = tl.zeros([row_offsets.shape[0], columns.shape[0]], tl.float32)
    for start in tl.static_range(0, D, BLOCK_D):
        inner = start + tl.arange(0, BLOCK_D)
        inner_mask = inner < D
        q = tl.load(queries + row_offsets[:, None] + inner[None, :], row_mask[:, None] & inner_mask[None, :], 0.0)
        k = tl.load(keys + columns[None, :] * D + inner[:, None], column_mask[None, :] & inner_mask[:, None], 0.0)
        logits = tl.dot(q, k, logits, input_precision=PRECISION)
    return tl.where(column_mask[None, :], logits * scale, float("-inf"))


@triton.jit
def retrieve(
    queries, keys, sums, chosen_columns, max_weight, entropy, left_over, pad_logits, pad_columns, pad_bounds, pad_counts,
    images, heads, tokens, stride_image, stride_head, stride_token, tiles, scale, eps, one,
    K: tl.constexpr, D: tl.constexpr, TOP_K: tl.constexpr, POOLED: tl.constexpr,
    ROWS: tl.constexpr, FEW_ROWS: tl.constexpr, COLUMNS: tl.constexpr, GROUPS: tl.constexpr, PAD: tl.constexpr,
    BLOCK_D: tl.constexpr, ROUNDS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Choose each row's slots, and pool or hand out what they make; see the head of this file.

    queries ``(images, heads, tokens, D)`` float32 with strides; keys ``(heads, K, D)`` float32. Out: max_weight, entropy,
    left_over (int8) ``(images, heads, tokens)``; if POOLED sums ``(images, heads, K)`` int64, zero before, in units of
    ``1 / one``; else chosen_columns ``(images, heads, tokens, TOP_K)`` int64. pad_* are each program's own scratch.
    """
    program = tl.program_id(0)
    in_tile = tl.arange(0, ROWS)
    few = tl.arange(0, FEW_ROWS)
    place = tl.arange(0, PAD)
    chunk: tl.constexpr = (K + GROUPS - 1) // GROUPS * COLUMNS  # columns that share COLUMNS of the groups
    pad_logits += program.to(tl.int64) * ROWS * PAD
    pad_columns += program.to(tl.int64) * ROWS * PAD
    pad_bounds += program * ROWS
    pad_counts += program * ROWS
    tiles_per_head = tl.cdiv(images * tokens, ROWS)
    for tile in range(program, tiles, tl.num_programs(0)):
        head = tile // tiles_per_head
        first_row = tile % tiles_per_head * ROWS  # among the tokens of all images
        rows = first_row + in_tile
        row_mask = rows < images * tokens
        row_offsets = (rows // tokens).to(tl.int64) * stride_image + rows % tokens * stride_token
        of_head = queries + head * stride_head
        keys_of_head = keys + head * (K * D)

        for part in range(0, GROUPS // COLUMNS):
            maxima = tl.full([ROWS, COLUMNS], float("-inf"), tl.float32)
            for start in range(part * chunk, tl.minimum((part + 1) * chunk, K), COLUMNS):
                columns = start + tl.arange(0, COLUMNS)
                logits = _logits(
                    of_head, keys_of_head, row_offsets, row_mask, columns, columns < K, scale, D, BLOCK_D, PRECISION
                )
                maxima = tl.maximum(maxima, logits)
            tl.store(pad_logits + in_tile[:, None] * PAD + part * COLUMNS + tl.arange(0, COLUMNS)[None, :], maxima)
        tl.debug_barrier()  # what other threads of the program wrote is read next
        for start in range(0, ROWS, FEW_ROWS):
            maxima = tl.load(pad_logits + (start + few)[:, None] * PAD + tl.arange(0, GROUPS)[None, :])
            kth = _kth_largest(_ordered(maxima), TOP_K)
            tl.store(pad_bounds + start + few, kth.to(tl.int32, bitcast=True))
        tl.debug_barrier()

        most = tl.full([], PAD + 1, tl.int32)
        rounds = tl.full([], 0, tl.int32)
        while (most > PAD) & (rounds < ROUNDS):
            if rounds > 0:  # the pad was too small: a better bound from what it holds
                for start in range(0, ROWS, FEW_ROWS):
                    held = tl.load(pad_logits + (start + few)[:, None] * PAD + place[None, :])
                    overfull = tl.load(pad_counts + start + few) > PAD
                    better = _kth_largest(_ordered(held), TOP_K)
                    tl.store(pad_bounds + start + few, better.to(tl.int32, bitcast=True), overfull)
                tl.debug_barrier()
            bound = tl.load(pad_bounds + in_tile).to(tl.uint32, bitcast=True)
            count = tl.zeros([ROWS], tl.int32)
            for start in range(0, K, COLUMNS):
                columns = start + tl.arange(0, COLUMNS)
                logits = _logits(
                    of_head, keys_of_head, row_offsets, row_mask, columns, columns < K, scale, D, BLOCK_D, PRECISION
                )
                candidate = (_ordered(logits) >= bound[:, None]) & (columns < K)[None, :] & row_mask[:, None]
                target = count[:, None] + tl.cumsum(candidate.to(tl.int32), axis=1) - 1
                fits = candidate & (target < PAD)
                tl.store(pad_logits + in_tile[:, None] * PAD + target, logits, fits)
                tl.store(pad_columns + in_tile[:, None] * PAD + target, columns[None, :] + target * 0, fits)
                count += tl.sum(candidate.to(tl.int32), axis=1)
            tl.store(pad_counts + in_tile, count)
            tl.debug_barrier()
            most = tl.max(count, axis=0)
            rounds += 1

        for start in range(0, ROWS, FEW_ROWS):
            pad = (start + few)[:, None] * PAD + place[None, :]
            count = tl.load(pad_counts + start + few)
            held = place[None, :] < count[:, None]
            logits = tl.load(pad_logits + pad, held, float("-inf"))
            ordered = tl.where(held, _ordered(logits), 0)
            kth = _kth_largest(ordered, TOP_K)
            above = ordered > kth[:, None]
            missing = TOP_K - tl.sum(above.to(tl.int32), axis=1)
            equal = held & (ordered == kth[:, None])
            chosen = above | (equal & (tl.cumsum(equal.to(tl.int32), axis=1) <= missing[:, None]))

            row = first_row + start + few
            mask = row < images * tokens
            image_head = row // tokens * heads + head
            out = image_head.to(tl.int64) * tokens + row % tokens
            largest = tl.where(mask, tl.max(tl.where(chosen, logits, float("-inf")), axis=1), 0.0)
            exponentials = tl.where(chosen, tl.exp(logits - largest[:, None]), 0.0)
            total = tl.where(mask, tl.sum(exponentials, axis=1), 1.0)
            weights = exponentials / total[:, None]
            tl.store(max_weight + out, 1.0 / total, mask)
            tl.store(entropy + out, -tl.sum(weights * tl.log(weights + eps), axis=1), mask)
            tl.store(left_over + out, (count > PAD).to(tl.int8), mask)
            columns = tl.load(pad_columns + pad, held, 0)
            written = chosen & mask[:, None]
            if POOLED:
                fixed = tl.where(weights == weights, weights * one + 0.5, 0.0).to(tl.int64)
                tl.atomic_add(sums + image_head.to(tl.int64)[:, None] * K + columns, fixed, written, sem="relaxed")
            else:
                rank = tl.cumsum(chosen.to(tl.int32), axis=1) - 1
                tl.store(chosen_columns + out[:, None] * TOP_K + rank, columns.to(tl.int64), written)
        tl.debug_barrier()  # before the next tile writes the pad
