"""Average runs and TTA views: weights are chosen on out-of-fold predictions, no finer than these can tell.

Candidates are the best single run, the plain mean of all, and greedy ensemble selection, each with several
sets of views. Among those that the data cannot tell from the best one, the simplest wins. Scores are of the
very predictions that the choice was made on, hence a little flattering.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from competition import files
from competition.files import InputError, read_json, sha256_file, versions, warn, write_json
from competition.folds import read_folds
from competition.oof import BLEND, STUDY, accuracy, all_runs, check_hashes, log_loss, read_oof, text_table, write_oof
from competition.views import usable_views

PICKS = 50  # enough for weights in steps of 2 %
KINDS = ("single", "mean", "greedy")  # from simple to complex


@dataclass(frozen=True)
class Candidate:
    """One way to blend: weights over runs that sum to 1, and the views averaged; `right` bool [n]."""

    kind: str
    weights: dict[str, float]
    views: list[str]
    probs: np.ndarray  # float32 [n, C]
    right: np.ndarray
    accuracy: float
    log_loss: float

    @property
    def quality(self):
        """Greater is better: accuracy, ties by log-loss."""
        return self.accuracy, -self.log_loss

    @property
    def cost(self):
        """Smaller is simpler: members, then views, then kind; equals go by quality."""
        return (len(self.weights), len(self.views), KINDS.index(self.kind), -self.accuracy, self.log_loss)

    def __str__(self):
        count = f" of {len(self.weights)}" if len(self.weights) > 1 else ""
        return f"{self.kind}{count} with {_name_views(self.views)}"


def make_blend(name=None, runs=None):
    """Choose weights and views on OOF, write `runs/<name>/blend/` (`blend.json`, `oof.csv`, `oof.npz`).

    name   of the fold table; may be left out while there is only one
    runs   "a,b,c" or a list; default: all finished runs of the table but the study's

    Prints every candidate and why one was chosen; returns what `blend.json` holds. The same runs give the
    same files, in whatever order they are named. InputError for runs that are unknown, unfinished, or made on
    another fold table, other images or other classes.
    """
    table = read_folds(name)
    labels = table.labels
    folder = files.RUNS / table.name
    oofs = {run: _read_run(folder / run, table, asked=bool(runs)) for run in _choose_runs(table.name, runs)}
    sets = view_sets(oofs.values(), table.size)
    candidates = make_candidates(oofs, labels, sets)
    behind, error = compare(candidates)
    chosen = choose(candidates)
    winner = candidates[chosen]

    print(f"{table.name}: {len(oofs)} run{'s' * (len(oofs) > 1)}, {len(labels)} images; accuracy by views")
    print(text_table(_runs_table(oofs, labels, sets)), end="\n\n")
    rows = [
        {
            "kind": candidate.kind,
            "weights": candidate.weights,
            "views": candidate.views,
            "accuracy": candidate.accuracy,
            "log_loss": candidate.log_loss,
            "behind": float(behind[i]),
            "standard_error": float(error[i]),
            "within_noise": bool(behind[i] <= error[i]),
            "chosen": i == chosen,
        }
        for i, candidate in enumerate(candidates)
    ]
    print(text_table(_candidates_table(rows)), end="\n\n")
    why = explain(candidates, chosen)
    print(why)

    record = {
        "weights": winner.weights,
        "views": winner.views,
        "kind": winner.kind,
        "why": why,
        "accuracy": winner.accuracy,
        "log_loss": winner.log_loss,
        "members": [
            {"run": run, "weight": weight, "oof": sha256_file(folder / run / "oof.npz")}
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
    path = folder / BLEND / "blend.json"
    path.unlink(missing_ok=True)  # so that it never lies beside another blend's predictions
    write_oof(path.parent, table, {BLEND: winner.probs})
    write_json(path, record)
    print(f"{path}: accuracy {winner.accuracy:.4f}, log-loss {winner.log_loss:.4f}")
    return record


def read_blend(table):
    """What `blend.json` holds; InputError when there is none or its fold table or a member has changed."""
    folder = files.RUNS / table.name
    path = folder / BLEND / "blend.json"
    if not path.exists():
        raise InputError(f"{path}: no such file, `make blend NAME={table.name}` makes it")
    record = read_json(path)
    try:
        check_hashes(path, table, record, record["classes"])
        for member in record["members"]:
            oof = folder / member["run"] / "oof.npz"
            if not oof.exists() or sha256_file(oof) != member["oof"]:
                raise InputError(f"{oof}: not the predictions that were blended, run `make blend` again")
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a blend's record ({error!r}), rerun `make blend`") from None
    return record


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


def make_candidates(oofs, labels, sets):
    """Best single run and, of several runs, plain mean and greedy selection, with each set of views."""
    runs = list(oofs)
    candidates = []

    def add(kind, counts, views):
        chosen = sorted((-count, run) for run, count in zip(runs, counts.tolist()) if count)
        weights = {run: -count / int(counts.sum()) for count, run in chosen}
        probs = combine(oofs, weights, views)
        right = probs.argmax(1) == labels
        scores = float(right.mean()), log_loss(probs, labels)
        candidates.append(Candidate(kind, weights, views, probs, right, *scores))

    for views in sets:
        probs = np.stack([oof.mean(views) for oof in oofs.values()])
        best = max(range(len(runs)), key=lambda i: _quality(probs[i], labels))
        add("single", np.eye(len(runs), dtype=int)[best], views)
        if len(runs) > 1:
            add("mean", np.ones(len(runs), int), views)
            add("greedy", select_greedily(probs, labels), views)
    return sorted(candidates, key=lambda candidate: KINDS.index(candidate.kind))


def select_greedily(probs, labels, picks=PICKS):
    """How often each run is picked, int64 [R]. probs [R, n, C], labels int [n].

    Ensemble selection with replacement and sorted initialisation (Caruana, Niculescu-Mizil, Crew, Ksikes:
    Ensemble Selection from Libraries of Models, ICML 2004): the bag starts as the best N runs, for the N that
    scores best; then the run that helps most is added, again and again, until the bag holds `picks`. The best
    bag on the way counts, the smallest of equals. Score: accuracy, ties by log-loss, then the first run.
    """
    count = len(probs)
    order = sorted(range(count), key=lambda i: _quality(probs[i], labels), reverse=True)
    bag = np.zeros(probs.shape[1:])
    best = None
    for size, i in enumerate(order, 1):
        bag += probs[i]
        quality = _quality(bag / size, labels)
        if best is None or quality > best[0]:
            best = quality, np.bincount(order[:size], minlength=count)
    picked = best[1].copy()
    bag = np.tensordot(picked, probs, 1)
    for size in range(picked.sum() + 1, picks + 1):
        qualities = [_quality((bag + run) / size, labels) for run in probs]
        i = max(range(count), key=qualities.__getitem__)
        bag += probs[i]
        picked[i] += 1
        if qualities[i] > best[0]:
            best = qualities[i], picked.copy()
    return best[1]


def compare(candidates):
    """How far each accuracy is behind the best candidate's, and the standard error of that: float64 [K] each.

    Both are right or wrong on the same images, so the error is that of the mean of paired differences.
    """
    best = max(candidates, key=lambda candidate: candidate.quality)
    differences = np.array([best.right.astype(float) - candidate.right for candidate in candidates])
    n = differences.shape[1]
    return differences.mean(1), differences.std(1, ddof=min(1, n - 1)) / np.sqrt(n)


def choose(candidates):
    """Index of the simplest candidate that is no more than one standard error behind the best."""
    behind, error = compare(candidates)
    return min(np.flatnonzero(behind <= error).tolist(), key=lambda i: candidates[i].cost)


def explain(candidates, chosen):
    """One line that says why candidate number `chosen` won."""
    behind, error = compare(candidates)
    winner, noise = candidates[chosen], int((behind <= error).sum())
    best = max(candidates, key=lambda candidate: candidate.quality)
    if len(candidates) == 1:
        reason = "the only candidate"
    elif winner is not best:
        reason = (f"the simplest of the {noise} within one standard error of the most accurate, "
                  f"{best} ({best.accuracy:.4f})")
    elif noise > 1:
        reason = f"the most accurate, and the simplest of the {noise} within one standard error"
    else:
        reason = f"the most accurate of {len(candidates)}, more than one standard error ahead of the others"
    if all(candidate.kind == "single" for candidate in candidates):
        reason += "; there is only one run, so the blend is that run"
    return f"chosen: {winner} ({winner.accuracy:.4f}), {reason}"


def _quality(probs, labels):
    return accuracy(probs, labels), -log_loss(probs, labels)


def _read_run(folder, table, asked):
    try:
        return read_oof(folder, table)
    except InputError as error:
        raise error if asked else InputError(f"{error}; RUNS=<those to blend> leaves this one out") from None


def _choose_runs(name, runs):
    """The names of the runs to blend, sorted, each once, all known and finished."""
    folder = files.RUNS / name
    known = all_runs(name)
    if runs is None or runs == "":
        own = [run for run in known if not run.startswith(f"{STUDY}-")]  # the study's are to be compared, not kept
        if studied := len(known) - len(own):
            warn(f"{folder}/: left out, since they belong to the study: {studied} runs {STUDY}-...; RUNS= takes them")
        finished = [run for run in own if known[run]]
        if left_out := [run for run in own if not known[run]]:
            warn(f"{folder}/: left out, since unfinished: {', '.join(left_out)}")
        if not finished:
            raise InputError(f"{folder}/: no finished run; `make train MODEL=... NAME={name}` makes one")
        return finished
    wanted = [run.strip() for run in (runs.split(",") if isinstance(runs, str) else runs)]
    wanted = [run for run in wanted if run]
    listed = ", ".join(known) or "(there is none yet)"
    if not wanted:
        raise InputError(f"RUNS={runs}: no run named, expected some of {listed}")
    for run in wanted:
        if run not in known:
            raise InputError(f"{folder / run}: no such run, expected some of {listed}")
    if doubled := sorted({run for run in wanted if wanted.count(run) > 1}):
        warn(f"RUNS: named more than once, counted once: {', '.join(doubled)}")
    return sorted(set(wanted))


def _name_views(views):
    return "+".join(views) if len(views) <= 2 else f"{len(views)} views"


def _name_weights(kind, weights):
    if kind == "mean":
        return f"all {len(weights)}, {1 / len(weights):.2f} each"
    return ", ".join(f"{run} {weight:.2f}" for run, weight in weights.items())


def _runs_table(oofs, labels, sets):
    rows = []
    for run, oof in oofs.items():
        scores = {_name_views(views): accuracy(oof.mean(views), labels) for views in sets}
        rows.append({"run": run, **scores, "log-loss": log_loss(oof.mean(["identity"]), labels)})
    return pd.DataFrame(rows).sort_values("identity", ascending=False, kind="stable")


def _candidates_table(rows):
    return pd.DataFrame(
        {
            "": "*" if row["chosen"] else "",
            "candidate": row["kind"],
            "views": _name_views(row["views"]),
            "accuracy": row["accuracy"],
            "log-loss": row["log_loss"],
            "behind best": f"{row['behind']:.4f} +- {row['standard_error']:.4f}",
            "within noise": "yes" if row["within_noise"] else "no",
            "runs and weights": _name_weights(row["kind"], row["weights"]),
        }
        for row in rows
    )
