"""Checkpoints from a loopback hub by the hub's own client: pinned, pickled, cut off, gated, hostile, gone."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdlib import teachers
from kdlib.files import file_digest
from kdlib.teachers import STANDIN, TeacherError, convert, fetch, hub

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
from client import Client  # noqa: E402
from rehearsal import checkpoints as published  # noqa: E402
from rehearsal.hub import Hub  # noqa: E402


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Cache and runs of the client, which outlive one test: each uses a repository of its own."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def the_hub():
    with Hub() as running:
        yield running


@pytest.fixture(scope="module")
def client(the_hub, home):
    running = Client(the_hub.environment(home) | {"KDLIB_RUNS": str(home / "runs")})
    yield running
    running.close()


@pytest.fixture(scope="module")
def pickled(tmp_path_factory):
    """``pickled("dino")``: a small checkpoint as on main, made once."""
    root = tmp_path_factory.mktemp("pickled")

    def make(family: str) -> Path:
        folder = root / family
        return folder if folder.exists() else published.write(family, folder)

    return make


@pytest.fixture
def repository(the_hub, request):
    """A repository of this test alone, and its id."""
    name = "owner/" + re.sub(r"\W+", ".", request.node.name.removeprefix("test_")[-80:]).strip(".")
    found = the_hub.repository(name)
    found.id = name
    return found


def safetensors_of(folder: Path, target: Path) -> Path:
    """The same checkpoint as a pull request of the hub's bot has it: safetensors beside the pickle."""
    shutil.copytree(folder, target)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    return target


# ---------------------------------------------------------------- pinned, and not


def test_fetch__takes_the_pinned_commit_and_never_its_pickle(client, repository, pickled, tmp_path, the_hub):
    repository.commit(pickled("dino"), "main")
    sha = repository.commit(safetensors_of(pickled("dino"), tmp_path / "pr"), "refs/pr/7")
    folder = client.folder("fetch", repository.id, "", sha)
    assert folder.name == sha and (folder / "model.safetensors").is_file()
    assert not any(name.endswith(".bin") and repository.id in name for _, name in the_hub.requests)
    the_hub.requests.clear()
    assert client.folder("fetch", repository.id, "", sha) == folder
    assert not the_hub.requests, "a commit that is here is not asked for again"


@pytest.mark.parametrize("revision", ["", "main", "refs/pr/7", "commit"])
def test_fetch__a_revision_is_a_branch_a_pull_request_or_a_commit(client, repository, pickled, tmp_path, revision):
    sha = repository.commit(safetensors_of(pickled("dino"), tmp_path / "pr"), "main", "refs/pr/7")
    assert client.folder("fetch", repository.id, sha if revision == "commit" else revision).name == sha


def test_fetch__the_users_revision_goes_before_the_pinned_one(client, repository, pickled, tmp_path):
    repository.commit(safetensors_of(pickled("dino"), tmp_path / "pr"), "refs/pr/7")
    mine = repository.commit(safetensors_of(pickled("beit"), tmp_path / "mine"), "mine")
    assert client.folder("fetch", repository.id, "mine", "0" * 40).name == mine


@pytest.mark.parametrize("known", [True, False])
def test_fetch__where_the_pinned_commit_is_gone_mains_pickle_is_converted(client, repository, pickled, known, the_hub):
    main = repository.commit(pickled("clip"), "main")
    sha = file_digest(pickled("clip") / "pytorch_model.bin")
    gone = "a" * 40
    folder = client.folder("fetch", repository.id, "", gone, sha if known else "")
    assert folder.name == main and not (folder / "pytorch_model.bin").exists()
    record = json.loads((folder / convert.RECORD).read_text())["made_from"]
    assert record == {"source": repository.id, "commit": main, "files": {"pytorch_model.bin": sha}}
    assert json.loads((folder.parent / f"{gone}.json").read_text()) == {"gone": gone, "in_its_place": main}
    original = torch.load(pickled("clip") / "pytorch_model.bin", weights_only=True)
    converted = load_file(folder / "model.safetensors")
    assert set(original) == set(converted) and all(torch.equal(original[name], converted[name]) for name in original)
    the_hub.requests.clear()
    assert client.folder("fetch", repository.id, "", gone) == folder
    assert not the_hub.requests, "a finished conversion asks the hub nothing"


