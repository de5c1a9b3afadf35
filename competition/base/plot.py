"""Small pictures for notebooks and pages, each an inline <svg>: curves, a matrix, an interval, bars.

Text and lines have the colour of the text around them (currentColor) and the ground is transparent, so that they are read
in a light and in a dark notebook. The same values give the same bytes. Matplotlib draws them without pyplot: no global
figure, backend or setting is changed.
"""

import io
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from competition.base.files import sha256_bytes
from competition.base.page import Html

COLOURS = ("#3d85c6", "#e08a2e", "#4aa564", "#c2528b", "#8d6cc9", "#9a8a3c", "#3aa6a6", "#c75146")  # on light and dark
CURRENT = "#010203"  # drawn in this, what shall be in the colour of the text around it
COUNTED = 20  # classes up to which a matrix shows its counts
LONGEST = 24  # characters of a name that are shown
DOTS = 72  # an inch, so that a point is a pixel


def curves(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str) -> Html:
    """Draw a curve for each of `lines`, with a legend where there are several.

    Parameters
    ----------
    lines : dict of str to (x, y)
        Two sequences [n] of numbers for each curve; NaN leaves a gap.
    xlabel, ylabel : str
        Names of the axes, with their units.

    Returns
    -------
    Html
        An <svg>, 420 pixels wide.
    """
    figure, axes = _start(420, 230)
    for (label, (x, y)), colour in zip(lines.items(), _colours(len(lines))):
        marker = "o" if len(x) < 2 else None  # one point has no line
        axes.plot(x, y, color=colour, linewidth=1.6, label=_short(label), marker=marker, markersize=4)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(color=CURRENT, alpha=0.15, linewidth=0.8)
    if all(float(x).is_integer() for xs, _ in lines.values() for x in xs):
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(lines) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return _finish(figure, f"{ylabel} by {xlabel}")


