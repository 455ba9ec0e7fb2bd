"""The table of all experiments, and the experiments that have no result."""

import re

from kdlib.report import listing


def body(markup: str) -> list[list[str]]:
    """The texts of a table, row by row, tags left out."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", markup, flags=re.DOTALL)
    return [
        [re.sub("<[^>]+>", "", experiment) for experiment in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in rows
    ]


def test_experiments__every_experiment_is_a_row_with_its_score_and_interval(made_study, shown):
    listing.experiments(made_study({"student": 0.8}, {"method": "cbam", "outcome": "absent"}))
    heads, first, second = body(shown[0])
    first = [text.replace("&nbsp;", " ") for text in first]
    first, second = dict(zip(heads, first, strict=True)), dict(zip(heads, second, strict=True))
    assert first["score"] == "0.800" and re.fullmatch(r"\[0\.\d{3}, 0\.\d{3}\]", first["95 % interval"])
    assert (second["outcome"], second["score"], second["95 % interval"]) == ("absent", "", "")
    assert '<table class="experiments' in shown[0]


def test_experiments__link_to_their_pages_and_say_where_to(made_study, shown):
    rows = made_study({"method": "cbam", "seed": 2}).assign(page="clip_coco/cbam.html")
    listing.experiments(rows)
    assert '<a href="clip_coco/cbam.html" aria-label="open clip coco cbam 5 epochs, seed 2">open</a>' in shown[0]


def test_failures__stand_apart_with_their_error_and_their_page(made_study, shown):
    rows = made_study({}, {"method": "cbam", "outcome": "out_of_memory"}, {"method": "resnet", "outcome": "absent"})
    rows["error"] = [None, "tried <b>9 GB</b>", None]
    rows["page"] = ["", "clip_coco/cbam.failed.html", ""]
    listing.failures(rows)
    assert "1 of 3 experiments have no result" in shown[0] and "out of memory" in shown[0]
    assert "tried &lt;b&gt;9 GB&lt;/b&gt;" in shown[0] and 'href="clip_coco/cbam.failed.html"' in shown[0]
    assert len(body(shown[0])) == 2


def test_failures__of_none_there_is_no_section(made_study, shown):
    listing.failures(made_study({}, {"method": "cbam", "outcome": "absent"}))
    assert not shown
