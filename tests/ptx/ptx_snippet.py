"""Small kernels in PTX for tests. A ptxas, if there is one, assembles each: no test rests on PTX that is none."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from ptx_report import Report
from ptx_run import Unwritten, run

from tqc.codegen.cuda_toolchain import find_nvcc
from tqc.errors import TargetError

_HEADER = ".version 8.6\n.target sm_90a\n.address_size 64\n"
_THREADS = 64
_REGISTERS = """
    .reg .pred p<16>, q<16>;
    .reg .b16 h<32>;
    .reg .b32 r<64>;
    .reg .f32 f<32>;
    .reg .b64 d<32>;
    .reg .f64 g<16>;
"""


def kernel(body: str, *params: str, arrays: str = "", module: str = "") -> str:
    """A kernel `k` around `body`. params: types, `u64` for an address, which `body` finds as param0, param1, …;
    arrays: declarations of shared and local memory; module: those outside of the kernel.

    Registers: p, q (predicates), h (16 bits), r (32), f (f32), d (64), g (f64), with numbers behind.
    """
    listed = ", ".join(f".param .{kind} param{i}" for i, kind in enumerate(params))
    return f"{_HEADER}{module}\n.visible .entry k({listed})\n{{{_REGISTERS}{arrays}\n{body}\nret;\n}}\n"


def launch(text: str, grid, block, *arguments, **options) -> Report:
    """Assembles the text, if there is a ptxas, and runs it on the interpreter."""
    assemble(text)
    return run(text, grid, block, *arguments, **options)


@functools.cache
def assemble(text: str) -> None:
    """Raises AssertionError with ptxas's message if the text is no PTX."""
    program = _ptxas()
    if program is None:
        return
    with tempfile.TemporaryDirectory(prefix="tqc-ptxas-") as folder:
        Path(folder, "k.ptx").write_text(text, encoding="utf-8")
        command = [program, "-O0", "-arch=sm_90a", "k.ptx", "-o", "k.cubin"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@functools.cache
def _ptxas() -> str | None:
    try:
        path = find_nvcc().path.resolve().parent / "ptxas"
    except TargetError:
        return None
    return str(path) if path.is_file() else None


def evaluate(template: str, result: str, *inputs: np.ndarray) -> np.ndarray:
    """Runs one instruction, or several, for each element of the inputs, one thread each.

    template: with {0}, {1}, … for registers that hold the inputs and {d} for that of the result; inputs: of one length,
    float32 and float64 in f32 and f64 registers, bool in predicates, others in registers of their size, bytes in 16
    bits. result: pred (as bool), f32, f64, or b16, b32, b64 (as unsigned integers).
    """
    count = len(inputs[0])
    padded = [np.concatenate([x, np.resize(x, -count % _THREADS)]) for x in inputs]
    padded = [x.astype(np.uint8) if x.dtype == bool else x for x in padded]
    body = ["mov.u32 r0, %tid.x;", f"mov.u32 r1, %ctaid.x; mad.lo.s32 r0, r1, {_THREADS}, r0;"]
    names = {}
    for i, (array, given) in enumerate(zip(padded, inputs, strict=True)):
        load, names[str(i)] = _load(i, given.dtype)
        body += [f"ld.param.u64 d0, [param{i}];", f"mad.wide.u32 d0, r0, {array.itemsize}, d0;", load]
    kind = {"pred": "b32"}.get(result, result)
    names["d"] = {"pred": "p9", "b16": "h30", "b32": "r60", "f32": "f30", "b64": "d30", "f64": "g14"}[result]
    body.append(template.format(*[names[str(i)] for i in range(len(inputs))], d=names["d"]))
    if result == "pred":
        body.append("selp.b32 r60, 1, 0, p9;")
    size = {"b16": 2, "b32": 4, "f32": 4, "b64": 8, "f64": 8}[kind]
    stored = "r60" if result == "pred" else names["d"]
    body += [f"ld.param.u64 d0, [param{len(inputs)}];", f"mad.wide.u32 d0, r0, {size}, d0;"]
    body.append(f"st.global.{kind} [d0], {stored};")
    dtype = {"f32": np.float32, "f64": np.float64}.get(kind, np.dtype(f"u{size}"))
    out = np.zeros(len(padded[0]), dtype)
    text = kernel("\n".join(body), *["u64"] * (len(inputs) + 1))
    launch(text, len(out) // _THREADS, _THREADS, *padded, Unwritten(out))
    return out[:count] != 0 if result == "pred" else out[:count]


def _load(i: int, dtype: np.dtype) -> tuple[str, str]:
    """The instruction that loads input i from [d0], and the register."""
    if dtype.kind == "b":
        return f"ld.global.u8 h{i}, [d0]; setp.ne.u16 p{i}, h{i}, 0;", f"p{i}"
    if dtype == np.float32:
        return f"ld.global.f32 f{i}, [d0];", f"f{i}"
    if dtype == np.float64:
        return f"ld.global.f64 g{i}, [d0];", f"g{i}"
    if dtype.itemsize == 1:
        return f"ld.global.{'s8' if dtype.kind == 'i' else 'u8'} h{i}, [d0];", f"h{i}"
    name = {2: "h", 4: "r", 8: "d"}[dtype.itemsize] + str(i + 2)
    return f"ld.global.b{8 * dtype.itemsize} {name}, [d0];", name
