"""What a study would do on this machine: its experiments, its stores, what is missing, and how long it would take.

The seconds come from :mod:`~kdlib.study.calibrate`, which measures what an experiment is made of; here they are added.
"""

import heapq
import shutil
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil

from kdlib import study
from kdlib.config import RunConfig
from kdlib.data.dataset import DataError
from kdlib.features.encoders import pixel_parts
from kdlib.features.store import is_built, store_key, store_path
from kdlib.files import read_json, runs_root, write_json
from kdlib.machine import WARM_UP_CALLS
from kdlib.sources import load_data, reads, split_names, teacher_store_is_built
from kdlib.study.file import ExperimentSpec, StudyConfig
from kdlib.study.status import Inspector
from kdlib.teachers import check

# Images and captions of the full sets, by split, for sizes before the data is there; classes and categories.
FULL = {
    "tinyimagenet": {"fit": (90_000, 0), "dev": (10_000, 0), "test": (10_000, 0)},
    "coco": {"fit": (113_287, 566_435), "dev": (5_000, 25_000), "test": (5_000, 25_000)},
}
NAMES = {"tinyimagenet": (200, 0), "coco": (0, 80)}
# Tokens, width of pooled and token features, and mean tokens of a caption, of the published checkpoints.
CAPTION_TOKENS = 13  # of COCO's captions in the mean
PUBLISHED = {
    "dino": (196, 768, 0),
    "dinov2": (256, 768, 0),
    "dinov3": (196, 768, 0),
    "beit": (196, 768, 0),
    "clip": (49, 512, CAPTION_TOKENS),
    "siglip2": (196, 768, CAPTION_TOKENS),
    "blip": (576, 256, CAPTION_TOKENS),
}
UNKNOWN = (196, 768, CAPTION_TOKENS)  # of a teacher of one's own, until its checkpoint is here: a ViT-B/16
BLIPMODEL_WIDTH = 512  # of its projections, where the checkpoint says nothing else
BYTES = {"float16": 2, "float32": 4}
ID_BYTES = 6  # of a token's id and the number of its word
CONTROL_EXAMS = 6.0  # five encoders, the teacher as a student, another order; random and constant ones are quick
DRAWN = "shapes"  # the embedded data, drawn by the first run
STARTED = "start"  # the first warm process of a run
PREDICTED, TAKEN = "plan.json", "times.json"  # in runs/<study>/


@dataclass(frozen=True)
class Work:
    """An experiment, and what is known of its inputs before it runs.

    ``tokens`` of an image, ``width`` of the teacher's features, ``text_tokens`` of a caption (0 without text);
    ``counts``: split -> (images, captions).
    """

    spec: ExperimentSpec
    tokens: int
    width: int
    text_tokens: float
    counts: dict[str, tuple[int, int]]
    classes: int
    categories: int

    @property
    def config(self) -> RunConfig:
        """The experiment's configuration."""
        return self.spec.config

    @property
    def captions(self) -> float:
        """Captions of an image."""
        images, texts = self.counts[self.config.score_on]
        return texts / images

    @property
    def images(self) -> int:
        """Images of all splits that the experiment reads."""
        return sum(images for images, _ in self.counts.values())

    @property
    def seen(self) -> int:
        """Images that an encoder is run on to be scored."""
        return self.counts[self.config.score_on][0] if self.text_tokens else self.images

    @property
    def steps(self) -> int:
        """Training steps of an epoch."""
        rows = min(self.counts["fit"][0], self.config.train_limit or self.counts["fit"][0])
        return rows // min(self.config.batch_size, rows)

    @property
    def calls(self) -> int:
        """How often a call is made to time it."""
        return self.config.timed_calls + min(WARM_UP_CALLS, self.config.timed_calls)

    @property
    def shared(self) -> set:
        """What is done once for several experiments: for the chain, for the teacher and its exam, for the pixels."""
        return {self.spec.chain, self.controls, self.keys.get("pixels")}

    @property
    def controls(self) -> tuple:
        """What the controls are computed for."""
        return self.spec.sources, self.keys["exam"]

    @property
    def keys(self) -> dict[str, str]:
        """What to measure for this experiment: kind -> a name that experiments share where the seconds are the same."""
        config, read = self.config, reads(self.config.method)
        machine = config.device, f"{config.threads} threads"
        data = config.dataset, config.data_root
        text = f"{self.captions:.1f} captions" if self.text_tokens else "no text"
        sizes = {
            "features": (self.width, config.bottleneck),
            "tokens": (self.width, self.tokens, self.text_tokens, config.heads),
            "pixels": (config.convnet, config.image_size),
        }[read]
        trained = config.method, *sizes, config.width, config.batch_size, config.precision, text
        teacher = config.teacher, config.checkpoint, config.revision, config.untrained_heads, config.teacher_precision
        names = {
            "experiment": ("experiment", *machine),
            "student": ("student", *trained, *machine),
            "teacher": ("teacher", *teacher, *data, *machine),
            "exam": ("exam", *data, config.score_on, config.width, self.width, text, *machine),
        }
        if read == "pixels":
            names["pixels"] = ("pixels", *data, config.image_size, *machine)
        return {kind: " ".join(map(str, words)) for kind, words in names.items()}


