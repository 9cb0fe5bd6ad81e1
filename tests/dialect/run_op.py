"""Legalizes one op and runs it."""

import tvm
from tvm import relax


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
    return vm["main"](*(tvm.runtime.tensor(a) for a in arrays.values())).numpy()
