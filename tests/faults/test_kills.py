"""A few of the kills of ``make faults``, on one machine: nothing is lost, nothing comes out otherwise."""

import sys

import kills
import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="finds jobs and kernels below Linux's fork server")
def test_kills__of_jobs_and_kernels_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "ONE_MACHINE", {"job": 1, "kernel": 1})
    rows = kills.survive(tmp_path / "machine", 3, cluster=False)
    total = rows[-1]
    assert total["tries"] == 3 and total["lost"] == total["wrong"] == 0, rows
