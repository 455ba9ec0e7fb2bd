"""The style of all figures: colours that work for the colour-blind, a method always the same."""

import seaborn as sns

from kdlib.study.file import METHODS

PALETTE = dict(zip(METHODS, sns.color_palette("colorblind", len(METHODS)), strict=True))
MARKERS = dict(zip(METHODS, "osD^vP", strict=True))
GREY = "#6e7781"
NAMES = {"mean_recall": "mean recall of R@1, R@5, R@10 both ways", "knn@20_top1": "k-NN top-1 (k = 20)"}
sns.set_theme(style="whitegrid", context="notebook", rc={"figure.dpi": 100, "savefig.dpi": 100})


def colour(method: str):
    """The colour of a method in every figure, RGB in [0, 1]; grey for one that is not among the study's six."""
    return PALETTE.get(method, GREY)


def score_name(headline: str) -> str:
    """The headline score in words, for an axis."""
    return NAMES.get(headline, headline)
