"""What every page is made of: figures with a description, tables with a caption, words, notices."""

import base64
import html
import io
import re

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML, display

INTERVAL = re.compile(r"\[([^\s\[\],]+), ([^\s\[\],]+)\]")  # is not broken across lines
OBSOLETE = re.compile(r' [hv]align="\w+"')  # of pandas, and not of HTML
HEADER = re.compile(r"<th(?=[ >])")


def figure(drawn, alt: str, photographs: bool = False) -> None:
    """Show a figure with alternative text, and close it: a PNG, or a JPEG where ``photographs`` fill it.

    A page of photographs as PNG would be too large to be sent.
    """
    buffer, kind = io.BytesIO(), "jpeg" if photographs else "png"
    # Colours in full resolution: lines and letters have no fringes.
    given = {"quality": 88, "subsampling": 0} if photographs else {}
    drawn.savefig(buffer, format=kind, facecolor="white", pil_kwargs=given)
    plt.close(drawn)
    data = {f"image/{kind}": base64.b64encode(buffer.getvalue()).decode(), "text/plain": alt}
    display(data, metadata={f"image/{kind}": {"alt": alt}}, raw=True)


def table(
    frame: pd.DataFrame, caption: str, index: bool = True, digits: int = 3, folded: str = "", prose: bool = False
) -> None:
    """Show a table with its caption; a wide one scrolls in its own box, with the keyboard too.

    Behind a line ``folded`` that opens it, where that is given; ``prose`` sets words instead of numbers.
    """
    markup = frame.to_html(
        index=index,
        border=0,
        classes="prose" if prose else None,
        float_format=lambda value: f"{value:.{digits}f}",
        na_rep="–",
    )
    markup = INTERVAL.sub("[\\1,&nbsp;\\2]", markup).replace(" ± ", "&nbsp;±&nbsp;")
    head, body = OBSOLETE.sub("", markup).split("</thead>", 1)
    start = head.index(">") + 1
    head = f"{head[:start]}<caption>{html.escape(caption)}</caption>{head[start:]}".replace("<th></th>", "<td></td>")
    head, body = HEADER.sub('<th scope="col"', head), HEADER.sub('<th scope="row"', body)
    markup = f"{head}</thead>{body}"
    markup = f'<div class="table" tabindex="0" role="region" aria-label="{html.escape(caption)}">{markup}</div>'
    display(HTML(f"<details><summary>{html.escape(folded)}</summary>{markup}</details>" if folded else markup))


def markup(text: str) -> None:
    """Show HTML as it stands; what comes from data must have been escaped."""
    display(HTML(text))


def words(text: str) -> None:
    """Show a paragraph."""
    display(HTML(f"<p>{html.escape(text)}</p>"))


def notice(text: str) -> None:
    """Show a warning that stays in the report."""
    # The page's own style sheet is not there in JupyterLab, so that the mark is on the paragraph itself.
    mark = "border-left: 4px solid #b7791f; padding: 0.4em 0.8em"
    display(HTML(f'<p class="notice" style="{mark}">{html.escape(text)}</p>'))
