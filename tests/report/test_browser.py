"""Reports as a browser shows them: from disk, without a network, on a phone, in light and dark, to a screen reader."""

import re
from collections import Counter

import browser
import html5lib
import pytest
import yaml
from html5lib.constants import E as MESSAGES

LARGEST = 3 * 10**6  # bytes
PHONE = {"width": 390, "height": 844}
PAPER = {"width": 718, "height": 1047}  # A4 without 1 cm of margin, at 96 dots an inch


def html_problems(text: str) -> list[str]:
    """Parse errors by the HTML standard, and ids that are used twice."""
    parser = html5lib.HTMLParser()
    parser.parse(text)
    found = [f"HTML, line {place[0]}: {MESSAGES[code] % values}" for place, code, values in parser.errors]
    ids = Counter(re.findall(r'<[^<>]+ id="([^"]*)"', text))
    return found + [f"id {name!r} is used twice" for name, times in ids.items() if times > 1]


def check_page(chromium, path) -> list[str]:
    """What a reader would miss on a page that is opened from disk without a network; nothing, if all is well."""
    from axe_playwright_python.sync_playwright import Axe

    text = path.read_text()
    found = html_problems(text)
    if path.stat().st_size >= LARGEST:
        found.append(f"{path.stat().st_size / 1e6:.1f} MB")
    for scheme in ("light", "dark"):
        context = chromium.new_context(viewport=PHONE, color_scheme=scheme)
        context.set_offline(True)
        page = context.new_page()
        page.on("console", lambda message: message.type == "error" and found.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: found.append(f"error: {error}"))
        page.on(
            "request",
            lambda request: request.url.startswith(("file:", "data:")) or found.append(f"asks for {request.url}"),
        )
        page.goto(path.as_uri())
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > PHONE["width"]:
            found.append(f"{scheme}: scrolls sideways, {width} px on {PHONE['width']}")
        silent = page.evaluate("[...document.images].filter(image => !image.alt.trim() || !image.naturalWidth).length")
        if silent:
            found.append(f"{scheme}: {silent} images without a description, or broken")
        for violation in Axe().run(page).response["violations"]:
            if violation["impact"] in ("serious", "critical"):
                first = violation["nodes"][0]
                found.append(f"{scheme}: axe {violation['id']}, {len(violation['nodes'])} times: {first['html'][:150]}")
        context.close()
    page = chromium.new_page(viewport=PAPER)
    page.emulate_media(media="print")
    page.goto(path.as_uri())
    if (width := page.evaluate("document.documentElement.scrollWidth")) > PAPER["width"]:
        found.append(f"print: {width} px on a sheet of {PAPER['width']}")
    page.close()
    return found


@pytest.fixture(scope="module")
def chromium():
    if reason := browser.requirement():
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser.chromium(), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(chromium, small_shapes, tmp_path_factory):
    """The pages of a study of one small experiment, of its comparison with itself, and of a bench."""
    from kdlib import bench, study
    from kdlib.bench.measure import Row, Setting
    from kdlib.experiment import run_dir
    from kdlib.notebook.execute import execute
    from kdlib.report import build as report

    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("browser")
        patch.setenv("KDLIB_RUNS", str(folder / "runs"))
        patch.setenv("KDLIB_REPORTS", str(folder / "reports"))
        content = {
            "study": "small",
            "title": "A small study",
            "notebooks": {"dino_tinyimagenet": None},
            "methods": ["attention"],
            "epochs": [1],
            "seeds": [0],
            "parameters": {"batch_size": 16, "timed_calls": 5},
            "reports": ["summary", "claims", "ablations"],
        }
        (folder / "small.yaml").write_text(yaml.safe_dump(content))
        config = study.load(folder / "small.yaml", data_root=str(small_shapes))
        (spec,) = study.experiments(config)
        run = run_dir(spec.config)
        job = {
            "notebook": str(study.notebooks_folder() / f"{spec.notebook}.ipynb"),
            "parameters": spec.parameters,
            "output": str(run.notebook_path(1)),
            "failed_output": str(run.notebook_path(1, failed=True)),
        }
        assert execute(job) == {"outcome": "ok", "error": ""}
        index = report.build(config, [spec], run_dir)
        rows = [Row("one thing", "another", ratio, 1.5, ratio, 1.0, "s") for ratio in (2.0, 1.0)]
        patch.setitem(bench.BENCHES, "search", lambda setting: rows)
        list(bench.run(["search"], Setting()))
        return {
            "index": index,
            "experiment": spec.page,
            "claims": index.with_name("claims.html"),
            "ablations": index.with_name("ablations.html"),
            "comparison": report.build_comparison(index.parent, index.parent, "self"),
            "bench": report.build_bench(),
        }


