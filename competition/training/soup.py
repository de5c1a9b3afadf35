"""Soups: models whose weights are the mean of several models' weights (Wortsman et al. 2022, arXiv:2203.05482).

A soup costs as much to run as one of its models. It is good where these began with the same weights and stayed near
each other, as runs of one pretrained backbone do that differ in seed, rates or augmentation; from random weights they
do not.

Averaged is fold by fold: the models that never saw fold f make the model of fold f, which never saw it either. So a
soup has an honest OOF, and is a run that blends and packs like any other. To average the models of all folds as well
would leave no image that says what comes of it: each was trained on by all but one of them.
"""

from dataclasses import asdict, replace

import numpy as np

from competition.base import files
from competition.base.arrays import read_memory
from competition.base.backend import start_keras, write_weights
from competition.base.files import InputError, read_json
from competition.base.metrics import find_metric
from competition.base.workspace import FOLD_JSON, MODEL_FILE, OOF_NPZ, RUN_JSON, Workspace, check_run_name, fold_dir
from competition.blending.gains import score_gain
from competition.data.images import load_images
from competition.data.table import group_ids, read_folds
from competition.features.extract import MS
from competition.features.heads import softmax_and_log
from competition.runs import oof
from competition.runs.choose_runs import choose_runs
from competition.runs.finish_run import finish_run, print_folds, save_fold
from competition.runs.folder import begin_folds, is_done, is_whole
from competition.runs.kinds import read_run
from competition.runs.predict import predict_held_out
from competition.runs.record import locked, open_run_record
from competition.training.progress import Progress

SHAPE = ("image_size", "least_size", "head")  # keys of a recipe on which the network depends


def soup(name=None, runs=None, run=None, memory=None, workspace=Workspace()):
    """Average the fold models of finished runs; prints whether the OOF says that it holds, returns the run's folder.

    runs  "a,b,c": two or more, of the same backbone and size, in whose second phase everything was trained
    run   what to call it; default: soup-a-b-c

    Kernels, biases and BatchNormalization's statistics are averaged alike. Stopped, the same call goes on with the next
    fold. Raises InputError for runs whose weights cannot be averaged.
    """
    memory = read_memory(memory)
    table = read_folds(name, workspace)
    members = _read_members(table, runs)
    first = members[0]
    views = [view for view in first.views if all(view in member.views for member in members)]
    settings = replace(first.recipe, views=views)
    folder = table.paths.run(check_run_name(run or "soup-" + "-".join(member.name for member in members)))
    config = {key: value for key, value in first.config.items() if key not in ("gan", "teacher", "pseudo")} | {
        "recipe": asdict(settings),
        "soup": {member.name: files.sha256_file(member.dir / OOF_NPZ) for member in members},
    }
    with locked(folder):
        record = open_run_record(folder, table, config, settings)
        if record["finished"] and is_whole(folder, table, settings):
            print(f"{folder}: finished before, nothing to do")
        else:
            _average_folds(folder, table, members, settings, load_images(table, memory))
            finish_run(folder, table, settings, record)
        print_folds(folder, table, range(table.k))
    print(_judge(folder, table, members))
    return folder


def _read_members(table, runs):
    """The Runs; InputError for what cannot be averaged."""
    if not runs:
        raise InputError("RUNS= is missing, expected two or more finished runs of one backbone: RUNS=a,b")
    members = [read_run(table.paths.run(run), table) for run in choose_runs(table.paths, runs)]
    if len(members) < 2:
        raise InputError(f"RUNS={runs}: found one run, expected two or more")
    for member in members:
        path = member.dir / RUN_JSON
        if not member.finished:
            raise InputError(f"{path}: an unfinished run, expected a finished one; `make train` goes on with it")
        if not member.plain:
            raise InputError(f"{path}: {member.kind}, expected one of a single model a fold")
        if member.frozen:
            raise InputError(
                f"{path}: found heads on a frozen backbone, which `make blend` averages at hardly any "
                "cost, expected a run in which everything was trained"
            )
        for what, found, wanted in (
            ("model", member.config["model"], members[0].config["model"]),
            *((key, getattr(member.recipe, key), getattr(members[0].recipe, key)) for key in SHAPE),
        ):
            if found != wanted:
                raise InputError(f"{path}: {what} is {found}, expected {wanted} as in {members[0].name}")
    return members


def _average_folds(folder, table, members, settings, images):
    """Make the fold models that are missing, and what a finished fold leaves."""
    start_keras(settings.seed)
    for fold in range(table.k):
        if is_done(folder, fold, settings):
            continue
        begin_folds(folder, [fold])
        models = [member.build_logits(table, fold) for member in members]
        model = models[0]
        model.set_weights(average_weights([model.get_weights() for model in models]))
        logits = predict_held_out(model, table, fold, settings.views, images)
        views = {view: softmax_and_log(each)[0] for view, each in logits.items()}
        write_weights(fold_dir(folder, fold) / MODEL_FILE, model)
        took = [ms for member in members if (ms := read_json(fold_dir(member.dir, fold) / FOLD_JSON).get(MS))]
        save_fold(fold_dir(folder, fold), table, fold, Progress(), views, min(took, default=None))


def average_weights(weights):
    """The mean of several models' weights, lists of arrays of the same shapes; in float64, of the arrays' own types."""
    return [np.mean(values, axis=0, dtype=np.float64).astype(values[0].dtype) for values in zip(*weights, strict=True)]


def _judge(folder, table, members):
    """A line that says whether the soup holds: no more than a standard error behind the best of its members."""
    found = {path.name: oof.read_oof(path, table).probs[0] for path in (folder, *(member.dir for member in members))}
    metric = find_metric(table.metric)
    score = {run: metric.score(probs, table.labels) for run, probs in found.items()}
    best = max(members, key=lambda member: metric.sign * score[member.name]).name
    behind, error = _behind(metric, found[folder.name], found[best], table)
    blended = metric.score(np.mean([found[member.name] for member in members], axis=0), table.labels)
    verdict = "holds" if behind <= error else "does not hold: the weights are too far apart, blend these runs instead"
    return (
        f"soup of {', '.join(member.name for member in members)}: OOF {metric.name} {score[folder.name]:.4f}, "
        f"{-metric.sign * behind:+.4f} +- {error:.4f} to the best of them ({best}, {score[best]:.4f}); their mean "
        f"prediction, at {len(members)} times the cost, {blended:.4f}. It {verdict}"
    )


def _behind(metric, probs, best, table):
    """By how much the score of `probs` [n, C] is worse than that of `best`, on the same images; its standard error."""
    if metric.each:
        differences = metric.sign * (metric.each(best, table.labels) - metric.each(probs, table.labels))
        return differences.mean(), differences.std(ddof=1) / np.sqrt(len(differences))
    gain, error = score_gain(metric, best, probs, table.labels, group_ids(table))
    return metric.sign * gain, error
