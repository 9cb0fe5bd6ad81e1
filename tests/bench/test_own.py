"""Kernels of CUDA, interpreted as PTX, over caches that the benchmark filled: what it expects of them is right."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tvm
from ptx_compile import needs_nvcc
from ptx_kernel import interpreted

from tqc.bench.filled_cache import repeated
from tqc.bench.kernels import generated, layout_of
from tqc.bench.own import own_makers
from tqc.bench.problem import Geometry, Problem, error
from tqc.bench.timing import Turns, run_checked
from tqc.codegen.target import parse_targets

(CUDA,) = parse_targets("cuda", "sm_90")


@pytest.fixture(autouse=True)
def nvcc():
    needs_nvcc()


def makers(kv: str, heads: Geometry, problem: Problem, copies: int = 1):
    kernels = generated(layout_of(kv, heads, CUDA), CUDA)
    run = interpreted(kernels.functions, CUDA.arch)
    return own_makers(
        kv,
        replace(kernels, functions=run),
        problem,
        upload=tvm.runtime.tensor,
        upload_batch=lambda array, batch: tvm.runtime.tensor(repeated(array, batch)),
        copies=lambda _: copies,
        tolerance=1e-2,
    )


@pytest.mark.parametrize(
    ("kv", "heads", "batch", "context"),
    [
        ("tq4", Geometry(4, 2, 64), 2, 300),
        ("tq3", Geometry(2, 1, 80), 1, 300),
        ("fp16", Geometry(2, 1, 64), 1, 300),
    ],
)
def test_decode_and_append_of_a_gpu(kv, heads, batch, context):
    timings = run_checked(
        list(makers(kv, heads, Problem(heads, batch, context))), Turns(1, 1, lambda call: call() or 1.0)
    )
    decode, append = timings
    assert (decode.fault, append.fault) == ("", "")
    assert decode.error < 5e-3
    assert (decode.kind, decode.exact, append.kind) == ("ours", kv == "fp16", "append")
    assert decode.rounds == append.rounds == ((1.0,),)


def test_copies_are_gone_through_and_append_writes_the_token_that_is_there():
    heads = Geometry(2, 1, 64)
    decode, append = (maker.make() for maker in makers("fp16", heads, Problem(heads, 1, 70), copies=2))
    assert len(decode.calls) == len(append.calls) == 2
    append.calls[1]()
    decode.calls[1]()
    assert error(decode.output(), decode.wanted) < 5e-3
