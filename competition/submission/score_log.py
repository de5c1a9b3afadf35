"""`submissions/log.csv`: every output that was made with its forecast, and the scores that came back.

A line is only ever added: one when a zip, a CSV or a kernel is made, one for each score. They belong together by the
sha256 of that file, of a kernel by that of its dataset's toolkit.zip.
"""

import csv
import datetime
import io
import math
import os
import re
from pathlib import Path

import pandas as pd

from competition.base import files
from competition.base.files import InputError, sha256_file
from competition.base.metrics import METRICS
from competition.base.text import text_table
from competition.base.workspace import Workspace

COLUMNS = ("date", "zip", "sha256", "metric", "forecast", "low", "high", "hidden_n", "phase", "value")


def log_submission(path, record, workspace=Workspace()):
    """Add a line for what was made, from its record (record.record_of); none when it is the very last one."""
    forecast = record["forecast"] or {}
    row = {
        "zip": Path(path).name,
        "sha256": record["sha256"],
        "metric": record["metric"],
        "forecast": forecast.get("expected"),
        "low": forecast.get("low"),
        "high": forecast.get("high"),
        "hidden_n": forecast.get("hidden_n"),
    }
    made = [line for line in read_log(workspace) if not line["value"]]
    if not made or any(made[-1][key] != _text(value) for key, value in row.items()):
        _add(row, workspace)


def keep_older(path, record, fresh):
    """Move another file than `fresh` away from `path`, with its `record`: it may have been handed in, and its score come.

    It is called <name>-<the first 8 digits of its sha256>, which a line says.
    """
    path, record = Path(path), Path(record)
    if not path.exists() or (sha256 := sha256_file(path)) == sha256_file(fresh):
        return
    kept = f"{path.stem}-{sha256[:8]}"
    if record.exists():
        os.replace(record, record.with_name(kept + record.name.removeprefix(path.stem)))
    os.replace(path, path.with_name(kept + path.suffix))
    print(f"{path.with_name(kept + path.suffix)}: what lay at {path} until now")


def log_score(zip_path=None, phase="", value=None, workspace=Workspace()):
    """Add the score that came back for a zip to the log, and print the table of forecasts and scores.

    zip_path  the zip or CSV that was handed in, byte for byte, or a kernel's toolkit.zip, or the first digits of its
              sha256, eight at least; None: print the table alone
    phase     what the competition calls the test; a later score of the same phase takes the place of an earlier one
    value     of the competition's metric, as a share where it is one
    workspace whose log it is

    InputError for a zip that the log does not know, and for a value that cannot be one.
    """
    rows = read_log(workspace)
    if zip_path:
        made = _find(zip_path, rows, workspace)
        _add(
            {key: made[key] for key in COLUMNS if key != "date"}
            | {"phase": phase or "test", "value": _read_value(value, METRICS[made["metric"]])},
            workspace,
        )
        rows = read_log(workspace)
    elif value or phase:
        raise InputError("ZIP= is missing, expected the zip that was handed in: ZIP=submissions/plants.zip")
    if not rows:
        raise InputError(f"{workspace.score_log}: no submission yet; `make submission` makes one")
    frame = compare_scores(rows)
    print(text_table(frame))
    return frame


def compare_scores(rows):
    """The log's lines as a table: a row for each zip and phase, forecast beside score."""
    scores = {(row["sha256"], row["phase"]): row for row in rows if row["value"]}
    scored = {sha256 for sha256, _ in scores}
    waiting = {row["sha256"]: row for row in rows if row["sha256"] not in scored}
    shown = []
    for row in (*scores.values(), *waiting.values()):
        line = {
            "date": row["date"][:10],
            "zip": row["zip"],
            "sha256": row["sha256"][:8],
            "metric": row["metric"],
            "forecast": "",
            "90 % of tests": "",
            "phase": row["phase"] or "-",
            "score": "",
            "off by": "",
            "inside": "",
        }
        if row["forecast"]:
            expected, low, high = (float(row[key]) for key in ("forecast", "low", "high"))
            line |= {"forecast": f"{expected:.4f}", "90 % of tests": f"{low:.4f} to {high:.4f}"}
        if row["value"]:
            value = float(row["value"])
            line["score"] = f"{value:.4f}"
            if row["forecast"]:
                line |= {"off by": f"{value - expected:+.4f}", "inside": "yes" if low <= value <= high else "no"}
        shown.append(line)
    return pd.DataFrame(shown)


def read_log(workspace=Workspace()):
    """The log's lines, dicts of COLUMNS, all text; none where there is no log. InputError for a file that is not one."""
    path = workspace.score_log
    if not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV that can be read: {error}") from None
    for number, row in enumerate(rows):
        if damaged := _find_damage(row):
            raise InputError(f"{path}: score {number + 1}: {damaged}; expected what this toolkit writes: bring it back")
    if any(set(row) != set(COLUMNS) or None in row.values() for row in rows):
        raise InputError(f"{path}: expected the columns {', '.join(COLUMNS)}, as this toolkit writes them")
    return rows


def _find_damage(row):
    """What is no number or no metric in a line of the log, in words; "" for a good one, and for other columns."""
    for name in ("forecast", "low", "high", "value"):
        text = row.get(name) or ""
        try:
            number = float(text or 0)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number) or not text and name != "value" and bool(row.get("forecast")):
            return f"{name} is {text!r}"
    return "" if (row.get("metric") or "accuracy") in METRICS else f"metric is {row['metric']!r}"


def _find(zip_path, rows, workspace):
    """The latest line of a zip, by its content."""
    if not Path(zip_path).is_file():
        digits = re.fullmatch(r"[0-9a-f]{8,64}", str(zip_path))
        if digits and (found := [row for row in rows if row["sha256"].startswith(digits[0])]):
            return found[-1]
        raise InputError(
            f"ZIP={zip_path}: no such file, expected the zip or CSV that was handed in, or the first "
            "eight digits of its sha256 as the table has them"
        )
    sha256 = sha256_file(zip_path)
    found = [row for row in rows if row["sha256"] == sha256]
    if not found:
        known = ", ".join(sorted({f"{row['zip']} ({row['sha256'][:8]})" for row in rows})) or "none yet"
        raise InputError(
            f"ZIP={zip_path}: its sha256 {sha256[:8]} is not in {workspace.score_log}, expected one of {known}"
        )
    return found[-1]


def _read_value(value, metric):
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"VALUE={value or ''}: expected the score that came back, such as 0.871") from None
    if not metric.low <= number <= metric.high:
        raise InputError(
            f"VALUE={value}: expected {metric.name} from {metric.low:g} to {metric.high:g}"
            + (", a share and not per cent" if metric.high == 1 < number <= 100 else "")
        )
    return number


def _add(row, workspace):
    path, now = workspace.score_log, datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if not path.exists():
        writer.writeheader()
    writer.writerow({key: _text(value) for key, value in ({"date": now, "phase": "", "value": ""} | row).items()})
    before = path.read_bytes() if path.exists() else b""
    files.write_bytes(path, before + text.getvalue().encode("utf-8"))


def _text(value):
    return "" if value is None else str(value)
