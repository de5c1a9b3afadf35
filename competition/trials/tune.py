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
import itertools
import math
import shutil
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from competition.base import files
from competition.base.arrays import read_memory
from competition.base.backend import make_repeatable, start_keras
from competition.base.files import InputError
from competition.base.metrics import accuracy, find_metric, log_loss, say_scores
from competition.base.text import text_table
from competition.base.workspace import Workspace
from competition.data.images import load_images
from competition.data.table import FoldTable, fold_numbers, read_folds
from competition.features import heads
from competition.models import hyperresnet
from competition.recipes.recipe import Recipe, read_recipe
from competition.recipes.settle import fit_to_table, settle
from competition.runs import oof
from competition.runs.record import locked
from competition.training.train import train
from competition.trials.rank import train_grid
from competition.trials.space import Key, auto_space, read_space

TRIALS = 20  # where neither a number nor minutes are given, and the space has no end
FIRST = 5  # trials that run to their end before any is pruned
ATTEMPTS = 20  # proposals that were tried before, after which one is taken all the same
DRAWS = 500  # of the bootstrap


@dataclass
class Trial:
    """A trial as study.json records it."""

    number: int
    params: dict
    state: str = "running"  # then "done", "pruned", or "failed", which the next command tries again
    steps: list = field(default_factory=list)  # of each epoch its number over all folds, and the score so far
    accuracy: float | None = None
    log_loss: float | None = None
    seconds: float = 0.0
    score: float | None = None  # in the table's metric, where that is not accuracy

    def quality(self, metric):
        """Greater is better: the score in the table's metric with its sign, ties by log-loss."""
        return metric.sign * (self.score if metric.besides else self.accuracy), -self.log_loss

    def record(self):
        """What study.json holds of it, without a score of its own where accuracy is the metric."""
        return {key: value for key, value in asdict(self).items() if key != "score" or value is not None}


@dataclass
class Study:
    """What is tuned, and the trials so far."""

    name: str
    table: FoldTable
    model: str
    recipe: str
    weights: str
    overrides: list[str]
    settings: Recipe
    from_random: bool
    keys: list[Key]
    folds: list[int]
    memory: str | None
    trials: list[Trial] = field(default_factory=list)

    @property
    def metric(self):
        return find_metric(self.table.metric)

    @property
    def path(self):
        return self.table.paths.tune(self.name) / "study.json"

    def folder(self, number):
        return self.table.paths.run(f"{self.name}-{number:03d}")

    @property
    def combinations(self):
        """All combinations of values; None where a range has no end of them."""
        if not all(key.values for key in self.keys):
            return None
        names = [key.name for key in self.keys]
        return [dict(zip(names, values)) for values in itertools.product(*(key.values for key in self.keys))]

    @property
    def tried(self):
        return [trial.params for trial in self.trials]

    def options(self, params):
        """Model and overrides of a trial."""
        architecture = {key: value for key, value in params.items() if key in hyperresnet.ARCHITECTURE}
        rest = [f"{key}={value}" for key, value in params.items() if key not in architecture]
        return hyperresnet.make_name(architecture) if architecture else self.model, [*self.overrides, *rest]


