"""What a dask worker is asked before its first job, and what is said when there is no scheduler."""

import pytest

from kdlib.study import cluster, engine


def test_difference__a_worker_that_sees_the_same_files_and_code_may_work(tmp_path):
    assert cluster.difference(cluster.mark("s")) == ""


@pytest.mark.parametrize("name", ["KDLIB_RUNS", "KDLIB_REPORTS"])
def test_difference__another_folder_is_named_with_its_variable(tmp_path, monkeypatch, name):
    asked = cluster.mark("s")
    monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    assert f"elsewhere is not the one that 'kdlib run' uses. Set {name}" in cluster.difference(asked)


def test_difference__other_code_and_versions_are_named(tmp_path):
    asked = cluster.mark("s")
    asked["made_with"] = asked["made_with"] | {"torch": "1.0", "kdlib's code": "0" * 12}
    said = cluster.difference(asked)
    assert "torch" in said and "1.0 here" in said and "kdlib's code" in said and "same environment" in said


def test_difference__a_marker_of_an_earlier_run_does_not_count(tmp_path):
    asked = cluster.mark("s")
    cluster.mark("s")
    assert cluster.difference(asked)


def test_cluster__no_scheduler_is_a_sentence_with_the_way_on(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "CONNECT_SECONDS", 1)
    with pytest.raises(RuntimeError, match=r"No dask scheduler answers at tcp://127\.0\.0\.1:9 .*Start it"):
        engine.Cluster("tcp://127.0.0.1:9", None, cluster.mark("s"))
