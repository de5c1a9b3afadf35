"""Average runs and TTA views: weights are chosen on out-of-fold predictions, no finer than these can tell.

Whatever is chosen on predictions flatters itself when it is scored on the same ones. So everything here is scored
nested: the images are parted by fold, a blend that is chosen on all parts but one predicts that one, and these
predictions together are scored (Varma and Simon 2006, BMC Bioinformatics 7:91). The plain figure stands beside it.

Candidates are ways to weigh the runs, each with several sets of views. Among those that the data cannot tell from the
best one, the simplest wins. That choice is nested as well: `Chooser.whole` makes it anew without each part.
"""

from dataclasses import MISSING, dataclass, field, fields

import numpy as np
import pandas as pd

from competition.features import MS
from competition.files import InputError, hash_json, read_json, sha256_file, versions, warn, write_json
from competition.folds import read_folds
from competition.metrics import METRICS, behind_best, calibration_error, cluster_error, find_metric, reliability
from competition.oof import log_loss, read_oof, text_table, write_oof
from competition.recipes import Recipe
from competition.runs_kinds import kind_of
from competition.record import all_runs, check_hashes
from competition.views import usable_views
from competition.workspace import STUDY_RUN, Workspace

FORMAT = 2  # of blend.json
PICKS = 50  # enough for weights in steps of 2 %
BAGS, BAG_PICKS = 5, 20  # of the greedy choice on half of the images each, whose weights are averaged
LEAST_SHARE = 0.02  # a member that counts less is not worth its time
RELIABILITY_BINS = 5  # of the table
PARTS = 10  # of the nested choice, at most
KINDS = ("single", "mean", "greedy", "convex")  # from simple to complex; the zip can hold these
SHOWN = ("geometric", "stacking")  # the zip averages probabilities, so that these are never chosen
STACKED = 1e8  # images x runs x classes^2 from which on stacking takes minutes, and is left out


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
        return f"{self.kind}{count} with {_name_views(self.views)}"


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
    kinds: tuple = KINDS
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
            return members, len(views), KINDS.index(kind), behind[i], log_loss(probs[i], self.labels[self._rows(left_out)])

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


def make_blend(name=None, runs=None, hidden_n=None, hidden="random", workspace=Workspace()):
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
    from competition.forecast import check_hidden, forecast_blend, print_forecast

    table = read_folds(name, workspace)
    hidden_n, hidden = check_hidden(hidden_n, hidden)
    labels, metric = table.labels, find_metric(table.metric)
    folder = table.paths.runs
    oofs = {run: _read_run(folder / run, table, asked=bool(runs)) for run in _choose_runs(table.paths, runs)}
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
            **price([networks[run] for run in candidate.weights or oofs], len(candidate.views)),
            "behind": candidate.behind,
            "standard_error": candidate.error,
            "within_noise": candidate.behind <= candidate.error,
            "packable": candidate.kind in KINDS,
            "chosen": i == chosen,
        }
        for i, candidate in enumerate(candidates)
    ]
    print(text_table(_candidates_table(rows, metric)), end="\n\n")
    why = explain(candidates, chosen, metric)
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
    path = table.paths.blend / "blend.json"
    path.unlink(missing_ok=True)  # so that it never lies beside another blend's predictions
    write_oof(path.parent, table, {"blend": probs})
    write_json(path, record)
    print(f"{path}: in-sample {metric.name} {metric.score(probs, labels):.4f}, log-loss {record['log_loss']:.4f}")
    return record


def read_blend(table):
    """What `blend.json` holds; InputError when there is none or its fold table or a member has changed."""
    folder = table.paths.runs
    path = table.paths.blend / "blend.json"
    if not path.exists():
        raise InputError(f"{path}: no such file, `make blend NAME={table.name}` makes it")
    record = read_json(path)
    try:
        check_hashes(path, table, record, record["classes"])
        if record["metric"] != table.metric or record.get("format") != FORMAT:
            found = record["metric"] if record["metric"] != table.metric else "another version"
            raise InputError(f"{path}: a blend for {found}, expected {table.metric} of this one; run `make blend` again")
        for member in record["members"]:
            oof = folder / member["run"] / "oof.npz"
            if not oof.exists() or sha256_file(oof) != member["oof"]:
                raise InputError(f"{oof}: not the predictions that were blended, run `make blend` again")
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a blend's record ({error!r}), rerun `make blend`") from None
    return record