Rates = dict[str, dict]  # by the names of Work.keys: seconds of this and that, or what went wrong as "problem"
Measure = Callable[[list[Work], int], Rates]


def plan(config: StudyConfig, measure: Measure | None = None, workers: int = 1) -> str:
    """A text for the terminal. Builds and downloads nothing.

    ``measure``: :func:`~kdlib.study.calibrate.measure`. With it the plan says how long ``workers`` take, and keeps
    that in runs/<study>/plan.json for :func:`goodness`.
    """
    experiments = study.experiments(config)
    works, missing = works_of(experiments)
    lines = [config.title, "", f"{len(experiments)} experiments:"]
    groups: dict[tuple[str, str], list] = {}
    for spec in experiments:
        groups.setdefault((spec.notebook, spec.config.folder), []).append(spec)
    for (notebook, folder), part in groups.items():
        epochs = ", ".join(str(number) for number in sorted({spec.config.epochs for spec in part}))
        seeds = ", ".join(str(number) for number in sorted({spec.config.seed for spec in part}))
        lines.append(f"  {notebook:<20} {folder:<28} {epochs} epochs, seed {seeds}")
    prediction = None
    if measure:
        done = there(works, bool(missing))
        prediction = predict(works, measure(works, workers), workers, done)
        write_json(_path(config.study, PREDICTED), prediction)
        lines += ["", *_time_lines(prediction)]
    lines += ["", "Feature stores (about):"]
    total = 0.0
    for work in {(*work.spec.sources, work.config.data_root): work for work in works}.values():
        run, job = work.config, prediction and prediction["prepare"][prepare_name(work.spec.sources)]
        for split, (images, texts) in work.counts.items():
            size = store_bytes(images, texts, work.tokens, work.width, work.text_tokens, BYTES[run.feature_dtype],
                               stores_tokens(work, works))  # fmt: skip
            total += size
            name = f"{run.teacher}{' (untrained heads)' if run.untrained_heads else ''}"
            minutes = f" {job['seconds'] / 60 * images / work.images:>7.1f} min" if job and job["seconds"] else ""
            lines.append(f"  {name:<22} {run.dataset:<13} {split:<5} {images:>7} images {size / 1e9:>8.2f} GB{minutes}")
    free = shutil.disk_usage(runs_root() if runs_root().exists() else Path.cwd()).free
    pixels = {work.keys["pixels"]: work for work in works if "pixels" in work.keys}
    for key, work in pixels.items():
        run, size = work.config, 3 * work.images * work.config.image_size**2
        total += size
        rate = prediction["rates"].get(key, {}).get("image") if prediction else None
        minutes = f" {work.images * rate / 60:>7.1f} min" if rate else ""
        lines.append(f"  pixels at {run.image_size:<12} {run.dataset:<13} {'all':<5} {work.images:>7} images "
                     f"{size / 1e9:>8.2f} GB{minutes}")  # fmt: skip
    total += sum(experiment["bytes"] for experiment in prediction["experiments"].values()) if prediction else 0
    lines += ["", f"Disk: {total / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free at {runs_root()}."]
    if total > free:
        missing.append(f"{(total - free) / 1e9:.1f} GB of disk; set KDLIB_RUNS to a larger one")
    lines.append(
        f"Machine: {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GB, {_accelerator()}."
    )
    lines += (
        ["", "Missing on this machine:", *(f"  {item}" for item in dict.fromkeys(missing))]
        if missing
        else ["", "Nothing is missing."]
    )
    return "\n".join(lines)


