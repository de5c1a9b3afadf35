"""Diagnose any submission zip, the toolkit's own or one made by hand, in words that a beginner understands.

`make check ZIP=` reads the zip (reading.py), runs it as a scorer would (rehearsal.py), looks at what it answers, and
where a competition's labelled images are at hand compares with the truth (diagnose.py). Everything that can be found
is listed, not only the first; a zip that cannot run is not run.
"""

import re
import tempfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from competition import files, reading
from competition.diagnose import AS_SENT, MAYBE, VERSIONS, describe_order, find_cause, is_chance, make_versions
from competition.files import InputError, sha256_file
from competition.fit import Cost, Limits, read_limits
from competition.folds import parse_size, read_folds, whole_number
from competition.formats import codabench, codalab
from competition.images import load_images, shorten
from competition.oof import text_table
from competition.reading import FAILED, OK, SKIPPED, WARNING, Finding, check_imports, check_keras, keyword
from competition.rehearsal import Conditions, Job, RehearsalError, run_isolated
from competition.scorers import find_python, read_releases
from competition.submission import choose_sample
from competition.workspace import Workspace

LAYOUTS = {layout.format: layout for layout in (codalab.LAYOUT, codabench.LAYOUT)}
NOISE = 64  # images where no labelled ones are at hand
LEAST, MOST, EACH = 200, 1000, 10  # labelled images: ten a class, within these
FEW = 32  # of the first call, which tells the speed
ROOM = 10**9  # bytes of all versions of the images
BUDGET = 90  # seconds that all labelled images may take, and all their versions
SECONDS = 900  # that a whole run may take
HIDDEN = 1000  # images of the hidden test where nothing says how many
LOW = 0.3  # of the way from the most common class to 1: less on training images is suspicious
SLACK = 0.02  # of labels may differ for another type or batch: near-ties
SIZE = (96, 96)


@dataclass(frozen=True)
class Sample:
    """The images that a zip is asked about, the classes in turn; labels None for noise."""

    images: np.ndarray  # uint8 [n, h, w, 3]
    labels: np.ndarray | None  # int64 [n]
    classes: list | None
    where: str  # what they are, in words
    hidden_n: int = HIDDEN


@dataclass(frozen=True)
class Probe:
    """Calls that must give the labels of the first one again, and what it means where they do not."""

    check: str
    jobs: tuple
    result: str  # where it fails or differs
    differs: str
    advice: str


_TYPES = "Convert first, whatever comes: `X = np.asarray(X).astype(\"float32\")`; then scale."
_BATCH = "Each image must be answered by itself: no mean or deviation over the batch, no `training=True`, and no " \
         "order of the images that is changed."
PROBES = (
    Probe("float32 and float64", (Job(FEW, "float32"), Job(FEW, "float64")), FAILED,
          "its answers depend on the type of the numbers", _TYPES),
    Probe("one image a call", tuple(Job(1, "uint8", first=first) for first in range(8)), FAILED,
          "its answers depend on how many images come at once", _BATCH),
    Probe("odd batch", (Job(7, "uint8"), Job(37, "uint8")), FAILED,
          "its answers depend on how many images come at once", _BATCH),
    Probe("images as a tensor", (Job(5, "float32", tensor=True),), WARNING,
          "its answers depend on whether a tensor or an array comes", _TYPES),
    Probe("no image", (Job(0, "uint8"),), WARNING, "",
          "Few scorers send an empty batch; return an empty array for it."),
)

BROKEN = {  # what RehearsalError.broke says: the check's name and how to mend it
    "zip": ("zip", "Make the zip again."),
    "network": ("network", "Scorers have no network: pack what is downloaded. Keras downloads weights where a network "
                           "is built with weights=\"imagenet\" (the default of keras.applications): say weights=None, "
                           "and load your own."),
    "process": ("processes", "Do it in Python, within the process: a scorer may not allow others, nor have the command."),
    "read": ("files", "Pack the file beside model.py, and open it by `os.path.join(path, ...)`."),
    "write": ("files", "Scorers unpack the zip where nothing may be written. Compute it in memory, or write to "
                       "`tempfile.gettempdir()`."),
    "time": ("time", "Predict in batches and not image by image, load in __init__ and not in predict, train nothing."),
    "memory": ("memory", "Predict in batches of 32, and keep one network in memory."),
    "crash": ("run", "The process died: most often memory, or a library that was built for another machine."),
}

