"""Writes a network as an ONNX file: from pixels or token ids to embeddings of length 1, for any batch and text length.

The graph takes uint8 pixels and scales them itself, so that nobody can divide by 255 twice or forget to. Images are
resized outside.
"""

import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from kdlib.students import Student

# Side -> its inputs, each with its dynamic axes. Ids and mask are int64, padded by the tokenizers library.
INPUTS: dict[str, dict[str, dict[int, str]]] = {
    "image": {"pixels": {0: "batch"}},
    "text": {"input_ids": {0: "batch", 1: "length"}, "attention_mask": {0: "batch", 1: "length"}},
}
OUTPUTS = {"image": "image_embeds", "text": "text_embeds"}
OPSET = 18  # read by every onnxruntime since 1.14


class ExportError(RuntimeError):
    """A student cannot be exported, or a file computes something else than the student; the message says why."""


class ImageTower(nn.Module):
    """The image side of a student that reads pixels: (B, 3, S, S) uint8 -> (B, D)."""

    def __init__(self, student: Student):
        super().__init__()
        self.student = student

    def forward(self, pixels: Tensor) -> Tensor:
        """RGB pixels as they are in the file."""
        return self.student.see({"pixels": pixels.float() / 255})["image"]


class TextTower(nn.Module):
    """The text side of a student that reads ids: ids and mask (B, L) int64, of the whole tokenizer -> (B, D).

    ``places`` (tokens of the tokenizer,): the row of each in the student's table, which is cut to what occurs in fit.
    """

    def __init__(self, student: Student, places: Tensor):
        super().__init__()
        self.student = student
        self.register_buffer("places", places)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """As the tokenizer pads them."""
        ids = self.places[input_ids].long() * attention_mask
        return self.student.read({"text_ids": ids, "text_mask": attention_mask.bool()})["text"]


def write(tower: nn.Module, side: str, example: tuple[Tensor, ...], path: Path) -> None:
    """Write ``tower`` to ``path``. ``example``: inputs with two rows, since the exporter takes one row for a constant.

    Raises ExportError if the file would accept only one batch size (pytorch issue 157621). :mod:`kdlib.export.check`
    compares its outputs (pytorch issue 169178).
    """
    import onnx

    axes, sizes = INPUTS[side], {name: torch.export.Dim(name) for name in ("batch", "length")}
    # The exporter that traces (dynamo=False) is quicker, but freezes the batch of CLIP's text side.
    with warnings.catch_warnings(), torch.inference_mode(False):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            tower.eval(),
            example,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=list(axes),
            output_names=[OUTPUTS[side]],
            dynamic_shapes=tuple({axis: sizes[name] for axis, name in free.items()} for free in axes.values()),
        )
    model = program.model_proto
    _without_notes(model)
    _check_free(model, side, path)
    onnx.save(model, path)


def _without_notes(model) -> None:
    """Take out the exporter's stack traces: of a narrow network they are a third of the file."""
    graph = model.graph
    for entry in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del entry.metadata_props[:]
        entry.doc_string = ""
    del model.functions[:]  # all inlined


def _check_free(model, side: str, path: Path) -> None:
    wanted = INPUTS[side] | {OUTPUTS[side]: {0: "batch"}}
    for value in (*model.graph.input, *model.graph.output):
        shape = value.type.tensor_type.shape.dim
        for axis, name in wanted[value.name].items():
            if not shape[axis].dim_param:
                raise ExportError(
                    f"{path.name}: torch {torch.__version__} froze the {name} of '{value.name}' at "
                    f"{shape[axis].dim_value}. Write forward() without Python numbers taken from shapes, as len(x)."
                )
