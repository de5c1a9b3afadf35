"""Diagnose any submission zip, the toolkit's own or one made by hand, in words that a beginner understands.

`make check ZIP=` reads the zip (reading.py, model_code.py), runs it as a scorer would (rehearsal.py), looks at what it
answers (answers.py), and where a competition's labelled images are at hand compares with the truth (diagnose.py).
Everything that can be found is listed, not only the first; a zip that cannot run is not run.
"""

import os
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

from competition.base import files, page
from competition.base.archives import member_pieces
from competition.base.arrays import gigabytes, read_memory
from competition.base.files import InputError, sha256_file
from competition.base.option_values import parse_size, whole_number
from competition.base.text import text_table
from competition.base.workspace import Workspace
from competition.checking import reading
from competition.checking.answers import FEW, PROBES, ask_again, check_probes, check_repeats, check_shape, read_as_ids
from competition.checking.diagnose import VERSIONS
from competition.checking.finding import FAILED, OK, SKIPPED, WARNING, Finding
from competition.checking.reading import check_imports, check_keras
from competition.checking.remedies import explain_error
from competition.data.images import load_images
from competition.data.table import choose_sample, read_folds
from competition.formats import codabench, codalab
from competition.rehearsal.rehearsal import Conditions, Job, RehearsalError, run_isolated
from competition.rehearsal.sandbox import NONE, find_level
from competition.rehearsal.scorer_environments import find_python, read_releases
from competition.submission.limits import Cost, Limits, read_limits

LAYOUTS = {layout.format: layout for layout in (codalab.LAYOUT, codabench.LAYOUT)}
NOISE = 64  # images where no labelled ones are at hand
LEAST, MOST, EACH = 200, 1000, 10  # labelled images: ten a class, within these
BUDGET = 90  # seconds that all labelled images may take, and all their versions
SECONDS = 900  # that a whole run may take
HIDDEN = 1000  # images of the hidden test where nothing says how many
SIZE = (96, 96)


@dataclass(frozen=True)
class Sample:
    """The images that a zip is asked about, the classes in turn; labels None for noise."""

    images: np.ndarray  # uint8 [n, h, w, 3]
    labels: np.ndarray | None  # int64 [n]
    classes: list | None
    where: str  # what they are, in words
    hidden_n: int = HIDDEN


@dataclass(frozen=True, eq=False)
class ZipReport:
    """What `check_zip` found in a zip.

    Attributes
    ----------
    path : pathlib.Path
        The zip.
    title : str
        One line: what the zip was checked as, by which Python, on which images.
    lines : list of Finding
        The findings in the order in which they were made.
    record : dict
        The record that this toolkit wrote beside a zip of these bytes, or {}.
    """

    path: Path
    title: str
    lines: list[Finding] = field(repr=False)
    record: dict = field(repr=False)

    @property
    def findings(self) -> pd.DataFrame:
        """A row a finding, all text: check, result (ok, warning, FAILED or not checked), found, advice."""
        columns = ["check", "result", "found", "advice"]
        return pd.DataFrame([[getattr(one, name) for name in columns] for one in self.lines], columns=columns)

    @property
    def failed(self) -> list[str]:
        """What was found wrong, a text for each check that failed."""
        return [one.found for one in self.lines if one.result == FAILED]

    @property
    def passed(self) -> bool:
        """Whether no check failed; warnings do not count."""
        return not self.failed

    def __repr__(self) -> str:
        parts = [f"{self.title}\n", text_table(self.findings[["check", "result", "found"]])]
        for one in self._advised:
            parts.append(f"\n{one.check}: {one.found}.\n  {one.advice}")
        if self._forecast:
            parts.append(f"\n{self._forecast}")
        return "\n".join(parts)

    def _repr_html_(self) -> str:
        rows = [
            {
                "check": one.check,
                "result": page.Html(f"<b>{one.result}</b>") if one.result == FAILED else one.result,
                "found": _wrapped(one.found),
                "advice": _wrapped(one.advice if one in self._advised else ""),
            }
            for one in self.lines
        ]
        lines = [f"<p>{escape(line)}</p>" for line in (self.title, self._forecast) if line]
        return f"<div>{lines[0]}\n{page.table(rows)}\n{''.join(lines[1:])}</div>"

    @property
    def _advised(self):
        return [one for one in self.lines if one.advice and one.result in (FAILED, WARNING)]

    @property
    def _forecast(self):
        """What the record foretells, as a line; "" where there is none."""
        forecast = self.record.get("forecast")
        return (
            ""
            if not forecast
            else (
                f"its record: {self.record['source']}, forecast {self.record['metric']} {forecast['expected']:.4f}, "
                f"{forecast['low']:.4f} to {forecast['high']:.4f} on {forecast['hidden_n']} hidden images"
            )
        )


