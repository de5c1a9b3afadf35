"""The study: every system of the original report, run on the same folds and compared on the same images.

A rung of LADDER is an ordinary command (`make train`, mostly) and an ordinary run, `study-<budget>-...`, that blends
and packs like others when it is named and has trained all folds; `make blend` without RUNS= leaves it out. What a rung
may take of the machine is a matter of its kind and of the budget (BUDGETS): one fold, frozen features, fewer epochs; its
command says it in full.

Two runs are compared on the images that both have a held-out prediction of, by McNemar's exact test: of the images on
which they differ, does one win more often than a coin would (McNemar 1947; Psychometrika 12, 153)? Intervals of an
accuracy are Wilson's (1927; Journal of the American Statistical Association 22, 209). Both are scipy's `binomtest`.
"""

import contextlib
import io
import math
import re
import shlex
import time
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from competition.base import files
from competition.base.arrays import read_memory
from competition.base.backend import make_repeatable
from competition.base.files import InputError
from competition.base.metrics import METRICS, find_metric, say_scores
from competition.base.statistics import CONFIDENCE, accuracy_interval, compare_rungs
from competition.base.text import text_table
from competition.base.workspace import SAMPLE, STUDY_RUN, Workspace
from competition.blending.chooser import Chooser, nest_parts
from competition.data.folds import make_folds
from competition.data.table import FoldTable, group_ids, read_folds
from competition.insight import sanity
from competition.models.backbones import OWN, at_hand, names, smallest_size
from competition.recipes.recipe import Recipe
from competition.runs import oof
from competition.runs.record import locked
from competition.runs.splits import quote_name
from competition.training.gan.gan import check_synthetic
from competition.trials.ladder import BUDGETS, GAN_KEYS, LADDER, MEMBERS, NOTES, RATES, TEACHERS, TUNER, Rung
from competition.trials.sample import write_sample

LIKELY = 0.05  # of 20 comparisons of equals one has a smaller p


@dataclass
class Result:
    """What became of a rung: its predictions {view: float [n, C], NaN where no model held the image out}."""

    rung: Rung
    command: str = ""
    where: str = ""  # to find the figure, where the command prints others
    state: str = "done"  # or "failed", "skipped", for the reason
    reason: str = ""
    views: dict | None = None
    seconds: float = 0.0

    @property
    def probs(self):
        return self.views and self.views["identity"]


class _Skipped(Exception):
    """A rung cannot be had here, and says why."""


@dataclass
class Study:
    """One study: on which table, with what."""

    table: FoldTable
    backbone: str
    budget: str
    weights: dict[str, str]  # of the pretrained backbones at hand: what WEIGHTS= takes for them
    memory: str | None
    results: dict[str, Result]
    commands: dict[str, object] = field(default_factory=dict)  # name: function

    @property
    def folder(self):
        return self.table.paths.study

    @property
    def rungs(self):
        return [rung for rung in LADDER if self.budget in rung.budgets]

    def effort(self, rung):
        return BUDGETS[self.budget][rung.kind]

    def model(self, rung):
        return rung.model.format(backbone=self.backbone)

    def run(self, rung):
        """The name of its run."""
        slug = re.sub(r"\W+", "-", rung.name).strip("-")
        parts = [self.model(rung)] if rung.model == "{backbone}" else []
        return STUDY_RUN + "-".join([self.budget, *parts, slug])


def play(
    name=None,
    backbone="efficientnet_lite0",
    quick=False,
    budget=None,
    weights="imagenet",
    memory=None,
    workspace=Workspace(),
    *,
    commands,
):
    """`study` with the budget "quick", or another; returns the exit code, 1 where a rung failed."""
    if quick and budget:
        raise InputError(f"QUICK=1 and BUDGET={budget}: expected one of them")
    rungs = study(
        name, backbone, "quick" if quick else budget or "default", weights, memory, workspace, commands=commands
    )
    return int("failed" in set(rungs["state"]))