def _time_lines(prediction: dict) -> list[str]:
    """Minutes and GB by notebook and method, the total, and what could not be predicted."""
    experiments = pd.DataFrame(prediction["experiments"].values())
    jobs = pd.DataFrame(prediction["prepare"].values()).assign(method="features")
    known = pd.concat([experiments, jobs]).dropna(subset="seconds")
    lines = []
    for column, unit, digits, words in (
        ("seconds", 60, 1, "Minutes of one worker, if nothing had been done:"),
        ("bytes", 1e9, 3, "GB of checkpoints and embeddings:"),
    ):
        rows = known.dropna(subset=column)
        if rows.empty:
            continue
        table = rows.pivot_table(index="method", columns="notebook", values=column, aggfunc="sum", sort=False) / unit
        table["all"] = table.sum(axis=1)
        table.loc["all"] = table.sum()
        shown = table.to_string(float_format=f"{{:.{digits}f}}".format, na_rep="-", index_names=False)
        lines += [words, *(f"  {line}" for line in shown.splitlines())]
    problems = [
        job["problem"] for part in ("experiments", "prepare") for job in prediction[part].values() if job["problem"]
    ]
    lines += [f"  not predicted: {problem}" for problem in dict.fromkeys(problems)]
    left, workers = prediction["left"], prediction["workers"]
    return [
        *lines,
        f"About {left['seconds'] / 60:.1f} minutes for the {left['experiments']} experiments left, {workers} at once, "
        f"and then the report (measured in {prediction['calibration_seconds']:.0f} s).",
    ]


# ---------------------------------------------------------------- how long it takes


def predict(works: list[Work], rates: Rates, workers: int, done: frozenset[str] = frozenset()) -> dict:
    """Seconds of every experiment and of every teacher's features, and of what is left with ``workers`` at a time.

    ``done``: what is there already, by :func:`there`. The seconds of single experiments are of a study from nothing.
    """
    experiments = experiment_seconds(works, rates)
    prepare = {prepare_name(work.spec.sources): _prepare_seconds(work, rates) for work in works}
    rest = experiment_seconds(works, rates, done)
    chains: dict[tuple, tuple[str, list]] = {}
    for work in works:
        if work.spec.name in rest:
            seconds = rest[work.spec.name]["seconds"] or 0.0
            chains.setdefault(work.spec.chain, (prepare_name(work.spec.sources), []))[1].append(seconds)
    first = {name: prepare[name]["seconds"] or 0.0 for name, _ in chains.values() if name not in done}
    before = sum(rates[name]["seconds"] for name in (DRAWN, STARTED) if name in rates and name not in done)
    return {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "workers": workers,
        "calibration_seconds": rates.get("calibration", {}).get("seconds", 0.0),
        "left": {
            "experiments": len(rest),
            "seconds": (before if chains else 0.0) + wall(first, list(chains.values()), workers),
        },
        "experiments": experiments,
        "prepare": prepare,
        "rates": rates,
    }


