"""The kernel at the published size compiles for a Hopper GPU, whether there is one or not, and fits into it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

MOST_SHARED_BYTES = 227 * 1024
"""Shared memory that a block may have on compute capability 9.0."""

# In a process of its own: here triton may have been imported as an interpreter.
COMPILE = """
import json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mirror_pl.retrieval import fused
from mirror_pl.retrieval.fused_kernel import retrieve

pooled = sys.argv[1] == "pooled"
constants = dict(
    K=4096, D=160, TOP_K=128, POOLED=pooled, ROWS=fused.ROWS, FEW_ROWS=fused.FEW_ROWS, COLUMNS=fused.COLUMNS, GROUPS=256,
    PAD=512, BLOCK_D=fused.BLOCK_D, ROUNDS=fused.ROUNDS, PRECISION=fused.PRECISION,
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
options = {"num_warps": fused.WARPS, "num_stages": fused.STAGES}
kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
print(json.dumps({"shared": kernel.metadata.shared, "tensor_cores": "wgmma" in kernel.asm["ptx"]}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("path", ["pooled", "full"])
def test_the_published_size_compiles_for_hopper(path: str) -> None:
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, path], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["shared"] <= MOST_SHARED_BYTES
    assert found["tensor_cores"]
