"""The command line: ``kdlib run | status | verify | report | export | bench | data``."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="A reproducible study of visual model distillation: four teachers, six students, every number traced "
    "to a run.\n\nStart with: kdlib run notebooks/studies/mini.yaml",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(
    help="Download the data sets, or check what is there, in their official layouts.", no_args_is_help=True
)
app.add_typer(data_app, name="data")

StudyFile = Annotated[Path, typer.Argument(help="a study file, as notebooks/studies/mini.yaml", show_default=False)]
DataRoot = Annotated[
    str | None,
    typer.Option(help="folder or zip archive with the data in the official layout; replaces the study file's"),
]
Seeds = Annotated[int | None, typer.Option(min=1, help="number of seeds, counted from 0; replaces the study file's")]


@app.command()
def run(
    study_file: StudyFile,
    workers: Annotated[
        int | None, typer.Option(min=1, help="experiments at a time; default: what suits the machine")
    ] = None,
    data_root: DataRoot = None,
    seeds: Seeds = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="say what would run, for how long, and what is missing; run nothing")
    ] = False,
    scheduler: Annotated[
        str | None,
        typer.Option(help="address or scheduler file of a dask cluster that sees the same files"),
    ] = None,
) -> None:
    """Run every experiment of a study that is missing or out of date, then build its report.

    Experiments are notebooks, executed by papermill in separate processes. After an interruption, a failure or a
    change, the same command runs only what is needed, and training goes on from its last checkpoint. Results are in
    runs/<study>/, pages in reports/<study>/. The exit code is 1 when experiments failed.

    Examples:

      kdlib run notebooks/studies/mini.yaml

      kdlib run notebooks/studies/sample.yaml --data-root ~/data --workers 4

      kdlib run notebooks/studies/paper.yaml --plan
    """
    from kdlib import study

    config = study.load(study_file, data_root, seeds)
    if plan:
        from kdlib.study import engine
        from kdlib.study.forecast import plan as make_plan
        from kdlib.study.measure import measure

        print(make_plan(config, measure, workers or engine.default_workers()))
        return
    from kdlib.report.rows import read, references
    from kdlib.study import grid
    from kdlib.study.status import Inspector

    inspector = Inspector()  # the run's and the report's: each data set is opened once
    try:
        states = grid.run(config, workers, scheduler, inspector)
    except KeyboardInterrupt as error:
        print("\nkdlib: interrupted. Finished work is kept; the same command goes on from there.", file=sys.stderr)
        raise typer.Exit(130) from error
    index = _report(config, inspector)
    left = [item for item in states if item.state != "done"]
    print(f"{len(states) - len(left)} of {len(states)} experiments are done.")
    print(f"Report: {index}\nTable:  {index.parent / 'results.csv'}")
    for line in references(read(index.parent)):
        print(line)
    for item in left:
        print(f"  {item.state.replace('_', ' ')}: {item.spec.name}: {item.why}", file=sys.stderr)
    if any(item.state == "out_of_memory" for item in left):
        print("Those that ran out of memory are tried again when there is more of it (memory_gb).", file=sys.stderr)
    if any(item.state != "out_of_memory" for item in left):
        print("The next 'kdlib run' tries the others again.", file=sys.stderr)
    if left:
        raise typer.Exit(1)


@app.command()
def status(
    study_file: StudyFile,
    data_root: DataRoot = None,
    seeds: Seeds = None,
    why: Annotated[str, typer.Option(help="show only experiments whose name holds all of these words")] = "",
) -> None:
    """List the experiments of a study with their state, which is derived from the files in runs/ each time.

    done: result, notebook and page exist. running: a process works on it now. resumable: it can go on from a
    checkpoint. stale: its result was made from other parameters, data, teacher or code. damaged: its result was altered
    or cut. failed: the last attempt ended with an error. out_of_memory. absent: nothing exists. The line says more.
    """
    from kdlib import study
    from kdlib.study import engine
    from kdlib.study import status as state
    from kdlib.teachers import check

    config = study.load(study_file, data_root, seeds)
    inspector = state.Inspector(engine.room(config.memory_gb, engine.default_workers()))
    counts: dict[str, int] = {}
    experiments = study.experiments(config)
    teachers = {one: check.standing(*one) for one in check.asked(spec.config for spec in experiments)}
    for spec in experiments:
        missing = not teachers[check.asked([spec.config])[0]].ready
        item = state.without_teacher(spec) if missing else inspector.state(spec)
        counts[item.state] = counts.get(item.state, 0) + 1
        if all(word in spec.name for word in why.split()):
            print(f"{item.state:<14} {spec.name}{f': {item.why}' if item.why else ''}")
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    for found in teachers.values():
        if not found.ready:
            print(found)


@app.command()
def verify(
    study_file: StudyFile,
    data_root: DataRoot = None,
    seeds: Seeds = None,
    sample: Annotated[int, typer.Option(min=0, help="results whose scores are computed again")] = 3,
) -> None:
    """Check that no file of a study was altered or lost since it was written.

    All feature stores, checkpoints, results, arrays and notebooks are hashed and compared with the recorded digests,
    and the scores of a few results are computed again from their embeddings. The exit code is 1 when something is
    wrong; each problem is named, and 'kdlib run' makes again what can be made. The study's report says when it was
    verified, and what was found.
    """
    from kdlib import study
    from kdlib.files import reports_root
    from kdlib.study import verify as verification

    config = study.load(study_file, data_root, seeds)
    found = verification.verify(config, sample)
    if (reports_root() / config.study / "index.html").exists():
        _report(config)
    print(f"{found['results']} results are unaltered, {found['recomputed']} of them computed again.")
    for problem in found["problems"]:
        print(f"  {problem}", file=sys.stderr)
    if found["problems"]:
        raise typer.Exit(1)


@app.command()
def report(
    studies: Annotated[
        list[Path],
        typer.Argument(help="a study file; two to compare, each a study file or a folder of a report", metavar="STUDY"),
    ],
    data_root: DataRoot = None,
    seeds: Seeds = None,
    out: Annotated[str, typer.Option(help="name of the comparison, a folder below reports/; default: A-vs-B")] = "",
) -> None:
    """Build the pages and tables of a study from the results that are there; runs no experiment.

    Given two, also compare the second with the first, student by student: which scores moved beyond the interval of
    their difference, and what differs in configuration, versions, hardware and commit. Instead of a study file, the
    folder of a report can be given, also of one from another machine (with its results.csv).

    Examples:

      kdlib report notebooks/studies/mini.yaml

      kdlib report notebooks/studies/mini.yaml ../other-machine/reports/mini --out mini-on-two-machines
    """
    from kdlib import study
    from kdlib.report import build as reports

    if len(studies) > 2:
        raise study.StudyError(f"{len(studies)} studies are given; one is reported, two are compared.")
    if len(studies) == 1 and (out or studies[0].is_dir()):
        raise study.StudyError(f"{studies[0]} alone is nothing to compare; name a second study file or report folder.")
    built = [
        path if path.is_dir() else _report(study.load(path, data_root, seeds)).parent for path in dict.fromkeys(studies)
    ]
    if len(built) == 2 and built[0].resolve() == built[1].resolve():
        raise study.StudyError(
            f"{studies[0]} and {studies[1]} have one report, {built[0]}: give one study another name, or compare a "
            "copy of the folder."
        )
    print(reports.build_comparison(built[0], built[-1], out) if len(studies) == 2 else built[0] / "index.html")


@app.command()
def export(
    experiment: Annotated[
        list[str],
        typer.Argument(help="a run's folder, its result-EEEE.json, or words of its name", metavar="EXPERIMENT"),
    ],
    to: Annotated[
        Path | None, typer.Option(help="the folder to write; default: exported-EEEE beside the result")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="also write int8 twins of the ONNX files")] = False,
) -> None:
    """Write a student as files that run without its teacher: ONNX, safetensors, tokenizer, and a model card.

    EXPERIMENT may be words, as in 'kdlib status --why': each must be in '<study> <teacher>_<dataset> <student>
    <n> epochs seed <k>', and only one run may match them all; of its numbers of epochs the largest is taken.

    The files are checked before they are kept: their embeddings are compared with torch's, and kdlib's own evaluation
    scores them, with intervals. The outcome is in parity.json and in the model card. A student that reads its teacher's
    features is refused. Needs: pip install 'kdlib[export]'.

    Examples:

      kdlib export mini dino resnet+standalone --int8

      kdlib export runs/mini/dino_tinyimagenet/resnet/seed0 --to my_student
    """
    from kdlib.export import choose
    from kdlib.export import export as write

    print(write(choose(experiment), to, int8))


def _report(config, inspector=None):
    from kdlib import study
    from kdlib.experiment import run_dir
    from kdlib.report import build as reports

    return reports.build(config, study.experiments(config), run_dir, inspector)


@app.command()
def bench(
    names: Annotated[list[str] | None, typer.Argument(help="which ones; all if none is named")] = None,
    data_root: Annotated[str, typer.Option(help="folder with real images; by default drawn shapes")] = "shapes",
    whole_grid: Annotated[bool, typer.Option("--whole-grid", help="time all of the embedded study twice")] = False,
) -> None:
    """Measure how fast kdlib is on this machine, as ratios of two things measured side by side.

    Rows and plot go to reports/bench/. Nothing else should run meanwhile. The names: teacher, steps, convnet, views,
    search, memory, export, experiments, grid, large.
    """
    from kdlib import bench as benches
    from kdlib.report import build as reports

    setting = benches.Setting(data_root=data_root, whole_grid=whole_grid)
    for row in benches.run(names or list(benches.BENCHES), setting):
        print(row, flush=True)
    print(reports.build_bench())


@data_app.command("get")
def data_get(
    name: Annotated[str, typer.Argument(help="tinyimagenet (0.25 GB) or coco (20 GB)")],
    root: Annotated[Path | None, typer.Option(help="target folder; default: runs/data")] = None,
) -> None:
    """Download a data set from its official site, going on where an earlier attempt stopped.

    The loaders read the archives as they are; nothing is extracted.
    Each archive is checked against its published digests before anything uses it. KDLIB_ARCHIVES names a JSON file with
    other addresses, sizes and digests: {"coco": [{"urls": [...], "bytes": ..., "md5": ...}]}.
    """
    from kdlib.data import download
    from kdlib.files import runs_root

    folder = root or runs_root() / "data"
    for archive in download.get(name, folder):
        print(archive)
    print(f"Use it with: --data-root {folder}")


@data_app.command("check")
def data_check(
    name: Annotated[str, typer.Argument(help="tinyimagenet or coco")],
    root: Annotated[str, typer.Argument(help="folder or zip archive in the official layout, or 'shapes'")],
) -> None:
    """Read a data set as runs do, and list all that they would refuse: files, labels, images, and splits that overlap.

    Nothing is built. The exit code is 1 when there is something to mend.
    """
    from kdlib.data.check import check

    remedies = []
    for finding in check(name, root):
        print(f"  {finding.text}" if finding.remedy else finding.text, flush=True)
        remedies += [finding.remedy] if finding.remedy else []
    for remedy in dict.fromkeys(remedies):
        print(f"{remedies.count(remedy)} found: {remedy}", file=sys.stderr)
    if remedies:
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; errors that the user can mend are printed as one message, without a traceback.

    SIGTERM, which cluster schedulers send, is handled like Ctrl-C: running jobs are ended in order.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from kdlib.data.dataset import DataError
    from kdlib.study.file import StudyError
    from kdlib.teachers.teacher import TeacherError

    try:
        app()
    except (DataError, StudyError, TeacherError, RuntimeError, KeyError, ValueError, OSError) as error:
        print(f"kdlib: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
