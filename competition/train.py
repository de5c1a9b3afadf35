"""Train one model on all folds and save its OOF predictions.

A fold is trained in up to two phases. First the backbone is frozen and the heads of all folds learn together on its
features, which are computed once; then everything trains, one fold after the other, in one compiled model that is set
back to its start before each of them, so that no fold knows of another. Either phase may have no epochs.

After every epoch all that the rest depends on (weights, optimizer, best epoch, history) is written in one step, to
`heads.npz` or `fold_<k>/state.npz`, and what is drawn at random follows from seed, fold, phase and epoch: a run that
was killed goes on from its last finished epoch as if nothing had happened.
"""

import json
import queue
import threading
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from competition import device, files, heads, oof
from competition.arrays import Joined, Room, Rows, held, read_memory
from competition.classifier import build_classifier, build_recipe_backbone, set_head
from competition.augment import build_policy, draw_numbers, mix_pairs
from competition.backbones import Weights
from competition.features import MS, predict, time_of, use_xla
from competition.files import InputError
from competition.folds import read_folds, whole_number
from competition.frozen import class_copies, copies_features, frozen_features, open_shelf
from competition.fuse import fuse_batchnorm
from competition.images import load_images, warn_of_others
from competition.job import Job
from competition.metrics import find_metric, say_scores
from competition.runs_folder import BACKBONE_FILE, HEAD_FILE, HEADS_STATE, MODEL_FILE
from competition.runs_folder import fold_dir as _fold_dir
from competition.runs_folder import is_done as _is_done
from competition.runs_folder import is_whole as _is_whole
from competition.runs_folder import load as _load
from competition.runs_single import read_head as _read_head
from competition.runs_single import write_head as _write_head

from competition.progress import (
    STATE,
    Progress,
    history_row,
    read_fold_state,
    read_or_anew,
    write_epoch,
    write_fold_state,
    write_history,
)
from competition.recipes import MIXTURES, read_recipe
from competition.record import locked, open_run_record
from competition.settle import settle, size_inside
from competition.views import VIEWS
from competition.workspace import STUDY_RUN, Workspace, check_run_name

GROWTH = 0.5, 0.75  # shares of the full side at which `progressive` begins; each is a graph of its own


def train(model, recipe="quick", name=None, weights="imagenet", run=None, only_fold=None, overrides=(), memory=None,
          after_epoch=None, teacher=None, pseudo=None, workspace=Workspace()):
    """Train `model` with `recipe` on the folds of the table `name`; returns the Run's folder.

    weights    "imagenet", "none", a file or a folder (backbones.resolve_weights)
    run        name of the run; default <model>-<recipe>
    only_fold  train just this fold, or these ("0,2"); the OOF is written by whichever call trains the last missing one
    overrides  "key=value" strings that replace keys of the recipe
    memory     "4G", what the process may take; images and features that are too much for it are read from disk as
               they are needed, which changes nothing in the result; default: half of what is available
    teacher    "blend", or finished runs ("a,b"), whose fold models say what to learn of the images that they saw as well
    pseudo     a folder or zip of unlabelled images, some of which join the training folds with the labels that those
               models (default: of the blend) give; see teach.py for both
    workspace  where the table lies and the run is written; default: the current folder
    after_epoch  called without arguments after each epoch of the second phase, when all of it is on disk; what it
               raises ends the training there, and the same call goes on with it

    Raises InputError for anything that cannot be used, and for a run folder made from another config, fold table or
    other images.
    """
    memory = read_memory(memory)
    table = read_folds(name, workspace)
    device.make_repeatable()
    settled = settle(table, model, weights, recipe, overrides)
    settled.size_inside()  # refuses before a run is begun
    folds = fold_numbers("ONLY_FOLD", only_fold, table)
    kind = "-distilled" * bool(teacher) + "-pseudo" * bool(pseudo)
    folder = table.paths.run(check_run_name(run or f"{model}-{Path(recipe).stem}{kind}"))
    job = Job(folder, table, model, settled.weights, settled.recipe, folds, memory, after_epoch)
    if kind:
        from competition.teach import read_teaching  # which imports this module

        job = replace(job, teaching=read_teaching(table, teacher, pseudo))
        if not teacher:
            job = replace(job, recipe=replace(job.recipe, teacher_weight=0.0))
    return train_table(job)


