"""What every pass is: a frozen dataclass whose fields are its options, applied to a module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator


@dataclass(frozen=True)
class ModulePass:
    """A module-to-module transformation; the IR is well-formed before and after `apply`."""

    name: ClassVar[str]

    def apply(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The transformed module; the input is left alone."""
        raise TypeError(f"{type(self).__name__} does not say what it does to a module")

    def __call__(self, mod: tvm.IRModule) -> tvm.IRModule:
        return tvm.transform.module_pass(lambda module, _: self.apply(module), opt_level=0, name=self.name)(mod)

    def __str__(self) -> str:
        """`name{option=value,…}`, of the options that are shown."""
        options = ",".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self) if f.repr)
        return f"{self.name}{{{options}}}" if options else self.name


KEEP = None
"""Answer of a rewrite rule that leaves a binding as it is."""

DROP = "drop"
"""Answer of a rewrite rule whose binding nobody uses any more."""

Rule = Callable[[relax.BlockBuilder, relax.Var, relax.Expr], "relax.Expr | str | None"]


@mutator
class _Substitute(PyExprMutator):
    """Replaces variables in one expression."""

    def __init__(self, replaced: dict[relax.Var, relax.Expr]) -> None:
        super().__init__()
        self.replaced = replaced

    def visit_var_(self, var: relax.Var) -> relax.Expr:
        return self.replaced.get(var, var)

    def visit_dataflow_var_(self, var: relax.Var) -> relax.Expr:
        return self.replaced.get(var, var)


def re_emit(
    func: relax.Function,
    name: str,
    rule: Rule,
    *,
    params: Sequence[relax.Var] | None = None,
    attrs: dict[str, object] | None = None,
    prologue: Iterable[tuple[relax.Var, relax.Expr]] = (),
    output: Callable[[relax.Expr], relax.Expr] = lambda old: old,
    builder: relax.BlockBuilder | None = None,
) -> relax.BlockBuilder:
    """Writes `func` anew, binding by binding, into one dataflow block.

    `rule(builder, var, value)` sees every binding with the replacements so far already made and answers KEEP, DROP, or
    the expression that takes the binding's place; it may emit more bindings before. `prologue` defines variables that
    were parameters before; `output` maps the old result.
    Returns the builder, whose module holds the new function as `name`.
    """
    bb = builder or relax.BlockBuilder()
    replaced: dict[relax.Var, relax.Expr] = {}
    with bb.function(name, list(params or func.params), attrs=attrs if attrs is not None else dict(func.attrs or {})):
        with bb.dataflow():
            for var, value in prologue:
                replaced[var] = bb.emit(value)
            for block in func.body.blocks:
                for binding in block.bindings:
                    value = _Substitute(replaced).visit_expr(binding.value) if replaced else binding.value
                    answer = rule(bb, binding.var, value)
                    if isinstance(answer, str):
                        continue
                    if answer is KEEP:
                        answer = value
                    stays_inline = isinstance(answer, (relax.Var, relax.Tuple))
                    replaced[binding.var] = answer if stays_inline else bb.emit(answer)
            out = bb.emit_output(output(replaced[func.body.body]))
        bb.emit_func_output(out)
    return bb


def rewrite_functions(mod: tvm.IRModule, rewrite: Callable[[relax.Function, str], tvm.IRModule]) -> tvm.IRModule:
    """A module in which every Relax function is replaced by the one of its name that `rewrite` returns."""
    out = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs)
    for gv, func in mod.functions_items():
        if isinstance(func, relax.Function):
            for new_gv, new_func in rewrite(func, gv.name_hint).functions_items():
                out[gv if new_gv.name_hint == gv.name_hint else new_gv] = new_func
    return out


def num_input(func: relax.Function) -> int:
    """How many parameters come before the weights."""
    return int(func.attrs["num_input"])
