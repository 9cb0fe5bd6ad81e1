"""Imports the damaged files named on its standard input and says what became of each, a line of JSON at each stage.

A crash of native code ends this process: whoever reads its output knows the stage from the last line.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import numpy as np
import tvm
import tvm_ffi
from tvm import relax

from tqc.errors import TqcError
from tqc.eval.agreement import OnnxModel
from tqc.frontend import Imported, import_model

MEMORY_BYTES = 24 << 30
"""Address space a worker may take, of which LLVM and TVM's threads reserve most without using it."""
RESIDENT_BYTES = 3 << 30
"""Memory in use beyond which an import counts as out of hand."""
TOO_LARGE = 1e4
"""Logits beyond this are not compared: an intact tiny model's stay below a hundred."""

_executables: dict[int, list[tuple[tvm.IRModule, relax.VirtualMachine]]] = {}


def _main(imported: Imported):
    """The compiled module; a damaged weight leaves the module as it was, so that few are compiled."""
    known = _executables.setdefault(tvm_ffi.structural_hash(imported.mod, map_free_vars=True), [])
    for mod, machine in known:
        if tvm_ffi.structural_equal(mod, imported.mod, map_free_vars=True):
            return machine["main"]
    machine = relax.VirtualMachine(relax.build(imported.mod, tvm.target.Target("llvm")), tvm.cpu())
    known.append((imported.mod, machine))
    return machine["main"]


def _caches(imported: Imported, batch: int, past: int) -> list[np.ndarray]:
    random = np.random.default_rng(past)
    shapes = [(batch, layer.kv_heads, past, layer.head_dim) for layer in imported.layers for _ in range(2)]
    return [random.standard_normal(shape, np.float32).astype(imported.dtype) for shape in shapes]


def _compare(imported: Imported, path: Path) -> dict:
    """Prefill, a chunk and a step beside onnxruntime on the same damaged file."""
    try:
        reference = OnnxModel(path, imported)
    except Exception as error:
        return {"outcome": "accepted, onnxruntime refuses", "detail": str(error)[:300]}
    main = _main(imported)
    weights = [tvm.runtime.tensor(weight.numpy()) for weight in imported.weights.values()]
    for batch, seq, past in ((1, 6, 0), (2, 3, 5), (2, 1, 9)):
        ids = np.random.default_rng(seq).integers(0, imported.vocab_size, (batch, seq))
        cache = _caches(imported, batch, past)
        try:
            theirs, _ = reference.run(ids, cache)
        except Exception as error:
            return {"outcome": "accepted, onnxruntime fails", "detail": str(error)[:300]}
        positions = np.tile(np.arange(past, past + seq), (batch, 1))
        ours = main(*map(tvm.runtime.tensor, (ids, positions, *cache)), *weights)[0].numpy().astype(np.float32)
        if ours.shape != theirs.shape:
            return {"outcome": "wrong", "detail": f"shape {ours.shape} instead of {theirs.shape}"}
        if not np.isfinite(theirs).all() or np.abs(theirs).max() > TOO_LARGE:
            if np.isfinite(ours).all() and not np.isfinite(theirs).all():
                return {"outcome": "wrong", "detail": "finite logits where onnxruntime's are not"}
            return {"outcome": "right, as far as numbers go"}
        if np.isnan(ours).any() and b"IsNaN" in path.read_bytes():
            # torch's guard against rows without any key also hides broken scores; tqc has no such rows and no guard.
            return {"outcome": "NaN that the graph hides"}
        scale = max(1.0, float(np.abs(theirs).max()))
        worst = float(np.abs(ours - theirs).max()) / scale
        if not worst <= (0.05 if imported.dtype == "float16" else 1e-3):
            return {"outcome": "wrong", "detail": f"{worst:.3g} of the largest logit at {(batch, seq, past)}"}
    return {"outcome": "right"}


def judge(path: Path, say) -> dict:
    """The outcome of one file; `say` is told when the import is over."""
    try:
        imported = import_model(path)
    except TqcError as error:
        text = str(error)
        what = "unforeseen error" if "The model cannot be imported" in text else "refused"
        return {"outcome": what, "detail": text[:400]}
    except MemoryError:
        return {"outcome": "memory"}
    except Exception as error:
        return {"outcome": "traceback", "detail": f"{type(error).__name__}: {error}"[:400]}
    say({"stage": "imported"})
    try:
        return _compare(imported, path)
    except Exception as error:
        return {"outcome": "fails later", "detail": f"{type(error).__name__}: {error}"[:400]}


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))

    def say(message: dict) -> None:
        print(json.dumps(message), flush=True)

    for line in sys.stdin:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = judge(Path(line.strip()), say)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if peak > before and peak * 1024 > RESIDENT_BYTES:
            found = {"outcome": "memory", "detail": f"{peak / 2**20:.1f} GiB; {found['outcome']}"}
        say(found)


if __name__ == "__main__":
    main()
