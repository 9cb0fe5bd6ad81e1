"""Which forms of matrix product each architecture has as one machine instruction, and what each costs in accuracy.

python benchmarks/mma_forms.py

No GPU is needed, and no time is measured: the question is which readers of coded keys are worth building at all.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from report import RESULTS, table, write

from tqc.codec.lloyd_max import codebook
from tqc.codegen.cuda_toolchain import compile_device_code, find_nvcc
from tqc.codegen.sass import disassemble, kind_of
from tqc.errors import TargetError
from tqc.schedules.cuda_int8 import LIMIT, grid

ARCHS = ("sm_80", "sm_89", "sm_90a", "sm_100a", "sm_120a")
FORMS = {
    "mma.sync float16, k16": ("m16n8k16.row.col.f32.f16.f16.f32", 4, 2, "float", "+f"),
    "mma.sync int8, k32": ("m16n8k32.row.col.s32.s8.s8.s32", 4, 2, "int", "+r"),
    "mma.sync e4m3, k32": ("m16n8k32.row.col.f32.e4m3.e4m3.f32", 4, 2, "float", "+f"),
}
BITS, HEAD_DIM, KEYS, SEED = (2, 3, 4), 128, 4096, 0

METHOD = f"""\
A kernel with one product of each form is compiled for each architecture and disassembled; the table counts tensor
instructions and conversions. A form that is not one tensor instruction is put together by the compiler.

Accuracy: {KEYS} random unit keys and queries of {HEAD_DIM} dims, keys in codes. `noise` is the mean squared change of
the products by rounding centroids, queries or both to the form's type, by the mean squared error that the codes
themselves make. int8 rounds centroids to a grid of half-integers and each query by its largest number (`cuda_int8`);
e4m3 rounds both, centroids at the scale that suits them best."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS / "mma_forms")
    options = parser.parse_args()
    data = {"nvcc": find_nvcc().version, "forms": forms(), "noise": noise()}
    write(options.output, "Forms of matrix product", METHOD, data, tables(data))


def forms() -> list[dict[str, Any]]:
    """Of each form and architecture the instructions that it becomes; None where the compiler refuses it."""
    rows = []
    for name, form in FORMS.items():
        for arch in ARCHS:
            try:
                code = compile_device_code(source(*form), arch, form="cubin").code
            except TargetError:
                rows.append({"form": name, "arch": arch, "instructions": None})
                continue
            kernel = disassemble(code)["one"]
            names = [x.name for x in kernel.instructions if kind_of(x.name) == "tensor" or x.name == "F2FP"]
            rows.append({"form": name, "arch": arch, "instructions": dict(Counter(names))})
    return rows


def source(shape: str, a: int, b: int, kind: str, constraint: str) -> str:
    """CUDA C++ of a kernel that multiplies once."""
    sums = ", ".join(f'"{constraint}"(d[{i}])' for i in range(4))
    inputs = ", ".join(f'"r"(x[{i} * 32])' for i in range(a + b))
    places = [f"%{i}" for i in range(4 + a + b)]
    listed = ["{" + ", ".join(part) + "}" for part in (places[:4], places[4 : 4 + a], places[4 + a :], places[:4])]
    return f"""
extern "C" __global__ void one({kind}* y, const unsigned* x) {{
  x += threadIdx.x;
  {kind} d[4] = {{y[0], y[1], y[2], y[3]}};
  asm volatile("mma.sync.aligned.{shape} {", ".join(listed)};" : {sums} : {inputs});
  for (int i = 0; i < 4; ++i) y[threadIdx.x * 4 + i] = d[i];
}}
"""


def noise() -> list[dict[str, Any]]:
    """What rounding adds to the error of products with coded keys."""
    rng = np.random.default_rng(SEED)
    k, q = (unit(rng.standard_normal((KEYS, HEAD_DIM))) for _ in range(2))
    rows = []
    for bits in BITS:
        book = codebook(bits, HEAD_DIM).centroids.astype(np.float64)
        codes = np.abs(k[..., None] - book).argmin(axis=-1)
        products = (book[codes] * q).sum(axis=1)
        own = np.mean((products - (k * q).sum(axis=1)) ** 2)
        for kind, (round_book, round_query) in {"int8": (int8_book, int8_rows), "e4m3": (e4m3_book, e4m3)}.items():
            other, rounded = round_book(book)[codes], round_query(q)
            changed = {"centroids": other * q, "queries": book[codes] * rounded, "both": other * rounded}
            found = {what: float(np.mean((x.sum(axis=1) - products) ** 2) / own) for what, x in changed.items()}
            rows.append({"bits": bits, "type": kind} | found)
    return rows


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def int8_book(book: np.ndarray) -> np.ndarray:
    step, whole = grid(book.astype(np.float32))
    positive = step * (whole + 0.5)
    return np.concatenate([-positive[::-1], positive])


def int8_rows(q: np.ndarray) -> np.ndarray:
    scale = np.abs(q).max(axis=1, keepdims=True) / LIMIT
    return np.rint(q / scale) * scale


def e4m3(x: np.ndarray) -> np.ndarray:
    """Numbers of a row at most 1 as e4m3, far from its smallest ones."""
    return (x * 256).astype(ml_dtypes.float8_e4m3fn).astype(np.float64) / 256


def e4m3_book(book: np.ndarray) -> np.ndarray:
    scales: list[Callable[[], np.ndarray]] = [
        lambda s=s: e4m3(book / np.abs(book).max() * s) / s * np.abs(book).max() for s in np.linspace(0.5, 1, 257)
    ]
    return min((scale() for scale in scales), key=lambda x: ((x - book) ** 2).sum())


def tables(data: dict[str, Any]) -> str:
    """Both tables."""

    def cell(row: dict[str, Any]) -> str:
        found = row["instructions"]
        return "no" if found is None else " + ".join(f"{count} {name}" for name, count in sorted(found.items()))

    rows = [[cell(row) for row in data["forms"] if row["form"] == name] for name in FORMS]
    made = table(("form", *ARCHS), [[name, *cells] for name, cells in zip(FORMS, rows, strict=True)])
    kinds = ("centroids", "queries", "both")
    lines = [[str(x["bits"]), x["type"], *(f"{x[kind]:.2%}" for kind in kinds)] for x in data["noise"]]
    return f"## Machine instructions\n\n{made}\n## Noise, of that of the codes\n\n" + table(
        ("bits", "type", *kinds), lines
    )


if __name__ == "__main__":
    main()
