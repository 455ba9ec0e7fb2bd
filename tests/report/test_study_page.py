"""The parts of a study's report, as they are shown."""

import re

import nbformat
import pandas as pd
import pytest

from kdlib.files import write_json
from kdlib.report import ablations, cost_page, exhibits, experiment_page, listing, provenance, study_page
from kdlib.report import display as primitives
from kdlib.report.claims import judge
from kdlib.report.verdicts import verdicts
from kdlib.study import forecast
from kdlib.study.file import notebooks_folder

FACTS = {"score_on": "test", "untrained_teacher": False, "skipped_images": 0, "exposure": "none"}
FACTS |= {"left_out_images": 0, "left_out": "", "duplicate_images": 0, "reference": ""}
SPENT = {"train_seconds": 60.0, "store_bytes": 1e6, "fingerprints": "p", "image_size": 48}


@pytest.fixture
def shown(monkeypatch) -> list[str]:
    outputs: list[str] = []

    def display(content, **_):
        outputs.append(content["text/plain"] if isinstance(content, dict) else content.data)

    for module in (primitives, study_page, exhibits, listing, experiment_page):
        if callable(getattr(module, "display", None)):  # IPython's, and not our module of that name
            monkeypatch.setattr(module, "display", display)
    return outputs


@pytest.fixture
def study(made_study):
    """Finished experiments with the files that ``kdlib report`` puts beside them."""

    def make(*experiments: dict) -> pd.DataFrame:
        rows = made_study(*({**FACTS, **SPENT, **experiment} for experiment in experiments))
        folder = exhibits.report_of(rows)
        verdicts(rows).to_csv(folder / "verdicts.csv", index=False)
        judge(rows).to_csv(folder / "claims.csv", index=False)
        return rows

    return make


def test_head__failed_experiments_are_seen_before_any_number(study, shown):
    rows = study({}, {"method": "cbam", "outcome": "out_of_memory"})
    study_page.head(rows)
    text = "\n".join(shown)
    assert "1 ok, 1 out of memory" in text and "1 of 2 experiments have no result" in text
    assert text.index("have no result") < text.index("Numbers are mean")


def test_head__copies_that_left_training_are_named_and_counted(study, shown):
    pair = "train2017/1.jpg (a copy of val2017/2.jpg)"
    study_page.head(study({"left_out_images": 1, "left_out": pair, "duplicate_images": 3}))
    text = "\n".join(shown)
    assert f"1 images are also in another split by their content, and were left out of training: {pair}" in text
    assert "3 images are copies of another of the same split" in text


@pytest.mark.parametrize("verdict", ["Meets", "Misses"])
def test_head__says_whether_the_published_teacher_scores_as_others_measured(study, shown, verdict):
    study_page.head(study({"reference": f"{verdict} public measurements: t2i_r@1 30.4%."}))
    (line,) = [content for content in shown if "public measurements" in content]
    assert f"CLIP: {verdict} public measurements: t2i_r@1 30.4%." in line
    assert ("notice" in line) == (verdict == "Misses")


def test_tables__printed_and_ours_stand_together_and_are_files(study, shown):
    rows = study(*({"method": method, "epochs": epochs} for method in ("projection", "cbam") for epochs in (5, 10)))
    study_page.tables(rows, "coco", "On COCO")
    text, figures = "\n".join(shown), exhibits.report_of(rows) / "figures"
    assert shown[0] == "<h3>On COCO</h3>" and "0.7234" in text and "0.800&nbsp;[" not in shown[1]
    assert {path.name for path in figures.glob("coco-*.tex")} == {
        "coco-printed.tex", "coco-in_batch.tex", "coco-headline.tex"
    }  # fmt: skip
    assert "clip, 10 epochs" in (figures / "coco-headline.tex").read_text()


def test_tables__of_a_data_set_that_the_study_lacks_are_not_there(study, shown):
    study_page.tables(study({}), "tinyimagenet", "On Tiny ImageNet")
    assert not shown


def test_verdicts__are_counted_and_then_listed_behind_a_line(study, shown):
    rows = study({"student": 0.8, "untrained": 0.2}, {"method": "cbam", "student": 0.2, "untrained": 0.2})
    study_page.verdicts(rows, ("untrained",))
    counts = pd.read_csv(exhibits.report_of(rows) / "figures" / "verdicts-of-1-questions.csv", index_col=0)
    assert counts.loc["The student against itself untrained"].to_dict() == {
        "better": 1, "not distinguishable": 1, "worse": 0
    }  # fmt: skip
    assert any(text.startswith("<details><summary>The student against itself untrained: all 2") for text in shown)


