"""What the tests of the notebook inside share: what its parts would show."""

import matplotlib.pyplot as plt
import pytest

from kdlib.report import display


@pytest.fixture
def shown(monkeypatch) -> list[str]:
    """What the parts show, as text: notices, words, captions of tables with their content, descriptions of figures."""
    said: list[str] = []
    for name in ("notice", "words"):
        monkeypatch.setattr(display, name, said.append)
    monkeypatch.setattr(
        display, "table", lambda frame, caption, *a, **k: said.append(f"{caption}\n{frame.to_string()}")
    )
    monkeypatch.setattr(display, "pictures", lambda parts, caption: said.append(f"{caption} {''.join(parts)}"))

    def draw(drawn, alt: str, *_) -> None:
        for narrow in (False, True):
            drawn(narrow).canvas.draw()
        plt.close("all")
        said.append(alt)

    monkeypatch.setattr(display, "figure", draw)
    return said
