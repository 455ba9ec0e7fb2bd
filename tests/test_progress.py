"""One line of progress, wherever it is shown."""

import pytest

from kdlib import progress
from kdlib.progress import Progress, clock


class Display:
    """Stands in for IPython's display handle: keeps what a reader would have seen, one after the other."""

    def __init__(self):
        self.seen = []

    def update(self, data, raw):
        assert raw
        self.seen.append(data)

    @property
    def lines(self):
        return [data["text/plain"] for data in self.seen]


@pytest.fixture
def display(monkeypatch):
    shown = Display()
    monkeypatch.setattr(progress, "_notebook_display", lambda: shown)
    return shown


def test_progress__in_a_notebook_is_live_and_ends_with_the_last_line(display):
    with Progress("training", 3, every_seconds=0) as bar:
        for done in (1, 2, 3):
            bar.update(done, f"loss {4 - done}")
    assert [line.split(" - ")[:2] for line in display.lines[:3]] == [
        [f"training: {done}/3", f"loss {4 - done}"] for done in (1, 2, 3)
    ]
    assert display.lines[0].endswith("left") and display.lines[-1].endswith("done")


def test_progress__does_not_flood_the_page(display):
    with Progress("training", 1000, every_seconds=60) as bar:
        for done in range(1, 1001):
            bar.update(done)
    assert display.lines == [bar.line]


def test_progress__an_interruption_is_said(display):
    with pytest.raises(KeyboardInterrupt), Progress("training", 10, every_seconds=0) as bar:
        bar.update(4)
        raise KeyboardInterrupt
    assert display.lines[-1].startswith("training: 4/10") and display.lines[-1].endswith("stopped")


def test_progress__estimates_the_rest_from_what_was_done_now(display, monkeypatch):
    now = iter([0.0, 60.0, 60.0, 60.0, 60.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(now))
    bar = Progress("training", 100)
    bar.start_at(90)  # nine tenths are from an earlier run
    bar.update(95)  # five in a minute, five to go
    assert bar.line == "training: 95/100 - 0.0833/s - 1:00 elapsed - 1:00 left"


def test_progress__all_done_before_is_said(display):
    with Progress("training", 10) as bar:
        bar.start_at(10)
    assert display.lines == ["training: 10/10 done before"]


def test_progress__in_html_is_text_and_nothing_that_runs(display):
    with Progress("<b>training</b>", 1, every_seconds=0) as bar:
        bar.update(1)
    assert display.seen[-1]["text/html"].startswith("<p>&lt;b&gt;training")
    assert set(display.seen[-1]) == {"text/plain", "text/html"}


def test_progress__in_a_log_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_notebook_display", lambda: None)
    with Progress("training", 2, every_seconds=0) as bar:
        bar.update(1)
        bar.update(2)
    assert capsys.readouterr().err == f"{bar.line}\n"


def test_progress__in_a_log_a_long_one_is_told_once_in_a_while(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_notebook_display", lambda: None)
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    with Progress("features", 100) as bar:
        for second in range(1, 101):
            now[0] = float(second)
            bar.update(second)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" - ")[0] for line in lines] == [f"features: {done}/100" for done in (30, 60, 90, 100)]


def test_ticker__in_a_log_says_what_runs_once_in_a_while(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    ticker = progress.Ticker()
    for second in range(100):
        now[0] = float(second)
        ticker.show(lambda second=second: f"features of clip, {second} s")
    assert capsys.readouterr().err.splitlines() == [f"running: features of clip, {s} s" for s in (30, 60, 90)]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (187.9, "3:07"), (6000, "100:00"), (float("nan"), "?")])
def test_clock__is_minutes_and_seconds(seconds, text):
    assert clock(seconds) == text
