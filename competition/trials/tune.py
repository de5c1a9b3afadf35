"""Tune a recipe: try values of its keys, or architectures of a HyperResNet, every trial an ordinary run.

A space of lists alone is tried in full, which is a sweep. Otherwise Optuna proposes the trials (TPE: Bergstra,
Bardenet, Bengio and Kégl 2011) and stops those that are behind the median of the others after as many epochs. What was
tried lies in one file of our own beside the runs, from which each proposal is made anew: a tuner that was killed goes
on with the trial that it was at, and proposes what it would have proposed. Of settings of a frozen backbone's head all
combinations are trained at once, as `make rank` does, and the best becomes a run.

The best is that of the table's metric, which prunes as well. The best of many flatters. By how much is estimated, where
the metric is the mean of a figure an image, as in Tsamardinos, Greasidou and Borboudakis 2018 (Machine Learning
107, "Bootstrapping the out-of-sample predictions for efficient and accurate cross-validation"), which takes no training
and, unlike a correction by folds (Tibshirani and Tibshirani 2009), works with a single fold as well.
"""

import contextlib
import io
import math
import shutil
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from competition.base import files
from competition.base.arrays import read_memory
from competition.base.backend import make_repeatable, start_keras
from competition.base.files import InputError
from competition.base.metrics import accuracy, log_loss, say_scores
from competition.base.workspace import HISTORY_CSV, Workspace, fold_dir
from competition.data.images import load_images
from competition.data.table import fold_numbers, read_folds
from competition.features import heads
from competition.models.presets import file_name
from competition.recipes.recipe import read_recipe
from competition.recipes.settle import fit_to_table, settle
from competition.runs import oof
from competition.runs.record import locked
from competition.training.train import train
from competition.trials.rank import train_grid
from competition.trials.search_space import auto_space, read_space
from competition.trials.tune_table import (
    Study,
    Trial,
    describe_trial,
    find_best,
    labels_of,
    print_trials,
    read_trial_probs,
)

TRIALS = 20  # where neither a number nor minutes are given, and the space has no end
FIRST = 5  # trials that run to their end before any is pruned
ATTEMPTS = 20  # proposals that were tried before, after which one is taken all the same


class _Pruned(Exception):
    """A trial is behind the others."""


class _AfterEpoch:
    """A callback that calls a function after each epoch of the second phase."""

    def __init__(self, function):
        self.function = function

    def on_epoch(self, run, fold, epoch, row):
        if row["phase"] == "full":
            self.function()


class _OutOfTime(Exception):
    """The minutes are over in the middle of a trial."""


def tune(
    model,
    space="auto",
    recipe="quick",
    name=None,
    weights="imagenet",
    run=None,
    folds_used=None,
    trials=None,
    minutes=None,
    overrides=(),
    memory=None,
    clock=time.monotonic,
    workspace=Workspace(),
):
    """Try values of a recipe's keys; prints and returns the table of trials, the best first or in a sweep's order.

    space       "key=low:high[:log] key=value,value key=value|value,value": ranges, and lists parted by commas, or by
                bars where a value is itself a list (`none` is the empty one); "auto": see auto_space. Keys are those of
                a Recipe and, for MODEL=hyperresnet, of hyperresnet.ARCHITECTURE
    run         name of the study; its trials are the runs <study>-000, -001, ...; default <model>-<recipe>-<keys>
    folds_used  "0" or "0,1": the folds that a trial is trained and scored on; default all, which gives runs to blend
    trials      how many in all, those of earlier calls too; default: all combinations of a space of lists, else 20, or
                as many as there are minutes for
    minutes     of training in all, those of earlier calls too; the trial that they end in is gone on with when there
                are more
    clock       seconds, for the minutes

    model, recipe, name, weights, overrides, memory, workspace: as for train.train. Writes `study.json` and `trials.csv`
    into `runs/<name>/tune/<study>/`. Raises InputError for what cannot be used, and for a study begun from something
    else.
    """
    read_memory(memory)
    trials, minutes = _read_budget("TRIALS", trials, int), _read_budget("MINUTES", minutes, float)
    table = read_folds(name, workspace)
    make_repeatable()
    settled = settle(table, model, weights, recipe, overrides)
    chosen, settings, from_random = settled.weights, settled.recipe, settled.from_random
    wanted = auto_space(model, settings) if space == "auto" else space
    keys = read_space(wanted, model, recipe, overrides, from_random)
    label = "auto" if space == "auto" else "+".join(key.name for key in keys)
    study = Study(
        _study_name(run, f"{file_name(settled.model)}-{Path(recipe).stem}", label),
        table,
        model,
        recipe,
        weights,
        list(overrides),
        settings,
        from_random,
        keys,
        fold_numbers("FOLDS_USED", folds_used, table),
        memory,
    )
    combinations = study.combinations
    sweep = combinations is not None and (trials or math.inf) >= len(combinations)
    with locked(study.path.parent):
        _open(study, chosen)
        heads_alone = not settings.epochs and not settings.synthetic  # generated images are each fold's own
        if sweep and not minutes and heads_alone and {key.name for key in keys} <= set(heads.SWEPT):
            return _sweep_heads(study, chosen, combinations)
        limit = len(combinations) if sweep else trials or (math.inf if minutes else TRIALS)
        plan = f"{limit} combinations, each once" if sweep else f"{limit} trials" if limit < math.inf else "trials"
        print(f'SPACE="{wanted}": {plan}{f", in {minutes:g} minutes" if minutes else ""}', flush=True)
        _run_trials(study, sweep, limit, 60 * (minutes or math.inf), clock)
        return print_trials(study, [(trial, read_trial_probs(study, trial)) for trial in study.trials], sweep)


