"""One notebook in one fresh process: ``python -m kdlib.notebook.execute JOB.json``.

papermill runs it into a scratch file that is renamed when it is whole. Whether the experiment succeeded is not the
notebook's to say, but the result record's: it is written last.
"""

import json
import os
import random
import sys
import time
from pathlib import Path

from kdlib.notebook import kernel, warm

STARTS = 4  # a kernel that does not come up is tried so often
OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError", "can't allocate memory", "out of memory")


def execute(job: dict) -> dict:
    """Run ``job['notebook']`` with ``job['parameters']`` into ``job['output']``.

    Returns {"outcome": "ok" | "error" | "out_of_memory" | "kernel_died", "error": text}.
    """
    import nbclient.exceptions
    import papermill
    from papermill.exceptions import PapermillExecutionError

    refuse_unknown(job["notebook"], job["parameters"])
    output = Path(job["output"])
    output.parent.mkdir(parents=True, exist_ok=True)
    scratch = output.with_name(f".{output.stem}.{os.getpid()}.ipynb")
    outcome, error = "ok", ""
    for attempt in range(STARTS):
        try:
            papermill.execute_notebook(
                job["notebook"],
                scratch,
                parameters=job["parameters"],
                kernel_name="python3",
                progress_bar=False,
                log_output=False,
                iopub_timeout=60,
                start_timeout=120,
                coalesce_streams=True,
                store_widget_state=False,
                kernel_manager_class="kdlib.notebook.kernel.LocalKernelManager",
                cwd=str(Path(job["notebook"]).parent),
            )
        except PapermillExecutionError as problem:
            error = f"{problem.ename}: {problem.evalue}"
            memory = any(word in f"{error}\n{problem.traceback}" for word in OUT_OF_MEMORY)
            outcome = "out_of_memory" if memory else "error"
        except nbclient.exceptions.DeadKernelError as problem:
            outcome, error = "kernel_died", str(problem)
        except RuntimeError as problem:  # jupyter_client: the kernel did not start
            if attempt + 1 < STARTS:
                time.sleep(random.uniform(1, 8))
                continue
            outcome, error = "error", f"the kernel did not start: {problem}"
        break
    if scratch.exists():
        os.replace(scratch, output if outcome == "ok" else Path(job["failed_output"]))
    return {"outcome": outcome, "error": error}


def refuse_unknown(notebook: str, parameters: dict) -> None:
    """papermill only warns of a parameter that the notebook does not have; here it is an error."""
    import papermill

    known = set(papermill.inspect_notebook(notebook))
    unknown = sorted(set(parameters) - known)
    if unknown:
        raise ValueError(
            f"{Path(notebook).name} has no parameters {', '.join(unknown)}. It has: {', '.join(sorted(known))}."
        )


def main() -> None:
    """Execute the job of the file that the command names, make its page, and leave the answer."""
    job = json.loads(Path(sys.argv[1]).read_text())
    if warm.MARK in os.environ:
        kernel.fork_ahead()
    try:
        report = execute(job)
    except Exception as problem:  # a notebook that cannot be run at all: an error, and no reason to try again
        report = {"outcome": "error", "error": f"{type(problem).__name__}: {problem}"}
    if report["outcome"] == "ok":
        from kdlib.notebook.page import export_page

        try:
            export_page(Path(job["output"]), Path(job["report"]))
        except Exception as problem:  # a page that cannot be made must not cost the run; `kdlib report` makes it again
            report["export_error"] = f"{type(problem).__name__}: {problem}"
    Path(job["answer"]).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
