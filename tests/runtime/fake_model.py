"""A model whose next token is the sum of all tokens so far, plus 7, plus their number, modulo 31.

It keeps the tokens in the cache an attention layer would have: the first ones in the sinks, the others in the pages of
the pool that the page table names. Token 31 spoils its own sequence with NaN.
"""

import sys
from pathlib import Path

import numpy as np
import tvm
from tvm import relax
from tvm.script import tirx as T

from tqc.artifact import (
    Cache,
    Digests,
    Kernel,
    Layer,
    Library,
    Manifest,
    Param,
    Source,
    StateTensor,
    write_artifact,
)
from tqc.artifact.companions import companions
from tqc.artifact.versions import installed
from tqc.codec.layout import CacheLayout

VOCAB, SINKS, PAGE, CONTEXT, POISON = 32, 4, 16, 64, 31
LAYOUT = CacheLayout(2, 1, 16, sinks=SINKS, recent=0, page=PAGE)
LIBRARY = "model-cpu-x86-64-v2.so"


def make_step(all_rows: bool) -> tvm.tirx.PrimFunc:
    def row_end(length, new, row):
        return length + row + 1 if all_rows else length + new

    @T.prim_func(private=True, s_tir=True)
    def step(
        ids: T.handle,
        length: T.handle,
        new_len: T.handle,
        table: T.handle,
        sink_k: T.handle,
        sink_v: T.handle,
        k_codes: T.handle,
        weight: T.handle,
        out: T.handle,
    ):
        T.func_attr({"tirx.is_scheduled": True})
        batch = T.int64()
        tokens = T.int64()
        width = T.int64()
        pages = T.int64()
        rows = T.int64()
        IDS = T.match_buffer(ids, (batch, tokens), "int64")
        L = T.match_buffer(length, (batch,), "int32")
        N = T.match_buffer(new_len, (batch,), "int32")
        P = T.match_buffer(table, (batch, width), "int32")
        SK = T.match_buffer(sink_k, (batch, 1, 16, 16), "float32")
        SV = T.match_buffer(sink_v, (batch, 1, 16, 16), "float32")
        C = T.match_buffer(k_codes, (pages, 1, 64), "uint16")
        W = T.match_buffer(weight, (VOCAB,), "float32")
        OUT = T.match_buffer(out, (batch, rows, VOCAB), "float32")
        for b in range(batch):
            for s in range(tokens):
                if s < T.Cast("int64", N[b]):
                    if IDS[b, s] == POISON:
                        SV[b, 0, 0, 0] = T.float32("nan")
                    if T.Cast("int64", L[b]) + s < SINKS:
                        SK[b, 0, 0, T.Cast("int64", L[b]) + s] = T.Cast("float32", IDS[b, s])
                    else:
                        C[P[b, (L[b] + s - SINKS) // PAGE], 0, (L[b] + s - SINKS) % PAGE] = T.Cast("uint16", IDS[b, s])
            for r in range(rows):
                OUT[b, r, 0] = T.Cast("float32", 7 + row_end(L[b], N[b], r))
                for p in range(row_end(L[b], N[b], r)):
                    if p < SINKS:
                        OUT[b, r, 0] = OUT[b, r, 0] + SK[b, 0, 0, p]
                    else:
                        OUT[b, r, 0] = OUT[b, r, 0] + T.Cast(
                            "float32", C[P[b, (p - SINKS) // PAGE], 0, (p - SINKS) % PAGE]
                        )
                OUT[b, r, 0] = (
                    OUT[b, r, 0] - T.floor(OUT[b, r, 0] / T.float32(POISON)) * T.float32(POISON) + SV[b, 0, 0, 0]
                )
                for v in range(VOCAB - 1):
                    OUT[b, r, VOCAB - 1 - v] = -W[VOCAB - 1 - v] * T.abs(OUT[b, r, 0] - T.float32(VOCAB - 1 - v))
                OUT[b, r, 0] = -W[0] * OUT[b, r, 0]

    return step


def make_module() -> tvm.IRModule:
    bb = relax.BlockBuilder()
    kernels = {rows: bb.add_func(make_step(rows), f"step_{'all' if rows else 'last'}") for rows in (False, True)}
    for name, all_rows in (("decode", False), ("prefill", False), ("prefill_all", True)):
        batch, width, pages = (tvm.tirx.Var(symbol, "int64") for symbol in ("B", "NP", "P"))
        tokens = tvm.tirx.IntImm("int64", 1) if name == "decode" else tvm.tirx.Var("S", "int64")
        sizes = {"batch": batch, "pages": pages}
        state_type = relax.TupleType(
            [relax.TensorType([sizes.get(dim, dim) for dim in spec.shape], spec.dtype) for spec in LAYOUT.tensors()]
        )
        parameters = [
            relax.Var("ids", relax.TensorType([batch, tokens], "int64")),
            relax.Var("length", relax.TensorType([batch], "int32")),
            relax.Var("new_len", relax.TensorType([batch], "int32")),
            relax.Var("page_table", relax.TensorType([batch, width], "int32")),
            relax.Var("state", state_type),
            relax.Var("params", relax.TupleType([relax.TensorType([VOCAB], "float32")])),
        ]
        with bb.function(name, parameters):
            *inputs, state, params = parameters
            names = [spec.name for spec in LAYOUT.tensors()]
            used = [
                bb.emit(relax.TupleGetItem(state, names.index(tensor))) for tensor in ("sink_k", "sink_v", "k_codes")
            ]
            weight = bb.emit(relax.TupleGetItem(params, 0))
            logits_type = relax.TensorType([batch, tokens if all_rows else 1, VOCAB], "float32")
            call = relax.op.call_tir_inplace(
                kernels[all_rows],
                [*inputs, *used, weight],
                inplace_indices=[4, 5, 6, -1],
                out_ty=[*(tensor.ty for tensor in used), logits_type],
            )
            bb.emit_func_output(bb.emit(relax.TupleGetItem(bb.emit(call), 3)))
    return bb.finalize()


def export(path: Path) -> None:
    target = tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v2"})
    relax.build(make_module(), target).export_library(str(path))


def make_manifest(**changes) -> Manifest:
    layer = Layer(
        query_heads=2,
        kv_heads=1,
        head_dim=16,
        k="tq4",
        v="tq4",
        scale=0.25,
        softcap=0.0,
        window=0,
        bytes_per_token_k=10,
        bytes_per_token_v=10,
        key_mean=False,
        value_rotation="none",
    )
    state = tuple(StateTensor(name=s.name, shape=s.shape, dtype=s.dtype) for s in LAYOUT.tensors())
    fields = {
        **installed(),
        "source": Source(file="sum.onnx", sha256="0" * 64, opset=17, dtype="float32"),
        "command_line": ("tqc", "compile", "sum.onnx"),
        "libraries": (Library(file=LIBRARY, kind="cpu", arch="x86-64-v2", cpu_level="x86-64-v2"),),
        "layers": (layer,),
        "cache": Cache(sinks=SINKS, recent=0, page=PAGE, exact_dtype="float32", page_order="any", state=(state,)),
        "digests": Digests(codebooks={"tq4-16": "0" * 64}, rotations={"16": "0" * 64}),
        "vocab_size": VOCAB,
        "max_context": CONTEXT,
        "functions": {"decode": "", "prefill": "", "prefill_all": ""},
        "params": ("weight",),
        "kernels": (Kernel(name="decode_0", schedule="sum", config={"splits": 1}),),
        "centring": None,
    }
    return Manifest(**{**fields, **changes})


def write_fake(out: Path, library: Path, tokenizer_dir: Path | None = None, **changes) -> Path:
    weight = np.ones(VOCAB, np.float32)
    weight[POISON] = 1e6  # never drawn
    return write_artifact(
        out,
        manifest=make_manifest(**changes),
        libraries={LIBRARY: library},
        params=[Param("weight", weight.shape, "float32", lambda: weight)],
        companions=companions(tokenizer_dir / "model.onnx") if tokenizer_dir else None,
    )


def next_token(history: list[int]) -> int:
    return (sum(history) + 7 + len(history)) % POISON


if __name__ == "__main__":
    export(Path(sys.argv[1]))
