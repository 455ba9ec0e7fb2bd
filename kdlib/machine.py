"""The machine that numbers are made on: its devices and clocks, and the versions of what runs there."""

import os
import platform
import subprocess
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import version

import numpy as np
import torch

import kdlib
from kdlib.files import project_root

WARM_UP_CALLS, WARM_UP_SECONDS = 30, 5.0
FEWEST_CALLS, CALL_SECONDS = 5, 60.0  # of BLIP on a CPU a call with 32 images takes half a minute


def choose(name: str) -> torch.device:
    """The device called ``name``; 'auto' is CUDA where there is one, else Apple's MPS, else the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Matrix products and convolutions in bfloat16 for 'bfloat16', nothing for 'float32'."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def to_device(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """The tensors of a batch on ``device``; to a GPU from pinned memory, so that the copy overlaps with its work.

    A tensor that is on the device already is not copied: kdlib.features.ahead copies training batches in advance.
    """
    if device.type == "cuda":
        batch = {name: value if value.is_cuda else value.pin_memory() for name, value in batch.items()}
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def now(device: torch.device) -> float:
    """Seconds on a monotonic clock, after all work queued on ``device`` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def call_times(call: Callable, device: torch.device, calls: int) -> list[float]:
    """Milliseconds of each of ``calls`` calls, after 30 that warm up (or as many as are timed, where fewer).

    Slow calls are timed less often: the warm-up ends after 5 s, the timing after a minute and at least 5 calls.
    """
    began = now(device)
    for _ in range(min(WARM_UP_CALLS, calls)):
        call()
        if now(device) - began > WARM_UP_SECONDS:
            break
    times, began = [], now(device)
    while len(times) < calls and (len(times) < FEWEST_CALLS or now(device) - began < CALL_SECONDS):
        started = now(device)
        call()
        times.append(round((now(device) - started) * 1000, 5))
    return times


def latency(*parts: list[float]) -> dict[str, float]:
    """Median, 10th and 90th percentile, in milliseconds, of the total time of parts that run one after the other.

    ``parts``: :func:`call_times` of each, measured apart. The percentiles are over all combinations of their calls.
    """
    total = np.zeros(1)
    for times in parts:
        total = np.add.outer(total, times).ravel()
    p10, p50, p90 = np.percentile(total, [10, 50, 90])
    return {"p10_ms": float(p10), "p50_ms": float(p50), "p90_ms": float(p90), "calls": min(map(len, parts))}


def multiply_accumulates(call: Callable) -> int:
    """Multiply-accumulates of one call, by torch's counter: half its floating point operations.

    Matrix products, convolutions and attention count; norms, activations and pooling do not.
    """
    from torch.utils.flop_counter import FlopCounterMode

    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not know the fused kernel
    try:
        with FlopCounterMode(display=False) as counter:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops() // 2


def hardware(device: torch.device) -> dict:
    """The device, its name, cores, threads and system: what a measured time depends on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "device": str(device),
        "name": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def gpus() -> list[str]:
    """The CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them; none without a GPU."""
    if not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]


@cache
def gpu_bytes() -> int:
    """The memory of the largest GPU, as its driver's tool states it; 0 without one. Starts nothing on the GPU."""
    try:
        command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return max(int(line) * 2**20 for line in out.split("\n") if line.strip())
    except (OSError, subprocess.CalledProcessError, ValueError):
        return 0


def gpu(device: torch.device) -> dict:
    """Which GPU made a result, and the most memory that tensors took there; {} on another device."""
    if device.type != "cuda":
        return {}
    return {
        "id": str(getattr(torch.cuda.get_device_properties(device), "uuid", "")),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        "peak_bytes": torch.cuda.max_memory_allocated(device),
    }


def processor() -> str:
    """The CPU's name as the system states it."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Version of kdlib, its git commit, and the versions of the libraries that compute."""
    names = ("torch", "torchvision", "transformers", "numpy", "safetensors")
    return {"kdlib": kdlib.__version__, "commit": commit(), **{name: version(name) for name in names}}


def commit() -> str:
    """The git commit of the checkout, marked where files differ from it; '' outside a checkout."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, cwd=project_root(), capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
