"""Downloads checkpoints from the model hub: which files of a repository, and errors that say what to do."""

import errno
import os
import re
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from kdlib.teachers.teacher import TeacherError

# Weights, configuration, preprocessing, vocabulary: what a teacher is made of, and nothing that runs. By exact names:
# repositories of open_clip carry the same weights a second time as open_clip_model.safetensors.
SAFETENSORS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model-*-of-*.bin", "pytorch_model.bin.index.json")
SMALL = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
)


PATIENCE = 30  # seconds for the hub's first answer


class RevisionGone(TeacherError):
    """The hub has the repository, but not the revision."""


def snapshot(source: str, revision: str, patterns: tuple[str, ...]) -> Path:
    """The folder with a repository's files that match, downloaded where they are not in the hub's cache.

    The free space on the disk is checked before the download. Without a network a complete snapshot in the cache is
    used. Raises RevisionGone, or TeacherError that says what to do.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError

    quiet()
    if re.fullmatch("[0-9a-f]{40}", revision) and (folder := kept(source, revision, patterns, listed=True)):
        return folder  # a commit does not change: nobody needs to be asked
    try:
        knock(source, revision)
        with suppress(DryRunError):  # the hub does not answer; what is in the cache may be enough
            files = snapshot_download(source, revision=revision, allow_patterns=list(patterns), dry_run=True)
            need_room(sum(file.file_size or 0 for file in files if file.will_download), source, cache_folder())
        return Path(snapshot_download(source, revision=revision, allow_patterns=list(patterns)))
    except TeacherError:  # no room
        raise
    except Exception as error:  # the hub's client raises two dozen kinds
        if (folder := kept(source, revision, patterns)) is not None:
            return folder
        raise explained(error, source, revision) from error


def kept(source: str, revision: str, patterns: tuple[str, ...], listed: bool = False) -> Path | None:
    """A complete snapshot in the cache, found without a request to the hub; None where there is none.

    Older clients recorded no list of a snapshot's files. With ``listed`` a snapshot without a list does not count.
    """
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    names = list(patterns)
    try:  # the client itself looks here in some cases, and not where a connection breaks off
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=names, local_files_only=True))
        get_cached_repo_tree(source, revision=revision)
    except LocalEntryNotFoundError:
        return None
    except CachedRepoTreeNotFoundError:
        weights = any(any(folder.glob(name)) for name in (*SAFETENSORS, *PICKLES))
        return folder if weights and not listed else None
    return folder


def listing(source: str, revision: str, patterns: tuple[str, ...]) -> list[tuple[str, int, bool]]:
    """Name and bytes of each file of a snapshot, and whether it is here already. Raises as :func:`snapshot`."""
    from huggingface_hub import snapshot_download

    try:
        knock(source, revision)
        files = snapshot_download(source, revision=revision, allow_patterns=list(patterns), dry_run=True)
    except Exception as error:
        raise explained(error, source, revision) from error
    return [(file.filename, file.file_size or 0, not file.will_download) for file in files]


def knock(source: str, revision: str) -> None:
    """Send the hub one request without retries: without a network its client would retry for half a minute.

    Raises what the client raises, except for a repository without config.json.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with suppress(RemoteEntryNotFoundError):
        get_hf_file_metadata(hf_hub_url(source, "config.json", revision=revision), timeout=PATIENCE)


def cached(source: str, revision: str) -> Path | None:
    """The folder of a revision in the hub's cache, None where it has none. It may be incomplete."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(source, "config.json", revision=revision)
    except ValueError:  # no model id
        return None
    return Path(found).parent if isinstance(found, str) else None


def cache_folder() -> Path:
    """Where the hub's client keeps what it downloaded: $HF_HUB_CACHE or below $HF_HOME."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def need_room(size: int, what: str, folder: Path) -> None:
    """Raise TeacherError when the disk of ``folder``, which need not exist yet, has fewer than ``size`` bytes left."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if size > free:
        raise TeacherError(
            f"{what} needs {size / 1e6:,.1f} MB in {folder}, and the disk has {free / 1e6:,.1f} MB left. Make room, or "
            "put the folder elsewhere (HF_HOME for downloads, KDLIB_RUNS for what kdlib writes). Nothing was written."
        )


def quiet() -> None:
    """Turn off the client's progress bars outside of a terminal: no report can draw the widget of a notebook."""
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()


def explained(error: Exception, source: str, revision: str) -> TeacherError:
    """A TeacherError that says what an error of the hub's client means and what to do. Looks at its causes too."""
    from huggingface_hub import constants, errors

    chain, link = [], error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    status = {getattr(getattr(link, "response", None), "status_code", None) for link in chain}

    def caused_by(*kinds: type) -> bool:
        return any(isinstance(link, kinds) for link in chain)

    what = f"{source} (revision {revision})"
    # By its words too: the client's fast downloads are not written in Python, and raise no OSError.
    if any(getattr(link, "errno", None) == errno.ENOSPC or "No space left" in str(link) for link in chain):
        return TeacherError(
            f"{what}: the disk of {cache_folder()} is full. Make room, or set HF_HOME to a folder on another disk, and "
            "run again; what was cut off has been removed."
        )
    if caused_by(errors.GatedRepoError):
        return TeacherError(
            f"{what} is gated. Accept its conditions on {constants.ENDPOINT}/{source}, log in with 'hf auth login' (or "
            "set HF_TOKEN) and run again; or download it elsewhere and give the folder as the checkpoint."
        )
    if caused_by(errors.RevisionNotFoundError):
        return RevisionGone(
            f"{source} has no revision '{revision}' on {constants.ENDPOINT}. Take another one: a branch, a tag, a "
            "commit, or refs/pr/N."
        )
    if caused_by(errors.RepositoryNotFoundError):
        return TeacherError(
            f"{source}: the hub knows no such public repository. Check the spelling; for a private one log in with "
            "'hf auth login' (or set HF_TOKEN)."
        )
    if status & {401, 403}:
        return TeacherError(
            f"{what}: the hub refuses access. Log in with 'hf auth login' (or set HF_TOKEN) with an account that may "
            "read it, or download it elsewhere and give the folder as the checkpoint."
        )
    if caused_by(errors.HFValidationError):
        return TeacherError(f"{source} is no model id: {first_line(error)}")
    if caused_by(errors.OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        why = "HF_HUB_OFFLINE is set, and the cache does not hold all of it"
    elif "Consistency check failed" in str(error):
        why = f"a file came incomplete from {constants.ENDPOINT}"
    else:
        why = f"{constants.ENDPOINT} did not deliver it ({type(chain[-1]).__name__}: {first_line(chain[-1])})"
    return TeacherError(
        f"{what} could not be had from the model hub: {why}. Check the network and run again, which goes on with the "
        "files that are missing; or download it elsewhere and give the folder as the checkpoint."
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def repository_folder(source: str) -> str:
    """A repository's name as a folder: owner--name."""
    return source.replace("/", "--").replace(os.sep, "--")