def _wrapped(text):
    """Text that a table breaks into lines."""
    style = "white-space: normal; text-align: left; max-width: 32em"
    return page.Html(f'<div style="{style}">{escape(text)}</div>')


def print_check(
    zip_path,
    format=None,
    name=None,
    scorer=None,
    size=None,
    hidden_n=None,
    max_mb=None,
    max_seconds=None,
    max_memory=None,
    trust=False,
    workspace=Workspace(),
):
    """Print what check_zip reports of a zip, with a remedy for whatever is wrong.

    Parameters
    ----------
    zip_path, format, name, scorer, size, hidden_n, max_mb, max_seconds, max_memory, trust, workspace
        As of `check_zip`.

    Returns
    -------
    ZipReport

    Raises
    ------
    InputError
        Checks failed, which the line names, or as of `check_zip`.
    """
    report = check_zip(
        zip_path, format, name, scorer, size, hidden_n, max_mb, max_seconds, max_memory, trust, workspace
    )
    print(f"{report}\n", flush=True)
    if failed := report.failed:
        raise InputError(
            f"{report.path}: {len(failed)} {'checks' if failed[1:] else 'check'} failed: {'; '.join(failed)}"
        )
    return report


def check_zip(
    zip_path: str | os.PathLike[str],
    format: str | None = None,
    name: str | None = None,
    scorer: str | None = None,
    size: str | int | Sequence[int] | None = None,
    hidden_n: int | str | None = None,
    max_mb: float | str | None = None,
    max_seconds: float | str | None = None,
    max_memory: str | None = None,
    trust: bool = False,
    workspace: Workspace | None = None,
) -> ZipReport:
    """Find what is wrong with a submission's zip, whoever made it; nothing is printed of it.

    The zip is read, then run by a fresh, isolated Python as a scorer runs it. Where there is a fold table its ids are
    compared with the labels. Without one the zip is asked about images of noise, and nothing says whether its ids are
    right.

    Parameters
    ----------
    zip_path : path
        The zip; ``model.py`` lies in it, alone or in one folder.
    format : {"codalab", "codabench"}, optional
        By default guessed from the zip.
    name : str, optional
        The fold table whose images and labels it is asked about. By default the only one of the workspace; without any,
        and without a workspace, noise.
    scorer : str, optional
        Which Python runs it: the path of an interpreter, or releases such as "tensorflow==2.12.1", for which an
        environment is built once. By default the Python that is running.
    size : int, (int, int) or str, optional
        Height and width of the images, pixels. By default those of the fold table; of noise 96 x 96.
    hidden_n : int, optional
        Images of the hidden test, for which time and memory are reckoned. By default as its record says, else as many
        as a fold has, else 1000.
    max_mb, max_seconds : float, optional
        Limits of the competition: size of the zip in MB (10^6 bytes), seconds for the whole hidden test.
    max_memory : str, optional
        Limit of its memory, such as "512M" or "4G". A zip that takes more is stopped.
    trust : bool, default False
        Run a zip that this toolkit did not make even where this machine cannot keep its code apart.
    workspace : Workspace, optional
        Where the fold table and the scorers' environments lie: the attribute `workspace` of a Competition. By default no
        fold table is looked for, and environments are built in the current folder.

    Returns
    -------
    ZipReport
        Its findings, and whether all checks passed.

    Raises
    ------
    InputError
        The zip does not exist, an argument cannot be used, or `trust` is asked for. What is wrong inside the zip is a finding.

    Examples
    --------
    >>> from competition import check_zip
    >>> report = check_zip("mine.zip", size=224)  # doctest: +SKIP
    >>> report.passed, report.findings.query("result == 'FAILED'")  # doctest: +SKIP
    """
    path = Path(zip_path)
    if not path.is_file():
        what = "a folder; zip what is in it" if path.is_dir() else "no such file"
        raise InputError(f"ZIP={zip_path}: {what}, expected a submission's zip")
    if format and format not in LAYOUTS:
        raise InputError(f"FORMAT={format}: expected one of {', '.join(LAYOUTS)}, whose submissions are zips with code")
    limits = read_limits(max_mb, max_seconds, max_memory)
    releases = read_releases(scorer)
    record = _read_record(path)
    sample = take_sample(name, size, Workspace() if name and not workspace else workspace)
    count = whole_number("HIDDEN_N", hidden_n, 1, 10**9) if hidden_n else _hidden_n(record, sample)

    read = reading.read_zip(path, format or record.get("format"), LAYOUTS)
    if not format and record:
        read.why = f"{path.with_suffix('.json')} says so"
    findings = read.findings
    python = _check_scorer(read, scorer, releases, workspace or Workspace())
    if not any(finding.check == "zip" and finding.stops for finding in findings):
        findings += _over(
            Limits(megabytes=limits.megabytes),
            Cost(path.stat().st_size, 0, 0),
            "size",
            f"{path.stat().st_size / 1e6:.1f} MB",
        )
    if read.stopped:
        read.add("run", SKIPPED, "not run: it could not, as it is")
    else:
        level = _find_sandbox(python)
        if not (level.isolated or record or trust):
            raise InputError(
                f"ZIP={path}: not run, as this machine cannot keep its code apart and this toolkit did not make it; "
                "expected TRUST=1 where you trust whoever did"
            )
        findings.append(_describe_sandbox(level))
        findings += _run(path, read, sample, python, count, limits)
    by = scorer or "the project's own Python"
    title = f"{path}: checked as FORMAT={read.format} ({read.why}), by {by}, on {sample.where}"
    return ZipReport(path, title, findings, record)