def _read_budget(variable, value, kind):
    """A number above 0, None where none is given."""
    if value is None:
        return None
    try:
        number = kind(value)
    except ValueError:
        number = 0
    if not 0 < number < math.inf:
        raise InputError(f"{variable}={value}: expected a number above 0")
    return number


def _study_name(run, base, label):
    name = run or f"{base}-{label}"
    return files.check_name("RUN", name if run or len(name) <= 90 else f"{base}-tune")


def _open(study, chosen):
    """Read the trials of earlier calls into the study; InputError when it was begun from something else."""
    config = {
        "model": study.model,
        "weights": chosen.sha256,
        "recipe": asdict(study.settings),
        "space": [asdict(key) for key in study.keys],
        "folds": study.folds,
        "table": study.table.hash,
        "data": study.table.data_hash,
    }
    config |= study.metric.chooses(True)
    if not study.path.exists():
        files.write_json(study.path, config | {"trials": []})
        return
    record = files.read_json(study.path)
    try:
        config, record = ({"metric": "accuracy"} | each for each in (config, record))
        if changed := [key for key in config if files.hash_json(record[key]) != files.hash_json(config[key])]:
            raise InputError(
                f"{study.path}: begun with another {', '.join(changed)}; take another name "
                f"(RUN=), or remove {study.path.parent} and its trials, {study.folder(0)} and so on"
            )
        study.trials = [Trial(**trial) for trial in record["trials"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{study.path}: expected the record of a study, found {error!r}") from None
    for trial in study.trials:
        if trial.state == "failed":
            trial.state = "running"
        if trial.state == "pruned":  # a kill may have come between
            shutil.rmtree(study.folder(trial.number), ignore_errors=True)


def _write(study):
    files.write_json(study.path, files.read_json(study.path) | {"trials": [trial.record() for trial in study.trials]})


def _run_trials(study, sweep, limit, seconds, clock):
    """Go on with what was interrupted, then with new trials, until there are enough or the seconds are over."""
    while sum(trial.seconds for trial in study.trials) < seconds:
        trial = next((trial for trial in study.trials if trial.state == "running"), None)
        if trial is None:
            if len(study.trials) >= limit or not (params := _propose(study, sweep)):
                return
            trial = Trial(len(study.trials), params)
            if (folder := study.folder(trial.number)).exists():
                raise InputError(
                    f"{folder}: there is a run of this name that {study.path} does not know; take another "
                    "name (RUN=), or remove it"
                )
            study.trials.append(trial)
            _write(study)
        try:
            _run_trial(study, trial, sweep, seconds, clock)
        except _OutOfTime:
            print(f"{describe_trial(study, trial)}: the minutes are over; the same command with more goes on with it")


def _propose(study, sweep):
    """The params of the next trial; None when all combinations are tried."""
    combinations = study.combinations
    left = None if combinations is None else [params for params in combinations if params not in study.tried]
    if left == [] or sweep:
        return left[0] if left else None
    for attempt in range(ATTEMPTS):
        asked = _ask(study, attempt).params
        params = {key.name: key.tidy(asked[key.name]) for key in study.keys}
        if params not in study.tried:
            return params
    return left[0] if left else params


def _ask(study, attempt=0, params=None):
    """A trial of Optuna that knows of all that have ended; its values are `params` if these are given.

    What is drawn depends on the trials and the attempt alone, so that it does not matter when a call ended.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    states = {"done": optuna.trial.TrialState.COMPLETE, "pruned": optuna.trial.TrialState.PRUNED}
    distributions = {key.name: key.distribution() for key in study.keys}
    seed = np.random.default_rng([study.settings.seed, len(study.trials), attempt]).integers(2**31)
    # epochs of trials that have different numbers of them cannot be compared
    comparable = not any(key.name == "epochs" for key in study.keys)
    pruner = (
        optuna.pruners.MedianPruner(FIRST, n_warmup_steps=study.settings.epochs // 3)
        if comparable
        else optuna.pruners.NopPruner()
    )
    sign = study.metric.sign
    asked = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=int(seed)), pruner=pruner)
    asked.add_trials(
        [
            optuna.trial.create_trial(
                state=states[trial.state],
                params=trial.params,
                distributions=distributions,
                intermediate_values={step: sign * score for step, score in trial.steps},
                value=trial.quality(study.metric)[0] if trial.state == "done" else None,
            )
            for trial in study.trials
            if trial.state in states
        ]
    )
    if params:
        asked.enqueue_trial(params)
    return asked.ask(distributions)


def _run_trial(study, trial, sweep, seconds, clock):
    """Train and score one trial; _OutOfTime when the seconds end before it does."""
    import keras

    before, start = sum(other.seconds for other in study.trials), clock()
    spent = trial.seconds
    model, overrides = study.options(trial.params)
    folder, live, reported = study.folder(trial.number), _ask(study, params=trial.params), set()
    epochs, metric = read_recipe(study.recipe, overrides, study.from_random).epochs, study.metric
    score_epochs = partial(oof.epoch_scores, table=study.table, metric=metric, known={})

    def tick():
        trial.seconds = round(spent + clock() - start, 1)

    def after_epoch():
        tick()
        known, trial.steps = trial.steps, _steps(folder, study.folds, epochs, score_epochs)
        _write(study)
        for step, score in trial.steps:
            if step not in reported:
                live.report(metric.sign * score, step)
        reported.update(step for step, _ in trial.steps)
        if trial.steps[-1][0] == epochs * len(study.folds):
            return  # at its end
        if not sweep and live.should_prune():
            raise _Pruned
        told_before = trial.steps == known  # by a trial that goes on, which trains one more at least
        if not told_before and before + trial.seconds - spent >= seconds:
            raise _OutOfTime

    keras.utils.clear_session()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # its tables; ours has a line for it
            train(
                model,
                study.recipe,
                study.table.name,
                study.weights,
                folder.name,
                ",".join(map(str, study.folds)),
                overrides,
                study.memory,
                [_AfterEpoch(after_epoch)],
                workspace=study.table.workspace,
            )
        probs, labels = read_trial_probs(study, trial)
        trial.accuracy, trial.log_loss = accuracy(probs, labels), log_loss(probs, labels)
        if not np.isfinite(probs).all():
            raise InputError("its training has diverged")
        beside = metric.beside(probs, labels)
        trial.state, trial.score = "done", beside.get(metric.name)
        outcome = f"accuracy {trial.accuracy:.4f}, log-loss {trial.log_loss:.4f}{say_scores(beside)}"
    except _Pruned:
        trial.state = "pruned"
        outcome = f"pruned after {len(trial.steps)} epochs, {metric.name} {trial.steps[-1][1]:.4f}"
    except files.NoRoom:
        raise
    except Exception as error:  # what one trial cannot do, another may: combinations of values, memory
        if not isinstance(error, InputError) and "exhausted" not in f"{type(error).__name__} {error}".lower():
            raise
        study.failure = " ".join(str(error).split())
        trial.state, outcome = "failed", f"failed: {study.failure[:200]}"
    tick()
    _write(study)
    if trial.state == "pruned":
        shutil.rmtree(folder)  # half a run would be in the way of `make blend`; its epochs are in study.json
    print(f"{describe_trial(study, trial)}: {outcome}, {trial.seconds:.0f} s", flush=True)


def _steps(folder, folds, epochs, score_epochs):
    """[step, score] of each epoch of the second phase: a mean with the ends of the folds before.

    score_epochs   oof.epoch_scores of a fold's folder and rows of its history
    """
    steps, ends = [], []
    for place, fold in enumerate(folds):
        path = fold_dir(folder, fold) / HISTORY_CSV
        history = oof.read_history(path) if path.exists() else pd.DataFrame({"phase": [], "val_accuracy": []})
        scores = score_epochs(path.parent, history[history["phase"] == "full"]).tolist()
        steps += [[place * epochs + epoch, float(np.mean([*ends, value]))] for epoch, value in enumerate(scores, 1)]
        ends += scores[-1:]
    return steps


def _sweep_heads(study, chosen, combinations):
    """All combinations of settings of the head at once; the best becomes an ordinary run."""
    table = study.table
    settings = [fit_to_table(table, read_recipe(study.recipe, study.options(params)[1])) for params in combinations]
    start_keras(study.settings.seed)
    memory = read_memory(study.memory)
    start = time.time()
    images = load_images(table, memory)
    probs = train_grid(table, images, study.model, chosen, settings, study.folds, memory).probabilities
    used = np.concatenate([np.flatnonzero(table.fold == fold) for fold in study.folds])
    labels, seconds = labels_of(study), (time.time() - start) / len(settings)
    study.trials = [
        Trial(
            number,
            params,
            "done",
            [],
            accuracy(found, labels),
            log_loss(found, labels),
            seconds,
            study.metric.beside(found, labels).get(study.metric.name),
        )
        for number, (params, found) in enumerate(zip(combinations, probs[:, used]))
    ]
    _write(study)
    frame = print_trials(study, [(trial, (found, labels)) for trial, found in zip(study.trials, probs[:, used])], True)
    best = find_best(study.trials, study.metric)
    with contextlib.redirect_stdout(io.StringIO()):
        train(
            study.model,
            study.recipe,
            table.name,
            study.weights,
            study.folder(best.number).name,
            ",".join(map(str, study.folds)),
            study.options(best.params)[1],
            study.memory,
            workspace=table.workspace,
        )
    return frame
