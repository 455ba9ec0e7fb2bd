"""Finds the folder of a checkpoint, with weights in safetensors. ``hub`` downloads, ``convert`` converts pickles."""

import re
import sys
from pathlib import Path

from kdlib.files import digest, read_json, runs_root, write_json
from kdlib.teachers import convert, hub
from kdlib.teachers.teacher import TeacherError

# JSON files that lie beside a checkpoint and are no part of it.
BESIDE = {"recipe.json", "exposure.json", "pytorch_model.bin.index.json", convert.RECORD}


def fetch(source: str, revision: str = "", pinned: str = "", bin_digest: str = "") -> Path:
    """The local folder of a checkpoint; its weights are safetensors, whatever they were published as.

    ``source`` is a folder or a model id. ``revision`` is the user's; without one ``pinned`` is taken, the commit that
    this version of kdlib was made for, and where there is none the branch main. Where the pinned commit is gone from
    the hub, main's pytorch_model.bin takes its place, of which ``bin_digest`` is the SHA-256 where it is known. A .bin
    is converted once, to runs/checkpoints/; see :mod:`kdlib.teachers.convert`. Raises TeacherError.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return _local(folder)
    model_id(source)
    if revision or not pinned:
        return _from_hub(source, revision or "main")
    if (kept := _in_place_of(source, pinned)) is not None:
        return kept
    try:
        return _from_hub(source, pinned)
    except hub.RevisionGone:
        folder = _from_hub(source, "main", (hub.PICKLES, hub.SAFETENSORS), bin_digest)
    write_json(_target(source, f"{pinned}.json"), {"gone": pinned, "in_its_place": folder.name})
    digest_is = "the published one" if bin_digest else "recorded, since none was published"
    print(
        f"{source}: the pinned commit {pinned[:12]} is gone from the hub. The weights of main took its place (commit "
        f"{commit_of(folder)[:12]}); the SHA-256 of its pickle is {digest_is}.",
        file=sys.stderr,
    )
    return folder


def find(source: str, revision: str = "", pinned: str = "") -> Path | None:
    """The folder that :func:`fetch` gives without asking the hub; None where something has to be downloaded."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        target = folder if weights(folder) else _target_of(folder)
        return target if target == folder or convert.whole(target) else None
    if not revision and pinned and (kept := _in_place_of(source, pinned)) is not None:
        return kept
    folder = hub.cached(source, revision or pinned or "main")
    if folder is None:
        return None
    try:
        if weights(folder):
            return folder
    except TeacherError:  # a shard is missing
        return None
    target = _target(source, folder.name)
    return target if convert.whole(target) else None


def weights(folder: Path) -> list[Path]:
    """The files of a folder's weights: model.safetensors or its shards, else any safetensors of a user's own layout.

    Raises TeacherError when a shard is missing that the index names.
    """
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = read_json(folder / "model.safetensors.index.json")
    if index is not None:
        return _shards(folder, index)
    own = sorted(folder.glob("*.safetensors"))
    return [] if pickles(folder) else own


def pickles(folder: Path) -> list[Path]:
    """pytorch_model.bin or its shards, as :func:`weights`."""
    if (folder / "pytorch_model.bin").is_file():
        return [folder / "pytorch_model.bin"]
    index = read_json(folder / "pytorch_model.bin.index.json")
    return [] if index is None else _shards(folder, index)


def digests(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of each file that a checkpoint is made of. Raises TeacherError for a damaged download."""
    found = {}
    for path in sorted({*weights(folder), *small(folder)}):
        found[path.name] = checked_digest(path)
    return found


def small(folder: Path) -> list[Path]:
    """A checkpoint's files beside its weights: all JSON files, vocab.txt and merges.txt."""
    paths = {*folder.glob("*.json"), *folder.glob("vocab.txt"), *folder.glob("merges.txt")}
    return sorted(path for path in paths if path.name not in BESIDE)


def checked_digest(path: Path) -> str:
    """The SHA-256 of a file. In the hub's cache large files have it as their name, so damage shows."""
    found = convert.sha256(path)
    blob = path.resolve()
    if blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name) and blob.name != found:
        raise TeacherError(
            f"{path} is not what the hub published: its SHA-256 is {found}, not {blob.name}. Delete {blob} and run "
            "again, which downloads it anew."
        )
    return found


