"""The kernel that runs a notebook: this very interpreter, talking over sockets in the file system."""

import atexit
import os
import shutil
import sys
import tempfile

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager


class LocalKernelManager(AsyncKernelManager):
    """Starts ipykernel under ``sys.executable``, whatever kernels the user has registered under 'python3'.

    On POSIX it uses IPC sockets in a folder of its own: kernels that start together can fight neither over TCP
    ports nor, as they would with the default name, over socket files in their common working directory.
    """

    def __init__(self, **options):
        if os.name == "posix":
            folder = tempfile.mkdtemp(prefix="kdlib-kernel-")
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            options |= {"transport": "ipc", "ip": os.path.join(folder, "socket")}
        super().__init__(**options)

    @property
    def kernel_spec(self) -> KernelSpec:
        """ipykernel under this interpreter."""
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
        )
