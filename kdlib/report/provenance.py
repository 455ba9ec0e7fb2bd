"""What a study's numbers were made with: its file, configurations, versions, hardware, commit."""

from collections import Counter
from importlib import metadata
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kdlib.files import read_json, read_record, runs_root, write_atomic, write_json
from kdlib.study.file import ExperimentSpec, StudyConfig

STUDY, LOCK, RECORD = "study.yaml", "requirements.txt", "provenance.json"
OWN = ("kdlib", "commit")  # of the versions, those that no package index has


def collect(study: StudyConfig, experiments: list[ExperimentSpec], folder_of, rows: list[dict]) -> dict:
    """The record of what the finished experiments were made with; ``rows`` are in the order of ``experiments``.

    {"study": the study file as it was run, "versions" and "hardware": each set of them with its experiments counted,
    most first, "configs": the parameters of each training but its seed and epochs, "from" and "to": when they ended,
    "verified": what the last ``kdlib verify`` found, {} before the first}.
    """
    done = [spec for spec, row in zip(experiments, rows, strict=True) if row["outcome"] == "ok"]
    records = [folder_of(spec.config).result(spec.config.epochs) for spec in done]
    configs: dict[tuple, dict] = {}
    for record in records:
        config = dict(record["config"])
        key = tuple(config.pop(name) for name in ("teacher", "dataset", "method", "variant"))
        configs.setdefault(key, {name: config[name] for name in config if name not in ("study", "seed", "epochs")})
    times = sorted(record["finished"] for record in records)
    return {
        "study": study.model_dump(mode="json", exclude_defaults=True)
        | {"seeds": list(study.seeds), "epochs": list(study.epochs)},
        "versions": _counted(record["versions"] for record in records),
        "hardware": _counted(record["hardware"] for record in records),
        "configs": [
            dict(zip(("teacher", "dataset", "method", "variant"), key, strict=True)) | {"config": config}
            for key, config in configs.items()
        ],
        "from": times[0] if times else "",
        "to": times[-1] if times else "",
        "verified": read_record(runs_root() / study.study / "verified.json") or {},
    }


def _counted(records) -> list[dict]:
    counts = Counter(tuple(record.items()) for record in records)
    return [dict(items) | {"experiments": count} for items, count in counts.most_common()]


def write(record: dict, folder: Path) -> None:
    """provenance.json, study.yaml that runs the study again, and requirements.txt.

    The last has the versions of most experiments, and of all else that kdlib needs those that are installed here.
    """
    write_json(folder / RECORD, record)
    write_atomic(folder / STUDY, yaml.safe_dump(record["study"], sort_keys=False, allow_unicode=True))
    lock = record["versions"][0] if record["versions"] else {}
    lock = {name: version for name, version in lock.items() if name not in (*OWN, "experiments")}
    lines = [f"{name}=={version}\n" for name, version in (installed() | lock).items()]
    write_atomic(folder / LOCK, "".join(lines))


def installed(package: str = "kdlib") -> dict[str, str]:
    """Name -> version of all direct and indirect dependencies of a package, by name."""
    found: dict[str, str] = {}
    todo, seen = [(package, "")], set()
    while todo:
        name, extra = todo.pop()
        name = canonicalize_name(name)
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            part = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # for another platform
            continue
        found[name] = part.version
        for need in map(Requirement, part.requires or ()):
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                todo += [(need.name, wanted) for wanted in ("", *need.extras)]
    return dict(sorted((name, version) for name, version in found.items() if name != package))


def read(folder: Path) -> dict:
    """The record of a report's folder; an empty one if an earlier version wrote none."""
    empty = {"study": {}, "versions": [], "hardware": [], "configs": [], "from": "", "to": "", "verified": {}}
    return empty | (read_json(folder / RECORD) or {})
