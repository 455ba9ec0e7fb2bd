"""Pages: which are made again, what is put into those of a study, and the table that sorts."""

import html
import os
import re
import shutil
from types import SimpleNamespace

import nbformat
import pytest
from typer.testing import CliRunner

from kdlib import cli
from kdlib.experiment import run_dir
from kdlib.notebook.page import TEMPLATE, export_page
from kdlib.report import build as report
from kdlib.study.file import StudyConfig, StudyError, experiments


@pytest.fixture
def spec():
    content = {"study": "s", "title": "t", "notebooks": {"clip_coco": {}}, "seeds": [0]}
    return experiments(StudyConfig(**content, methods=["projection"], epochs=[5]))[0]


def notebook(path, *sources: str):
    path.parent.mkdir(parents=True, exist_ok=True)
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(source) for source in sources])
    nbformat.write(book, path)
    return path


def test_export_experiment__a_experiments_page_has_no_script(tmp_path):
    export_page(notebook(tmp_path / "a.ipynb", "# A cell"), tmp_path / "a.html")
    assert "<script" not in (tmp_path / "a.html").read_text()


def test_export_experiment__style_and_script_of_a_study_are_within_the_page(tmp_path):
    source = notebook(tmp_path / "a.ipynb", "# A study", "It says `</body>` here.")
    export_page(source, tmp_path / "a.html", "Title", ".own { color: red; }", "let own = '\\\\1';")
    text = (tmp_path / "a.html").read_text()
    assert ".own { color: red; }" in text and text.count("<script>") == 1 and "let own = '\\\\1';" in text
    body = text.split("<!-- made")[0].rstrip()
    assert body.index("<script>") > body.index("A study") and body.endswith("</body>\n</html>")


def test_missing_pages__a_failed_attempt_has_a_page_too(spec):
    failed = notebook(run_dir(spec.config).notebook_path(5, failed=True), "# It failed")
    assert report.missing_pages([spec], run_dir) == [(failed, spec.failed_page)]
    export_page(*report.missing_pages([spec], run_dir)[0])
    assert report.missing_pages([spec], run_dir) == [] and spec.failed_page.name.endswith(".failed.html")


def test_missing_pages__a_newer_notebook_is_rendered_again(spec):
    done = notebook(run_dir(spec.config).notebook_path(5), "# Done")
    export_page(done, spec.page)
    assert report.missing_pages([spec], run_dir) == []
    later = spec.page.stat().st_mtime + 10
    os.utime(done, (later, later))
    assert report.missing_pages([spec], run_dir) == [(done, spec.page)]


def test_report__of_two_is_a_comparison(tmp_path, monkeypatch):
    """The folder of a report stands in the place of a study file."""
    made = []
    monkeypatch.setattr(report, "build_comparison", lambda *given: made.append(given) or tmp_path / "index.html")
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    done = CliRunner().invoke(cli.app, ["report", *map(str, folders), "--out", "both"])
    assert done.exit_code == 0 and made == [(*folders, "both")]
    again = CliRunner().invoke(cli.app, ["report", str(folders[0]), str(folders[0])])
    assert again.exit_code == 0 and made[1] == (folders[0], folders[0], "")


@pytest.mark.parametrize(("given", "words"), [
    (["a", "b", "c"], "two are compared"), (["a"], "nothing to compare"), (["a", "./b/../a"], "one report")
])  # fmt: skip
def test_report__what_cannot_be_compared_is_said(tmp_path, given, words):
    for name in "abc":
        (tmp_path / name).mkdir()
    done = CliRunner().invoke(cli.app, ["report", *(str(tmp_path / name) for name in given)])
    assert isinstance(done.exception, StudyError) and words in str(done.exception)


def test_comparison__does_not_overwrite_a_report(made_study):
    folder = report.reports_root() / made_study({}).study.iloc[0]
    with pytest.raises(ValueError, match="--out"):
        report.build_comparison(folder, folder, folder.name)


def test_comparison__writes_compare_csv_and_renders_its_notebook(made_study, monkeypatch):
    folder, rendered = report.reports_root() / made_study({}).study.iloc[0], []
    monkeypatch.setattr(report, "_render", lambda *given: rendered.append(SimpleNamespace(page=given[3])))
    index = report.build_comparison(folder, folder, "self")
    assert index == rendered[0].page == report.reports_root() / "self" / "index.html"
    assert (index.parent / "compare.csv").read_text().startswith("teacher,dataset,method,variant,epochs,a,")


# ---------------------------------------------------------------- in a browser

TABLE = """<table class="experiments"><thead><tr><th>method</th><th>score</th></tr></thead><tbody>
<tr><td>cbam</td><td>0.9</td></tr><tr><td>resnet</td><td>0.10</td></tr><tr><td>cbam</td><td></td></tr>
<tr><td>attention</td><td>0.25</td></tr></tbody></table>"""


@pytest.fixture
def page(tmp_path):
    """The table with its script in a browser, where one is installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("needs Chromium")
    script = (TEMPLATE / "sort.js").read_text()
    path = tmp_path / "page.html"
    path.write_text(f"<!DOCTYPE html><html><body>{TABLE}<script>{script}</script></body></html>")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page()
        opened.set_default_timeout(5000)
        opened.goto(path.as_uri())
        yield opened


def column(page, place: int) -> list[str]:
    return page.locator(f"tbody tr:visible td:nth-child({place})").all_inner_texts()


def test_sort__numbers_by_value_empty_ones_last_and_the_header_says_so(page):
    page.get_by_role("button", name="score").click()
    assert column(page, 2) == ["0.10", "0.25", "0.9", ""]
    assert page.locator("th").nth(1).get_attribute("aria-sort") == "ascending"
    page.get_by_role("button", name="score").press("Enter")
    assert column(page, 2) == ["0.9", "0.25", "0.10", ""]
    page.get_by_role("button", name="method").click()
    assert column(page, 1) == ["attention", "cbam", "cbam", "resnet"]
    assert page.locator("th").nth(1).get_attribute("aria-sort") == "none"


def test_filter__shows_rows_with_all_words_and_counts_them(page):
    box, count = page.get_by_label("Show experiments with all of these words"), page.get_by_role("status")
    assert count.inner_text() == "4 of 4 experiments"
    box.fill("CBAM 0.9")
    assert column(page, 1) == ["cbam"] and count.inner_text() == "1 of 4 experiments"
    box.fill("")
    assert count.inner_text() == "4 of 4 experiments"


@pytest.mark.parametrize(
    "title", ["[x](javascript:alert(1))", "<img src=x onerror=alert(1)>", "javascript:alert(1) `a` $b$"]
)
def test_page__a_title_is_text_whatever_is_in_it(tmp_path, title):
    export_page(notebook(tmp_path / "a.ipynb", "# A cell"), tmp_path / "a.html", title)
    page = (tmp_path / "a.html").read_text()
    assert "<img src=x" not in page and 'href="javascript' not in page
    heading = re.sub("<[^>]*>", "", re.search("<h1.*?</h1>", page, re.S).group())
    assert title in html.unescape(heading)
