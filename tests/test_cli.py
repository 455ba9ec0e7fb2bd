"""The command line: what its commands are given, print and end with."""

import re
import sys

import pytest
import small_study
from PIL import Image
from typer.testing import CliRunner

import kdlib.run
from kdlib import cli
from kdlib.data import DataError, download
from kdlib.study import Study


@pytest.fixture
def call():
    return lambda *words: CliRunner().invoke(cli.app, [str(word) for word in words])


def main(monkeypatch, capsys, *words) -> tuple[int, str]:
    """The exit code and the message of the whole command."""
    monkeypatch.setattr(sys, "argv", ["kdlib", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code, capsys.readouterr().err


def test_help__names_the_commands(call):
    names = re.findall(r"^  (\w+) ", call("--help").output, re.M)[-7:]
    assert names == ["try", "run", "status", "plan", "report", "export", "data"]


def test_run__passes_its_options_on_and_ends_with_1_where_something_is_not_done(call, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(kdlib.run, "run", lambda *words: given.append(words) or {"a": "", "b": "failed, no"})
    options = ["--workers", 3, "--seeds", 2, "--memory-gb", 1.5, "--scheduler", "tcp://x", "--data-root", tmp_path]
    done = call("run", small_study.write(tmp_path), *options)
    (study, *rest) = given[0]
    assert isinstance(study, Study) and study.seeds == [0, 1] and rest == [3, "tcp://x", 1.5]
    assert {one.config.data_root for one in study.experiments()} == {str(tmp_path)}
    assert done.exit_code == 1 and "  b: failed, no" in done.output and "a:" not in done.output


def test_run__interrupted_says_that_the_same_command_continues(call, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(kdlib.run, "run", interrupt)
    done = call("run", small_study.write(tmp_path))
    assert done.exit_code == 130 and "What is done is kept; the same command continues." in done.output


@pytest.mark.parametrize("error", [DataError("no images in x"), KeyError("no images in x"), OSError("no images in x")])
def test_error__is_one_sentence_and_debug_shows_the_traceback(tmp_path, monkeypatch, capsys, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(kdlib.run, "run", fail)
    monkeypatch.delenv("KDLIB_DEBUG", raising=False)
    path = small_study.write(tmp_path)
    assert main(monkeypatch, capsys, "run", path) == (2, "kdlib: no images in x\n")
    for words in (["--debug", "run", path], ["run", path, "--debug"]):
        code, said = main(monkeypatch, capsys, *words)
        assert code == 2 and said.startswith("Traceback") and said.endswith("kdlib: no images in x\n")


def test_error__of_a_kind_that_nobody_expects_names_its_kind_and_the_option(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kdlib.run, "run", lambda *_: None.x)
    code, said = main(monkeypatch, capsys, "run", small_study.write(tmp_path))
    assert code == 2 and said.startswith("kdlib: AttributeError: ") and said.endswith("(--debug says where)\n")


def test_error__a_wrong_study_file_ends_with_2_before_anything_runs(tmp_path, monkeypatch, capsys):
    code, said = main(monkeypatch, capsys, "run", small_study.write(tmp_path, parameters={"taw": 1}))
    assert code == 2 and "there is no parameter 'taw'. Did you mean tau?" in said and said.count("\n") == 1


def test_status__prints_a_line_an_experiment(call, tmp_path):
    done = call("status", small_study.write(tmp_path))
    assert done.exit_code == 0 and done.output == "The study 'small' has not been run here: 1 experiments are to do.\n"


def test_report__makes_the_pages_that_the_study_names(call, tmp_path, monkeypatch):
    monkeypatch.setattr("kdlib.report.report", lambda study, notebooks: f"{study}: {', '.join(notebooks)}")
    assert call("report", small_study.write(tmp_path)).output == "small: tiny\n"


def test_data_get__downloads_or_takes_an_archive_or_checks(call, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "get", lambda *given: given[1] / str(given[2:]))
    monkeypatch.setattr(download, "check", lambda name, folder: f"{name} is whole")
    assert call("data", "get", "coco", "x").output == "--data-root x/(None, False)\n"
    assert "('a.zip', True)" in call("data", "get", "coco", "x", "--from", "a.zip", "--keep").output.replace(
        "PosixPath('a.zip')", "'a.zip'"
    )
    assert call("data", "get", "coco", "x", "--check").output == "coco is whole\n"


def test_export__hands_over_a_run_and_a_folder(call, monkeypatch, tmp_path):
    monkeypatch.setattr("kdlib.export.export", lambda run, folder: f"{run} -> {folder}", raising=False)
    assert call("export", "mini dino resnet", "student").output == "mini dino resnet -> student\n"


def test_try__photographs_in_folders_give_a_number_with_its_interval_and_a_page(call, tmp_path, monkeypatch):
    """Of names with spaces, suffixes of several formats, and a file that is no image."""
    monkeypatch.chdir(tmp_path)
    for label in ("rote Wand", "blå himmel"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(12):
            name = f"{label[0]} {number}{('.jpg', '.webp', '.PNG')[number % 3]}"
            Image.effect_noise((60, 40 + number), 90).save(tmp_path / "photos" / label / name)
    (tmp_path / "photos/rote Wand/notes.txt").touch()
    done = call("try", "photos", "--checkpoint", "toy")
    assert done.exit_code == 0, done.output
    page = tmp_path / "reports/try/photos.html"
    for words in (
        "fit: 18 images (",
        "no suffix of an image format: 1 (rote Wand/notes.txt)",
        "toy",
        str(page),
    ):
        assert words in done.output
    assert re.search(r"top-1, \d test images, 2 classes:\n.*\nteacher +[01]\.\d+ [01]\.\d+ [01]\.\d+\n", done.output)
    assert "PCA of its features" in page.read_text(encoding="utf-8")


def test_try__an_error_is_a_sentence(tmp_path, monkeypatch, capsys):
    code, said = main(monkeypatch, capsys, "try", tmp_path / "nowhere", "--checkpoint", "toy")
    assert code == 2 and "shows the error of a cell: DataError: " in said and "there is no such folder" in said


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "foo://bar", "http://[::1"])
def test_proxy__that_the_client_cannot_use_is_a_sentence_with_the_variable(tmp_path, monkeypatch, capsys, proxy):
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, proxy)
    code, said = main(monkeypatch, capsys, "data", "get", "tinyimagenet", tmp_path)
    assert code == 2 and said.startswith("kdlib: The proxy of HTTP_PROXY, HTTPS_PROXY or ALL_PROXY cannot be used: ")
    assert said.endswith(". Write it as http://host:port, or unset it.\n") and said.count("\n") == 1
