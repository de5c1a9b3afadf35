"""Labels that are likely wrong: models that never saw an image contradict its label.

Likely wrong labels are those that confident learning (Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating
Uncertainty in Dataset Labels", JAIR 70) puts off the diagonal: the image is as surely of another class as that class's
own images are on average. What the models merely find hard is among them, so they are shown to be looked at, in the
order of how little probability the label gets: on labels flipped at random that order found more of them than the
normalised margin (as in Kuan and Mueller 2022, "Model-agnostic label quality scoring to detect real-world label
errors"). Nothing is ever changed or left out here.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from competition.base import files, page
from competition.base.metrics import accuracy, confusion
from competition.base.text import shorten, text_table
from competition.base.workspace import AUDIT_CSV, AUDIT_HTML, AUDIT_JSON, Workspace
from competition.data.table import read_folds
from competition.insight.foreign import LIMIT, NEIGHBOURS, find_foreign
from competition.insight.look import draw_rows
from competition.insight.scored import read_scored
from competition.runs.oof import KEY_COLUMNS
from competition.runs.record import all_runs

AUDIT_FORMAT = 1  # raise it when the same predictions give another page
SHEET = 96  # images shown of the likely wrong labels, and of those that no run gets right
SHOWN = 10  # likely wrong labels printed
PAIRS, PAIR_SHEET = 8, 12  # pairs of classes shown, and images of each


@dataclass(frozen=True)
class Suspects:
    """Confident learning of n images in C classes."""

    thresholds: np.ndarray  # float64 [C]: the mean probability of a class over the images labelled so
    suggested: np.ndarray  # int64 [n]: the class that an image is likely of; its own where nothing speaks against that
    found: np.ndarray  # bool [n]: the label is likely wrong
    trust: np.ndarray  # float64 [n]: the probability of the label

    @property
    def order(self):
        """All rows, the least trusted label first, int64 [n]."""
        return np.argsort(self.trust, kind="stable")

    @property
    def ranked(self):
        """Rows of the likely wrong labels, the least trusted first, int64 [m]."""
        return self.order[self.found[self.order]]


def audit(name=None, runs=None, workspace=Workspace()):
    """Rank the labels of the fold table `name` by how likely they are wrong; write `runs/<name>/audit/`.

    runs   "a,b,c": judge by the mean of their OOF; default: by the blend where there is one, else by all finished runs

    Writes audit.csv (a row an image, the least trusted label first: image, label, fold, the class suggested instead
    where the label is likely wrong, the class predicted, how many runs are right, a probability a class), audit.html
    (contact sheets of those, of the most confused pairs and of images that no run gets right) and audit.json (hashes).
    Where frozen features of the images are at hand, images that are like no others are named and shown as well; without
    a finished run they are all there is, and audit.csv says of each image how unlike the others it is.
    Returns the CSV's content, a DataFrame. InputError: no finished run, or one made on other images or folds.
    """
    table = read_folds(name, workspace)
    foreign = find_foreign(table)
    if foreign and not runs and not any(all_runs(table.paths).values()):
        return _audit_foreign(table, foreign)
    scored = read_scored(table, runs)
    labels, classes = table.labels, np.array(table.classes, object)
    suspects = find_suspects(scored.probs, labels)
    right = np.sum([oof.mean(["identity"]).argmax(1) == labels for oof in scored.runs.values()], axis=0)
    hard = suspects.order[right[suspects.order] == 0]
    pairs = confused_pairs(scored.probs, labels, suspects.found)
    frame = _table_of_images(table, scored.probs, suspects, right)

    print(f"{table.name}: {len(labels)} images by {scored.name}, accuracy {accuracy(scored.probs, labels):.4f}")
    if unscored := table.say_unscored():
        print(unscored)
    print(
        f"{len(suspects.ranked)} labels are likely wrong, {len(hard)} images get no right answer from "
        f"{'the run' if len(scored.runs) == 1 else f'any of {len(scored.runs)} runs'}\n"
    )
    if len(suspects.ranked):
        first = suspects.ranked[:SHOWN]
        print(
            text_table(
                pd.DataFrame(
                    {
                        "image": np.array(table.images, object)[first],
                        "label": classes[labels[first]],
                        "probability": suspects.trust[first],
                        "suggested": classes[suspects.suggested[first]],
                        "probability there": scored.probs[first, suspects.suggested[first]],
                        "runs right": right[first],
                    }
                ),
                3,
            ),
            end="\n\n",
        )
    if pairs:
        shown = pd.DataFrame(pairs[:PAIRS])
        print(text_table(shown.assign(**{key: classes[shown[key]] for key in ("label", "predicted")}), 3), end="\n\n")

    _print_foreign(table, foreign)
    folder = table.paths.audit
    record = {
        "format": AUDIT_FORMAT,
        "predictions": scored.name,
        "oof": scored.hashes,
        "images": len(labels),
        "likely_wrong": [table.images[row] for row in suspects.ranked],
        "no_run_right": [table.images[row] for row in hard],
        "thresholds": dict(zip(table.classes, suspects.thresholds.tolist())),
        "table": table.hash,
        "data": table.data_hash,
        "classes": table.classes,
        "versions": files.versions(),
    }
    if foreign:
        record |= {"foreign": [table.images[row] for row in foreign.ranked], "features": foreign.features}
    if is_page_written(folder / AUDIT_JSON, record):
        print(f"{folder / AUDIT_HTML}: made of these predictions already, nothing to do")
        return frame
    files.write_bytes(folder / AUDIT_CSV, files.sheet_bytes(frame))
    page.write_page(
        folder / AUDIT_HTML,
        f"{table.name}: which labels are wrong?",
        [*_parts(table, scored, suspects, hard, right, pairs), *_foreign_parts(table, foreign)],
    )
    files.write_json(folder / AUDIT_JSON, record)
    print(f"{folder / AUDIT_HTML}: the same with pictures; {folder / AUDIT_CSV}: a row an image")
    return frame


def find_suspects(probs, labels):
    """The Suspects among labels int [n], by out-of-fold probabilities [n, C].

    An image counts for a class when its probability reaches the class's threshold, for the most probable one of several
    such (Northcutt et al. 2021, equation 1); one that counts for another class than its label's has a likely wrong
    label, unless the label is the most probable class all the same. The same ones as cleanlab 2.9's
    find_label_issues(filter_by="confident_learning"). A class without images has no threshold to reach.
    """
    rows = np.arange(len(labels))
    counts = np.bincount(labels, minlength=probs.shape[1])
    sums = np.bincount(labels, weights=probs[rows, labels], minlength=probs.shape[1])
    thresholds = np.divide(sums, counts, out=np.full(len(counts), np.inf), where=counts > 0)
    confident = np.where(probs >= thresholds, probs, -1)
    found = (confident.max(1) >= 0) & (confident.argmax(1) != labels) & (probs.argmax(1) != labels)
    return Suspects(thresholds, np.where(found, confident.argmax(1), labels), found, probs[rows, labels])


def confused_pairs(probs, labels, found):
    """A dict for each pair of classes that are confused, the most images first; classes by number.

    `share` is that of the images labelled so, `likely wrong` how many of them are among the suspects `found`, bool [n].
    """
    matrix, doubtful = confusion(probs, labels), confusion(probs[found], labels[found])
    pairs = [
        {
            "label": int(true),
            "predicted": int(other),
            "images": int(matrix[true, other]),
            "share": float(matrix[true, other] / matrix[true].sum()),
            "likely wrong": int(doubtful[true, other]),
        }
        for true, other in np.argwhere(matrix)
        if true != other
    ]
    return sorted(pairs, key=lambda pair: (-pair["images"], -pair["share"]))


def is_page_written(path, record):
    """Whether the page in `folder` was made of what `record` says, so that it need not be made again."""
    whole = all(path.with_suffix(ending).exists() for ending in (".html", ".csv", ".json"))
    return whole and files.read_json(path) == record


def _print_foreign(table, foreign):
    """Name the images that are like no others; `foreign` is a Foreign, or None where no features are at hand."""
    if not foreign:
        print("images like no others: not looked for without frozen features; `make rank` leaves some")
        return
    rows = foreign.ranked
    print(
        f"{len(rows)} images are like no others, by {foreign.features}"
        + (f": {shorten([table.images[row] for row in rows], SHOWN)}" if len(rows) else "")
    )


def _audit_foreign(table, foreign):
    """What can be said before any run is finished: a DataFrame image, label, fold, z, written as audit.csv and .html."""
    folder = table.paths.audit
    _print_foreign(table, foreign)
    frame = table.frame[KEY_COLUMNS].assign(z=foreign.z.round(3))
    frame = frame.iloc[np.argsort(-foreign.z, kind="stable")].reset_index(drop=True)
    files.write_bytes(folder / AUDIT_CSV, files.sheet_bytes(frame))
    page.write_page(folder / AUDIT_HTML, f"{table.name}: what is like nothing else?", _foreign_parts(table, foreign))
    print(f"{folder / AUDIT_HTML}: the same with pictures. No run is finished that would tell wrong labels: make train")
    return frame


def _foreign_parts(table, foreign):
    """The part of the page with the images that are like no others; nothing where no features are at hand."""
    if not foreign:
        return
    rows = foreign.ranked[:SHEET]
    shown = draw_rows(table, sorted(rows))
    yield page.heading(f"Like no others: {len(foreign.ranked)} of {len(table.images)} images")
    yield (
        f"Compared by {foreign.features}: the mean distance to the {NEIGHBOURS} nearest images of other groups lies more "
        f"than {LIMIT:g} robust standard deviations above the median; the {len(rows)} furthest. DROP_GROUPS= of make folds "
        "leaves out what does not belong to the data."
    )
    yield page.grid(
        page.figure([shown[row]], f"{table.images[row]}: {table.classes[table.labels[row]]}, {foreign.z[row]:.1f}")
        for row in rows
    )


def _table_of_images(table, probs, suspects, right):
    classes = np.array(table.classes, object)
    frame = table.frame[KEY_COLUMNS].assign(
        **{
            "suggested": np.where(suspects.found, classes[suspects.suggested], ""),
            "predicted": classes[probs.argmax(1)],
            "runs right": right,
        }
    )
    frame = pd.concat([frame, pd.DataFrame(probs, frame.index, table.classes)], axis=1)
    return frame.iloc[suspects.order].reset_index(drop=True)


def _parts(table, scored, suspects, hard, right, pairs):
    labels, predicted, runs = table.labels, scored.probs.argmax(1), len(scored.runs)
    ranked = suspects.ranked
    true, other = labels[suspects.order], predicted[suspects.order]
    sheets = [
        suspects.order[(true == pair["label"]) & (other == pair["predicted"])][:PAIR_SHEET] for pair in pairs[:PAIRS]
    ]
    shown = draw_rows(table, sorted({row for rows in (ranked[:SHEET], hard[:SHEET], *sheets) for row in rows}))

    def say(row, other):
        return f"{table.classes[other]} {scored.probs[row, other]:.2f}"

    def sheet(rows, other):
        return page.grid(
            page.figure(
                [shown[row]],
                f"{table.images[row]}: labelled {say(row, labels[row])}, looks like "
                f"{say(row, other[row])}; {right[row]} of {runs} right",
            )
            for row in rows
        )

    yield (
        f"Judged by {scored.name}, {accuracy(scored.probs, labels):.4f} accurate, every image by models that never "
        f"saw it. {table.data}"
    )
    yield page.heading(f"Likely wrong labels: {len(ranked)} of {len(labels)} images")
    yield (
        f"As surely of another class as that class's own images are on average; the {min(SHEET, len(ranked))} whose "
        "label gets the least probability. Hard images with good labels are among them: look before you change one."
    )
    yield page.table([_class_row(table, suspects, label) for label in range(len(table.classes))])
    yield sheet(ranked[:SHEET], suspects.suggested)
    yield page.heading("Most confused pairs")
    for pair, rows in zip(pairs, sheets):
        true, other = (table.classes[pair[key]] for key in ("label", "predicted"))
        yield (
            f"{true}, predicted as {other}: {pair['images']} images, {pair['share']:.1%} of the class, "
            f"{pair['likely wrong']} of them with a likely wrong label"
        )
        yield sheet(rows, predicted)
    yield page.heading(f"No run is right: {len(hard)} of {len(labels)} images, by {runs} runs")
    yield f"The {min(SHEET, len(hard))} whose label gets the least probability."
    yield sheet(hard[:SHEET], predicted)


def _class_row(table, suspects, label):
    labels = table.labels
    return {
        "class": table.classes[label],
        "images": int((labels == label).sum()),
        "mean probability of its images": float(suspects.thresholds[label]),
        "likely another": int((suspects.found & (labels == label)).sum()),
        "others that are likely it": int((suspects.found & (suspects.suggested == label)).sum()),
    }