def study(
    name=None,
    backbone="efficientnet_lite0",
    budget="default",
    weights="imagenet",
    memory=None,
    workspace=Workspace(),
    *,
    commands,
):
    """Run the ladder on the fold table `name`; prints the table of all rungs, writes and returns it as a DataFrame.

    name      of the fold table; "sample", or none where there is no table at all, is the sample competition, which is
              played in the folder sample/ and drawn there at need
    backbone  of the rungs that do not name one; its weights must be at hand
    budget    "quick", "default" or "full", a key of BUDGETS
    weights   "imagenet", or a folder of weights, for those backbones that it holds; the others take "imagenet"
    memory    as for `train`
    workspace where the table lies; the sample is played in sample/ there
    commands  {name: function} of the commands that the rungs run; each takes its options as keywords

    Writes study.csv, study.md (with the commands) and study.json into `runs/<name>/study/` after each rung. Stopped or
    killed, the same call goes on. A rung that fails is noted with its reason, and tried again by the next call; one
    that cannot be had here (weights that are not at hand) is skipped and says why. Raises InputError for a name, budget
    or backbone that cannot be used, LookupError where `commands` lacks one that a rung runs.
    """
    if budget not in BUDGETS:
        raise InputError(f"BUDGET={budget}: expected one of {', '.join(BUDGETS)}")
    read_memory(memory)
    if weights != "imagenet":
        weights = str(Path(weights).expanduser().resolve())
    found = _find_weights(backbone, weights)
    if _wants_sample(name, workspace):
        workspace = workspace.sample
        table = make_folds(write_sample(workspace.sample_data) / "train", name=SAMPLE, workspace=workspace)
    else:
        table = read_folds(name, workspace)
    plan = Study(table, backbone, budget, found, memory, {}, commands)
    _check_commands(plan)
    with locked(plan.folder):
        return _climb(plan)


def _check_commands(plan):
    for name in (name for rung in plan.rungs for name in RUNS.get(rung.how, ())):
        if name not in plan.commands:
            raise LookupError(f"the study runs `make {name}`, which is no command")


def _wants_sample(name, workspace):
    tables = workspace.names()
    return SAMPLE not in tables and (name == SAMPLE or not (name or tables))


def _find_weights(backbone, weights):
    """{model: WEIGHTS=} of the pretrained backbones on this machine; InputError unless `backbone` is one of them."""
    if backbone not in names():
        raise InputError(f"BACKBONE={backbone}: no such backbone, `make backbones` lists them")
    make_repeatable()  # the rungs train in this process
    found = dict.fromkeys(at_hand(), "imagenet")
    if weights != "imagenet":
        found |= dict.fromkeys(at_hand(weights), weights)
    if backbone not in found:
        raise InputError(
            f"BACKBONE={backbone}: expected one with weights at hand, which are {', '.join(found)}; "
            "WEIGHTS=<a folder of weights> may have more"
        )
    return found


def _climb(plan):
    """Run one rung after the other; the table is written after each."""
    seconds = _read_seconds(plan)
    for number, rung in enumerate(plan.rungs, 1):
        result = plan.results[rung.name] = Result(rung)
        start, quiet = time.time(), contextlib.redirect_stdout(io.StringIO())  # their tables: ours has a line for each
        try:
            with quiet:
                views = HOW[rung.how](plan, rung, result)
            averaged = any((other.how, other.reference) == ("views", rung.name) for other in plan.rungs)
            result.views = views if averaged else {"identity": views["identity"]}  # the others would fill the memory
        except _Skipped as error:
            result.state, result.reason = "skipped", str(error)
            run, taken = plan.run(rung), round(time.time() - start, 1)
            if taken > 1 or run in seconds:  # a GAN, say, that is of no use
                result.seconds = seconds[run] = max(taken, seconds.get(run, 0))
        except Exception as error:  # what one rung cannot do, another may: memory, a GAN that is not good, ...
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            said = " ".join(str(error).split()).replace("take another name (RUN=), or remove", "to begin anew remove")
            result.state, result.reason = "failed", f"{kind}{said[:300]}"
        else:
            # of a run that was finished before, what it took then; of one that was killed, at least its epochs
            run = plan.run(rung)
            taken = max(time.time() - start, _epoch_seconds(plan, f"{run}-[0-9]*" if rung.how == "tune" else run))
            result.seconds = seconds.setdefault(run, round(taken, 1)) if rung.how in RUNS else round(taken, 1)
        frame = _write(plan, seconds)
        row = frame.iloc[-1]
        scores = say_scores({name: row[name] for name in find_metric(plan.table.metric).besides})
        outcome = f"accuracy {row['accuracy']:.4f}{scores}, {row['seconds']:.0f} s" if result.views else result.reason
        print(f"[{number}/{len(plan.rungs)}] {rung.name}: {result.state}, {outcome}\n  {result.command}", flush=True)
    print(
        f"\n{_describe(plan)}\n\n{text_table(_show(frame))}\n\n{_explain(plan, frame)}\n"
        f"{plan.folder}/study.md: the same with the command of each rung"
    )
    return frame