def train_seeds(seeds, model, recipe="quick", run=None, overrides=(), how=None, again=1, **options):
    """`train`, or `how` in its place, with several seeds: the recipe's, the next, ...; returns the Runs' folders.

    The runs are <run>, <run>-seed1, <run>-seed2, ... and differ in nothing else, by which `make blend` knows them for
    one member. options: of `train`.

    again   0 or 1. With one seed and all folds done, 1 trains the first fold once more with the next seed, where only
            that tells the forecast what averaging the fold models gains. A call that is stopped there, or that cannot
            do it, has lost nothing of the run, and the same call goes on with it.
    """
    count, again = whole_number("SEEDS", seeds, 1, 100), whole_number("AGAIN", again, 0, 1)
    how, seed = how or train, read_recipe(recipe, overrides).seed

    def train_seed(i, **more):
        return how(model, recipe=recipe, run=f"{folders[0].name}-seed{i}", overrides=[*overrides, f"seed={seed + i}"],
                   **options | more)

    folders = [how(model, recipe=recipe, run=run, overrides=overrides, **options)]
    folders += [train_seed(i) for i in range(1, count)]
    if count == 1 and again and _wants_another_seed(folders[0]):
        print(f"\n{folders[0]} is done. Its first fold once more, with another seed, tells the forecast what averaging the "
              "fold models gains (AGAIN=0 leaves this out)", flush=True)
        try:
            folders.append(train_seed(1, only_fold=0))
            print(f"{folders[0]} is whole, and the forecast needs no other fold of {folders[1]}")
        except InputError as error:
            files.warn(f"{error}. {folders[0]} is whole without it; AGAIN=0 leaves it out")
    return folders


def _wants_another_seed(folder):
    """Whether a run is done and the forecast cannot measure by heads what averaging its fold models gains."""
    from competition.forecast import plain_heads  # which imports blend, which the commands before it can do without

    record = files.read_json(folder / "run.json")
    by_heads = plain_heads(record) and record["config"]["folds"] > 2  # train_apart leaves out two
    return record["finished"] and not by_heads and not folder.name.startswith(STUDY_RUN)  # which never blend


def train_table(job):
    """Train the folds of a Job, write the OOF once all folds of its table are done, and return the run's folder."""
    folder, table, settings = job.folder, job.table, job.recipe
    config = {
        "model": job.model,
        "weights": job.weights.sha256,  # None: random
        "recipe": asdict(settings),
        "classes": table.classes,
        "size": list(table.size),
        "folds": table.k,
    } | find_metric(table.metric).chooses(settings.patience)
    if settings.synthetic:
        from competition.gan import check_synthetic  # which imports this module

        config["gan"] = check_synthetic(table.whole or table, job.folds)
    if job.teaching:
        config |= job.teaching.config
    with locked(folder):
        record = open_run_record(folder, table, config, settings)
        if record["finished"] and _is_whole(folder, table, settings):
            print(f"{folder}: finished before, nothing to do")
        else:
            settings = replace(settings, precision=record.get("precision", "float32"))  # that it was begun with
            _train_folds(replace(job, recipe=settings))
            if all(_is_done(folder, k, settings) for k in range(table.k)):
                finish_run(folder, table, settings, record)
        print_folds(folder, table, [fold for fold in range(table.k) if _is_done(folder, fold, settings)])
    return folder


def _read_head_progress(run_dir, fold):
    """The Progress that a fold has made when its head is trained."""
    def read(path):
        with np.load(path) as saved:
            history = tuple(json.loads(str(saved["history"])))
            return Progress(epoch=len(history), best_epoch=int(saved["best_epoch"]), history=history)

    return _load(read, _fold_dir(run_dir, fold) / HEAD_FILE)


# ------------------------------------------------------------------------------------------------ the record of a run



def fold_numbers(variable, folds, table):
    """The folds that "0,2" or a number names, all for None; InputError, naming the variable, for what is none."""
    known = [str(fold) for fold in range(table.k)]
    named = known if folds is None else [fold.strip() for fold in str(folds).split(",")]
    if not set(named) <= set(known):
        raise InputError(f"{variable}={folds}: expected a number from 0 to {table.k - 1}, or several: 0,1")
    return [int(fold) for fold in dict.fromkeys(named)]


