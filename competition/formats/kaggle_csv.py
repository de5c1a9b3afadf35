"""Kaggle, a CSV: what the blend or a run says of a folder of test images, as `sample_submission.csv` wants it.

The toolkit's own fold models predict, on whatever Keras finds here, not those of a zip. What each says is kept in
`runs/<table>/predict/<test>/`, so that a command that was stopped goes on, and one for another sample, or for other
weights of the blend, is quick.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from competition.base import files
from competition.base.arrays import read_memory
from competition.base.bars import UNLESS_SEEN, tqdm
from competition.base.files import InputError, hash_json, sha256_file, versions, write_json, write_with
from competition.base.text import shorten, text_table
from competition.base.workspace import Workspace
from competition.blending.forecast_report import print_forecast
from competition.blending.temperature import sharpen
from competition.data.images import load_images
from competition.data.table import read_folds
from competition.data.unlabelled import hash_images, read_usable
from competition.runs.predict import each_fold, predict_folds
from competition.submission.ensemble import read_ensemble
from competition.submission.record import record_of
from competition.submission.sample_csv import (
    check_csv,
    check_labels,
    check_sample,
    csv_content,
    fill_csv,
    plain_columns,
    read_sample,
)
from competition.submission.score_log import keep_older, log_submission

PREDICT_FORMAT = 1  # raise it when the same models say something else of the same images


def make(
    name=None,
    run=None,
    test=None,
    sample=None,
    probabilities=False,
    memory=None,
    hidden=None,
    labels=None,
    strict=False,
    workspace=Workspace(),
):
    """Write `submissions/<name>.csv` of the blend or of one finished run, and its record `<name>.csv.json`.

    name, run      as of make.make_submission
    test           a folder of images, or a zip of one; labels are not asked for
    sample         the competition's sample_submission.csv; without it the columns are id and label, and ids are paths
    probabilities  a column a class in place of labels; a sample that has such columns gets them anyway
    labels         "names" or "ids", what is written for a class; default: as the sample says (sample_csv.read_sample)
    strict         stop at test images that are missing or cannot be read; by default their rows are filled with what
                   is known without them, the shares of the classes in training or the likeliest class
    memory         "4G", as for train.train
    hidden         as of make.make_submission; the score is forecast for as many images as the CSV has, without those
                   that are missing or cannot be read
    workspace      where the table and its runs lie, and the CSV is written

    Returns the CSV's path. InputError for what cannot be used, above all for a sample that does not fit the images or
    the classes.
    """
    if not test:
        raise InputError("TEST= is missing, expected the test images: a folder of them, or a zip of one")
    check_labels(labels)
    check_sample(sample)
    memory = read_memory(memory)
    table = read_folds(name, workspace)
    given, broken = read_usable(test, table, table.paths.predict, fewest=1)
    if sample:
        wanted = read_sample(sample, given, table.classes, probabilities, table.metric, labels, broken)
    else:
        wanted = plain_columns(sorted([*given.images, *broken]), table.classes, probabilities, labels)
    unknown = _only_wanted(given, wanted, broken)
    ensemble = read_ensemble(table, run, len(unknown.images), hidden)
    shares = np.bincount(table.labels, minlength=len(table.classes)) / len(table.labels)
    filled = _fill_for(unknown, broken, wanted, table.classes[shares.argmax()], strict)
    probs = predict_images(ensemble, table, unknown, memory)
    frame = fill_csv(wanted, unknown.images, probs, table.classes, shares if filled else None)
    path = table.paths.predictions

    def write(temporary):
        Path(temporary).write_bytes(csv_content(frame, wanted))
        check_csv(temporary, wanted, table.classes)
        keep_older(path, table.paths.predictions_json, temporary)

    write_with(path, write, durable=True)
    record = record_of(path, ensemble, table, "kaggle-csv") | {
        "test": given.data,
        "test_data": given.data_hash,
        "rows": len(frame),
        "values": wanted.values,
        "sample": sample and sha256_file(sample),
    }
    if filled:
        record["filled"] = filled
    if not wanted.header or wanted.separator != ",":
        record["form"] = {"separator": wanted.separator, "header": wanted.header}
    write_json(table.paths.predictions_json, record, durable=True)
    log_submission(path, record, workspace)
    _report(path, ensemble, table, wanted, sample, probs)
    return path


def _only_wanted(given, wanted, broken):
    """The FoldTable of the test images that a row of the CSV is of: a download may hold training images as well.

    InputError where none of these images can be read; `broken` is {image: why it cannot}.
    """
    frame = given.frame[given.frame["image"].isin(wanted.images)].reset_index(drop=True)
    if len(frame) == len(given.frame):
        return given
    if frame.empty:
        why = [broken[image] for image in wanted.images if image in broken]
        raise InputError(f"{given.data}: none of {len(wanted.ids)} wanted images can be read: {shorten(why)}")
    digest = hash_images(frame)
    return replace(given, frame=frame, hash=digest, data_hash=digest)


def _fill_for(unknown, broken, wanted, likeliest, strict):
    """The ids whose image is missing or cannot be read, named in a warning; InputError for them if `strict`.

    broken   {image: why it cannot be read}
    """
    rows = list(zip(wanted.ids, wanted.images))
    filled = [name for name, image in rows if image is None or image in broken]
    missing = [f"{name}: no such file" for name, image in rows if image is None]
    bad = [*broken.values(), *missing]
    if strict and bad:
        raise InputError(f"{unknown.data}: {len(bad)} test images are missing or cannot be read: {'; '.join(bad)}")
    if filled:
        what = "class shares of training" if "probab" in wanted.values else f"likeliest class, {likeliest}"
        bad = [broken.get(image, f"{name}: no such file") for name, image in rows if image is None or image in broken]
        files.warn(
            f"{unknown.data}: {len(filled)} of {len(rows)} test images are missing or cannot be read, their rows get "
            f"the {what}: {shorten(bad)}; STRICT=1 stops there"
        )
    return filled


@dataclass(frozen=True)
class Part:
    """One network of the ensemble: a run's model of one fold, or a frozen backbone with the heads of all folds."""

    run: object  # run.Run
    fold: int | None  # None: all
    weight: float
    path: Path  # where its answer is kept: the mean over views (and folds), float32 [n, C]


