"""The study's table: each rung's score, its interval, and its difference to the rung that it is compared with."""

import math
from functools import partial

import pandas as pd

from competition.base.metrics import METRICS, find_metric
from competition.base.statistics import CONFIDENCE, accuracy_interval, compare_accuracies
from competition.trials.ladder import LADDER, NOTES
from competition.trials.study_rungs import find_rarest, known_rows

LIKELY = 0.05  # of 20 comparisons of equals one has a smaller p


def score_rung(plan, result):
    """The row of a rung, a dict; empty figures are NaN."""
    table, rung, metric = plan.table, result.rung, find_metric(plan.table.metric)
    row = {
        "rung": rung.name,
        "state": result.state,
        "accuracy": math.nan,
        "low": math.nan,
        "high": math.nan,
        **dict.fromkeys(metric.besides, math.nan),
        "reference": rung.reference,
        "difference": math.nan,
        "p": math.nan,
        "rarest": math.nan,
        "images": 0,
        "seconds": result.seconds,
        "report": rung.report,
        "command": result.command,
        "where": result.where,
        "reason": result.reason,
    }
    if not result.views:
        return row
    known, right = known_rows(result.probs), result.probs.argmax(1) == table.labels
    rare = known & (table.labels == table.classes.index(find_rarest(table)))
    row["accuracy"], row["images"] = float(right[known].mean()), int(known.sum())
    row["low"], row["high"] = accuracy_interval(right[known])
    row |= metric.beside(result.probs[known], table.labels[known])
    row["rarest"] = float(right[rare].mean()) if rare.any() else math.nan
    reference = plan.results.get(rung.reference)
    if reference and reference.views and (both := known & known_rows(reference.probs)).any():
        before = reference.probs.argmax(1) == table.labels
        row["difference"], row["p"] = compare_accuracies(right[both], before[both])
    return row


def format_table(frame):
    """The table for people."""

    def text(form, value):
        return "" if pd.isna(value) else form.format(value)

    done = frame["state"] == "done"
    return pd.DataFrame(
        {
            "rung": frame["rung"],
            "accuracy": [
                text("{:.3f}", value) if good else state
                for good, value, state in zip(done, frame["accuracy"], frame["state"])
            ],
            f"{CONFIDENCE:.0%}": [
                text("{:.3f}-{:.3f}".format(low, high), high) for low, high in zip(frame["low"], frame["high"])
            ],
            **{
                name: frame[name].map(partial(text, "{:.3f}"))
                for metric in METRICS.values()
                for name in metric.besides
                if name in frame
            },
            "beside": frame["reference"],
            "difference": frame["difference"].map(partial(text, "{:+.3f}")),
            "p": [("<0.001" if p < 0.001 else f"{p:.3f}") if p == p else "" for p in frame["p"]],
            "rarest": frame["rarest"].map(partial(text, "{:.3f}")),
            "images": [str(images) if good else "" for good, images in zip(done, frame["images"])],
            "seconds": [f"{seconds:.0f}" if good or seconds else "" for good, seconds in zip(done, frame["seconds"])],
            "the report": [
                report if good else reason for good, report, reason in zip(done, frame["report"], frame["reason"])
            ],
        }
    )


def describe_study(plan):
    table = plan.table
    return (
        f"{table.name}: {len(table.labels)} images in {len(table.classes)} classes, {table.k} folds; "
        f"BACKBONE={plan.backbone}, budget {plan.budget}; rarest class {find_rarest(table)}"
        + "".join(
            f"; scored by {name}, beside which interval, difference and p are of accuracy"
            for name in find_metric(table.metric).besides
        )
    )


def explain_table(plan, frame):
    """What the columns mean, and what they do not."""
    compared = int(frame["p"].notna().sum())
    left = [rung.name for rung in LADDER if plan.budget not in rung.budgets]
    lines = [
        "difference: to the accuracy of the rung named beside it, on the images that both have a held-out prediction "
        f"of; p: McNemar's exact test. Of {compared} comparisons of equals about {compared * LIKELY:.0f} would have p "
        f"below {LIKELY}. Ensembles' weights are chosen on the other folds. The best of a few trials (hyperresnet) "
        "flatters. seconds: the first rung that sees a backbone at some size pays for its features.",
        NOTES[plan.budget],
        f"Not in this budget: {', '.join(left)}." if left else "",
    ]
    return " ".join(line for line in lines if line)