def test_fetch__a_wrong_digest_is_refused_and_nothing_converted(client, repository, pickled, home):
    repository.commit(pickled("dino"), "main")
    with pytest.raises(TeacherError, match=r"SHA-256 of pytorch_model.bin on main is [0-9a-f]{64}, .* f{64}") as caught:
        client("fetch", repository.id, "", "b" * 40, "f" * 64)
    assert "not loaded" in str(caught.value) and "revision: main" in str(caught.value)
    assert not list((home / "runs" / "checkpoints" / repository.id.replace("/", "--")).glob("*"))
    assert client("fetch", repository.id, "main"), "whoever names the revision takes what is there"


def test_fetch__open_clips_second_set_of_weights_is_left_out(client, repository, pickled, tmp_path, the_hub):
    folder = safetensors_of(pickled("clip"), tmp_path / "laion")
    for name in ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_pytorch_model.safetensors"):
        (folder / name).write_bytes(b"the same weights under other names")
    (folder / "open_clip_config.json").write_text("{}")
    repository.commit(folder, "main")
    taken = client.folder("fetch", repository.id)
    assert {path.name for path in taken.glob("*.safetensors")} == {"model.safetensors"}
    assert not any("/open_clip_" in name for _, name in the_hub.requests)
    assert "open_clip_model.safetensors" not in fetch.digests(folder), "and in a folder, too"


@pytest.mark.parametrize("family", list(published.IDS))
def test_load__the_four_as_published_through_the_whole_path(client, the_hub, pickled, family):
    """The default id, its pinned commit gone: the pickle with old names and buffers loads with nothing missing."""
    the_hub.repository(published.IDS[family]).commit(pickled(family), "main")
    with pytest.raises(TeacherError, match="SHA-256") if family != "beit" else nothing():
        assert len(client("load", family, "")) == 40, "the commit is in the result"
    assert len(client("load", family, "", "main")) == 40


def nothing():
    """No error is expected."""
    from contextlib import nullcontext

    return nullcontext()


@pytest.mark.parametrize("family", list(published.IDS))
def test_published__has_the_ids_and_parameters_that_are_known(family):
    assert published.IDS[family] == teachers.TEACHERS[family].DEFAULT
    assert len(teachers.TEACHERS[family].REVISION) == 40
    assert published.parameters(family) == published.PARAMETERS[family]


def test_load__the_defaults_at_their_pinned_commits(tmp_path):
    """Nothing but the family's name: what paper.yaml asks for, on a hub that has it as published."""
    with Hub() as own:
        published.publish(own, tmp_path / "published")
        client = Client(own.environment(tmp_path / "home") | {"KDLIB_RUNS": str(tmp_path / "runs")})
        assert {family: client("load", family, "") for family in published.IDS} == {
            family: teachers.TEACHERS[family].REVISION for family in published.IDS
        }
        assert all(client("standing", family)["ready"] for family in published.IDS)
        client.close()
    assert not (tmp_path / "runs" / "checkpoints" / "facebook--dino-vitb16").exists()


# ---------------------------------------------------------------- what can go wrong on the way


def test_fetch__a_file_that_is_cut_once_is_fetched_again(client, repository, pickled, tmp_path):
    sha = repository.commit(safetensors_of(pickled("dino"), tmp_path / "pr"), "main")
    repository.dies_at, repository.deaths = {"model.safetensors": 5000}, 1
    folder = client.folder("fetch", repository.id)
    assert folder.name == sha
    assert file_digest(folder / "model.safetensors") == file_digest(tmp_path / "pr" / "model.safetensors")


def test_fetch__a_hub_that_dies_in_a_file_is_no_checkpoint_and_then_goes_on(client, repository, pickled, tmp_path):
    repository.commit(safetensors_of(pickled("dino"), tmp_path / "pr"), "main")
    repository.dies_at, repository.deaths = {"model.safetensors": 5000}, -1
    with pytest.raises(TeacherError, match=r"could not be had from the model hub: .* run again"):
        client("fetch", repository.id)
    assert client("find", "dino", repository.id) is None, "what is half there is not taken for done"
    repository.deaths = 0
    assert (client.folder("fetch", repository.id) / "model.safetensors").is_file()


