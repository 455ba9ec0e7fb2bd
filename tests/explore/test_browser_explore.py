"""The explorer as a page: voila serves the notebook, a browser chooses, types and uploads."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import browser
import pytest

from kdlib.study.file import notebooks_folder

# Sends something to another host: the address, once the page's own policy has refused it.
SEND = """new Promise((tell, fail) => {
  document.addEventListener("securitypolicyviolation", event => tell(event.blockedURI));
  fetch("https://example.org/").finally(() => setTimeout(() => fail("it was tried"), 1000));
})"""
SLOW = 90_000  # ms: a kernel starts and imports torch meanwhile


@pytest.fixture
def address(finished_study, tmp_path):
    """The page's address, served as 'make explore' does."""
    voila = Path(sys.executable).with_name("voila")
    if not voila.exists() and not shutil.which("voila"):
        pytest.skip("needs voila (pip install voila)")
    if reason := browser.requirement():
        pytest.skip(reason)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "voila",
        str(notebooks_folder() / "explore.ipynb"),
        f"--Voila.config_file_paths={notebooks_folder()}",
        "--no-browser",
        f"--port={port}",
    ]
    with open(tmp_path / "voila.log", "w") as log:
        own = os.environ | {"JUPYTER_PATH": str(notebooks_folder() / "jupyter")}
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=own)
    try:
        for _ in range(300):
            if server.poll() is not None:
                pytest.fail((tmp_path / "voila.log").read_text()[-2000:])
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(30)


def upload(page, path: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose an image file").click()
    chooser.value.set_files(path)


def test_page__answers_a_choice_a_caption_and_an_upload(address, finished_study, small_shapes, tmp_path):
    with browser.page() as page:
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address, timeout=SLOW)
        teacher, student = (page.get_by_label(name, exact=True) for name in ("Teacher", "Student"))
        teacher.wait_for(timeout=SLOW)
        teacher.select_option("clip on coco")
        student.select_option("projection")
        page.get_by_text("The student projection has no attention map").first.wait_for()
        student.select_option("attention")
        page.get_by_text("where the student looks").first.wait_for()

        page.get_by_label("Caption").fill("a large white star")
        page.keyboard.press("Enter")
        answer = page.get_by_role("heading", name="The student finds nearest to 'a large white star'")
        answer.wait_for(timeout=SLOW)

        picture = next((small_shapes / "coco/val2017").glob("*.jpg"))
        upload(page, picture)
        page.get_by_role("heading", name="The student finds nearest to it").wait_for(timeout=SLOW)
        assert page.get_by_alt_text("The uploaded image").is_visible()
        (tmp_path / "words.png").write_text("no image")
        upload(page, tmp_path / "words.png")
        page.get_by_text("words.png is not an image that can be read").wait_for()

        teacher.select_option("dino on tinyimagenet")
        page.get_by_text("it is a vision-only teacher").wait_for()
        assert not page.get_by_label("Caption").is_visible()
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate(SEND).startswith("https://example.org")  # refused by the browser, network or not
    assert {url for url in asked if not url.startswith((address, "data:", "blob:"))} == set()


def test_page__is_walked_through_by_the_keyboard_in_its_order(address):
    with browser.page() as page:
        page.goto(address, timeout=SLOW)
        page.get_by_label("Study", exact=True).wait_for(timeout=SLOW)
        page.get_by_label("Teacher", exact=True).select_option("clip on coco")
        page.get_by_label("Caption").wait_for()
        page.get_by_label("Study", exact=True).focus()
        walked = []
        for _ in range(12):
            walked.append(
                page.evaluate("(e => (e.labels && e.labels[0] || e).innerText)(document.activeElement)").strip()
            )
            page.keyboard.press("Tab")
    assert [text.split(" (")[0] for text in walked] == [
        "Study", "Teacher", "Student", "Epochs", "Seed", "Image number", "Previous image", "Next image", "Caption",
        "Find images", "Choose an image file", "Forget the image",
    ]  # fmt: skip
