"""Products with block-quantized weights become calls of the CPU kernel, which reads the weights in its own layout."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import tvm
from tvm import relax

from tqc.codec import nbits
from tqc.dialect import is_op_call
from tqc.dialect.registry import dtype_of
from tqc.errors import PassError
from tqc.schedules.cpu_nbits import COLUMNS, WORD_BITS, make_matmul_nbits, pack_blocks, pack_words
from tqc.schedules.cpu_tiles import MatmulConfig

from .base import DROP, KEEP, ModulePass, re_emit
from .gather_packed import gather_packed
from .matmul_plan import MatmulPlan, Product, WeightUse


@dataclass(frozen=True)
class PackWords:
    """Packed numbers uint8 [N, blocks, block·bits/8] → words a column, columns side by side; see `pack_words`."""

    bits: int

    def apply(self, array: np.ndarray) -> np.ndarray:
        return pack_words(array, self.bits)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        return -(-shape[0] // COLUMNS), shape[1] * shape[2] * 8 // WORD_BITS, 4 * COLUMNS

    def needs(self, box: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
        """Whole rows of the weight; see `frontend.slabs.Local`."""
        return _rows(box, shape)


@dataclass(frozen=True)
class PackBlocks:
    """Scales or zero points [N, blocks] → columns side by side. Packed zero points, of `bits`, get a byte each."""

    blocks: int
    bits: int = 0

    def apply(self, array: np.ndarray) -> np.ndarray:
        return pack_blocks(nbits.unpack(array, self.bits)[:, : self.blocks] if self.bits else array)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        return -(-shape[0] // COLUMNS), self.blocks, COLUMNS

    def needs(self, box: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
        """Whole rows of the weight; see `frontend.slabs.Local`."""
        return _rows(box, shape)


def _rows(box: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The rows of a weight that are the columns of a part of the kernel's blocks."""
    rows = slice(box[0].start * COLUMNS, min(box[0].stop * COLUMNS, shape[0]))
    return rows, *(slice(0, extent) for extent in shape[1:])


class NbitsPlan(MatmulPlan):
    """The products with block-quantized weights of one function, with the adds that follow them."""

    def _is_stored(self, ty: Any) -> bool:
        return isinstance(ty, relax.TensorType)

    def _is_product(self, value: Any) -> bool:
        return is_op_call(value, "matmul_nbits") and all(arg in self.matrices for arg in value.args[1:])

    def _weight(self, value: relax.Call) -> WeightUse:
        return WeightUse(value.args[1].name, True)

    def _kernel_key(self, value: relax.Call) -> tuple:
        types = tuple(dtype_of(arg.ty) for arg in value.args[1:])
        return value.args[0], types, int(value.attrs["bits"]), int(value.attrs["block"])

    def _find_other_readers(self, weight: relax.Var, taken: dict[relax.Var, WeightUse | None]) -> None:
        """Products and gathers can read the kernel's layout; anything else makes the weight `plain`."""
        gathers = {var for var in self.users.get(weight, []) if is_op_call(self.values[var], "gather_nbits")}
        if weight in self.results or set(self.users.get(weight, [])) - gathers - set(taken):
            self.plain.add(weight.name)

    def layout(self) -> dict[str, PackWords | PackBlocks]:
        """Parameter → its new layout. Raises PassError if two products want different ones of the same parameter."""
        found: dict[str, PackWords | PackBlocks] = {}
        for product in self.products:
            value = self.values[product.var]
            bits, blocks = int(value.attrs["bits"]), int(value.args[1].ty.shape[1])
            wanted = [PackWords(bits), PackBlocks(blocks)]
            wanted += [PackBlocks(blocks, bits if dtype_of(arg.ty) == "uint8" else 0) for arg in value.args[3:]]
            for arg, form in zip(value.args[1:], wanted, strict=True):
                if found.setdefault(arg.name, form) != form or arg.name in self.plain:
                    raise PassError(
                        "A part of a quantized weight is used in two ways.",
                        where=f"weight {arg.name}",
                        found=f"{form} and {'another operation' if arg.name in self.plain else found[arg.name]}",
                    )
        return found


