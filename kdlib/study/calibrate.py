"""How fast this machine is: seconds of what the experiments of a study do, each measured on a little of it.

Students, exams and stores are the real ones, on random numbers of the right shapes; the notebook is a real one, on a
few drawn images. Everything runs as the experiments will: in warm processes, as many at a time as there are workers.
``python -m kdlib.study.calibrate JOB.json`` is one measurement.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from kdlib import data as datasets
from kdlib import features, sources, study, teachers
from kdlib.config import RunConfig
from kdlib.data import shapes
from kdlib.evaluate import fidelity, knn, linear, retrieval
from kdlib.evaluate.cost import CAPTION, student_cost
from kdlib.evaluate.embed import embed
from kdlib.evaluate.exam import Exam
from kdlib.evaluate.zeroshot import prompts
from kdlib.experiment import BATCH_ROWS, Experiment
from kdlib.features.loader import Split, TrainLoader
from kdlib.files import RunDir, runs_root, write_arrays
from kdlib.machine import autocast, choose, now
from kdlib.notebook import execute
from kdlib.notebook.worker import accept_jobs, end_all, run_job
from kdlib.study.file import ExperimentSpec
from kdlib.study.forecast import DRAWN, STARTED, Rates, Work
from kdlib.teachers import STANDIN
from kdlib.trainer import train

TINY = shapes.ShapesSpec(0, 8, 2, 144, 12)  # two chunks of a feature store, and as many test images as a page shows
ROWS = 128  # of a random split
LARGE, BATCH = 64, 32  # above the first, tokens and pixels are measured in batches of the second, and few of them
EPOCHS = 3, 5  # of training: the second only where the first took less than SHORT
SHORT = 0.5  # seconds; what takes longer is not repeated
CALLS = 3
LOOKED, BANK = 600, 1800  # scored images and those of fit up to which an exam is whole; of more, LOOKED are scaled
# Of random features: distance of classes and fall of the axes. With them the probe takes 17, 29, 75, 234 and 500 steps
# for its five penalties, with a projection of the embedded DINO 18, 52, 123, 223 and 500.
NEAR, DECAY = 0.3, 2.0
FEW, MANY = 8, 128  # images through a teacher: first a few, then a store of many where that is quick
# The published teachers are ViT-B: 12 layers of this width and heads. Text towers by family; captions of a chunk are
# padded to its longest, about three times their mean.
LAYERS, LAYER, TEXT_LAYER = 12, (768, 12), {"clip": (512, 8)}
PADDING = 3


def measure(works: list[Work], workers: int) -> Rates:
    """Seconds for all ``works``, by the names of their keys; a measurement that fails leaves its "problem".

    Also "shapes", the drawing of the embedded data, "start", of the first process, and "calibration", how long all
    of this took.
    """
    accept_jobs()
    started = time.perf_counter()
    runs_root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="calibration-", dir=runs_root()) as scratch:
        folder = Path(scratch)
        drawing = time.perf_counter()
        drawn = shapes.ensure(TINY, folder / "drawn")
        rates: Rates = {DRAWN: {"seconds": (time.perf_counter() - drawing) / _images(TINY) * _images()}}
        jobs = _jobs(works, folder, str(drawn))
        # What the first job waits for, in a run too: that all later ones start warm.
        rates[STARTED] = {"seconds": run_job(jobs[works[0].keys["experiment"]][0] | {"measure": "nothing"})["seconds"]}
        with ThreadPoolExecutor(workers) as pool:
            try:
                for key, rate in zip(jobs, pool.map(_run, jobs.values()), strict=True):
                    rates[key] = rate
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                end_all()
                raise
    return rates | {"calibration": {"seconds": time.perf_counter() - started}}


def _images(spec: shapes.ShapesSpec = shapes.ShapesSpec()) -> int:  # noqa: B008 - frozen
    classes = 2 * len(shapes.OUTLINES)
    return classes * (spec.train_per_class + spec.val_per_class) + spec.train_scenes + spec.val_scenes


def _jobs(works: list[Work], folder: Path, drawn: str) -> dict[str, list[dict]]:
    """By key, the jobs that measure it, one after the other; those that take longest first."""
    order = ("experiment", "teacher", "exam", "student", "pixels")
    first = {(order.index(kind), key): (kind, key, work) for work in reversed(works) for kind, key in work.keys.items()}
    jobs: dict[str, list[dict]] = {}
    for number, (_, (kind, key, work)) in enumerate(sorted(first.items(), key=lambda entry: entry[0][0])):
        own = folder / str(number)
        job = {
            "module": "kdlib.study.calibrate",
            "measure": kind,
            "work": asdict(work) | {"spec": work.spec.model_dump()},
            "drawn": drawn,
            "folder": str(own),
            "threads": work.config.threads,
            "memory_bytes": 0,
            "log": str(own / "log"),
        }
        jobs[key] = [job]
        if kind == "experiment":
            jobs[key] = [job, job | _notebook(job, work)]
    return jobs


def _run(steps: list[dict]) -> dict:
    """The rate that the jobs of one key find; "once" is what its process takes beside what it times."""
    fixed, rate = 0.0, {}
    for job in steps:
        Path(job["folder"]).mkdir(parents=True, exist_ok=True)
        report = run_job(job)
        if report["outcome"] != "ok":
            return {"problem": f"{job['measure']}: {report.get('error') or report['outcome']}"}
        rate |= report.get("rate", {})
        fixed = report["seconds"] - report.get("timed", 0.0)
    if steps[0]["measure"] == "experiment":
        return {"fixed": max(fixed - rate["scored"], 0.0)}
    return {"once": fixed} | rate


def main() -> None:
    """One measurement, told as a job file."""
    job = json.loads(Path(sys.argv[1]).read_text())
    os.environ.update(job.get("environment", {}))
    if job["measure"] == "notebook":
        execute.main()
        return
    work = Work(**job["work"] | {"spec": ExperimentSpec(**job["work"]["spec"])})
    try:
        report = {"outcome": "ok"} | MEASUREMENTS[job["measure"]](work, job)
    except Exception as problem:  # told to the plan, which says what it cannot predict
        report = {"outcome": "error", "error": f"{type(problem).__name__}: {problem}"}
    Path(job["answer"]).write_text(json.dumps(report))


def timed(call: Callable) -> float:
    """Seconds of one call, with what it queued on the device."""
    device = choose("auto")
    started = now(device)
    call()
    return now(device) - started


# ---------------------------------------------------------------- the notebook


def _notebook(job: dict, work: Work) -> dict:
    """The second job of an experiment: its notebook to the second epoch, after the first job trained the first one."""
    folder = Path(job["folder"])
    config = _tiny(work, job["drawn"], 2)
    return {
        "measure": "notebook",
        "environment": _elsewhere(folder),
        "notebook": str(study.notebooks_folder() / f"{_standin_notebook(work)}.ipynb"),
        "parameters": ExperimentSpec(notebook="", config=config).parameters,
        "output": str(folder / "done.ipynb"),
        "failed_output": str(folder / "failed.ipynb"),
        "report": str(folder / "page.html"),
    }


def _elsewhere(folder: Path) -> dict[str, str]:
    return {"KDLIB_RUNS": str(folder / "runs"), "KDLIB_REPORTS": str(folder / "reports")}


def _standin_notebook(work: Work) -> str:
    """A notebook whose teacher has a stand-in: the study's, or the smallest."""
    return work.spec.notebook if teachers.resolve(work.config.teacher, STANDIN).is_dir() else "dino_tinyimagenet"


