"""What fits a scorer's limits, where the blend does not: fewer members, views or folds, weights of half precision.

What a candidate takes is estimated from the rehearsal of the whole, shared out by what each network was measured to
take; what it costs in score is measured on the OOF, nested as the blend's (chooser.Chooser), but for fewer folds: an
image's OOF comes from one model, so that nothing is averaged there. The rehearsal of a candidate proves what it takes.
"""

import contextlib
import dataclasses
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd

from competition.base.files import InputError, read_json
from competition.base.metrics import find_metric
from competition.base.text import text_table
from competition.base.workspace import RUN_JSON, STUDY_RUN
from competition.blending.chooser import combine, make_chooser, nest_parts
from competition.blending.temperature import find_temperature, sharpen
from competition.data.table import group_ids
from competition.models.fuse import fuse_batchnorm
from competition.runs.kinds import read_run
from competition.runs.oof import read_oof
from competition.runs.record import all_runs
from competition.submission.ensemble import check_weights
from competition.submission.limits import Cost
from competition.submission.network import backbone_identity

ASSUMED_GAIN = 0.01  # of averaging all fold models over one, as a share of the metric's range, where it is not measured
LEAST_UNKNOWN = 0.25  # weight of members whose gain was not measured from which on that of the whole is assumed
TIMED = 8  # images that a network is timed on
BASE = 450e6  # bytes that Python and TensorFlow take by themselves, at least
COPIES = 2  # of its weights that the loaded network has in memory
ATTEMPTS = 5  # zips that are made to find one that fits; the last is the smallest


@dataclass(frozen=True)
class Choice:
    """Something smaller to hand in. `cost` is estimated, and `expected`, the score on the hidden test, forecast."""

    ensemble: object  # ensemble.Ensemble
    expected: float
    cost: Cost
    cuts: tuple  # which of "members", "views", "folds", "float16" it has less of
    nested: np.ndarray | None = None  # what `expected` goes by: probabilities float32 [n, C]


@dataclass(frozen=True)
class Part:
    """What one network takes: of a fine-tuned run, one fold's; of frozen runs, the backbone that they may share."""

    key: str
    numbers: int  # weights in it
    heads: int  # weights of one fold's head, where the backbone is shared
    seconds: float  # an image


def measure_networks(run, table):
    """The Part of a run, on this machine's CPU."""
    import tensorflow as tf

    heads = 0
    if run.frozen:
        backbone, layers = run.build_shared(table)
        key, heads = backbone_identity(run, backbone), sum(layer[0].size for layer in layers)
    else:
        key, backbone = run.name, run.build_fold_model(table, 0)
    model = fuse_batchnorm(backbone)
    with tf.device("/CPU:0"):
        images = tf.zeros((TIMED, *table.size, 3))
        call = tf.function(lambda x: model(x, training=False), autograph=False)
        call(images)
        taken = []
        for _ in range(3):
            start = time.perf_counter()
            np.asarray(call(images))
            taken.append(time.perf_counter() - start)
    return Part(key, model.count_params(), heads, min(taken) / TIMED)


def weigh_ensemble(ensemble, parts, k):
    """Numbers stored and seconds an image of an Ensemble, by the Parts {run name: Part} of its members."""
    folds, views = len(ensemble.folds or range(k)), len(ensemble.views)
    numbers = seconds = 0
    shared = set()
    for run, _ in ensemble.members:
        part = parts[run.name]
        if run.frozen:
            numbers += folds * part.heads
        if part.key not in shared:
            times = 1 if run.frozen else folds
            numbers, seconds = numbers + times * part.numbers, seconds + times * views * part.seconds
        shared.add(part.key)
    return numbers * (0.5 if ensemble.half else 1.0), seconds


