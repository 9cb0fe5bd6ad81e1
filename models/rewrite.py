"""What onnxruntime's own tools do to an exported decoder: float16, block-quantized weights, fused operators."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from tqc.models.trace import DATA_FILE, SMALLEST_BYTES


def _save(model: onnx.ModelProto, path: Path) -> None:
    onnx.save_model(model, str(path), save_as_external_data=True, location=DATA_FILE, size_threshold=SMALLEST_BYTES)


@contextmanager
def _quiet() -> Iterator[None]:
    """The tools tell every node they look at, at levels that they set themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def half(source: Path, target: Path) -> None:
    """Converts every float32 tensor, inputs and outputs too, to float16, as onnxruntime.transformers does it."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(str(source))
    _save(convert_float_to_float16(model, keep_io_types=False, disable_shape_infer=True), target)


def block_quantized(
    source: Path, target: Path, *, bits: int, block: int, zero_points: bool, gather: bool = False
) -> None:
    """Quantizes the weights of MatMul (and of Gather, `gather`) by blocks of `block` numbers to `bits` bits."""
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    config = DefaultWeightOnlyQuantConfig(
        block_size=block,
        is_symmetric=not zero_points,
        bits=bits,
        op_types_to_quantize=("MatMul", "Gather") if gather else ("MatMul",),
    )
    quantizer = MatMulNBitsQuantizer(onnx.load(str(source)), algo_config=config)
    with _quiet():
        quantizer.process()
    _save(quantizer.model.model, target)


def fused(source: Path, target: Path) -> None:
    """Fuses attention and norms to onnxruntime's own operators (domain com.microsoft), as its optimizer does it."""
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    options = FusionOptions("gpt2")
    options.use_multi_head_attention = True
    with _quiet():
        model = optimizer.optimize_model(str(source), "gpt2", 0, 0, optimization_options=options, opt_level=0)
    _save(model.model, target)
