"""An exported student from the model hub: a loopback hub that has the folder, and the hub's own client."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from kdlib.export import Standalone
from kdlib.teachers import TeacherError

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "teachers")]
from client import Client  # noqa: E402
from rehearsal.hub import Hub  # noqa: E402


@pytest.fixture
def the_hub():
    with Hub() as running:
        yield running


@pytest.fixture
def client(the_hub, tmp_path):
    running = Client(the_hub.environment(tmp_path / "home"))
    yield running
    running.close()


def test_from_pretrained__a_repository_of_the_hub_is_as_the_folder(taken, the_hub, client, tmp_path):
    """Only what it needs is downloaded, and what has been downloaded is not asked for again."""
    sha = the_hub.repository("owner/student").commit(taken, "main")
    Image.new("RGB", (90, 60), "red").save(tmp_path / "red.png")
    wanted = Standalone.from_pretrained(taken).encode_images([Image.open(tmp_path / "red.png")])
    made = torch.tensor(client("embed", "owner/student", "main", str(tmp_path / "red.png")))
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-5)
    assert not any(name.endswith(".onnx") for _, name in the_hub.requests)
    the_hub.requests.clear()
    client("embed", "owner/student", sha, str(tmp_path / "red.png"))
    assert not the_hub.requests


def test_from_pretrained__says_what_the_hub_has_not(client):
    with pytest.raises(TeacherError, match="nobody/nothing: the hub knows no such public repository"):
        client("embed", "nobody/nothing", "main", "no.png")
