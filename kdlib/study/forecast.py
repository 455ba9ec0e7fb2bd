"""What a study would do on this machine: its experiments, its stores, what is missing, and how long it would take.

The seconds are those of :mod:`~kdlib.study.measure`, added up here as the study's grid would spend them.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil

from kdlib import study
from kdlib.config import RunConfig
from kdlib.experiment import BATCH_ROWS, run_dir
from kdlib.files import read_json, runs_root, write_json
from kdlib.machine import CALL_SECONDS, FEWEST_CALLS, WARM_UP_CALLS, WARM_UP_SECONDS
from kdlib.sources import load_data, teacher_store_is_built
from kdlib.study.file import ExperimentSpec, StudyConfig
from kdlib.study.sizes import Source, sources_of
from kdlib.study.status import Inspector
from kdlib.trainer import cooldown_epochs

PREDICTED, TAKEN = "plan.json", "times.json"  # in runs/<study>/
Measure = Callable[[list[ExperimentSpec], dict, int], dict[str, dict]]


def plan(config: StudyConfig, measure: Measure | None = None, workers: int = 1) -> str:
    """A text for the terminal. Downloads nothing, and computes nothing that is kept.

    ``measure``: :func:`kdlib.study.measure.measure`. With it the plan says how long ``workers`` take, and keeps that in
    runs/<study>/plan.json for :func:`goodness`.
    """
    specs = study.experiments(config)
    sources = sources_of(specs)
    missing = [line for source in sources.values() for line in source.missing]
    prediction, drawn = None, set()
    if measure:
        here = [_measurable(spec, sources[spec.sources]) for spec in specs if sources[spec.sources].has_teacher]
        drawn = {spec.config.dataset for spec in specs if not sources[spec.sources].has_data}
        counts = {key: source.counts for key, source in sources.items()}
        prediction = predict(specs, sources, measure(here, counts, workers), workers)
        write_json(_path(config.study, PREDICTED), prediction)
    free = shutil.disk_usage(runs_root() if runs_root().exists() else Path.cwd()).free
    stores, needed = _store_lines(specs, sources, prediction)
    if needed > free:
        missing.append(f"{(needed - free) / 1e9:.1f} GB of disk; set KDLIB_RUNS to a larger one")
    on_drawn = [f"Measured on drawn images, as those of {name} are not here." for name in sorted(drawn)]
    said = [*on_drawn, "Missing on this machine:", *(f"  {line}" for line in dict.fromkeys(missing))]
    memory = psutil.virtual_memory().total / 2**30
    return "\n".join([
        config.title, "", *_experiment_lines(specs), *(_time_lines(prediction) if prediction else []), "", *stores, "",
        f"Disk: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free at {runs_root()}.",
        f"Machine: {psutil.cpu_count()} cores, {memory:.0f} GB, {_accelerator()}.", "",
        *(said if missing else ["Nothing is missing."]),
    ])  # fmt: skip


def _measurable(spec: ExperimentSpec, source: Source) -> ExperimentSpec:
    """The experiment as it can be measured now: on drawn images where its own are not here."""
    given = {} if source.has_data else {"data_root": "shapes"}
    return spec.model_copy(update={"config": spec.config.model_copy(update=given)})


# ---------------------------------------------------------------- how long it takes


def predict(specs: list[ExperimentSpec], sources: dict, probes: dict[str, dict], workers: int) -> dict:
    """Seconds and bytes of every experiment and of every teacher's features; and of what is ``left``.

    An experiment that is done, by its files, is paid as all others are, but not left. What experiments share is paid
    by the first: the controls of an exam, decoded pixels, and of a chain the untrained student and the timed calls.
    """
    done, paid, epochs = there(specs, sources), set(), {}
    experiments, prepare = {}, {}
    for spec in specs:
        source, probe = sources[spec.sources], probes.get(str(spec.sources), {"problem": ""})
        fixed, method = probes.get(spec.config.dataset, {}), probe.get("methods", {}).get(spec.config.method, {})
        name, fresh = prepare_name(spec.sources), spec.config.epochs - epochs.get(spec.chain, 0)
        known = {"notebook": spec.notebook, "seconds": None, "bytes": 0, "method": spec.config.folder}
        problem = "; ".join(one["problem"] for one in (probe, fixed, method) if one.get("problem"))
        seconds = None
        if method and not problem and "problem" not in probe:
            cooling = cooldown_epochs(spec.config)
            seconds = _seconds(spec.config, source, probe, method, fixed, fresh + cooling, _first(spec, paid))
            seconds += _decoded(spec.config, source, paid) * method["pixel"]
            known["bytes"] = (fresh + bool(cooling)) * method["bytes"]
        experiments[spec.name] = known | {"seconds": seconds, "problem": problem}
        if "load" in probe and name not in prepare:
            built = len(source.stores) * probe["load"] + source.passes * probe["image"]
            built += probe["load"] + _timing(spec.config, probe["call"])
            prepare[name] = known | {"method": "features", "bytes": 0, "seconds": built, "problem": ""}
        epochs[spec.chain] = spec.config.epochs
    jobs = experiments | prepare
    left = {name: job["seconds"] or 0.0 for name, job in jobs.items() if name not in done}
    chains = pd.Series({spec.name: spec.chain for spec in specs if spec.name in left})
    longest = max((sum(left[name] for name in names) for names in chains.groupby(chains).groups.values()), default=0)
    return {
        "workers": workers,
        "probe_seconds": probes.get("all", {}).get("seconds", 0.0),
        "left": {
            "experiments": len(set(left) & set(experiments)),
            "seconds": max(sum(left.values()) / workers, longest),
        },
        "experiments": experiments,
        "prepare": prepare,
    }


def _first(spec: ExperimentSpec, paid: set) -> set[str]:
    """Which of what is shared this experiment pays, as the first of those that share it."""
    config = spec.config
    shared = {
        "chain": spec.chain,
        "controls": (*spec.sources, config.data_root, config.score_on, config.width),
    }
    found = {kind for kind, key in shared.items() if (kind, *key) not in paid}
    paid |= {(kind, *key) for kind, key in shared.items()}
    return found


def _decoded(config: RunConfig, source: Source, paid: set) -> int:
    """Images whose pixels this experiment stores, as the first of those that read them."""
    stores = source.pixels(config)
    fresh = set(stores) - paid
    paid |= fresh
    return sum(stores[store] for store in fresh)


def _seconds(config: RunConfig, source: Source, probe: dict, method: dict, fixed: dict, epochs: int, first) -> float:
    """Seconds of one experiment that trains so many epochs beyond the ones that are there."""
    scored, texts = source.counts[config.score_on]
    rows = source.counts["fit"][0] + source.extra[config.extra_images][0]
    rows = min(rows, config.train_limit or rows)
    embedded = scored if texts else source.images
    exam = embedded * method["image"] + probe["score"]
    singly = min(BATCH_ROWS, scored) * (method["alone"] + 2 * method["image"])
    total = fixed["fixed"] + method["once"] + epochs * (rows * method["epoch"] + method["checkpoint"]) + exam + singly
    total += exam + _timing(config, method["call"]) if "chain" in first else 0
    return total + (probe["controls"] if "controls" in first else 0)


def _timing(config: RunConfig, call: float) -> float:
    """Seconds in which calls are timed, ``call`` those of one of each of the four: two sides, one input and 32."""
    wanted = config.timed_calls + min(WARM_UP_CALLS, config.timed_calls)
    return max(min(wanted * call, 4 * (WARM_UP_SECONDS + CALL_SECONDS)), min(wanted, FEWEST_CALLS + 1) * call)


def there(specs: list[ExperimentSpec], sources: dict) -> set[str]:
    """What of a study is done: names of experiments, and of the jobs that build features."""
    inspector, done = Inspector(), set()
    for source in sources.values():
        if not source.missing:
            config, wanted = source.spec.config, source.stores_tokens
            alike = (one for one in specs if one.sources == source.spec.sources)
            # One without a result is not asked for its keys: extra images would be drawn for them.
            kept = (one for one in alike if run_dir(one.config).result(one.config.epochs) is not None)
            done |= {one.name for one in kept if inspector.state(one).finished}
            if all(teacher_store_is_built(config, split, wanted) for split in load_data(config).values()):
                done.add(prepare_name(source.spec.sources))
    return done


def prepare_name(sources: tuple[str, str, bool, int]) -> str:
    """Of the job that builds the feature stores of these sources, as ``ExperimentSpec.sources`` has them."""
    notebook, checkpoint, untrained_heads, token_grid = sources
    heads, tokens = "untrained heads" if untrained_heads else "", f"{token_grid} tokens a side" if token_grid else ""
    return " ".join(filter(None, ["features of", notebook, checkpoint, heads, tokens]))


# ---------------------------------------------------------------- in words


def _experiment_lines(specs: list[ExperimentSpec]) -> list[str]:
    groups: dict[tuple[str, str], list[RunConfig]] = {}
    for spec in specs:
        groups.setdefault((spec.notebook, spec.config.folder), []).append(spec.config)
    lines = [f"{len(specs)} experiments:"]
    for (notebook, folder), part in groups.items():
        epochs = ", ".join(map(str, sorted({run.epochs for run in part})))
        seeds = ", ".join(map(str, sorted({run.seed for run in part})))
        lines.append(f"  {notebook:<20} {folder:<28} {epochs} epochs, seed {seeds}")
    return lines


def _store_lines(specs: list[ExperimentSpec], sources: dict, prediction: dict | None) -> tuple[list[str], float]:
    """Each store with its GB and minutes, and the bytes of all that the study writes."""
    lines, total = ["Feature stores (about):"], 0.0
    for key, source in sources.items():
        run, job = source.spec.config, prediction["prepare"].get(prepare_name(key)) if prediction else None
        name = f"{run.teacher}{' (untrained heads)' if run.untrained_heads else ''}"
        for split, images, size in source.stores:
            minutes = f" {job['seconds'] / 60 * images / source.passes:>7.1f} min" if job else ""
            total += size
            lines.append(f"  {name:<22} {run.dataset:<13} {split:<5} {images:>7} images {size / 1e9:>8.2f} GB{minutes}")
    pixels = {store: images for spec in specs for store, images in sources[spec.sources].pixels(spec.config).items()}
    for (dataset, _, part, side, _), images in pixels.items():
        size = 3 * images * side**2
        total += size
        lines.append(f"  {f'pixels at {side}':<22} {dataset:<13} {part:<5} {images:>7} images {size / 1e9:>8.2f} GB")
    return lines, total + sum(job["bytes"] for job in prediction["experiments"].values()) if prediction else total


def _time_lines(prediction: dict) -> list[str]:
    """Minutes and GB by notebook and method, the total, and what could not be predicted."""
    jobs = pd.DataFrame([*prediction["experiments"].values(), *prediction["prepare"].values()])
    known, lines = jobs.dropna(subset="seconds"), [""]
    for column, unit, digits, words in (
        ("seconds", 60, 1, "Minutes of one worker, if nothing had been done:"),
        ("bytes", 1e9, 3, "GB of checkpoints:"),
    ):
        if not known.empty:
            table = known.pivot_table(column, "method", "notebook", aggfunc="sum", sort=False) / unit
            table["all"] = table.sum(axis=1)
            table.loc["all"] = table.sum()
            shown = table.to_string(float_format=f"{{:.{digits}f}}".format, na_rep="-", index_names=False)
            lines += [words, *(f"  {line}" for line in shown.splitlines())]
    lines += [f"  not predicted: {problem}" for problem in dict.fromkeys(jobs.problem) if problem]
    if unknown := int((jobs.seconds.isna() & (jobs.problem == "")).sum()):
        lines.append(f"  not predicted: {unknown} experiments whose teacher is not here")
    left, workers = prediction["left"], prediction["workers"]
    return [
        *lines,
        f"About {left['seconds'] / 60:.1f} minutes for the {left['experiments']} experiments left, {workers} at once, "
        f"and then the report (measured in {prediction['probe_seconds']:.0f} s).",
    ]


def _accelerator() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return "no GPU"


# ---------------------------------------------------------------- how good the prediction was


def _path(name: str, file: str) -> Path:
    return runs_root() / name / file


def took(name: str, job: str, seconds: float) -> None:
    """Keep what an experiment or a :func:`prepare_name` job of the study ``name`` took, in runs/<study>/times.json."""
    path = _path(name, TAKEN)
    write_json(path, (read_json(path) or {}) | {job: round(seconds, 2)})


def goodness(name: str) -> pd.DataFrame | None:
    """Predicted and taken seconds of a study by notebook and method, and their ratio; the last row is all of them.

    ``within 30 %``: how many of its jobs were predicted so well. Only jobs that were both predicted and run count.
    None where there are none.
    """
    predicted, taken = (read_json(_path(name, file)) for file in (PREDICTED, TAKEN))
    jobs = (predicted or {}).get("experiments", {}) | (predicted or {}).get("prepare", {})
    rows = [
        {"notebook": record["notebook"], "method": record["method"], "jobs": 1, "predicted": record["seconds"],
         "taken": taken[job], "within 30 %": int(abs(record["seconds"] / taken[job] - 1) <= 0.3)}
        for job, record in jobs.items() if taken and job in taken and record["seconds"] is not None
    ]  # fmt: skip
    if not rows:
        return None
    frame = pd.DataFrame(rows).groupby(["notebook", "method"], sort=False).sum().reset_index()
    sums = frame[["jobs", "predicted", "taken", "within 30 %"]].sum()
    frame = pd.concat([frame, pd.DataFrame([{"notebook": "all", "method": "", **sums}])], ignore_index=True)
    frame = frame.astype({"jobs": int, "within 30 %": int})
    return frame.assign(ratio=frame.predicted / frame.taken)