_SAVED_MODEL = "Save it as a SavedModel, `model.export(\"SubmissionModel\")`, and load that with `tf.saved_model.load`"
ERRORS = (  # (what the text of an error says, what that means, how to mend it); the first that fits
    (r"No module named '([\w.]+)'", "the scorer lacks {0}", "Do without it, or pack it; a scorer installs nothing."),
    (r"safe_mode|deserialization of a `Lambda`", "the network has a Lambda layer, which is not loaded",
     "Replace it by a layer without Python code."),
    (r"Could not locate (?:class|function) '(\w+)|"
     r"Unknown (?:layer|object|activation|loss)[^:]*: '?(?!Functional|Sequential|Model\b)([\w>]+)",
     "the network has a layer of your own, whose code is not in model.py",
     "Copy its class into model.py and give it as custom_objects. " + _SAVED_MODEL + ", which needs neither."),
    (r"File format not supported", "Keras cannot read that file or folder", "A SavedModel, which is a folder, is "
     "loaded by `tf.saved_model.load`; `load_model` of Keras 3 reads .keras and .h5 alone."),
    (r"batch_shape|Unknown layer|keras\.src|DTypePolicy|quantization_config|Unrecognized keyword arguments?|"
     r"bad marshal data|Could not deserialize class|Unable to revive",
     "the network was saved with another Keras than the scorer has",
     _SAVED_MODEL + "; or train and save with the scorer's release of TensorFlow."),
    (r"objects? could not be loaded|Layer count mismatch|expected \d+ variables|Weight count mismatch|"
     r"You are trying to load a weight file", "the weights are those of another network than model.py builds",
     "Build exactly the network that was trained: the same layers in the same order."),
    (r"must have the same dtype", "it computes with images of whole numbers as they come",
     "Convert first: `X = tf.cast(X, tf.float32)`."),
    (r"_UFunc|UFuncTypeError|Cannot cast ufunc", "it computes in place on images of whole numbers",
     "Write `X = X / 255.0` in place of `X /= 255.0`, which images of type uint8 do not allow."),
    (r"allow_pickle", "a .npy file holds Python objects", "Save plain numbers, as float32."),
    (r"(takes|missing) .*positional argument", "something is called with another number of arguments than it takes",
     "The scorer calls `predict(X)` with the images alone."),
    (r"incompatible with the layer|expected shape|expected axis|could not broadcast|shapes? .*(not aligned|mismatch)|"
     r"cannot reshape|Matrix size-incompatible|mismatch in its core dimension|Dimensions must be equal",
     "the images have another shape than the network takes",
     "Resize them in predict, `tf.image.resize(X, (height, width))`, or check the size of the competition's images."),
    (r"MemoryError|ResourceExhausted|OOM|Unable to allocate", "there is not enough memory",
     "Predict in batches of 32, and keep one network in memory."),
    (r"requires grad|device type tensor", "a tensor of PyTorch is returned that is still at work",
     "Predict within `with torch.no_grad():`, and return `labels.cpu().numpy()`."),
    (r"has no attribute 'numpy'|numpy\(\)", "an array is treated as a tensor", "Take `np.asarray(...)` in place of "
     "`.numpy()`."),
    (r"name '(\w+)' is not defined", "{0} is used and defined nowhere", "Import or define it in model.py."),
)
PATHS = (r"filepath=(\S+?)\.?(?:\s|$)", r"name = '([^']+)'", r"at: (\S+?)/?\{", r"'([^'\n]+)'")  # in such a text
MISSING = re.compile(r"No such file|not found|does not exist|[Uu]nable to (synchronously )?open|cannot find", re.S)


# ------------------------------------------------------------------------------------------------------ the command


