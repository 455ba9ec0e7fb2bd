"""Versions are stated once, and everything that installs the project agrees."""

import re
import subprocess
import tomllib
from pathlib import Path

import yaml

import kdlib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment__states_no_version_but_pythons_and_installs_the_project():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, last = environment["dependencies"]
    assert conda == [f"python {PROJECT['requires-python']}", "pip"]
    assert last == {"pip": ["--editable .[test]"]}
    assert "test" in PROJECT["optional-dependencies"]


def test_version__is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == kdlib.__version__ == citation["version"]
    assert f"## {kdlib.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_dependencies__every_imported_library_is_declared():
    import ast
    import sys

    lines = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["export"]
    stated = {re.split(r"[><=\[]", line)[0].replace("-", "_") for line in lines}
    names = {"PIL": "pillow", "yaml": "pyyaml", "IPython": "jupyterlab", "nbformat": "nbconvert"}
    brought = {"jupyter_client": "nbclient", "traitlets": "nbclient", "huggingface_hub": "transformers"}
    imported = set()
    for path in (ROOT / "kdlib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    imported -= {*sys.stdlib_module_names, "kdlib"}
    assert {(names | brought).get(name, name) for name in imported} <= stated


def test_makefile__has_at_most_eight_verbs():
    verbs = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert {"study", "test"} <= set(verbs) and len(set(verbs) - {"help"}) <= 8  # help lists them


def test_gate__runs_the_tests_by_the_readmes_command():
    """The command that README gives for the tests is the gate's last line, and make would run pytest by it."""
    command = re.search(r"^(make \w+) .*runs the tests", (ROOT / "README.md").read_text(), flags=re.MULTILINE)[1]
    assert (ROOT / ".ci/run").read_text().splitlines()[-1].strip() == command
    planned = subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "-m pytest" in planned.stdout