@pytest.mark.parametrize("gated", [401, 403, 0])
def test_fetch__says_how_to_get_into_a_gated_and_a_private_repository(client, repository, pickled, gated):
    repository.commit(pickled("dino"), "main")
    repository.gated, repository.private, repository.refusal = bool(gated), not gated, gated
    words = r"is gated\. Accept its conditions on http://.*/owner/.*hf auth login"
    with pytest.raises(TeacherError, match=words if gated else "no such public repository"):
        client("fetch", repository.id)


def test_fetch__a_hostile_pickle_of_the_hub_is_refused_by_name(client, repository, pickled, tmp_path, home):
    folder = tmp_path / "hostile"
    shutil.copytree(pickled("dino"), folder)
    torch.save({"weight": torch.zeros(2), "other": Hostile(tmp_path / "ran")}, folder / "pytorch_model.bin")
    repository.commit(folder, "main")
    with pytest.raises(TeacherError, match=r"pytorch_model.bin: this pickle would run (posix|nt)\.system"):
        client("fetch", repository.id)
    assert not (tmp_path / "ran").exists() and client("find", "dino", repository.id) is None


def test_fetch__an_unknown_repository_and_revision_are_sentences(client, repository, pickled):
    with pytest.raises(TeacherError, match=r"nobody/nothing: the hub knows no such public repository"):
        client("fetch", "nobody/nothing")
    repository.commit(pickled("dino"), "main")
    with pytest.raises(TeacherError, match=r"has no revision 'v9'"):
        client("fetch", repository.id, "v9")


