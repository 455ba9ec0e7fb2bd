"""One notebook in one fresh process: ``python -m kdlib.notebook.execute JOB.json``.

papermill writes a scratch file, which is renamed when it is complete. An experiment is done when its result, its
notebook and its page exist and belong together: a record says which result the notebook belongs to, and the page holds
the digest of the notebook that it was made from.
"""

import json
import os
import random
import time
from pathlib import Path

from kdlib.files import RunDir, file_digest, make_folder, rename, sync, write_json
from kdlib.notebook import kernel, warm
from kdlib.notebook.worker import take_job

STARTS = 4  # attempts to start a kernel
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
    # Not in the run's own folder, which the training may move aside.
    folder = make_folder(Path(job.get("scratch", output.parent)))
    scratch = folder / f".{output.parent.name}-{output.stem}.{os.getpid()}.ipynb"
    for left in folder.glob(f".{output.parent.name}-{output.stem}.*.ipynb"):  # by a process that was killed
        left.unlink(missing_ok=True)
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
        target = output if outcome == "ok" else Path(job["failed_output"])
        make_folder(target.parent)
        sync(scratch)
        rename(scratch, target)
    return {"outcome": outcome, "error": error}


def publish(job: dict) -> dict:
    """Record which result the executed notebook belongs to, and make its page. Returns {}, or what went wrong."""
    from kdlib.notebook.page import export_page

    notebook = Path(job["output"])
    if "run" in job and not job.get("page_only"):
        run, epochs = RunDir(Path(job["run"])), job["parameters"]["epochs"]
        result = run.result(epochs)
        if result is None:
            return {
                "outcome": "error",
                "error": "the notebook ended without a result; it must call experiment.finish()",
            }
        record = {"result": result["digest"], "notebook": file_digest(notebook), "bytes": notebook.stat().st_size}
        write_json(run.published_path(epochs), record)
    try:
        export_page(notebook, Path(job["report"]))
    except Exception as problem:  # the result is kept all the same
        return {"outcome": "error", "error": f"the page cannot be made: {type(problem).__name__}: {problem}"}
    return {}


def refuse_unknown(notebook: str, parameters: dict) -> None:
    """Raise ValueError for a parameter that the notebook does not have; papermill would only warn."""
    import papermill

    known = set(papermill.inspect_notebook(notebook))
    unknown = sorted(set(parameters) - known)
    if unknown:
        raise ValueError(
            f"{Path(notebook).name} has no parameters {', '.join(unknown)}. It has: {', '.join(sorted(known))}."
        )


def main() -> None:
    """Execute the job in the file that the command names, make its page, and write the answer."""
    if warm.MARK in os.environ:
        kernel.fork_ahead()  # before this process has a thread
    job = take_job()
    report = {"outcome": "ok"}
    try:
        if not job.get("page_only"):
            report = execute(job)
        if report["outcome"] == "ok":
            report |= publish(job)
    except Exception as problem:  # a notebook that cannot be run at all; it is not tried again
        report = {"outcome": "error", "error": f"{type(problem).__name__}: {problem}"}
    Path(job["answer"]).write_text(json.dumps(report))
    kernel.dismiss()


if __name__ == "__main__":
    main()