def forecast_again(table, record, hidden_n=None, hidden=None):
    """The forecast of a blend (read_blend) for another hidden test; what is not given stays as the blend has it.

    InputError where the runs are no longer those that were blended.
    """
    from competition.forecast import check_hidden, forecast_blend

    made = record["forecast"] or {"hidden_n": None, "hidden": "random"}
    hidden_n, hidden = check_hidden(hidden_n or made["hidden_n"], hidden or made["hidden"])
    folder = table.paths.runs
    if (hidden_n, hidden) == (made["hidden_n"], made["hidden"]) or not all(
            (folder / run / "oof.npz").exists() for run in record["runs"]):  # a kernel has none but the members
        return record["forecast"]
    oofs = {run: read_oof(folder / run, table) for run in record["runs"]}
    members = gather_seeds(folder, oofs)
    chooser = make_chooser(oofs, table, members)
    candidates, chosen = make_candidates(chooser, members)
    if candidates[chosen].weights != record["weights"] or candidates[chosen].views != record["views"]:
        raise InputError(f"{table.paths.blend / 'blend.json'}: other runs than those that were blended, run `make "
                         "blend` again")
    forecast = forecast_blend(table, oofs, chooser, candidates[chosen], hidden_n, hidden, record["temperature"])
    return forecast | {"left_out": count_left_out(table.paths, oofs)}


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


def group_ids(table):
    """int64 [n]: the group of each image, its own where the table has no groups."""
    return np.unique(table.frame["group" if "group" in table.frame else "image"], return_inverse=True)[1]


def gather_seeds(folder, runs):
    """Runs that differ in the recipe's seed alone are one member: lists of names, in the order of their first."""
    members = {}
    for run in runs:
        members.setdefault(seedless(read_json(folder / run / "run.json")) or run, []).append(run)
    return list(members.values())


def seedless(record):
    """What a run was made from but for its seed, a hash; None for predictions that came from elsewhere.

    Recipe keys that came after the run was made are at their default, which changes nothing.
    """
    config = record.get("config") or {}
    if not config.get("recipe"):
        return None
    known = {field.name: field.default_factory() if field.default is MISSING else field.default for field in fields(Recipe)}
    return hash_json(config | {"recipe": known | config["recipe"] | {"seed": None}})


def make_chooser(oofs, table, members=None):
    """The Chooser over members, lists of names of the runs {name: OOF} that each averages, and the views of all runs.

    members   default: each run is one
    """
    members = members or [[run] for run in oofs]
    stacks = {tuple(views): np.stack([np.mean([oofs[run].mean(views) for run in runs], axis=0) for runs in members])
              for views in view_sets(oofs.values(), table.size)}
    groups = group_ids(table)
    return Chooser(stacks, table.labels, nest_parts(table.fold, groups), groups, find_metric(table.metric))


@dataclass(frozen=True)
class Networks:
    """What the zip runs of one run, for each view of an image. Runs of one key share it."""

    key: str
    passes: int  # of an image through a network
    ms: float | None  # that these take together where the run was trained; None where its record does not say


def read_networks(run_dir, k):
    """The Networks of a run: the models of k folds, or the backbone that their heads share."""
    record = read_json(run_dir / "run.json")
    config, frozen = record.get("config") or {}, bool(record.get("frozen"))
    passes = kind_of(config).passes(record, k)
    ends = [read_json(path) for path in sorted(run_dir.glob("fold_*/fold.json"))]
    ms = min((end[MS] for end in ends if MS in end), default=None)
    if frozen:
        recipe = config["recipe"]
        same = [config["model"], config["weights"], recipe.get("image_size"), recipe.get("least_size")]
        return Networks(hash_json(same), passes, ms)
    return Networks(run_dir.name, passes, ms and k * ms)


def price(networks, views):
    """{"passes": of an image through a network, "ms": milliseconds that they take, None if unknown} of Networks."""
    each = {one.key: one for one in sorted(networks, key=lambda one: -(one.ms or np.inf))}.values()  # the least of those alike
    ms = None if any(one.ms is None for one in each) else sum(one.ms for one in each)
    return {"passes": views * sum(one.passes for one in each), "ms": ms and round(views * ms, 1)}


def make_candidates(chooser, members):
    """All Candidates, those that are only shown last, and the place of the one to take.

    members   what the chooser weighs, lists of runs, which share its weight
    """
    metric, labels, chosen = chooser.metric, chooser.labels, chooser.choose()
    best, candidates = None, []
    probs, behind, error = chooser.compare()
    for i, (kind, views) in enumerate(chooser.keys):
        shares = chooser.shares(kind, views)
        order = sorted((-share / len(runs), run) for runs, share in zip(members, shares.tolist()) if share
                       for run in runs)
        weights = {run: -share for share, run in order}
        scores = metric.score(probs[i], labels), metric.score(chooser.predict(kind, views), labels)
        candidates.append(Candidate(kind, list(views), weights, *scores, log_loss(probs[i], labels), float(behind[i]),
                                    float(error[i])))
        if best is None or metric.quality(probs[i], labels) > metric.quality(best, labels):
            best = probs[i]
    for kind in SHOWN if len(members) > 1 else ():
        for views, stack in chooser.stacks.items():
            if kind == "stacking" and stack.size * stack.shape[-1] > STACKED:
                continue
            found, plain = _blend_logs(kind, np.log(np.clip(stack, 1e-7, 1)), labels, chooser.parts)
            _, noise = behind_best(metric, [best, found], labels, chooser.groups)
            candidates.append(Candidate(
                kind, list(views), {}, metric.score(found, labels), metric.score(plain, labels), log_loss(found, labels),
                metric.sign * (metric.score(best, labels) - metric.score(found, labels)), float(noise.max())))
    return candidates, chooser.keys.index(chosen)