def _find_sandbox(python):
    try:
        return find_level(python)
    except OSError:  # it does not start, which the run tells
        return NONE


def _describe_sandbox(level):
    if level.isolated:
        return Finding("isolation", OK, f"{level.words}: it sees no file of yours, no process and no network")
    return Finding(
        "isolation",
        WARNING,
        "NOT isolated: its code can read and change what you can",
        "What its Python code does is watched, what native code does is not. Linux with bubblewrap (`bwrap`), or with "
        "user namespaces allowed, keeps it apart.",
    )


def _read_record(path):
    """The record that the toolkit wrote beside a zip of these bytes, or {}."""
    try:
        record = files.read_json(path.with_suffix(".json"))
    except InputError:
        return {}
    fits = isinstance(record, dict) and record.get("sha256") == sha256_file(path)
    return record if fits and record.get("format") in tuple(LAYOUTS) and _is_forecast(record) else {}


def _is_forecast(record):
    """Whether the forecast of a record, if it has one, is what the toolkit writes."""
    forecast = record.get("forecast")
    if not forecast:
        return True
    numbers = (
        [forecast.get(key) for key in ("expected", "low", "high", "hidden_n")] if isinstance(forecast, dict) else [""]
    )
    texts = record.get("source"), record.get("metric")
    return all(isinstance(one, (int, float)) for one in numbers) and all(isinstance(one, str) for one in texts)


def take_sample(name=None, size=None, workspace=Workspace()):
    """The Sample of a fold table's images, or of noise where there is no table or Workspace; InputError as read_folds."""
    if not name and not (workspace and workspace.names()):
        size = parse_size(size) or SIZE
        _check_room(NOISE, size)
        noise = np.random.default_rng(0).integers(0, 256, (NOISE, *size, 3), np.uint8)
        return Sample(noise, None, None, f"{NOISE} images of noise, {size[0]}x{size[1]}, as there is no fold table")
    table = read_folds(name, workspace)
    rows = choose_sample(table, int(np.clip(EACH * len(table.classes), LEAST, MOST)))
    labels = table.labels[rows]
    turn = pd.Series(labels).groupby(labels).cumcount().to_numpy()
    rows = rows[np.argsort(turn, kind="stable")]  # any number of the first ones has all classes
    part = replace(table, frame=table.frame.iloc[rows].reset_index(drop=True), size=parse_size(size) or table.size)
    _check_room(len(rows), part.size)
    return Sample(
        load_images(part),
        part.labels,
        table.classes,
        f"{len(rows)} training images of {table.name}",
        len(table.labels) // table.k,
    )


def _check_room(count, size):
    """InputError where so many images, and another version of them, do not fit into memory."""
    height, width = size
    needed, memory = 2 * count * height * width * 3, read_memory()
    if needed > memory.total:
        raise InputError(
            f"SIZE={height}x{width}: {count} images of it and their versions take {gigabytes(needed)}, expected at most "
            f"{gigabytes(memory.total)}, half of the memory that is available"
        )


def _hidden_n(record, sample):
    return (record.get("forecast") or {}).get("hidden_n") or sample.hidden_n


def _check_scorer(read, scorer, releases, workspace):
    """The scorer's Python, built where it has to be; what it lacks becomes Findings. None where it is not needed."""
    if releases and not read.stopped:  # what the names of the releases tell needs no environment
        check_keras(
            read,
            {
                re.sub(r"\[.*|-cpu$|-intel$", "", name): version
                for name, version in (release.split("==") for release in releases)
            },
            scorer,
        )
    if read.stopped and releases:
        return None
    try:
        python = find_python(scorer, workspace)
    except InputError as error:
        if not releases:
            raise
        read.add("scorer", FAILED, str(error), "Without that environment the zip is not run.", stops=True)
        return None
    if not read.trees and read.stopped:
        return python
    answer = reading.ask_python(python, read)
    check_imports(read, answer, scorer)
    if not releases and isinstance(answer, dict):
        check_keras(read, answer["versions"], scorer)
    return python


