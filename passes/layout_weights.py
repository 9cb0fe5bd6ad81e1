"""Matmuls with a weight become calls of the packed CPU kernel, and the weight is stored the way the kernel reads it."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import tvm
from tvm import relax

from tqc.dialect.factors import constant_factor, is_constant_product
from tqc.dialect.registry import dtype_of
from tqc.schedules.cpu_matmul import BLOCK, MatmulConfig, make_matmul, pack_columns

from .base import DROP, KEEP, ModulePass, re_emit
from .matmul_plan import MatmulPlan, Product, WeightUse


@dataclass(frozen=True)
class PackColumns:
    """W [K, N], or [N, K] if `transposed`, → [ceil(N/block), K, block]; see `pack_columns`."""

    block: int
    transposed: bool = False

    def apply(self, array: np.ndarray) -> np.ndarray:
        return pack_columns(array.T if self.transposed else array, self.block)

    def shape(self, shape: Any) -> tuple[int, int, int]:
        """The shape of `apply`'s result."""
        k, n = (int(extent) for extent in (reversed(list(shape)) if self.transposed else shape))
        return -(-n // self.block), k, self.block

    def needs(self, box: tuple[slice, ...], shape: tuple[int, int]) -> tuple[slice, ...]:
        """Whole columns of W for the blocks of `box`; see `frontend.slabs.Local`."""
        blocks, rows, _ = box
        k, n = reversed(shape) if self.transposed else shape
        if (rows.start, rows.stop) != (0, k):
            raise ValueError(f"a part of {k} rows was asked for: {rows}")
        columns = slice(blocks.start * self.block, min(blocks.stop * self.block, n))
        return (columns, rows) if self.transposed else (rows, columns)


@dataclass(frozen=True)
class LayoutWeights(ModulePass):
    """Rewrites `R.matmul(x, w)`, w a float matrix: a weight, its transpose, a constant, that of a rotation or sketch.

    A weight that only matmuls read changes its type. One that something else reads too (a tied embedding) stays, and a
    packed copy joins the parameters. `weights` maps parameter names to weights with `then(transform, shape=, dtype=)`
    and is updated in place. A following add of a vector [N] or of a tensor of the result's shape moves into the kernel.
    Weights that meet the same x (q, k and v; gate and up) share one call.
    """

    name: ClassVar[str] = "layout-weights"
    block: int = BLOCK
    config: MatmulConfig = field(default_factory=MatmulConfig, repr=False)
    weights: MutableMapping[str, Any] = field(default_factory=dict, repr=False)

    def apply(self, mod: tvm.IRModule) -> tvm.IRModule:
        functions = {gv.name_hint: func for gv, func in mod.functions_items() if isinstance(func, relax.Function)}
        plans = {n: MatmulPlan(func) for n, func in functions.items() if "num_input" in (func.attrs or {})}
        layout = self._decide(list(plans.values()))
        for use, new_name in layout.items():
            self._record(use, new_name, list(plans.values()))
        others = {gv: func for gv, func in mod.functions_items() if not isinstance(func, relax.Function)}
        kernels: dict[tuple, tvm.ir.GlobalVar] = {}
        builder = relax.BlockBuilder(tvm.IRModule(others, attrs=mod.attrs))
        for name, func in functions.items():
            if name in plans:
                _Rewriter(self, plans[name], layout, kernels).run(name, builder)
            else:
                re_emit(func, name, lambda *_: KEEP, builder=builder)
        return builder.get()

    def _decide(self, plans: list[MatmulPlan]) -> dict[WeightUse, str]:
        """Every packed weight → its parameter: its own where no function of the module needs it as it was."""
        uses = sorted({use for plan in plans for use in plan.weights})
        plain = {name for plan in plans for name in plan.plain}
        both = {use.name for use in uses if WeightUse(use.name, not use.transposed) in uses}
        suffix = {False: ".packed", True: ".packed_transposed"}
        return {use: use.name + (suffix[use.transposed] if use.name in plain | both else "") for use in uses}

    def _record(self, use: WeightUse, new_name: str, plans: list[MatmulPlan]) -> None:
        if use.name not in self.weights:
            return
        ty = next(var.ty for plan in plans for var in plan.matrices if var.name == use.name)
        pack = PackColumns(self.block, use.transposed)
        self.weights[new_name] = self.weights[use.name].then(pack, shape=pack.shape(ty.shape), dtype=dtype_of(ty))


class _Rewriter:
    """Writes one function anew with packed matmuls."""

    def __init__(self, options: LayoutWeights, plan: MatmulPlan, layout: dict[WeightUse, str], kernels: dict) -> None:
        self.options, self.plan, self.layout = options, plan, layout
        self.product = {v: p for p in plan.products for v in (p.var, *(e.var for e in p.epilogue))}
        self.seen: dict[relax.Var, relax.Call] = {}
        self.packed: dict[WeightUse, relax.Var] = {}
        self.results: dict[relax.Var, relax.Var] = {}
        self.kernels = kernels

    def run(self, name: str, builder: relax.BlockBuilder) -> None:
        params = list(self.plan.func.params)
        index = {var.name: i for i, var in enumerate(params) if var in self.plan.matrices}
        for use, new_name in self.layout.items():
            if use.name not in index:
                continue
            old = self.plan.func.params[index[use.name]]
            shape = PackColumns(self.options.block, use.transposed).shape(old.ty.shape)
            self.packed[use] = relax.Var(new_name, relax.TensorType(shape, dtype_of(old.ty)))
            if new_name == use.name:
                params[index[use.name]] = self.packed[use]
            else:
                params.append(self.packed[use])
        re_emit(self.plan.func, name, self._rule, params=params, builder=builder)

    def _rule(self, bb: relax.BlockBuilder, var: relax.Var, value: relax.Expr) -> relax.Expr | str | None:
        if var in self.plan.needless:
            return DROP
        product = self.product.get(var)
        if product is None:
            if self.plan.is_rounding(var):
                self.seen[var] = value
            return KEEP
        self.seen[var] = value
        group = self.plan.groups.get(product.var)
        if group is None:
            return self._call(bb, [product]) if var.same_as(product.end) else DROP
        if var.same_as(group[0].var):
            results = bb.emit(self._call(bb, group))
            self.results |= {p.end: bb.emit(relax.TupleGetItem(results, i)) for i, p in enumerate(group)}
        return self.results[var] if var.same_as(product.end) else DROP

    def _call(self, bb: relax.BlockBuilder, group: list[Product]) -> relax.Expr:
        """One kernel call for products of the same x; of one product, with all that is added to it."""
        value = self.seen[group[0].var]
        given = self.plan.values[group[0].var].args[0]
        x, weights = (
            self.seen[given].args[0] if self.plan.is_rounding(given) else value.args[0],
            [self._right_side(product, value) for product in group],
        )
        added = [self._added(product) for product in group]
        types = [product.end.ty for product in group]
        kernel = self._kernel(bb, x.ty, weights[0].ty, types, added)
        biases = [parts["bias"] for parts in added if "bias" in parts]
        residuals = [parts["residual"] for parts in added if "residual" in parts]
        out = [relax.TensorType(ty.shape, dtype_of(ty)) for ty in types]
        return relax.op.call_tir(kernel, [x, *weights, *biases, *residuals], out if len(out) > 1 else out[0])

    def _added(self, product: Product) -> dict[str, relax.Expr]:
        """What follows the product. In a group its add may not have been seen yet; parameters do not change."""
        adds = {e.kind: (self.seen.get(e.var, self.plan.values[e.var]), e.position) for e in product.epilogue}
        return {kind: add.args[position] for kind, (add, position) in adds.items()}

    def _kernel(self, bb: relax.BlockBuilder, x: Any, w: Any, types: list, added: list[dict]) -> tvm.ir.GlobalVar:
        k, widths = int(x.shape[-1]), [int(ty.shape[-1]) for ty in types]
        options = {
            "x_dtype": dtype_of(x),
            "w_dtype": dtype_of(w),
            "y_dtype": dtype_of(types[0]),
            "bias": tuple("bias" in parts for parts in added),
            "residual": any("residual" in parts for parts in added),
            "leading": x.ndim - 1,
        }
        key = (k, *widths, *options.values())
        if key not in self.kernels:
            func = make_matmul(k, widths, self.options.block, **options, config=self.options.config)
            suffixes = [name for name in ("bias", "residual") if any(name in parts for parts in added)]
            name = "_".join([f"matmul_{k}x{'_'.join(map(str, widths))}", *suffixes])
            self.kernels[key] = bb.add_func(func, name)
        return self.kernels[key]

    def _right_side(self, product: Product, value: relax.Call) -> relax.Expr:
        if product.weight is not None:
            return self.packed[product.weight]
        if is_constant_product(value):
            matrix = constant_factor(value).astype(np.float32)
        else:
            matrix = value.args[1].value.numpy()
        return relax.const(PackColumns(self.options.block).apply(matrix))
