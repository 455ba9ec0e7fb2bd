"""The result on an experiment's page: its score after each number of epochs, and the student between its controls."""

import html

import numpy as np
import pandas as pd

from kdlib.evaluate.uncertainty import interval
from kdlib.experiment import Experiment
from kdlib.files import read_json
from kdlib.finished import Finished
from kdlib.report import display, experiment_figures
from kdlib.report.display import figure, markup, notice, table
from kdlib.report.style import score_name, short_name

# Columns of the table of scores that are no controls on the scored images.
EXPLAINED = {
    "dev": "dev: the student on the dev images, of which there may be fewer, so that a match is found more easily",
    "words shuffled": "words shuffled: the student on captions whose words are in random order",
}
CONTROLS = {"untrained": "itself untrained", "pca": "PCA of the teacher's features", "teacher": "its teacher"}
# The study's report puts its verdicts here: they are corrected for all of its comparisons.
VERDICTS = '<div class="verdicts"></div>'


def score_by_epochs(experiment: Experiment, record: dict) -> None:
    """The headline score at every number of epochs that this training was evaluated at."""
    if _tripped(record):
        return
    found = {int(path.stem[-4:]): read_json(path) for path in sorted(experiment.run.path.glob("result-????.json"))}
    points = []
    for epochs, other in found.items():
        same = other and all(other["keys"][name] == record["keys"][name] for name in ("train", "exam"))
        if same and not _tripped(other):
            score = other["scores"]["student"][record["headline"]]
            points.append(experiment_figures.Point(epochs, score, *_interval(experiment, other)))
    lines = {"teacher": "teacher", "PCA": "pca", "untrained": "untrained"}
    controls = {name: record["scores"][who][record["headline"]] for name, who in lines.items()}
    headline, method = record["headline"], record["config"]["method"]
    listed = ", ".join(f"{point.score:.3f} after {point.epochs}" for point in points)
    figure(
        lambda narrow: experiment_figures.score_by_epochs(points, controls, headline, method, narrow),
        f"{score_name(record['headline'])} by epochs: {listed}. Lines: "
        + ", ".join(f"{name} {value:.3f}" for name, value in controls.items()),
        "The headline score after each number of epochs that was scored, between its controls",
    )


def _tripped(record: dict) -> list[dict]:
    return [wire for wire in record["wires"] if not wire["passed"]]


def _interval(experiment: Experiment, record: dict, score: str = "") -> tuple[float, float]:
    return Finished(experiment.run, record).interval("student", score or record["headline"])


def sentence(record: dict, low: float, high: float) -> str:
    """The result in one sentence; ``low`` and ``high`` are the interval of the student's headline score."""
    score = {who: row[record["headline"]] for who, row in record["scores"].items()}
    split, size = record["config"]["score_on"], record["size"]
    kept = f"{100 * score['student'] / score['teacher']:.0f} % of " if score["teacher"] else ""
    name = short_name(record["headline"]).replace("mean", "Mean")
    return (
        f"{name} {score['student']:.3f} [{low:.3f}, {high:.3f}] on {record['data'][split]['images']:,} {split} images: "
        f"{kept}the teacher's {score['teacher']:.3f}; untrained {score['untrained']:.3f}, PCA {score['pca']:.3f}; "
        f"{size['student_mb']:.2f} MB alone, {size['deployed_mb']:.2f} MB deployed."
    )


def differences(experiment: Experiment, record: dict) -> None:
    """The student minus each of its controls on the same images. Verdicts are the study's, in VERDICTS."""
    run, lines = Finished(experiment.run, record), []
    for who, said in CONTROLS.items():
        low, high = run.interval_of_difference("student", who)
        lines.append((said, f"{run.score('student') - run.score(who):+.3f} [{low:+.3f}, {high:+.3f}]"))
    frame = pd.DataFrame(lines, columns=["against", f"student minus it, {short_name(record['headline'])}"])
    table(frame, "The student against its controls, paired on the same images, one by one and uncorrected", False)


def result(experiment: Experiment, record: dict) -> None:
    """Scores of the controls and of the student, with the student's intervals; tripped wires stop the table."""
    if tripped := _tripped(record):
        for wire in tripped:
            notice(f"Tripped: {wire['wire']} ({wire['found']}). The scores are not shown.")
        return
    if record["edited"]:
        notice(f"Edited by hand, so that this is no result of the configuration: {'; '.join(record['edited'])}.")
    headline, method = record["headline"], record["config"]["method"]
    low, high = _interval(experiment, record)
    markup(f'<p class="headline"><strong>{html.escape(sentence(record, low, high))}</strong></p>')
    standing = {who: row[headline] for who, row in record["scores"].items()}
    values = ", ".join(f"{who} {value:.3f}" for who, value in standing.items())
    markup(VERDICTS)
    figure(
        lambda narrow: experiment_figures.standing(standing, low, high, headline, method, narrow),
        f"{score_name(headline)}: {values}. The student's 95 % interval is {low:.3f} to {high:.3f}.",
        "The student between its controls",
    )
    differences(experiment, record)
    scores = pd.DataFrame(record["scores"]).T
    chosen = [headline, *[name for name in scores if name != headline]]
    epochs = record["config"]["epochs"]
    names = {"student": f"student, {epochs} epochs", "untrained": "student, untrained", "pca": "PCA"}
    order = ["student", "untrained", *(row for row in scores.index if row not in ("student", "untrained"))]
    frame = scores.loc[order, chosen].rename(index=names).T
    with np.load(experiment.run.scores_path(epochs)) as arrays:
        found = {name: arrays[key] for name in chosen if (key := f"student/replicates/{name}") in arrays}
    bounds = {name: interval(replicates) for name, replicates in found.items()}
    frame.insert(1, "95 % interval", [f"[{low:.3f}, {high:.3f}]" if low == low else "" for low, high in
                                      (bounds.get(name, (np.nan, np.nan)) for name in chosen)])  # fmt: skip
    split = record["config"]["score_on"]
    notes = "".join(f". {said}" for column, said in EXPLAINED.items() if column in frame)
    table(
        frame,
        f"Scores on {split}: shares in [0, 1], ranks in places, similarity_kl in nats. The interval is the student's, "
        f"over the images{notes}",
    )
    if record["degenerate"]:
        notice(
            f"Degenerate, since the untrained student has more than 0.99 of it: {', '.join(record['degenerate'])}. "
            + (
                "Each image looks for itself among the images of its batch; the paper's 1.00 on this data is this."
                if not record["pairing"]
                else ""
            )
        )
    wires = pd.DataFrame(record["wires"])[["wire", "found"]]
    with display.fold(f"{len(wires)} trip-wires, none tripped"):
        table(wires, "Trip-wires", False, kind="prose")