@dataclass(frozen=True)
class LayoutNbits(ModulePass):
    """Rewrites `tqc.matmul_nbits` with weights that are parameters, and `tqc.gather_nbits` from such weights.

    `weights` maps parameter names to weights with `then(transform, shape=, dtype=)` and is updated in place. A tied
    embedding's rows are gathered from the kernel's layout, so the weight is stored once. A following add of a vector
    [N] or of a tensor of the result's shape moves into the kernel; weights that meet the same x share one call.
    Raises PassError if something else reads a part of such a weight.
    """

    name: ClassVar[str] = "layout-nbits"
    config: MatmulConfig = field(default_factory=lambda: MatmulConfig(registers=8, rows=8), repr=False)
    weights: MutableMapping[str, Any] = field(default_factory=dict, repr=False)

    def apply(self, mod: tvm.IRModule) -> tvm.IRModule:
        functions = {gv.name_hint: func for gv, func in mod.functions_items() if isinstance(func, relax.Function)}
        plans = {n: NbitsPlan(func) for n, func in functions.items() if "num_input" in (func.attrs or {})}
        layouts = {name: plan.layout() for name, plan in plans.items()}
        layout = {name: form for found in layouts.values() for name, form in found.items()}
        if not layout:
            return mod
        types = {var.name: var.ty for plan in plans.values() for var in plan.matrices if var.name in layout}
        laid_out = {name: _type(types[name], form) for name, form in layout.items()}
        for name in set(layout) & set(self.weights):
            shape = tuple(int(extent) for extent in laid_out[name].shape)
            self.weights[name] = self.weights[name].then(layout[name], shape=shape, dtype=dtype_of(laid_out[name]))
        others = {gv: func for gv, func in mod.functions_items() if not isinstance(func, relax.Function)}
        kernels: dict[tuple, tvm.ir.GlobalVar] = {}
        builder = relax.BlockBuilder(tvm.IRModule(others, attrs=mod.attrs))
        for name, func in functions.items():
            if name in plans:
                _Rewriter(self, plans[name], laid_out, kernels).run(name, builder)
            else:
                re_emit(func, name, lambda *_: KEEP, builder=builder)
        return builder.get()


def _type(ty: relax.TensorType, form: PackWords | PackBlocks) -> relax.TensorType:
    return relax.TensorType(form.shape(tuple(int(extent) for extent in ty.shape)), dtype_of(ty))


class _Rewriter:
    """Writes one function anew over laid out weights."""

    def __init__(self, options: LayoutNbits, plan: NbitsPlan, laid_out: dict, kernels: dict) -> None:
        self.options, self.plan, self.kernels = options, plan, kernels
        self.product = {var: p for p in plan.products for var in (p.var, *(e.var for e in p.epilogue))}
        self.seen: dict[relax.Var, relax.Call] = {}
        self.wide: dict[relax.Expr, relax.Var] = {}
        self.results: dict[relax.Var, relax.Var] = {}
        self.new = {v: relax.Var(v.name, laid_out[v.name]) for v in plan.func.params if v.name in laid_out}

    def run(self, name: str, builder: relax.BlockBuilder) -> None:
        params = [self.new.get(var, var) for var in self.plan.func.params]
        re_emit(self.plan.func, name, self._rule, params=params, builder=builder)

    def _rule(self, bb: relax.BlockBuilder, var: relax.Var, value: relax.Expr) -> relax.Expr | str | None:
        if is_op_call(value, "gather_nbits") and any(arg in self.new for arg in value.args):
            return gather_packed(bb, value, self.new)
        product = self.product.get(var)
        if product is None:
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
        x = self._widened(bb, self.seen[group[0].var].args[0])
        values = [self.plan.values[product.var] for product in group]
        parts = [[self.new[value.args[at]] for value in values] for at in range(1, len(values[0].args))]
        added = [self._added(product) for product in group]
        types = [product.end.ty for product in group]
        kernel = self._kernel(bb, x, values, types, added)
        late = [found[kind] for kind in ("bias", "residual") for found in added if kind in found]
        out = [relax.TensorType(ty.shape, dtype_of(ty)) for ty in types]
        operands = [x, *(part for column in parts for part in column), *late]
        return relax.op.call_tir(kernel, operands, out if len(out) > 1 else out[0])

    def _widened(self, bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        """x in float32, converted once: the kernel reads every element of it for every block of columns."""
        if dtype_of(x.ty) == "float32":
            return x
        if x not in self.wide:
            self.wide[x] = bb.emit(relax.op.astype(x, "float32"))
        return self.wide[x]

    def _added(self, product: Product) -> dict[str, relax.Expr]:
        """What follows the product. In a group its add may not have been seen yet; parameters do not change."""
        adds = {e.kind: (self.seen.get(e.var, self.plan.values[e.var]), e.position) for e in product.epilogue}
        return {kind: add.args[position] for kind, (add, position) in adds.items()}

    def _kernel(self, bb: relax.BlockBuilder, x: relax.Expr, values: list, types: list, added: list) -> Any:
        scales, *points = (dtype_of(arg.ty) for arg in values[0].args[2:])
        k, widths = int(values[0].attrs["k"]), [int(value.attrs["n"]) for value in values]
        options = {
            "bits": int(values[0].attrs["bits"]),
            "block": int(values[0].attrs["block"]),
            "points": points[0] if points else "",
            "scale_dtype": scales,
            "y_dtype": dtype_of(types[0]),
            "bias": tuple("bias" in found for found in added),
            "residual": any("residual" in found for found in added),
            "leading": x.ty.ndim - 1,
        }
        key = (k, *widths, *options.values())
        if key not in self.kernels:
            func = make_matmul_nbits(k, widths, **options, config=self.options.config)
            suffixes = [name for name in ("bias", "residual") if any(name in found for found in added)]
            name = "_".join([f"matmul_int{options['bits']}_{k}x{'_'.join(map(str, widths))}", *suffixes])
            self.kernels[key] = bb.add_func(func, name)
        return self.kernels[key]
