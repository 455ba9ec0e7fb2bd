from functools import cache
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from kdlib.config import RunConfig
from kdlib.data import shapes
from kdlib.notebook import worker

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def own_runs_and_reports(tmp_path, monkeypatch):
    """No test reads or writes the runs and reports of the checkout."""
    monkeypatch.setenv("KDLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("KDLIB_REPORTS", str(tmp_path / "reports"))


@pytest.fixture(autouse=True)
def jobs_are_accepted():
    """Also after a test that interrupted a run in this process."""
    worker.accept_jobs()


@pytest.fixture(scope="session")
def small_shapes(tmp_path_factory) -> Path:
    """The embedded data, small: 20 classes x (8 + 3) images, 40 + 20 scenes."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    return shapes.ensure(shapes.ShapesSpec(0, 8, 3, 40, 20), root=root)


@pytest.fixture
def small_run(small_shapes):
    """``small_run('clip', method='cbam')``: the configuration of a run of seconds."""

    def make(teacher: str = "clip", **fields) -> RunConfig:
        dataset = "coco" if teacher in ("clip", "blip") else "tinyimagenet"
        given = {
            "study": "test",
            "batch_size": 16,
            "epochs": 2,
            "image_size": 32,
            "data_root": str(small_shapes),
            "timed_calls": 5,
        }
        return RunConfig(teacher=teacher, dataset=dataset, **given | fields)

    return make


@cache
def replicates_of(rate: float, luck: int, images: int = 200) -> np.ndarray:
    """(R,) of an encoder right on a share of the images, the easiest of them; ``luck`` says which those are."""
    from kdlib.evaluate.uncertainty import replicate_means, resamples

    right = np.random.default_rng(luck).permutation(images) < round(rate * images)
    return replicate_means(right, resamples(images)).astype(np.float32)


@pytest.fixture
def made_study():
    """``made_study({'teacher': 'clip', 'method': 'cbam', 'student': 0.8}, ...)``: a finished study, nothing trained.

    A dict an experiment. 'student', 'untrained', 'pca', 'teacher_score', 'shuffled', ... are shares of 200 images
    that are right, of the headline, and '<who> in_batch@64' of that. Encoders with equal shares are right on the
    same images unless the student's 'luck' differs. Other keys are columns. Returns what results.read gives.
    """
    from kdlib.files import reports_root, runs_root
    from kdlib.report import rows as results
    from kdlib.report import scores

    names = {"teacher": "clip", "method": "projection", "variant": "", "seed": 0, "epochs": 5, "outcome": "ok"}
    keys = {"exam_key": "exam", "images_key": "images", "degenerate": "", "tripped": "", "luck": 0}
    shares = {"student": 0.8, "untrained": 0.2, "pca": 0.7, "teacher_score": 0.9, "student in_batch@64": 0.5}
    chance = {"shuffled": 0.01, "random": 0.01, "constant": 0.01, "untrained in_batch@64": 0.1}
    costs = {
        "student_mb": 1.0,
        "deployed_mb": 5.0,
        "seconds_per_epoch": 1.0,
        "train_images": 100,
        "store_seconds": 10.0,
    }
    sources = {
        "teacher_source": "stand-in",
        "untrained_teacher": False,
        "data_root": "shapes",
        "convnet": "narrow",
        "objective": "logit_matching",
    }
    defaults = names | keys | shares | chance | costs | sources
    studies = count()

    def make(*experiments: dict):
        study = f"made{next(studies)}"
        rows = [write(study, defaults | experiment) for experiment in experiments]
        folder = reports_root() / study
        results.write(rows, folder)
        return results.read(folder)

    def write(study: str, experiment: dict) -> dict:
        dataset = experiment.get("dataset") or ("coco" if experiment["teacher"] in ("clip", "blip") else "tinyimagenet")
        name = "+".join(filter(None, (experiment["method"], experiment["variant"])))
        run = runs_root() / study / f"{experiment['teacher']}_{dataset}" / name / f"seed{experiment['seed']}"
        row = {"study": study, "dataset": dataset, "run": run.relative_to(runs_root()).as_posix(), "page": ""}
        if experiment["outcome"] != "ok":
            return row | {name: experiment[name] for name in names} | {"error": "says why"}
        headline = "mean_recall" if dataset == "coco" else "knn@20_top1"
        controls = f"controls-{experiment['exam_key']}.npz"
        own = run / f"scores-{experiment['epochs']:04d}.npz"
        files = {"student": own, "dev": own, "untrained": run / "untrained.npz"}
        arrays: dict[Path, dict] = {}
        for column, share in experiment.items():
            who, _, score = column.replace("teacher_score", "teacher").partition(" ")
            if who not in ("student", "dev", "untrained", *scores.CONTROLS) or isinstance(share, str) or share is None:
                continue
            luck = experiment["luck"] if who == "student" else 0
            of_file = arrays.setdefault(files.get(who, run.parents[1] / controls), {})
            of_file[f"{who}/replicates/{score or headline}"] = replicates_of(share, luck)
        for path, content in arrays.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, **content)
        return row | {"headline": headline, "controls": controls} | {k: v for k, v in experiment.items() if k != "luck"}

    return make


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real samples beside the checkout; tests that need it skip where it is not."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"needs the real samples in {SHARED}, which only the developers' machines have")
    return SHARED


@pytest.fixture(scope="session")
def finished_runs(small_shapes, tmp_path_factory) -> Path:
    """A folder of runs with the finished study 'small': three students after 2 epochs, projection after 1 too.

    Of clip and of dino; clip has resnet without a teacher as well.
    """
    from kdlib.experiment import Experiment

    runs = tmp_path_factory.mktemp("finished") / "runs"
    small = {"study": "small", "batch_size": 16, "image_size": 32, "timed_calls": 5, "data_root": str(small_shapes)}
    own = [("projection", 1), ("projection", 2), ("attention", 2), ("resnet", 2)]
    of_clip, of_dino = {"teacher": "clip", "dataset": "coco"}, {"teacher": "dino", "dataset": "tinyimagenet"}
    experiments = [
        teacher | {"method": method, "epochs": epochs} for teacher in (of_clip, of_dino) for method, epochs in own
    ]
    experiments.append(experiments[3] | {"variant": "no_teacher", "objective": "no_teacher"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_RUNS", str(runs))
        for given in experiments:
            experiment = Experiment.open(RunConfig(**small | given))
            history = experiment.train()
            experiment.finish(experiment.evaluate(), history)
    return runs


@pytest.fixture
def finished_study(finished_runs, own_runs_and_reports, monkeypatch) -> str:
    """The name of a finished study, 'small', which is only read."""
    monkeypatch.setenv("KDLIB_RUNS", str(finished_runs))
    return "small"
