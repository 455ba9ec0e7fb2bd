"""Devices and clocks: choosing one, and waiting for it before a time is taken."""

import os
import platform
import time
from collections.abc import Callable

import numpy as np
import torch

CALLS, SECONDS = 100, 1.0  # of a latency: so many calls, so long at most


def choose(name: str) -> torch.device:
    """'auto' takes CUDA, then Apple's MPS, then the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def now(device: torch.device) -> float:
    """Seconds on a monotonic clock, after all work queued on ``device`` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def latency(call: Callable, device: torch.device, calls: int = CALLS, seconds: float = SECONDS) -> dict[str, float]:
    """Milliseconds a call: median, 10th and 90th percentile.

    A tenth as many warm-up calls, then ``calls`` timed ones, or fewer (at least 5) where they would take
    longer than ``seconds``; how many is in the record.
    """
    started = now(device)
    call()
    first = now(device) - started
    calls = int(min(calls, max(5, seconds / first)))
    for _ in range(max(1, calls // 10)):
        call()
    times = []
    for _ in range(calls):
        started = now(device)
        call()
        times.append(now(device) - started)
    p10, p50, p90 = np.percentile(np.array(times) * 1000, [10, 50, 90])
    return {"p10_ms": float(p10), "p50_ms": float(p50), "p90_ms": float(p90), "calls": calls}


def hardware(device: torch.device) -> dict:
    """What a time depends on, for the record."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "device": str(device),
        "name": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