def _train(plan, rung, result):
    """An ordinary run; its predictions."""
    _call(plan, result, "train", train_options(plan, rung))
    return read_held_out(plan.table.paths.run(plan.run(rung)), plan.table)


def _tune(plan, rung, result):
    """A few trials of a search, each with epochs, pixels and folds of its reference; the predictions of the best."""
    options = train_options(plan, rung)
    options |= {"ONLY_FOLD": None, "FOLDS_USED": options["ONLY_FOLD"]} | TUNER[plan.budget]
    _call(plan, result, "tune", options)
    trials = pd.read_csv(plan.table.paths.tune(plan.run(rung)) / "trials.csv")
    result.where = "the best of its trials"
    done = find_metric(plan.table.metric).sort(trials[trials["state"] == "done"])
    return read_held_out(plan.table.paths.run(done["run"].iloc[0]), plan.table)


def _double(plan, rung, result):
    """The rarest class against the others, then the others among themselves."""
    _call(plan, result, "double", train_options(plan, rung) | {"SPLITS": quote_name(rarest(plan.table))})
    return read_held_out(plan.table.paths.run(plan.run(rung)), plan.table)


def _gan(plan, rung, result):
    """A GAN for each fold that is used, then the head with its images, where it is good."""
    effort = plan.effort(rung)
    folds = [int(effort.folds)] if effort.folds else list(range(plan.table.k))
    options = {"NAME": plan.table.name, "ONLY_FOLD": effort.folds, "SET": GAN_KEYS[plan.budget]}
    made = print_command("gan", options)
    try:
        check_synthetic(plan.table, folds)  # one of the user's own will do
    except InputError:
        _call(plan, result, "gan", options)
    try:
        check_synthetic(plan.table, folds)
    except InputError as error:
        raise _Skipped(str(error)) from None
    views = _train(plan, rung, result)
    result.command = f"{made} && {result.command}"
    return views


def _zeros(plan, rung, result):
    """The linear model of `make sanity` on inputs of zeros: all that it can learn is how common the classes are."""
    result.command = print_command("study", {"NAME": plan.table.name})
    result.where = "no other command trains it on these folds; make sanity does, on halves"
    table = plan.table
    zeros = np.zeros((len(table.labels), 1), np.float32)
    return {"identity": sanity.train(sanity.BLIND, zeros, table.labels, table.fold, len(table.classes))}


def _views(plan, rung, result):
    """The mean over views of what its reference predicted: nothing is trained."""
    reference = plan.results[rung.reference]
    result.command = reference.command  # which stores them
    if not reference.views:
        raise _Skipped(f"{rung.reference} is {reference.state}")
    views = reference.views
    chosen = list(views) if rung.keys == ("all",) else list(rung.keys)
    result.where = f"the mean of the views {', '.join(chosen)} in its fold_*/views.npz"
    if missing := [view for view in chosen if view not in views]:
        raise _Skipped(f"{rung.reference} has no view {missing[0]}")
    return {"identity": np.mean([views[view] for view in chosen], axis=0)}


def _blend(plan, rung, result):
    """Heads on the frozen features of several backbones, averaged plainly or by weights chosen on the other folds."""
    kind, members = rung.keys[0], _members(plan, int(rung.keys[1]))
    runs = [plan.run(plan.results[name].rung) for name in members]
    result.command = print_command("blend", {"NAME": plan.table.name, "RUNS": ",".join(runs)})
    result.where = f"candidate {kind}, views identity, column nested"
    probs = [plan.results[name].probs for name in members]
    known = np.all([_known(values) for values in probs], axis=0)
    if not known.any():
        raise _Skipped("its members have no fold in common")
    groups, views = group_ids(plan.table)[known], ("identity",)
    chooser = Chooser(
        {views: np.stack(probs)[:, known]},
        plan.table.labels[known],
        nest_parts(plan.table.fold[known], groups),
        groups,
        find_metric(plan.table.metric),
    )
    blended = np.full_like(probs[0], np.nan)
    blended[known] = chooser.nested(kind, views)
    return {"identity": blended}