def _blend_logs(kind, logs, labels, parts):
    """Nested and in-sample probabilities [n, C] of blends that work on logarithms [R, n, C]."""
    if kind == "geometric":  # nothing is chosen
        mean = logs.mean(0)
        probs = np.exp(mean - mean.max(1, keepdims=True))
        probs /= probs.sum(1, keepdims=True)
        return probs, probs
    from sklearn.linear_model import LogisticRegression

    count, n, classes = logs.shape
    inputs = logs.transpose(1, 0, 2).reshape(n, -1)
    inputs = inputs - inputs.mean(0)

    def fit(rows, asked):
        probs = np.zeros((asked.sum(), classes))
        found = LogisticRegression(C=0.01 / count, max_iter=200).fit(inputs[rows], labels[rows])
        probs[:, found.classes_] = found.predict_proba(inputs[asked])
        return probs

    nested, everything = np.zeros((n, classes)), np.full(n, True)
    for part in np.unique(parts):
        nested[parts == part] = fit(parts != part, parts == part)
    return nested, fit(everything, everything)


def select_greedily(probs, labels, picks=PICKS, metric=METRICS["accuracy"]):
    """How often each run is picked, int64 [R]. probs [R, n, C], labels int [n].

    Ensemble selection with replacement and sorted initialisation (Caruana, Niculescu-Mizil, Crew, Ksikes:
    Ensemble Selection from Libraries of Models, ICML 2004): the bag starts as the best N runs, for the N that
    scores best; then the run that helps most is added, again and again, until the bag holds `picks`. The best
    bag on the way counts, the smallest of equals. Ties in the score go by log-loss, then to the first run.
    """
    count, objective = len(probs), metric.objective()
    score = objective.quality
    order = sorted(range(count), key=lambda i: score(probs[i], labels), reverse=True)
    bag = np.zeros(probs.shape[1:])
    best = None
    for size, i in enumerate(order, 1):
        bag += probs[i]
        quality = score(bag / size, labels)
        if best is None or quality > best[0]:
            best = quality, np.bincount(order[:size], minlength=count)
    picked = best[1].copy()
    bag = np.tensordot(picked, probs, 1)
    for size in range(picked.sum() + 1, picks + 1):
        i, quality = objective.pick([(bag + run) / size for run in probs], labels)
        bag += probs[i]
        picked[i] += 1
        if quality > best[0]:
            best = quality, picked.copy()
    return best[1]


def weigh_single(probs, labels, metric):
    """All on the best run, float64 [R]."""
    best = max(range(len(probs)), key=lambda i: metric.quality(probs[i], labels))
    return np.eye(len(probs))[best]


def weigh_mean(probs, labels, metric):
    """Equal shares, float64 [R]."""
    return np.full(len(probs), 1 / len(probs))