def _tiny(work: Work, drawn: str, epochs: int) -> RunConfig:
    teacher, _, dataset = _standin_notebook(work).partition("_")
    given = {"device": work.config.device, "threads": work.config.threads, "study": "calibration", "timed_calls": 5}
    return RunConfig(teacher=teacher, dataset=dataset, data_root=drawn, batch_size=32, epochs=epochs, **given)


def experiment(work: Work, job: dict) -> dict:
    """A whole experiment on a few images: its notebook finds all but an epoch done; ``scored``: what is left."""
    os.environ.update(_elsewhere(Path(job["folder"])))
    tiny = Experiment.open(_tiny(work, job["drawn"], 1))
    history = tiny.train()
    tiny.finish(tiny.evaluate(), history)
    return {"rate": {"scored": timed(tiny.evaluate)}}


# ---------------------------------------------------------------- students and exams on random numbers


class RandomStore(dict):
    """Arrays in the place of a feature store."""

    def __init__(self, rows: int, facts: dict, arrays: dict[str, np.ndarray]):
        super().__init__(arrays)
        self.manifest = {"facts": facts}
        self.ids = [str(row) for row in range(rows)]
        self.rows = np.arange(rows)

    def __len__(self) -> int:
        return len(self.ids)


def random_split(work: Work, rows: int, tokens: bool = True, pixels: bool = False, name: str = "fit") -> Split:
    """A split of ``rows`` images with the shapes of the work's.

    Its pooled features are as hard to classify as a small student's: close classes and few main axes, which is what
    the number of steps of the linear probe depends on.
    """
    generator, dtype = np.random.default_rng(0), work.config.feature_dtype
    labels = np.arange(rows) % max(work.classes, 1)
    means = NEAR * generator.standard_normal((max(work.classes, 1), work.width))
    axes = np.arange(1, work.width + 1) ** -DECAY
    arrays = {"image_pooled": (means[labels] + generator.standard_normal((rows, work.width))) * axes}
    if tokens:
        arrays |= _token_arrays(generator, "image", rows * work.tokens, work.width)
        arrays = {key: value.reshape(rows, -1, *value.shape[1:]) if key != "image_pooled" else value
                  for key, value in arrays.items()}  # fmt: skip
    relevant = None
    if work.text_tokens:
        texts = rows * round(work.captions)
        arrays["caption_count"] = np.full(rows, round(work.captions), dtype=np.int32)
        for kind, count in (("text", texts), ("prompt", work.categories)):
            if count:
                lengths = generator.poisson(work.text_tokens, count).clip(1).astype(np.int32)
                arrays |= {f"{kind}_pooled": generator.standard_normal((count, work.width)), f"{kind}_length": lengths}
                arrays |= _token_arrays(generator, kind, int(lengths.sum()), work.width) if tokens else {}
        relevant = generator.random((rows, work.categories)) < 0.1 if work.categories else None
    arrays = {key: value.astype(dtype) if value.dtype.kind == "f" else value for key, value in arrays.items()}
    side = round(work.tokens**0.5)
    store = RandomStore(rows, {"grid": [side, side], "logit_scale": 10.0}, arrays)
    decoded = None
    if pixels:
        size = work.config.image_size
        values = generator.integers(0, 255, (rows, 3, size, size), dtype=np.uint8)
        decoded = RandomStore(rows, {}, {"pixels": values})
    return Split(name, store, decoded, None if work.text_tokens else labels, relevant)


