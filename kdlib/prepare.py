"""Build the feature stores of one notebook before its cells start: ``python -m kdlib.prepare JOB.json``."""

import json
import sys
from pathlib import Path

from kdlib import inputs
from kdlib.config import RunConfig


def main() -> None:
    """Build the stores of the job in the file that the command names, and leave the answer."""
    job = json.loads(Path(sys.argv[1]).read_text())
    config = RunConfig(**job["config"])
    try:
        for dataset in inputs.load_data(config).values():
            inputs.teacher_store(config, dataset)
        inputs.backbone_cost(config)
        report = {"outcome": "ok"}
    except Exception as problem:  # told to the grid, which tells the user
        report = {"outcome": "error", "error": f"{type(problem).__name__}: {problem}"}
    Path(job["answer"]).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
