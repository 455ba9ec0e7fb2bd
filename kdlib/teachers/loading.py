"""Loads model, preprocessing and tokenizer from a checkpoint's folder; an error names the file that is at fault."""

import copy
import json
from pathlib import Path

import torch
from torch import nn

from kdlib.teachers.teacher import TeacherError


def load_model(model_class, folder: Path, **options) -> tuple[nn.Module, list[str]]:
    """Load a checkpoint and report what of the model was not in it, by name of parameter or buffer.

    float32, eval mode, no remote code. Attention is eager, since the fused kernels give no attention maps; the vision
    layers before the last, whose maps are not needed, are fused. Raises TeacherError for a checkpoint of another kind
    of model, for shapes that do not fit, and for damaged files.
    """
    from safetensors import SafetensorError

    quiet_transformers()
    written_for(model_class, folder)
    try:
        model, info = model_class.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation="eager",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are an error here, with their names
            output_loading_info=True,
            **options,
        )
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise TeacherError(
            f"{folder} cannot be loaded as {model_class.__name__}: {type(error).__name__}: {error}. A file may be cut "
            "off, or be another model's; get the checkpoint again."
        ) from error
    if mismatched := sorted(info["mismatched_keys"]):
        name, stored, needed = mismatched[0]
        raise TeacherError(
            f"{folder}: {len(mismatched)} weights do not have the shapes that config.json asks for: {name} is "
            f"{tuple(stored)}, not {tuple(needed)}. Configuration and weights are of different models."
        )
    fuse_attention(getattr(model, "vision_model", model))
    return model.eval(), sorted(info["missing_keys"])


def written_for(model_class, folder: Path) -> None:
    """Raise TeacherError where config.json is of another kind of model; its missing weights would be random."""
    try:
        content = json.loads((folder / "config.json").read_text())
        kind = content.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise TeacherError(
            f"{folder}: config.json is missing or no JSON ({type(error).__name__}). A checkpoint needs the one that "
            "its model was saved with."
        ) from error
    needed = model_class.config_class.model_type
    if kind is not None and kind != needed:
        classes = ", ".join(content.get("architectures") or ["an unnamed class"])
        raise TeacherError(
            f"{folder} was written by {classes} (model_type {kind}); this family loads {model_class.__name__} "
            f"(model_type {needed}). Name the family that fits the checkpoint, or another checkpoint."
        )


def load_processor(folder: Path):
    """The image preprocessing that was saved with a checkpoint. Raises TeacherError where there is none."""
    from transformers import AutoImageProcessor

    quiet_transformers()
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise TeacherError(
            f"{folder} has no preprocessor_config.json, and images of another size or normalisation give wrong "
            "features. Put the file there that belongs to the checkpoint (processor.save_pretrained(folder))."
        )
    try:
        return AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TeacherError(f"{folder}: preprocessor_config.json cannot be used: {error}") from error


def load_tokenizer(folder: Path, whole: bool = False):
    """The tokenizer that was saved with a checkpoint. Raises TeacherError where there is none.

    Without its files transformers would make up a vocabulary of two words, and all texts would be alike. ``whole``:
    tokenizer.json is used as it is, without the class that the configuration names, which would rebuild it from parts.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    quiet_transformers()
    complete = (("tokenizer.json",),) if whole else (("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",))
    if not any(all((folder / name).is_file() for name in names) for names in complete):
        needed = " or ".join(" with ".join(names) for names in complete)
        raise TeacherError(
            f"{folder} has no tokenizer: it needs {needed}. Put the files there that belong to the checkpoint "
            "(tokenizer.save_pretrained(folder))."
        )
    try:
        kind = PreTrainedTokenizerFast if whole else AutoTokenizer
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # its files are read by a library that raises Exception itself
        raise TeacherError(f"{folder}: the tokenizer's files cannot be used: {error}") from error


def shown_size(preprocess) -> int:
    """Side in pixels of the images that a transformers image processor returns: of its crop, or of its resizing."""
    size = preprocess.crop_size if getattr(preprocess, "do_center_crop", False) else preprocess.size
    if size["height"] != size["width"]:
        raise TeacherError(
            f"The preprocessing gives {size['height']} x {size['width']} pixels; teachers look at squares."
        )
    return size["height"]


def quiet_transformers() -> None:
    """Turn off transformers' progress bars, which no report can draw, and its warnings, which the audit replaces."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def fuse_attention(vision: nn.Module) -> None:
    """Use fused attention in all layers but the last, where the model's class supports it."""
    if not getattr(vision, "_supports_sdpa", False):
        return
    depth = vision.config.num_hidden_layers
    layers = next(part for part in vision.modules() if isinstance(part, nn.ModuleList) and len(part) == depth)
    for layer in layers[:-1]:
        for part in layer.modules():
            if hasattr(part, "config"):
                part.config = copy.copy(part.config)
                part.config._attn_implementation = "sdpa"
