"""Exports a student to a folder: it is written under another name, checked and scored, and then renamed."""

import importlib.util
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from kdlib import machine, tables, teachers
from kdlib.evaluate.protocol import embed
from kdlib.experiment import Experiment
from kdlib.export.graph import INPUTS, Feed, quantise, session, write
from kdlib.export.student import ExportedStudent
from kdlib.features import PROMPT
from kdlib.utils import write_json

LIBRARIES = ("onnx", "onnxruntime", "onnxscript")
RECORD, TEMPLATE = "export.json", Path(__file__).with_name("card.md")
AGREE = 0.9999  # cosine of each embedding with the trained student's, at least; int8 is judged by its scores
CALIBRATED, BATCH = 256, 32  # inputs that set the ranges of int8, about; size of a batch


def export(experiment: str | Path | Experiment, folder: str | Path, epochs: int = 0) -> Path:
    """Write the student after a budget, by default the largest, to ``folder``. Returns the folder.

    ``experiment``: one, or a run's folder, or study, teacher and method as 'mini clip resnet'. Raises ValueError for a
    student that needs its teacher, RuntimeError for graphs that compute something else; then nothing is left.
    """
    if missing := [name for name in LIBRARIES if importlib.util.find_spec(name) is None]:
        raise RuntimeError(f"{', '.join(missing)} must be installed for this: pip install 'kdlib[export]'.")
    folder = Path(folder).expanduser().absolute()
    if folder.exists() and not (folder / RECORD).exists():
        raise ValueError(f"{folder} is there and holds no exported student: name another folder.")
    experiment = experiment if isinstance(experiment, Experiment) else Experiment.from_run(find(experiment))
    epochs = epochs or max(experiment.config.epochs)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        scratch = Path(place, folder.name)
        _student(experiment, epochs).save_pretrained(scratch)
        # From here on the student is what a user loads.
        record = _examined(experiment, epochs, ExportedStudent.from_pretrained(scratch), scratch)
        write_json(scratch / RECORD, record)
        _card(experiment.result, record).save(scratch / "README.md")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(scratch, folder)
    return folder


def find(name: str | Path) -> Path:
    """The folder of the finished run that ``name`` means: a path, or study, teacher, method (and seed)."""
    if Path(name, "result.json").exists():
        return Path(name)
    words = str(name).replace("/", " ").split()
    runs = {"/".join(run.parts[-4:]): run for run, *_ in tables.folders(words[0]) if (run / "result.json").exists()}
    # 'dino' is dino_coco, 'seed0' is seed0-1a2b3c4d, 'resnet' is not resnet+supervised.
    fits = lambda word, part: f"{part}_".startswith(f"{word}_") or part.startswith(f"{word}-")  # noqa: E731
    found = [run for run in runs if all(map(fits, words, run.split("/")))]
    if len(found) != 1:
        raise ValueError(f"'{name}' means {len(found)} finished runs; name one of these: {', '.join(found or runs)}.")
    return runs[found[0]]


def _student(experiment: Experiment, epochs: int) -> ExportedStudent:
    """The trained student, as it is loaded without its teacher. Raises ValueError if it needs it."""
    config, student, tokens = experiment.config, experiment.trained(epochs).student, 0
    if not student.self_contained:
        able = "resnet, densenet, mobilenet and your own; with text_side 'transformer' where the teacher reads text"
        raise ValueError(f"{experiment.run} needs its teacher. Exported are students that read pixels: {able}.")
    if student.inputs.text:
        teacher = teachers.load(config.model_copy(update={"device": "cpu"}))
        tokenizer = teacher.tokenizer.backend_tokenizer
        tokenizer.enable_truncation(teacher.max_tokens)
        tokenizer.enable_padding(pad_id=teacher.tokenizer.pad_token_id, pad_token=teacher.tokenizer.pad_token)
        tokens = max(tokenizer.get_vocab().values()) + 1
    made = ExportedStudent(student=config.training(), inputs=asdict(student.inputs), tokens=tokens)
    made.student.load_state_dict(student.state_dict())
    if tokens:
        made.tokenizer = tokenizer
        made.places.copy_(torch.from_numpy(experiment.splits["fit"].vocabulary.ids(np.arange(tokens))))
    return made


