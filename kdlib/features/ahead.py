"""Prefetching: threads make the next batches during the training step, and copy them to a GPU while it computes."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import torch
from torch import Tensor

Batch = dict[str, Tensor]


def ahead(make: Callable[[int], Batch], steps: int, device: torch.device) -> Iterator[Batch]:
    """``make(0)`` to ``make(steps - 1)`` in this order, each made in a thread before it is asked for.

    ``make`` must depend on the step alone; then the number of threads, which is torch's, changes no batch. For a GPU
    the batch is pinned and copied on a stream of its own. The step's stream waits for the copy, the CPU does not.
    """
    threads = max(1, torch.get_num_threads())
    copying = torch.cuda.Stream(device) if device.type == "cuda" else None

    def made(step: int) -> tuple[Batch, torch.cuda.Event | None]:
        with torch.cuda.stream(copying) if copying else nullcontext():
            batch = {name: _copied(value, device) for name, value in make(step).items()}
            return batch, copying.record_event() if copying else None

    with ThreadPoolExecutor(threads) as pool:
        pending = deque(pool.submit(made, step) for step in range(min(threads + 1, steps)))
        try:
            for step in range(steps):
                batch, copied = pending.popleft().result()
                if step + threads + 1 < steps:
                    pending.append(pool.submit(made, step + threads + 1))
                if copied is not None:
                    current = torch.cuda.current_stream(device)
                    current.wait_event(copied)
                    for value in batch.values():
                        value.record_stream(current)  # its memory is not given away before the step has read it
                yield batch
        finally:
            for left in pending:
                left.cancel()


def _copied(value: Tensor, device: torch.device) -> Tensor:
    if device.type != "cuda" or value.device.type == "cuda":
        return value
    return value.pin_memory().to(device, non_blocking=True)