def check(zip_path, format=None, name=None, scorer=None, size=None, hidden_n=None, max_mb=None, max_seconds=None,
          max_memory=None, workspace=Workspace()):
    """Check a zip and print a table of what was found, with a remedy for whatever is wrong. Returns the Findings.

    format    codalab or codabench; default: guessed from the zip
    name      of the fold table whose images and labels it is asked about; default: the only one; without any, noise
    scorer    which Python runs it, as in make_submission
    size      height and width of the images, where they are noise
    hidden_n, max_mb, max_seconds, max_memory   as in make_submission
    workspace where the fold table and the scorers' environments lie

    Raises InputError, one line that names them, where checks failed.
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
    sample = take_sample(name, size, workspace)
    count = whole_number("HIDDEN_N", hidden_n, 1, 10**9) if hidden_n else _hidden_n(record, sample)

    read = reading.read_zip(path, format or record.get("format"), LAYOUTS)
    if not format and record:
        read.why = f"{path.with_suffix('.json')} says so"
    findings = read.findings
    python = _check_scorer(read, scorer, releases, workspace)
    if not any(finding.check == "zip" and finding.stops for finding in findings):
        findings += _over(Limits(megabytes=limits.megabytes), Cost(path.stat().st_size, 0, 0), "size",
                          f"{path.stat().st_size / 1e6:.1f} MB")
    if read.stopped:
        read.add("run", SKIPPED, "not run: it could not, as it is")
    else:
        findings += _run(path, read, sample, python, count, limits)
    _show(path, read, sample, scorer, record)
    if failed := [finding.found for finding in findings if finding.result == FAILED]:
        raise InputError(f"{path}: {len(failed)} {'checks' if failed[1:] else 'check'} failed: {'; '.join(failed)}")
    return findings


def _read_record(path):
    """The record that the toolkit wrote beside a zip of these bytes, or {}."""
    try:
        record = files.read_json(path.with_suffix(".json"))
    except InputError:
        return {}
    fits = isinstance(record, dict) and record.get("sha256") == sha256_file(path)
    return record if fits and record.get("format") in LAYOUTS else {}


def take_sample(name=None, size=None, workspace=Workspace()):
    """The Sample of a fold table's images, or of noise where there is no table at all; InputError as read_folds."""
    if not name and not workspace.names():
        size = parse_size(size) or SIZE
        noise = np.random.default_rng(0).integers(0, 256, (NOISE, *size, 3), np.uint8)
        return Sample(noise, None, None, f"{NOISE} images of noise, {size[0]}x{size[1]}, as there is no fold table")
    table = read_folds(name, workspace)
    rows = choose_sample(table, int(np.clip(EACH * len(table.classes), LEAST, MOST)))
    labels = table.labels[rows]
    turn = pd.Series(labels).groupby(labels).cumcount().to_numpy()
    rows = rows[np.argsort(turn, kind="stable")]  # any number of the first ones has all classes
    part = replace(table, frame=table.frame.iloc[rows].reset_index(drop=True), size=parse_size(size) or table.size)
    return Sample(load_images(part), part.labels, table.classes, f"{len(rows)} training images of {table.name}",
                  len(table.labels) // table.k)


def _hidden_n(record, sample):
    return (record.get("forecast") or {}).get("hidden_n") or sample.hidden_n


def _check_scorer(read, scorer, releases, workspace):
    """The scorer's Python, built where it has to be; what it lacks becomes Findings. None where it is not needed."""
    if releases and not read.stopped:  # what the names of the releases tell needs no environment
        check_keras(read, {re.sub(r"\[.*|-cpu$|-intel$", "", name): version for name, version in (
            release.split("==") for release in releases)}, scorer)
    if read.stopped and releases:
        return None
    try:
        python = find_python(scorer, workspace)
    except InputError as error:
        if not releases:
            raise
        read.add("scorer", FAILED, str(error), "Without that environment the zip is not run.", stops=True)
        return None
    if not read.trees:
        return python
    answer = reading.ask_python(python, read)
    check_imports(read, answer, scorer)
    if not releases and isinstance(answer, dict):
        check_keras(read, answer["versions"], scorer)
    return python


def _over(limits, cost, check, found):
    over = limits.exceeded(cost)
    advice = "Fewer or smaller networks, float16 weights, or one distilled network; "\
             "`make submission FIT=1` finds what fits."
    return [Finding(check, FAILED, over[0], advice) if over else Finding(check, OK, found)]


def _show(path, read, sample, scorer, record):
    by = scorer or "the project's own Python"
    print(f"{path}: checked as FORMAT={read.format} ({read.why}), by {by}, on {sample.where}\n")
    print(text_table(pd.DataFrame([{"check": one.check, "result": one.result, "found": one.found}
                                   for one in read.findings])))
    for one in read.findings:
        if one.advice and one.result in (FAILED, WARNING):
            print(f"\n{one.check}: {one.found}.\n  {one.advice}")
    if forecast := record.get("forecast"):
        print(f"\nits record: {record['source']}, forecast {record['metric']} {forecast['expected']:.4f}, "
              f"{forecast['low']:.4f} to {forecast['high']:.4f} on {forecast['hidden_n']} hidden images")
    print(flush=True)


# ---------------------------------------------------------------------------------------------------------- the run


def _run(path, read, sample, python, count, limits):
    """Findings of running the zip; it stops at the first thing that breaks it, but for single kinds of calls."""
    with tempfile.TemporaryDirectory() as folder:
        if read.prefix:
            path = _unwrap(path, read.prefix, Path(folder) / "unwrapped.zip")
        wall = SECONDS if limits.seconds is None else min(SECONDS, 60 + 10 * limits.seconds * max(1, MOST / count))
        conditions = Conditions(python=python, seconds=wall)
        try:
            answers, calls, findings = _ask(path, read, sample, conditions)
        except RehearsalError as error:
            return [explain(error, read)]
        findings.append(Finding("run", OK, "alone, without network, nothing written beside it"))
        main = 1 if answers.left_out[1] is None else 0  # all images, or where that would take too long FEW
        asked = len(sample.images) if main else FEW
        speed = asked / max(answers.seconds[main], 1e-6)
        warm = max(0.0, answers.seconds[0] - FEW / speed)  # what the very first call costs beyond others
        seconds = answers.load_seconds + warm + count / speed
        held = count * np.prod(sample.images.shape[1:]) * 4  # the images themselves, as float32
        findings += check_shape(answers.labels[main], answers.returned[main], sample.classes, asked, read)
        labels = _as_ids(answers.labels[main], asked)
        if labels is not None:
            labels = labels[:len(sample.images)]  # a few are asked for more often than there are
            findings += _check_repeats(answers)
            findings += _check_probes(answers, calls, labels, len(sample.images))
            shown = int(BUDGET * speed / len(VERSIONS))
            findings += _again(path, read, sample, conditions, labels, shown, calls[0][1].dtype)
        cost = Cost(0, seconds, answers.peak_bytes + held)
        findings += _over(Limits(seconds=limits.seconds), cost, "time",
                          f"{answers.load_seconds:.1f} s to load, {warm:.1f} s more for the first call, {speed:.0f} images a "
                          f"second: {seconds:.0f} s for {count}")
        findings += _over(Limits(memory=limits.memory), cost, "memory",
                          f"{cost.memory / 1e6:.0f} MB at most, {count} images included")
    return findings


def _unwrap(path, prefix, target):
    """A zip of what is in a folder of another one."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as unwrapped:
        for info in source.infolist():
            if info.filename.startswith(prefix) and not info.is_dir():
                unwrapped.writestr(info.filename[len(prefix):], source.read(info))
    return target


def _main(dtype):
    return Job(None, dtype, probabilities=False, budget=BUDGET)


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
        calls = [(probe, replace(job, probabilities=False, dtype=types[0] if job.dtype == "uint8" else job.dtype))
                 for probe, job in calls]
        try:
            return run_isolated(path, sample.images, [job for _, job in calls], read.entry, conditions), calls, findings
        except RehearsalError as error:
            found = explain(error, read)
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


def explain(error, read):
    """The Finding that a RehearsalError is, in plain words."""
    if error.broke != "error":
        check, advice = BROKEN[error.broke]
        if error.broke == "network" and (where := keyword(read, "weights", "imagenet")):
            advice = f"{where} has weights=\"imagenet\", which are downloaded: say weights=None there, "\
                     "and load your own."
        return Finding(check, FAILED, str(error), advice)
    kind, text, trace = (error.error[key] for key in ("type", "text", "trace"))
    first = (text.strip().splitlines() or [kind])[0][:160]
    where = _where(trace)
    if MISSING.search(text) and (found := _explain_missing(text, read)):
        return Finding("files", FAILED, found[0] + where, found[1])
    for pattern, meaning, advice in ERRORS:
        if match := re.search(pattern, f"{kind}: {text}"):
            return Finding("run", FAILED, f"{meaning.format(*match.groups())}{where}",
                           f"{advice} Python said: {kind}: {first}")
    doing = {"import": "while model.py is imported", "load": "while the object is made", "predict": "in predict"}
    return Finding("run", FAILED, f"it fails {doing.get(error.stage, 'when it is run')}{where}: {kind}: {first}",
                   "Try it in a new folder and a fresh Python: "
                   f"`import model; model.{read.entry.class_name}({'path' * read.entry.with_path}).predict(X)`.")


def _where(trace):
    """The last line of the zip's own code in a traceback: " (model.py, line 3)"."""
    lines = re.findall(r'File "[^"]*/zip/([^"]+)", line (\d+)', trace)
    return f" ({lines[-1][0]}, line {lines[-1][1]})" if lines else ""


def _explain_missing(text, read):
    """What an error about a missing file means, and a remedy; None where the text names no file."""
    match = next(filter(None, (re.search(pattern, text) for pattern in PATHS)), None)
    if not match:
        return None
    wanted = match[1].rstrip("/")
    inside = wanted.partition("/zip/")[2] if "/zip/" in wanted else None
    name = (inside or wanted).split("/")[-1]
    there = [other for other in read.names if name in other.split("/")]
    how = ('`os.path.join(path, "{}")` with the path that __init__ gets' if read.entry.with_path else
           '`os.path.join(os.path.dirname(os.path.abspath(__file__)), "{}")`')
    if wanted.startswith("/") and inside is None:
        return (f"it opens {wanted}, a path of another computer", f"Pack the file and open it by {how.format(name)}.")
    if there and inside is None:
        return (f"it opens {wanted} where the scorer happens to stand, and not where the zip lies",
                f"The file is in the zip: open it by {how.format(wanted)}.")
    if there:
        return (f"it opens {inside}, which lies at {shorten(there, 2)} in the zip", "Mend the path, or the folder.")
    return f"it opens {inside or wanted}, which is not in the zip", \
        f"Pack it beside model.py, and open it by {how.format(name)}."


# ------------------------------------------------------------------------------------------------------ its answers


def check_shape(labels, returned, classes, n, read):
    """Findings about what predict returned for n images, an array of any kind; `returned`: "int64 tensor", ..."""
    dtype, kind = returned.split(" ", 1)
    shape, text = list(labels.shape), f"{returned} of shape {list(labels.shape)}"
    expected = f"expected {n} whole numbers, shape [{n}]"
    argmax = "Return `np.argmax(probabilities, axis=1)` (or `tf.argmax`), the number of the likeliest class."
    count = len(classes) if classes else None
    whole = labels.dtype.kind in "iub" or labels.dtype.kind == "f" and bool(np.all(labels == np.round(labels)))

    def failed(found, advice):
        return [Finding("what predict returns", FAILED, f"{found}: {text}, {expected}", advice)]

    if kind == "NoneType":
        return failed("predict returns nothing", "Its last line must be `return ...`.")
    if labels.dtype.kind in "US":
        example = str(labels.ravel()[0]) if labels.size else ""
        return failed(f"names such as {example!r} in place of class ids", "Return the number of the class, from 0 on, "
                      "in the order of the competition's classes: " + (", ".join(f"{i} {name}" for i, name in enumerate(
                          classes[:12])) if classes else "0, 1, 2, ..."))
    if labels.dtype.kind not in "iubf":
        return failed("no numbers", argmax)
    if len(shape) == 2 and shape[0] == n and shape[1] > 1:
        if whole and np.all(labels.sum(1) == 1) and set(np.unique(labels)) <= {0, 1}:
            return failed("one-hot rows in place of class ids: argmax is missing", argmax)
        if not whole:
            return failed("probabilities of the classes in place of class ids: argmax is missing", argmax)
    if shape == [n, 1]:
        return failed("a column in place of a row" if whole else "one probability an image in place of class ids",
                      "Return `labels[:, 0]` or `labels.reshape(-1)`." if whole else
                      "Of a network with one output, return `(p[:, 0] > 0.5).astype(\"int64\")`.")
    if shape != [n]:
        if not shape:
            return failed("one number for all images: argmax without axis=1", argmax)
        if len(shape) == 1 and whole and (shape[0] == count or count is None):
            return failed("a number for each class in place of each image: argmax over the wrong axis", argmax)
        return failed("not one number for each image", "predict gets n images and returns n class ids, in their order.")
    if not whole:
        return failed("probabilities in place of class ids: max in place of argmax", argmax)
    if labels.dtype.kind in "fb":
        return [Finding("what predict returns", WARNING, f"{text}, {expected}", "Whole numbers, but of another type: "
                        "return `labels.astype(\"int64\")`.")]
    if kind != read.entry.returns:
        wanted = {"tensor": "a tensor, on which scorers call .numpy(): `tf.constant(labels)` or `tf.argmax`",
                  "array": "a numpy array: `np.asarray(labels)`"}[read.entry.returns]
        return [Finding("what predict returns", WARNING, f"{text}, expected an integer {read.entry.returns}",
                        f"FORMAT={read.format} asks for {wanted}. Many scorers take either.")]
    return [Finding("what predict returns", OK, text)]


def _as_ids(labels, n):
    """int64 [n] where the answer can be read as n class ids, if need be of a column or by argmax of rows, else None."""
    if labels.dtype.kind not in "iubf" or labels.ndim not in (1, 2) or len(labels) != n or not labels.size:
        return None
    if labels.ndim == 2:
        labels = labels.argmax(1) if labels.shape[1] > 1 else labels[:, 0]
    return labels.astype(np.int64) if np.all(np.isfinite(labels)) and np.all(labels == np.round(labels)) else None


def _check_repeats(answers):
    first, second = answers.labels[0], answers.again[0][0]
    if first.shape == second.shape and np.array_equal(first, second):
        return [Finding("same answer twice", OK, f"{len(first)} images, two calls")]
    ids = [_as_ids(labels, FEW) for labels in (first, second)]
    changed = "" if any(one is None for one in ids) else f": {np.mean(ids[0] != ids[1]):.0%} of the labels differ"
    return [Finding("same answer twice", FAILED, f"its answer changes from call to call{changed}",
                    "Nothing may be random in predict: no dropout or augmentation (`training=True`), no random crop, "
                    "no shuffling; set the seeds of what must be.")]


def _check_probes(answers, calls, labels, n):
    """Findings of the calls that should answer like the main one; labels are that one's, of all n images or FEW."""
    findings, passed = [], []
    for probe in PROBES:
        done = [number for number, (of, _) in enumerate(calls) if of == probe and answers.left_out[number] is None]
        differ, odd = [], None
        for number in done:
            job, found = calls[number][1], answers.labels[number]
            rows = job.rows(n)
            if found.shape[:1] != rows.shape:
                odd = f"predict returns shape {list(found.shape)} for {job.describe(n)}"
            elif len(rows) and (ids := _as_ids(found, len(rows))) is not None:
                known = rows < len(labels)
                differ += (ids[known] != labels[rows[known]]).tolist()
        if not odd and sum(differ) > max(1, SLACK * len(differ)):
            odd = f"{probe.differs}: {sum(differ)} of {len(differ)} labels differ"
        if odd:
            findings.append(Finding(probe.check, probe.result, odd, probe.advice))
        elif done:
            passed.append(probe.check)
    return findings + [Finding("kinds of calls", OK, ", ".join(passed))] * bool(passed)


def _again(path, read, sample, conditions, labels, shown, dtype):
    """Findings of a second process: the same answer, and where the truth is known, what would be nearer to it."""
    first = Job(FEW, dtype, probabilities=False)
    images, jobs, names = sample.images.astype(np.float32)[:FEW], [first], []
    known = sample.labels is not None
    shown = min(shown, len(labels), ROOM // (len(VERSIONS) * sample.images[0].nbytes * 4))
    if known and shown >= 2 * len(sample.classes):
        names, images = make_versions(sample.images[:shown])
        jobs += [Job(shown, "float32", probabilities=False, first=shown * turn) for turn in range(len(names))]
    try:
        answers = run_isolated(path, images, jobs, read.entry, conditions)
    except RehearsalError:
        names = []
        try:
            answers = run_isolated(path, sample.images[:FEW], [first], read.entry, conditions)
        except RehearsalError as error:
            return [explain(error, read)]
    findings = []
    other = _as_ids(answers.labels[0], FEW)
    count = min(FEW, len(labels), len(sample.images))
    if other is None or np.sum(other[:count] != labels[:count]) > max(1, SLACK * count):
        findings.append(Finding("a second process", FAILED, "a second fresh process gives other labels",
                                "Something random is set up when the object is made, such as weights that are not "
                                "loaded: a seed, or the load_weights, is missing."))
    else:
        findings.append(Finding("a second process", OK, "gives the same labels"))
    if not known:
        why = "no labelled images at hand; `make folds` of the training images, or NAME=, brings them"
        return findings + [Finding("labels and preprocessing", SKIPPED, why)]
    versions = {name: _as_ids(found, shown) for name, found in zip(names, answers.labels[1:])}
    versions = {name: ids for name, ids in versions.items() if ids is not None}
    if AS_SENT in versions and np.mean(versions[AS_SENT] != labels[:shown]) > SLACK:
        versions = {}  # it answers otherwise to floats, which is said above: these tell nothing
    return findings + check_truth(labels, versions, sample)


def check_truth(labels, versions, sample):
    """Findings of class ids int64 [n] beside the Sample's labels.

    versions  {name of diagnose.VERSIONS: ids of the first images as that leaves them}
    """
    truth, classes = sample.labels[:len(labels)], sample.classes
    count = len(classes)
    accuracy = float(np.mean(labels == truth))
    whole = find_cause({AS_SENT: labels}, truth, count)  # an order of classes needs all images
    shown = len(next(iter(versions.values()))) if versions else 0
    cause = whole
    if versions.get(AS_SENT) is not None:
        part = find_cause(versions, truth[:shown], count)
        if part.version != AS_SENT:
            cause = part
    findings = []
    if cause.version != AS_SENT:
        version = VERSIONS[cause.version]
        was = float(np.mean(versions[AS_SENT] == truth[:shown]))
        findings.append(Finding("preprocessing", FAILED, f"{version.wrong}: accuracy {was:.2f} as sent, "
                                f"{cause.accuracy:.2f} when the images are {version.done} first", version.advice))
    elif versions:
        findings.append(Finding("preprocessing", OK, f"none of {len(versions) - 1} other ways to scale or turn the "
                                "images is clearly better"))
    then = f"accuracy {accuracy:.2f} as sent, {cause.accuracy:.2f} when they are read so"
    low, high = labels.min(), labels.max()
    fits = 0 <= low - cause.shift and high - cause.shift < count  # else it answers for other classes
    if cause.shift and fits or low == 1 and high == count:
        by = cause.shift or 1
        findings.append(Finding("labels", FAILED, "the labels are off by one: each is one too "
                                f"{'high' if by > 0 else 'low'} "
                                f"(found {low} to {high}, expected 0 to {count - 1})" + f"; {then}" * bool(cause.shift),
                                f"Class ids start with 0: return `labels {'-' if by > 0 else '+'} 1`, or take argmax "
                                "of all outputs of the network."))
    elif cause.order is not None:
        findings.append(Finding("order of classes", FAILED, f"{describe_order(cause.order, classes)}; {then}",
                                "Number the classes as the competition does: "
                                + ", ".join(f"{i} {name}" for i, name in enumerate(classes[:12])) + "."))
    elif low < 0 or high >= count:
        findings.append(Finding("labels", FAILED, f"labels from {low} to {high}, expected 0 to {count - 1} "
                                f"({count} classes)",
                                "Was it trained on other classes, or is an output of the network none of them?"))
    else:
        findings.append(Finding("labels", OK, f"{low} to {high}, of {count} classes"))
    if any(finding.result == FAILED for finding in findings):
        return findings
    return findings + [_judge_accuracy(labels, versions, truth, classes)]


def _judge_accuracy(labels, versions, truth, classes):
    """The Finding about an accuracy that no change makes clearly better."""
    accuracy = float(np.mean(labels == truth))
    common = np.bincount(truth).max() / len(truth)
    if accuracy >= common + LOW * (1 - common) and not is_chance(labels == truth, truth):
        return Finding("accuracy", OK, f"{accuracy:.2f} on {len(labels)} training images: a check, no forecast, as "
                       "what it was trained on flatters")
    hint = ""
    if AS_SENT in versions:
        cause = find_cause(versions, truth[:len(versions[AS_SENT])], len(classes), MAYBE)
        if cause.version != AS_SENT:
            hint = f" What may be: {VERSIONS[cause.version].wrong} (accuracy {cause.accuracy:.2f} when they are " \
                   f"{VERSIONS[cause.version].done} first, which may be luck)."
    if is_chance(labels == truth, truth):
        always = f": it always answers {labels[0]} ({classes[labels[0]]})" if len(np.unique(labels)) == 1 else ""
        return Finding("accuracy", FAILED, f"{accuracy:.2f}, no better than guessing{always}",
                       "Are these the trained weights (load_weights), the classes of this competition, and the "
                       f"preprocessing of the training?{hint}")
    return Finding("accuracy", WARNING, f"{accuracy:.2f} on {len(labels)} training images, which is little for those",
                   "Compare it with what your training said: if that was much more, the preprocessing differs, or "
                   f"other weights were packed.{hint}")