def test_fetch__a_repository_without_weights_says_what_it_needs(client, repository, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tf_model.h5").write_bytes(b"not ours")
    repository.commit(tmp_path, "main")
    with pytest.raises(TeacherError, match=r"neither model\*.safetensors nor pytorch_model\*.bin"):
        client("fetch", repository.id)


def test_fetch__damage_in_the_cache_shows_by_the_hubs_own_digest(client, repository, pickled, tmp_path):
    repository.commit(safetensors_of(pickled("dino"), tmp_path / "pr"), "main")
    blob = (client.folder("fetch", repository.id) / "model.safetensors").resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(TeacherError, match=r"not what the hub published: .* Delete .*blobs"):
        client("describe", "dino", repository.id)
    blob.unlink()
    assert client("describe", "dino", repository.id)["files"]["model.safetensors"] == blob.name


def test_fetch__serves_from_the_cache_when_the_hub_is_down(repository, pickled, tmp_path, home):
    """A branch, a pinned commit and a conversion; and what was not downloaded is a sentence."""
    with Hub() as own:
        where = own.environment(tmp_path / "home") | {"KDLIB_RUNS": str(tmp_path / "runs")}
        pinned = own.repository("owner/pinned").commit(safetensors_of(pickled("dino"), tmp_path / "pr"), "main")
        own.repository("owner/pickled").commit(pickled("dino"), "main")
        asked = [
            ("owner/pinned", ""),
            ("owner/pinned", "", pinned),
            ("owner/pickled", ""),
            ("owner/pickled", "", "c" * 40),
        ]
        client = Client(where)
        online = [client("fetch", *one) for one in asked]
        own.stop()
        assert [client("fetch", *one) for one in asked] == online
        with pytest.raises(TeacherError, match=r"could not be had .* Check the network"):
            client("fetch", "owner/other")
        client.close()
        offline = Client(where | {"HF_HUB_OFFLINE": "1"})
        assert [offline("fetch", *one) for one in asked] == online
        with pytest.raises(TeacherError, match="HF_HUB_OFFLINE is set"):
            offline("fetch", "owner/other")
        offline.close()


def test_resolve__what_is_no_id_and_no_folder_is_a_sentence():
    with pytest.raises(TeacherError, match="no such folder"):
        teachers.resolve("dino", "./nowhere")


# ---------------------------------------------------------------- pickles


class Hostile:
    """Unpickled, it runs a command."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_convert__a_hostile_pickle_is_refused_by_name_and_does_not_run(pickled, tmp_path, legacy):
    folder = tmp_path / "hostile"
    shutil.copytree(pickled("dino"), folder)
    content = {"weight": torch.zeros(2), "other": Hostile(tmp_path / "ran")}
    torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(TeacherError, match=r"hostile/pytorch_model.bin: .* would run (posix|nt).system") as caught:
        teachers.resolve("dino", str(folder))
    assert "weights_only" not in str(caught.value), "torch's own advice is to trust it"
    assert not (tmp_path / "ran").exists()
    assert not list((tmp_path / "runs" / "checkpoints").rglob("*.safetensors"))


@pytest.mark.parametrize("content", [b"", b"no pickle at all" * 50, "half"])
def test_convert__a_damaged_pickle_is_a_sentence(pickled, tmp_path, content):
    folder = tmp_path / "damaged"
    shutil.copytree(pickled("dino"), folder)
    whole = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(TeacherError, match=r"damaged/pytorch_model.bin: "):
        teachers.resolve("dino", str(folder))


def test_convert__what_is_no_state_dict_is_refused(pickled, tmp_path):
    folder = tmp_path / "nested"
    shutil.copytree(pickled("dino"), folder)
    torch.save({"model": {"weight": torch.zeros(2)}, "epoch": 3}, folder / "pytorch_model.bin")
    with pytest.raises(TeacherError, match="more than named tensors"):
        teachers.resolve("dino", str(folder))


@pytest.mark.parametrize("legacy", [False, True])
def test_convert__tied_and_strided_weights_survive(tmp_path, legacy):
    state = {"embedding": torch.randn(8, 4), "half": torch.randn(3, 5).half(), "scale": torch.tensor(2.5)}
    state["decoder"] = state["embedding"]
    state["transposed"] = state["embedding"].T
    state["row"] = state["embedding"][2]
    (tmp_path / "config.json").write_text("{}")
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    made = convert.convert([tmp_path / "pytorch_model.bin"], [tmp_path / "config.json"], tmp_path / "to" / "made", {})
    back = load_file(made / "model.safetensors")
    assert all(torch.equal(back[name], state[name]) and back[name].dtype == state[name].dtype for name in state)
    assert set(back) == set(state) and (made / "config.json").read_text() == "{}"


def test_convert__shards_keep_their_index(pickled, tmp_path):
    folder = tmp_path / "sharded"
    shutil.copytree(pickled("dino"), folder)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    (folder / "pytorch_model.bin").unlink()
    names = sorted(state)
    parts = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, part in parts.items():
        torch.save({name: state[name] for name in part}, folder / file)
    index = {name: file for file, part in parts.items() for name in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    assert teachers.load("dino", str(folder)).untrained == []
    made = teachers.resolve("dino", str(folder))
    assert len(fetch.weights(made)) == 2
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(TeacherError, match="shards of the weights are missing: pytorch_model-00002"):
        teachers.resolve("dino", str(folder))


def test_convert__is_done_once_and_again_when_it_is_damaged(pickled, monkeypatch):
    made = teachers.resolve("dino", str(pickled("dino")))
    before = file_digest(made / "model.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(convert, "_write", lambda *_: pytest.fail("converted twice"))
        assert teachers.resolve("dino", str(pickled("dino"))) == made
    content = bytearray((made / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (made / "model.safetensors").write_bytes(content)
    assert teachers.resolve("dino", str(pickled("dino"))) == made
    assert file_digest(made / "model.safetensors") == before


def test_convert__a_kill_in_the_middle_leaves_nothing_that_counts(pickled, monkeypatch):
    def killed(pickles, small, folder, made_from):
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(convert, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            teachers.resolve("dino", str(pickled("dino")))
    assert teachers.find("dino", str(pickled("dino"))) is None
    assert teachers.load("dino", str(pickled("dino"))).untrained == []


def test_room__a_full_disk_is_said_before_anything_is_written(pickled, monkeypatch, tmp_path):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: usage(10, 10, 0))
    with pytest.raises(TeacherError, match=r"needs 0.\d MB in .*runs.*, and the disk has 0.0 MB left"):
        teachers.resolve("dino", str(pickled("dino")))
    assert not list((tmp_path / "runs").rglob("*.safetensors"))


@pytest.mark.parametrize("kind", ["download", "conversion"])
def test_room__a_disk_that_fills_up_midway_leaves_nothing_half_done(pickled, tmp_path, kind, the_hub, small_disk):
    """A real disk of two megabytes: the announced size fits, and then something else takes the room."""
    disk = small_disk
    folder = safetensors_of(pickled("dino"), tmp_path / "pr") if kind == "download" else pickled("dino")
    repository = the_hub.repository(f"owner/full-disk-{kind}")
    repository.commit(folder, "main")
    environment = the_hub.environment(disk if kind == "download" else tmp_path / "home")
    environment |= {"KDLIB_RUNS": str(tmp_path / "runs" if kind == "download" else disk)}
    (disk / "other").write_bytes(bytes(1_800_000))
    client = Client(environment)
    with pytest.raises(TeacherError, match=r"needs .* MB in .*, and the disk has|is full|could not be converted"):
        client("fetch", f"owner/full-disk-{kind}")
    assert not list(disk.rglob("model*.safetensors"))
    (disk / "other").unlink()
    assert client.folder("fetch", f"owner/full-disk-{kind}").is_dir()
    client.close()


@pytest.mark.parametrize("error", [OSError(28, "No space left"), RuntimeError("I/O: No space left on device (28)")])
def test_room__a_full_disk_is_known_by_number_or_words_and_as_a_cause(error):
    wrapped = ValueError("download failed")
    wrapped.__cause__ = error
    assert "is full. Make room, or set HF_HOME" in str(hub.explained(wrapped, "owner/name", "main"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB, where this process may mount one."""
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "kdlib-test", str(disk)], capture_output=True)
    if made.returncode:
        pytest.skip("needs the right to mount a small file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


# ---------------------------------------------------------------- what identifies a teacher


def test_describe__changes_with_the_content_and_not_with_the_place(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        shutil.copytree(teachers.resolve("clip", STANDIN), folder)
    assert teachers.describe("clip", str(one)) == teachers.describe("clip", str(two))
    (one / "exposure.json").write_text("{}")
    assert teachers.describe("clip", str(one)) == teachers.describe("clip", str(two)), "a note is no part of it"
    config = json.loads((two / "preprocessor_config.json").read_text())
    (two / "preprocessor_config.json").write_text(json.dumps(config | {"image_mean": [0.4, 0.4, 0.4]}))
    assert teachers.describe("clip", str(one)) != teachers.describe("clip", str(two))


# ---------------------------------------------------------------- before a study runs


def test_standing__says_what_would_be_downloaded_without_downloading(client, repository, pickled, tmp_path, home):
    folder = safetensors_of(pickled("clip"), tmp_path / "pr")
    sha = repository.commit(folder, "main")
    needed = sum(path.stat().st_size for path in folder.iterdir() if path.name != "pytorch_model.bin")
    found = client("standing", "clip", repository.id)
    assert (found["download"], found["folder"], found["problem"]) == (needed, "", "")
    assert "to be downloaded" in found["note"] and client("find", "clip", repository.id) is None
    client("resolve", "clip", repository.id)
    found = client("standing", "clip", repository.id)
    assert found["folder"].endswith(sha) and not found["note"] and not found["problem"]


@pytest.mark.parametrize("fault", ["gated", "unknown", "no weights", "gone"])
def test_standing__names_what_cannot_load(client, repository, pickled, tmp_path, fault):
    if fault == "no weights":
        (tmp_path / "empty" / "config.json").parent.mkdir()
        (tmp_path / "empty" / "config.json").write_text("{}")
    if fault != "unknown":
        repository.commit(tmp_path / "empty" if fault == "no weights" else pickled("dino"), "main")
    repository.gated, repository.private = fault == "gated", fault == "unknown"
    found = client("standing", "dino", repository.id, "v9" if fault == "gone" else "")
    words = {"gated": "is gated", "unknown": "no such public", "no weights": "neither", "gone": "no revision 'v9'"}
    assert words[fault] in found["problem"]


def test_standing__of_what_is_here_is_the_audit(tmp_path):
    from kdlib.teachers import check

    assert str(check.standing("dino", STANDIN)) == "teacher dino, stand-in: ready"
    folder = tmp_path / "other"
    shutil.copytree(teachers.resolve("clip", STANDIN), folder)
    assert "was written by CLIPModel" in str(check.standing("dino", str(folder)))
    assert "no stand-in" in check.standing("dinov2", STANDIN).problem