def heatmap(matrix: Any, names: Sequence[str]) -> Html:
    """Draw a confusion matrix: rows are true classes, columns predicted ones, the darker the larger a row's share.

    Parameters
    ----------
    matrix : array_like of int [C, C]
        Images of each true class (row) that were taken for each class (column). Counts are shown up to 20 classes.
    names : sequence of str [C]
        The classes; of many not every one is written.

    Returns
    -------
    Html
        An <svg>, 260 to 520 pixels wide.
    """
    matrix, names = np.asarray(matrix), [_short(name) for name in names]
    n = len(matrix)
    cell = min(34, max(22, 400 // max(n, 1))) if n <= COUNTED else 360 / n
    figure, axes = _start(max(220, round(cell * n) + 70), max(150, round(cell * n) + 60), spines=False)
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    right = np.eye(n, dtype=bool)
    shades = np.zeros((n, n, 4))
    for where, colour in ((right, COLOURS[0]), (~right, COLOURS[1])):
        shades[where, :3] = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    shades[..., 3] = np.where(matrix > 0, 0.12 + 0.68 * share, 0.03)
    if n <= COUNTED:
        from matplotlib.patches import Rectangle

        for row, column in np.argwhere(matrix):
            place = (column - 0.47, row - 0.47)
            axes.add_patch(Rectangle(place, 0.94, 0.94, facecolor=shades[row, column], edgecolor="none"))
            axes.text(column, row, f"{matrix[row, column]}", ha="center", va="center", color=CURRENT, fontsize=10)
    else:
        axes.imshow(shades, interpolation="none")
    axes.set_xlim(-0.5, n - 0.5)
    axes.set_ylim(n - 0.5, -0.5)
    axes.set_aspect("equal")
    shown = range(0, n, max(1, -(-n // 25)))
    axes.set_xticks(shown, [names[i] for i in shown], rotation=0 if max(map(len, names)) <= 3 and n <= 20 else 90)
    axes.set_yticks(shown, [names[i] for i in shown])
    axes.tick_params(length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return _finish(figure, "confusion matrix")


def interval(expected: float, low: float, high: float, points: Iterable[float] = ()) -> Html:
    """Draw a forecast as a line from `low` to `high` with a dot at `expected`, and below it what `points` it rests on.

    Parameters
    ----------
    expected, low, high : float
        A score and its interval, in the units of the score.
    points : iterable of float
        Scores of single folds; those that are not finite are left out.

    Returns
    -------
    Html
        An <svg>, 360 pixels wide.
    """
    points = [float(point) for point in points if np.isfinite(point)]
    figure, axes = _start(360, 92 if points else 70, sides=("bottom",))
    axes.plot([low, high], [1, 1], color=COLOURS[0], linewidth=7, alpha=0.45, solid_capstyle="round")
    axes.plot([expected], [1], "o", color=COLOURS[0], markersize=9)
    axes.annotate(
        f"{expected:.3f}", (expected, 1), (0, 9), textcoords="offset points", ha="center", color=CURRENT, fontsize=11
    )
    rows, names = [1], ["forecast"]
    if points:
        axes.plot(points, [0] * len(points), "o", color=COLOURS[1], markersize=6, alpha=0.75, markeredgewidth=0)
        rows, names = [1, 0], ["forecast", "folds"]
    values = [expected, low, high, *points]
    margin = 0.06 * (max(values) - min(values)) or 0.01
    axes.set_xlim(min(values) - margin, max(values) + margin)
    axes.set_ylim(rows[-1] - 0.5, 2.0)
    axes.set_yticks(rows, names)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=CURRENT, alpha=0.15, linewidth=0.8)
    axes.set_axisbelow(True)
    return _finish(figure, f"{expected:.3f}, {low:.3f} to {high:.3f}")


def bars(values: Mapping[str, float]) -> Html:
    """Draw a horizontal bar for each value, in the order given, with its figure at its end.

    Parameters
    ----------
    values : dict of str to float
        What to call each bar, and how long it is.

    Returns
    -------
    Html
        An <svg>, 360 pixels wide and as tall as there are bars.
    """
    figure, axes = _start(360, 24 + 22 * max(len(values), 1), sides=("left",))
    names, lengths = [_short(name) for name in values], [float(value) for value in values.values()]
    axes.barh(range(len(names)), lengths, height=0.68, color=COLOURS[0], alpha=0.75)
    for place, value in enumerate(lengths):
        axes.annotate(
            f"{value:.3g}",
            (value, place),
            (4 if value >= 0 else -4, 0),
            textcoords="offset points",
            ha="left" if value >= 0 else "right",
            va="center",
            color=CURRENT,
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    least, most = min(lengths, default=0), max(lengths, default=1)
    room = 0.2 * (max(most, 0) - min(least, 0)) or 1
    axes.set_xlim(least - room if least < 0 else 0, max(most, 0) + room)
    axes.set_xticks([])
    axes.tick_params(length=0)
    return _finish(figure, ", ".join(f"{name} {value:.3g}" for name, value in zip(names, lengths)))


def _start(width, height, sides=("left", "bottom"), spines=True):
    """A figure of so many pixels, and its axes with lines on these sides alone."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / DOTS, height / DOTS), dpi=DOTS, layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    for side, spine in axes.spines.items():
        spine.set_visible(spines and side in sides)
    return figure, axes


def _colours(count):
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _short(name):
    name = " ".join(str(name).split())
    name = name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
    return name.replace("$", r"\$")  # else it begins a formula


def _finish(figure, title):
    """The <svg> of a figure: in the colour of the text around it, with ids that no other picture has."""
    import matplotlib

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "competition",
        "font.family": ["sans-serif"],
        "axes.unicode_minus": False,
    }
    _paint(figure)
    file = io.BytesIO()
    with warnings.catch_warnings(), matplotlib.rc_context(settings):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has it
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue().decode("utf-8")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    mark = sha256_bytes(text.encode("utf-8"))[:8]
    text = re.sub(r' id="([^"]+)"', lambda found: f' id="{found[1]}-{mark}"' if found[1] in used else "", text)
    text = re.sub(r'(url\(#|href="#)([^)"]+)', rf"\g<1>\g<2>-{mark}", text)
    text = re.sub(r'(<svg[^>]*?) width="([\d.]+)pt" height="([\d.]+)pt"', r'\1 width="\2" height="\3"', text)
    text = text.replace("*{stroke-linejoin: round; stroke-linecap: butt}", "")  # it would be that of the whole page
    text = re.sub(r"<style[^>]*>\s*</style>|<defs>\s*</defs>", "", text).replace(CURRENT, "currentColor")
    text = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", text)
    label = (
        f'<svg role="img" aria-label="{escape(title)}" style="max-width: 100%; height: auto; stroke-linejoin: round"'
    )
    return Html(text.replace("<svg", label, 1).strip())


def _paint(figure):
    """Text, ticks and lines of the axes in the colour that stands for the text's."""
    for axes in figure.axes:
        axes.tick_params(colors=CURRENT, labelsize=10)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_color(CURRENT)
            label.set_size(11)
        for spine in axes.spines.values():
            spine.set_color(CURRENT)
            spine.set_alpha(0.5)
        if axes.get_legend():
            for text in axes.get_legend().get_texts():
                text.set_color(CURRENT)
                text.set_size(10)