def _members(plan, count):
    """The names of the first heads that are done, each on a backbone of its own; _Skipped where they are too few."""
    done = {
        plan.model(plan.results[name].rung): name
        for name in reversed(MEMBERS)
        if name in plan.results and plan.results[name].views
    }
    members = [name for name in MEMBERS if name in done.values()][:count]
    if len(members) < count:
        raise _Skipped(f"{len(members)} backbones with weights at hand, expected {count}")
    return members


def _distil(plan, rung, result):
    """A head that learns what those of the ensemble say of its training images as well."""
    teachers = ",".join(plan.run(plan.results[name].rung) for name in _members(plan, TEACHERS))
    _call(plan, result, "train", train_options(plan, rung) | {"TEACHER": teachers})
    return read_held_out(plan.table.paths.run(plan.run(rung)), plan.table)


def _soup(plan, rung, result):
    """The mean of the weights of earlier rungs, keys, fold by fold."""
    members = [plan.results[name] for name in rung.keys]
    if missing := [member for member in members if not member.views]:
        raise _Skipped(f"{missing[0].rung.name} is {missing[0].state}")
    runs = ",".join(plan.run(member.rung) for member in members)
    _call(plan, result, "soup", {"NAME": plan.table.name, "RUNS": runs, "RUN": plan.run(rung)})
    return read_held_out(plan.table.paths.run(plan.run(rung)), plan.table)


def train_options(plan, rung):
    """The variables of its `make train`; no network sees fewer pixels than it can."""
    effort, model = plan.effort(rung), plan.model(rung)
    least = smallest_size(model)
    keys = [
        re.sub(r"^image_size=([1-9]\d*)$", lambda size: f"image_size={max(int(size[1]), least)}", key)
        for key in effort.keys
    ]
    cap = (f"image_size={effort.most}",) if 0 < effort.most < max(plan.table.size) else ()
    rate = (RATES[model],) if model in RATES and effort.recipe == "best" else ()
    return {
        "NAME": plan.table.name,
        "MODEL": model,
        "RECIPE": effort.recipe,
        "RUN": plan.run(rung),
        "ONLY_FOLD": effort.folds,
        "SET": [*keys, *cap, *rate, *(_fill(plan, key) for key in rung.keys)],
    }


HOW = {
    "train": _train,
    "tune": _tune,
    "double": _double,
    "gan": _gan,
    "zeros": _zeros,
    "views": _views,
    "blend": _blend,
    "distil": _distil,
    "soup": _soup,
}

# what leaves a run of its own, by which commands
RUNS = {
    "train": ("train",),
    "tune": ("tune",),
    "double": ("double",),
    "gan": ("gan", "train"),
    "distil": ("train",),
    "soup": ("soup",),
}


def _weights(plan, model):
    """What WEIGHTS= takes for a model; None for the default. _Skipped when its weights are not at hand."""
    if model in OWN:
        return None
    if model not in plan.weights:
        raise _Skipped(f"no weights of {model} at hand; WEIGHTS=<a folder of weights> takes them from there")
    return None if plan.weights[model] == "imagenet" else plan.weights[model]


def _call(plan, result, verb, options):
    """Run `make <verb> ...`, with the WEIGHTS= that its model wants; what is None is left out.

    _Skipped when these are not at hand, and when this version has no such recipe key.
    """
    result.command = print_command(verb, options)
    if "MODEL" in options:
        options = options | {"WEIGHTS": _weights(plan, options["MODEL"])}
        result.command = print_command(verb, options)
    known = {key.name for key in fields(Recipe)}
    for key in options.get("SET") or () if verb != "gan" else ():
        if (word := key.partition("=")[0]) not in known:
            raise _Skipped(f"recipes have no key {word} in this version")
    given = {"overrides" if key == "SET" else key.lower(): value for key, value in options.items() if value}
    if verb != "gan":
        given["memory"] = plan.memory
    plan.commands[verb](**given, workspace=plan.table.workspace)


def print_command(verb, options):
    """The same as one types it."""
    words = [f"{key}={' '.join(value) if key == 'SET' else value}" for key, value in options.items() if value]
    return shlex.join(["make", verb, *words])


