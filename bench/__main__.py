"""`make bench`: measure every theme side by side, print one table, append a row a figure to bench/results.csv."""

import contextlib
import datetime
import importlib.util
import io
import os
import platform
import re
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

import pandas as pd
from tqdm import tqdm

from bench.figures import Figure, Options
from bench.tools import deal, describe_gpu, measure_theme, stream_apart
from competition.base import files
from competition.base.backend import bfloat16_units
from competition.base.files import InputError
from competition.base.text import text_table
from competition.cli.options import Option, Verb
from competition.cli.parser import Parser, add_options, to_flags
from competition.trials.sample import write_sample

THEMES = ("frozen", "heads", "finetune", "startup", "step", "accuracy", "prediction", "scale", "workers", "gpu")
WITHOUT = ("gpu",)  # themes that run under whatever backend of Keras there is
BESIDE = ("torch", "torchvision", "timm", "jax", "opencv-python-headless")  # measured beside, or drawn by
RESULTS = Path(__file__).parent / "results.csv"
SAMPLE = Path("sample/data")  # where `make demo` draws it too
FAILED = "failed"
SHOWN = 60  # characters of a note in the printed table; all of it is in results.csv

BENCH = Verb(
    "bench",
    "measure speed, memory and scale beside a plain Keras loop",
    ("", "DATA=photos.zip QUICK=1"),
    (
        Option("data", "a folder of class folders, a zip of one, or a CSV", otherwise="the sample"),
        Option("only", f"some of the themes: {', '.join(THEMES)}", otherwise="all", metavar="A,B"),
        Option("results", "the CSV to append to", str(RESULTS)),
        Option("quick", "shorter runs, 5 minutes on 2 cores", False, kind="switch"),
        Option("long", "nothing extrapolated, the largest sizes", False, kind="switch"),
    ),
)


def main(arguments=None):
    """Measure; the exit code: 0, 1 when a theme failed, 2 after one line about wrong input, 130 after Ctrl-C."""
    parser = Parser(prog="python -m bench", description=__doc__)
    add_options(parser, BENCH)
    try:
        options = parser.parse_args(to_flags(BENCH, sys.argv[1:] if arguments is None else arguments))
        if options.quick and options.long:
            raise InputError("QUICK=1 and LONG=1: expected one of them")
        return bench(options.data, options.quick, options.long, options.only, Path(options.results))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped; the rows so far are in {options.results}", file=sys.stderr)
        return 130


def bench(data=None, quick=False, long=False, only=None, results=RESULTS):
    """Run the themes, each in a process of its own, append their rows to `results` as they come, print the table.

    data   folder of class folders, zip or CSV; default: the sample competition, drawn into sample/data
    only   names of THEMES with commas; default: all

    A theme that fails leaves a row that says so, and the others still run. Returns the exit code; InputError for data
    and names that cannot be used.
    """
    themes = only.split(",") if only else list(THEMES)
    if unknown := [theme for theme in themes if theme not in THEMES]:
        raise InputError(f"ONLY={only}: found {', '.join(unknown)}, expected names out of {', '.join(THEMES)}")
    data = Path(os.path.abspath(os.path.expanduser(data))) if data else _draw_sample()
    mode = "quick" if quick else "long" if long else "default"
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        same = {
            "mode": mode,
            "data": _describe_data(data, place),
            "hardware": describe_hardware(),
            "versions": "; ".join(f"{name} {version}" for name, version in _versions().items()),
        }
        for theme in (bar := tqdm(themes, "bench", unit="theme")):
            bar.set_description(f"bench {theme}")
            work = Path(place, theme)
            work.mkdir()
            for figure in run_theme(theme, Options(data, work, quick, long)):
                rows.append(describe(figure) | same)
                append_row(results, rows[-1])
                tqdm.write(f"{rows[-1]['figure']}: {rows[-1]['ours'] or rows[-1]['note']} {rows[-1]['unit']}")
    print("\n" + show(rows) + f"\n\n{same['data']}; {same['hardware']}; {mode}\nall of it: {results}")
    return int(any(row["reached"] == FAILED for row in rows))


