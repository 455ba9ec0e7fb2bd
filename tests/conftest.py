import pytest


@pytest.fixture(autouse=True)
def own_runs_and_reports(tmp_path, monkeypatch):
    """No test reads or writes the runs and reports of the checkout."""
    monkeypatch.setenv("KDLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("KDLIB_REPORTS", str(tmp_path / "reports"))
