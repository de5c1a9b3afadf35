"""The nested choice of a blend: what is chosen on all folds but one is scored on that one."""

from dataclasses import dataclass, field

import numpy as np

from competition.base.metrics import METRICS, calibration_error, find_metric, log_loss, reliability
from competition.base.statistics import behind_best, cluster_error
from competition.blending.temperature import find_temperature, sharpen
from competition.blending.weights import STACKED, WEIGH, blend_logs
from competition.data.table import group_ids
from competition.features.views import usable_views

RELIABILITY_BINS = 5  # of the table
PARTS = 10  # of the nested choice, at most
BLEND_KINDS = ("single", "mean", "greedy", "convex")  # from simple to complex; the zip can hold these
SHOWN = ("geometric", "stacking")  # the zip averages probabilities, so that these are never chosen


@dataclass(frozen=True)
class Candidate:
    """One way to blend, `weights` over runs that sum to 1 (none where it is no average) and the views averaged.

    Scores are of the competition's metric.
    """

    kind: str
    views: list[str]
    weights: dict[str, float]
    nested: float  # of predictions that it did not see when it was chosen
    in_sample: float  # of those that it was chosen on
    log_loss: float  # nested
    behind: float = 0.0  # the best nested score, and the standard error of that
    error: float = 0.0

    def __str__(self):
        count = f" of {len(self.weights)}" if len(self.weights) > 1 else ""
        return f"{self.kind}{count} with {name_views(self.views)}"


@dataclass
class Chooser:
    """Chooses blends on all parts of the images, or without some.

    stacks   {views: probabilities [R, n, C]}, views a tuple of names
    labels   int [n]
    parts    int [n], at least three different ones: what is left out together (nest_parts)
    groups   int [n], images that stand or fall together
    """

    stacks: dict
    labels: np.ndarray
    parts: np.ndarray
    groups: np.ndarray
    metric: object = METRICS["accuracy"]
    kinds: tuple = BLEND_KINDS
    fitted: dict = field(default_factory=dict)

    @property
    def keys(self):
        """All (kind, views) to choose from: with one run, nothing but the views."""
        runs = len(next(iter(self.stacks.values())))
        return [(kind, views) for kind in self.kinds if runs > 1 or kind == "single" for views in self.stacks]

    def shares(self, kind, views, left_out=frozenset()):
        """float64 [R], chosen on the images that are in none of the parts left out."""
        key = kind, views, frozenset(left_out)
        if key not in self.fitted:
            rows = self._rows(left_out)
            self.fitted[key] = WEIGH[kind](self.stacks[views][:, rows], self.labels[rows], self.metric)
        return self.fitted[key]

    def nested(self, kind, views, left_out=frozenset()):
        """Probabilities [n, C] where each part's are by shares chosen without it (and without those left out)."""
        stack = self.stacks[views]
        probs = np.zeros(stack.shape[1:])
        for part in np.unique(self.parts[self._rows(left_out)]):
            rows = self.parts == part
            probs[rows] = np.tensordot(self.shares(kind, views, frozenset(left_out) | {part}), stack[:, rows], 1)
        return probs

    def compare(self, left_out=frozenset()):
        """Nested probabilities of all keys, how far each is behind the best, and the standard error of that."""
        rows = self._rows(left_out)
        probs = [self.nested(kind, views, left_out)[rows] for kind, views in self.keys]
        return probs, *behind_best(self.metric, probs, self.labels[rows], self.groups[rows])

    def choose(self, left_out=frozenset()):
        """The (kind, views) of the simplest candidate that is no more than one standard error behind the best."""
        probs, behind, error = self.compare(left_out)

        def cost(i):
            kind, views = self.keys[i]
            members = np.count_nonzero(self.shares(kind, views, left_out))
            return (
                members,
                len(views),
                BLEND_KINDS.index(kind),
                behind[i],
                log_loss(probs[i], self.labels[self._rows(left_out)]),
            )

        return self.keys[min(np.flatnonzero(behind <= error).tolist(), key=cost)]

    def whole(self, tempered=False):
        """Probabilities [n, C] where each part's are by what would be chosen, candidate and shares, without it.

        tempered  the temperature as well, on the nested predictions of the other parts
        """
        probs = np.zeros(next(iter(self.stacks.values())).shape[1:])
        for part in np.unique(self.parts):
            rows, (kind, views) = self.parts == part, self.choose({part})
            probs[rows] = np.tensordot(self.shares(kind, views, {part}), self.stacks[views][:, rows], 1)
            if tempered:
                probs[rows] = sharpen(probs[rows], self.temperature(kind, views, {part}))
        return probs

    def temperature(self, kind, views, left_out=frozenset()):
        """The best for the nested predictions of the parts that are not left out."""
        rows = self._rows(left_out)
        return find_temperature(self.nested(kind, views, left_out)[rows], self.labels[rows])

    def predict(self, kind, views):
        """Probabilities [n, C] by shares that were chosen on these very images."""
        return np.tensordot(self.shares(kind, views), self.stacks[views], 1)

    def _rows(self, left_out):
        return ~np.isin(self.parts, list(left_out))


