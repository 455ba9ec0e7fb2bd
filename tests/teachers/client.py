"""A process of its own for the model hub's client, which reads its address when it is imported: lines in, lines out."""

import json
import os
import subprocess
import sys
from pathlib import Path

from kdlib.teachers import TeacherError

SERVE = """
import json, sys
from kdlib import teachers
from kdlib.teachers import check, fetch
def standing(*given):
    found = check.standing(*given)
    return found.__dict__ | {"ready": found.ready}
def embed(source, revision, image):
    from PIL import Image
    from kdlib.export import Standalone
    return Standalone.from_pretrained(source, revision).encode_images([Image.open(image)]).tolist()
calls = {"embed": embed, "fetch": fetch.fetch, "find": teachers.find, "standing": standing}
calls |= {"describe": teachers.describe, "resolve": teachers.resolve, "load": lambda *a: teachers.load(*a).revision}
for line in sys.stdin:
    name, *given = json.loads(line)
    try:
        answer = {"value": calls[name](*given)}
    except teachers.TeacherError as error:
        answer = {"error": str(error), "type": type(error).__name__}
    except Exception as error:
        answer = {"raw": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer, default=str), flush=True)
"""


class Client:
    """``client("fetch", "owner/name")``: kdlib's answer in a process whose hub and cache ``environment`` names."""

    def __init__(self, environment: dict[str, str]):
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __call__(self, name: str, *given):
        self.process.stdin.write(json.dumps([name, *given]) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "value" in answer:
            return answer["value"]
        raise TeacherError(answer["error"]) if "error" in answer else AssertionError(answer["raw"])

    def folder(self, name: str, *given) -> Path:
        """The answer as a path."""
        return Path(self(name, *given))

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
