"""The state of a study's teachers: what is to be downloaded, what cannot be loaded, and why. Builds no features."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from kdlib import teachers
from kdlib.config import RunConfig
from kdlib.files import digest, read_json, runs_root, write_json
from kdlib.teachers import fetch, hub
from kdlib.teachers.teacher import TeacherError


@dataclass(frozen=True)
class Standing:
    """The state of one teacher: its name, its folder, the bytes still to be downloaded, and why it cannot be loaded.

    ``folder`` is '' while something is to be downloaded or converted; ``note`` then says what. A ready teacher has
    ``tokens`` N and ``width`` T.
    """

    name: str
    folder: str = ""
    download: int = 0
    note: str = ""
    problem: str = ""
    tokens: int = 0
    width: int = 0
    reads_text: bool = False

    @property
    def ready(self) -> bool:
        """Whether it is here, loads, and passed the audit."""
        return not self.note and not self.problem

    def __str__(self) -> str:
        return f"teacher {self.name}: {self.problem or self.note or 'ready'}"


def standing(
    family: str, source: str = "", revision: str = "", allow_untrained: bool = False, untrained_heads: bool = False
) -> Standing:
    """The state of a teacher. Nothing is downloaded or converted; a checkpoint that is here is loaded and audited.

    A teacher that passed is not loaded again until its files, kdlib's code of it, torch or transformers change.
    """
    name = f"{family}, {source}"
    try:
        identity, named, pinned = teachers.published(family, source, revision)
        if source != teachers.STANDIN and not Path(identity).expanduser().is_dir():
            name = f"{family}, {identity} at {(revision or pinned or 'main')[:12]}"
        folder = teachers.find(family, source, revision)
        if folder is None:
            return _absent(name, identity, named, pinned)
        return Standing(name, str(folder), **_passed(family, source, revision, allow_untrained, untrained_heads))
    except TeacherError as error:
        return Standing(name, problem=str(error))


def asked(configs: Iterable[RunConfig]) -> list[tuple]:
    """The teachers of some experiments, each once, as arguments of :func:`standing`."""
    fields = ("teacher", "checkpoint", "revision", "allow_untrained", "untrained_heads")
    return list(dict.fromkeys(tuple(getattr(config, field) for field in fields) for config in configs))


def prepare(configs: Iterable[RunConfig], say: Callable[[str], None] = print) -> None:
    """Download, convert, load and audit the teachers of some experiments, before anything is built with them.

    ``say`` gets a line for each download, and for students that are wider than their teacher. Raises one TeacherError
    that names every teacher that is not to be had.
    """
    configs, problems = list(configs), []
    for family, source, revision, *how in asked(configs):
        try:
            if teachers.find(family, source, revision) is None:
                say(f"Getting the teacher {family}, {source or teachers.TEACHERS[family].DEFAULT} ...")
                teachers.resolve(family, source, revision)
            passed = _passed(family, source, revision, *how)
        except TeacherError as error:
            problems.append(f"{family}: {error}")
            continue
        same = [config for config in configs if asked([config]) == [(family, source, revision, *how)]]
        for width in sorted({config.width for config in same if config.width > passed["width"]}):
            say(
                f"Students of {width} numbers are wider than their teacher {family}, which has {passed['width']}: they "
                "cannot keep more of it, and their linear probe takes long. Lower 'width', or set linear_probe: false."
            )
    if problems:
        raise TeacherError("\n".join(["Nothing was run, since a teacher is missing:", *problems]))


def _absent(name: str, source: str, revision: str, pinned: str) -> Standing:
    """The state of a teacher that is not on this machine: size and errors as the hub states them."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return Standing(name, note="has only pickled weights; the first run converts them to safetensors")
    fetch.model_id(source)
    hub.quiet()
    try:
        files = to_download(source, revision or pinned or "main")
        note = ""
    except hub.RevisionGone:
        if revision or not pinned:
            raise
        files = to_download(source, "main", (hub.PICKLES, hub.SAFETENSORS))
        note = f"; its pinned commit {pinned[:12]} is gone from the hub, so main takes its place"
    size = sum(files.values())
    if not size:
        return Standing(name, note=f"downloaded; the first run converts its weights to safetensors{note}")
    hub.need_room(size, source, hub.cache_folder())
    return Standing(name, download=size, note=f"to be downloaded, {size / 1e6:,.1f} MB{note}")


def to_download(source: str, revision: str, order=(hub.SAFETENSORS, hub.PICKLES)) -> dict[str, int]:
    """File -> bytes that :func:`kdlib.teachers.fetch.fetch` would download. Raises TeacherError."""
    for kind in order:
        listed = hub.listing(source, revision, hub.SMALL + kind)
        weights = {name for name, _, _ in listed} - set(hub.SMALL)
        if weights:
            return {name: size for name, size, here in listed if not here}
    raise fetch.no_weights(source, revision)


def _passed(family: str, source: str, revision: str, allow_untrained: bool, untrained_heads: bool) -> dict:
    """Load and audit a teacher, once for what its outputs depend on: its tokens, width, and whether it reads text."""
    import torch
    import transformers

    from kdlib.keys import digest_of, own_code

    asked = [teachers.describe(family, source, revision), allow_untrained, untrained_heads]
    versions = [torch.__version__, transformers.__version__]
    code = [digest_of("features", teacher=family), digest_of("audit"), own_code("teacher", family)]
    path = runs_root() / "checkpoints" / "passed" / f"{digest([asked, versions, code])[:24]}.json"
    if (shape := read_json(path)) is None:
        teacher = teachers.load(family, source, revision, allow_untrained, untrained_heads=untrained_heads)
        rows, columns = teacher.grid
        shape = {"tokens": rows * columns, "width": teacher.width, "reads_text": teacher.has_text}
        write_json(path, shape)
    return shape
