import asyncio
import sys
import tempfile

from kdlib.notebook import warm
from kdlib.notebook.kernel import LocalKernelManager


def test_kernels__that_start_together_share_no_socket_and_run_this_interpreter():
    async def run() -> list[str]:
        managers = [LocalKernelManager() for _ in range(2)]
        assert managers[0].ip != managers[1].ip
        await asyncio.gather(*(manager.start_kernel() for manager in managers))
        executables = []
        for manager in managers:
            client = manager.client()
            client.start_channels()
            await client.wait_for_ready(timeout=60)
            reply = await client.execute_interactive(
                "import sys; print(sys.executable)", output_hook=executables.append
            )
            assert reply["content"]["status"] == "ok"
            client.stop_channels()
            await manager.shutdown_kernel(now=True)
        return [out["content"]["text"].strip() for out in executables if out["msg_type"] == "stream"]

    assert asyncio.run(run()) == [sys.executable] * 2


def test_kernel__starts_where_the_temporary_folder_is_too_long_for_a_socket(tmp_path, monkeypatch):
    long = tmp_path / ("long" * 25)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert not warm.available(1)

    async def run() -> None:
        manager = LocalKernelManager()
        await manager.start_kernel()
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(timeout=60)
        client.stop_channels()
        await manager.shutdown_kernel(now=True)

    asyncio.run(run())