def weigh_greedily(probs, labels, metric):
    """The mean of the shares of BAGS greedy choices on half of the images each, float64 [R]."""
    random, shares = np.random.default_rng(0), np.zeros(len(probs))
    for _ in range(BAGS):
        rows = np.sort(random.permutation(len(labels))[: (len(labels) + 1) // 2])
        counts = select_greedily(probs[:, rows], labels[rows], BAG_PICKS, metric)
        shares += counts / counts.sum()
    return _without_small(shares / BAGS)


def weigh_by_likelihood(probs, labels, metric, steps=300):
    """The convex shares of least log-loss, float64 [R], by EM for the proportions of a mixture of known parts.

    Dempster, Laird and Rubin 1977; each step multiplies a run's share by the mean of its share in the probability of
    the true class. Log-loss is convex in the shares, so that there is one optimum.
    """
    true = np.clip(probs[:, np.arange(len(labels)), labels], 1e-7, 1)
    shares = np.full(len(probs), 1 / len(probs))
    for _ in range(steps):
        shares = shares * (true / (shares @ true)).mean(1)
    return _without_small(shares / shares.sum())


WEIGH = {"single": weigh_single, "mean": weigh_mean, "greedy": weigh_greedily, "convex": weigh_by_likelihood}


def _without_small(shares):
    kept = np.where(shares < min(LEAST_SHARE, shares.max()), 0, shares)
    return kept / kept.sum()


# ---------------------------------------------------------------------------------------------------- calibration


def sharpen(probs, temperature):
    """p^(1 / T), each row normalised, float32 [n, C]; labels stay. 1 changes nothing.

    Guo, Pleiss, Sun, Weinberger 2017, of the logarithms of probabilities in place of logits.
    """
    if temperature == 1:
        return probs.astype(np.float32)
    powers = np.clip(probs, 1e-30, 1).astype(np.float64) ** (1 / temperature)
    return (powers / powers.sum(1, keepdims=True)).astype(np.float32)


def find_temperature(probs, labels):
    """The T from 1/4 to 4 that gives `sharpen` the least log-loss."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(lambda log: log_loss(sharpen(probs, np.exp(log)), labels),
                            bounds=(-np.log(4), np.log(4)), method="bounded", options={"xatol": 1e-3})
    return round(float(np.exp(found.x)), 3)


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


def _describe_calibration(temperature, found):
    before, after = found["calibration_error"]
    return (f"calibration: off by {before:.3f}, with temperature {found['temperature']:.2f} by {after:.3f}, log-loss "
            f"{found['log_loss'][0]:.4f} and {found['log_loss'][1]:.4f} (nested); "
            + ("applied" if temperature != 1 else "left at 1, within noise"))


def _reliability_table(found):
    """How sure the blend is beside how often it is right, before and after the temperature, in five bins."""
    rows = []
    for low, before, after in zip(np.arange(RELIABILITY_BINS) / RELIABILITY_BINS, *found["reliability"]):
        row = {"sure": f"{low:.1f} to {low + 1 / RELIABILITY_BINS:.1f}"}
        for when, (images, sure, right) in (("before", before), ("after", after)):
            row |= {f"{when}: images": str(images), f"{when}: sure ": f"{sure:.3f}" if images else "",
                    f"{when}: right": f"{right:.3f}" if images else ""}
        rows.append(row)
    return pd.DataFrame(rows)


def explain(candidates, chosen, metric=METRICS["accuracy"]):
    """One line that says why candidate number `chosen` won."""
    packable = [candidate for candidate in candidates if candidate.kind in KINDS]
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


def _read_run(folder, table, asked):
    try:
        return read_oof(folder, table)
    except InputError as error:
        raise error if asked else InputError(f"{error}; RUNS=<those to blend> leaves this one out") from None


def count_left_out(paths, runs):
    """How many finished runs there are besides `runs` and the study's: nobody can know why they were left out."""
    return sum(finished and run not in runs and not run.startswith(STUDY_RUN)
               for run, finished in all_runs(paths).items())


def _choose_runs(paths, runs):
    """The names of the runs to blend, sorted, each once, all known and finished."""
    folder, known = paths.runs, all_runs(paths)
    if runs is None or runs == "":
        own = [run for run in known if not run.startswith(STUDY_RUN)]  # the study's are to be compared, not kept
        if studied := len(known) - len(own):
            warn(f"{folder}/: left out, since they belong to the study: {studied} runs {STUDY_RUN}...; RUNS= takes "
                 "them")
        finished = [run for run in own if known[run]]
        if left_out := [run for run in own if not known[run] and not _tells_of(folder / run, finished)]:
            warn(f"{folder}/: left out, since unfinished: {', '.join(left_out)}")
        if not finished:
            raise InputError(f"{folder}/: no finished run; `make train MODEL=... NAME={paths.name}` makes one")
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


def _tells_of(run_dir, finished):
    """Whether a run is the fold that train.train_seeds trained once more of a finished one: it is not to be blended."""
    whole = run_dir.name.removesuffix("-seed1")
    return whole != run_dir.name and whole in finished and [
        path.parent.name for path in run_dir.glob("fold_*/fold.json")] == ["fold_0"]


def _name_views(views):
    return "+".join(views) if len(views) <= 2 else f"{len(views)} views"


def _name_weights(kind, weights):
    if kind == "mean":
        return f"all {len(weights)}, {1 / len(weights):.2f} each"
    return ", ".join(f"{run} {weight:.2f}" for run, weight in weights.items())


def _runs_table(members, labels, stacks, metric):
    rows = []
    for i, (run, *others) in enumerate(members):
        scores = {_name_views(views): metric.score(stack[i], labels) for views, stack in stacks.items()}
        rows.append({"run": f"{run} and {len(others)} more seeds" if others else run, **scores,
                     "log-loss": log_loss(stacks[("identity",)][i], labels)})
    return pd.DataFrame(rows).sort_values("identity", ascending=metric.sign < 0, kind="stable")


def _candidates_table(rows, metric):
    return pd.DataFrame(
        {
            "": "*" if row["chosen"] else "",
            "candidate": row["kind"],
            "views": _name_views(row["views"]),
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
