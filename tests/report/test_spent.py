"""What a study cost: nothing is counted twice, and what is not known is not zero."""

import pytest

from kdlib.files import runs_root, write_atomic, write_json
from kdlib.report.spent import spent

STORE = {"store_seconds": 60.0, "store_bytes": 2e9, "fingerprints": "p q", "image_size": 48}


def experiment(**fields) -> dict:
    return STORE | {"train_seconds": 60.0} | fields


def executed(rows, seconds: float) -> None:
    """The notebooks that papermill left of the experiments."""
    for row in rows[rows.outcome == "ok"].itertuples():
        path = runs_root() / row.run / f"epoch-{row.epochs:04d}.ipynb"
        write_json(path, {"experiments": [], "metadata": {"papermill": {"duration": seconds}}})


def test_spent__a_store_that_experiments_share_is_counted_once(made_study):
    rows = made_study(
        experiment(), experiment(method="cbam"), experiment(variant="untrained_heads", store_seconds=30.0)
    )
    line = spent(rows).iloc[0]
    assert (line["what"], line["experiments"], line["features_minutes"], line["features_gb"]) == (
        "clip on coco",
        3,
        1.5,
        4.0,
    )


def test_spent__the_longer_training_holds_the_shorter(made_study):
    rows = made_study(experiment(epochs=5), experiment(epochs=10, train_seconds=120.0), experiment(epochs=5, seed=1))
    assert spent(rows).iloc[0].training_minutes == pytest.approx(3.0)


def test_spent__the_rest_is_what_the_notebooks_took_beyond_training(made_study):
    rows = made_study(experiment(), experiment(method="cbam"))
    assert spent(rows).isna().iloc[0].rest_minutes
    executed(rows, 90.0)
    assert spent(rows).iloc[0].rest_minutes == pytest.approx(1.0)


def test_spent__failed_experiments_are_not_counted(made_study):
    assert spent(made_study(experiment(), {"method": "cbam", "outcome": "error"})).experiments.tolist() == [1, 1]


def test_spent__decoded_images_are_one_line_a_data_set(made_study):
    rows = made_study(
        experiment(method="resnet"), experiment(method="resnet", teacher="blip"), experiment(method="cbam")
    )
    manifest = {"key": {"kind": "pixels", "dataset": "p", "size": 48}, "build_seconds": 30.0}
    manifest |= {"arrays": {"pixels": {"bytes": 10**9}}}
    write_json(runs_root() / "features" / "one" / "manifest.json", manifest)
    write_json(runs_root() / "features" / "other" / "manifest.json", manifest | {"key": manifest["key"] | {"size": 64}})
    for name, content in (("cut", '{"key": {'), ("list", "[1]"), ("empty", "")):
        write_atomic(runs_root() / "features" / name / "manifest.json", content)
    lines = spent(rows).set_index("what")
    line = lines.loc["decoded images of coco, for all teachers"]
    assert (line.features_minutes, line.features_gb) == (0.5, 1.0)
    assert "decoded images" not in " ".join(spent(made_study(experiment(method="cbam"))).what)


def test_spent__the_last_line_is_the_sum(made_study):
    rows = made_study(experiment(), experiment(teacher="dino", train_seconds=30.0))
    executed(rows, 60.0)
    frame = spent(rows).set_index("what")
    parts, total = frame.drop(index="together"), frame.loc["together"]
    for name in ("features_minutes", "training_minutes", "rest_minutes", "minutes", "features_gb", "runs_gb"):
        assert total[name] == pytest.approx(parts[name].sum()), name
    assert total.minutes == pytest.approx(total[["features_minutes", "training_minutes", "rest_minutes"]].sum())


def test_spent__runs_are_what_lies_on_the_disk(made_study):
    rows = made_study(experiment())
    before = spent(rows).runs_gb.iloc[0]
    write_atomic(runs_root() / rows.run.iloc[0] / "weights", b"x" * 5000)
    assert (spent(rows).runs_gb.iloc[0] - before) * 1e9 == pytest.approx(5000)
