"""The IR of a function on one screen: a line a binding, `name = op(arguments) {options}`, shapes left out."""

from tvm import relax

SHOWN = ("k", "v", "layer", "inverse")


def outline(func: relax.Function, *, only: str = "") -> list[str]:
    """The bindings of `func` as text; with `only`, those whose line contains it."""
    names = {var: var.name for var in func.params}
    lines = []

    def text(expr) -> str:
        if isinstance(expr, relax.Tuple):
            return "(" + ", ".join(text(field) for field in expr.fields) + ")"
        if isinstance(expr, relax.TupleGetItem):
            return f"{text(expr.tuple_value)}[{expr.index}]"
        if isinstance(expr, relax.Call):
            options = {}
            if expr.op.name.startswith("tqc.") and expr.attrs is not None:
                options = {key: expr.attrs[key] for key in SHOWN if key in expr.attrs.keys()}
            shown = " {" + ", ".join(f"{k}={v}" for k, v in options.items()) + "}" if options else ""
            arguments = [text(arg) for arg in expr.args if not isinstance(arg, relax.ShapeExpr)]
            return f"{expr.op.name.removeprefix('relax.')}({', '.join(arguments)}){shown}"
        return names.get(expr, "const")

    for block in func.body.blocks:
        for binding in block.bindings:
            if isinstance(binding.value, relax.Var):
                names[binding.var] = names[binding.value]
                continue
            names[binding.var] = f"%{len(lines)}"
            lines.append(f"{names[binding.var]} = {text(binding.value)}")
    return [line for line in lines if only in line]