def experiment_seconds(works: list[Work], rates: Rates, done: frozenset[str] = frozenset()) -> dict[str, dict]:
    """Name of each experiment that is not ``done`` -> its seconds, their parts and its bytes, or None and the problem.

    What experiments share is paid by the first of them to run: decoded pixels, the controls of an exam, and of a chain
    the scores of the untrained student and the timed calls. Epochs count once: 10 after 5 are 5.
    """
    chains: dict[tuple, list[Work]] = {}
    paid, epochs = set(done), {}
    for work in works:
        if work.spec.name in done:
            paid |= work.shared
            epochs[work.spec.chain] = max(work.config.epochs, epochs.get(work.spec.chain, 0))
        else:
            chains.setdefault(work.spec.chain, []).append(work)
    result = {}
    for chain in sorted(chains.values(), key=lambda chain: -_weight(chain, rates)):
        for work in sorted(chain, key=lambda work: work.config.epochs):
            fresh = work.config.epochs - epochs.get(work.spec.chain, 0)
            parts, problem = _parts(work, rates, max(fresh, 0), paid)
            paid |= work.shared
            epochs[work.spec.chain] = work.config.epochs
            result[work.spec.name] = {
                "notebook": work.spec.notebook,
                "method": work.config.folder,
                "seconds": None if problem else sum(parts.values()),
                "bytes": 0 if problem else _bytes(work, rates, max(fresh, 0)),
                "problem": problem,
                "parts": parts,
            }
    return result


def _bytes(work: Work, rates: Rates, epochs: int) -> float:
    """What an experiment writes: a checkpoint an epoch, and the embeddings that its scores are computed from."""
    rows = work.seen * (1 + (work.captions if work.text_tokens else 0))
    return epochs * rates[work.keys["student"]]["bytes"] + rows * work.config.width * BYTES["float32"]


def _parts(work: Work, rates: Rates, epochs: int, paid: set) -> tuple[dict[str, float], str]:
    """Seconds of an experiment by what they are spent on, and why they could not be told."""
    found = {kind: rates.get(key, {"problem": f"{key}: not measured"}) for kind, key in work.keys.items()}
    problem = next((rate["problem"] for kind, rate in found.items() if kind != "teacher" and "problem" in rate), "")
    if problem:
        return {}, problem
    experiment, student, exam = found["experiment"], found["student"], found["exam"]
    embedding = work.seen * student["image"]
    parts = {
        "notebook and page": experiment["fixed"] + student["once"] + exam["once"],
        "training": epochs * (work.steps * student["step"] + student["checkpoint"]),
        "scores": embedding + exam["score"] + exam["write"] + student["singly"],
    }
    if work.spec.chain not in paid:
        parts["untrained"] = embedding + exam["score"] + exam["write"]
        parts["timing"] = work.calls * student["call"]
    if work.controls not in paid:
        parts["controls"] = CONTROL_EXAMS * exam["score"] + exam["write"]
    if "pixels" in found and work.keys["pixels"] not in paid:
        parts["pixels"] = work.images * found["pixels"]["image"]
    return parts, ""


def _weight(chain: list[Work], rates: Rates) -> float:
    """Seconds of a chain alone, for the order: the longest first keeps all slots busy to the end."""
    parts = [_parts(work, rates, 0, work.shared)[0] for work in chain]
    parts.append(_parts(chain[-1], rates, chain[-1].config.epochs, chain[-1].shared)[0])
    return sum(sum(part.values()) for part in parts)


def _prepare_seconds(work: Work, rates: Rates) -> dict:
    """The job that builds a teacher's features and times its backbone."""
    rate = rates.get(work.keys["teacher"], {"problem": f"{work.keys['teacher']}: not measured"})
    seconds = None
    if "problem" not in rate:
        seconds = rate["once"] + work.images * rate["image"] + work.calls * rate["call"]
    return {"notebook": work.spec.notebook, "seconds": seconds, "problem": rate.get("problem", "")}


def prepare_name(sources: tuple[str, str, bool, int]) -> str:
    """Of the job that builds the feature stores of these sources, as ``ExperimentSpec.sources`` has them."""
    notebook, checkpoint, untrained_heads, token_grid = sources
    heads, tokens = "untrained heads" if untrained_heads else "", f"{token_grid} tokens a side" if token_grid else ""
    return " ".join(filter(None, ["features of", notebook, checkpoint, heads, tokens]))