def test_claims_in_short__has_each_claim_with_its_verdict_and_links_to_the_page(study, shown):
    rows = study({})
    study_page.claims_in_short(rows)
    text = "\n".join(shown)
    assert 'href="claims.html"' in text and text.count("not testable here") >= 5 and "10 claims:" in shown[0]


def test_epochs_size_and_time__are_figures_that_say_what_they_show(study, shown):
    rows = study(*({"method": method, "epochs": epochs} for method in ("projection", "resnet") for epochs in (5, 10)))
    study_page.epochs(rows)
    cost_page.size(rows)
    cost_page.time(rows)
    text = "\n".join(shown)
    for name in ("score_by_epochs", "size_against_score", "seconds_per_epoch"):
        assert f'href="figures/{name}.svg"' in text and f'href="figures/{name}.csv"' in text
        assert (exhibits.report_of(rows) / "figures" / f"{name}.svg").exists()
    assert "On the Pareto front: clip on coco, student alone: projection" in text
    assert "clip projection 0.800, teacher 0.900" in text


def test_bill__has_a_line_a_teacher_and_their_sum(study, shown):
    rows = study({}, {"teacher": "dino"})
    cost_page.bill(rows)
    lines = pd.read_csv(exhibits.report_of(rows) / "figures" / "spent.csv")
    assert lines["what"].tolist() == ["clip on coco", "dino on tinyimagenet", "together"]
    assert lines["training, min"].tolist() == [1, 1, 2]


@pytest.mark.parametrize(
    "parts", [study_page.epochs, cost_page.size, cost_page.time, cost_page.sizes, cost_page.bill, study_page.again]
)
def test_parts__of_a_study_without_a_result_do_not_fail(made_study, shown, parts):
    parts(made_study({"outcome": "absent"}))
    assert not any("<img" in text or "<table" in text for text in shown)


def test_again__says_commit_versions_command_and_hardware(study, shown):
    rows = study({})
    versions = [{"kdlib": "0.1.0", "commit": "abc-dirty", "torch": "2.9.0", "experiments": 1}]
    made = {
        "study": {"study": "s"},
        "versions": versions,
        "hardware": [{"name": "A CPU", "experiments": 1}],
        "configs": [],
    }
    provenance.write(made | {"from": "then", "to": "now"}, exhibits.report_of(rows))
    study_page.again(rows)
    text = "\n".join(shown)
    for words in ("git checkout abc\n", "kdlib run study.yaml", "torch==2.9.0", "A CPU", "-dirty", "study: s"):
        assert words in text, words
    assert 'href="study.yaml"' in text and 'href="requirements.txt"' in text


def test_ablations__variants_stand_beside_the_methods_own(study, shown):
    rows = study({"student": 0.8}, {"variant": "no_kl", "student": 0.3})
    ablations.variants(rows)
    frame = pd.read_csv(exhibits.report_of(rows) / "figures" / "variants-clip-coco.csv")
    assert frame.training.tolist() == ["the method's own", "no kl"] and frame["verdict on the own"][1] == "better"


@pytest.mark.parametrize("name", ["summary", "compare"])
def test_notebook__its_contents_lead_to_its_headings(name):
    """nbconvert makes a heading's anchor of its words, with hyphens."""
    book = nbformat.read(notebooks_folder() / f"{name}.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    links = re.findall(r'<li><a href="#([^"]*)">(.*?)</a>', text)
    assert links == [(words.replace(" ", "-"), words) for words in headings]
    assert len(headings) >= 3


def test_foretold__is_the_plans_seconds_beside_those_taken(study, shown):
    rows = study({})
    name = rows.study.iloc[0]
    cost_page.foretold(rows)
    assert "Nothing was predicted" in shown[-1]
    experiment = {"notebook": "clip_coco", "method": "projection", "seconds": 60.0}
    write_json(forecast.runs_root() / name / forecast.PREDICTED, {"experiments": {"one": experiment}, "prepare": {}})
    forecast.took(name, "one", 48.0)
    cost_page.foretold(rows)
    assert "predicted 1.0 minutes" in shown[-2] and "a ratio of 1.25" in shown[-2]
    assert "by method" in shown[-1] and "48.00" in shown[-1]
