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


class Pending:
    """A job that does not end."""

    status = "pending"

    def cancel(self):
        self.status = "cancelled"


class Scheduler:
    """In the place of dask's client: ``workers`` maps the address of each worker to what it answers."""

    def __init__(self, **workers: dict):
        self.workers, self.status, self.submitted = workers, "running", []

    def scheduler_info(self, n_workers):
        if self.status != "running":
            raise OSError("connection refused")
        return {"workers": dict(self.workers)}

    def run(self, function, marker, workers):
        return {address: self.workers[address] for address in workers}

    def submit(self, function, job, workers, **_):
        self.submitted.append((workers[0], job["memory_bytes"]))
        return Pending()

    def close(self):
        self.status = "closed"


def machine(host: str, gigabytes: int, problem: str = "") -> dict:
    return {"host": host, "memory": gigabytes * 2**30, "problem": problem}


@pytest.fixture
def joined(monkeypatch):
    """``joined(scheduler)``: an engine whose client is that scheduler."""

    def make(scheduler: Scheduler, memory_gb: float | None = None) -> engine.Cluster:
        monkeypatch.setattr("distributed.Client", lambda **_: scheduler)
        return engine.Cluster("tcp://there", memory_gb, {})

    return make


def test_cluster__an_experiment_gets_its_share_of_the_workers_machine_and_not_of_the_clients(joined):
    scheduler = Scheduler(a=machine("one", 100), b=machine("one", 100), c=machine("two", 10))
    made = joined(scheduler)
    for name in "xyz":
        made.submit({"name": name})
    shares = {"a": 45, "b": 45, "c": 9}
    assert {who: round(memory / 2**30) for who, memory in scheduler.submitted} == shares
    assert made.room["memory"] == 45 * 2**30
    made.close()
    limited = Scheduler(a=machine("one", 100))
    joined(limited, 2.0).submit({"name": "x"})
    assert limited.submitted == [("a", 2 * 2**30)]


def test_cluster__a_worker_that_joins_late_gets_the_next_job(joined, capfd):
    scheduler = Scheduler()
    made = joined(scheduler)
    assert made.free == 0 and "No worker of tcp://there can take a job yet" in capfd.readouterr().err
    scheduler.workers["a"] = machine("one", 1)
    assert made.free == 1
    made.submit({"name": "x"})
    scheduler.workers["b"] = machine("two", 1)
    assert (made.free, made.slots) == (1, 2)  # while the first one works


def test_cluster__a_worker_that_cannot_work_gets_no_job_and_its_reason_is_said_once(joined, capfd):
    made = joined(Scheduler(a=machine("one", 1, "its folder /x is not the one. Set KDLIB_RUNS")))
    assert made.free == made.free == 0
    assert capfd.readouterr().err.count("The worker a gets no jobs: its folder /x is not the one. Set KDLIB_RUNS") == 1


def test_cluster__the_job_of_a_worker_that_went_away_is_given_back(joined):
    scheduler = Scheduler(a=machine("one", 1), b=machine("two", 1))
    made = joined(scheduler)
    made.submit({"name": "x"})
    made.submit({"name": "y"})
    del scheduler.workers["a"]
    ((job, report),) = made.ended(0)
    assert (job["name"], report["outcome"]) == ("x", "abandoned") and "worker a is gone" in report["error"]
    assert [job["name"] for job in made.running] == ["y"]


def test_cluster__a_scheduler_that_went_away_is_a_sentence_with_the_way_on(joined):
    scheduler = Scheduler(a=machine("one", 1))
    made = joined(scheduler)
    made.submit({"name": "x"})
    scheduler.status = "closed"
    for question in (lambda: made.free, lambda: made.ended(0)):
        with pytest.raises(
            RuntimeError, match=r"scheduler tcp://there is gone\. What is done is kept\. .*goes on from"
        ):
            question()