def wall(prepare: dict[str, float], chains: list[tuple[str, list[float]]], workers: int) -> float:
    """Seconds until all is done: teachers first, then the longest chain whose features are there.

    ``prepare``: job -> seconds; ``chains``: the job that each waits for, and the seconds of its experiments after the
    other.
    """
    queue = [(job, "", deque([seconds])) for job, seconds in prepare.items()]
    longest_first = sorted(chains, key=lambda chain: -sum(chain[1]))
    queue += [(index, needed, deque(seconds)) for index, (needed, seconds) in enumerate(longest_first)]
    unready = set(prepare)
    running: list[tuple[float, int, str | int]] = []
    now, busy, started = 0.0, set(), 0
    while True:
        for job, needed, seconds in queue:
            if len(running) < workers and seconds and job not in busy and needed not in unready:
                started += 1  # jobs that end together leave in the order in which they started
                heapq.heappush(running, (now + seconds.popleft(), started, job))
                busy.add(job)
        if not running:
            return now
        now, _, job = heapq.heappop(running)
        busy.discard(job)
        unready.discard(job)


# ---------------------------------------------------------------- how good the prediction was


def _path(name: str, file: str) -> Path:
    return runs_root() / name / file


def took(name: str, job: str, seconds: float) -> None:
    """Keep what an experiment or a :func:`prepare_name` job of the study ``name`` took, in runs/<study>/times.json."""
    path = _path(name, TAKEN)
    write_json(path, (read_json(path) or {}) | {job: round(seconds, 2)})


def goodness(name: str) -> pd.DataFrame | None:
    """Predicted and taken seconds of a study by notebook and method, and their ratio; the last row is all of them.

    ``within 30 %``: how many of its jobs were predicted so well.

    Only jobs that were both predicted and run count. None where there are none.
    """
    predicted, taken = (read_json(_path(name, file)) for file in (PREDICTED, TAKEN))
    if not predicted or not taken:
        return None
    jobs = predicted["experiments"] | {
        job: {"method": "features"} | record for job, record in predicted["prepare"].items()
    }
    rows = [
        {"notebook": record["notebook"], "method": record["method"], "jobs": 1, "predicted": record["seconds"],
         "taken": taken[job], "within 30 %": abs(record["seconds"] / taken[job] - 1) <= 0.3}
        for job, record in jobs.items() if job in taken and record["seconds"] is not None
    ]  # fmt: skip
    if not rows:
        return None
    frame = pd.DataFrame(rows).groupby(["notebook", "method"], sort=False).sum().reset_index()
    sums = frame[["jobs", "predicted", "taken", "within 30 %"]].sum()
    frame = pd.concat([frame, pd.DataFrame([{"notebook": "all", "method": "", **sums}])], ignore_index=True)
    frame = frame.astype({"jobs": int, "within 30 %": int})
    return frame.assign(ratio=frame.predicted / frame.taken)


# ---------------------------------------------------------------- what is there, and what is missing


def works_of(experiments: list[ExperimentSpec]) -> tuple[list[Work], list[str]]:
    """Each experiment with what is known of its inputs, and what is missing of teachers and data."""
    known: dict[tuple, tuple] = {}
    works, missing = [], []
    for spec in experiments:
        run = spec.config
        source = (*spec.sources, run.data_root, run.dataset, run.score_on, run.token_grid)
        if source not in known:
            shape, problem = _teacher_shape(run)
            missing += [problem] if problem else []
            counts, names, problem = _counts(run)
            missing += [problem] if problem else []
            known[source] = (*shape, counts, *names)
        tokens, width, text_tokens, counts, classes, categories = known[source]
        texts = any(texts for _, texts in counts.values())
        works.append(Work(spec, tokens, width, text_tokens if texts else 0, counts, classes, categories))
    return works, missing