def _feeds(experiment: Experiment, student, split: str, kind: str, most=0, size=BATCH) -> Iterator[Feed]:
    """Batches of the images of a split, its captions, or the zero-shot prompts; ``most``: about so many, evenly."""
    inputs = [PROMPT.format(name) for name in experiment.data[split].category_names]
    if kind != "prompt":
        inputs = experiment.captions(split) if kind == "text" else experiment.splits[split].pixels["pixels"]
    inputs = inputs[:: max(1, len(inputs) // most)] if most else inputs
    for start in range(0, len(inputs), size):
        part = inputs[start : start + size]
        yield {"pixels": np.array(part)} if kind == "image" else student.tokenise(part)


def _examined(experiment: Experiment, epochs: int, student: ExportedStudent, folder: Path) -> dict:
    """Write the graphs of a student, compare them with the trained one, score and time them: the record."""
    evaluation, feeds = experiment.evaluation, partial(_feeds, experiment, student)
    own = embed(experiment.trained(epochs).student, evaluation.scored, "cpu")
    own.pop("image_attention", None)
    sides = [side for side in INPUTS if side in own]
    for side in sides:
        write(student, side, next(feeds("fit", side, size=2)), folder / f"{side}.onnx")
        quantise(folder / f"{side}.onnx", folder / f"{side}.int8.onnx", feeds("fit", side, CALIBRATED))
    scores, agreement = {"student": experiment.result["budgets"][str(epochs)]["scores"]["student"]}, {}
    for row, end in (("onnx", ".onnx"), ("int8", ".int8.onnx")):
        runs = {side: session(folder / f"{side}{end}") for side in sides}
        runs["prompt"] = runs.get("text")
        embedded = {split: {} for split in evaluation.needed}
        for split, made in embedded.items():
            for kind in own if split == evaluation.on else ["image"]:
                made[kind] = torch.from_numpy(np.concatenate([runs[kind](feed) for feed in feeds(split, kind)]))
        for kind, wanted in own.items():
            least = torch.cosine_similarity(embedded[evaluation.on][kind].double(), wanted.double()).min().item()
            agreement[f"{row}, {kind}"] = least
            if row == "onnx" and not least >= AGREE:  # a NaN is no agreement
                raise RuntimeError(f"The {kind} graph is not the trained student: cosine {least:.6f} of an embedding.")
        scores[row] = evaluation.score(embedded).rows()
    calls, graphs = experiment.config.timed_calls, sorted(folder.glob("*.onnx"))
    return {
        "epochs": epochs,
        "primary": evaluation.primary,
        "scores": scores,
        "least_cosine": agreement,
        "bytes": {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.suffix != ".md"},
        "ms": {path.name: _times(path, partial(feeds, "fit", path.name.split(".")[0]), calls) for path in graphs},
        "hardware": machine.hardware(torch.device("cpu")),
        "versions": machine.versions() | {name: version(name) for name in LIBRARIES},
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _times(path: Path, feeds: Callable, calls: int) -> dict[str, dict]:
    """Percentiles of milliseconds by threads and size of the batch; large batches are called a tenth as often."""
    record = {}
    for threads, size in itertools.product(sorted({1, machine.cores()}), (1, BATCH)):
        call = partial(session(path, threads), next(feeds(size=size)))
        times = machine.call_times(call, torch.device("cpu"), calls if size == 1 else max(5, calls // 10))
        record[f"threads {threads}, batch {size}"] = machine.latency(times)
    return record


def _card(result: dict, record: dict) -> ModelCard:
    """README.md from the template card.md; all its numbers are the result's and the record's."""
    config, on, primary = result["config"], result["config"]["score_on"], record["primary"]
    task = "zero-shot-image-classification" if "text.onnx" in record["ms"] else "image-feature-extraction"
    data = {"task_type": task, "dataset_type": config["dataset"], "dataset_name": result["data"][on]["title"]}
    facts = {"model_name": config["method"], "pipeline_tag": task, "library_name": "kdlib", "license": "other"}
    facts |= {"tags": ["knowledge-distillation", "onnx", config["teacher"]], "eval_results": []}
    for row, made in record["scores"].items():
        value, name = made[primary][0], "{}, 95 % from {:.4f} to {:.4f}".format(row, *made[primary][1:])
        score = {"metric_type": primary, "metric_name": name, "metric_value": round(value, 4)}
        facts["eval_results"].append(EvalResult(**data, **score, dataset_split=on))
    return ModelCard.from_template(ModelCardData(**facts), str(TEMPLATE), result=result, record=record)
