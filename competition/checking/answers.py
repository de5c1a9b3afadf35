"""What a zip's `predict` answered: shape, repeats, and the truth where it is known."""

from dataclasses import dataclass

import numpy as np

from competition.checking.diagnose import AS_SENT, VERSIONS, describe_order, find_cause, is_chance, make_versions
from competition.checking.finding import FAILED, OK, SKIPPED, WARNING, Finding
from competition.checking.remedies import explain_error
from competition.rehearsal.rehearsal import Job, RehearsalError, run_isolated

FEW = 32  # of the first call, which tells the speed
ROOM = 10**9  # bytes of all versions of the images
LOW = 0.3  # of the way from the most common class to 1: less on training images is suspicious
SLACK = 0.02  # of labels may differ for another type or batch: near-ties
MAYBE = 0.01  # p up to which a change is worth to be tried, where the accuracy is low
_TYPES = 'Convert first, whatever comes: `X = np.asarray(X).astype("float32")`; then scale.'
_BATCH = (
    "Each image must be answered by itself: no mean or deviation over the batch, no `training=True`, and no "
    "order of the images that is changed."
)


@dataclass(frozen=True)
class Probe:
    """Calls that must give the labels of the first one again, and what it means where they do not."""

    check: str
    jobs: tuple
    result: str  # where it fails or differs
    differs: str
    advice: str


PROBES = (
    Probe(
        "float32 and float64",
        (Job(FEW, "float32"), Job(FEW, "float64")),
        FAILED,
        "its answers depend on the type of the numbers",
        _TYPES,
    ),
    Probe(
        "one image a call",
        tuple(Job(1, "uint8", first=first) for first in range(8)),
        FAILED,
        "its answers depend on how many images come at once",
        _BATCH,
    ),
    Probe(
        "odd batch",
        (Job(7, "uint8"), Job(37, "uint8")),
        FAILED,
        "its answers depend on how many images come at once",
        _BATCH,
    ),
    Probe(
        "images as a tensor",
        (Job(5, "float32", tensor=True),),
        WARNING,
        "its answers depend on whether a tensor or an array comes",
        _TYPES,
    ),
    Probe(
        "no image", (Job(0, "uint8"),), WARNING, "", "Few scorers send an empty batch; return an empty array for it."
    ),
)


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
        return failed(
            f"names such as {example!r} in place of class ids",
            "Return the number of the class, from 0 on, "
            "in the order of the competition's classes: "
            + (", ".join(f"{i} {name}" for i, name in enumerate(classes[:12])) if classes else "0, 1, 2, ..."),
        )
    if labels.dtype.kind not in "iubf":
        return failed("no numbers", argmax)
    if len(shape) == 2 and shape[0] == n and shape[1] > 1:
        if whole and np.all(labels.sum(1) == 1) and set(np.unique(labels)) <= {0, 1}:
            return failed("one-hot rows in place of class ids: argmax is missing", argmax)
        if not whole:
            return failed("probabilities of the classes in place of class ids: argmax is missing", argmax)
    if shape == [n, 1]:
        return failed(
            "a column in place of a row" if whole else "one probability an image in place of class ids",
            "Return `labels[:, 0]` or `labels.reshape(-1)`."
            if whole
            else 'Of a network with one output, return `(p[:, 0] > 0.5).astype("int64")`.',
        )
    if shape != [n]:
        if not shape:
            return failed("one number for all images: argmax without axis=1", argmax)
        if len(shape) == 1 and whole and (shape[0] == count or count is None):
            return failed("a number for each class in place of each image: argmax over the wrong axis", argmax)
        return failed("not one number for each image", "predict gets n images and returns n class ids, in their order.")
    if not whole:
        return failed("probabilities in place of class ids: max in place of argmax", argmax)
    if labels.dtype.kind in "fb":
        return [
            Finding(
                "what predict returns",
                WARNING,
                f"{text}, {expected}",
                'Whole numbers, but of another type: return `labels.astype("int64")`.',
            )
        ]
    if kind != read.entry.returns:
        wanted = {
            "tensor": "a tensor, on which scorers call .numpy(): `tf.constant(labels)` or `tf.argmax`",
            "array": "a numpy array: `np.asarray(labels)`",
        }[read.entry.returns]
        return [
            Finding(
                "what predict returns",
                WARNING,
                f"{text}, expected an integer {read.entry.returns}",
                f"FORMAT={read.format} asks for {wanted}. Many scorers take either.",
            )
        ]
    return [Finding("what predict returns", OK, text)]


def read_as_ids(labels, n):
    """int64 [n] where the answer can be read as n class ids, if need be of a column or by argmax of rows, else None."""
    if labels.dtype.kind not in "iubf" or labels.ndim not in (1, 2) or len(labels) != n or not labels.size:
        return None
    if labels.ndim == 2:
        labels = labels.argmax(1) if labels.shape[1] > 1 else labels[:, 0]
    return labels.astype(np.int64) if np.all(np.isfinite(labels)) and np.all(labels == np.round(labels)) else None


def check_repeats(answers):
    first, second = answers.labels[0], answers.again[0][0]
    if first.shape == second.shape and np.array_equal(first, second):
        return [Finding("same answer twice", OK, f"{len(first)} images, two calls")]
    ids = [read_as_ids(labels, FEW) for labels in (first, second)]
    changed = "" if any(one is None for one in ids) else f": {np.mean(ids[0] != ids[1]):.0%} of the labels differ"
    return [
        Finding(
            "same answer twice",
            FAILED,
            f"its answer changes from call to call{changed}",
            "Nothing may be random in predict: no dropout or augmentation (`training=True`), no random crop, "
            "no shuffling; set the seeds of what must be.",
        )
    ]


