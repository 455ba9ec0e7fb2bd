"""A student that needs no teacher: it embeds images and texts, and is loaded from its folder."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

import kdlib
from kdlib import students
from kdlib.export.graph import ExportError, ImageTower, TextTower
from kdlib.features.encoders import fitted
from kdlib.files import read_json
from kdlib.students import Student, StudentSpec
from kdlib.teachers import hub
from kdlib.teachers.fetch import model_id

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"


class Standalone(nn.Module):
    """An exported student. ``Standalone.from_pretrained('folder')`` or a model id of the hub; nothing is unpickled.

    ``encode_images(images)`` and ``encode_texts(texts)`` give (B, D) float32 of length 1, so that the cosine is the
    product. A student of a vision-only teacher has no text side.
    """

    def __init__(self, student: Student, image_size: int, tokenizer=None, places: Tensor | None = None):
        super().__init__()
        self.student, self.image_size, self.tokenizer = student.eval(), image_size, tokenizer
        self.register_buffer("places", places)  # (tokens of the tokenizer,) the row of each in the student's table

    @classmethod
    def from_pretrained(cls, source: str | Path, revision: str = "main") -> "Standalone":
        """The student from a folder that ``kdlib export`` wrote, or from such a repository of the model hub."""
        from safetensors.torch import load_file

        folder = Path(source).expanduser()
        if not folder.is_dir():
            model_id(str(source))
            folder = hub.snapshot(str(source), revision, ("*.json", WEIGHTS))
        config = read_json(folder / CONFIG) or {}
        if "student" not in config:
            raise ExportError(f"{folder / CONFIG} is not of an exported student; 'kdlib export' writes one.")
        spec = StudentSpec(**config["student"] | {"grid": tuple(config["student"]["grid"])})
        tokenizer, places = None, None
        if spec.text:
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
            places = torch.zeros(config["tokens"], dtype=getattr(torch, config["places"]))
        found = cls(students.build(config["method"], spec), config["image_size"], tokenizer, places)
        found.load_state_dict(load_file(folder / WEIGHTS))
        return found.eval()

    @property
    def towers(self) -> dict[str, nn.Module]:
        """Side -> the module that becomes a graph: uint8 pixels, or ids and mask, to embeddings."""
        found: dict[str, nn.Module] = {"image": ImageTower(self.student)}
        if self.tokenizer is not None:
            found["text"] = TextTower(self.student, self.places)
        return found

    def prepare(self, images: list[Image.Image]) -> np.ndarray:
        """Images of any size -> (B, 3, S, S) uint8: upright, RGB, the largest centred square, bicubic."""
        if deep := sorted({image.mode for image in images if image.mode.startswith(("I", "F"))}):
            raise ValueError(
                f"Images of mode {', '.join(deep)} hold more than 8 bits a colour; convert them to RGB first."
            )
        return np.stack([fitted(ImageOps.exif_transpose(image).convert("RGB"), self.image_size) for image in images])

    def tokens(self, texts: list[str]) -> dict[str, np.ndarray]:
        """Texts -> ``input_ids`` and ``attention_mask``, (B, L) int64, cut at the teacher's longest text."""
        if self.tokenizer is None:
            raise ExportError("This student has no text side: its teacher reads images only.")
        read = self.tokenizer.encode_batch(list(texts))
        return {
            "input_ids": np.array([text.ids for text in read], dtype=np.int64),
            "attention_mask": np.array([text.attention_mask for text in read], dtype=np.int64),
        }

    @torch.inference_mode()
    def encode_images(self, images: list[Image.Image]) -> Tensor:
        """PIL images -> (B, D)."""
        return self.towers["image"](torch.from_numpy(self.prepare(images)).to(self.device))

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> Tensor:
        """Any texts -> (B, D); a token that the training texts did not hold counts as unknown."""
        inputs = [torch.from_numpy(values).to(self.device) for values in self.tokens(texts).values()]
        return self.towers["text"](*inputs)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.student.parameters()).device

    def config(self, method: str) -> dict:
        """What :meth:`from_pretrained` needs beside the weights."""
        spec = asdict(replace(self.student.spec, pretrained=False))  # or torchvision's weights would be fetched
        places = {} if self.places is None else {"tokens": len(self.places), "places": str(self.places.dtype)[6:]}
        return {"kdlib": kdlib.__version__, "method": method, "student": spec, "image_size": self.image_size} | places
