"""The machine that numbers are made on: devices, clocks, memory, and the versions of what runs there."""

import contextlib
import ctypes
import os
import platform
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import torch

import kdlib
from kdlib.utils import project_root

WARM_UP_CALLS, WARM_UP_SECONDS = 30, 5.0  # whichever ends first
FEWEST_CALLS, CALL_SECONDS = 5, 60.0  # of BLIP on a CPU a call with 32 images takes half a minute


def choose(name: str) -> torch.device:
    """The device called ``name``; 'auto' is the accelerator that is there, as CUDA or Apple's MPS, else the CPU."""
    auto = torch.accelerator.current_accelerator(check_available=True) if name == "auto" else None
    return auto or torch.device("cpu" if name == "auto" else name)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Matrix products and convolutions in bfloat16 for 'bfloat16', nothing for 'float32'."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def to_device(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """The tensors of a batch on ``device``; to a GPU from pinned memory, so that the copy overlaps with its work."""
    if device.type == "cuda":
        batch = {name: value if value.is_cuda else value.pin_memory() for name, value in batch.items()}
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def now(device: torch.device) -> float:
    """Seconds on a monotonic clock, after all work queued on ``device`` is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def keep_memory() -> bool:
    """Let glibc keep freed blocks for the next step, instead of giving them back and clearing them anew.

    Blocks above 256 MB are given back (a step of 64 images of 224 pixels has 205 MB), and what an earlier stage left.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.malloc_trim(0)
        return bool(libc.mallopt(-3, 2**28) and libc.mallopt(-1, 2**31 - 1))  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
    return False


def call_times(call: Callable, device: torch.device, calls: int) -> list[float]:
    """Milliseconds of each of ``calls`` calls, after 30 that warm up; slow ones are timed for a minute, at least 5."""

    def timed(most: int, least: int, seconds: float) -> list[float]:
        times = [now(device)]
        while len(times) <= most and (len(times) <= least or times[-1] - times[0] < seconds):
            call()
            times.append(now(device))
        return (np.diff(times) * 1000).round(5).tolist()

    timed(min(WARM_UP_CALLS, calls), 1, WARM_UP_SECONDS)
    return timed(calls, FEWEST_CALLS, CALL_SECONDS)


def latency(*parts: list[float]) -> dict[str, float]:
    """Percentiles of the time, in ms, of parts that run one after the other, over all combinations of their calls."""
    p10, p50, p90 = np.percentile(sum(np.meshgrid(*parts)), [10, 50, 90])
    return {"p10_ms": float(p10), "p50_ms": float(p50), "p90_ms": float(p90), "calls": min(map(len, parts))}


def multiply_accumulates(call: Callable) -> int:
    """Those of one call: of matrix products, convolutions and attention."""
    from torch.utils.flop_counter import FlopCounterMode

    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not know the fused kernel
    with FlopCounterMode(display=False) as counter:
        call()
    torch.backends.mha.set_fastpath_enabled(True)
    return counter.get_total_flops() // 2


def _text(path: str | Path) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text(encoding="utf-8", errors="replace")
    return ""


def _limits(name: str) -> list[list[str]]:
    """The words of a file of this process's control groups and of those above them, of version 1 or 2."""
    lines = [line.split(":", 2) for line in _text("/proc/self/cgroup").splitlines()]
    inner = [Path("/sys/fs/cgroup", controllers, group.strip("/"), name) for _, controllers, group in lines]
    files = [Path(up, name) for file in inner for up in file.parents]
    return [words for file in files if (words := _text(file).split())]


def memory_bytes() -> int:
    """The memory of the allocation: that of the machine, or less by a control group."""
    limits = [int(words[0]) for words in _limits("memory.max") + _limits("memory.limit_in_bytes") if words != ["max"]]
    return min([psutil.virtual_memory().total, *limits])


def cores() -> int:
    """The cores of the allocation: those that the process may use, or fewer by a control group."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    first = zip(_limits("cpu.cfs_quota_us"), _limits("cpu.cfs_period_us"), strict=False)
    shares = _limits("cpu.max") + [quota + period for quota, period in first]
    return max(1, min([allowed, *(int(quota) // int(per) for quota, per in shares if quota not in ("max", "-1"))]))


def hardware(device: torch.device) -> dict:
    """What a measured time depends on: the device's name, the allocation, and whether the CPU multiplies int8 fast."""
    flags = _text("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in flags.splitlines() if line.startswith("model name")]
    cpu = models[0] if models else platform.processor() or platform.machine()
    return {
        "device": str(device), "name": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu, "cpu": cpu,
        "vnni": "vnni" in flags, "cores": cores(), "memory_gb": round(memory_bytes() / 2**30, 1),
        "threads": torch.get_num_threads(), "system": f"{platform.system()} {platform.machine()}",
    }  # fmt: skip


def gpus() -> list[str]:
    """The CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them; none without a GPU."""
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def versions() -> dict[str, str]:
    """Version of kdlib, its git commit (marked where files differ from it), and those of the libraries that compute."""
    names, commit = ("torch", "torchvision", "transformers", "numpy", "scikit-learn", "safetensors"), ""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    with contextlib.suppress(OSError):
        commit = subprocess.run(command, cwd=project_root(), capture_output=True, text=True).stdout.strip()
    return {"kdlib": kdlib.__version__, "commit": commit, **{name: version(name) for name in names}}