# ------------------------------------------------------------------------------------------------------------- models


def _layer_rates(model, settings):
    """{variable path: share of the rate}: layer_decay for the first layer, 1 for the head, geometric between."""
    layers = [layer for layer in model.get_layer("backbone").layers if layer.trainable_variables]
    return {
        variable.path: settings.layer_decay ** (1 - position / len(layers))
        for position, layer in enumerate(layers)
        for variable in layer.trainable_variables
    }


def _compile(model, weight_decay, label_smoothing, rates, ema=0.0):
    import keras
    from keras import ops

    class LayerwiseAdamW(keras.optimizers.Adam):
        """AdamW (Loshchilov and Hutter 2019) with a share of the learning rate for each variable, for the decay of its
        weights too: at the rate of the last layer the first ones would shrink with nothing to hold against it."""

        def update_step(self, gradient, variable, learning_rate):
            index = self._get_variable_index(variable)
            rate = learning_rate * shares[index]
            if decays[index]:
                self.assign_sub(variable, variable * ops.cast(decays[index], variable.dtype)
                                * ops.cast(rate, variable.dtype))
            super().update_step(gradient, variable, rate)

    shares = [rates.get(variable.path, 1.0) for variable in model.trainable_variables]
    decays = [0 if any(word in variable.name for word in ("bias", "gamma", "beta")) else weight_decay
              for variable in model.trainable_variables]
    optimizer = LayerwiseAdamW(learning_rate=0.0, beta_1=heads.BETA_1, beta_2=heads.BETA_2, epsilon=heads.EPSILON,
                               use_ema=ema > 0, ema_momentum=ema)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=use_xla())
    optimizer.build(model.trainable_variables)


# -------------------------------------------------------------------------------------------------------- the training


