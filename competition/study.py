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

from competition import device, files, oof, sanity
from competition.arrays import read_memory
from competition.backbones import OWN, at_hand, names, smallest_size
from competition.blend import Chooser, group_ids, nest_parts
from competition.double import quote_name
from competition.files import InputError
from competition.folds import make_folds, read_folds
from competition.hyperresnet import FAMILY
from competition.metrics import METRICS, find_metric, say_scores
from competition.recipes import Recipe
from competition.sample import write_sample
from competition.record import locked
from competition.workspace import SAMPLE, STUDY_RUN, Workspace

CONFIDENCE = 0.9
LIKELY = 0.05  # of 20 comparisons of equals one has a smaller p
ALL = ("quick", "default", "full")


@dataclass(frozen=True)
class Effort:
    """What a kind of rung takes in a budget: recipe, folds (None: all), keys of the recipe.

    most   pixels of the longer side from which on the network sees this many a side in place of all; 0: all
    """

    recipe: str
    folds: str | None = None
    keys: tuple[str, ...] = ()
    most: int = 0


@dataclass(frozen=True)
class Rung:
    """One system of the report.

    model may hold {backbone}, keys {given} (a weight for the rarest class) and {count} (of copies); see `_fill`.
    """

    name: str
    reference: str  # the rung that it is compared with
    report: str  # what the original report found
    kind: str = "head"  # of effort
    model: str = "{backbone}"
    # of the recipe; of TTA its views; of an ensemble how it weighs, and how many; of a soup its rungs
    keys: tuple[str, ...] = ()
    how: str = "train"  # a key of HOW
    budgets: tuple[str, ...] = ALL


PLAIN = ("augment=", "views=identity,hflip")
SHIFTS = "augment=hflip,vflip,shift"
SECOND = (SHIFTS, "augment_phases=full", "views=identity,hflip")
SMALL, VIEW = "image_size=96", "views=identity"

BUDGETS = {
    # the sample competition, 2 cores, 10 minutes; with the first layers as they are two epochs tell more, sooner
    "quick": {
        "pixels": Effort("quick", keys=("epochs=4",), most=96),
        "scratch": Effort("quick", "0", ("epochs=8",), most=96),
        "head": Effort("quick", keys=(SMALL,)),
        "coarse": Effort("quick", keys=("image_size=64", VIEW)),
        "batch": Effort("quick", keys=(SMALL,)),
        "tuned": Effort("best", "0", ("image_size=64", "frozen_share=0.6", "epochs=2")),
        "report": Effort("report", "0", ("image_size=64", "frozen_copies=2", "epochs=2", "patience=0")),
        "best": Effort("best", "0", ("least_size=96", "epochs=2"), most=96),
    },
    # some 3000 images of 96 x 96 pixels, 2 cores, 75 minutes
    "default": {
        "pixels": Effort("quick", keys=("epochs=4",), most=96),
        "scratch": Effort("quick", "0", most=96),
        "search": Effort("quick", "0", ("image_size=32", "epochs=4")),
        "head": Effort("quick"),
        "coarse": Effort("quick", keys=(SMALL, VIEW)),
        "batch": Effort("quick"),
        "tuned": Effort("best", "0", (SMALL, "epochs=4")),
        "report": Effort("report", "0", (SMALL, "frozen_copies=4", "epochs=6", "patience=0")),
        "best": Effort("best", "0", ("epochs=5",), most=160),
        "gan": Effort("quick", "0", ("synthetic=50",)),
    },
    # a GPU: nothing is cut down
    "full": {
        "pixels": Effort("quick"),
        "scratch": Effort("quick", keys=("epochs=60",)),
        "search": Effort("quick", "0", ("epochs=60",)),
        "head": Effort("quick"),
        "coarse": Effort("quick"),
        "batch": Effort("best"),
        "tuned": Effort("best"),
        "report": Effort("report"),
        "best": Effort("best"),
        "gan": Effort("quick", keys=("synthetic=100",)),
    },
}
GAN_KEYS = {"default": ["epochs=22"], "full": []}  # of the GANs themselves
TUNER = {"default": {"SPACE": "version=v1,v2"}, "full": {"TRIALS": "10"}}

