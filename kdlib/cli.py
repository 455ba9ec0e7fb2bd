"""The command line: ``kdlib try | run | status | plan | report | export | data``."""

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

HELP = """A study of visual model distillation. Start with: kdlib run notebooks/studies/mini.yaml

--debug, or KDLIB_DEBUG=1, shows the traceback of an error."""
app = typer.Typer(help=HELP, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
data_app = typer.Typer(help="Download a data set, or check one.", no_args_is_help=True)
app.add_typer(data_app, name="data")

File = Annotated[Path, typer.Argument(help="a study file, as notebooks/studies/mini.yaml", show_default=False)]
DataRoot = Annotated[str | None, typer.Option(help="the data set's folder, in place of the study file's")]
Seeds = Annotated[int | None, typer.Option(min=1, help="number of seeds, from 0, in place of the study file's")]
Workers = Annotated[int, typer.Option(min=0, help="experiments at a time; 0: what suits the machine")]


@app.command("try")
def try_folder(
    folder: Annotated[Path, typer.Argument(help="a folder with a folder of images for each class")],
    checkpoint: Annotated[str, typer.Option(help="a folder, a model id, or 'toy'; else the published one")] = "",
    teacher: Annotated[str, typer.Option(help="dino, dinov2, dinov3, beit, clip, siglip2 or blip")] = "dino",
) -> None:
    """See within minutes what a teacher makes of your images; nothing is to be configured."""
    from kdlib.report import execute
    from kdlib.utils import absolute, project_root, reports_root

    page = reports_root() / "try" / f"{folder.absolute().name}.html"
    parameters = {"folder": str(folder.expanduser().absolute()), "checkpoint": absolute(checkpoint), "teacher": teacher}
    book, error = execute(project_root() / "notebooks/try.ipynb", page, parameters, {})
    printed = [out.text for cell in book.cells for out in cell.get("outputs", ()) if out.get("name") == "stdout"]
    print(*printed, page, sep="\n")
    if error:
        raise RuntimeError(error)


@app.command()
def run(
    study: File,
    workers: Workers = 0,
    data_root: DataRoot = None,
    seeds: Seeds = None,
    scheduler: Annotated[str, typer.Option(help="address or file of a dask scheduler")] = "",
    memory_gb: Annotated[float, typer.Option(min=0, help="most memory of one experiment; 0: its share")] = 0,
) -> None:
    """Run what is missing of a study, then make its report; after an interruption the same command continues.

    The exit code is 1 when some experiments are not done; their folders say why.
    """
    from kdlib.run import run as run_study
    from kdlib.study import load

    try:
        found = run_study(load(study, data_root, seeds), workers, scheduler, memory_gb)
    except KeyboardInterrupt:
        print("\nInterrupted. What is done is kept; the same command continues.", file=sys.stderr)
        raise typer.Exit(130) from None
    left = [f"  {name}: {why}" for name, why in found.items() if why]
    if left:
        print(*left, sep="\n", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def status(study: File, data_root: DataRoot = None, seeds: Seeds = None) -> None:
    """Say of each experiment whether it is done, running, failed, out of memory or to do, and why."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # it asks what is here
    from kdlib.status import lines
    from kdlib.study import load

    print(*lines(load(study, data_root, seeds)), sep="\n")


@app.command()
def plan(study: File, workers: Workers = 0, data_root: DataRoot = None, seeds: Seeds = None) -> None:
    """Say what of a study is missing, and about how many GB and hours it takes: measured here, nothing is kept."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from kdlib.plan import plan as plan_study
    from kdlib.study import load

    print(plan_study(load(study, data_root, seeds), workers))


@app.command()
def report(study: File) -> None:
    """Make the pages and tables of a study from the results that are there; runs no experiment."""
    from kdlib.report import report as make
    from kdlib.study import load

    config = load(study)
    print(make(config.study, config.reports))


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="a run's folder, or words, as 'mini dino resnet'")],
    folder: Annotated[Path, typer.Argument(help="the folder to write")],
) -> None:
    """Write a student as files that run without this package: ONNX, int8, safetensors, tokenizer, model card."""
    from kdlib.export import export as write

    print(write(run, folder))


@data_app.command("get")
def data_get(
    name: Annotated[str, typer.Argument(help="tinyimagenet (0.25 GB) or coco (20 GB)")],
    folder: Annotated[Path, typer.Argument(help="the folder that holds the data sets")],
    source: Annotated[Path | None, typer.Option("--from", help="an archive that is at hand")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="keep the archives after they are extracted")] = False,
    check: Annotated[bool, typer.Option("--check", help="read what is there as runs do; download nothing")] = False,
) -> None:
    """Download a data set from its official site, check its archives and extract them; or check what is there."""
    from kdlib.data import download

    print(download.check(name, folder) if check else f"--data-root {download.get(name, folder, source, keep)}")


def main() -> None:
    """Run the command line. An error is one sentence; SIGTERM, which schedulers of clusters send, is as Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    debug = bool(os.environ.get("KDLIB_DEBUG")) or "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    try:
        app()
    except Exception as error:
        from kdlib.study import said

        if debug:
            traceback.print_exc()
        print(f"kdlib: {said(error)}", file=sys.stderr)
        sys.exit(2)