def run_theme(theme, options):
    """Yield the Figures of a theme as they come; when it fails, a last one whose note begins with "failed: ".

    Without TensorFlow, which every theme but those of WITHOUT is measured with, there is one that is absent.
    """
    if theme not in WITHOUT and not importlib.util.find_spec("tensorflow"):
        yield Figure(theme, "", None, note="TensorFlow is not importable, which this theme is measured with")
        return
    try:
        yield from stream_apart(measure_theme, theme, options)
    except RuntimeError as error:
        yield Figure(theme, "", None, note=f"{FAILED}: {error}")


def describe(figure):
    """A Figure as the texts of a row: six significant digits, "" for what there is not."""

    def number(value):
        return "" if value is None else f"{value:.6g}"

    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "figure": figure.name,
        "ours": number(figure.ours),
        "reference": number(figure.reference),
        "unit": figure.unit,
        "ratio": number(figure.ratio),
        "target": figure.target,
        "reached": is_reached(figure),
        "n": str(figure.n),
        "note": figure.note,
    }


def is_reached(figure):
    """ "yes" or "no", "" without a target, "absent" without a measurement, "failed" when it broke."""
    if figure.ours is None:
        return FAILED if figure.note.startswith(FAILED) else "absent"
    if not figure.target:
        return ""
    sign, bound = re.fullmatch(r"([<>]=) (-?[\d.]+)", figure.target).groups()
    value = figure.ours if figure.reference is None else figure.ratio
    if value is None:  # nothing can be said beside a reference of 0
        return "absent"
    return "yes" if (value <= float(bound) if sign == "<=" else value >= float(bound)) else "no"


def append_row(path, row):
    """Append a row to the CSV in one step; a table of other columns keeps them, and what it lacks stays empty."""
    new = pd.DataFrame([row])
    if path.exists():
        new = pd.concat([pd.read_csv(path, dtype=str, keep_default_na=False), new]).fillna("")
    files.write_bytes(path, files.csv_bytes(new))


def show(rows):
    """The rows as an aligned table, long notes cut."""
    columns = ["figure", "ours", "reference", "unit", "ratio", "target", "reached", "n", "note"]
    frame = pd.DataFrame(rows, columns=columns).astype(str)
    for column in ("ours", "reference", "ratio"):
        frame[column] = [f"{float(text):.4g}" if text else "" for text in frame[column]]
    long = frame["note"].str.len() > SHOWN
    frame.loc[long, "note"] = frame["note"].str.slice(0, SHOWN - 3) + "..."
    return text_table(frame)


def describe_hardware():
    """Processor, cores, memory and GPU of this machine, as one line."""
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores, {gigabytes:.0f} GiB, {describe_gpu()}"


def _versions():
    """What the toolkit works with, and what it is measured beside, where that is installed."""
    return files.versions() | files.versions(BESIDE)


def _processor():
    """The processor's name; family and model where it says them, which tell more; and its units for bfloat16."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = (line.partition(":")[::2] for line in Path("/proc/cpuinfo").read_text().splitlines())
        said = {key.strip(): value.strip() for key, value in lines}
        name = said.get("model name", name)
        if "cpu family" in said and "model" in said:
            name += f" (family {said['cpu family']} model {said['model']})"
    return f"{name}, {' and '.join(bfloat16_units()) or 'no bfloat16 units'}"


def _describe_data(data, place):
    """Name, number of images and size; InputError here, before anything is measured, for data that cannot be used."""
    with contextlib.chdir(place), contextlib.redirect_stdout(io.StringIO()):
        table = deal(data, "data")
    name = "sample" if data == SAMPLE.absolute() / "train" else data.stem
    return f"{name}, {len(table.images)} images, {len(table.classes)} classes, {table.size[0]}x{table.size[1]}"


def _draw_sample():
    return write_sample(SAMPLE).absolute() / "train"


if __name__ == "__main__":
    sys.exit(main())
