"""Report notebooks on made runs, their pages, and the rules by which claims are judged."""

import shutil
from pathlib import Path

import made_runs
import nbformat
import pandas as pd
import pytest
from PIL import Image

import kdlib
from kdlib import report, show, utils

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
PUBLISHED = {"dino": "facebook/dino-vitb16", "clip": "openai/clip-vit-base-patch32"}
PUBLISHED |= {"blip": "Salesforce/blip-itm-base-coco", "beit": "microsoft/beit-base-patch16-224-pt22k-ft22k"}


def execute(name: str, monkeypatch, **parameters) -> tuple[dict, list]:
    """The code of a notebook in this process: its names, and what it displayed."""
    monkeypatch.chdir(NOTEBOOKS)
    monkeypatch.setattr(show, "use", lambda: None)
    names, shown = {}, []
    monkeypatch.setattr(show, "display", lambda thing, **_: shown.append(thing))
    names["display"] = shown.append
    for cell in nbformat.read(f"{name}.ipynb", 4).cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
            names |= parameters if "parameters" in cell.metadata.get("tags", []) else {}
    return names, shown


def official(teacher: str, **changes) -> list[dict]:
    """The grid of a published teacher on the official data."""
    split = {"title": "", "images": 5000 if teacher in ("clip", "blip") else 10000, "ids_sha256": teacher}
    data, source = {"fit": split, "test": split}, {"source": f"{PUBLISHED[teacher]}@a1b2", "untrained": []}
    return made_runs.grid((teacher,), teacher=source, data=data, config={"data_root": "/data/all"}, **changes)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The report of a study with two seeds, of which one run failed; made once."""
    root = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_RUNS", str(root / "runs"))
        patch.setenv("KDLIB_REPORTS", str(root / "reports"))
        patch.setenv("KDLIB_FIGURES", "png")
        entries = made_runs.grid(seeds=(0, 1))
        failed = utils.runs_root() / "made" / entries[0]["folder"]
        (failed / "result.json").unlink()
        utils.write_json(failed / "outcome.json", {"outcome": "failed", "error": "ValueError: <b>no</b>"})
        made_runs.index(entries)
        page = report.page_of(utils.runs_root() / "made" / entries[1]["folder"])
        utils.write_atomic(page, "<p>a page</p>")
        return report.report("made", ["report"]).parent


def test_report__page_tables_and_executed_notebook(pages):
    page = (pages / "index.html").read_text(encoding="utf-8")
    for text in ("2 of 64 runs and budgets failed", "&lt;b&gt;no&lt;/b&gt;", "Toy teachers say nothing", " ± 0.002"):
        assert text in page
    assert 'href="dino_tinyimagenet/bottleneck-seed0-00000000.html"' in page
    assert "<script" not in page and "Traceback" not in page
    runs, scores, tests = (pd.read_csv(pages / f"{name}.csv") for name in ("runs", "results", "comparisons"))
    assert (len(runs), set(runs.outcome)) == (64, {"ok", "failed"})
    assert set(scores.key) == set(runs.key.dropna()) and not runs.path.str.startswith("/").any()
    assert set(tests.question) >= {"teacher", "epochs", "method"}
    assert "torch==" in (pages / "requirements.txt").read_text(encoding="utf-8")
    assert (pages / "study.yaml").exists()
    outputs = [one for cell in nbformat.read(pages / "report.ipynb", 4).cells for one in cell.get("outputs", [])]
    kinds = [set(one.get("data", ())) for one in outputs]
    assert sum("image/png" in kind for kind in kinds) == 2 + 2 + 1  # a teacher each, a data set each, epochs
    assert not any("image/svg+xml" in kind for kind in kinds)  # GitHub's viewer removes it


def test_page__is_accessible_and_self_contained(pages):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    from playwright.sync_api import sync_playwright

    browser = shutil.which("chromium") or shutil.which("google-chrome") or pytest.skip("needs chromium on the PATH")
    with sync_playwright() as driver:
        chromium, asked = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"]), []
        for width, scheme in ((1400, "light"), (390, "dark")):
            page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.on("request", lambda request: asked.append(request.url))
            page.goto((pages / "index.html").as_uri())
            assert axe.Axe().run(page).response["violations"] == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        chromium.close()


def test_page__equations_code_and_a_failed_cell(tmp_path):
    text = "# A title\n\n$$\\frac{a}{b}$$ and $x_i$, `$HOME` costs $5\n\n```sh\necho $a $b\n```"
    failed = nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=["ValueError: no"])
    figure = nbformat.v4.new_output("display_data", {"image/svg+xml": "<svg/>"}, metadata={"alt": "a <figure>"})
    cells = [nbformat.v4.new_markdown_cell(text), nbformat.v4.new_code_cell("1 / 0", outputs=[figure, failed])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    report.page(tmp_path / "a.ipynb", tmp_path / "clip_coco" / "cbam-seed0.html")
    page = (tmp_path / "clip_coco" / "cbam-seed0.html").read_text(encoding="utf-8")
    assert page.count("<math") == 2
    title = "<title>A title, clip_coco, cbam-seed0</title>"
    for words in ("$HOME", "costs $5", "ValueError: no", 'alt="a &lt;figure&gt;"', title):
        assert words in page
    assert 'href="../index.html"' in page


def test_report__a_cell_that_fails_is_shown_and_an_error(tmp_path, monkeypatch):
    made_runs.index([made_runs.run()])
    shutil.copytree(NOTEBOOKS / "template", tmp_path / "notebooks" / "template")
    cells = [nbformat.v4.new_code_cell(code) for code in ("study = path = ''", "1 / 0", "print('after' + study)")]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "notebooks" / "mine.ipynb")
    monkeypatch.setattr(report, "project_root", lambda: tmp_path)
    with pytest.raises(RuntimeError, match=r"index.html shows the error of a cell: ZeroDivisionError"):
        report.report("made", ["mine"])
    page = (utils.reports_root() / "made" / "index.html").read_text(encoding="utf-8")
    assert "ZeroDivisionError" in page and "aftermade" in page


def test_claims__are_not_tested_with_toy_teachers(monkeypatch):
    made_runs.index(made_runs.grid(("dino", "beit", "clip", "blip")))
    names, shown = execute("claims", monkeypatch, study="made")
    assert set(names["verdicts"].values()) == {"not tested"} and len(names["verdicts"]) == 10
    assert "No claim is tested here" in shown[0].data


def test_claims__are_judged_by_their_rules(monkeypatch):
    entries = [entry for teacher in ("dino", "beit", "clip") for entry in official(teacher)]
    entries += official("blip", size={"student_mb": 3.5, "inference_mb": 5.5})
    made_runs.index(entries)
    names, _ = execute("claims", monkeypatch, study="made")
    assert names["verdicts"] == {
        "simple methods suffice": "inconclusive",  # 0.48 of 0.5: the interval has the bar of 95 %
        "perfect accuracy": "not reproduced", "CBAM is best for BLIP": "not reproduced",
        "Projection is worst for BLIP": "not reproduced", "attention larger, no better": "not reproduced",
        "networks gain from epochs": "reproduced", "attention peaks at 5 epochs": "inconclusive",
        "pixels cost more": "not reproduced", "DINO is more efficient": "not reproduced",
        "lightweight students deploy": "not reproduced",
    }  # fmt: skip


def test_ablations__choose_on_dev_and_compare(monkeypatch):
    trials = {"": (0.30, 0.31), "lr_1": (0.32, 0.35), "kl-lr_2": (0.2, 0.2)}
    made_runs.index([
        made_runs.run("clip", "resnet", (score, score), variant=name, dev=(dev, dev), seed=seed,
                      objective=["kl"] if "kl" in name else ["logit_matching"])
        for name, (dev, score) in trials.items() for seed in (0, 1)
    ])  # fmt: skip
    names, _ = execute("ablations", monkeypatch, study="made")
    assert names["best"].set_index("objective").variant.to_dict() == {"logit_matching": "lr_1", "kl": "kl-lr_2"}
    assert names["shown"]["first − this"].iloc[1].startswith("+0.150 [") and names["rank"].variant.iloc[0] == "lr_1"


def test_compare__says_what_moved(monkeypatch):
    for study, value in (("one", 0.3), ("two", 0.35)):
        made_runs.index([made_runs.run("clip", "resnet", (0.2, value), study=study)], study)
    names, _ = execute("compare", monkeypatch, first="one", second="two")
    moved = names["moved"].set_index("epochs")
    assert moved["B − A"].to_dict() == pytest.approx({10: 0.05, 5: 0.0})
    assert moved.verdict.to_dict() == {10: "better", 5: "not significant"}


def test_show__frames_and_overlays():
    pictures = [Image.new("RGB", size, "red") for size in ((20, 10), (10, 20))]
    made = show.images(pictures, ["<one>", "two"], [False, True], "nearest").data
    assert "&lt;one&gt;" in made and made.count("outline:4px") == 1 and "two, the right one" in made
    for heat in ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3]):  # on the teacher's grid, or on a square one of the student's own
        seen = [show.overlay(pictures[0], heat, (2, 3), centre_crop=cropped) for cropped in (False, True)]
        assert [one.size for one in seen] == [(20, 10), (10, 10)]
    assert kdlib.show.look(8) == show.look(1)


def test_report__a_teacher_is_shown_beside_public_measurements_of_its_checkpoint():
    (cell,) = [one for one in nbformat.read(NOTEBOOKS / "report.ipynb", 4).cells if one.id == "public"]
    run = {"path": "a", "checkpoint": PUBLISHED["clip"], "test_images": 5000, "score_on": "test"}
    values = {"t2i_r@1": 0.3134, "t2i_r@5": 0.5477, "t2i_r@10": 0.6300, "i2t_r@1": 0.492, "cka": 1.0}
    scores = pd.DataFrame([{"path": "a", "encoder": "teacher", "metric": one, "value": values[one]} for one in values])
    for changed, met in (({}, [True, True, False, True]), ({"test_images": 159}, None), ({"score_on": "dev"}, None)):
        names = {"pd": pd, "done": pd.DataFrame([run | changed]), "scores": scores, "display": lambda *_: None}
        exec(cell.source, names)
        assert (not met and names["beside"].empty) or names["beside"]["met within a point"].tolist() == met
