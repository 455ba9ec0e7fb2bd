"""The kernel that runs a notebook: ipykernel under this interpreter, over sockets in the file system."""

import atexit
import multiprocessing
import os
import sys
import uuid

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from kdlib.notebook import lifeline, warm
from kdlib.notebook.scratch import Scratch

_waiting: list[tuple[warm.Forked, object]] = []  # kernels without a connection yet, and the pipe that tells them


def fork_ahead() -> None:
    """Fork a kernel that waits for its connection. Call it while this process has no threads."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    _waiting.append((warm.fork(_serve, os.getpid(), receiver, sender), sender))
    receiver.close()


def dismiss() -> None:
    """End kernels that were not used, as when only a page is made; this process would wait for them."""
    while _waiting:
        _waiting.pop()[1].close()


def _serve(parent: int, receiver, sender) -> None:
    """Wait for a connection file, then be a kernel until it is shut down or its parent ends."""
    lifeline.die_with_parent(parent)
    sender.close()  # else recv() would not notice the end of the parent
    os.setsid()
    try:
        connection, environment, folder = receiver.recv()
    except EOFError:
        return  # nobody needs this kernel
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    _launch(connection)


def _launch(connection: str) -> None:
    sys.argv = ["ipykernel_launcher", "-f", connection]

    from ipykernel.kernelapp import IPKernelApp

    IPKernelApp.launch_instance()


class WarmProvisioner(LocalProvisioner):
    """Takes the waiting kernel where there is one, and starts a cold one otherwise."""

    async def launch_kernel(self, cmd: list[str], **options):
        """Hand the connection to the waiting kernel, or start one by ``cmd``; the connection's details."""
        if not _waiting:
            return await super().launch_kernel(cmd, **options)
        self.process, sender = _waiting.pop()
        environment = dict(options.get("env") or os.environ) | {"JPY_PARENT_PID": str(os.getpid())}
        self.cwd = options.get("cwd") or os.getcwd()
        sender.send((cmd[cmd.index("-f") + 1], environment, str(self.cwd)))
        self.pid = self.pgid = self.process.pid  # it has a session, and so a group, of its own
        return self.connection_info


class LocalKernelManager(AsyncKernelManager):
    """Starts ipykernel under ``sys.executable``, whatever kernels the user has registered under 'python3'.

    On POSIX it uses IPC sockets in a folder of its own, so that kernels that start together do not compete for TCP
    ports, or for socket files of the same name in their working directory.
    """

    def __init__(self, **options):
        if os.name == "posix":
            folder = Scratch()  # within the job's own, where this process is a job; such a one runs no atexit
            atexit.register(folder.remove)
            options |= {"transport": "ipc", "ip": str(folder.path / "socket")}
        super().__init__(**options)

    async def _async_pre_start_kernel(self, **options):
        if self.provisioner is None:
            self.kernel_id = self.kernel_id or options.pop("kernel_id", None) or str(uuid.uuid4())
            self.provisioner = WarmProvisioner(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)
        return await super()._async_pre_start_kernel(**options)

    @property
    def kernel_spec(self) -> KernelSpec:
        """ipykernel under this interpreter."""
        return KernelSpec(
            argv=[sys.executable, "-m", "kdlib.notebook.kernel", "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
        )


if __name__ == "__main__":  # a cold kernel; jupyter_client names the process that started it
    lifeline.die_with_parent(int(os.environ["JPY_PARENT_PID"]))
    _launch(sys.argv[2])
