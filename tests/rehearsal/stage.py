"""Hub, site and machine of a rehearsal: everything that a network would deliver, and an empty cache to begin with."""

import copy
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from rehearsal import archives, checkpoints, command, data_host
from rehearsal.hub import Hub, Repository

from kdlib.data.shapes import ShapesSpec
from kdlib.study.file import studies_folder

FAMILIES = ("clip", "blip", "dino", "beit")


@dataclass
class Stage:
    """``kdlib("data", "get", "coco")`` runs a command whose hub, site, cache and runs are those of ``folder``."""

    folder: Path
    hub: Hub
    home: Path
    environment: dict[str, str]
    published: dict[str, Repository]
    log: list[tuple[str, command.Outcome]] = field(default_factory=list)

    @property
    def runs(self) -> Path:
        """KDLIB_RUNS of the commands."""
        return Path(self.environment["KDLIB_RUNS"])

    def kdlib(self, *words: str | Path, before: tuple[str, ...] = ()) -> command.Outcome:
        """Run ``kdlib words...``; ``before`` are words in front of it."""
        text = " ".join(map(str, words))
        log = self.folder / "logs" / f"{len(self.log):02d}-{re.sub('[^a-z0-9]+', '-', text.lower())[-60:]}.log"
        done = command.run([*before, *command.kdlib(*words)], self.environment, self.folder, log)
        self.log.append((text.replace(f"{self.folder}/", ""), done))
        return done

    def repository(self, family: str) -> Repository:
        """The published repository of a family."""
        return self.hub.repository(checkpoints.IDS[family])

    def publish(self, family: str) -> None:
        """A family's repository as it is on the hub, whatever was done to it meanwhile."""
        name = checkpoints.IDS[family]
        self.hub.repositories[name] = copy.deepcopy(self.published[name])

    def forget_downloads(self) -> None:
        """An empty cache and no conversions, as on a machine that has seen none of it."""
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.rmtree(self.runs / "checkpoints", ignore_errors=True)

    def study(self, name: str, **changes) -> Path:
        """notebooks/studies/paper.yaml with other numbers; ``parameters`` are added to its own."""
        content = yaml.safe_load((studies_folder() / "paper.yaml").read_text())
        content["parameters"] |= changes.pop("parameters", {})
        content |= changes | {"study": name}
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path


@contextmanager
def staged(folder: Path, full: bool, sample: Path | None = None, families: tuple[str, ...] = FAMILIES) -> Iterator:
    """A stage with the checkpoints of ``families`` published, of full size or small ones; nothing downloaded yet."""
    folder.mkdir(parents=True, exist_ok=True)
    archives.make(folder / "data", sample, None if full else ShapesSpec(0, 4, 3, 40, 20))
    with Hub() as hub, data_host.serving(folder / "data" / "site") as address, _dead_address() as dead:
        checkpoints.publish(hub, folder / "published", "full" if full else "small", families=families)
        home = folder / "home"
        own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "KDLIB_"))}
        places = {"KDLIB_RUNS": str(folder / "runs"), "KDLIB_REPORTS": str(folder / "reports")}
        listed = archives.manifest(folder / "archives.json", folder / "data" / "site", address, dead)
        environment = own | hub.environment(home) | places | {"KDLIB_ARCHIVES": str(listed)}
        yield Stage(folder, hub, home, environment, copy.deepcopy(hub.repositories))


@contextmanager
def _dead_address() -> Iterator[str]:
    """An address at which nobody answers, as long as the block lasts: a port that is taken and not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
