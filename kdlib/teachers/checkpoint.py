"""A transformers checkpoint: its folder, from the hub too, its files, model and processors. No code in it is run."""

import copy
import functools
import pickle
import sys
from pathlib import Path

import torch
from torch import nn

from kdlib.data.files import content_hashes
from kdlib.utils import check_proxies, read_json

# By exact names: repositories of open_clip carry the same weights a second time under other ones.
SAFETENSORS = ("model.safetensors", "model-*-of-*.safetensors")
PICKLES = ("pytorch_model.bin", "pytorch_model-*-of-*.bin")
SMALL = ("[!.]*.json", "[!.]*.txt")  # configuration, preprocessing, tokenizer
NO_PART = ("recipe.json", "leakage.json", "README.md")  # what may lie beside a checkpoint
TOKENIZERS = ("tokenizer.json", "merges.txt", "vocab.txt")  # one of them, or transformers makes up a tokenizer


class TeacherError(Exception):
    """A checkpoint that cannot serve as this teacher; the message says what is wrong and what to do."""


def matching(folder: Path, *patterns: str) -> list[Path]:
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    return [path for path in paths if path.name not in NO_PART]


def digests(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of each file of a checkpoint. In the hub's cache large files have it as their name."""
    files = matching(folder, "[!.]*")
    if folder.parent.name == "snapshots":  # into which other programs put what is not read here
        files = (matching(folder, *SAFETENSORS) or matching(folder, *PICKLES)) + matching(folder, *SMALL)
    found = dict(zip(files, content_hashes([str(path) for path in files]), strict=True))
    for path, sha in found.items():
        blob = path.resolve()
        if blob.parent.name == "blobs" and len(blob.name) == 64 and blob.name != sha:
            raise TeacherError(f"{blob} is not what the hub published: its SHA-256 differs. Delete it.")
    return {path.name: sha for path, sha in found.items()}


def refuse_foreign(folder: Path, kind: type) -> None:
    """Raise TeacherError for a folder that transformers would refuse with words that mislead, or load wrongly."""
    for path in matching(folder, "[!.]*"):
        if path.stat().st_size < 500 and path.read_bytes().startswith(b"version https://git-lfs"):
            raise TeacherError(f"{path} is git-lfs's pointer to a file, not the file. Run 'git lfs pull' in {folder}.")
    if not kind.MODELS:  # a family of the user's knows its own layout
        return
    config = read_json(folder / "config.json") or {}
    if (folder / "adapter_config.json").is_file():
        raise TeacherError(f"{folder} holds an adapter (PEFT), no model. Save model.merge_and_unload() in its place.")
    if "pretrained_cfg" in config:
        raise TeacherError(f"{folder} is timm's. Take it in transformers' layout, or write a family around it.")
    if (written := config.get("model_type", "missing")) not in dict(kind.MODELS):
        loads = ", ".join(dict(kind.MODELS))
        raise TeacherError(f"{folder}: model_type in config.json is {written}; this teacher loads {loads}.")


def load_model(models: dict[str, str], folder: Path) -> tuple[nn.Module, list[str]]:
    """The model in float32, and the names of its parameters and buffers that the checkpoint lacks."""
    import transformers

    transformers.logging.disable_progress_bar()  # no page can draw it
    transformers.logging.set_verbosity_error()  # the audit replaces its warnings
    name = models[read_json(folder / "config.json")["model_type"]]
    options = {"local_files_only": True, "trust_remote_code": False, "output_loading_info": True}
    options |= {"dtype": torch.float32, "attn_implementation": "eager"}  # fused kernels give no attention maps
    options |= {"add_pooling_layer": False} if name == "ViTModel" else {}  # of no use here, but it costs time
    try:  # a pickle is read with weights_only
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # what the checkpoint lacks is the same each time
            model, info = getattr(transformers, name).from_pretrained(folder, **options)
    except pickle.UnpicklingError:  # torch's advice is to trust it
        raise TeacherError(f"{folder}: its pickle would run code, and it was not read. Do not use it.") from None
    except Exception as error:  # damaged files make the libraries below raise all kinds
        raise TeacherError(f"{folder} cannot be loaded as {name}: {error}. Is a file cut off? Get it again.") from error
    missing = sorted(info["missing_keys"])
    prefixed = [key for key in info["unexpected_keys"] if missing and key.endswith(missing[0])]
    if prefixed:
        prefix = f"'{prefixed[0].removesuffix(missing[0])}', as DataParallel and torch.compile do"
        raise TeacherError(f"{folder}: the names of its weights begin with {prefix}. Save the model inside it.")
    fuse_attention(getattr(model, "vision_model", model))
    return model, missing


def fuse_attention(vision: nn.Module) -> None:
    """Use fused attention in all layers but the last, the only one whose map is needed, where the class supports it."""
    if not getattr(vision, "_supports_sdpa", False):
        return
    depth = vision.config.num_hidden_layers
    layers = next(part for part in vision.modules() if isinstance(part, nn.ModuleList) and len(part) == depth)
    for part in layers[:-1].modules():
        if hasattr(part, "config"):
            part.config = copy.copy(part.config)
            part.config._attn_implementation = "sdpa"


def load_part(kind: str, folder: Path):
    """A processor or a tokenizer, by its class in transformers."""
    import transformers

    transformers.logging.set_verbosity_error()
    if kind == "AutoTokenizer" and not any((folder / name).is_file() for name in TOKENIZERS):
        raise TeacherError(f"{folder} lacks {' or '.join(TOKENIZERS)}, which save_pretrained(folder) writes.")
    try:
        part = getattr(transformers, kind).from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the files are read by a library that raises Exception itself
        asks = "trust_remote_code" in str(error)  # transformers' advice is to trust it
        why = "it asks for code of its own (auto_map), which is never run" if asks else error
        raise TeacherError(f"{folder}: its {kind[4:]} cannot be used: {why}.") from error
    if hasattr(part, "padding_side"):
        part.padding_side = part.truncation_side = "right"  # as all teachers were trained
    return part


@functools.cache
def snapshot(name: str, revision: str) -> Path | None:
    """A repository's files in the hub's own cache ($HF_HOME), found without a network where a commit is complete there.

    None where the hub has no such revision. Raises TeacherError that says what to do.
    """
    from huggingface_hub import constants, errors, snapshot_download, utils

    if not sys.stderr.isatty():
        utils.disable_progress_bars()
    try:
        for weights in (SAFETENSORS, PICKLES):
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*SMALL, *weights]))
            if matching(folder, *weights):
                break
        return folder
    except errors.RevisionNotFoundError:
        return None
    except errors.GatedRepoError as error:
        page = f"{constants.ENDPOINT}/{name}"
        message = f"{name} is gated. Accept its conditions on {page}, then hf auth login (or HF_TOKEN)."
        raise TeacherError(message) from error
    except errors.RepositoryNotFoundError as error:
        raise TeacherError(f"There is no public model {name}, and no such folder in {Path.cwd()}.") from error
    except Exception as error:  # no network, a full disk, a file that breaks off: each has kinds of its own
        check_proxies()
        why = str(error).partition("\n")[0]
        lacks = f"{name} is not all in {constants.HF_HUB_CACHE}, and did not come: {why}"
        raise TeacherError(f"{lacks}. Run again online, or set HF_HOME to a disk with room.") from error
