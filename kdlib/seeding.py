"""Every draw is a function of (seed, what it is for, epoch): a resumed run needs no saved generator."""

import hashlib

import torch


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose; different purposes give independent streams."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose, as ``generator(seed, 'order', epoch)``."""
    return torch.Generator().manual_seed(derive(seed, *purpose))
