"""Legalizes one op and runs it."""

import numpy as np
import tvm
from tvm import relax

from tqc.runtime.device import as_dtype


def run_op(build, **arrays):
    """Legalizes and runs `build(*vars)` on the arrays."""
    params = [relax.Var(name, relax.TensorType(a.shape, str(a.dtype))) for name, a in arrays.items()]
    bb = relax.BlockBuilder()
    with bb.function("main", params):
        with bb.dataflow():
            out = bb.emit_output(bb.emit(build(*params)))
        bb.emit_func_output(out)
    module = relax.transform.LegalizeOps()(bb.get())
    vm = relax.VirtualMachine(relax.build(module, tvm.target.Target("llvm")), tvm.cpu())
    return vm["main"](*map(tensor, arrays.values())).numpy()


def tensor(array):
    """The array in TVM; bfloat16, which NumPy knows by ml_dtypes only, too."""
    if str(array.dtype) == "bfloat16":
        return as_dtype(tvm.runtime.tensor(array.view(np.uint16)), "bfloat16")
    return tvm.runtime.tensor(array)
