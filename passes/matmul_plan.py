"""Finds the matmuls of a function that the packed kernel can take over, with the adds that follow them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax

from tqc.dialect.factors import is_constant_product
from tqc.dialect.registry import dtype_of

from .base import num_input

FLOATS = ("float32", "float16")
WEIGHTS = (*FLOATS, "bfloat16")


@dataclass(frozen=True, order=True)
class WeightUse:
    """A weight parameter as a matmul reads it: [K, N], or [N, K] through a transpose."""

    name: str
    transposed: bool


@dataclass(frozen=True)
class Epilogue:
    """An add after a product: the variable it defines and which of its arguments is the `bias` or `residual`."""

    var: relax.Var
    kind: str
    position: int


@dataclass(frozen=True)
class Product:
    """x · w at the binding of `var`. weight: the parameter's use; None for a constant, a rotation or a sketch."""

    var: relax.Var
    weight: WeightUse | None
    epilogue: tuple[Epilogue, ...] = ()

    @property
    def end(self) -> relax.Var:
        """The variable that holds the final result."""
        return self.epilogue[-1].var if self.epilogue else self.var


@dataclass
class MatmulPlan:
    """The products of one function. `plain`: names of weights that something else reads as well."""

    func: relax.Function
    products: list[Product] = field(default_factory=list)
    plain: set[str] = field(default_factory=set)
    needless: set[relax.Var] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.values = {b.var: b.value for block in self.func.body.blocks for b in block.bindings}
        self.users: dict[relax.Var, list[relax.Var]] = {}
        for var, value in self.values.items():
            for used in set(relax.analysis.free_vars(value)):
                self.users.setdefault(used, []).append(var)
        self.results = set(relax.analysis.free_vars(self.func.body.body))
        self.claimed: set[relax.Var] = set()
        self.matrices = {var for var in self.func.params[num_input(self.func) :] if self._is_stored(var.ty)}
        for var, value in self.values.items():
            if self._is_product(value):
                self.products.append(Product(var, self._weight(value), tuple(self._epilogue(var))))
        self.groups = self._group()
        taken = {product.var: product.weight for product in self.products}
        for weight in self.matrices:
            self._find_other_readers(weight, taken)

    @property
    def weights(self) -> set[WeightUse]:
        """Every use of a weight by a product."""
        return {product.weight for product in self.products if product.weight}

    def _is_stored(self, ty: Any) -> bool:
        """Whether a parameter can be a weight of a product."""
        return _is_matrix(ty)

    def left(self, value: relax.Call) -> relax.Expr:
        """x of a product x · w; what was rounded to bfloat16 for it, as it was before: the kernel takes float32."""
        x = value.args[0]
        return self.values[x].args[0] if self.is_rounding(x) else x

    def is_rounding(self, var: relax.Expr) -> bool:
        """Whether a variable is a float32 tensor rounded to bfloat16."""
        value = self.values.get(var)
        return is_op(value, "astype") and dtype_of(value.args[0].ty) == "float32" and dtype_of(var.ty) == "bfloat16"

    def _is_product(self, value: Any) -> bool:
        if is_constant_product(value):
            return dtype_of(value.args[0].ty) in FLOATS
        if not is_op(value, "matmul") or value.args[0].ty.ndim < 2 or dtype_of(self.left(value).ty) not in FLOATS:
            return False
        right = value.args[1]
        return self._weight(value) is not None or (isinstance(right, tvm.ir.GenericConst) and _is_matrix(right.ty))

    def _weight(self, value: relax.Call) -> WeightUse | None:
        right = value.args[-1]
        if right in self.matrices:
            return WeightUse(right.name, False)
        turned = self.values.get(right)
        if is_op(turned, "permute_dims") and turned.args[0] in self.matrices:
            return WeightUse(turned.args[0].name, True)
        return None

    def _epilogue(self, var: relax.Var):
        """The adds that follow: at most a bias, then at most a residual."""
        allowed = ("bias", "residual")
        while allowed:
            users = self.users.get(var, [])
            add = self.values[users[0]] if len(users) == 1 and var not in self.results else None
            if not is_op(add, "add") or users[0] in self.claimed:
                return  # … or it adds two products, and the other one has taken it
            position = 1 if add.args[0].same_as(var) else 0
            kind = _added_kind(var.ty, add.args[position].ty)
            if add.args[position].same_as(var) or kind not in allowed:
                return
            var, allowed = users[0], allowed[allowed.index(kind) + 1 :]
            self.claimed.add(var)
            yield Epilogue(var, kind, position)

    def _group(self) -> dict[relax.Var, list[Product]]:
        """Products of weights with the same x → the list of them, which one kernel call can compute at its first.

        Only what the first can know: a bias must be a parameter or a constant, a residual may come later.
        """
        groups: dict[tuple, list[Product]] = {}
        for product in self.products:
            added = [(e.kind, self.values[e.var].args[e.position]) for e in product.epilogue]
            early = all(kind == "bias" and other not in self.values for kind, other in added)
            if product.weight is not None and early:
                key = (*self._kernel_key(self.values[product.var]), dtype_of(product.end.ty))
                groups.setdefault(key, []).append(product)
        return {product.var: group for group in groups.values() if len(group) > 1 for product in group}

    def _kernel_key(self, value: relax.Call) -> tuple:
        """What products have to have in common for one kernel call."""
        return self.left(value), dtype_of(value.args[1].ty)

    def _find_other_readers(self, weight: relax.Var, taken: dict[relax.Var, WeightUse | None]) -> None:
        def by_product(reader: relax.Var, operand: relax.Var, transposed: bool) -> bool:
            right_side_only = reader in taken and not self.values[reader].args[0].same_as(operand)
            return right_side_only and taken[reader] == WeightUse(weight.name, transposed)

        for reader in self.users.get(weight, []):
            readers = self.users.get(reader, [])
            if is_op(self.values[reader], "permute_dims") and readers and reader not in self.results:
                if all(by_product(other, reader, True) for other in readers):
                    self.needless.add(reader)
                    continue
            if not by_product(reader, weight, False):
                self.plain.add(weight.name)
        if weight in self.results:
            self.plain.add(weight.name)


def is_op(value: Any, name: str) -> bool:
    """Whether `value` is a call of `relax.<name>`."""
    return isinstance(value, relax.Call) and getattr(value.op, "name", "") == f"relax.{name}"


def _is_matrix(ty: Any) -> bool:
    if not isinstance(ty, relax.TensorType) or ty.ndim != 2 or ty.shape is None or dtype_of(ty) not in WEIGHTS:
        return False
    return all(isinstance(extent, tvm.tirx.IntImm) for extent in ty.shape)


def _added_kind(product: relax.TensorType, other: Any) -> str | None:
    if not isinstance(other, relax.TensorType) or other.shape is None or dtype_of(other) != dtype_of(product):
        return None
    if other.ndim == 1 and _same(other.shape[0], product.shape[-1]):
        return "bias"
    is_alike = other.ndim == product.ndim and all(map(_same, other.shape, product.shape))
    return "residual" if is_alike else None


def _same(left: tvm.ir.Expr, right: tvm.ir.Expr) -> bool:
    return bool(tvm.sym.Analyzer().can_prove_equal(left, right))
