"""A browser for the tests of pages: the chromium of this machine, driven by playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """The browser's path, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def requirement() -> str:
    """Why no browser can be driven here; '' where one can."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "needs playwright (pip install playwright; its own browsers are not used)"
    return "" if chromium() else f"needs a browser: none of {', '.join(NAMES)} is on the PATH"


@contextmanager
def page(width: int = 1200, height: int = 900, **options) -> Iterator:
    """A page in a fresh browser; the test is skipped where there is none. ``options``: of playwright's new_page."""
    if reason := requirement():
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            yield browser.new_page(viewport={"width": width, "height": height}, **options)
        finally:
            browser.close()
