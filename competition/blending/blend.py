"""Average runs and TTA views: weights are chosen on out-of-fold predictions, no finer than these can tell.

Whatever is chosen on predictions flatters itself when it is scored on the same ones. So everything here is scored
nested: the images are parted by fold, a blend that is chosen on all parts but one predicts that one, and these
predictions together are scored (Varma and Simon 2006, BMC Bioinformatics 7:91). The plain figure stands beside it.

Candidates are ways to weigh the runs, each with several sets of views. Among those that the data cannot tell from the
best one, the simplest wins. That choice is nested as well: `Chooser.whole` makes it anew without each part.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from competition.base.files import InputError, sha256_file, versions, write_json
from competition.base.metrics import METRICS, Metric, find_metric, log_loss
from competition.base.sums import SUMS, seal
from competition.base.text import text_table
from competition.base.workspace import OOF_CSV, OOF_NPZ, Workspace
from competition.blending.chooser import (
    BLEND_KINDS,
    RELIABILITY_BINS,
    calibrate_nested,
    combine,
    make_candidates,
    make_chooser,
    name_views,
)
from competition.blending.forecast import check_hidden, forecast_blend
from competition.blending.forecast_report import print_forecast
from competition.blending.price import price_networks, read_networks
from competition.blending.record import FORMAT
from competition.blending.temperature import sharpen
from competition.data.table import FoldTable, read_folds
from competition.runs.choose_runs import choose_runs, count_left_out, read_chosen
from competition.runs.oof import read_oof, write_oof
from competition.runs.seeds import gather_seeds


def make_blend(
    name: str | None = None,
    runs: str | Sequence[str] | None = None,
    hidden_n: int | str | None = None,
    hidden: str = "random",
    workspace: Workspace = Workspace(),
) -> dict[str, Any]:
    """Choose weights and views on OOF, write `runs/<name>/blend/` (`blend.json`, `oof.csv`, `oof.npz`).

    name      of the fold table; may be left out while there is only one
    runs      "a,b,c" or a list; default: all finished runs of the table but the study's
    hidden_n  images of the hidden test that the forecast is for; default: as many as a fold has
    hidden    "random" or "groups": see forecast.make_forecast
    workspace where the table and its runs lie

    Prints every candidate, why one was chosen, and the forecast; returns what `blend.json` holds. The same runs give
    the same files, in whatever order they are named. InputError for runs that are unknown, unfinished, or made on
    another fold table, other images or other classes.
    """
    table = read_folds(name, workspace)
    hidden_n, hidden = check_hidden(hidden_n, hidden)
    labels, metric = table.labels, find_metric(table.metric)
    folder = table.paths.runs
    oofs = {run: read_chosen(folder / run, table, asked=bool(runs)) for run in choose_runs(table.paths, runs)}
    members = gather_seeds(folder, oofs)
    chooser = make_chooser(oofs, table, members)
    candidates, chosen = make_candidates(chooser, members)
    winner, networks = candidates[chosen], {run: read_networks(folder / run, table.k) for run in oofs}

    print(f"{table.name}: {len(oofs)} run{'s' * (len(oofs) > 1)}, {len(labels)} images; {metric.name} by views")
    print(text_table(_runs_table(members, labels, chooser.stacks, metric)), end="\n\n")
    rows = [
        {
            "kind": candidate.kind,
            "weights": candidate.weights,
            "views": candidate.views,
            "nested": candidate.nested,
            "in_sample": candidate.in_sample,
            "log_loss": candidate.log_loss,
            **price_networks([networks[run] for run in candidate.weights or oofs], len(candidate.views)),
            "behind": candidate.behind,
            "standard_error": candidate.error,
            "within_noise": candidate.behind <= candidate.error,
            "packable": candidate.kind in BLEND_KINDS,
            "chosen": i == chosen,
        }
        for i, candidate in enumerate(candidates)
    ]
    print(text_table(_candidates_table(rows, metric)), end="\n\n")
    why = explain_choice(candidates, chosen, metric)
    print(why, flush=True)

    temperature, calibration = calibrate_nested(chooser, winner)
    plain = combine(oofs, winner.weights, winner.views)
    probs = sharpen(plain, temperature)
    forecast = forecast_blend(table, oofs, chooser, winner, hidden_n, hidden, temperature)
    forecast["left_out"] = count_left_out(table.paths, oofs)
    print(_describe_calibration(temperature, calibration))
    print(text_table(_reliability_table(calibration)))
    print_forecast(forecast, table.classes)
    record = {
        "format": FORMAT,
        "weights": winner.weights,
        "views": winner.views,
        "temperature": temperature,
        "kind": winner.kind,
        "why": why,
        "metric": metric.name,
        "nested": winner.nested,
        "in_sample": winner.in_sample,
        "accuracy": METRICS["accuracy"].score(probs, labels),
        "log_loss": log_loss(probs, labels),
        "calibration": calibration,
        "forecast": forecast,
        "members": [
            {"run": run, "weight": weight, "oof": sha256_file(folder / run / OOF_NPZ)}
            for run, weight in winner.weights.items()
        ],
        "runs": list(oofs),
        "candidates": rows,
        "table": table.hash,
        "data": table.data_hash,
        "classes": table.classes,
        "size": list(table.size),
        "versions": versions(),
    }
    path = table.paths.blend_json
    path.unlink(missing_ok=True)  # so that it never lies beside another blend's predictions
    write_oof(path.parent, table, {"blend": probs})
    record[SUMS] = seal(path.parent, [OOF_NPZ, OOF_CSV])
    write_json(path, record, durable=True)
    print(f"{path}: in-sample {metric.name} {metric.score(probs, labels):.4f}, log-loss {record['log_loss']:.4f}")
    return record


def forecast_again(
    table: FoldTable, record: dict[str, Any], hidden_n: int | str | None = None, hidden: str | None = None
) -> dict[str, Any] | None:
    """The forecast of a blend (read_blend) for another hidden test; what is not given stays as the blend has it.

    InputError where the runs are no longer those that were blended.
    """
    made = record["forecast"] or {"hidden_n": None, "hidden": "random"}
    hidden_n, hidden = check_hidden(hidden_n or made["hidden_n"], hidden or made["hidden"])
    folder = table.paths.runs
    if (hidden_n, hidden) == (made["hidden_n"], made["hidden"]):
        return record["forecast"]
    if not all((folder / run / OOF_NPZ).exists() for run in record["runs"]):  # a kernel has the members alone
        return record["forecast"]
    oofs = {run: read_oof(folder / run, table) for run in record["runs"]}
    members = gather_seeds(folder, oofs)
    chooser = make_chooser(oofs, table, members)
    candidates, chosen = make_candidates(chooser, members)
    if candidates[chosen].weights != record["weights"] or candidates[chosen].views != record["views"]:
        raise InputError(f"{table.paths.blend_json}: other runs than those that were blended, run `make blend` again")
    forecast = forecast_blend(table, oofs, chooser, candidates[chosen], hidden_n, hidden, record["temperature"])
    return forecast | {"left_out": count_left_out(table.paths, oofs)}


def explain_choice(candidates: Sequence[Any], chosen: int, metric: Metric = METRICS["accuracy"]) -> str:
    """One line that says why candidate number `chosen` won."""
    packable = [candidate for candidate in candidates if candidate.kind in BLEND_KINDS]
    winner, noise = candidates[chosen], sum(candidate.behind <= candidate.error for candidate in packable)
    best = min(packable, key=lambda candidate: candidate.behind)
    if len(packable) == 1:
        reason = "the only candidate"
    elif winner.behind > best.behind:
        reason = f"the simplest of the {noise} within one standard error of the best, {best} ({best.nested:.4f})"
    elif noise > 1:
        reason = f"the best, and the simplest of the {noise} within one standard error"
    else:
        reason = f"the best of {len(packable)}, more than one standard error ahead of the others"
    if all(candidate.kind == "single" for candidate in candidates):
        reason += "; there is only one run, so the blend is that run"
    return f"chosen: {winner} (nested {metric.name} {winner.nested:.4f}), {reason}"


def _describe_calibration(temperature, found):
    before, after = found["calibration_error"]
    return (
        f"calibration: off by {before:.3f}, with temperature {found['temperature']:.2f} by {after:.3f}, log-loss "
        f"{found['log_loss'][0]:.4f} and {found['log_loss'][1]:.4f} (nested); "
        + ("applied" if temperature != 1 else "left at 1, within noise")
    )


def _reliability_table(found):
    """How sure the blend is beside how often it is right, before and after the temperature, in five bins."""
    rows = []
    for low, before, after in zip(np.arange(RELIABILITY_BINS) / RELIABILITY_BINS, *found["reliability"]):
        row = {"sure": f"{low:.1f} to {low + 1 / RELIABILITY_BINS:.1f}"}
        for when, (images, sure, right) in (("before", before), ("after", after)):
            row |= {
                f"{when}: images": str(images),
                f"{when}: sure ": f"{sure:.3f}" if images else "",
                f"{when}: right": f"{right:.3f}" if images else "",
            }
        rows.append(row)
    return pd.DataFrame(rows)


def _name_weights(kind, weights):
    if kind == "mean":
        return f"all {len(weights)}, {1 / len(weights):.2f} each"
    return ", ".join(f"{run} {weight:.2f}" for run, weight in weights.items())


def _runs_table(members, labels, stacks, metric):
    rows = []
    for i, (run, *others) in enumerate(members):
        scores = {name_views(views): metric.score(stack[i], labels) for views, stack in stacks.items()}
        rows.append(
            {
                "run": f"{run} and {len(others)} more seeds" if others else run,
                **scores,
                "log-loss": log_loss(stacks[("identity",)][i], labels),
            }
        )
    return pd.DataFrame(rows).sort_values("identity", ascending=metric.sign < 0, kind="stable")


def _candidates_table(rows, metric):
    return pd.DataFrame(
        {
            "": "*" if row["chosen"] else "",
            "candidate": row["kind"],
            "views": name_views(row["views"]),
            "passes": row["passes"],
            "ms an image": "" if row["ms"] is None else f"{row['ms']:.1f}",
            "nested": row["nested"],
            "in-sample": row["in_sample"],
            "log-loss": row["log_loss"],
            "behind best": f"{row['behind']:.4f} +- {row['standard_error']:.4f}",
            "within noise": "yes" if row["within_noise"] else "no",
            "runs and weights": _name_weights(row["kind"], row["weights"]) if row["packable"] else "not packable",
        }
        for row in rows
    )
