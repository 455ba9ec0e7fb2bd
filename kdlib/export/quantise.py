"""Quantises an ONNX file to int8: static, QDQ, weights per channel, activations calibrated on fit."""

import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

Feed = dict[str, np.ndarray]  # inputs of a graph by name
# In a transformer only these operators are quantised, which have weights. Its sums, norms and softmax have outliers
# that 8 bits cannot hold: with them in int8, a text side of the embedded study fell from a mean recall of 0.557 to
# 0.436.
WEIGHTED = ["Conv", "Gather", "Gemm", "MatMul"]


def quantise(source: Path, target: Path, feeds: Iterable[Feed]) -> None:
    """Write ``source`` in int8 to ``target``; ``feeds``: batches that set the ranges of the activations.

    Unsigned activations and signed weights, which is what CPUs multiply fastest. Weights keep 7 of 8 bits: without
    VNNI such a CPU adds two products in 16 bits, and larger weights overflow there. In a graph with layer norms, a
    transformer's, only WEIGHTED operators are quantised.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as scratch:
        folded = Path(scratch) / "folded.onnx"
        # Its symbolic inference fails on the Expand of a normalisation; onnx's own shapes are enough.
        quant_pre_process(source, folded, skip_symbolic_shape=True)
        transformer = any(node.op_type == "LayerNormalization" for node in onnx.load(folded).graph.node)
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # the library logs a line for each tensor that stays float
        try:
            quantize_static(
                folded,
                target,
                _Reader(feeds),
                op_types_to_quantize=WEIGHTED if transformer else None,
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=True,
                calibrate_method=CalibrationMethod.MinMax,
            )
        finally:
            root.setLevel(level)
    _shorten(target)


def _shorten(path: Path) -> None:
    """Give tensors short names and drop their inferred shapes; together a tenth of a small network's file."""
    import onnx

    model = onnx.load(path)
    graph, names = model.graph, {}
    kept = {value.name for value in (*graph.input, *graph.output)} | {""}

    def short(name: str) -> str:
        return name if name in kept else names.setdefault(name, f"t{len(names)}")

    for tensor in graph.initializer:
        tensor.name = short(tensor.name)
    for node in graph.node:
        node.name = ""
        node.input[:], node.output[:] = map(short, node.input), map(short, node.output)
    del graph.value_info[:]
    onnx.save(model, path)


class _Reader:
    """The batches in the form that onnxruntime's calibration reads."""

    def __init__(self, feeds: Iterable[Feed]):
        self.feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self.feeds, None)