def _token_arrays(generator, kind: str, count: int, width: int) -> dict[str, np.ndarray]:
    return {
        f"{kind}_tokens": generator.standard_normal((count, width), dtype=np.float32),
        f"{kind}_attention": generator.random(count, dtype=np.float32),
    }


def student(work: Work, job: dict) -> dict:
    """Seconds of a training step, of a checkpoint, of an image's embedding, of a timed call; the real functions.

    Also the bytes of a checkpoint.
    """
    once = timed(lambda: sources.reads(work.config.method))  # imports it
    read, whole = sources.reads(work.config.method), min(work.config.batch_size, work.counts["fit"][0])
    large = whole > LARGE and read != "features"  # then the seconds are proportional to the batch
    batch = BATCH if large else whole
    config = work.config.model_copy(update={"pretrained": False, "train_limit": 0, "batch_size": batch})
    torch.set_num_threads(config.threads)
    rows = batch if large else max(2 * batch, ROWS)
    split = random_split(work, rows, read == "tokens", read == "pixels")
    names = SimpleNamespace(class_names=range(work.classes))
    experiment = Experiment(
        config, RunDir(Path(job["folder"]) / "run"), {"fit": split}, {"fit": names}, {"train": "calibration"}
    )
    steps, history = rows // batch, []
    for epochs in EPOCHS:
        before, began = len(history), time.perf_counter()
        experiment = replace(experiment, config=config.model_copy(update={"epochs": epochs}))
        distiller = experiment.distiller()
        history = _train(experiment, distiller)
        fresh = history[before:]
        seconds = time.perf_counter() - began
        checkpoint = (seconds - sum(epoch["seconds"] for epoch in fresh)) / len(fresh)
        if seconds > SHORT:
            break
    step = statistics.median(epoch["seconds"] for epoch in history[1:]) / steps * (whole / batch)

    trained = distiller.student
    embed(trained, split, config.device, limit=FEW)
    image = timed(lambda: embed(trained, split, config.device)) / rows
    alone = timed(lambda: embed(trained, split, config.device, 1, FEW)) / FEW * min(BATCH_ROWS, work.seen)
    noise = Image.effect_noise((2 * config.image_size,) * 2, 50).convert("RGB")
    began = time.perf_counter()
    cost = student_cost(trained, split, noise, config.device, CALLS)
    times = [cost[side][f"batch_{size}_ms"] for side in ("image", "text") if side in cost for size in (1, 32)]
    call = sum(map(statistics.median, times)) / 1000
    once += max(time.perf_counter() - began - 2 * CALLS * call, 0.0)
    last = max(experiment.run.checkpoints.glob("epoch-*"))
    size = sum(file.stat().st_size for file in last.iterdir())
    rate = {"once": once, "step": step, "checkpoint": checkpoint, "bytes": size, "image": image, "call": call}
    return {"rate": rate | {"singly": alone + 3 * BATCH_ROWS * image}}


