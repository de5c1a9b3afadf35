"""How each rung of the study is run: by the commands that a user would type."""

import re
import shlex
from dataclasses import dataclass, field, fields

import numpy as np

from competition.base.files import InputError, read_csv
from competition.base.metrics import find_metric
from competition.base.workspace import FOLD, STUDY_RUN, TRIALS_CSV, VIEWS_NPZ, fold_files
from competition.blending.chooser import Chooser, nest_parts
from competition.data.table import FoldTable, group_ids
from competition.insight import sanity
from competition.models.backbones import ALWAYS_RANDOM, smallest_size
from competition.recipes.recipe import Recipe
from competition.runs import oof
from competition.runs.splits import quote_name
from competition.training.gan.gan import check_synthetic
from competition.trials.ladder import BUDGETS, GAN_KEYS, LADDER, MEMBERS, RATES, TEACHERS, TUNER, Rung


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


class Skipped(Exception):
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


def _train(plan, rung, result):
    """An ordinary run; its predictions."""
    call_command(plan, result, "train", train_options(plan, rung))
    return read_held_out(plan.table.paths.run(plan.run(rung)), plan.table)


def _tune(plan, rung, result):
    """A few trials of a search, each with epochs, pixels and folds of its reference; the predictions of the best."""
    options = train_options(plan, rung)
    options |= {"ONLY_FOLD": None, "FOLDS_USED": options["ONLY_FOLD"]} | TUNER[plan.budget]
    call_command(plan, result, "tune", options)
    trials = read_csv(plan.table.paths.tune(plan.run(rung)) / TRIALS_CSV)
    result.where = "the best of its trials"
    done = find_metric(plan.table.metric).sort(trials[trials["state"] == "done"])
    return read_held_out(plan.table.paths.run(done["run"].iloc[0]), plan.table)


def _double(plan, rung, result):
    """The rarest class against the others, then the others among themselves."""
    call_command(plan, result, "double", train_options(plan, rung) | {"SPLITS": quote_name(find_rarest(plan.table))})
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
        call_command(plan, result, "gan", options)
    try:
        check_synthetic(plan.table, folds)
    except InputError as error:
        raise Skipped(str(error)) from None
    views = _train(plan, rung, result)
    result.command = f"{made} && {result.command}"
    return views


def _zeros(plan, rung, result):
    """The linear model of `make sanity` on inputs of zeros: all that it can learn is how common the classes are."""
    result.command = print_command("study", {"NAME": plan.table.name})
    result.where = "no other command trains it on these folds; make sanity does, on halves"
    table = plan.table
    zeros = np.zeros((len(table.labels), 1), np.float32)
    return {"identity": sanity.train_linear(sanity.BLIND, zeros, table.labels, table.fold, len(table.classes))}


def _views(plan, rung, result):
    """The mean over views of what its reference predicted: nothing is trained."""
    reference = plan.results[rung.reference]
    result.command = reference.command  # which stores them
    if not reference.views:
        raise Skipped(f"{rung.reference} is {reference.state}")
    views = reference.views
    chosen = list(views) if rung.keys == ("all",) else list(rung.keys)
    result.where = f"the mean of the views {', '.join(chosen)} in its fold_*/views.npz"
    if missing := [view for view in chosen if view not in views]:
        raise Skipped(f"{rung.reference} has no view {missing[0]}")
    return {"identity": np.mean([views[view] for view in chosen], axis=0)}


def _blend(plan, rung, result):
    """Heads on the frozen features of several backbones, averaged plainly or by weights chosen on the other folds."""
    kind, members = rung.keys[0], _members(plan, int(rung.keys[1]))
    runs = [plan.run(plan.results[name].rung) for name in members]
    result.command = print_command("blend", {"NAME": plan.table.name, "RUNS": ",".join(runs)})
    result.where = f"candidate {kind}, views identity, column nested"
    probs = [plan.results[name].probs for name in members]
    known = np.all([known_rows(values) for values in probs], axis=0)
    if not known.any():
        raise Skipped("its members have no fold in common")
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
    """The names of the first heads that are done, each on a backbone of its own; Skipped where they are too few."""
    done = {
        plan.model(plan.results[name].rung): name
        for name in reversed(MEMBERS)
        if name in plan.results and plan.results[name].views
    }
    members = [name for name in MEMBERS if name in done.values()][:count]
    if len(members) < count:
        raise Skipped(f"{len(members)} backbones with weights at hand, expected {count}")
    return members


def _distil(plan, rung, result):
    """A head that learns what those of the ensemble say of its training images as well."""
    teachers = ",".join(plan.run(plan.results[name].rung) for name in _members(plan, TEACHERS))
    call_command(plan, result, "train", train_options(plan, rung) | {"TEACHER": teachers})
    return read_held_out(plan.table.paths.run(plan.run(rung)), plan.table)


def _soup(plan, rung, result):
    """The mean of the weights of earlier rungs, keys, fold by fold."""
    members = [plan.results[name] for name in rung.keys]
    if missing := [member for member in members if not member.views]:
        raise Skipped(f"{missing[0].rung.name} is {missing[0].state}")
    runs = ",".join(plan.run(member.rung) for member in members)
    call_command(plan, result, "soup", {"NAME": plan.table.name, "RUNS": runs, "RUN": plan.run(rung)})
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
    """What WEIGHTS= takes for a model; None for the default. Skipped when its weights are not at hand."""
    if model in ALWAYS_RANDOM:
        return None
    if model not in plan.weights:
        raise Skipped(f"no weights of {model} at hand; WEIGHTS=<a folder of weights> takes them from there")
    return None if plan.weights[model] == "imagenet" else plan.weights[model]


def call_command(plan, result, verb, options):
    """Run `make <verb> ...`, with the WEIGHTS= that its model wants; what is None is left out.

    Skipped when these are not at hand, and when this version has no such recipe key.
    """
    result.command = print_command(verb, options)
    if "MODEL" in options:
        options = options | {"WEIGHTS": _weights(plan, options["MODEL"])}
        result.command = print_command(verb, options)
    known = {key.name for key in fields(Recipe)}
    for key in options.get("SET") or () if verb != "gan" else ():
        if (word := key.partition("=")[0]) not in known:
            raise Skipped(f"recipes have no key {word} in this version")
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
    quoted = find_rarest(table).replace("\\", "\\\\").replace('"', '\\"')
    values = {"given": f'{{"{quoted}" = {weight}}}', "count": round(counts.mean() * (table.k - 1) / table.k)}
    return re.sub(r"\{(given|count)\}", lambda found: str(values[found[1]]), key)


def find_rarest(table):
    """The class with the fewest images, the first of equals."""
    return table.classes[int(np.bincount(table.labels, minlength=len(table.classes)).argmin())]


def read_held_out(folder, table):
    """{view: float32 [n, C]} of those folds of a run that are trained, in table order; NaN where there is none.

    InputError when no fold is, or when one is broken or not this table's.
    """
    views = {}
    for path in fold_files(folder, VIEWS_NPZ):
        fold = int(path.parent.name.removeprefix(FOLD))
        for view, probs in oof.read_fold(path.parent, table, fold).items():
            if not np.isfinite(probs).all():
                raise InputError(f"{path}: no finite probabilities, its training has diverged")
            whole = views.setdefault(view, np.full((len(table.labels), len(table.classes)), np.nan, np.float32))
            whole[table.fold == fold] = probs
    if not views:
        raise InputError(f"{folder}: no predictions, expected those of a fold")
    return views


def known_rows(probs):
    return ~np.isnan(probs).any(1)
