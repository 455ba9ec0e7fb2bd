"""Runs one guide of docs/ as its reader would: ``python guide.py GUIDE.md`` in an empty folder.

Its blocks, in order: one that begins with a comment that is a file's name is saved as that file; the other ``python``
blocks are one session, as in a notebook; ``sh`` blocks are given to bash. What is not one of these is an error.
"""

import linecache
import re
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
FILE = re.compile(r"(?:#!.*\n)?# ([\w-]+\.(?:py|yaml|sh))\n")
SHELLS = ("sh", "bash")


def blocks(text: str) -> list[tuple[str, str, int]]:
    """(language, content, line it starts at) of every fenced block; 'text' is for what is only to be looked at."""
    found = [(match[1], match[2], text[: match.start()].count("\n") + 2) for match in BLOCK.finditer(text)]
    if 2 * len(found) != len(re.findall(r"^\s*```", text, flags=re.MULTILINE)):
        raise ValueError("a block is not closed, or is indented")
    return [block for block in found if block[0] != "text"]


def run(path: Path) -> None:
    """Run every block; raises at the first that fails, naming its line."""
    session = {"__name__": "__main__"}
    sys.path.insert(0, "")  # as in an interactive Python
    for language, content, line in blocks(path.read_text()):
        where = f"{path.name}, line {line}"
        if name := FILE.match(content):
            Path(name[1]).write_text(content)
        elif language == "python":
            # Line numbers of a traceback are the guide's. As in a notebook, the source of a cell can be looked up.
            source = "\n" * (line - 1) + content
            linecache.cache[where] = (len(source), None, source.splitlines(keepends=True), where)
            exec(compile(source, where, "exec"), session)
        elif language in SHELLS:
            done = subprocess.run(["bash", "-eo", "pipefail", "-c", content], stdin=subprocess.DEVNULL)
            if done.returncode:
                raise RuntimeError(f"{where}: exit code {done.returncode}")
        else:
            raise ValueError(f"{where}: a block in '{language}' cannot be run; if it is only to be read, call it text")


if __name__ == "__main__":
    run(Path(sys.argv[1]))