LADDER = (
    Rung("zero inputs", "", "worse", how="zeros"),
    Rung("baseline", "zero inputs", "25 %", "pixels", "baseline"),
    Rung("scratch", "baseline", "77 % on validation", "scratch", "scratch"),
    Rung("scratch, as long", "baseline", "77 % on validation", "search", "scratch",  # as one trial of the tuner
         budgets=("default", "full")),
    Rung("hyperresnet", "scratch, as long", "no major gain, slow", "search", FAMILY, how="tune",
         budgets=("default", "full")),
    # transfer learning, the backbone frozen
    Rung("head", "baseline", "VGG16 and ResNet50 best on validation, ResNet50 on test"),
    Rung("head, one view", "head", "", "coarse"),  # as few pixels as whatever trains all layers has
    Rung("head vgg16", "head, one view", "best on validation", "coarse", "vgg16"),
    Rung("head vgg16_nopool", "head vgg16", "the full VGG16 is better", "coarse", "vgg16_nopool"),
    Rung("head resnet50", "head", "best on validation and test", model="resnet50", budgets=("default", "full")),
    Rung("head mobilenet", "head", "in the ensemble", model="mobilenet"),
    Rung("head efficientnet_lite1", "head", "not tried", model="efficientnet_lite1"),
    Rung("head efficientnet_lite2", "head", "not tried", model="efficientnet_lite2"),
    Rung("layers 512, 256", "head", "no gain", keys=("head=[512, 256]",)),
    Rung("batch 64", "", "the best on test", "batch", keys=("batch_size=64",)),
    *(Rung(f"batch {size}", "batch 64", "small ones win on validation, 64 on test", "batch",
           keys=(f"batch_size={size}",)) for size in (4, 8, 16, 32)),
    # rare classes
    Rung("weights balanced", "head", "Species1 65 to 71 %, overall lower", keys=("class_weight=balanced",)),
    Rung("weights given", "head", "Species1 65 to 71 %, overall lower", keys=("class_weight={given}",)),
    Rung("copies of rare classes", "head", "90 % on validation, 5 points lost on test",
         keys=("oversample_count={count}", "oversample_augment=hflip,vflip,affine,light")),
    Rung("double model", "head", "92 % and 90 % alone, 84 % merged", how="double"),
    Rung("generated images", "head", "no useful image in the time they had", "gan", how="gan",
         budgets=("default", "full")),
    # ensembles
    Rung("mean of 2", "head", "+3 points", keys=("mean", "2"), how="blend"),
    Rung("mean of 3", "head", "+3 points", keys=("mean", "3"), how="blend"),
    Rung("weighted, of 2", "head", "+3 points", keys=("greedy", "2"), how="blend"),
    Rung("weighted, of 3", "head", "+3 points", keys=("greedy", "3"), how="blend"),
    Rung("distilled", "head", "not tried", how="distil", budgets=("default", "full")),
    # all layers train
    Rung("all layers", "head, one view", "", "tuned", keys=PLAIN),
    Rung("flips, shifts: second phase", "all layers", "a boost", "tuned", keys=SECOND),
    Rung("flips, shifts: both phases", "flips, shifts: second phase", "a boost, higher than in one", "tuned",
         keys=(SHIFTS, "frozen_copies=4", "views=identity,hflip"), budgets=("default", "full")),
    *(Rung(name, "flips, shifts: second phase", found, "tuned", keys=(*SECOND, *keys))
      for name, found, keys in (
          ("cutmix", "smaller gap, no gain", ("cutmix=0.5",)),
          ("mixup", "smaller gap, no gain", ("mixup=0.5",)),
          ("fmix", "smaller gap, no gain", ("fmix=0.5",)),
          ("randaugment", "smaller gap, no gain", ("augment=hflip,vflip,shift,randaugment",)),
          ("gridmask", "smaller gap, no gain", ("augment=hflip,vflip,shift,gridmask",)),
          ("random erasing", "smaller gap, no gain", ("augment=hflip,vflip,shift,erase",)),
      )),
    Rung("double model, cutmix, weights", "cutmix", "not tried", "tuned", how="double", budgets=("default", "full"),
         keys=(*SECOND, "cutmix=0.5", "class_weight=balanced")),
    Rung("mixup, but last epoch", "mixup", "not tried", "tuned", keys=(*SECOND, "mixup=0.5", "plain_epochs=1"),
         budgets=("default", "full")),
    *(Rung(key, "flips, shifts: second phase", "not tried", "tuned", keys=(*SECOND, key), budgets=("default", "full"))
      for key in ("ema=0.99", "layer_decay=0.8", "label_smoothing=0", "progressive=0.5")),
    Rung("soup", "flips, shifts: second phase", "not tried", "tuned", how="soup", budgets=("full",),
         keys=("flips, shifts: second phase", "random erasing", "label_smoothing=0")),
    # the report's best model, and ours
    Rung("report, first phase", "head, one view", "", "report", keys=("epochs=0",)),
    Rung("report", "report, first phase", "90 % on validation, 86.8 and 85.3 % hidden", "report"),
    Rung("report vgg16", "report", "best on validation", "report", "vgg16", budgets=("full",)),
    Rung("report resnet50", "report", "best on validation and test", "report", "resnet50", budgets=("full",)),
    Rung("best", "report", "not tried", "best"),
    Rung("TTA, mirrored", "best", "marginal", keys=("identity", "hflip"), how="views"),
    Rung("TTA, all views", "best", "marginal", keys=("all",), how="views"),
)

