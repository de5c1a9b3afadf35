"""The trials of a search, and the table of what they reached and by how much the best of them flatters."""

import itertools
import math
from dataclasses import asdict, dataclass, field

import numpy as np
import pandas as pd

from competition.base import files
from competition.base.files import InputError
from competition.base.metrics import find_metric
from competition.base.text import text_table
from competition.base.workspace import OOF_NPZ, STUDY_JSON, TRIALS_CSV, VIEWS_NPZ, fold_dir
from competition.data.table import FoldTable
from competition.models import hyperresnet
from competition.recipes.recipe import Recipe
from competition.runs import oof
from competition.trials.search_space import Key

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
    failure: str = ""  # why the last trial that failed in this call did

    @property
    def metric(self):
        return find_metric(self.table.metric)

    @property
    def path(self):
        return self.table.paths.tune(self.name) / STUDY_JSON

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


def read_trial_probs(study, trial):
    """What the folds used predict for their images without TTA, float32 [m, C], and these images' labels, int [m].

    None where the trial is not done, or its run is gone.
    """
    parts = {fold: fold_dir(study.folder(trial.number), fold) for fold in study.folds}
    if not all((path / VIEWS_NPZ).exists() for path in parts.values()):
        return None
    probs = [oof.read_fold(path, study.table, fold)["identity"] for fold, path in parts.items()]
    return np.concatenate(probs), labels_of(study)


def labels_of(study):
    return np.concatenate([study.table.labels[study.table.fold == fold] for fold in study.folds])


def describe_trial(study, trial):
    return f"{study.folder(trial.number).name}: " + " ".join(f"{key}={value}" for key, value in trial.params.items())


def estimate_optimism(right, draws=DRAWS, seed=0):
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


def find_best(trials, metric):
    return max(trials, key=lambda trial: trial.quality(metric))


def print_trials(study, found, sweep):
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
    files.write_bytes(study.path.with_name(TRIALS_CSV), files.csv_bytes(frame))
    shown = frame[frame["state"] == "done"].drop(columns="state")
    if not done:
        if any(trial.state == "failed" for trial in study.trials):
            raise InputError(f"{study.path}: every trial has failed; the last: {study.failure}")
        print(f"{study.path.parent}: no trial is done yet")
        return frame
    folds = "" if len(study.folds) == study.table.k else f" of fold {', '.join(map(str, study.folds))}"
    print(f"\n{text_table(shown.replace('', 'none'))}\n")
    states = [trial.state for trial in study.trials if trial.state != "done"]
    others = "".join(f", {states.count(state)} {state}" for state in dict.fromkeys(states))
    best = find_best([trial for trial, _ in done], metric)
    reached = metric.sign * best.quality(metric)[0]
    error = math.sqrt(best.accuracy * (1 - best.accuracy) / len(labels_of(study)))
    spread = f"standard error{' of accuracy' * len(metric.besides)} {error:.4f}"
    print(
        f"{len(done)} trials{others}; the best: {describe_trial(study, best)}, {metric.name} {reached:.4f}, {spread}, "
        f"on the {len(labels_of(study))} images{folds} that chose it"
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
    bias = estimate_optimism(np.array([metric.sign * metric.each(probs, labels) for probs, labels in found]))
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
    if (folder / OOF_NPZ).exists():
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
