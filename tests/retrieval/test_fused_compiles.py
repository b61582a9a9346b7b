"""The kernel at the published size compiles for GPUs of four generations, whether there is one or not, and fits into them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SHARED_KIB = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227}
"""Shared memory that a block may have, by compute capability."""

# In a process of its own: here triton may have been imported as an interpreter.
COMPILE = """
import json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mirror_pl.retrieval import fused
from mirror_pl.retrieval.fused_kernel import retrieve

pooled = sys.argv[1] == "pooled"
capability, limit = map(int, sys.argv[2:])
fitting = next(tile for shared, tile in fused.TILES if shared <= limit)
tile = fused.TUNED.get(divmod(capability, 10), fitting)
constants = dict(
    K=4096, D=160, TOP_K=128, POOLED=pooled, ROWS=tile.rows, FEW_ROWS=fused.FEW_ROWS, COLUMNS=tile.columns, GROUPS=256,
    PAD=512, BLOCK_D=fused.BLOCK_D, ROUNDS=fused.ROUNDS, PRECISION=tile.precision,
)
constants["chosen_columns" if pooled else "sums"] = None
types = dict.fromkeys(["queries", "keys", "max_weight", "entropy", "pad_logits"], "*fp32")
types |= dict.fromkeys(["sums", "chosen_columns"], "*i64") | dict.fromkeys(["pad_columns", "pad_bounds", "pad_counts"], "*i32")
types |= {"left_over": "*i8"} | dict.fromkeys(["scale", "eps", "one"], "fp32")
names = retrieve.arg_names
signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
source = ASTSource(
    fn=retrieve,
    signature=signature,
    constexprs={(names.index(name),): value for name, value in constants.items()},
    attrs={(names.index(n),): [["tt.divisibility", 16]] for n, kind in signature.items() if kind.startswith("*")},
)
options = {"num_warps": tile.warps, "num_stages": tile.stages}
kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
print(json.dumps({"shared": kernel.metadata.shared, "ptx": len(kernel.asm["ptx"])}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("capability", SHARED_KIB)
@pytest.mark.parametrize("path", ["pooled", "full"])
def test_the_published_size_compiles_and_fits(path: str, capability: int) -> None:
    pytest.importorskip("triton")
    limit = SHARED_KIB[capability] * 1024
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    arguments = [sys.executable, "-c", COMPILE, path, str(capability), str(limit)]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["shared"] <= limit