def _train(experiment: Experiment, distiller) -> list[dict]:
    config = experiment.config
    loader = TrainLoader(experiment.splits["fit"], distiller.student.reads, config.batch_size, config.seed)
    return train(distiller, loader, config, experiment.run, experiment.keys["train"])


def exam(work: Work, job: dict) -> dict:
    """Seconds to score one encoder and to keep its scores, at the full size by how each part grows."""
    torch.set_num_threads(work.config.threads)
    on, counts = work.config.score_on, {name: count for name, (count, _) in work.counts.items()}
    small = counts[on] <= LOOKED and counts["fit"] <= BANK
    least = max(LOOKED, 2 * work.classes)
    rows = counts if small else {name: min(count, least) for name, count in counts.items()}
    splits = {name: random_split(work, count, tokens=False, name=name) for name, count in rows.items()}
    exam = Exam(splits, on)
    width = work.config.width
    embedded = {
        name: {side: _mapped(values, width) for side, values in sides.items()} for name, sides in exam.teacher.items()
    }
    once = timed(lambda: exam.weights) + _opening(work)
    scores = []
    score = timed(lambda: scores.append(exam.score(embedded)))
    growth = {name: counts[name] / count for name, count in rows.items()}
    if max(growth.values()) > 1:
        score = _at_full_size(exam, embedded, score, growth)
    flat = {f"{name}/{side}": values.numpy() for name, sides in embedded.items() for side, values in sides.items()}
    write = timed(lambda: write_arrays(Path(job["folder"]) / "kept.npz", scores[0].arrays("student") | flat))
    return {"rate": {"once": once, "score": score, "write": write * max(growth[name] for name in exam.needed)}}


def _at_full_size(exam: Exam, embedded: dict, score: float, growth: dict[str, float]) -> float:
    """Seconds of an exam whose splits grow: pairs of scored images, pairs with the bank, the probe's rows, the rest."""
    split, query = exam.scored, embedded[exam.on]
    pairs = timed(lambda: fidelity.credits(query, exam.teacher[exam.on], 10.0))
    bank = probe = 0.0
    if exam.has_text:
        pairs += timed(lambda: retrieval.credits(query["image"], query["text"], split.owner))
    else:
        pairs += timed(lambda: retrieval.in_batch(query["image"], query["image"]))
        known = torch.cat([embedded[name]["image"] for name in exam.bank])
        labels = np.concatenate([exam.splits[name].labels for name in exam.bank])
        bank = timed(lambda: knn.credits(known, labels, query["image"], split.labels))
    if not exam.has_text and exam.on == "test":
        names = ("fit", "dev", "test")
        given = [part for name in names for part in (embedded[name]["image"], exam.splits[name].labels)]
        probe = timed(lambda: linear.credits(*given))
    rest = max(score - pairs - bank - probe, 0.0)
    wide = growth[exam.on]
    return pairs * wide**2 + bank * wide * growth["fit"] + probe * growth["fit"] + rest * wide


def _mapped(values: torch.Tensor, width: int) -> torch.Tensor:
    """Features as a student would make them, at its width."""
    return values @ torch.randn(values.shape[1], width, generator=torch.Generator().manual_seed(0))


def _opening(work: Work) -> float:
    """Seconds to list a data set that is here; the embedded one is not to be drawn for a plan, and is quick."""
    if work.config.data_root == DRAWN:
        return 0.0
    try:
        return timed(lambda: [split.fingerprint for split in sources.load_data(work.config).values()])
    except (datasets.DataError, OSError):
        return 0.0