def predict_images(ensemble, table, unknown, memory=None):
    """The ensemble's probabilities of the images of a FoldTable without labels, float64 [n, C]; InputError for NaN.

    What a network has answered before is read from `runs/<table>/predict/<test>/`.
    """
    parts = [part for run, weight in ensemble.members for part in _parts(run, weight, ensemble.views, table, unknown)]
    left = [part for part in parts if not part.path.exists()]
    if left:
        images = load_images(unknown, memory)
        with tqdm(
            total=len(left) * len(images) * len(ensemble.views), desc="predict", unit=" images", disable=UNLESS_SEEN
        ) as bar:
            for run, _ in ensemble.members:
                wanted = [part for part in left if part.run is run]
                answers = _answer(run, [part.fold for part in wanted], table, ensemble.views, images, bar)
                for part, probs in zip(wanted, answers):
                    files.write_npz(part.path, probs=probs)
    total = 0.0
    for part in parts:
        probs = _read(part.path)
        if not np.isfinite(probs).all():
            raise InputError(
                f"{part.run.dir}: it gives probabilities that are no numbers ({part.path}), expected "
                "numbers; train it again"
            )
        total = total + part.weight * probs.astype(np.float64)
    return sharpen(total, ensemble.temperature)


def _parts(run, weight, views, table, unknown):
    weights = {path.relative_to(run.dir).as_posix(): sha256_file(path) for path in run.weight_files(table.k)}
    folds = [None] if run.frozen else list(range(table.k))
    key = {
        "format": PREDICT_FORMAT,
        "test": unknown.data_hash,
        "size": list(table.size),
        "views": views,
        "config": run.config,
        "weights": weights,
        "versions": versions(),
    }
    names = [f"{run.name}-{hash_json(key | {'fold': fold})[:16]}.npz" for fold in folds]
    return [Part(run, fold, weight / len(folds), unknown.paths.runs / name) for fold, name in zip(folds, names)]


def _answer(run, folds, table, views, images, bar):
    """Yield the probabilities of images uint8 [n, h, w, 3] that a Part says for each of these folds of a run.

    That is the mean over views, float32 [n, C]; for the fold None the mean over views and folds.
    """
    if folds == [None]:
        said = predict_folds(run, table, views, images, fused=True, bar=bar)
        said = np.ascontiguousarray(said.swapaxes(0, 1))  # the order in which it is summed
        yield np.mean(said, axis=(0, 1), dtype=np.float64).astype(np.float32)
        return
    for _, _, said in each_fold(run, table, folds, views, images, bar=bar):
        yield np.mean(list(said.values()), axis=0, dtype=np.float64).astype(np.float32)  # type: ignore[attr-defined]


def _read(path):
    try:
        with np.load(path) as saved:
            return saved["probs"]
    except files.BROKEN as error:
        raise InputError(f"{path}: not what `make predict` wrote ({error}); `rm {path}`, and it is made anew") from None


def _report(path, ensemble, table, wanted, sample, probs):
    fitted = f"as {sample} has them" if sample else "no SAMPLE= to compare with"
    print(
        f"{path}: {ensemble.source}; views {', '.join(ensemble.views)}\n"
        f"{len(wanted.ids)} rows, columns {shorten(wanted.columns, 20)}: {wanted.values}, {fitted}\n"
    )
    training = np.bincount(table.labels, minlength=len(table.classes)) / len(table.labels)
    predicted = np.bincount(probs.argmax(1), minlength=len(table.classes)) / len(probs)
    shares = {"class": table.classes, "share predicted": predicted, "share in training": training}
    print(text_table(pd.DataFrame(shares), decimals=3))
    print_forecast(ensemble.forecast, table.classes)