def there(works: list[Work], missing: bool) -> frozenset[str]:
    """What of a study is done: names of experiments, of jobs with features, keys of pixels, and drawn shapes."""
    drawn = all(work.config.data_root != "shapes" for work in works) or any(
        (runs_root() / "data").glob("shapes-*/shapes.json")
    )
    if missing or not drawn:
        return frozenset()
    inspector = Inspector()
    done = {work.spec.name for work in works if inspector.state(work.spec).finished} | {DRAWN}
    for work in {(*work.spec.sources, work.keys.get("pixels")): work for work in works}.values():
        config, data = work.config, load_data(work.config).values()
        if all(teacher_store_is_built(config, split, stores_tokens(work, works)) for split in data):
            done.add(prepare_name(work.spec.sources))
        if "pixels" in work.keys and _built([pixel_parts(split, config.image_size) for split in data]):
            done.add(work.keys["pixels"])
    return frozenset(done)


def _built(stores: list[dict]) -> bool:
    return all(is_built(store_path(store_key(parts))) for parts in stores)


def stores_tokens(work: Work, works: list[Work]) -> bool:
    """Whether the stores of an experiment's teacher hold tokens: a student of the study reads them."""
    return any(reads(other.config.method) == "tokens" for other in works if other.spec.sources == work.spec.sources)


def store_bytes(
    images: int, texts: int, tokens: int, width: int, text_tokens: float, item: int, stored: bool = True
) -> float:
    """Bytes of a store: pooled and attention of each image, attention and ids of each caption's tokens.

    ``stored``: and the features of all tokens.
    """
    per_image = (width + tokens * (width * stored + 1)) * item
    per_text = (width + text_tokens * (width * stored + 1)) * item + text_tokens * ID_BYTES
    return images * per_image + texts * per_text


def _teacher_shape(run: RunConfig) -> tuple[tuple[int, int, float], str]:
    """(image tokens, width, tokens of a caption), and what is missing of the teacher."""
    found = check.standing(run.teacher, run.checkpoint, run.revision, run.allow_untrained, run.untrained_heads)
    tokens, width, text = PUBLISHED.get(run.teacher, UNKNOWN)
    width = BLIPMODEL_WIDTH if run.untrained_heads else width
    if found.ready:
        tokens, width, text = found.tokens, found.width, CAPTION_TOKENS if found.reads_text else 0
    problem = "" if found.ready else str(found)
    if problem and run.teacher not in PUBLISHED:
        problem += "; until it is here it is taken for a ViT-B/16"
    return (run.token_grid**2 or tokens, width, text), problem


def _counts(run: RunConfig) -> tuple[dict[str, tuple[int, int]], tuple[int, int], str]:
    """Images and captions by split, the numbers of classes and of categories, and what is missing of the data."""
    if run.data_root == "shapes":
        from kdlib.data.shapes import OUTLINES, ShapesSpec

        spec = ShapesSpec()
        if run.dataset == "coco":
            dev = round(spec.train_scenes * 0.1)
            rows = {"fit": spec.train_scenes - dev, "dev": dev, "test": spec.val_scenes}
            return {split: (rows[split], 5 * rows[split]) for split in split_names(run, False)}, (0, len(OUTLINES)), ""
        classes = 2 * len(OUTLINES)
        dev = round(spec.train_per_class * 0.1)
        rows = {"fit": spec.train_per_class - dev, "dev": dev, "test": spec.val_per_class}
        return {split: (rows[split] * classes, 0) for split in split_names(run, True)}, (classes, 0), ""
    try:
        loaded = load_data(run)
        names = len(loaded["fit"].class_names), len(loaded["fit"].category_names)
        return {split: (len(data), sum(map(len, data.captions or ()))) for split, data in loaded.items()}, names, ""
    except (DataError, OSError):
        words = f"{run.dataset} in {run.data_root}: get it with 'kdlib data get {run.dataset}' (or --data-root)"
        full = FULL.get(run.dataset, {})
        labelled = not any(texts for _, texts in full.values())
        counts = {split: count for split, count in full.items() if split in split_names(run, labelled)}
        return counts, NAMES.get(run.dataset, (0, 0)), words


def _accelerator() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return "no GPU"
