"""The kernel that runs a notebook: this very interpreter, talking over sockets in the file system."""

import os
import sys

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager


class LocalKernelManager(AsyncKernelManager):
    """Starts ipykernel under ``sys.executable``, whatever kernels the user has registered under 'python3'.

    On POSIX it uses IPC sockets: kernels that start together cannot fight over TCP ports.
    """

    def __init__(self, **options):
        if os.name == "posix":
            options["transport"] = "ipc"
        super().__init__(**options)

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
        )
