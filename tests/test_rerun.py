"""A notebook in somebody's hands: cells run one by one, run again, interrupted, and gone on with."""

import asyncio
import time
from contextlib import asynccontextmanager

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell
from test_resume import weights

from kdlib.experiment import Experiment
from kdlib.study.file import notebooks_folder

# Lets a reader interrupt in the middle of an epoch: its steps dawdle as long as `slow` is true.
SLOW = """
import time
from kdlib.features.loader import TrainLoader
whole, slow = TrainLoader.epoch, True
def slowly(self, epoch):
    for batch in whole(self, epoch):
        yield batch
        time.sleep(0.5 if slow and epoch == 3 else 0)
TrainLoader.epoch = slowly
"""


class Hand:
    """``await hand.run('train')`` executes that cell, as a reader does; ``await hand.type(code)`` a new one."""

    def __init__(self, name: str, fields: dict):
        self.book = nbformat.read(notebooks_folder() / f"{name}.ipynb", as_version=4)
        self.fields = fields
        self.client = NotebookClient(
            self.book, kernel_manager_class="kdlib.notebook.kernel.LocalKernelManager", timeout=120
        )

    def cell(self, name: str):
        return next(cell for cell in self.book.cells if cell.id == name)

    async def run(self, *names: str) -> list:
        """Execute cells of the notebook; the outputs of the last one."""
        for name in names:
            cell = self.cell(name)
            await self.client.async_execute_cell(cell, self.book.cells.index(cell))
            if name == "parameters":
                await self.type("\n".join(f"{key} = {value!r}" for key, value in self.fields.items()))
        return cell.outputs

    async def type(self, code: str) -> str:
        """Execute code that is not the notebook's; what it printed."""
        self.book.cells.append(new_code_cell(code))
        cell = await self.client.async_execute_cell(self.book.cells[-1], len(self.book.cells) - 1)
        self.book.cells.pop()
        return "".join(output.get("text", "") for output in cell.outputs)

    async def interrupted(self, name: str, when) -> list:
        """Start a cell and interrupt its kernel as soon as ``when()``; the cell's outputs."""
        running = asyncio.create_task(self.run(name))
        deadline = time.monotonic() + 60
        while not when():
            assert time.monotonic() < deadline and not running.done()
            await asyncio.sleep(0.02)
        await self.client.km.interrupt_kernel()
        with pytest.raises(CellExecutionError, match="KeyboardInterrupt"):
            await running
        return self.cell(name).outputs


@asynccontextmanager
async def in_hand(name: str, config):
    """The notebook with a kernel of its own and the parameters of ``config``."""
    hand = Hand(name, config.model_dump(exclude={"teacher", "dataset"}))
    async with hand.client.async_setup_kernel(cwd=str(notebooks_folder())):
        yield hand


def lines(outputs: list) -> list[str]:
    """The texts of a cell's displays."""
    return [output["data"]["text/plain"] for output in outputs if output.output_type == "display_data"]


def test_rerun__an_interrupted_training_goes_on_and_ends_as_if_nothing_had_been(small_run):
    config = small_run("dino", epochs=5, study="interrupted")
    whole = Experiment.open(config.model_copy(update={"study": "whole"}))
    expected = whole.finish(whole.evaluate(), history) if (history := whole.train()) else {}

    async def go():
        async with in_hand("dino_tinyimagenet", config) as hand:
            await hand.run("parameters", "setup", "module")
            await hand.type(SLOW)
            second = Experiment.open(config).run.checkpoints / "epoch-0002"
            outputs = await hand.interrupted("train", second.is_dir)
            (line,) = lines(outputs)
            assert line.endswith("- stopped")
            await hand.run("samples")  # the notebook is as usable as before
            await hand.type("slow = False")
            outputs = await hand.run("train")
            assert [output.output_type for output in outputs] == ["display_data"]  # one line, and no error
            assert lines(outputs)[0].endswith("done")
            await hand.run("curves", "scores", "sizes", "maps")
            assert (await hand.type("print(len(history))")).strip() == "5"

    asyncio.run(go())
    interrupted = Experiment.open(config)
    assert weights(interrupted, 5) == weights(whole, 5)
    assert interrupted.run.result(5)["scores"] == expected["scores"]


def test_rerun__cells_in_any_sensible_order(small_run):
    config = small_run("dino", epochs=2)

    async def go():
        async with in_hand("dino_tinyimagenet", config) as hand:
            await hand.run("parameters", "setup", "module", "terms", "train", "scores", "scores", "curves")
            first = weights(Experiment.open(config), 2)
            (line,) = lines(await hand.run("train"))  # all is done: nothing is trained again
            assert line.endswith("done before")
            await hand.run("maps", "samples", "sizes")
            hand.fields["epochs"] = 3  # a reader changes a parameter and runs down from there
            await hand.run("parameters", "setup", "train", "curves", "scores")
            assert (await hand.type("print([record['epoch'] for record in history])")).strip() == "[1, 2, 3]"
            assert weights(Experiment.open(config), 2) == first
            hand.fields["method"] = "resnet"  # no attention map: said, not an error
            await hand.run("parameters", "setup")
            with pytest.raises(CellExecutionError, match="method was 'projection' and is 'resnet'"):
                await hand.run("train")  # the student of before is still there
            await hand.run("module", "train", "maps")

    asyncio.run(go())