class _Pruned(Exception):
    """A trial is behind the others."""


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
        _study_name(run, f"{model}-{Path(recipe).stem}", label),
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
        return _report(study, [(trial, _read_probs(study, trial)) for trial in study.trials], sweep)


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
            print(f"{_describe(study, trial)}: the minutes are over; the same command with more goes on with it")


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
        trial.steps = _steps(folder, study.folds, epochs, score_epochs)
        _write(study)
        for step, score in trial.steps:
            if step not in reported:
                live.report(metric.sign * score, step)
        reported.update(step for step, _ in trial.steps)
        if trial.steps[-1][0] == epochs * len(study.folds):
            return  # at its end
        if not sweep and live.should_prune():
            raise _Pruned
        if before + trial.seconds - spent >= seconds:
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
                after_epoch,
                workspace=study.table.workspace,
            )
        probs, labels = _read_probs(study, trial)
        trial.accuracy, trial.log_loss = accuracy(probs, labels), log_loss(probs, labels)
        if not np.isfinite(probs).all():
            raise InputError("its training has diverged")
        beside = metric.beside(probs, labels)
        trial.state, trial.score = "done", beside.get(metric.name)
        outcome = f"accuracy {trial.accuracy:.4f}, log-loss {trial.log_loss:.4f}{say_scores(beside)}"
    except _Pruned:
        trial.state = "pruned"
        outcome = f"pruned after {len(trial.steps)} epochs, {metric.name} {trial.steps[-1][1]:.4f}"
    except Exception as error:  # what one trial cannot do, another may: combinations of values, memory
        if not isinstance(error, InputError) and "exhausted" not in f"{type(error).__name__} {error}".lower():
            raise
        trial.state, outcome = "failed", f"failed: {' '.join(str(error).split())[:200]}"
    tick()
    _write(study)
    if trial.state == "pruned":
        shutil.rmtree(folder)  # half a run would be in the way of `make blend`; its epochs are in study.json
    print(f"{_describe(study, trial)}: {outcome}, {trial.seconds:.0f} s", flush=True)


def _steps(folder, folds, epochs, score_epochs):
    """[step, score] of each epoch of the second phase: a mean with the ends of the folds before.

    score_epochs   oof.epoch_scores of a fold's folder and rows of its history
    """
    steps, ends = [], []
    for place, fold in enumerate(folds):
        path = folder / f"fold_{fold}" / "history.csv"
        history = pd.read_csv(path) if path.exists() else pd.DataFrame({"phase": [], "val_accuracy": []})
        scores = score_epochs(path.parent, history[history["phase"] == "full"]).tolist()
        steps += [[place * epochs + epoch, float(np.mean([*ends, value]))] for epoch, value in enumerate(scores, 1)]
        ends += scores[-1:]
    return steps


def _read_probs(study, trial):
    """What the folds used predict for their images without TTA, float32 [m, C], and these images' labels, int [m].

    None where the trial is not done, or its run is gone.
    """
    parts = {fold: study.folder(trial.number) / f"fold_{fold}" for fold in study.folds}
    if not all((path / "views.npz").exists() for path in parts.values()):
        return None
    probs = [oof.read_fold(path, study.table, fold)["identity"] for fold, path in parts.items()]
    return np.concatenate(probs), _labels(study)


def _labels(study):
    return np.concatenate([study.table.labels[study.table.fold == fold] for fold in study.folds])


def _describe(study, trial):
    return f"{study.folder(trial.number).name}: " + " ".join(f"{key}={value}" for key, value in trial.params.items())


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
    labels, seconds = _labels(study), (time.time() - start) / len(settings)
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
    frame = _report(study, [(trial, (found, labels)) for trial, found in zip(study.trials, probs[:, used])], True)
    best = _best(study.trials, study.metric)
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


def optimism(right, draws=DRAWS, seed=0):
    """By how much the accuracy of the best of T trials flatters, on the images that chose it.

    right   bool [T, n]: whether a trial got an image right that it was not trained on; or another figure an image, of
            which more is better

    The bootstrap of Tsamardinos et al. 2018: of images drawn with replacement the best trial is chosen, and scored on
    the images that were not drawn; the mean of these scores is what to expect of a best one.
    """
    random, right = np.random.default_rng(seed), right.astype(np.float32)
    expected = []
    for _ in range(draws):
        counts = np.bincount(random.integers(right.shape[1], size=right.shape[1]), minlength=right.shape[1])
        if (counts == 0).any():
            expected.append(right[(right @ counts.astype(np.float32)).argmax(), counts == 0].mean())
    return max(0.0, float(right.mean(1).max() - np.mean(expected))) if expected else 0.0


