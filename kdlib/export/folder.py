"""Exports a student to a folder: it is written under another name, checked and scored, and then renamed."""

import importlib.util
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from kdlib import finished, students
from kdlib.export import card
from kdlib.export.graph import ExportError
from kdlib.export.record import RECORD, Inputs, examine, write_graphs
from kdlib.export.standalone import CONFIG, TOKENIZER, WEIGHTS, Standalone
from kdlib.files import sync, write_arrays, write_atomic, write_json
from kdlib.finished import Finished
from kdlib.sources import load_teacher

PREPROCESSOR, CARD = "preprocessor_config.json", "README.md"
LIBRARIES = ("onnx", "onnxruntime", "onnxscript", "tokenizers")


def choose(words: Sequence[str]) -> Finished:
    """The finished run that ``words`` mean: its folder, its result-EEEE.json, or words that its name holds.

    A name is like 'mini dino_tinyimagenet resnet 10 epochs seed 0'. Of a run that was scored after several numbers of
    epochs the largest is taken. Raises ExportError unless exactly one run is meant.
    """
    if len(words) == 1 and Path(words[0]).exists():
        return finished.at(Path(words[0]))
    meant = [run for run in finished.find("*") if all(word in _name(run) for word in words)]
    longest = {run.run.path: run for run in sorted(meant, key=lambda run: run.config.epochs)}
    if len(longest) == 1:
        return next(iter(longest.values()))
    asked = " ".join(words)
    if not longest:
        raise ExportError(f"No finished run's name holds all of '{asked}'. {finished.what_to_do()}")
    listed = "\n  ".join(sorted(map(_name, longest.values()))[:12])
    raise ExportError(f"{len(longest)} finished runs are meant by '{asked}'; add a word:\n  {listed}")


def _name(run: Finished) -> str:
    config = run.config
    return f"{config.study} {config.teacher}_{config.dataset} {config.folder} {config.epochs} epochs seed {config.seed}"


def export(run: Finished, to: Path | None = None, int8: bool = False) -> Path:
    """Write the student of a finished run to the folder ``to``, by default beside its result. Returns the folder.

    ``int8``: also write int8 files. Raises ExportError for a student that needs its teacher, and for files whose
    embeddings differ from the student's; then no folder is left. An earlier export in the same place is replaced.
    """
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"{', '.join(missing)} must be installed for this: pip install 'kdlib[export]'.")
    student = standalone(run)
    target = Path(to or run.run.exported_path(run.config.epochs).with_suffix("")).absolute()
    if target.exists() and not (target / RECORD).exists():
        raise ExportError(f"{target} is there and holds no exported student; name another folder.")
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        _write_parts(scratch, student, run)
        student = Standalone.from_pretrained(scratch)  # from here on the student is what a user loads
        inputs = Inputs.of(run)
        write_graphs(scratch, student, inputs, int8)
        record, scores = examine(scratch, run, student, inputs, int8)
        write_json(scratch / RECORD, record)
        write_atomic(scratch / CARD, card.card(run, record))
        for path in (*scratch.iterdir(), scratch):
            sync(path)
        if target.exists():
            shutil.rmtree(target)
        os.replace(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    path = run.run.exported_path(run.config.epochs)
    arrays = {name: values for row, made in scores.items() for name, values in made.arrays(row).items()}
    write_arrays(path.with_suffix(".npz"), arrays)
    write_json(path, record | {"folder": str(target)})
    return target


def standalone(run: Finished) -> Standalone:
    """The trained student of a run, with its tokenizer. Raises ExportError if the student needs its teacher."""
    student = run.student
    if not student.stands_alone:
        needed = "text features" if student.reads == "pixels" else f"image {student.reads}"
        able = [name for name in students.STUDENTS if students.class_of(name).reads == "pixels"]
        raise ExportError(
            f"{run.name} of {run.run.path} reads its teacher's {needed}, so it cannot be exported without it. Students "
            f"that read pixels can be exported: {', '.join(able)}; of a teacher that reads text they need a text side "
            "of their own, text_side 'bag' or 'transformer'."
        )
    tokenizer, places = text_parts(run) if student.spec.text else (None, None)
    return Standalone(student, run.config.image_size, tokenizer, places)


def text_parts(run: Finished):
    """The tokenizer, set to truncate and pad as the teacher does, and each token's row in the student's table.

    See :class:`kdlib.features.vocabulary.Vocabulary`.
    """
    loaded = load_teacher(run.config.model_copy(update={"device": "cpu"}))
    tokenizer = loaded.tokenizer.backend_tokenizer
    tokenizer.enable_truncation(loaded.max_tokens)
    tokenizer.enable_padding(pad_id=loaded.tokenizer.pad_token_id, pad_token=loaded.tokenizer.pad_token)
    places = run.vocabulary.ids(np.arange(max(tokenizer.get_vocab().values()) + 1))
    places = torch.from_numpy(places).to(torch.int16 if run.vocabulary.size < 2**15 else torch.int32)
    return tokenizer, places


def _write_parts(folder: Path, student: Standalone, run: Finished) -> None:
    """Weights, configuration, preprocessing and tokenizer."""
    weights = {name: value.contiguous() for name, value in student.state_dict().items()}
    write_atomic(folder / WEIGHTS, save(weights, metadata={"format": "pt"}))
    made_by = {
        "architectures": ["kdlib.export.Standalone"],
        "teacher": {name: run.result["teacher"][name] for name in ("family", "source", "revision")},
        "dataset": run.config.dataset,
        "experiment": run.result["keys"]["experiment"],
    }
    write_json(folder / CONFIG, student.config(run.config.method) | made_by)
    write_json(folder / PREPROCESSOR, preprocessing(student.image_size))
    if student.tokenizer is not None:
        student.tokenizer.save(str(folder / TOKENIZER))


def preprocessing(size: int) -> dict:
    """The exact preprocessing of an image before the graph. The graph holds mean and deviation."""
    return {
        "upright": "PIL.ImageOps.exif_transpose(image)",
        "convert": "RGB",
        "resize": f"PIL.ImageOps.fit(image, ({size}, {size}), PIL.Image.Resampling.BICUBIC)",
        "size": {"height": size, "width": size},
        "resample": 3,
        "do_rescale": False,
        "do_normalize": False,
        "input": "pixels",
        "dtype": "uint8",
        "layout": "batch, channels (red, green, blue), height, width",
    }
