"""A student that needs no teacher, with its preprocessing and its tokenizer, loaded from an exported folder."""

import filecmp
import shutil
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from PIL import Image, ImageOps
from safetensors.torch import load_file, save
from tokenizers import Tokenizer
from torch import Tensor, nn

from kdlib import students
from kdlib.config import RunConfig
from kdlib.export.graph import Feed
from kdlib.features import fitted

WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"


class ExportedStudent(nn.Module, PyTorchModelHubMixin, library_name="kdlib", tags=["knowledge-distillation"]):
    """``ExportedStudent.from_pretrained(folder or model id)``; nothing is unpickled.

    ``encode_images`` and ``encode_texts`` give (B, D) float32 of length 1: a product is a cosine. The arguments are
    those of config.json: ``student`` fields of a RunConfig, ``inputs`` of students.Inputs, ``tokens`` of the tokenizer.
    """

    def __init__(self, student: dict, inputs: dict, tokens: int = 0):
        super().__init__()
        known = {name: value for name, value in student.items() if name in RunConfig.model_fields}
        given = students.Inputs(**inputs | {"grid": tuple(inputs["grid"])})
        self.student = students.build(RunConfig(**known | {"pretrained": False}), given)  # a file has the weights
        kind = torch.int16 if given.vocabulary < 2**15 else torch.int32
        # (tokens,) the row of each token of the tokenizer in the student's own table.
        self.register_buffer("places", torch.zeros(tokens, dtype=kind) if tokens else None)
        self.image_size, self.tokenizer, self.folder = known["image_size"], None, None

    @classmethod
    def _from_pretrained(cls, *, model_id, student=None, inputs=None, tokens=0, **options) -> "ExportedStudent":
        folder = Path(model_id)
        if not folder.is_dir():
            folder = Path(snapshot_download(model_id, allow_patterns=["*.json", WEIGHTS], **options))
        if student is None:
            raise ValueError(f"{folder} holds no exported student: its config.json lacks 'student'. Use kdlib export.")
        made = cls(student=student, inputs=inputs, tokens=tokens)
        made.load_state_dict(load_file(folder / WEIGHTS))
        made.folder = folder
        if tokens:
            made.tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        return made.eval()

    def _save_pretrained(self, target: Path) -> None:
        state = {name: value.contiguous() for name, value in self.state_dict().items()}
        (target / WEIGHTS).write_bytes(save(state, metadata={"format": "pt"}))
        if self.tokenizer is not None:
            self.tokenizer.save(str(target / TOKENIZER))
        # Graphs, card and scores are of the weights beside them: a student that was trained further leaves them behind.
        source = self.folder or target
        if not source.samefile(target) and filecmp.cmp(source / WEIGHTS, target / WEIGHTS, shallow=False):
            shutil.copytree(source, target, dirs_exist_ok=True)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, 3, S, S) uint8 pixels, or ids and mask (B, L) int64 -> (B, D)."""
        if mask is None:  # the graph divides by 255, so that nobody can do it twice or forget to
            return self.student.see({"pixels": inputs.float() / 255})["image"]
        return self.student.read({"text_ids": self.places[inputs].long() * mask, "text_mask": mask.bool()})["text"]

    @torch.inference_mode()
    def run(self, feed: Feed) -> Tensor:
        device = next(self.parameters()).device
        return self(*(torch.from_numpy(values).to(device) for values in feed.values())).cpu()

    def prepare(self, images: list[Image.Image]) -> Feed:
        """Images of any size -> pixels (B, 3, S, S) uint8: upright, RGB, the largest centred square, bicubic."""
        if deep := sorted({image.mode for image in images if image.mode.startswith(("I", "F"))}):
            raise ValueError(f"Images of mode {', '.join(deep)} have more than 8 bits a colour: convert them to RGB.")
        upright = [ImageOps.exif_transpose(image).convert("RGB") for image in images]
        return {"pixels": np.stack([fitted(image, self.image_size) for image in upright])}

    def tokenise(self, texts: list[str]) -> Feed:
        """Texts -> ids and mask (B, L) int64, cut where the teacher cuts them, padded to the longest."""
        if self.tokenizer is None:
            raise ValueError("This student has no text side: its teacher reads images only.")
        read = self.tokenizer.encode_batch(list(texts))
        columns = {"input_ids": [one.ids for one in read], "attention_mask": [one.attention_mask for one in read]}
        return {name: np.array(values, dtype=np.int64) for name, values in columns.items()}

    def encode_images(self, images: list[Image.Image]) -> Tensor:
        return self.run(self.prepare(images))

    def encode_texts(self, texts: list[str]) -> Tensor:  # a token that the training texts did not hold is unknown
        return self.run(self.tokenise(texts))
