"""Finished runs as files, with scores that a test chooses: what tables, comparisons and reports read."""

import json

import numpy as np

from kdlib.config import RunConfig
from kdlib.utils import runs_root, write_json

COUNT = 100  # replicates
PRIMARY = {"coco": "mean_recall", "tinyimagenet": "knn@20_top1", "folder": "knn@20_top1"}
TITLES = {"coco": "COCO", "tinyimagenet": "Tiny ImageNet", "folder": "birds"}
CONTROLS = {"teacher": 0.5, "pca": 0.45, "random": 0.02, "constant": 0.01, "shuffled": 0.02}
HEADS = {"projection": 0.49, "bottleneck": 0.48, "attention": 0.5, "cbam": 0.485}
NETWORKS = {"resnet": 0.3, "densenet": 0.28}
TIMES = {"p10_ms": 96.0, "p50_ms": 100.0, "p90_ms": 104.0}


def scored(encoder: str, values: dict[str, float], name: str) -> tuple[dict, dict]:
    """Rows of the result and arrays of one encoder: noise that all share of a resample, and a little of its own."""
    rows, arrays = {}, {}
    shared, own = (np.random.default_rng(list(seed)).normal(size=COUNT) for seed in (b"all", name.encode()))
    noise = shared + 0.2 * own
    for metric, value in values.items():
        lines = (value + 0.02 * (noise - noise.mean())).astype(np.float32)
        arrays |= {f"{encoder}/replicates/{metric}": lines, f"{encoder}/queries/{metric}": np.full(4, value)}
        rows[metric] = [value, *map(float, np.quantile(lines.astype(np.float64), [0.025, 0.975]))]
    return rows, arrays


def run(
    family: str = "clip", method: str = "projection", values=(0.4, 0.45), *, study: str = "made", variant: str = "",
    seed: int = 0, role: str = "", dev=(), key: str = "0", budgets=(5, 10), dataset: str = "",
    config: dict | None = None, **changes,
) -> dict:  # fmt: skip
    """Write a finished run, and return its entry of the index.

    ``values``, ``dev``: the student's score after each budget; ``changes`` replace parts of the result.
    """
    dataset = dataset or ("coco" if family in ("clip", "blip") else "tinyimagenet")
    chosen = RunConfig(teacher=family, dataset=dataset, method=method, variant=variant, seed=seed, study=study,
                       epochs=list(budgets), **config or {})  # fmt: skip
    shared = runs_root() / study / f"{family}_{dataset}".replace(":", ".")
    folder, name = shared / chosen.folder / f"seed{seed}-{key:0>8}", f"{method}{variant}{seed}"
    all_of = lambda value: {PRIMARY[dataset]: value, "in_batch@64": value}  # noqa: E731
    controls, of_controls = {}, {}
    for who, value in CONTROLS.items():
        controls[who], more = scored(who, all_of(value), who)
        of_controls |= more
    controls["random_init"], arrays = scored("random_init", all_of(0.05), f"init{name}")
    scores = {}
    for place, (epochs, value) in enumerate(zip(budgets, values, strict=True)):
        scores[str(epochs)] = {"scores": {}, "facts": {}}
        for who, number in ({"student": value} | ({"dev": dev[place]} if dev else {})).items():
            rows, more = scored(f"{epochs}/{who}", all_of(number), f"{name}{epochs}{who}")
            scores[str(epochs)]["scores"][who] = rows
            arrays |= more
    split = {"title": TITLES[dataset], "images": 100, "skipped": 0, "left_out": [], "ids_sha256": dataset}
    result = {
        "outcome": "ok", "config": chosen.model_dump(), "edited": [], "failed_checks": [], "saturated": [],
        "keys": {"train": f"{key:0>8}abc", "features": "f", "images": dataset, "evaluation": "e"},
        "role": role or ("ablation" if variant else "student"), "objective": ["logit_matching"],
        "primary": PRIMARY[dataset], "pairing": "", "budgets": scores, "controls": controls,
        "controls_file": "../../controls-e.npz",
        "size": {"student_mb": 0.5, "inference_mb": 5.5 if method in HEADS else 1.5, "teacher_mb": 5.0},
        "time": {"epoch_s": 2.0, "train_s": {str(one): 2.0 * one for one in budgets}, "features_s": 60.0,
                 "image_1": TIMES, "image_32": TIMES, "total_min": {str(one): 1 + one / 30 for one in budgets}},
        "history": [{"epoch": one, "loss": 1 / one, "seconds": 2.0, "images_seen": 100 * one} for one in range(1, 11)],
        "teacher": {"source": "toy", "revision": "", "untrained": []},
        "leakage": {"level": "none", "reason": "made"}, "data": dict.fromkeys(("fit", "test"), split),
        "hardware": {"name": "a CPU"}, "versions": {"commit": "abc"}, "finished": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    for part, change in changes.items():
        result[part] = result[part] | change if isinstance(change, dict) else change
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(shared / "controls-e.npz", **of_controls)
    np.savez(folder / "scores.npz", **arrays)
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return {"folder": folder.relative_to(runs_root() / study).as_posix(), "notebook": "n", "config": result["config"]}


def index(entries: list[dict], study: str = "made") -> None:
    """Write which runs are the study's."""
    head = {"study": study, "title": "A made study", "file": "notebooks/studies/mini.yaml"}
    write_json(runs_root() / study / "index.json", head | {"experiments": entries})


def grid(teachers=("dino", "clip"), seeds=(0,), **changes) -> list[dict]:
    """The six students of each teacher, heads near it, and a self-contained one with its supervised baseline."""
    entries = []
    for teacher in teachers:
        for seed in seeds:
            shift = 0.003 * seed
            for method, value in (HEADS | NETWORKS).items():
                few = value - (0.08 if method in NETWORKS else 0.001)
                entries.append(run(teacher, method, (few + shift, value + shift), seed=seed, **changes))
            entries += [
                run(teacher, "resnet", (few, many + shift), seed=seed, variant=role, role=role, dev=dev, **changes)
                for role, few, many, dev in (("supervised", 0.1, 0.15, ()), ("self_contained", 0.3, 0.4, (0.3, 0.4)))
            ]
    return entries
