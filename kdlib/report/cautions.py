"""Warnings that a reader must know before any number of a study: each in a few words and in a sentence."""

from pathlib import Path

import pandas as pd

from kdlib import teachers
from kdlib.evaluate.uncertainty import interval
from kdlib.report import rows as results
from kdlib.report.scores import line_name, replicates
from kdlib.report.style import dataset_name, score_name, teacher_name

EXPOSED = {
    "unknown": "may have seen the test images, nobody can say",
    "images": "have seen test images in training",
    "labels": "have seen test images or their classes with labels in training",
}


def cautions(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """(In a few words, the sentence), the gravest first; none if no experiment has finished."""
    good = rows[rows.outcome == "ok"]
    if good.empty:
        return []
    found = []
    if (good.score_on == "dev").any():
        found.append(("scored on dev", "These numbers may choose parameters, and none of them is a result."))
    sources = good.groupby("teacher", sort=False).teacher_source.first()
    standins = [teacher_name(name) for name, source in sources.items() if source == "stand-in"]
    if standins:
        found.append(("stand-in teachers", f"{', '.join(standins)}: small models that this project trained on drawn "
                      "shapes. Their numbers say nothing about the published checkpoints."))  # fmt: skip
    found += [("checkpoint by hand", text) for name, source in sources.items() if (text := given_by_hand(name, source))]
    if (good.data_root == "shapes").any():
        found.append(("drawn data", "Shapes that were drawn in the official layouts, not the data sets themselves."))
    found += at_chance(good)
    names = {line_name(teacher_name(row.teacher), row.variant) for row in good[good.untrained_teacher].itertuples()}
    if not names <= {short.removesuffix(" at chance") for short, _ in found}:  # that one is told already
        found.append(
            ("untrained heads", f"Teachers with untrained weights, allowed by name: {'; '.join(sorted(names))}.")
        )
    if good.seed.nunique() == 1:
        found.append(
            ("one seed", "Verdicts carry the noise of the test images, not that of initial weights and data order.")
        )
    if (good[good.method.isin(("resnet", "densenet"))].convnet == "narrow").any():
        found.append(("narrow networks", "ResNet and DenseNet are narrow here, so that the study ends in minutes."))
    seen = good.groupby(["exposure", "teacher", "dataset"], sort=False).size().reset_index()
    for level, part in seen[seen.exposure.isin(EXPOSED)].groupby("exposure"):
        names = ", ".join(f"{row.teacher} on {row.dataset}" for row in part.itertuples())
        found.append((f"exposure: {level}", f"{names} {EXPOSED[level]}."))
    if good.skipped_images.any():
        found.append(("unreadable images", f"Up to {int(good.skipped_images.max())} were left out."))
    found += copies(good)
    found += ties(good)
    found += [("public figures missed", line) for line in results.references(good) if ": Meets" not in line]
    if good.commit.astype(str).str.endswith("-dirty").any():
        said = "Made from a checkout with changes that are in no commit; 'kdlib status' says which code made a number."
        found.append(("uncommitted code", said))
    return found


def copies(good: pd.DataFrame) -> list[tuple[str, str]]:
    """Images that were left out of training since another split has them too, and copies inside one split."""
    if "left_out_images" not in good:
        return []
    found = []
    for dataset, part in good.sort_values("left_out_images", kind="stable").groupby("dataset", sort=False):
        row = part.iloc[-1]
        if row.left_out_images:
            said = f"{dataset_name(dataset)}: {int(row.left_out_images)} images are also in another split by their "
            said += f"content, and were left out of training: {row.left_out}. Each result names them all."
            found.append(("copies between splits", said))
        if row.duplicate_images:
            said = (
                f"{dataset_name(dataset)}: {int(row.duplicate_images)} images are copies of another of the same split; "
            )
            found.append(("copies in a split", f"{said}all are used."))
    return found


def ties(good: pd.DataFrame) -> list[tuple[str, str]]:
    """Teachers to which some of the scored images or captions are the same: these tie in every ranking."""
    if "coinciding" not in good:
        return []
    alike = good[good.coinciding.fillna("") != ""].drop_duplicates(["teacher", "dataset", "coinciding"])
    if alike.empty:
        return []
    counted = "; ".join(
        f"{line_name(teacher_name(row.teacher), row.variant if row.untrained_teacher else '')} {row.coinciding}"
        for row in alike.itertuples()
    )
    return [
        ("equal embeddings", f"Only some embeddings differ: {counted}. Equal ones tie, and ties share their credit.")
    ]


def at_chance(good: pd.DataFrame) -> list[tuple[str, str]]:
    """Teachers that score no better than a constant encoder in the headline score or in zero-shot."""
    found = {}
    for row in good.drop_duplicates(["teacher", "dataset", "exam_key"]).itertuples():
        name = line_name(teacher_name(row.teacher), row.variant if row.untrained_teacher else "")
        if interval(replicates(row, "teacher", row.headline))[0] <= row.constant:
            found[name, "headline"] = (
                f"{name} at chance",
                f"In {score_name(row.headline)} it cannot be told from a constant encoder: {row.teacher_score:.3f} "
                f"against {row.constant:.3f}. What its students score says nothing of distillation.",
            )
    if "teacher zeroshot_map" not in good:
        return list(found.values())
    below = good[good["teacher zeroshot_map"] <= good["constant zeroshot_map"]]
    for _, row in below.drop_duplicates(["teacher", "dataset", "exam_key"]).iterrows():
        name = line_name(teacher_name(row.teacher), row.variant if row.untrained_teacher else "")
        if (name, "headline") not in found:
            found[name, "zero-shot"] = (
                f"{name} at chance in zero-shot",
                f"Its zero-shot mAP of {row['teacher zeroshot_map']:.3f} is no better than a constant encoder's "
                f"{row['constant zeroshot_map']:.3f}: zero-shot scores of its students say nothing of distillation.",
            )
    return list(found.values())


def given_by_hand(teacher: str, source: str) -> str:
    """A sentence on a checkpoint that is neither the family's published one nor the stand-in; '' for those.

    A local copy of the published checkpoint gets the sentence too, since only its name is known.
    """
    family = teachers.TEACHERS.get(teacher)
    if family is None or source in (family.DEFAULT, teachers.STANDIN):
        return ""
    return f"Checkpoint given by hand, in the place of the published {teacher_name(teacher)}: {Path(source).name}."
