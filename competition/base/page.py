"""One page of text, tables and pictures in a single HTML file, which any browser opens, with or without a network."""

import base64
import io
from html import escape

import numpy as np
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


class Html(str):
    """Text that is HTML already; all other text is escaped."""


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


def heading(text):
    return Html(f"<h2>{_html(text)}</h2>")


def write_page(path, title, parts):
    """Write `parts` below a title, strings as paragraphs, Html as it is."""
    body = "\n".join(part if isinstance(part, Html) else f"<p>{escape(part)}</p>" for part in parts)
    write_text(
        path,
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n",
    )


def _html(value):
    return value if isinstance(value, Html) else escape(str(value))
