"""One line of progress: live in JupyterLab, plain text afterwards in the saved notebook and its HTML.

A single display that is updated in place leaves exactly one output, without a script and without a widget
that later readers cannot draw. On a terminal the same line is rewritten; in a log it appears once in a while.
"""

import html
import sys
import time
from collections.abc import Callable

LOG_SECONDS = 30.0  # between two lines in a log
WIDTH = 160  # characters of a line on a terminal


class Progress:
    """``with Progress('training', total) as bar: bar.update(done, 'loss 1.23')``."""

    def __init__(self, title: str, total: int, every_seconds: float = 0.5):
        self.title, self.total, self.every = title, total, every_seconds
        self.started = self.shown = self.logged = time.perf_counter()
        self.first = 0
        self.display = _notebook_display()
        self.line = ""

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.line:
            self._show(self.line if kind is None else f"{self.line} - stopped", last=True)

    def start_at(self, done: int) -> None:
        """``done`` steps were done before; the estimate of the time left counts only the steps after them."""
        self.first = done
        if done:
            self.line = f"{self.title}: {done}/{self.total} done before"

    @property
    def due(self) -> bool:
        """Whether an update would be shown."""
        return time.perf_counter() - self.shown >= self.every

    def update(self, done: int, note: str = "") -> None:
        """Show ``done`` of ``total``, the text ``note``, rate and time left, at most every ``every_seconds``."""
        passed = time.perf_counter() - self.started
        fresh = done - self.first
        rest = passed / fresh * (self.total - done) if fresh > 0 else float("nan")
        left = "done" if done >= self.total else f"{clock(rest)} left"
        rate = f"{fresh / passed:.3g}/s" if fresh > 0 and passed > 0 and "/s" not in note else ""
        parts = [f"{self.title}: {done}/{self.total}", note, rate, f"{clock(passed)} elapsed", left]
        self.line = " - ".join(part for part in parts if part)
        if self.due:
            self._show(self.line)

    def _show(self, line: str, last: bool = False) -> None:
        self.shown = time.perf_counter()
        if self.display:
            text = {"text/plain": line, "text/html": f"<p>{html.escape(line)}</p>"}
            self.display.update(text, raw=True)
        elif sys.stderr.isatty():
            print(f"\r\x1b[K{line}", end="\n" if last else "", file=sys.stderr, flush=True)
        elif last or self.shown - self.logged >= LOG_SECONDS:
            self.logged = self.shown
            print(line, file=sys.stderr, flush=True)


class Ticker:
    """A line that says what runs now: rewritten in place on a terminal, printed every LOG_SECONDS in a log."""

    def __init__(self):
        self.shown = time.perf_counter()

    def show(self, line: Callable[[], str]) -> None:
        """Show ``line()`` when it is time; nothing where it is ''."""
        live = sys.stderr.isatty()
        if time.perf_counter() - self.shown < (0.5 if live else LOG_SECONDS) or not (text := line()):
            return
        self.shown = time.perf_counter()
        if live:
            print(f"\r\x1b[K{text[:WIDTH]}", end="", file=sys.stderr, flush=True)
        else:
            say(f"running: {text}")


def say(line: str) -> None:
    """A line for the person at the terminal, on stderr, over a line of progress that stands there."""
    start = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(f"{start}{line}", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Minutes and seconds, as 3:07; '?' for NaN."""
    if seconds != seconds:
        return "?"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _notebook_display():
    try:
        from IPython import display, get_ipython
    except ImportError:
        return None
    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    return display.display({"text/plain": ""}, raw=True, display_id=True)