# What makes a comparison less than fair.
SHORT = ("`best` differs from `report` in pixels, epochs and rates, not in one thing, and neither trains as long as "
         "its recipe says: `report` would for about 120 epochs at 1e-5.")
NOTES = {
    "quick": f"{SHORT} Whatever trains all layers does so for two epochs on a fold. "
             "What is left out would take half a minute to some minutes each, of ten.",
    "default": f"{SHORT} VGG16's heads have one view of 96 pixels, as `head, one view`; the others' two of 160.",
    "full": "`report` keeps its best epoch on the fold that it is scored on (patience), the others their last.",
}

# Without BatchNormalization nothing undoes what a step of AdamW, as long for small weights as for large ones, does to a
# layer's scale, and over 13 layers that multiplies: at the 1.5e-3 of `best` VGG16's loss goes to 4.7 in its first
# epoch, after which it says the same of every image and stays at ln(classes). At 1e-4 it learns.
RATES = {"vgg16": "rate=1e-4", "vgg16_nopool": "rate=1e-4", "vgg19": "rate=1e-4"}
TEACHERS = 3
MEMBERS = ("head", "head mobilenet", "head vgg16", "head efficientnet_lite1", "head efficientnet_lite2")


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

    table: object
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


def play(name=None, backbone="efficientnet_lite0", quick=False, budget=None, weights="imagenet", memory=None,
         workspace=Workspace(), *, commands):
    """`study` with the budget "quick", or another; returns the exit code, 1 where a rung failed."""
    if quick and budget:
        raise InputError(f"QUICK=1 and BUDGET={budget}: expected one of them")
    rungs = study(name, backbone, "quick" if quick else budget or "default", weights, memory, workspace,
                  commands=commands)
    return int("failed" in set(rungs["state"]))


def study(name=None, backbone="efficientnet_lite0", budget="default", weights="imagenet", memory=None,
          workspace=Workspace(), *, commands):
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
    device.make_repeatable()  # the rungs train in this process
    found = dict.fromkeys(at_hand(), "imagenet")
    if weights != "imagenet":
        found |= dict.fromkeys(at_hand(weights), weights)
    if backbone not in found:
        raise InputError(f"BACKBONE={backbone}: expected one with weights at hand, which are {', '.join(found)}; "
                         "WEIGHTS=<a folder of weights> may have more")
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
    print(f"\n{_describe(plan)}\n\n{oof.text_table(_show(frame))}\n\n{_explain(plan, frame)}\n"
          f"{plan.folder}/study.md: the same with the command of each rung")
    return frame


# --------------------------------------------------------------------------------------------------- how a rung is run


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
    from competition.gan import check_synthetic

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
    chooser = Chooser({views: np.stack(probs)[:, known]}, plan.table.labels[known],
                      nest_parts(plan.table.fold[known], groups), groups, find_metric(plan.table.metric))
    blended = np.full_like(probs[0], np.nan)
    blended[known] = chooser.nested(kind, views)
    return {"identity": blended}


def _members(plan, count):
    """The names of the first heads that are done, each on a backbone of its own; _Skipped where they are too few."""
    done = {plan.model(plan.results[name].rung): name for name in reversed(MEMBERS)
            if name in plan.results and plan.results[name].views}
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
    keys = [re.sub(r"^image_size=([1-9]\d*)$", lambda size: f"image_size={max(int(size[1]), least)}", key)
            for key in effort.keys]
    cap = (f"image_size={effort.most}",) if 0 < effort.most < max(plan.table.size) else ()
    rate = (RATES[model],) if model in RATES and effort.recipe == "best" else ()
    return {"NAME": plan.table.name, "MODEL": model, "RECIPE": effort.recipe, "RUN": plan.run(rung),
            "ONLY_FOLD": effort.folds, "SET": [*keys, *cap, *rate, *(_fill(plan, key) for key in rung.keys)]}


HOW = {"train": _train, "tune": _tune, "double": _double, "gan": _gan, "zeros": _zeros, "views": _views,
       "blend": _blend, "distil": _distil, "soup": _soup}
# what leaves a run of its own, by which commands
RUNS = {"train": ("train",), "tune": ("tune",), "double": ("double",), "gan": ("gan", "train"), "distil": ("train",),
        "soup": ("soup",)}


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


# -------------------------------------------------------------------------------------------- what a rung has predicted


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


def interval(right):
    """Least and most accuracy, Wilson's interval of CONFIDENCE. right bool [n]."""
    from scipy.stats import binomtest

    found = binomtest(int(right.sum()), len(right)).proportion_ci(CONFIDENCE, "wilson")
    return found.low, found.high