def combine(oofs, weights, views):
    """Sum over runs of weight * mean over views, float32 [n, C]; summed in float64, in the weights' order.

    oofs {run: OOF}, weights {run: float}, views: names.
    """
    return sum(weight * oofs[run].mean(views) for run, weight in weights.items()).astype(np.float32)


def view_sets(oofs, size):
    """The sets of views to try: identity; with hflip; all that every OOF has and `size` (h, w) allows."""
    common = [view for view in usable_views(size) if all(view in oof.views for oof in oofs)]
    sets = [["identity"], ["identity", "hflip"], common]
    return [views for i, views in enumerate(sets) if set(views) <= set(common) and views not in sets[:i]]


def nest_parts(fold, groups):
    """What is left out together when choices are nested, int64 [n]: the folds, ten at most; of two folds the halves.

    A choice among candidates leaves out two parts at a time, so that there must be three. A group stays in one part, unless
    it is all that one of two folds holds.
    """
    if fold.max() >= 2:
        return fold % PARTS
    parts = 2 * fold
    for half in (0, 1):
        rows = fold == half
        own = np.unique(groups[rows], return_inverse=True)[1]
        parts[rows] += (own if own.any() else np.arange(len(own))) % 2
    return parts


def make_chooser(oofs, table, members=None):
    """The Chooser over members, lists of names of the runs {name: OOF} that each averages, and the views of all runs.

    members   default: each run is one
    """
    members = members or [[run] for run in oofs]
    stacks = {
        tuple(views): np.stack([np.mean([oofs[run].mean(views) for run in runs], axis=0) for runs in members])
        for views in view_sets(oofs.values(), table.size)
    }
    groups = group_ids(table)
    return Chooser(stacks, table.labels, nest_parts(table.fold, groups), groups, find_metric(table.metric))


def make_candidates(chooser, members):
    """All Candidates, those that are only shown last, and the place of the one to take.

    members   what the chooser weighs, lists of runs, which share its weight
    """
    metric, labels, chosen = chooser.metric, chooser.labels, chooser.choose()
    best, candidates = None, []
    probs, behind, error = chooser.compare()
    for i, (kind, views) in enumerate(chooser.keys):
        shares = chooser.shares(kind, views)
        order = sorted(
            (-share / len(runs), run) for runs, share in zip(members, shares.tolist()) if share for run in runs
        )
        weights = {run: -share for share, run in order}
        scores = metric.score(probs[i], labels), metric.score(chooser.predict(kind, views), labels)
        candidates.append(
            Candidate(
                kind, list(views), weights, *scores, log_loss(probs[i], labels), float(behind[i]), float(error[i])
            )
        )
        if best is None or metric.quality(probs[i], labels) > metric.quality(best, labels):
            best = probs[i]
    for kind in SHOWN if len(members) > 1 else ():
        for views, stack in chooser.stacks.items():
            if kind == "stacking" and stack.size * stack.shape[-1] > STACKED:
                continue
            found, plain = blend_logs(kind, np.log(np.clip(stack, 1e-7, 1)), labels, chooser.parts)
            _, noise = behind_best(metric, [best, found], labels, chooser.groups)
            candidates.append(
                Candidate(
                    kind,
                    list(views),
                    {},
                    metric.score(found, labels),
                    metric.score(plain, labels),
                    log_loss(found, labels),
                    metric.sign * (metric.score(best, labels) - metric.score(found, labels)),
                    float(noise.max()),
                )
            )
    return candidates, chooser.keys.index(chosen)


def calibrate_nested(chooser, winner):
    """The winner's temperature, 1 unless that is worse by more than a standard error; and figures before and after.

    The figures are of nested predictions: each part's weights and temperature are chosen without it.
    """
    labels, parts, key = chooser.labels, chooser.parts, (winner.kind, tuple(winner.views))
    plain = chooser.nested(*key)
    cooled = np.zeros_like(plain)
    for part in np.unique(parts):
        rows = parts == part
        cooled[rows] = sharpen(plain[rows], chooser.temperature(*key, {part}))
    each = METRICS["log_loss"].each
    gains = each(plain, labels) - each(cooled, labels)
    kept = gains.mean() > cluster_error(gains, chooser.groups)
    temperature = find_temperature(plain, labels)
    return temperature if kept else 1.0, {
        "temperature": temperature,
        "applied": bool(kept),
        "log_loss": [log_loss(plain, labels), log_loss(cooled, labels)],
        "calibration_error": [calibration_error(plain, labels), calibration_error(cooled, labels)],
        "reliability": [reliability(probs, labels, RELIABILITY_BINS) for probs in (plain, cooled)],
    }


def name_views(views):
    return "+".join(views) if len(views) <= 2 else f"{len(views)} views"