def _over(limits, cost, check, found):
    over = limits.exceeded(cost)
    advice = (
        "Fewer or smaller networks, float16 weights, or one distilled network; `make submission FIT=1` finds what fits."
    )
    return [Finding(check, FAILED, over[0], advice) if over else Finding(check, OK, found)]


def _run(path, read, sample, python, count, limits):
    """Findings of running the zip; it stops at the first thing that breaks it, but for single kinds of calls."""
    with files.scratch() as folder:
        if read.prefix:
            path = _unwrap(path, read.prefix, folder / "unwrapped.zip")
        wall = SECONDS if limits.seconds is None else min(SECONDS, 60 + 10 * limits.seconds * max(1, MOST / count))
        memory = int(min(limits.memory or Conditions.memory, Conditions.memory))
        conditions = Conditions(python, memory, wall)
        try:
            answers, calls, findings = _ask(path, read, sample, conditions)
        except RehearsalError as error:
            return [explain_error(error, read)]
        findings.append(Finding("run", OK, "alone, without network, nothing written beside it"))
        main = 1 if answers.left_out[1] is None else 0  # all images, or where that would take too long FEW
        asked = len(sample.images) if main else FEW
        speed = asked / max(answers.seconds[main], 1e-6)
        warm = max(0.0, answers.seconds[0] - FEW / speed)  # what the very first call costs beyond others
        seconds = answers.load_seconds + warm + count / speed
        held = count * np.prod(sample.images.shape[1:]) * 4  # the images themselves, as float32
        findings += check_shape(answers.labels[main], answers.returned[main], sample.classes, asked, read)
        labels = read_as_ids(answers.labels[main], asked)
        if labels is not None:
            labels = labels[: len(sample.images)]  # a few are asked for more often than there are
            findings += check_repeats(answers)
            findings += check_probes(answers, calls, labels, len(sample.images))
            shown = int(BUDGET * speed / len(VERSIONS))
            findings += ask_again(path, read, sample, conditions, labels, shown, calls[0][1].dtype)
        cost = Cost(0, seconds, answers.peak_bytes + held)
        findings += _over(
            Limits(seconds=limits.seconds),
            cost,
            "time",
            f"{answers.load_seconds:.1f} s to load, {warm:.1f} s more for the first call, {speed:.0f} images a "
            f"second: {seconds:.0f} s for {count}",
        )
        findings += _over(
            Limits(memory=limits.memory), cost, "memory", f"{cost.memory / 1e6:.0f} MB at most, {count} images included"
        )
    return findings


def _unwrap(path, prefix, target):
    """A zip of what is in a folder of another one."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as unwrapped:
        for info in source.infolist():
            if info.filename.startswith(prefix) and not info.is_dir():
                with unwrapped.open(info.filename[len(prefix) :], "w", force_zip64=True) as file:
                    file.writelines(member_pieces(source, info))
    return target


def _ask(path, read, sample, conditions):
    """Answers, [(Probe or None, Job)] of the calls, and Findings of those that fail and were left out.

    The first two are of a few images, twice, and of all; then come those of the PROBES.

    RehearsalError where the zip does not work at all.
    """
    findings, probes = [], list(PROBES)
    if "tensorflow" not in read.modules:
        probes = [probe for probe in probes if not probe.jobs[0].tensor]  # the scorer may have none
    types = ["uint8", "float32"]
    while True:
        calls = [(None, Job(FEW, types[0], times=2)), (None, Job(None, types[0], budget=BUDGET))]
        calls += [(probe, job) for probe in probes for job in probe.jobs]
        calls = [
            (probe, replace(job, probabilities=False, dtype=types[0] if job.dtype == "uint8" else job.dtype))
            for probe, job in calls
        ]
        try:
            return run_isolated(path, sample.images, [job for _, job in calls], read.entry, conditions), calls, findings
        except RehearsalError as error:
            found = explain_error(error, read)
            probe = None if error.job is None else calls[error.job][0]
            if error.broke != "error" or error.job is None or probe is None and len(types) == 1:
                raise
            if probe is None:
                findings.append(replace(found, check="images as uint8"))
                types = types[1:]
            else:
                probes.remove(probe)
                advice = found.advice if probe.result == FAILED else probe.advice
                findings.append(replace(found, check=probe.check, result=probe.result, advice=advice))
