"""Train one model on all folds and save its OOF predictions.

A fold is trained in up to two phases. First the backbone is frozen and the heads of all folds learn together on its
features, which are computed once; then everything trains, one fold after the other, in one compiled model that is set
back to its start before each of them, so that no fold knows of another. Either phase may have no epochs.

After every epoch all that the rest depends on (weights, optimizer, best epoch, history) is written in one step, to
`heads.npz` or `fold_<k>/state.npz`, and what is drawn at random follows from seed, fold, phase and epoch: a run that
was killed goes on from its last finished epoch as if nothing had happened.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from competition.base import files
from competition.base.arrays import read_memory
from competition.base.backend import make_repeatable
from competition.base.files import InputError
from competition.base.option_values import whole_number
from competition.base.workers import read_workers
from competition.base.workspace import RUN_JSON, STUDY_RUN, Workspace
from competition.data.table import read_folds
from competition.models.backbones import Weights
from competition.models.classifier import build_recipe_backbone
from competition.models.presets import file_name
from competition.recipes.recipe import read_recipe
from competition.recipes.settle import settle
from competition.rehearsal.scorer_network import check_network
from competition.runs.seeds import plain_heads
from competition.training.callbacks import Callback, check_callbacks
from competition.training.job import Job, prepare_job
from competition.training.teach import read_teaching
from competition.training.tensorboard import TensorBoard
from competition.training.train_folds import train_table, train_tables


def train(model: str, *arguments: Any, **options: Any) -> Path:
    """Train `model` on the folds of a table; returns the Run's folder.

    Parameters and errors are those of read_job. InputError as well for a run folder made from another config, fold table
    or other images.
    """
    return train_table(read_job(model, *arguments, **options))


def read_job(
    model: str,
    recipe: str | Path = "quick",
    name: str | None = None,
    weights: str | Path = "imagenet",
    run: str | None = None,
    only_fold: str | int | None = None,
    overrides: Sequence[str] = (),
    memory: Any = None,
    callbacks: Sequence[Callback] = (),
    teacher: str | None = None,
    pseudo: str | None = None,
    workers: int | str | None = None,
    cluster: str | None = None,
    scorer: str | None = None,
    workspace: Workspace = Workspace(),
) -> Job:
    """The Job that these options mean.

    weights    "imagenet", "none", a file or a folder (backbones.resolve_weights)
    run        name of the run; default <model>-<recipe>
    only_fold  train just this fold, or these ("0,2"); the OOF is written by whichever call trains the last missing one
    overrides  "key=value" strings that replace keys of the recipe
    memory     "4G", what the process may take; images and features that are too much for it are read from disk as
               they are needed, which changes nothing in the result; default: half of what is available
    teacher    "blend", or finished runs ("a,b"), whose fold models say what to learn of the images that they saw as well
    pseudo     a folder or zip of unlabelled images, some of which join the training folds with the labels that those
               models (default: of the blend) give; see teach.py for both
    workers    so many processes train folds side by side in the second phase; default: this process does all
    cluster    "auto", or the address of a Ray cluster that these processes run on; default: this machine
    scorer     "tensorflow==2.12.1" or a Python: refuse, before anything is trained, a network that it cannot run
    workspace  where the table lies and the run is written; default: the current folder
    callbacks  objects that are told of each epoch of each fold (callbacks.Callback); what one raises ends the training
               there, and the same call goes on with it

    Raises InputError for anything that cannot be used.
    """
    callbacks, memory, crew = check_callbacks(callbacks), read_memory(memory), read_workers(workers, cluster)
    for variable, value, expected in (
        ("TEACHER", teacher, "blend, or finished runs: a,b"),
        ("PSEUDO", pseudo, "a folder or zip of images"),
    ):
        if value is not None and not str(value).strip():
            raise InputError(f"{variable}= is empty, expected {expected}")
    table = read_folds(name, workspace)
    make_repeatable()
    settled = settle(table, model, weights, recipe, overrides)
    if scorer:
        network = build_recipe_backbone(settled.model, table.size, settled.recipe, Weights("none"))
        print(f"{model}: {check_network(network, scorer, workspace)} runs its network", flush=True)
    kind = "-distilled" * bool(teacher) + "-pseudo" * bool(pseudo)
    job = prepare_job(settled, only_fold, run or f"{file_name(settled.model)}-{Path(recipe).stem}{kind}", memory)
    job = replace(job, callbacks=callbacks, workers=crew)
    if kind:
        job = replace(job, teaching=read_teaching(table, teacher, pseudo))
        if not teacher:
            job = replace(job, recipe=replace(job.recipe, teacher_weight=0.0))
    return job


def train_seeds(
    seeds: int | str,
    model: str,
    recipe: str | Path = "quick",
    run: str | None = None,
    overrides: Sequence[str] = (),
    how: Callable[..., Path] | None = None,
    again: int | str = 1,
    callbacks: Sequence[Callback] = (),
    tensorboard: bool = False,
    **options: Any,
) -> list[Path]:
    """`train`, or `how` in its place, with several seeds: the recipe's, the next, ...; returns the Runs' folders.

    The runs are <run>, <run>-seed1, <run>-seed2, ... and differ in nothing else, by which `make blend` knows them for
    one member. options: of `train`.

    callbacks    as for `train`; they are told of the epochs of all these runs
    tensorboard  write curves for TensorBoard into each run's folder as well (tensorboard.TensorBoard)
    again        0 or 1. With one seed and all folds done, 1 trains the first fold once more with the next seed, where
                 only that tells the forecast what averaging the fold models gains. A call that is stopped there, or
                 that cannot do it, has lost nothing of the run, and the same call goes on with it.
    """
    callbacks = check_callbacks(callbacks)
    options["callbacks"] = (*callbacks, TensorBoard()) if tensorboard else callbacks
    count, again = whole_number("SEEDS", seeds, 1, 100), whole_number("AGAIN", again, 0, 1)
    how, seed = how or train, read_recipe(recipe, overrides).seed

    def train_seed(i, **more):
        return how(
            model,
            recipe=recipe,
            run=f"{folders[0].name}-seed{i}",
            overrides=[*overrides, f"seed={seed + i}"],
            **{key: value for key, value in options.items() if key != "scorer"} | more,  # it was asked for the first
        )

    if how is train and read_workers(options.get("workers"), options.get("cluster")):
        first = read_job(model, recipe=recipe, run=run, overrides=overrides, **options)
        return _train_at_once(first, count, again, seed, model, recipe, overrides, options)
    folders = [how(model, recipe=recipe, run=run, overrides=overrides, **options)]
    folders += [train_seed(i) for i in range(1, count)]
    if count == 1 and again and _wants_another_seed(folders[0]):
        print(
            f"\n{folders[0]} is done. Its first fold once more, with another seed, tells the forecast what averaging the "
            "fold models gains (AGAIN=0 leaves this out)",
            flush=True,
        )
        try:
            folders.append(train_seed(1, only_fold=0))
            print(f"{folders[0]} is whole, and the forecast needs no other fold of {folders[1]}")
        except files.NoRoom:
            raise
        except InputError as error:
            files.warn(f"{error}. {folders[0]} is whole without it; AGAIN=0 leaves it out")
    return folders


def _train_at_once(first, count, again, seed, model, recipe, overrides, options):
    """train_seeds of a first Job that has workers: these train the folds of all runs side by side."""

    def read_seed(i, **more):
        run, values = f"{first.folder.name}-seed{i}", [*overrides, f"seed={seed + i}"]
        others = {key: value for key, value in options.items() if key != "scorer"}  # it was asked for the first
        return read_job(model, recipe=recipe, run=run, overrides=values, **others | more)

    jobs = [first, *(read_seed(i) for i in range(1, count))]
    alone = count == 1 and options.get("only_fold") in (None, "")
    if alone and again and first.recipe.epochs and not first.folder.name.startswith(STUDY_RUN):
        try:
            jobs.append(replace(read_seed(1, only_fold=0), spare=True))
            print(
                f"{first.folder}: its first fold is trained once more, with another seed. This tells the forecast what "
                "averaging the fold models gains (AGAIN=0 leaves this out)",
                flush=True,
            )
        except InputError as error:
            files.warn(f"{error}. {first.folder} is whole without it; AGAIN=0 leaves it out")
    return train_tables(jobs)


def _wants_another_seed(folder):
    """Whether a run is done and the forecast cannot measure by heads what averaging its fold models gains."""
    record = files.read_json(folder / RUN_JSON)
    by_heads = plain_heads(record) and record["config"]["folds"] > 2  # train_apart leaves out two
    return record["finished"] and not by_heads and not folder.name.startswith(STUDY_RUN)  # which never blend