def commit_of(folder: Path) -> str:
    """The commit that a downloaded folder is of, or that its conversion was made from; '' for a user's folder."""
    if folder.parent.name == "snapshots":
        return folder.name
    made_from = (read_json(folder / convert.RECORD) or {}).get("made_from", {})
    return made_from.get("commit", "")


def model_id(source: str) -> None:
    """Raise TeacherError for what is neither a folder nor of the form owner/name."""
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise TeacherError(f"{source}: no such folder, and not a model id of the form owner/name.")


def no_weights(source: str, revision: str) -> TeacherError:
    """The error of a repository that holds no weights."""
    return TeacherError(
        f"{source} (revision {revision}) has neither model*.safetensors nor pytorch_model*.bin, so it holds no weights "
        "in transformers' layout. Choose another repository or revision (many have safetensors as refs/pr/N)."
    )


def _shards(folder: Path, index: dict) -> list[Path]:
    paths = [folder / name for name in sorted(set(index.get("weight_map", {}).values()))]
    if missing := [path.name for path in paths if not path.is_file() or path.parent != folder]:
        raise TeacherError(f"{folder}: shards of the weights are missing: {', '.join(missing)}. Get them, too.")
    return paths


def _from_hub(source, revision, order=(hub.SAFETENSORS, hub.PICKLES), bin_digest="") -> Path:
    """A snapshot with the first kind of weights in ``order`` that the revision has; pickles are converted."""
    commit = ""  # once it is known, a branch may move
    for kind in order:
        if commit and convert.whole(_target(source, commit)):
            return _target(source, commit)
        folder = hub.snapshot(source, commit or revision, hub.SMALL + kind)
        commit = folder.name
        if kind is hub.SAFETENSORS and weights(folder):
            return folder
        if kind is hub.PICKLES and (found := pickles(folder)):
            made = {path.name: checked_digest(path) for path in found}
            if bin_digest and set(made.values()) != {bin_digest}:
                raise TeacherError(
                    f"{source}: the SHA-256 of {', '.join(made)} on {revision} is {', '.join(made.values())}, and that "
                    f"of the published file is {bin_digest}. It was not loaded. If you trust it, name the revision "
                    f"yourself (revision: {revision}); or give a folder with the published file as the checkpoint."
                )
            made_from = {"source": source, "commit": commit, "files": made}
            return convert.convert(found, small(folder), _target(source, commit), made_from)
    raise no_weights(source, revision)


def _local(folder: Path) -> Path:
    if weights(folder):
        return folder
    found = pickles(folder)
    if not found:
        raise TeacherError(
            f"{folder} holds no weights: no model*.safetensors and no pytorch_model*.bin. Save the model with "
            "model.save_pretrained(folder), or its state_dict with safetensors.torch.save_file."
        )
    made_from = {"source": str(folder.resolve()), "files": {path.name: checked_digest(path) for path in found}}
    return convert.convert(found, small(folder), _target_of(folder), made_from)


def _target_of(folder: Path) -> Path:
    """Where the conversion of a local folder lies: under the digest of its content, since a folder has no commit."""
    content = {path.name: checked_digest(path) for path in (*pickles(folder), *small(folder))}
    return _target(folder.resolve().name, digest(content)[:40])


def _target(name: str, commit: str) -> Path:
    """Where a conversion lies: runs/checkpoints/<owner>--<name>/<commit>."""
    return runs_root() / "checkpoints" / hub.repository_folder(name) / commit


def _in_place_of(source: str, pinned: str) -> Path | None:
    """The conversion that replaces the commit ``pinned``, which is gone from the hub; None where there is none."""
    commit = (read_json(_target(source, f"{pinned}.json")) or {}).get("in_its_place", "")
    return _target(source, commit) if commit and convert.whole(_target(source, commit)) else None