def choose_fitting(ensemble, table, load_seconds, cost, count):
    """All Choices, best expected score first, that take less than an Ensemble whose rehearsal found its Cost.

    load_seconds  of those seconds, what it took to load and to warm up; count: images of the hidden test that the rest is for
    """
    oofs = _read_oofs(ensemble, table)
    runs = {run: read_run(table.paths.run(run), table) for run in oofs}
    parts = {name: measure_networks(run, table) for name, run in runs.items()}
    whole = weigh_ensemble(ensemble, parts, table.k)
    rate = (cost.seconds - load_seconds) / count / whole[1]
    base = max(BASE, cost.memory - 4 * COPIES * whole[0])
    metric, gain, _ = find_averaging_gain(ensemble, table)

    def estimate(candidate):
        numbers, seconds = weigh_ensemble(candidate, parts, table.k)
        return Cost(cost.bytes * numbers / whole[0], load_seconds + rate * seconds * count, base + 4 * COPIES * numbers)

    score_of_whole, start = None, (ensemble.forecast or {}).get("expected")
    choices = []
    for smaller, probs in _subsets(ensemble, table, oofs, runs):
        nested = float(metric.score(probs, table.labels))
        score_of_whole = nested if score_of_whole is None else score_of_whole
        for folds in _fold_counts(table.k):
            for half in (False, True):
                chosen = None if folds == table.k else tuple(range(folds))
                candidate = dataclasses.replace(smaller, folds=chosen, half=half)
                lost = gain * (1 - (1 - 1 / folds) / (1 - 1 / table.k))
                expected = (score_of_whole if start is None else start) + (nested - score_of_whole) - lost
                cuts = _cuts(ensemble, candidate)
                taken = estimate(candidate)
                if cuts and (taken.bytes < cost.bytes or taken.seconds < cost.seconds):
                    choices.append(Choice(candidate, float(expected), taken, cuts, probs))
    return sorted(
        choices,
        key=lambda choice: (
            -metric.sign * round(choice.expected, 6),
            len(choice.cuts),
            choice.ensemble.half,
            choice.cost.seconds,
        ),
    )


def measure_flattery(choice, rivals, table):
    """By how much the nested score of a Choice is too good, as it was the best of its rivals: that of what each part's
    images would get if it were chosen on the others, less its own."""
    metric, parts = find_metric(table.metric), nest_parts(table.fold, group_ids(table))
    if any(one.nested is None for one in (choice, *rivals)):
        return 0.0

    def scores(rows):
        found = {id(one.nested): metric.score(one.nested[rows], table.labels[rows]) for one in rivals}
        return np.array([found[id(one.nested)] for one in rivals])

    besides = np.array([one.expected for one in rivals]) - scores(slice(None))
    chosen = np.empty_like(choice.nested)
    for part in np.unique(parts):
        best = np.argmax(metric.sign * (scores(parts != part) + besides))
        chosen[parts == part] = rivals[best].nested[parts == part]
    return float(metric.score(choice.nested, table.labels) - metric.score(chosen, table.labels))


def find_averaging_gain(ensemble, table):
    """The metric, what averaging all fold models adds to one's score, and whether that was measured."""
    metric, forecast = find_metric(table.metric), ensemble.forecast or {}
    gain = forecast.get("averaging_gain") or 0.0
    unknown = sum(share for run, share in ensemble.members if run.name in (forecast.get("not_measured") or ()))
    measured = bool(gain) and unknown < LEAST_UNKNOWN
    if not measured:
        span = metric.high - metric.low if np.isfinite(metric.high - metric.low) else 1.0
        gain = metric.sign * max(metric.sign * gain, ASSUMED_GAIN * span)
    return metric, gain, measured


def print_choices(ensemble, table, cost, choices, limits):
    """Print the whole blend, each cut alone, and the best choices that fit."""
    fits = [choice for choice in choices if not limits.exceeded(choice.cost)]
    rows = [_row("", ensemble, table, cost, (ensemble.forecast or {}).get("expected"), 0, limits)]
    start = (ensemble.forecast or {}).get("expected")
    alone = []
    for cut in ("folds", "members", "views", "float16"):
        own = [choice for choice in choices if choice.cuts == (cut,)]
        good = [choice for choice in own if choice in fits]
        alone += (
            good[:1]
            or sorted(own, key=lambda choice: choice.cost.seconds / cost.seconds + choice.cost.bytes / cost.bytes)[:1]
        )
    for choice in (*fits[:3], *(choice for choice in alone if choice not in fits[:3])):
        mark = "*" if choice in fits[:1] else ""
        rows.append(
            _row(
                mark,
                choice.ensemble,
                table,
                choice.cost,
                choice.expected,
                None if start is None else choice.expected - start,
                limits,
            )
        )
    print(text_table(pd.DataFrame(rows)), end="\n\n")
    _, gain, measured = find_averaging_gain(ensemble, table)
    how = "as measured" if measured else "assumed, as it was not measured"
    print(
        "the first row is measured, the others are forecast; scores of members and views are nested OOF, those of fewer "
        f"folds estimated\n(all fold models are {abs(gain):.4f} better than one, {how}); what float16 changes is seen "
        "when it is made"
    )
    for line in _commands(ensemble, table, cost, choices):
        print(line)