# ---------------------------------------------------------------- teachers and pixels


def some_data(work: Work, drawn: str, count: int) -> datasets.Dataset:
    """The first images of fit; of the drawn ones where the data is not here."""
    root = drawn if work.config.data_root == DRAWN else work.config.data_root
    try:
        data = datasets.load(work.config.dataset, root, "fit")
    except (datasets.DataError, OSError):
        data = datasets.load(work.config.dataset, drawn, "fit")
    cut = slice(min(count, len(data)))
    parts = {name: getattr(data, name) for name in ("ids", "image_names", "labels", "captions", "categories")}
    return replace(data, **{name: part[cut] for name, part in parts.items() if part is not None}, _fingerprint=[])


def teacher(work: Work, job: dict) -> dict:
    """Seconds of an image with its captions, from decoding to the store, and of a timed call of the backbone."""
    config = work.config
    torch.set_num_threads(config.threads)
    if teachers.find(config.teacher, config.checkpoint, config.revision) is None:
        return {"rate": published(work)}
    few = some_data(work, job["drawn"], FEW)
    kept = config.feature_dtype, prompts(few.category_names), config.token_grid
    teacher = sources.load_teacher(config)
    encoder = features.teacher_encoder(lambda: teacher, *kept)()
    images = list(few.images)
    texts = list(few.captions) if few.captions is not None else None

    def through(count: int) -> None:
        prepared = [encoder.prepare(image, "") for image in images[:count]]
        encoder.encode(prepared, texts[:count] if texts else None)

    through(1)
    began = time.perf_counter()
    seconds = timed(lambda: through(len(images)))
    image = seconds / len(images)
    if seconds < SHORT:
        many = some_data(work, job["drawn"], MANY)
        image = timed(lambda: features.build_store(Path(job["folder"]) / "store", {}, many, lambda: encoder)) / len(
            many
        )
    call = 0.0
    for encode, one in ((teacher.encode_images, images[0]), (teacher.encode_texts, CAPTION)):
        if one is not CAPTION or teacher.has_text:
            encode([one])
            size = 32 if seconds < SHORT else FEW
            call += timed(lambda encode=encode, one=one: encode([one]))
            call += 32 / size * timed(lambda encode=encode, one=one, size=size: encode([one] * size))
    return {"rate": {"image": image, "call": call}, "timed": time.perf_counter() - began}


def published(work: Work) -> dict:
    """The same of a checkpoint that is not here, from one layer of its published size."""
    image = LAYERS * layer_seconds(work, *LAYER, work.tokens)
    text = 0.0
    if work.text_tokens:
        size = TEXT_LAYER.get(work.config.teacher, LAYER)
        text = LAYERS * layer_seconds(work, *size, round(PADDING * work.text_tokens))
    return {"image": image + work.captions * text, "call": 33 * (image + text)}


@torch.inference_mode()
def layer_seconds(work: Work, width: int, heads: int, tokens: int, batch: int = 8) -> float:
    """Seconds of one layer of a transformer for one sequence."""
    device = choose(work.config.device)
    layer = torch.nn.TransformerEncoderLayer(width, heads, 4 * width, batch_first=True, norm_first=True)
    layer, given = layer.eval().to(device), torch.randn(batch, tokens, width, device=device)

    def call() -> None:
        with autocast(device, work.config.teacher_precision):
            layer(given)

    call()
    return statistics.median(timed(call) for _ in range(CALLS)) / batch


def pixels(work: Work, job: dict) -> dict:
    """Seconds to decode an image to the size that pixel students read, and to store it."""
    data = some_data(work, job["drawn"], MANY)
    encoder = features.pixel_encoder(work.config.image_size)
    seconds = timed(lambda: features.build_store(Path(job["folder"]) / "store", {}, data, lambda: encoder))
    return {"rate": {"image": seconds / len(data)}, "timed": seconds}


def nothing(work: Work, job: dict) -> dict:
    """Start a process and end it."""
    return {}


MEASUREMENTS = {
    "nothing": nothing,
    "experiment": experiment,
    "student": student,
    "exam": exam,
    "teacher": teacher,
    "pixels": pixels,
}


if __name__ == "__main__":
    main()