def compare(right, reference):
    """By how much the first accuracy is higher, and p of McNemar's exact two-sided test; both bool [n], same images."""
    from scipy.stats import binomtest

    gained, lost = int((right & ~reference).sum()), int((reference & ~right).sum())
    return (gained - lost) / len(right), binomtest(gained, gained + lost).pvalue if gained + lost else 1.0


# --------------------------------------------------------------------------------------------------------- the table


def score(plan, result):
    """The row of a rung, a dict; empty figures are NaN."""
    table, rung, metric = plan.table, result.rung, find_metric(plan.table.metric)
    row = {"rung": rung.name, "state": result.state, "accuracy": math.nan, "low": math.nan, "high": math.nan,
           **dict.fromkeys(metric.besides, math.nan), "reference": rung.reference, "difference": math.nan,
           "p": math.nan, "rarest": math.nan, "images": 0,
           "seconds": result.seconds, "report": rung.report, "command": result.command, "where": result.where,
           "reason": result.reason}
    if not result.views:
        return row
    known, right = _known(result.probs), result.probs.argmax(1) == table.labels
    rare = known & (table.labels == table.classes.index(rarest(table)))
    row["accuracy"], row["images"] = float(right[known].mean()), int(known.sum())
    row["low"], row["high"] = interval(right[known])
    row |= metric.beside(result.probs[known], table.labels[known])
    row["rarest"] = float(right[rare].mean()) if rare.any() else math.nan
    reference = plan.results.get(rung.reference)
    if reference and reference.views and (both := known & _known(reference.probs)).any():
        before = reference.probs.argmax(1) == table.labels
        row["difference"], row["p"] = compare(right[both], before[both])
    return row


def _show(frame):
    """The table for people."""
    def text(form, value):
        return "" if pd.isna(value) else form.format(value)

    done = frame["state"] == "done"
    return pd.DataFrame({
        "rung": frame["rung"],
        "accuracy": [text("{:.3f}", value) if good else state
                     for good, value, state in zip(done, frame["accuracy"], frame["state"])],
        f"{CONFIDENCE:.0%}": [text("{:.3f}-{:.3f}".format(low, high), high)
                              for low, high in zip(frame["low"], frame["high"])],
        **{name: frame[name].map(partial(text, "{:.3f}")) for metric in METRICS.values() for name in metric.besides
           if name in frame},
        "beside": frame["reference"],
        "difference": frame["difference"].map(partial(text, "{:+.3f}")),
        "p": [("<0.001" if p < 0.001 else f"{p:.3f}") if p == p else "" for p in frame["p"]],
        "rarest": frame["rarest"].map(partial(text, "{:.3f}")),
        "images": [str(images) if good else "" for good, images in zip(done, frame["images"])],
        "seconds": [f"{seconds:.0f}" if good or seconds else "" for good, seconds in zip(done, frame["seconds"])],
        "the report": [report if good else reason
                       for good, report, reason in zip(done, frame["report"], frame["reason"])],
    })


def _describe(plan):
    table = plan.table
    return (f"{table.name}: {len(table.labels)} images in {len(table.classes)} classes, {table.k} folds; "
            f"BACKBONE={plan.backbone}, budget {plan.budget}; rarest class {rarest(table)}"
            + "".join(f"; scored by {name}, beside which interval, difference and p are of accuracy"
                      for name in find_metric(table.metric).besides))


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
    frame = pd.DataFrame([score(plan, result) for result in plan.results.values()])
    shown = _show(frame).assign(command=[f"`{command}`{f': {where}' if where else ''}" if command else ""
                                         for command, where in zip(frame["command"], frame["where"])])
    lines = [shown.columns, ["---"] * len(shown.columns), *shown.to_numpy()]
    rows = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]
    files.write_bytes(plan.folder / "study.csv", files.csv_bytes(frame))
    files.write_text(plan.folder / "study.md",
                     "\n".join([_describe(plan) + ".", "", *rows, "", _explain(plan, frame), ""]))
    files.write_json(plan.folder / "study.json", {
        "table": plan.table.hash, "data": plan.table.data_hash, "classes": plan.table.classes,
        "backbone": plan.backbone, "budget": plan.budget, "versions": files.versions(), "seconds": seconds,
    })
    return frame


def _read_seconds(plan):
    """{run: seconds} of earlier calls, on the same images and folds."""
    path = plan.folder / "study.json"
    record = files.read_json(path) if path.exists() else {}
    same = record.get("table") == plan.table.hash and record.get("data") == plan.table.data_hash
    return dict(record["seconds"]) if same else {}


def _epoch_seconds(plan, run):
    """Of all folds of a run, or of runs of that pattern."""
    return sum(files.read_json(path)["seconds"]
               for path in plan.table.paths.run(run).glob("fold_*/fold.json"))