class Phase:
    """The second phase: one compiled model that every fold trains in turn.

    `batches(fold, epoch)` yields float32 inputs, float32 targets and the weights of their images, always as many rows.
    `smaller` are the same network for smaller images, in whose place they train in the first `small` epochs.
    """

    def __init__(self, model, epochs, rate_of, batches, smaller=(), small=0):
        self.model, self.epochs = model, epochs
        self.rate_of, self.batches = rate_of, batches
        self.smaller, self.small = smaller, small
        self.start = self.read()

    @property
    def variables(self):
        return _variables(self.model)

    def read(self):
        return [np.asarray(variable).copy() for variable in self.variables]

    def write(self, values):
        """Set the first variables to `values`: the model's come first, so that these alone may be given."""
        for variable, value in zip(self.variables, values):
            variable.assign(value)

    def read_model(self):
        return [np.asarray(variable).copy() for variable in self.model.variables]

    def average(self):
        """Give the model the moving average of its weights where the recipe keeps one; returns those before."""
        if not self.model.optimizer.use_ema:
            return []
        before = self.read_model()
        self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
        return before

    def train_epoch(self, fold, epoch, steps, tick):
        """Train one epoch (0-based); mean loss and accuracy over its batches."""
        from keras import ops

        model, sums = self.model, np.zeros(2)
        if epoch < self.small:
            model = self.smaller[epoch * len(self.smaller) // self.small]
            _copy_variables(self.model, model)
        for step, (inputs, targets, weights) in enumerate(_prefetch(self.batches(fold, epoch)), 1):
            model.optimizer.learning_rate = self.rate_of((epoch * steps + step) / (self.epochs * steps))
            if model is not self.model:
                inputs = ops.image.resize(inputs, model.input_shape[1:3], antialias=True)
            sums += model.train_on_batch(inputs, targets, weights)
            tick(1 / steps, *sums / step)
        if model is not self.model:
            _copy_variables(model, self.model)
        return sums / steps


def _variables(model):
    return model.variables + model.optimizer.variables


def _copy_variables(model, other):
    for old, new in zip(_variables(other), _variables(model), strict=True):
        old.assign(new)


def start_keras(seed):
    """Seed Keras, and let TensorFlow give the same on the same CPU each time."""
    import keras

    device.make_repeatable()
    keras.utils.clear_session(free_memory=False)  # names begin anew: TensorFlow orders a sum by them
    keras.utils.set_random_seed(seed)


def _train_folds(job):
    """Train those folds of a Job that are not done."""
    folder, table, settings = job.folder, job.table, job.recipe
    job = replace(job, folds=[fold for fold in job.folds if not _is_done(folder, fold, settings)])
    if not job.folds and (settings.epochs or (folder / BACKBONE_FILE).exists()):
        return
    start_keras(settings.seed)
    whole = table.whole or table  # whose images and features serve all parts
    warn_of_others(whole)
    images = table.take(every := load_images(whole, job.memory))
    taught = _taught(job, images)
    backbone = build_recipe_backbone(job.model, table.size, settings, job.weights)
    if settings.frozen_epochs:
        fused = fuse_batchnorm(backbone)  # half as fast again
        room = Room(job.memory and job.memory.features)
        found = frozen_features(whole, settings, job.model, job.weights, every, fused, room)
        features, pool = ([table.take(part) for part in parts] for parts in found)
    if not settings.epochs:
        files.write_with(folder / BACKBONE_FILE, backbone.save_weights)
    # where all layers train as well, the heads take no time worth a place on the bar
    with tqdm(total=len(job.folds) * (settings.epochs or settings.frozen_epochs), desc=folder.name, unit="epoch",
              bar_format=BAR) as bar:
        if settings.frozen_epochs:
            for some, lesson in _lessons(job, features[0], pool, images, taught, fused, room):
                _train_heads(some, lesson, bar)
                del lesson  # whose features make room for those of the next
        if settings.epochs:
            _train_whole(job, images, taught, backbone.get_weights(), bar)
        else:
            _save_heads(job, features)


def _lessons(job, plain, pool, images, taught, fused, room):
    """The Lesson of all folds, or one for each that has images of its own: pairs of a Job of these folds and a Lesson.

    plain, pool   features of the Job's images, as in a Lesson
    images        uint8 [n, h, w, 3], these images
    taught        {fold: Taught}
    fused, room   as of frozen_features
    """
    table, settings, model, weights = job.table, job.recipe, job.model, job.weights
    if not (settings.synthetic or job.teaching):
        yield job, Lesson(plain, pool, copies_features(table, settings, model, weights, images, fused, room))
        return
    for fold, one in taught.items():
        own, left = pool, Room(room.left)  # what a fold's own take ends with it
        for source, pictures, rows in one.behind:
            found = frozen_features(source, settings, model, weights, pictures, fused, left)[1]
            own = [Joined(values, Rows(more, rows)) for values, more in zip(own, found)]
        copies = copies_features(one.table, settings, model, weights, one.images, fused, left)
        yield replace(job, table=one.table, folds=[fold]), Lesson(plain, own, copies, one.soft)


def _train_whole(job, images, taught, start, bar):
    """Train everything, one fold after the other, from the backbone's weights `start`; writes what each fold leaves."""
    table, settings = job.table, job.recipe
    phase = _build_phase(job, images, taught, start)
    scored = _build_scored(job, phase)
    for fold in job.folds:
        directory = _fold_dir(job.folder, fold)
        progress = _train_fold(job, taught[fold], phase, fold, bar)
        held_out, taken = np.flatnonzero(table.fold == fold), []
        if scored is not phase.model:
            scored.set_weights(phase.model.get_weights())
        views = {view: _probabilities(scored, Rows(images, held_out, VIEWS[view]), taken) for view in settings.views}
        files.write_with(directory / MODEL_FILE, phase.model.save_weights)
        save_fold(directory, table, fold, progress, views, min(taken))


def _save_heads(job, features):
    """Write what each fold leaves where heads are all that is trained; features of the TTA views, a list of [n, d]."""
    table, settings, folder = job.table, job.recipe, job.folder
    whole = table.whole or table
    took = time_of(open_shelf(whole, settings, job.model, job.weights, whole.frame["sha256"].array))
    for fold in job.folds:
        head, progress = _read_head(folder, fold), _read_head_progress(folder, fold)
        views = {view: heads.predict_heads(head, Rows(features[i], np.flatnonzero(table.fold == fold)))
                 for i, view in enumerate(settings.views)}
        save_fold(_fold_dir(folder, fold), table, fold, progress, views, took)


class Taught(NamedTuple):
    """What a fold is trained by."""

    table: object  # a FoldTable
    images: object  # uint8 [n, h, w, 3]
    soft: np.ndarray | None = None  # float32 [n, C]: what to learn of each in place of its label
    behind: tuple = ()  # what came after the images of the run's table: a FoldTable, its images, and rows of these


class Lesson(NamedTuple):
    """What heads are trained by: features, with what belongs to them."""

    plain: object  # float32 [n, d], of the images as they are: what they are validated on
    pool: list  # of float32 [n, d], one for each copy or view: what they are trained on
    copies: object  # an augment.Copies
    soft: np.ndarray | None = None  # float32 [n, C], see Taught


def _taught(job, images):
    """{fold: Taught}: its own where images are generated or there is a teacher, also for interrupted heads."""
    table, settings = job.table, job.recipe
    if not (settings.synthetic or job.teaching):
        return dict.fromkeys(job.folds, Taught(table, images))
    taught = dict.fromkeys([*_read_heads(job.folder)[0], *job.folds], Taught(table, images))
    if settings.synthetic:
        from competition.gan import add_synthetic

        for fold in taught:
            more, joined = add_synthetic(table, images, fold, settings.synthetic)
            made = replace(more, frame=more.frame.iloc[len(table.frame):])
            taught[fold] = Taught(more, joined, behind=((made, joined.second, np.arange(len(joined.second))),))
    if job.teaching:
        if job.memory:  # unlabelled images take what those of the table leave of their half
            job = replace(job, memory=replace(job.memory, total=max(0, job.memory.total - 2 * held(images))))
        taught = job.teaching.teach(job, images, taught)
    start_keras(settings.seed)  # generators and teachers, as many as there are folds left, drew random numbers
    return taught


BAR = "{desc} {percentage:3.0f}%|{bar:20}| {n:.1f}/{total_fmt} epochs [{elapsed}<{remaining}{postfix}]"


def _train_heads(job, lesson, bar):
    """The first phase: train the heads of those folds that have none yet; those that were interrupted first."""
    folder, settings = job.folder, job.recipe

    def headless(folds):
        return [fold for fold in folds if not (_fold_dir(folder, fold) / HEAD_FILE).exists()]

    interrupted, state, seconds = _read_heads(folder)
    if going := headless(interrupted):
        state = state.of([interrupted.index(fold) for fold in going])
        _train_heads_of(replace(job, folds=going), lesson, state, seconds, bar)
    if fresh := headless(job.folds):
        state = heads.start_heads(1, len(fresh), lesson.plain.shape[-1], len(job.table.classes), settings.head,
                                  settings.seed)
        _train_heads_of(replace(job, folds=fresh), lesson, state, [], bar)
    (folder / HEADS_STATE).unlink(missing_ok=True)
    if not settings.epochs:
        # what was done before, and what an early stop spared
        bar.update(max(0, len(job.folds) * settings.frozen_epochs - bar.n))


def _train_heads_of(job, lesson, state, seconds, bar):
    """Train the heads of a Job's folds together, from their state on."""
    folder, table, settings, folds = job.folder, job.table, job.recipe, job.folds
    metric, names = find_metric(table.metric), [oof.held_out(table, fold) for fold in folds]
    while len(state.log) < settings.frozen_epochs and not (stopped := state.stopped(settings.patience)[0]).all():
        before = time.time()
        probabilities = heads.train_epoch(state, [settings], lesson.pool, lesson.plain, table.labels, table.fold, folds,
                                          lesson.copies, lesson.soft, metric)
        for f, fold in enumerate(folds):
            if not stopped[f]:
                write_epoch(_fold_dir(folder, fold), len(state.log), names[f], probabilities[f][0])
        seconds = [*seconds, round((time.time() - before) / len(folds), 3)]
        files.write_npz(folder / HEADS_STATE, folds=folds, seconds=seconds, **state.arrays())
        for f, fold in enumerate(folds):
            write_history(_fold_dir(folder, fold), _heads_history(state, seconds, f, settings))
        bar.set_postfix_str(f"frozen loss {state.log[-1, 0, :, 0].mean():.3f} acc {state.log[-1, 0, :, 1].mean():.3f} "
                            f"val {metric.sign * state.best_score[0, :, 0].mean():.3f}", refresh=False)
        bar.update(0 if settings.epochs else len(folds))
    for f, fold in enumerate(folds):
        history = _heads_history(state, seconds, f, settings)
        write_history(_fold_dir(folder, fold), history)
        _write_head(_fold_dir(folder, fold) / HEAD_FILE, [matrices[0] for matrices in state.best_of(f)],
                    history=np.array(json.dumps(history)), best_epoch=state.best_epoch[0, f])


def _heads_history(state, seconds, f, settings):
    epochs = len(state.log)
    if settings.patience:
        epochs = min(epochs, state.best_epoch[0, f] + settings.patience)
    return [history_row(epoch + 1, "frozen", *state.log[epoch, 0, f], seconds[epoch]) for epoch in range(epochs)]


def _read_heads(folder):
    """Of an interrupted frozen phase: its folds, their Heads and the seconds of its epochs."""
    def read(saved):
        return saved["folds"].tolist(), heads.read_heads(saved), saved["seconds"].tolist()

    found = read_or_anew(folder / HEADS_STATE, read, "the frozen phase")
    # the user removed none
    whole = found and all((_fold_dir(folder, fold) / "epochs" / "001.npz").exists() for fold in found[0])
    return found if whole else ([], None, [])


def _build_phase(job, images, taught, start):
    """The second phase, in which everything trains, from the backbone's weights `start`."""
    table, settings, model = job.table, job.recipe, job.model

    def build(table, settings):
        with device.layers_of(settings.precision):
            built = build_classifier(model, table.size, len(table.classes), settings, Weights("none"))
        _compile(built, settings.weight_decay, settings.label_smoothing, _layer_rates(built, settings), settings.ema)
        return built

    whole = build(table, settings)
    whole.get_layer("backbone").set_weights(start)
    small, smaller = round(settings.progressive * settings.epochs), []
    if small:
        full = size_inside(model, table, settings)
        sizes = [tuple(max(1, round(share * side)) for side in full) for share in GROWTH]
        smaller = [build(replace(table, size=size), replace(settings, image_size=0, least_size=0)) for size in sizes]
        if any([v.shape for v in _variables(other)] != [v.shape for v in _variables(whole)] for other in smaller):
            raise InputError(f"progressive is {settings.progressive:g}, expected 0: the number of weights of {model} "
                             "depends on the size of its images")
    share = heads.schedule(settings.schedule, settings.warmup)
    batches = _batches_of(settings, images, taught)
    return Phase(whole, settings.epochs, lambda done: settings.rate * share(done), batches, smaller, small)


def _batches_of(settings, images, taught):
    """A function from fold and epoch to the batches of that epoch, which Phase describes."""
    shares = {key: getattr(settings, key) for key in MIXTURES}
    patch = settings.cutmix_least, settings.cutmix_most
    policy = settings.augment if settings.augment_phases != "frozen" else []
    apart = any(one.images is not images for one in taught.values())
    on_device = None if apart else _draw_on_device(settings, policy, images)

    def batches(fold, epoch):
        table, images, soft, _ = taught[fold]
        targets = np.eye(len(table.classes), dtype=np.float32)
        random = _random(settings, fold, epoch)
        copies = class_copies(table, settings)
        labels = table.labels[copies.sources]
        draw_batch = on_device or _draw_here(policy, settings.oversample_augment, copies, images)
        draw = draw_batch(random.integers(2**31))
        mixing = epoch < settings.epochs - settings.plain_epochs and any(shares.values())
        numbers = draw_numbers(copies, table.labels, table.fold, fold, random)
        class_weight = heads.weigh_classes(settings.class_weight, labels[numbers], len(table.classes))
        for part in _in_batches(numbers, settings.batch_size, random):
            inputs, truth = draw(part), targets[labels[part]]
            if soft is not None:  # mixed as the labels are, by which a class still counts
                truth = np.concatenate([truth, soft[copies.sources[part]]], 1)
            if mixing:
                inputs, truth = mix_pairs(inputs, truth, random, **shares, patch=patch)
            yield inputs, truth[:, -len(targets):], truth[:, : len(targets)] @ class_weight

    return batches


def _build_scored(job, phase):
    """The model that OOF predictions come from: in float32, as the zip computes, whatever training computes in."""
    if job.recipe.precision == "float32":
        return phase.model
    plain = replace(job.recipe, batchnorm="train")
    return build_classifier(job.model, job.table.size, len(job.table.classes), plain, Weights("none"))


def _draw_here(policy, copy_policy, copies, images):
    """seed -> a function from numbers (see augment.Copies) to augmented images, float32 [b, h, w, 3]."""
    def start(seed):
        augment, augment_copy = build_policy(policy, seed), build_policy(copy_policy, seed + 1)
        return lambda numbers: np.stack([
            augment(augment_copy(image) if number >= len(images) else image)
            for number, image in zip(numbers, images[copies.sources[numbers]])
        ]).astype(np.float32)

    return start


def _draw_on_device(settings, policy, images):
    """The same on a GPU, None where there is none or where it cannot be done there."""
    if not device.has_gpu() or settings.oversample_count or any(getattr(settings, key) for key in MIXTURES):
        return None
    draw = device.keep_on_device(images, policy)
    return draw and (lambda seed: partial(draw, device.draw_transforms(policy, seed)))


def _train_fold(job, taught, phase, fold, bar):
    """The second phase of one fold, to its end, from wherever its state says it is; returns its Progress.

    taught   the fold's own, a Taught
    """
    directory, table, images, settings = _fold_dir(job.folder, fold), taught.table, taught.images, job.recipe
    held_out = table.fold == fold
    labels, names, metric = table.labels[held_out], oof.held_out(table, fold), find_metric(table.metric)
    validation = Rows(images, np.flatnonzero(held_out))
    steps = _steps(table, fold, settings)
    progress, variables, best = read_fold_state(directory) or (Progress(), phase.start, [])
    phase.write(variables)
    bar.update(progress.epoch)
    if settings.frozen_epochs and not progress.epoch:
        set_head(phase.model, _read_head(directory.parent, fold))
        progress.history = _read_head_progress(directory.parent, fold).history
    write_history(directory, progress.history)  # a kill may have come between the state and its line
    while progress.epoch < phase.epochs and not _is_stopped(settings, progress):

        def tick(share, loss, accuracy):
            bar.update(min(share, bar.total - bar.n))  # sums of shares may come to a little more than 1
            reached = f" val {metric.sign * progress.best_score[0]:.3f}" if progress.best_epoch else ""
            bar.set_postfix_str(f"fold {fold} loss {loss:.3f} acc {accuracy:.3f}{reached}", refresh=False)

        before = time.time()
        loss, accuracy = phase.train_epoch(fold, progress.epoch, steps, tick)
        going = phase.average()
        probabilities = _probabilities(phase.model, validation)
        quality = metric.quality(probabilities, labels)
        progress.epoch += 1
        if not settings.patience or not progress.best_epoch or quality > tuple(progress.best_score):
            progress.best_epoch, progress.best_score = progress.epoch, quality
            best = phase.read_model() if settings.patience else []
        phase.write(going)
        row = history_row(len(progress.history) + 1, "full", loss, accuracy, -quality[1],
                           oof.accuracy(probabilities, labels), time.time() - before)
        progress.history = (*progress.history, row)
        write_epoch(directory, row["epoch"], names, probabilities)
        write_fold_state(directory, progress, phase.read(), best)
        write_history(directory, progress.history)
        if job.after_epoch:
            job.after_epoch()
    bar.total -= phase.epochs - progress.epoch
    phase.average()
    if best:
        phase.write(best)
    return progress


def _probabilities(model, images, taken=None):
    return heads.softmax(predict(model, images, taken=taken))[0]


def _is_stopped(settings, progress):
    return settings.patience and progress.epoch - progress.best_epoch >= settings.patience and progress.epoch > 0


def save_fold(directory, table, fold, progress, views, took=None):
    """Write what a finished fold leaves besides weights: its validation predictions a view, and fold.json, its end.

    took   milliseconds that its network takes for an image; None where that is not known
    """
    oof.write_fold(directory, table, fold, views)
    labels = table.labels[table.fold == fold]
    files.write_json(directory / "fold.json", {
        "images": len(labels),
        "epochs": len(progress.history),
        "best_epoch": len(progress.history) - progress.epoch + progress.best_epoch,
        "accuracy": oof.accuracy(views["identity"], labels),
        "log_loss": oof.log_loss(views["identity"], labels),
        "seconds": round(sum(row["seconds"] for row in progress.history), 1),
    } | ({} if took is None else {MS: round(took, 3)}))
    (directory / STATE).unlink(missing_ok=True)


def finish_run(folder, table, settings, record):
    """All folds are there: write the OOF of every view, then mark the run as finished."""
    probs = {view: np.zeros((len(table.labels), len(table.classes)), np.float32) for view in settings.views}
    for fold in range(table.k):
        for view, values in oof.read_fold(_fold_dir(folder, fold), table, fold).items():
            probs[view][table.fold == fold] = values
    record = record | {"finished": True, "accuracy": oof.accuracy(probs["identity"], table.labels)}
    for name, score in find_metric(table.metric).beside(probs["identity"], table.labels).items():
        record |= {"metric": name, "score": score}
    oof.write_oof(folder, table, probs)
    files.write_json(folder / "run.json", record)


def print_folds(folder, table, done):
    """Print a table of the folds that are done, and of a finished run the accuracy a class and the confusion matrix."""
    metric, rows, by_class = find_metric(table.metric), [], []
    for fold in done:
        probs, labels = oof.read_fold(_fold_dir(folder, fold), table, fold)["identity"], table.labels[table.fold == fold]
        rows.append({"fold": fold} | files.read_json(_fold_dir(folder, fold) / "fold.json") | metric.beside(probs, labels))
        by_class.append([fold, *oof.per_class_accuracy(probs, labels)])
    frame = pd.DataFrame(rows)
    print("\n" + frame.to_string(index=False, float_format="{:.4f}".format))
    by_class = pd.DataFrame(by_class, columns=["fold", *table.classes])
    print("\naccuracy of each class\n" + by_class.to_string(index=False, float_format="{:.3f}".format))
    if len(rows) < table.k:
        missing = [str(fold) for fold in range(table.k) if fold not in done]
        print(f"folds still to train before there is an OOF: {', '.join(missing)}")
        return
    probabilities = oof.read_oof(folder, table).probs[0]
    predicted, scored = probabilities.argmax(1), say_scores(metric.beside(probabilities, table.labels))
    confusion = oof.confusion(probabilities, table.labels)
    matrix = pd.DataFrame(confusion, index=table.classes, columns=table.classes)
    matrix.insert(0, "accuracy", oof.per_class_accuracy(probabilities, table.labels), allow_duplicates=True)
    matrix.index.name = "true \\ predicted"
    print("\n" + matrix.to_string(float_format="{:.3f}".format))
    print(f"\n{folder}: OOF accuracy {np.mean(predicted == table.labels):.4f}, log-loss "
          f"{oof.log_loss(probabilities, table.labels):.4f}{scored}, {frame['seconds'].sum():.0f} s of epochs")


# ------------------------------------------------------------------------------------------------------ small helpers


def _random(settings, fold, epoch):
    return np.random.default_rng([settings.seed, fold, 1, epoch])  # 0 stands for the frozen phase


def _steps(table, fold, settings):
    images = (table.fold != fold).sum() + class_copies(table, settings).needed[fold].sum()
    return max(1, int(images) // settings.batch_size)


def _in_batches(numbers, batch_size, random):
    """Batches of the numbers (see augment.Copies), shuffled: every batch is full, so that one trace serves them all.

    What is left over after the last full batch waits for another epoch; fewer images than a batch are repeated.
    """
    steps = max(1, len(numbers) // batch_size)
    return np.resize(random.permutation(numbers), steps * batch_size).reshape(steps, batch_size)


def _prefetch(batches, depth=4):
    """Draw batches in a thread of their own while the network works on those before."""
    ready = queue.Queue(depth)

    def draw():
        try:
            for batch in batches:
                ready.put(batch)
            ready.put(None)
        except BaseException as error:  # raised where the batches are used
            ready.put(error)

    threading.Thread(target=draw, daemon=True).start()
    while (batch := ready.get()) is not None:
        if isinstance(batch, BaseException):
            raise batch
        yield batch