def _fill(plan, key):
    """A recipe's key with what depends on the competition.

    {given}: the rarest class counts as much more as it has fewer images than the mean class, up to three times.
    {count}: what the mean class has in a training fold.
    """
    table = plan.table
    counts = np.bincount(table.labels, minlength=len(table.classes))
    weight = min(3.0, max(1.5, round(counts.mean() / counts.min(), 1)))
    quoted = rarest(table).replace("\\", "\\\\").replace('"', '\\"')
    values = {"given": f'{{"{quoted}" = {weight}}}', "count": round(counts.mean() * (table.k - 1) / table.k)}
    return re.sub(r"\{(given|count)\}", lambda found: str(values[found[1]]), key)


def rarest(table):
    """The class with the fewest images, the first of equals."""
    return table.classes[int(np.bincount(table.labels, minlength=len(table.classes)).argmin())]


def read_held_out(folder, table):
    """{view: float32 [n, C]} of those folds of a run that are trained, in table order; NaN where there is none.

    InputError when no fold is, or when one is broken or not this table's.
    """
    views = {}
    for path in sorted(Path(folder).glob("fold_*/views.npz")):
        fold = int(path.parent.name.removeprefix("fold_"))
        for view, probs in oof.read_fold(path.parent, table, fold).items():
            if not np.isfinite(probs).all():
                raise InputError(f"{path}: no finite probabilities, its training has diverged")
            whole = views.setdefault(view, np.full((len(table.labels), len(table.classes)), np.nan, np.float32))
            whole[table.fold == fold] = probs
    if not views:
        raise InputError(f"{folder}: no predictions, expected those of a fold")
    return views


def _known(probs):
    return ~np.isnan(probs).any(1)


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
    known, right = _known(result.probs), result.probs.argmax(1) == table.labels
    rare = known & (table.labels == table.classes.index(rarest(table)))
    row["accuracy"], row["images"] = float(right[known].mean()), int(known.sum())
    row["low"], row["high"] = accuracy_interval(right[known])
    row |= metric.beside(result.probs[known], table.labels[known])
    row["rarest"] = float(right[rare].mean()) if rare.any() else math.nan
    reference = plan.results.get(rung.reference)
    if reference and reference.views and (both := known & _known(reference.probs)).any():
        before = reference.probs.argmax(1) == table.labels
        row["difference"], row["p"] = compare_rungs(right[both], before[both])
    return row


def _show(frame):
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


def _describe(plan):
    table = plan.table
    return (
        f"{table.name}: {len(table.labels)} images in {len(table.classes)} classes, {table.k} folds; "
        f"BACKBONE={plan.backbone}, budget {plan.budget}; rarest class {rarest(table)}"
        + "".join(
            f"; scored by {name}, beside which interval, difference and p are of accuracy"
            for name in find_metric(table.metric).besides
        )
    )


def _explain(plan, frame):
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


def _write(plan, seconds):
    """Write the table as it is now; returns it as a DataFrame."""
    frame = pd.DataFrame([score_rung(plan, result) for result in plan.results.values()])
    shown = _show(frame).assign(
        command=[
            f"`{command}`{f': {where}' if where else ''}" if command else ""
            for command, where in zip(frame["command"], frame["where"])
        ]
    )
    lines = [shown.columns, ["---"] * len(shown.columns), *shown.to_numpy()]
    rows = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]
    files.write_bytes(plan.folder / "study.csv", files.csv_bytes(frame))
    files.write_text(
        plan.folder / "study.md", "\n".join([_describe(plan) + ".", "", *rows, "", _explain(plan, frame), ""])
    )
    files.write_json(
        plan.folder / "study.json",
        {
            "table": plan.table.hash,
            "data": plan.table.data_hash,
            "classes": plan.table.classes,
            "backbone": plan.backbone,
            "budget": plan.budget,
            "versions": files.versions(),
            "seconds": seconds,
        },
    )
    return frame


def _read_seconds(plan):
    """{run: seconds} of earlier calls, on the same images and folds."""
    path = plan.folder / "study.json"
    record = files.read_json(path) if path.exists() else {}
    same = record.get("table") == plan.table.hash and record.get("data") == plan.table.data_hash
    return dict(record["seconds"]) if same else {}


def _epoch_seconds(plan, run):
    """Of all folds of a run, or of runs of that pattern."""
    return sum(files.read_json(path)["seconds"] for path in plan.table.paths.run(run).glob("fold_*/fold.json"))