def check_probes(answers, calls, labels, n):
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
            elif len(rows) and (ids := read_as_ids(found, len(rows))) is not None:
                known = rows < len(labels)
                differ += (ids[known] != labels[rows[known]]).tolist()
        if not odd and sum(differ) > max(1, SLACK * len(differ)):
            odd = f"{probe.differs}: {sum(differ)} of {len(differ)} labels differ"
        if odd:
            findings.append(Finding(probe.check, probe.result, odd, probe.advice))
        elif done:
            passed.append(probe.check)
    return findings + [Finding("kinds of calls", OK, ", ".join(passed))] * bool(passed)


def ask_again(path, read, sample, conditions, labels, shown, dtype):
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
            return [explain_error(error, read)]
    findings = []
    other = read_as_ids(answers.labels[0], FEW)
    count = min(FEW, len(labels), len(sample.images))
    if other is None or np.sum(other[:count] != labels[:count]) > max(1, SLACK * count):
        findings.append(
            Finding(
                "a second process",
                FAILED,
                "a second fresh process gives other labels",
                "Something random is set up when the object is made, such as weights that are not "
                "loaded: a seed, or the load_weights, is missing.",
            )
        )
    else:
        findings.append(Finding("a second process", OK, "gives the same labels"))
    if not known:
        why = "no labelled images at hand; `make folds` of the training images, or NAME=, brings them"
        return findings + [Finding("labels and preprocessing", SKIPPED, why)]
    versions = {name: read_as_ids(found, shown) for name, found in zip(names, answers.labels[1:])}
    versions = {name: ids for name, ids in versions.items() if ids is not None}
    if AS_SENT in versions and np.mean(versions[AS_SENT] != labels[:shown]) > SLACK:
        versions = {}  # it answers otherwise to floats, which is said above: these tell nothing
    return findings + check_truth(labels, versions, sample)


def check_truth(labels, versions, sample):
    """Findings of class ids int64 [n] beside the Sample's labels.

    versions  {name of diagnose.VERSIONS: ids of the first images as that leaves them}
    """
    truth, classes = sample.labels[: len(labels)], sample.classes
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
        findings.append(
            Finding(
                "preprocessing",
                FAILED,
                f"{version.wrong}: accuracy {was:.2f} as sent, "
                f"{cause.accuracy:.2f} when the images are {version.done} first",
                version.advice,
            )
        )
    elif versions:
        findings.append(
            Finding(
                "preprocessing",
                OK,
                f"none of {len(versions) - 1} other ways to scale or turn the images is clearly better",
            )
        )
    then = f"accuracy {accuracy:.2f} as sent, {cause.accuracy:.2f} when they are read so"
    low, high = labels.min(), labels.max()
    fits = 0 <= low - cause.shift and high - cause.shift < count  # else it answers for other classes
    if cause.shift and fits or low == 1 and high == count:
        by = cause.shift or 1
        findings.append(
            Finding(
                "labels",
                FAILED,
                "the labels are off by one: each is one too "
                f"{'high' if by > 0 else 'low'} "
                f"(found {low} to {high}, expected 0 to {count - 1})" + f"; {then}" * bool(cause.shift),
                f"Class ids start with 0: return `labels {'-' if by > 0 else '+'} 1`, or take argmax "
                "of all outputs of the network.",
            )
        )
    elif cause.order is not None:
        findings.append(
            Finding(
                "order of classes",
                FAILED,
                f"{describe_order(cause.order, classes)}; {then}",
                "Number the classes as the competition does: "
                + ", ".join(f"{i} {name}" for i, name in enumerate(classes[:12]))
                + ".",
            )
        )
    elif low < 0 or high >= count:
        findings.append(
            Finding(
                "labels",
                FAILED,
                f"labels from {low} to {high}, expected 0 to {count - 1} ({count} classes)",
                "Was it trained on other classes, or is an output of the network none of them?",
            )
        )
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
        return Finding(
            "accuracy",
            OK,
            f"{accuracy:.2f} on {len(labels)} training images: a check, no forecast, as "
            "what it was trained on flatters",
        )
    hint = ""
    if AS_SENT in versions:
        cause = find_cause(versions, truth[: len(versions[AS_SENT])], len(classes), MAYBE)
        if cause.version != AS_SENT:
            hint = (
                f" What may be: {VERSIONS[cause.version].wrong} (accuracy {cause.accuracy:.2f} when they are "
                f"{VERSIONS[cause.version].done} first, which may be luck)."
            )
    if is_chance(labels == truth, truth):
        always = f": it always answers {labels[0]} ({classes[labels[0]]})" if len(np.unique(labels)) == 1 else ""
        return Finding(
            "accuracy",
            FAILED,
            f"{accuracy:.2f}, no better than guessing{always}",
            "Are these the trained weights (load_weights), the classes of this competition, and the "
            f"preprocessing of the training?{hint}",
        )
    return Finding(
        "accuracy",
        WARNING,
        f"{accuracy:.2f} on {len(labels)} training images, which is little for those",
        "Compare it with what your training said: if that was much more, the preprocessing differs, or "
        f"other weights were packed.{hint}",
    )
