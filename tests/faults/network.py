"""A network of machines on one: each worker in a network namespace of its own, behind a bridge."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """Where a process runs: the address that it listens on, and the words ``before`` its command."""

    address: str = "127.0.0.1"
    before: tuple[str, ...] = ()


@contextmanager
def machines(count: int) -> Iterator[list[Machine]]:
    """This machine and ``count`` others; all on loopback where namespaces cannot be had (they need root)."""
    name, net = f"kd{os.getpid()}", f"10.77.{os.getpid() % 250}"
    try:
        _make(name, net, count)
    except (OSError, subprocess.CalledProcessError):
        _remove(name, count)
        yield [Machine()] * (count + 1)
        return
    try:
        others = [Machine(f"{net}.{2 + one}", ("ip", "netns", "exec", f"{name}n{one}")) for one in range(count)]
        yield [Machine(f"{net}.1"), *others]
    finally:
        _remove(name, count)


def _make(name: str, net: str, count: int) -> None:
    _ip("link", "add", f"{name}b", "type", "bridge")
    _ip("addr", "add", f"{net}.1/24", "dev", f"{name}b")
    _ip("link", "set", f"{name}b", "up")
    for one in range(count):
        space, near, far = f"{name}n{one}", f"{name}v{one}", f"{name}w{one}"
        _ip("netns", "add", space)
        _ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", space)
        _ip("link", "set", near, "master", f"{name}b", "up")
        _ip("-n", space, "addr", "add", f"{net}.{2 + one}/24", "dev", far)
        for device in ("lo", far):
            _ip("-n", space, "link", "set", device, "up")


def _remove(name: str, count: int) -> None:
    for words in (*(("netns", "del", f"{name}n{one}") for one in range(count)), ("link", "del", f"{name}b")):
        try:
            _ip(*words)
        except (OSError, subprocess.CalledProcessError):
            continue  # it was not made


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
