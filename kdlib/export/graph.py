"""A network as an ONNX file, from uint8 pixels or token ids to embeddings of length 1, and the same in int8."""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

Feed = dict[str, np.ndarray]  # the inputs of a graph by name
INPUTS = {"image": ("pixels",), "text": ("input_ids", "attention_mask")}
FREE = {"image": ("batch",), "text": ("batch", "length")}  # their axes of any size
OPSET = 18  # read by every onnxruntime since 1.14
# Of a graph with layer norms, a transformer's, only these operators become int8, which have weights. Its sums, norms
# and softmax have outliers that 8 bits cannot hold: with them a text side fell from a mean recall of 0.557 to 0.436.
WEIGHTED = ["Conv", "Gather", "Gemm", "MatMul"]


def write(network: nn.Module, side: str, feed: Feed, path: Path) -> None:
    """Write one side to ``path``, for any number of inputs. ``feed`` has two of them: one would become a constant."""
    import onnx

    example = tuple(torch.from_numpy(feed[name]) for name in INPUTS[side])
    sizes = {axis: torch.export.Dim(name) for axis, name in enumerate(FREE[side])}
    options = {"dynamo": True, "verify": True, "verbose": False, "opset_version": OPSET}
    options |= {"input_names": list(INPUTS[side]), "output_names": [f"{side}_embeds"]}
    options |= {"dynamic_shapes": (sizes,) * len(example)}
    with warnings.catch_warnings(), torch.inference_mode(False):
        warnings.simplefilter("ignore")  # two inputs share an axis, which is meant
        model = torch.onnx.export(network.eval(), example, **options).model_proto
    graph = model.graph
    for entry in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del entry.metadata_props[:]  # stack traces: of a narrow network they are a third of the file
        entry.doc_string = ""
    onnx.save(model, path)


def session(path: Path, threads: int = 0) -> Callable[[Feed], np.ndarray]:
    """An ONNX file as a function on the CPU, from a feed to (B, D); by default with a thread a core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    running = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda feed: running.run(None, feed)[0]


def quantise(source: Path, target: Path, feeds: Iterator[Feed]) -> None:
    """Write ``source`` in int8: static, weights per channel; ``feeds``: batches that set the ranges of activations.

    Unsigned activations and signed weights, which CPUs multiply fastest. Weights keep 7 of 8 bits: without VNNI such a
    CPU adds two products in 16 bits, and larger weights overflow there.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    reader = SimpleNamespace(get_next=lambda: next(feeds, None))
    types = {"activation_type": quantization.QuantType.QUInt8, "weight_type": quantization.QuantType.QInt8}
    with tempfile.TemporaryDirectory() as scratch:
        folded = Path(scratch) / "folded.onnx"
        quant_pre_process(source, folded, skip_symbolic_shape=True)  # which fails on a normalisation's Expand
        transformer = any(node.op_type == "LayerNormalization" for node in onnx.load(folded).graph.node)
        types["op_types_to_quantize"] = WEIGHTED if transformer else None
        quantization.quantize_static(folded, target, reader, **types, per_channel=True, reduce_range=True)
    model = onnx.load(target)  # names and inferred shapes are a tenth of a small network's file
    graph, names = model.graph, {value.name: value.name for value in (*model.graph.input, *model.graph.output)}
    short = lambda name: names.setdefault(name, f"t{len(names)}" if name else "")  # noqa: E731
    for tensor in graph.initializer:
        tensor.name = short(tensor.name)
    for node in graph.node:
        node.name, node.input[:], node.output[:] = "", map(short, node.input), map(short, node.output)
    del graph.value_info[:]
    onnx.save(model, target)
