"""Devices, the allocation, the allocator, times and locks."""

import errno
import os
import subprocess
import sys
from unittest.mock import Mock

import psutil
import pytest
import torch
from filelock import FileLock, Timeout

from kdlib import machine, utils

CPU = torch.device("cpu")
FIRST = {"4:memory:/j": "", "memory/j/memory.limit_in_bytes": "1073741824", "1:cpu:/": "", "cpu/cpu.cfs_quota_us": "-1"}
SHARED = {"2:cpu,acct:/a": "", "cpu,acct/a/cpu.cfs_quota_us": "300000", "cpu,acct/a/cpu.cfs_period_us": "100000"}
SECOND = {"0::/j/step": "", "j/memory.max": "2147483648", "j/step/memory.max": "max", "j/cpu.max": "150000 100000"}


@pytest.mark.parametrize(
    ("files", "cores", "memory"), [(FIRST, 8, 2**30), (SHARED, 3, 0), (SECOND, 1, 2**31), ({}, 8, 0)]
)
def test_allocation__is_read_from_control_groups_of_both_versions(files, cores, memory, monkeypatch):
    content = {f"/sys/fs/cgroup/{name}": text for name, text in files.items()}
    content["/proc/self/cgroup"] = "\n".join(name for name in files if ":" in name)
    monkeypatch.setattr(machine, "_text", lambda path: content.get(str(path), ""))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert machine.cores() == cores and machine.memory_bytes() == (memory or psutil.virtual_memory().total)


def test_hardware_and_versions__say_what_a_time_depends_on():
    found = machine.hardware(CPU)
    assert found["name"] and found["cores"] >= 1 and found["memory_gb"] > 0 and isinstance(found["vnni"], bool)
    assert {"kdlib", "commit", "torch", "transformers"} <= set(machine.versions())
    assert machine.choose("cpu") == CPU and machine.choose("auto").type in ("cpu", "cuda", "mps")


def test_latency__is_over_all_combinations_of_the_parts_calls():
    found = machine.latency([1.0, 2.0], [10.0, 20.0, 30.0])
    assert found == {"p10_ms": pytest.approx(11.5), "p50_ms": 21.5, "p90_ms": pytest.approx(31.5), "calls": 2}


def test_call_times__are_as_many_as_asked_for_after_a_warm_up():
    called = []
    assert len(machine.call_times(lambda: called.append(1), CPU, 7)) == 7 and len(called) == 14


def test_multiply_accumulates__of_a_matrix_product_by_hand():
    assert machine.multiply_accumulates(lambda: torch.rand(3, 4) @ torch.rand(4, 5)) == 3 * 4 * 5


@pytest.mark.skipif(sys.platform != "linux" or not machine.keep_memory(), reason="only glibc keeps memory")
def test_keep_memory__the_later_steps_fault_no_page():
    """In a process of its own, whose heap no other test has used; above the 32 MB that glibc keeps by itself."""
    code = """import resource, torch
from kdlib import machine
machine.keep_memory()
faults = []
for _ in range(50):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10_000_000)  # 40 MB, 9,765 pages
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults[-10:]))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000


@pytest.mark.parametrize("load", [Mock(side_effect=OSError), Mock(return_value=object())])  # macOS, musl
def test_keep_memory__without_glibc_nothing_happens(load, monkeypatch):
    monkeypatch.setattr(machine.ctypes, "CDLL", load)
    assert not machine.keep_memory()


def test_locked__a_second_one_waits_no_longer_than_asked_and_without_locks_there_is_a_warning(tmp_path, monkeypatch):
    with utils.locked(tmp_path / "lock"), pytest.raises(Timeout), utils.locked(tmp_path / "lock", timeout=0):
        pass

    monkeypatch.setattr(FileLock, "acquire", Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
    with pytest.warns(UserWarning, match="a file system without locks"), utils.locked(tmp_path / "lock"):
        pass
