"""A tiny decoder of each family in every form that exporters give it.

    python -m tqc.models.forms FAMILY FORM FOLDER

writes FOLDER/FAMILY-FORM/model.onnx (and, for forms made of another file, that file's folder beside it).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from tqc.errors import ExportError
from tqc.models import builder, dynamo, rewrite, trace
from tqc.models.families import FAMILIES, family_model

Form = Callable[[str, Path, "Zoo"], None]
"""Writes model.onnx of a family into an existing folder; the zoo has the other forms."""


class Zoo:
    """Exports below `root`, each made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def path(self, family: str, form: str) -> Path:
        """`root`/FAMILY-FORM/model.onnx. Raises ExportError for unknown names; the exporter's own errors pass."""
        for kind, name, known in (("family", family, FAMILIES), ("form", form, FORMS)):
            if name not in known:
                raise ExportError(f"unknown {kind}", expected=", ".join(known), found=name)
        folder = self.root / f"{family}-{form}"
        if not folder.exists():
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.root, prefix=".export-") as scratch:
                made = Path(scratch) / "made"
                made.mkdir()
                FORMS[form](family, made, self)
                made.rename(folder)
        return folder / trace.GRAPH_FILE


def _torchscript(opset: int, attention: str = "", positions: bool = True, half: bool = False) -> Form:
    def write(family: str, folder: Path, zoo: Zoo) -> None:
        model = _model(family, attention)
        trace.write_onnx(model.half() if half else model, folder, opset=opset, positions=positions)

    return write


def _dynamo(opset: int, attention: str = "") -> Form:
    return lambda family, folder, zoo: dynamo.write_onnx(_model(family, attention), folder, opset=opset)


def _builder(precision: str, provider: str, **options: str) -> Form:
    return lambda family, folder, zoo: builder.write_onnx(family_model(family), folder, precision, provider, options)


def _rewritten(base: str, change: Callable[..., None], **options) -> Form:
    return lambda family, folder, zoo: change(zoo.path(family, base), folder / trace.GRAPH_FILE, **options)


def _model(family: str, attention: str):
    model = family_model(family)
    if attention and not FAMILIES[family].eager:
        model.set_attn_implementation(attention)
    return model


FORMS: dict[str, Form] = {
    "torchscript14": _torchscript(14, "eager"),
    "torchscript17": _torchscript(17),
    "torchscript18": _torchscript(18, positions=False),
    "torchscript17-fp16": _torchscript(17, half=True),
    "dynamo18": _dynamo(18),
    "dynamo18-eager": _dynamo(18, "eager"),
    "dynamo21": _dynamo(21),
    "dynamo23": _dynamo(23),
    "dynamo23-eager": _dynamo(23, "eager"),
    "dynamo24": _dynamo(24),
    "genai-fp32": _builder("fp32", "cpu"),
    "genai-fp16": _builder("fp16", "cuda"),
    # Without the accuracy level onnxruntime rounds activations to 8 bits, and there is nothing exact to compare with.
    # The builder takes MultiHeadAttention where the provider has no GroupQueryAttention of this type.
    "genai-mha": _builder("fp16", "cpu"),
    "genai-int4": _builder("int4", "cpu", accuracy_level="1"),
    "genai-int4f16": _builder("int4", "cuda"),
    # Norms of queries and keys stay outside of the attention operator, which has them on some providers only.
    "genai-int4f16-norms": _builder("int4", "cuda", fuse_qk_norm_gqa="false"),
    "fp16": _rewritten("torchscript17", rewrite.half),
    "q4": _rewritten("torchscript17", rewrite.block_quantized, bits=4, block=32, zero_points=False),
    "q4z": _rewritten("dynamo18", rewrite.block_quantized, bits=4, block=128, zero_points=True, gather=True),
    "q8": _rewritten("torchscript17", rewrite.block_quantized, bits=8, block=128, zero_points=False),
    "q8z": _rewritten("dynamo18", rewrite.block_quantized, bits=8, block=32, zero_points=True),
    "q4f16": _rewritten("q4", rewrite.half),
    "fused": _rewritten("torchscript14", rewrite.fused),
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=[*FAMILIES, "all"])
    parser.add_argument("form", choices=[*FORMS, "all"])
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    zoo = Zoo(options.folder)
    for family in FAMILIES if options.family == "all" else [options.family]:
        for form in FORMS if options.form == "all" else [options.form]:
            try:
                print(zoo.path(family, form))
            except Exception as error:  # an exporter may fail with anything; the others are still wanted
                print(f"{family} {form}: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
