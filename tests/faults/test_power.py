"""A few of the power cuts of ``make faults``: after each, status works, and the next run ends with the same scores."""

import json
import subprocess
import sys
from pathlib import Path

import power
import pytest

CUTS = 3


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the recorder asks Linux which file is synced")
def test_power_cuts__cost_no_more_than_what_was_being_written(tmp_path, small_shapes, monkeypatch):
    command = [sys.executable, power.__file__, str(tmp_path), str(CUTS), str(small_shapes)]
    for _ in range(2):  # to count, then to cut
        subprocess.run(command, check=True)
    expected = json.loads((tmp_path / "scores.json").read_text())
    cuts = sorted((tmp_path / "record-cut" / "cuts").iterdir())
    assert len(cuts) == 2 * CUTS
    for cut in cuts:
        monkeypatch.setenv("KDLIB_RUNS", str(cut / "runs"))
        monkeypatch.setenv("KDLIB_REPORTS", str(cut / "reports"))
        before = power.state(str(small_shapes)).state
        assert before in ("absent", "resumable", "done"), cut
        assert power.run(str(small_shapes)) == expected, cut
        assert power.state(str(small_shapes)).state == "done", cut