def _best(trials, metric):
    return max(trials, key=lambda trial: trial.quality(metric))


def _report(study, found, sweep):
    """Print the table and what it means, write it, return it. found: of each trial its probabilities and labels."""
    done = [(trial, scored) for trial, scored in found if trial.state == "done"]
    metric = study.metric
    of_metric = [name for name in metric.besides if name != "log_loss"]  # which has a column as it is
    scores, ends = ["accuracy", "log_loss"], ["seconds", "state"]
    frame = pd.DataFrame(
        [
            {
                "run": study.folder(trial.number).name,
                **trial.params,
                **{key: getattr(trial, key) for key in scores + ends},
                **dict.fromkeys(of_metric, trial.score),
            }
            for trial in study.trials
        ],
        columns=["run", *(key.name for key in study.keys), *scores, *of_metric, *ends],
    )
    frame = frame.astype(dict.fromkeys(scores + of_metric, float))
    if not sweep:
        frame = metric.sort(frame).reset_index(drop=True)
    files.write_bytes(study.path.with_name("trials.csv"), files.csv_bytes(frame))
    shown = frame[frame["state"] == "done"].drop(columns="state")
    if not done:
        if any(trial.state == "failed" for trial in study.trials):
            raise InputError(f"{study.path}: every trial has failed, as said above")
        print(f"{study.path.parent}: no trial is done yet")
        return frame
    folds = "" if len(study.folds) == study.table.k else f" of fold {', '.join(map(str, study.folds))}"
    print(f"\n{text_table(shown.replace('', 'none'))}\n")
    states = [trial.state for trial in study.trials if trial.state != "done"]
    others = "".join(f", {states.count(state)} {state}" for state in dict.fromkeys(states))
    best = _best([trial for trial, _ in done], metric)
    reached = metric.sign * best.quality(metric)[0]
    error = math.sqrt(best.accuracy * (1 - best.accuracy) / len(_labels(study)))
    spread = f"standard error{' of accuracy' * len(metric.besides)} {error:.4f}"
    print(
        f"{len(done)} trials{others}; the best: {_describe(study, best)}, {metric.name} {reached:.4f}, {spread}, "
        f"on the {len(_labels(study))} images{folds} that chose it"
    )
    _report_bias(metric, reached, [scored for _, scored in done if scored])
    _report_unused(study, best)
    return frame


def _report_bias(metric, reached, found):
    """By how much the best of several trials flatters; found: of each trial its probabilities and labels."""
    if len(found) < 2:
        return
    if not metric.each:
        print(
            f"a best of {len(found)} flatters; by how much is not estimated of {metric.name}, only of accuracy and "
            "log_loss"
        )
        return
    bias = optimism(np.array([metric.sign * metric.each(probs, labels) for probs, labels in found]))
    print(
        f"a best of {len(found)} flatters, this one by about {bias:.4f}: expect {reached - metric.sign * bias:.4f} "
        "(bootstrap of the choice over the images)"
    )


def _report_unused(study, best):
    """The folds that did not choose: how the best one does there, or the command that tells."""
    table = study.table
    unused = [fold for fold in range(table.k) if fold not in study.folds]
    if not unused:
        return
    folder = study.folder(best.number)
    if (folder / "oof.npz").exists():
        probs, others = oof.read_oof(folder, table).probs[0], np.isin(table.fold, unused)
        print(
            f"on the {others.sum()} images of the other folds, which had no say, its {study.metric.name} is "
            f"{study.metric.score(probs[others], table.labels[others]):.4f}"
        )
        return
    model, overrides = study.options(best.params)
    weights = f" WEIGHTS={study.weights}" if study.weights != "imagenet" else ""
    print(
        f"its other folds, which had no say, and its OOF: make train NAME={table.name} MODEL={model}{weights} "
        f'RECIPE={study.recipe} RUN={folder.name} SET="{" ".join(overrides)}"'
    )
