"""Text, tables and pictures as HTML: one page in a single file, which any browser opens, or a part of a notebook."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from competition.base.files import write_text

QUALITY = 85  # of the pictures' JPEG
STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 76em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .2em .7em; text-align: right; white-space: nowrap }
tr:nth-child(even) { background: #f3f3f3 } th { border-bottom: 1px solid #888 }
td:first-child, th:first-child { text-align: left }
.grid { display: flex; flex-wrap: wrap; gap: 4px } img { display: block; image-rendering: pixelated }
figure { margin: 0 8px 8px 0 } figure div { display: flex; gap: 2px }
figcaption { font-size: 12px; overflow-wrap: anywhere }
"""
NOTEBOOK_STYLE = """
.toolkit .grid { display: flex; flex-wrap: wrap; gap: 4px } .toolkit img { display: block; margin: 0 }
.toolkit figure { margin: 0 8px 8px 0 } .toolkit figure div { display: flex; gap: 2px }
.toolkit figcaption { font-size: 12px; overflow-wrap: anywhere }
"""


class Html(str):
    """Text that is HTML already; all other text is escaped. A notebook shows it as such."""

    def _repr_html_(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return f"<Html of {len(self)} characters>"


@dataclass(frozen=True, repr=False, eq=False)
class Page:
    """A page that was written, to look at in a notebook or a browser.

    Attributes
    ----------
    path : pathlib.Path
        The HTML file.
    frame : pandas.DataFrame
        The figures behind it.
    """

    path: Path
    frame: pd.DataFrame

    def __repr__(self) -> str:
        return f"Page {self.path}\n{self.frame.head()}"

    def _repr_html_(self) -> str:
        content = escape(self.path.read_text("utf-8"), quote=True)
        return f'<iframe srcdoc="{content}" style="width: 100%; height: 40em; border: 1px solid #8888"></iframe>'


def picture(pixels, title="", height=None):
    """An image uint8 [h, w, 3] as an Html <img>; `title` shows under the pointer, `height` is that on the screen."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=QUALITY)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    shown = f' height="{height}"' if height else ""
    return Html(f'<img src="data:image/jpeg;base64,{data}" title="{escape(title)}" alt="{escape(title)}"{shown}>')


def figure(pictures, caption):
    """Pictures side by side with a line below."""
    width = f' style="width: min-content; min-width: {96 * len(pictures)}px"'
    return Html(f"<figure{width}><div>{''.join(pictures)}</div><figcaption>{_html(caption)}</figcaption></figure>")


def grid(parts):
    return Html(f'<div class="grid">{"".join(parts)}</div>')


def table(rows, decimals=2):
    """Dicts of the same keys, a row each; floats with so many decimals. (A DataFrame would make plain text of Html.)"""

    def cell(value):
        return f"{value:.{decimals}f}" if isinstance(value, (float, np.floating)) else _html(value)

    lines = ["".join(f"<th>{_html(key)}</th>" for key in rows[0])]
    lines += ["".join(f"<td>{cell(value)}</td>" for value in row.values()) for row in rows]
    return Html("<table>\n" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "\n</table>")


def facts(rows: Iterable[tuple[str, str]]) -> Html:
    """Names and what is said of each, a row each."""
    lines = (
        f'<tr><th style="text-align: left">{_html(name)}</th><td style="text-align: left">{_html(said)}</td></tr>'
        for name, said in rows
    )
    return Html(f"<table>{''.join(lines)}</table>")


def snippet(parts: Sequence[str]) -> Html:
    """`parts` as a part of a notebook: strings as paragraphs, Html as it is."""
    return Html(f'<div class="toolkit"><style>{NOTEBOOK_STYLE}</style>{_join(parts)}</div>')


def heading(text):
    return Html(f"<h2>{_html(text)}</h2>")


def write_page(path, title, parts):
    """Write `parts` below a title, strings as paragraphs, Html as it is."""
    body = _join(parts)
    write_text(
        path,
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n",
    )


def _join(parts):
    return "\n".join(part if isinstance(part, Html) else f"<p>{escape(part)}</p>" for part in parts)


def _html(value):
    return value if isinstance(value, Html) else escape(str(value))