def find_smallest(choices, limits):
    """Of some Choices the one that is farthest below the limits, or least above them."""

    def share(choice):
        pairs = (
            (choice.cost.bytes / 1e6, limits.megabytes),
            (choice.cost.seconds, limits.seconds),
            (choice.cost.memory, limits.memory),
        )
        return max(taken / limit for taken, limit in pairs if limit is not None)

    return min(choices, key=share)


def refine_choices(choices, choice, found):
    """Estimates of the Choices, made better by what the rehearsal of one of them found (Cost)."""
    ratios = [new / old for new, old in zip(dataclasses.astuple(found), dataclasses.astuple(choice.cost))]
    return [
        dataclasses.replace(
            other, cost=Cost(*(value * ratio for value, ratio in zip(dataclasses.astuple(other.cost), ratios)))
        )
        for other in choices
        if other is not choice
    ]


def _fold_counts(k):
    """All of a few folds; of many, some."""
    return [k - i for i in range(k)] if k <= 6 else sorted({k, k // 2, 5, 3, 2, 1}, reverse=True)


def _cuts(whole, candidate):
    fewer = {
        "members": {run.name for run, _ in candidate.members} != {run.name for run, _ in whole.members},
        "views": candidate.views != whole.views,
        "folds": candidate.folds is not None,
        "float16": candidate.half,
    }
    return tuple(key for key, cut in fewer.items() if cut)


def _read_oofs(ensemble, table):
    """The OOF of the ensemble's members, most weight first; of a blend, of all other finished runs as well."""
    members = [run.name for run, _ in sorted(ensemble.members, key=lambda member: -member[1])]
    found = {run: read_oof(table.paths.run(run), table) for run in members}
    if ensemble.source == "blend":
        for run, finished in all_runs(table.paths).items():
            if finished and run not in found and not run.startswith(STUDY_RUN):
                with contextlib.suppress(InputError):  # of other images, or without its weights: no run to hand in
                    oof = read_oof(table.paths.run(run), table)
                    check_weights(read_run(table.paths.run(run), table), table)
                    found[run] = oof
    return found


def _subsets(ensemble, table, oofs, runs):
    """(Ensemble of all folds, its nested probabilities): first the whole, then with fewer views, fewer members, single runs."""
    members = [run for run in oofs if run in {run.name for run, _ in ensemble.members}]
    names = [members[:count] for count in range(len(members), 0, -1)]
    names += [[run] for run in oofs if run not in members[:1]]
    for subset in names:
        some = {run: oofs[run] for run in subset}
        chooser = make_chooser(some, table)
        sets = list(chooser.stacks)
        if tuple(ensemble.views) in sets:  # the whole comes first
            sets.remove(tuple(ensemble.views))
            sets.insert(0, tuple(ensemble.views))
        for views in sets:
            if len(views) > len(ensemble.views):
                continue
            kind = "greedy" if len(subset) > 1 else "single"
            nested = chooser.nested(kind, views)
            same = len(subset) == len(members) and subset == members
            weights = (
                {run.name: weight for run, weight in ensemble.members}
                if same
                else {run: share for run, share in zip(subset, chooser.shares(kind, views).tolist()) if share > 0}
            )
            temperature = (
                1.0
                if ensemble.temperature == 1
                else (ensemble.temperature if same else find_temperature(nested, table.labels))
            )
            yield (
                dataclasses.replace(
                    ensemble,
                    members=[(runs[run], weight) for run, weight in weights.items()],
                    views=list(views),
                    temperature=temperature,
                    oof=sharpen(combine(oofs, weights, list(views)), temperature),
                ),
                sharpen(nested, temperature),
            )


def _row(mark, ensemble, table, cost, expected, change, limits):
    return {
        "": mark,
        "members": " ".join(f"{run.name} {weight:.2f}" for run, weight in ensemble.members),
        "folds": f"{len(ensemble.folds or range(table.k))} of {table.k}",
        "views": len(ensemble.views),
        "weights": "float16" if ensemble.half else "float32",
        "MB": f"{cost.bytes / 1e6:.1f}",
        "seconds": f"{cost.seconds:.1f}",
        "memory, MB": f"{cost.memory / 1e6:.0f}",
        "forecast": "" if expected is None else f"{expected:.4f}",
        "change": "" if change is None else f"{change:+.4f}",
        "fits": "no" if limits.exceeded(cost) else "yes",
    }


def _accuracy(table, run):
    """The accuracy of a run's OOF; 0 where its record does not say, or is not there."""
    path = table.paths.run(run.name) / RUN_JSON
    return path.exists() and read_json(path).get("accuracy") or 0.0


def _commands(ensemble, table, cost, choices):
    """What else would make it smaller, which takes training or another run: lines, with what each would take.

    What it would score nobody knows before it has an OOF, which costs one command: it is likely between what is left
    without the others and the whole, for a soup where that holds. Heads make heads, whose backbone is one.
    """
    alike, names = {}, {run.name for run, _ in ensemble.members}
    for run, _ in ensemble.members:
        if not run.frozen:
            shape = run.recipe.image_size, run.recipe.least_size, str(run.recipe.head)
            alike.setdefault((run.config["model"], *shape), []).append(run)
    for runs in alike.values():
        if len(runs) > 1:
            parts = [_part(run, ensemble, table, choices) for run in runs[1:]]
            rest = (
                None
                if None in parts
                else Cost(*(value - sum(taken) for value, *taken in zip(*map(dataclasses.astuple, (cost, *parts)))))
            )
            left = _expected(names - {run.name for run in runs[1:]}, ensemble, choices)
            yield (
                f"one run in place of {len(runs)}{_taking(rest, left, ensemble)}: make soup NAME={table.name} "
                f"RUNS={','.join(run.name for run in runs)}; it says whether that holds, then RUN= takes it, or make "
                "blend again"
            )
    largest = max(ensemble.members, key=lambda member: (round(member[1], 6), _accuracy(table, member[0])))[0]
    if len(ensemble.members) > 1:
        alone = _alone(largest, ensemble, choices)
        left = _expected({largest.name}, ensemble, choices)
        yield (
            f"one run that learns what the blend says{_taking(alone, left, ensemble)}: make train NAME={table.name} "
            f"MODEL={largest.config['model']} RECIPE={'quick' if largest.frozen else 'best'} TEACHER=blend; "
            "then it is offered here with its own OOF"
        )


def _alone(run, ensemble, choices, folds=None):
    """The Cost of one run alone with as many views, of all folds or of so many; None where that is no Choice."""
    found = [
        choice.cost
        for choice in choices
        if [one.name for one, _ in choice.ensemble.members] == [run.name]
        and not choice.ensemble.half
        and len(choice.ensemble.views) == len(ensemble.views)
        and len(choice.ensemble.folds or ()) == (folds or 0)
    ]
    return found[0] if found else None


def _expected(names, ensemble, choices):
    """The forecast of the members of these names alone, all folds and as many views; None where that is no Choice."""
    found = [
        choice.expected
        for choice in choices
        if set(choice.cuts) == {"members"} and {run.name for run, _ in choice.ensemble.members} == names
    ]
    return found[0] if found else None


def _part(run, ensemble, table, choices):
    """What a fine-tuned run adds to the whole, Cost: k folds of what each fold beyond the first adds; None if unknown."""
    whole, one = _alone(run, ensemble, choices), _alone(run, ensemble, choices, 1)
    if whole is None or one is None or table.k < 2:
        return None
    factor = table.k / (table.k - 1)
    return Cost(*(factor * (a - b) for a, b in zip(dataclasses.astuple(whole), dataclasses.astuple(one))))


def _taking(cost, left, ensemble):
    """What a network in place of several takes, and its forecast, from that of what is `left` without it to the whole's."""
    parts = (
        []
        if cost is None
        else [f"about {cost.bytes / 1e6:.1f} MB, {cost.seconds:.1f} s, {cost.memory / 1e6:.0f} MB of memory"]
    )
    whole = (ensemble.forecast or {}).get("expected")
    if None not in (left, whole):
        parts.append(f"forecast between {left:.4f}, without the others, and {whole:.4f}, the whole's")
    return f" ({'; '.join([*parts, 'its own OOF tells when it is made'])})"
