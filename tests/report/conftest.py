"""What the tests of pages share: what a notebook would show, and a finished study with the files of its report."""

import pandas as pd
import pytest

from kdlib.files import reports_root
from kdlib.report import display, one_study
from kdlib.report.claims import judge
from kdlib.report.verdicts import verdicts

FACTS = {"score_on": "test", "untrained_teacher": False, "skipped_images": 0, "exposure": "none", "commit": "abc"}
FACTS |= {"left_out_images": 0, "left_out": "", "duplicate_images": 0, "reference": "", "images": 200}
SPENT = {"train_seconds": 60.0, "store_bytes": 1e6, "fingerprints": "p", "image_size": 48}


@pytest.fixture
def shown(monkeypatch) -> list[str]:
    """The markup that a notebook would display; the page is begun, with no folder."""
    outputs: list[str] = []
    monkeypatch.setattr(display, "display", lambda content, **_: outputs.append(content.data))
    display.begin()
    return outputs


@pytest.fixture
def study(made_study):
    """``study({...}, ...)``: experiments as of made_study, and what ``kdlib report`` puts beside them."""

    def make(*experiments: dict) -> one_study.Study:
        rows = made_study(*({**FACTS, **SPENT, **experiment} for experiment in experiments))
        name = rows.study.iloc[0]
        folder = reports_root() / name
        verdicts(rows).to_csv(folder / "verdicts.csv", index=False)
        judge(rows).to_csv(folder / "claims.csv", index=False)
        return one_study.read(name)

    return make


@pytest.fixture
def table_of_file():
    """``table_of_file(study, 'main')``: the numbers of a table, from the file beside the page."""
    return lambda study, name, **options: pd.read_csv(study.folder / "figures" / f"{name}.csv", **options)
