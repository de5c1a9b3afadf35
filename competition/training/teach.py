"""Distillation and pseudo-labels: a run learns from what finished runs say of training and of unlabelled images.

Distillation (Hinton, Vinyals and Dean 2015, arXiv:1503.02531): a student learns, besides the label of an image, the
probabilities that a teacher gives it, flattened by a temperature T: p^(1/T), scaled to sum to 1. They are mixed into
one target, teacher_weight * flattened + (1 - teacher_weight) * label, of which the student learns at its own
temperature of 1. (The paper's second loss, at T, wants logits; one target is mixed by CutMix, weighed by class and
smoothed like any label, in both phases.) Pseudo-labels (Lee 2013): unlabelled images that the teacher is sure of join
the training images with what it says of them.

Nothing of this may tell a fold model of the images that it is scored on. An out-of-fold prediction would: those of
fold j come from models that learnt from fold k, so that a student of fold k would learn from labels that it holds out,
at second hand. So fold k's teachers are the fold-k models alone of each run, which never saw fold k, and of the images
that fold k holds out there is no target at all (NaN). They are surer of the images that they learnt from than they
would be of others, which is the price. How much each run of a blend counts for fold k is fitted anew, by what the blend
does, on the predictions of the other folds. And an unlabelled image that shows the same picture as one that fold k
holds out (near.find_near) does not join fold k.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from competition.base import files
from competition.base.arrays import Joined, Rows
from competition.base.metrics import find_metric
from competition.base.workspace import OOF_NPZ, TEACHER_NPZ, fold_dir
from competition.blending.record import read_blend
from competition.blending.temperature import sharpen
from competition.blending.weights import WEIGH
from competition.data.images import load_images
from competition.data.near import find_near, make_sketch
from competition.data.table import FoldTable, add_rows
from competition.data.unlabelled import read_test
from competition.runs.choose_runs import choose_runs
from competition.runs.folder import read_weights
from competition.runs.kinds import read_run
from competition.runs.oof import read_oof
from competition.runs.predict import each_fold
from competition.runs.run import Run
from competition.training.lessons import Taught

PART = 4096  # images whose features are in memory at a time


@dataclass(frozen=True)
class Teaching:
    """Who teaches, and the unlabelled images if there are any."""

    runs: list[Run]
    weights: np.ndarray  # float64 [k, R]: what each run counts for each fold
    unlabelled: FoldTable | None
    config: dict  # what a run's record says of it

    def teach(self, job, images, taught):
        """{fold: lessons.Taught} with what the teachers say added.

        job      of the run that learns; its fold folders keep what was said, so that a killed run need not ask again
        images   those of its table; what `taught` holds may have more behind them, which keep their labels
        """
        table, settings = job.table, job.recipe
        others = self.unlabelled and load_images(self.unlabelled, job.memory)
        everything = images if others is None else Joined(images, others)
        names = table.images + (self.unlabelled.images if self.unlabelled else [])
        said = self._ask_once(job.folder, table, everything, names, taught)
        near = None if others is None else find_near_folds(images, table.fold, others, table.k)
        found = {}
        for fold, one in taught.items():
            soft = np.eye(len(table.classes), dtype=np.float32)[one.table.labels]
            own = said[fold][: len(images)]
            soft[: len(images)] *= 1 - settings.teacher_weight
            if settings.teacher_weight:
                soft[: len(images)] += settings.teacher_weight * sharpen(own, settings.teacher_temperature)
            soft[: len(images)][table.fold == fold] = np.nan
            found[fold] = one._replace(soft=soft)
            if others is not None:
                found[fold] = self._join(found[fold], fold, others, said[fold][len(images) :], near[:, fold], settings)
        return found

    def _join(self, taught, fold, others, probs, near, settings):
        """The Taught of a fold with those unlabelled images that its teachers are sure of."""
        sure = probs.max(1) >= settings.pseudo_least
        rows = np.flatnonzero(sure & ~near)
        labels = probs[rows].argmax(1)
        print(
            f"fold {fold}: {len(rows)} of {len(others)} unlabelled images join its training images, of the classes "
            + ", ".join(
                f"{name} {count}"
                for name, count in zip(taught.table.classes, np.bincount(labels, minlength=probs.shape[1]))
            )
            + f"; {(sure & near).sum()} show what it holds out",
            flush=True,
        )
        hard = np.eye(probs.shape[1], dtype=np.float32)[labels]
        soft = np.concatenate([taught.soft, probs[rows] if settings.pseudo_labels == "soft" else hard])
        names, hashes = (self.unlabelled.frame[column].to_numpy()[rows] for column in ("image", "sha256"))
        table = add_rows(taught.table, fold, [f"pseudo/{name}" for name in names], labels, hashes)
        source = replace(self.unlabelled, name=taught.table.name)  # whose features lie beside the others
        return Taught(table, Joined(taught.images, Rows(others, rows)), soft, (*taught.behind, (source, others, rows)))

    def _ask_once(self, folder, table, images, names, folds):
        """{fold: probabilities float32 [n, C]}, of what the fold holds out NaN; asked where it is not written yet."""
        paths = {fold: fold_dir(folder, fold) / TEACHER_NPZ for fold in folds}
        missing = [fold for fold, path in paths.items() if not path.exists()]
        for fold, probs in zip(missing, self._ask(table, images, missing)):
            probs[: len(table.labels)][table.fold == fold] = np.nan
            files.write_npz(paths[fold], image=np.array(names), probs=probs)

        def read(path):
            with np.load(files.plain_file(path)) as saved:
                if saved["image"].tolist() != names:
                    raise ValueError("other images")
                return saved["probs"]

        return {fold: read_weights(read, path) for fold, path in paths.items()}

    def _ask(self, table, images, folds):
        """What the models of each of these folds say of images, float32 [folds, n, C]."""
        said = np.zeros((len(folds), len(images), len(table.classes)), np.float32)
        place = {fold: place for place, fold in enumerate(folds)}
        for run, weights in zip(self.runs, self.weights.T):
            for fold, rows, views in each_fold(run, table, folds, ["identity"], images, part=PART):
                said[place[fold], rows] += weights[fold] * views["identity"]
        return said


def read_teaching(table, teacher=None, pseudo=None):
    """The Teaching by `teacher`, "blend" (the default) or finished runs "a,b", which count alike; see train.train.

    Raises InputError for a blend or runs that are missing, unfinished or of another fold table, and for what is no
    folder or zip of images.
    """
    if (teacher or "blend") == "blend":
        record = read_blend(table)
        names, kind = [run for run, weight in record["weights"].items() if weight > 0], record["kind"]
    else:
        names, kind = choose_runs(table.paths, teacher), "mean"
    folders = [table.paths.run(name) for name in names]
    oofs = np.stack([read_oof(folder, table).probs[0] for folder in folders])  # refuses what is unfinished
    weights = [
        WEIGH[kind](oofs[:, rows], table.labels[rows], find_metric(table.metric))
        for rows in (table.fold != fold for fold in range(table.k))
    ]
    unlabelled = read_test(pseudo, table) if pseudo else None
    config = {
        "teacher": {
            "kind": kind,
            "runs": {name: files.sha256_file(folder / OOF_NPZ) for name, folder in zip(names, folders)},
        }
    }
    if unlabelled:
        config["pseudo"] = unlabelled.data_hash
    return Teaching([read_run(folder, table) for folder in folders], np.stack(weights), unlabelled, config)


def find_near_folds(images, fold_of, others, k):
    """bool [m, k]: whether each of m other images shows the same picture as one that a fold holds out.

    images, others   uint8 [n, h, w, 3] and [m, h, w, 3]; fold_of: int [n]
    """
    hashes, sketches = [], []
    for part in (images, others):
        for start in range(0, len(part), PART):
            pixels = part[start : min(start + PART, len(part))]
            hashes += [files.sha256_bytes(image.tobytes()) for image in pixels]
            sketches += [make_sketch(image) for image in pixels]
    codes, _ = pd.factorize(np.array(hashes))
    _, first = np.unique(codes, return_index=True)
    held_out = np.zeros((len(first), k), bool)  # of each picture, by which folds
    held_out[codes[: len(fold_of)], fold_of] = True
    near, pairs = held_out.copy(), find_near(np.stack(sketches)[first])
    for one, other in ((pairs["first"], pairs["second"]), (pairs["second"], pairs["first"])):
        np.logical_or.at(near, one.to_numpy(), held_out[other.to_numpy()])
    return near[codes[len(fold_of) :]]
