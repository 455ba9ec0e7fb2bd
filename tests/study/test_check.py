"""Bad study files: said before anything is built, with the line and the remedy, by run, status and --plan alike."""

import pytest
from typer.testing import CliRunner

from kdlib import cli, study
from kdlib.study.file import StudyError

GOOD = "study: s\ntitle: t\nnotebooks:\n  clip_coco:\nmethods: [projection]\nepochs: [1]\nseeds: [0]\n"


def end(text: str) -> str:
    return GOOD + text


BAD = {
    # names of folders
    "study: ..": (GOOD.replace("study: s", "study: .."), r"line 1, study: '\.\.' cannot name a folder"),
    "study: .": (GOOD.replace("study: s", "study: ."), "line 1, study: '.' cannot name a folder"),
    "study: a/b": (GOOD.replace("study: s", "study: a/b"), "line 1, study: 'a/b' cannot name a folder"),
    **{
        f"study: {name}": (GOOD.replace("study: s", f"study: {name}"), f"line 1, study: '{name}' is a folder that all")
        for name in ("data", "features", "costs", "splits", "bench")
    },
    "variant ''": (end("variants:\n  '': {parameters: {}}\n"), "line 9, .*cannot name a variant"),
    "variant a/b": (end("variants:\n  a/b: {parameters: {}}\n"), "line 9, .*'a/b' cannot name a variant"),
    # lists
    "method twice": (
        GOOD.replace("[projection]", "[projection, projection]"),
        "line 5, methods: projection is there 2",
    ),
    "epoch twice": (GOOD.replace("epochs: [1]", "epochs: [1, 1]"), "line 6, epochs: 1 is there 2 times"),
    "seed twice": (GOOD.replace("seeds: [0]", "seeds: [0, 0]"), "line 7, seeds: 0 is there 2 times"),
    "no epoch": (GOOD.replace("epochs: [1]", "epochs: []"), "line 6, epochs: is empty"),
    "no notebook": (GOOD.replace("notebooks:\n  clip_coco:", "notebooks: {}"), "line 3, notebooks: is empty"),
    "no report": (end("reports: []"), "line 8, reports: is empty"),
    "entry twice": (end("parameters: {tau: 1}\nparameters: {tau: 2}\n"), "line 9: 'parameters' is there twice"),
    "anchor in itself": (
        GOOD.replace("notebooks:", "notebooks: &a").replace("clip_coco:", "clip_coco: *a"),
        "holds itself",
    ),
    # names that stand for nothing
    "method": (GOOD.replace("projection", "projektion"), "line 5, .*no student 'projektion'. Known: attention"),
    "own method": (GOOD.replace("projection", "os:system"), "line 5, .*'os:system' is no student"),
    "no module": (GOOD.replace("projection", "nomod.x:Y"), "line 5, .*No module named 'nomod'.*PYTHONPATH"),
    "no class": (
        GOOD.replace("projection", '"kdlib.students.projection:Projektion"'),
        "line 5, .*no 'Projektion'.*It defines: Projection",
    ),
    "teacher": (GOOD.replace("clip_coco", "klip_coco"), "line 4, .*no teacher 'klip'. Known: beit"),
    "data set": (GOOD.replace("clip_coco", "clip_cocos"), "line 4, .*no dataset 'cocos'. Known: coco"),
    "notebook": (GOOD.replace("clip_coco", "clip_tinyimagenet"), r"line 4, .*no notebook .*clip_tinyimagenet\.ipynb"),
    "loss": (end("parameters:\n  objective: logit+kl\n"), "line 9, .*no loss 'logit'. Known: .*attention_transfer"),
    "own loss": (end("parameters:\n  objective: os:system\n"), "line 9, .*'os:system' is no loss"),
    "device": (end("parameters: {device: gpu}\n"), "line 8, .*no device 'gpu'; take auto, cpu"),
    "report": (end("reports: [summry]\n"), r"line 8, .*no notebook .*summry\.ipynb"),
    "by_method": (end("by_method: {cbam: {tau: 1}}\n"), "line 8, .*no method 'cbam'; it has projection"),
    # values
    "inf": (end("parameters:\n  tau: 3\n  lr_peak: .inf\n"), "line 10, .*must be a finite number"),
    "nan": (end("by_method:\n  projection: {weight_decay: .nan}\n"), "line 9, .*must be a finite number"),
    "memory": (end("memory_gb: .inf\n"), "line 8, memory_gb: .*finite number"),
    "threads": (end("parameters: {threads: 100000}\n"), "line 8, .*100000 threads on a machine of"),
    "seed -1": (GOOD.replace("seeds: [0]", "seeds: [-1]"), "line 7, seeds: .*greater than or equal to 0"),
    "unknown": (end("parameters:\n  tau: 2\n  lr: 1\n"), "(?s)line 10, parameters.lr: .*Known parameters: .*lr_peak"),
    "seed there": (end("parameters:\n  seed: 3\n"), "line 9, .*'seed' is no parameter: 'seeds' says it"),
    "study there": (end("parameters:\n  study: x\n"), "line 9, .*'study' is no parameter"),
    "variant there": (end("parameters:\n  variant: x\n"), "line 9, .*'variant' is no parameter"),
    "teacher there": (
        end("variants:\n  x:\n    parameters: {teacher: clip}\n"),
        "line 10, .*'teacher' is no parameter: the name of a notebook",
    ),
    # what is no study
    "list": (GOOD.replace("notebooks:\n  clip_coco:", "notebooks: [clip_coco]"), "line 3, notebooks: a list"),
    "list of parameters": (end("parameters: [1]\n"), "line 8, parameters: a list"),
    "list of a variant": (end("variants: {x: [1]}\n"), "line 8, variants.x: "),
    "number": (GOOD.replace("seeds: [0]", "seeds: 3"), "line 7, seeds: "),
    "YAML": ("study: [s\n", "line 2: expected"),
    "tag": (end("x: !!python/object/apply:os.system ['true']\n"), "line 8: could not determine a constructor"),
    "nothing": ("", "holds no study"),
    "name": (end("1: 2\n"), "name must be a word"),
}


@pytest.mark.parametrize("what", BAD)
def test_load__says_line_and_remedy(what, tmp_path):
    content, words = BAD[what]
    (tmp_path / "study.yaml").write_text(content)
    with pytest.raises(StudyError, match=words):
        study.load(tmp_path / "study.yaml")


def test_load__what_stands_beside_a_merged_mapping_replaces_its_entries(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        GOOD + "variants:\n  a: {parameters: &a {tau: 2, width: 64}}\n  b: {parameters: {<<: *a, tau: 3}}\n"
    )
    assert study.file.load(path).variants["b"].parameters == {"tau": 3, "width": 64}


def test_load__a_file_that_is_not_utf8_is_named_with_its_line(tmp_path):
    (tmp_path / "study.yaml").write_bytes(GOOD.encode() + b"# caf\xe9\n")
    with pytest.raises(StudyError, match=r"study\.yaml, line 8: not UTF-8 \(byte 0xe9\)"):
        study.load(tmp_path / "study.yaml")


@pytest.mark.parametrize("words", [["run"], ["run", "--plan"], ["status"]])
def test_cli__every_command_says_it_before_it_builds_anything(words, tmp_path):
    (tmp_path / "study.yaml").write_text(GOOD.replace("study: s", "study: .."))
    result = CliRunner().invoke(cli.app, [*words, str(tmp_path / "study.yaml")])
    assert isinstance(result.exception, StudyError) and "cannot name a folder" in str(result.exception)
    assert not list(tmp_path.glob("runs*")) and not list(tmp_path.glob("reports*"))