@pytest.mark.parametrize("name", ["experiment", "index", "claims", "ablations", "comparison", "bench"])
def test_page__is_whole_offline_on_a_phone_and_accessible(pages, chromium, name):
    assert check_page(chromium, pages[name]) == []


def test_index__an_experiment_is_found_by_its_words_and_opened(pages, chromium):
    page = chromium.new_page()
    page.goto(pages["index"].as_uri())
    page.get_by_text("Where is each experiment?").click()
    header = page.locator("table.experiments th").first
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    page.get_by_label("Show experiments with all of these words").fill("dino attention")
    page.locator("table.experiments tbody tr:visible a").first.click()
    assert page.url == pages["experiment"].as_uri()
    assert page.get_by_role("heading", level=1).inner_text() == "DINO on Tiny ImageNet: attention, 1 epochs, seed 0"
    page.get_by_role("link", name="All of this study").click()
    assert page.url == pages["index"].as_uri() and page.title() == "Report: A small study"
    page.close()


@pytest.mark.parametrize("name", ["index", "claims", "ablations"])
def test_index__fits_on_few_screens_and_shows_the_last_column_of_every_table(pages, chromium, name):
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    page.goto(pages[name].as_uri())
    assert page.evaluate("document.documentElement.scrollHeight") <= 8 * 900
    page.evaluate("document.querySelectorAll('details:not(.code)').forEach(one => one.open = true)")
    cut = page.evaluate(
        "[...document.querySelectorAll('div.table')].filter(box => box.scrollWidth > box.clientWidth + 1)"
        ".map(box => box.getAttribute('aria-label'))"
    )
    assert cut == []
    page.close()


def test_index__findings_cautions_and_picture_are_seen_without_scrolling(pages, chromium):
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    page.goto(pages["index"].as_uri())
    for part in ("ul.findings", "details.cautions summary", "figure.drawn img"):
        box = page.locator(part).first.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 900, part
    page.close()


def test_index__on_a_phone_the_figure_is_the_one_drawn_for_it(pages, chromium):
    wide, narrow = (chromium.new_page(viewport={"width": width, "height": 844}) for width in (1400, 390))
    ratios = []
    for page in (wide, narrow):
        page.goto(pages["index"].as_uri())
        ratios.append(page.evaluate("(image => image.naturalWidth / image.naturalHeight)"
                                    "(document.querySelector('figure.drawn img'))"))  # fmt: skip
        page.close()
    assert ratios[0] > 1.5 > 1 > ratios[1]


BAD = {
    "asks for": '<p><img alt="a dot" src="https://example.org/dot.png"></p>',
    "print: ": '<div style="width: 800px">wide</div>',
    "scrolls sideways": '<div style="width: 500px">wide</div>',
    "without a description": '<p><img src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="></p>',
    "console": "<script>console.error('oh')</script>",
    "error: ": "<script>nothing()</script>",
    "axe color-contrast": '<p style="color: #ccc; background: #fff">faint</p>',
    "HTML, line 1: Unexpected end tag (p)": "<div><b>bold</p></b></div>",
    "HTML, line 1: End tag (main) seen too early": "<div><p>open</p>",
    "HTML, line 1: Unexpected start tag": "<a href='#x'>one <a href='#y'>two</a></a>",
    "used twice": '<p id="a">one</p><p id="a">two</p>',
}


WHOLE = "<!DOCTYPE html><html lang='en'><head><title>A page</title></head><body><main>{}</main></body></html>"


@pytest.mark.parametrize("problem", BAD)
def test_check__finds_what_is_wrong(chromium, tmp_path, problem):
    (tmp_path / "bad.html").write_text(WHOLE.format(f"<h1>A page</h1>{BAD[problem]}"))
    assert any(problem in found for found in check_page(chromium, tmp_path / "bad.html"))


def test_check__passes_a_good_page(chromium, tmp_path):
    (tmp_path / "good.html").write_text(WHOLE.format("<h1>A page</h1><p>words<br></p>"))
    assert check_page(chromium, tmp_path / "good.html") == []
