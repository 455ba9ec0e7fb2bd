"""What others have measured of published checkpoints. A full-size run that lies elsewhere has something wrong with it.

Only whole test sets with all their captions are compared: on part of one a recall is higher, and with one caption an
image it is 17 points lower.
"""

from dataclasses import dataclass

POINT = 0.01  # how far a figure may lie from what was published


@dataclass(frozen=True)
class Reference:
    """Public figures of one checkpoint on one test set: score -> (lowest, highest) that was published."""

    source: str
    dataset: str
    images: int
    texts: int
    figures: dict[str, tuple[float, float]]
    citation: str


REFERENCES = (
    Reference(
        "openai/clip-vit-base-patch32",
        "coco",
        images=5000,
        texts=25000,
        figures={
            "t2i_r@1": (0.3044, 0.3044),
            "t2i_r@5": (0.5477, 0.5477),
            "t2i_r@10": (0.6624, 0.6624),
            "i2t_r@1": (0.50, 0.52),
        },
        citation="public measurements of this checkpoint on val2017 with five captions an image",
    ),
)


def check(source: str, dataset: str, images: int, texts: int, scores: dict[str, float]) -> list[dict]:
    """The teacher's ``scores`` beside public figures of the same checkpoint on the same test set.

    [{"score", "low", "high", "found", "met", "citation"}]; empty where nothing comparable was published.
    """
    return [
        {
            "score": score,
            "low": low,
            "high": high,
            "found": scores[score],
            "met": low - POINT <= scores[score] <= high + POINT,
            "citation": reference.citation,
        }
        for reference in REFERENCES
        if (reference.source, reference.dataset, reference.images, reference.texts) == (source, dataset, images, texts)
        for score, (low, high) in reference.figures.items()
    ]


def in_words(checks: list[dict]) -> str:
    """What :func:`check` found, in a sentence that begins with 'Meets' or 'Misses'; '' where it found nothing."""
    if not checks:
        return ""
    listed = ", ".join(f"{entry['score']} {entry['found']:.1%} (public {_span(entry)})" for entry in checks)
    verdict = "Meets" if all(entry["met"] for entry in checks) else "Misses"
    sentence = f"{verdict} {checks[0]['citation']} within a point: {listed}."
    if verdict == "Misses":
        sentence += " Look at the checkpoint, its preprocessing and the data before any other number."
    return sentence


def _span(entry: dict) -> str:
    low, high = f"{entry['low']:.1%}", f"{entry['high']:.1%}"
    return low if low == high else f"{low} to {high}"
