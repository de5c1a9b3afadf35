"""What ends a run: a fold's record, the OOF of all folds, and the printed report."""

import numpy as np
import pandas as pd

from competition.base import files, metrics
from competition.base.metrics import accuracy, find_metric, log_loss, per_class_accuracy, say_scores
from competition.base.sums import SUMS
from competition.base.workspace import FOLD_JSON, RUN_JSON, STATE_NPZ, fold_dir
from competition.features.extract import MS
from competition.runs import oof
from competition.runs.folder import seal_fold, seal_run


def save_fold(directory, table, fold, progress, views, took=None):
    """Write what a finished fold leaves besides weights: its validation predictions a view, and fold.json, its end.

    took   milliseconds that its network takes for an image; None where that is not known
    """
    count = len(progress.history)
    epochs = {"epochs": count, "best_epoch": count - progress.epoch + progress.best_epoch}
    write_fold_end(directory, table, fold, views, epochs, sum(row["seconds"] for row in progress.history), took)
    (directory / STATE_NPZ).unlink(missing_ok=True)


def write_fold_end(directory, table, fold, views, epochs, seconds, took=None):
    """Write the validation predictions of a fold a view, and fold.json, its end.

    epochs   the keys of fold.json that say how many it took
    seconds  of these epochs; took: as for save_fold
    """
    (directory / FOLD_JSON).unlink(missing_ok=True)  # of an earlier end, which is true no more
    oof.write_fold(directory, table, fold, views)
    labels = table.labels[table.fold == fold]
    files.write_json(
        directory / FOLD_JSON,
        {
            "images": len(labels),
            **epochs,
            "accuracy": accuracy(views["identity"], labels),
            "log_loss": log_loss(views["identity"], labels),
            "seconds": round(seconds, 1),
        }
        | ({} if took is None else {MS: round(took, 3)})
        | {SUMS: seal_fold(directory)},
        durable=True,
    )


def finish_run(folder, table, settings, record):
    """All folds are there: write the OOF of every view, then mark the run as finished."""
    probs = {view: np.zeros((len(table.labels), len(table.classes)), np.float32) for view in settings.views}
    for fold in range(table.k):
        for view, values in oof.read_fold(fold_dir(folder, fold), table, fold).items():
            probs[view][table.fold == fold] = values
    record = record | {"finished": True, "accuracy": accuracy(probs["identity"], table.labels)}
    for name, score in find_metric(table.metric).beside(probs["identity"], table.labels).items():
        record |= {"metric": name, "score": score}
    oof.write_oof(folder, table, probs)
    files.write_json(folder / RUN_JSON, record | {SUMS: seal_run(folder)}, durable=True)


def print_folds(folder, table, done):
    """Print a table of the folds that are done, and of a finished run the accuracy a class and the confusion matrix."""
    metric, rows, by_class = find_metric(table.metric), [], []
    for fold in done:
        probs, labels = oof.read_fold(fold_dir(folder, fold), table, fold)["identity"], table.labels[table.fold == fold]
        end = files.read_json(fold_dir(folder, fold) / FOLD_JSON)
        end.pop(SUMS, None)
        rows.append({"fold": fold} | end | metric.beside(probs, labels))
        by_class.append([fold, *per_class_accuracy(probs, labels)])
    frame = pd.DataFrame(rows)
    print("\n" + frame.to_string(index=False, float_format="{:.4f}".format))
    by_class = pd.DataFrame(by_class, columns=["fold", *table.classes])
    if table.train_only is not None:
        by_class = by_class.dropna(axis="columns", how="all")  # hundreds of classes may have no image that is scored
    print("\naccuracy of each class\n" + by_class.to_string(index=False, float_format="{:.3f}".format))
    if len(rows) < table.k:
        missing = [str(fold) for fold in range(table.k) if fold not in done]
        print(f"folds still to train before there is an OOF: {', '.join(missing)}")
        return
    probabilities = oof.read_oof(folder, table).probs[0]
    predicted, scored = probabilities.argmax(1), say_scores(metric.beside(probabilities, table.labels))
    confusion = metrics.confusion(probabilities, table.labels)
    matrix = pd.DataFrame(confusion, index=table.classes, columns=table.classes)
    matrix.insert(0, "accuracy", per_class_accuracy(probabilities, table.labels), allow_duplicates=True)
    if table.train_only is not None:
        met = (confusion.sum(0) > 0) | (confusion.sum(1) > 0)
        matrix = matrix.iloc[met, np.append(True, met)]
    matrix.index.name = "true \\ predicted"
    print("\n" + matrix.to_string(float_format="{:.3f}".format))
    print(
        f"\n{folder}: OOF accuracy {np.mean(predicted == table.labels):.4f}, log-loss "
        f"{log_loss(probabilities, table.labels):.4f}{scored}, {frame['seconds'].sum():.0f} s of epochs"
    )
    if unscored := table.say_unscored():
        print(unscored)
