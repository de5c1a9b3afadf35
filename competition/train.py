"""Train one model on all folds and save its OOF predictions.

A fold is trained in up to two phases. First the backbone is frozen and the heads of all folds learn together on its
features, which are computed once; then everything trains, one fold after the other, in one compiled model that is set
back to its start before each of them, so that no fold knows of another. Either phase may have no epochs.

After every epoch all that the rest depends on (weights, optimizer, best epoch, history) is written in one step, to
`heads.npz` or `fold_<k>/state.npz`, and what is drawn at random follows from seed, fold, phase and epoch: a run that
was killed goes on from its last finished epoch as if nothing had happened.
"""

import fcntl
import json
import queue
import threading
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from competition import device, files, heads, oof
from competition.arrays import Joined, Room, Rows, held, read_memory
from competition.augment import build_policy, draw_numbers, mix_pairs
from competition.backbones import Weights, build_backbone, network_size, pretrained, resolve_weights
from competition.features import MS, predict, time_of, use_xla
from competition.files import InputError
from competition.folds import read_folds, whole_number
from competition.frozen import class_copies, copies_features, frozen_features, open_shelf
from competition.fuse import fuse_batchnorm
from competition.images import load_images, warn_of_others
from competition.metrics import find_metric, say_scores
from competition.recipes import MIXTURES, Recipe, read_recipe
from competition.views import VIEWS, usable_views
from competition.workspace import STUDY_RUN, Workspace, check_run_name

BACKBONE_FILE = "backbone.weights.h5"
MODEL_FILE = "model.weights.h5"
HEAD_FILE = "head.npz"
HEADS_STATE = "heads.npz"  # of the frozen phase, while it lasts
GROWTH = 0.5, 0.75  # shares of the full side at which `progressive` begins; each is a graph of its own
TRAIN_FORMAT = 5  # raise it when the same config trains to something else, so that no run ends otherwise than it began


@dataclass(frozen=True)
class Run:
    """A run as its folder records it."""

    dir: Path
    name: str
    config: dict
    recipe: Recipe
    frozen: bool  # only heads were trained: all folds share the backbone
    views: list[str]
    finished: bool


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
    chosen = resolve_weights(model, weights)
    settings = read_recipe(recipe, overrides, from_random=not pretrained(model, chosen))
    settings = fit_classes(table, fit_to_shape(table, settings))
    network_size(model, table.size, settings.image_size or None, settings.least_size)  # refuses before a run is begun
    folds = fold_numbers("ONLY_FOLD", only_fold, table)
    kind = "-distilled" * bool(teacher) + "-pseudo" * bool(pseudo)
    folder = table.paths.run(check_run_name(run or f"{model}-{Path(recipe).stem}{kind}"))
    teaching = None
    if kind:
        from competition.teach import read_teaching  # which imports this module

        teaching = read_teaching(table, teacher, pseudo)
        settings = settings if teacher else replace(settings, teacher_weight=0.0)
    return train_table(folder, table, settings, model, chosen, folds, memory, after_epoch, teaching)


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


def train_table(folder, table, settings, model, weights, folds, memory, after_epoch=None, teaching=None):
    """`train` on a FoldTable, which may be a part of one, with what `train` makes of its arguments.

    teaching   a teach.Teaching, where there is a teacher
    """
    config = {
        "model": model,
        "weights": weights.sha256,  # None: random
        "recipe": asdict(settings),
        "classes": table.classes,
        "size": list(table.size),
        "folds": table.k,
    } | find_metric(table.metric).chooses(settings.patience)
    if settings.synthetic:
        from competition.gan import check_synthetic  # which imports this module

        config["gan"] = check_synthetic(table.whole or table, folds)
    if teaching:
        config |= teaching.config
    with locked(folder):
        record = _open_record(folder, table, config, settings)
        if record["finished"] and _is_whole(folder, table, settings):
            print(f"{folder}: finished before, nothing to do")
        else:
            settings = replace(settings, precision=record.get("precision", "float32"))  # that it was begun with
            _train_folds(folder, table, settings, model, weights, folds, memory, after_epoch, teaching)
            if all(_is_done(folder, k, settings) for k in range(table.k)):
                _finish(folder, table, settings, record)
        _report(folder, table, [fold for fold in range(table.k) if _is_done(folder, fold, settings)])
    return folder


def read_run(run_dir, table):
    """The Run in a folder; InputError when it is none, or belongs to another fold table or other images.

    Predictions that were made elsewhere may have a record without a config: those have no models, and are no Run.
    """
    path = Path(run_dir) / "run.json"
    record = oof.read_run_record(run_dir)
    oof.check_hashes(path, table, record)
    if missing := [key for key in ("config", "frozen", "views", "finished") if record.get(key) is None]:
        raise InputError(f"{path}: found no {', '.join(missing)}, expected a run of `make train`: predictions that come "
                         "from elsewhere have no models to build, and can only be blended")
    return Run(Path(run_dir), Path(run_dir).name, record["config"], _read_settings(path, record["config"]),
               record["frozen"], record["views"], record["finished"])


def build_fold_model(run, table, fold):
    """The model of one fold with its best weights.

    Raw RGB float32 [n, h, w, 3], 0..255 -> probabilities float32 [n, classes].
    """
    import keras

    if "splits" in run.config:
        from competition import double  # which imports this module

        return double.build_fold_model(run, table, fold)
    model = build_logits(run, table, fold)
    return keras.Model(model.input, keras.layers.Softmax(dtype="float32")(model.output))


def build_logits(run, table, fold):
    """The same up to its logits float32 [n, classes]: the model whose weights a fold's MODEL_FILE holds."""
    # how BatchNormalization learnt is nothing to inference, and a plain model can be saved whole
    model = _build_model(run.config["model"], table, replace(run.recipe, batchnorm="train"), Weights("none"))
    if run.frozen:
        _load(model.get_layer("backbone").load_weights, run.dir / BACKBONE_FILE)
        _set_head(model, _read_head(run.dir, fold))
    else:
        _load(model.load_weights, _fold_dir(run.dir, fold) / MODEL_FILE)
    return model


def build_shared(run, table):
    """A frozen run's backbone [n, h, w, 3] -> [n, d], and the heads of its k folds.

    These are a list of a float32 [k, inputs + 1, outputs] for each layer; the last row is the bias. Of a double run
    they are those of double.build_shared.
    """
    if "splits" in run.config:
        from competition import double

        return double.build_shared(run, table)
    backbone = _build_backbone(run.config["model"], table, run.recipe, Weights("none"))
    _load(backbone.load_weights, run.dir / BACKBONE_FILE)
    return backbone, [np.stack(layer) for layer in zip(*(_read_head(run.dir, fold) for fold in range(table.k)))]


def _write_head(path, head, **more):
    """Write a list of float32 [inputs + 1, outputs], one for each layer, the last row its bias."""
    hidden = {f"hidden_{i}": matrix for i, matrix in enumerate(head[:-1])}
    files.write_npz(path, kernel=head[-1][:-1], bias=head[-1][-1], **hidden, **more)


def _read_head(run_dir, fold):
    """A fold's head as _write_head got it."""
    def read(path):
        with np.load(path) as saved:
            hidden = [saved[f"hidden_{i}"] for i in range(sum(name.startswith("hidden_") for name in saved.files))]
            return [*hidden, np.concatenate([saved["kernel"], saved["bias"][None]])]

    return _load(read, _fold_dir(run_dir, fold) / HEAD_FILE)


def _read_head_progress(run_dir, fold):
    """The Progress that a fold has made when its head is trained."""
    def read(path):
        with np.load(path) as saved:
            history = tuple(json.loads(str(saved["history"])))
            return Progress(epoch=len(history), best_epoch=int(saved["best_epoch"]), history=history)

    return _load(read, _fold_dir(run_dir, fold) / HEAD_FILE)


def _load(read, path):
    """What `read` makes of a file of weights; InputError naming it when it is broken."""
    try:
        return read(path)
    except Exception as error:  # h5py, zipfile and Keras raise about anything for a file that is not whole
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not the weights that this run wrote ({reason}); remove that file and train "
                         "the run again, which makes it anew") from None


# ------------------------------------------------------------------------------------------------ the record of a run

_WORDS = {"table": "fold table", "data": "set of images", "config": "config"}


def _fold_dir(folder, fold):
    return Path(folder) / f"fold_{fold}"


def _is_done(folder, fold, settings):
    """Whether a fold has all that a finished one leaves; if something was removed it is trained again, to the same."""
    weights = MODEL_FILE if settings.epochs else HEAD_FILE
    return all((_fold_dir(folder, fold) / name).exists() for name in (weights, "fold.json", "views.npz"))


def _is_whole(folder, table, settings):
    """Whether a finished run has all its files still."""
    shared = [] if settings.epochs else [BACKBONE_FILE]
    return all((folder / name).exists() for name in ["oof.csv", "oof.npz", *shared]) and all(
        _is_done(folder, fold, settings) for fold in range(table.k)
    )


def fold_numbers(variable, folds, table):
    """The folds that "0,2" or a number names, all for None; InputError, naming the variable, for what is none."""
    known = [str(fold) for fold in range(table.k)]
    named = known if folds is None else [fold.strip() for fold in str(folds).split(",")]
    if not set(named) <= set(known):
        raise InputError(f"{variable}={folds}: expected a number from 0 to {table.k - 1}, or several: 0,1")
    return [int(fold) for fold in dict.fromkeys(named)]


def fit_to_shape(table, settings):
    """The recipe without the views and policies that only square images can have, where the competition's are not."""
    height, width = table.size
    views = [view for view in settings.views if view in usable_views(table.size)]
    changed = {} if views == settings.views else {"views": views}
    for key in ("augment", "oversample_augment"):
        policies = getattr(settings, key)
        if height != width and "d4" in policies:
            flips = [flip for flip in ("hflip", "vflip") if flip not in policies]
            changed[key] = [*flips, *(policy for policy in policies if policy != "d4")]
    if changed:
        files.warn(f"images of {height}x{width} (height x width) are not square, so that quarter turns do not fit: "
                   + ", ".join(f"{key} = {','.join(names)}" for key, names in changed.items()))
    return replace(settings, **changed)


def fit_classes(table, settings):
    """The recipe with a weight for every class, in their order, where it gives weights by class name.

    Raises InputError for the name of a class that the table does not have.
    """
    given = settings.class_weight if isinstance(settings.class_weight, dict) else {}
    for key, named in (("class_weight", given), ("oversample_classes", settings.oversample_classes)):
        if unknown := [name for name in named if name not in table.classes]:
            raise InputError(f"{key} names {unknown[0]!r}, expected classes of {table.paths.csv}: "
                             f"{', '.join(table.classes)}")
    return replace(settings, class_weight={name: given.get(name, 1.0) for name in table.classes}) if given else settings


class locked:
    """Two processes must not be at work on the same run. The lock goes with its process, however that ends."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = open(self.folder / ".lock", "a")  # "w" would change the time of a finished run's file
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.file.close()
            raise InputError(f"{self.folder}: another process is at work there") from None
        files.remove_partial(self.folder)

    def __exit__(self, *_):
        self.file.close()


def _open_record(folder, table, config, settings):
    """The content of run.json, written now if the run is new; InputError when it was begun from something else."""
    path = folder / "run.json"
    if any((*folder.glob("fold_*/*"), *folder.glob("node_*/*"), *folder.glob(HEADS_STATE))):  # else nothing to mix
        record = oof.read_run_record(folder)
        record["config"]["recipe"] = asdict(_read_settings(path, record["config"]))
        for key, now in (("data", table.data_hash), ("table", table.hash), ("config", config)):
            if record.get(key) != now:
                difference = _difference(record.get(key), now) if key == "config" else f"another {_WORDS[key]}"
                raise InputError(
                    f"{path}: this run was begun with {difference}; take another name (RUN=), or remove {folder}"
                )
        if not record["finished"] and record.get("format") != TRAIN_FORMAT:
            raise InputError(f"{path}: this run was begun by a version of the toolkit that trains otherwise; take "
                             f"another name (RUN=), or remove {folder}")
        if not record["finished"] and record["versions"] != (now := _versions()):
            files.warn(f"{path}: begun with {_difference(record['versions'], now)}; the rest may come out differently")
        return record
    record = {
        "format": TRAIN_FORMAT,
        "config": config,
        "table": table.hash,
        "data": table.data_hash,
        "versions": _versions(),
        "precision": device.choose_precision(settings.precision, config["model"]),
        "frozen": settings.epochs == 0,
        "views": settings.views,
        "finished": False,
    }
    files.write_json(path, record)
    return record


def _versions():
    import keras

    return files.versions() | {"backend": keras.backend.backend()}


def _read_settings(path, config):
    """The Recipe of a run. A key that came after the run was made is at its default, which changes nothing."""
    try:
        return Recipe(**config["recipe"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not a run that this version of the toolkit can read ({error})") from None


def _difference(before, now):
    """The keys in which two configs differ, as one line."""
    flat = [dict(_flatten(config or {})) for config in (before, now)]
    keys = [key for key in sorted(flat[0].keys() | flat[1].keys()) if flat[0].get(key) != flat[1].get(key)]
    return "; ".join(f"{key} = {flat[0].get(key)} (now {flat[1].get(key)})" for key in keys)


def _flatten(config, prefix=""):
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


# ------------------------------------------------------------------------------------------------------------- models


def _set_head(model, head):
    for name, matrix in zip([*(f"hidden_{i}" for i in range(len(head) - 1)), "logits"], head, strict=True):
        model.get_layer(name).set_weights([matrix[:-1], matrix[-1]])


def _build_backbone(model, table, settings, weights):
    return build_backbone(model, table.size, settings.image_size or None, weights, settings.least_size)


def _head(features, table, settings):
    """Hidden layers, if the recipe has any, and one that starts at zero: before the first step every class is equally
    likely. Dropout before each."""
    from keras import initializers, layers

    def drop(features, name, seed):
        return layers.Dropout(settings.dropout, seed=seed, name=name)(features) if settings.dropout else features

    features = drop(features, "head_dropout", settings.seed)
    for i, units in enumerate(settings.head):
        start = initializers.HeNormal(settings.seed + i)
        features = layers.Dense(units, activation="relu", kernel_initializer=start, name=f"hidden_{i}")(features)
        features = drop(features, f"hidden_dropout_{i}", settings.seed + i + 1)
    return layers.Dense(len(table.classes), kernel_initializer="zeros", dtype="float32", name="logits")(features)


def _build_model(model, table, settings, weights):
    """Raw RGB float32 [n, h, w, 3], 0..255 -> logits [n, classes]."""
    import keras

    backbone = _build_backbone(model, table, settings, weights)
    for layer in backbone.layers[: round(settings.frozen_share * len(backbone.layers))]:
        layer.trainable = False  # also keeps its BatchNormalization's statistics
    if settings.batchnorm == "frozen":
        backbone = _infer_always(backbone)
    image = keras.Input(backbone.input_shape[1:], name="image")
    return keras.Model(image, _head(backbone(image), table, settings))


def _infer_always(backbone):
    """The same model, same weights, that never learns statistics or drops anything.

    To call it with training=False is not enough: inside another functional model Keras 3 replaces that by what the
    outer one is called with.
    """
    class Functional(type(backbone)):  # of that name, under which Keras keeps the weights
        def call(self, inputs, training=None, mask=None):
            return super().call(inputs, training=False, mask=mask)

    return Functional(backbone.input, backbone.output, name=backbone.name)


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


@dataclass
class Progress:
    """How far a fold has come; together with the variables, all that its rest depends on."""

    epoch: int = 0  # finished epochs of the second phase
    best_epoch: int = 0  # of that phase, 1-based
    best_score: tuple = (-1.0, 0.0)  # Metric.quality of its validation predictions
    history: tuple = ()  # a dict an epoch, over all phases


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


def _train_folds(folder, table, settings, model, weights, folds, memory, after_epoch, teaching):
    folds = [fold for fold in folds if not _is_done(folder, fold, settings)]
    if not folds and (settings.epochs or (folder / BACKBONE_FILE).exists()):
        return
    start_keras(settings.seed)
    whole = table.whole or table  # whose images and features serve all parts
    warn_of_others(whole)
    images = table.take(every := load_images(whole, memory))
    taught = _taught(folder, table, settings, images, folds, memory, teaching)
    backbone = _build_backbone(model, table, settings, weights)
    if settings.frozen_epochs:
        fused = fuse_batchnorm(backbone)  # half as fast again
        room = Room(memory and memory.features)
        found = frozen_features(whole, settings, model, weights, every, fused, room)
        features, pool = ([table.take(part) for part in parts] for parts in found)
    if not settings.epochs:
        files.write_with(folder / BACKBONE_FILE, backbone.save_weights)
    # where all layers train as well, the heads take no time worth a place on the bar
    with tqdm(total=len(folds) * (settings.epochs or settings.frozen_epochs), desc=folder.name, unit="epoch",
              bar_format=BAR) as bar:
        if settings.frozen_epochs and not (settings.synthetic or teaching):
            copies = copies_features(table, settings, model, weights, images, fused, room)
            _train_heads(folder, table, settings, features[0], pool, copies, folds, bar)
        elif settings.frozen_epochs:
            for fold, one in taught.items():
                own, left = pool, Room(room.left)  # what a fold's own take ends with it
                for source, pictures, rows in one.behind:
                    found = frozen_features(source, settings, model, weights, pictures, fused, left)[1]
                    own = [Joined(values, Rows(more, rows)) for values, more in zip(own, found)]
                copies = copies_features(one.table, settings, model, weights, one.images, fused, left)
                _train_heads(folder, one.table, settings, features[0], own, copies, [fold], bar, one.soft)
        if settings.epochs:
            phase = _build_phase(table, settings, model, images, taught, backbone.get_weights())
            scored = _build_scored(phase, model, table, settings)
        else:
            took = time_of(open_shelf(whole, settings, model, weights, whole.frame["sha256"].array))
        for fold in folds:
            directory = _fold_dir(folder, fold)
            if settings.epochs:
                progress = _train_fold(directory, *taught[fold][:2], settings, phase, fold, bar, after_epoch)
                held_out, taken = np.flatnonzero(table.fold == fold), []
                if scored is not phase.model:
                    scored.set_weights(phase.model.get_weights())
                views = {view: _probabilities(scored, Rows(images, held_out, VIEWS[view]), taken)
                         for view in settings.views}
                took = min(taken)
                files.write_with(directory / MODEL_FILE, phase.model.save_weights)
            else:
                head, progress = _read_head(folder, fold), _read_head_progress(folder, fold)
                views = {view: heads.predict_heads(head, Rows(features[i], np.flatnonzero(table.fold == fold)))
                         for i, view in enumerate(settings.views)}
            _save_fold(directory, table, fold, progress, views, took)


class Taught(NamedTuple):
    """What a fold is trained by."""

    table: object  # a FoldTable
    images: object  # uint8 [n, h, w, 3]
    soft: np.ndarray | None = None  # float32 [n, C]: what to learn of each in place of its label
    behind: tuple = ()  # what came after the images of the run's table: a FoldTable, its images, and rows of these


def _taught(folder, table, settings, images, folds, memory=None, teaching=None):
    """{fold: Taught}: its own where images are generated or there is a teacher, also for interrupted heads."""
    if not (settings.synthetic or teaching):
        return dict.fromkeys(folds, Taught(table, images))
    taught = dict.fromkeys([*_read_heads(folder)[0], *folds], Taught(table, images))
    if settings.synthetic:
        from competition.gan import add_synthetic

        for fold in taught:
            more, joined = add_synthetic(table, images, fold, settings.synthetic)
            made = replace(more, frame=more.frame.iloc[len(table.frame):])
            taught[fold] = Taught(more, joined, behind=((made, joined.second, np.arange(len(joined.second))),))
    if teaching:
        if memory:  # unlabelled images take what those of the table leave of their half
            memory = replace(memory, total=max(0, memory.total - 2 * held(images)))
        taught = teaching.teach(folder, table, images, taught, settings, memory)
    start_keras(settings.seed)  # generators and teachers, as many as there are folds left, drew random numbers
    return taught


BAR = "{desc} {percentage:3.0f}%|{bar:20}| {n:.1f}/{total_fmt} epochs [{elapsed}<{remaining}{postfix}]"


def _train_heads(folder, table, settings, plain, pool, copies, folds, bar, soft=None):
    """The first phase: train the heads of those folds that have none yet; those that were interrupted first."""
    def headless(folds):
        return [fold for fold in folds if not (_fold_dir(folder, fold) / HEAD_FILE).exists()]

    interrupted, state, seconds = _read_heads(folder)
    if going := headless(interrupted):
        state = state.of([interrupted.index(fold) for fold in going])
        _train_heads_of(going, state, seconds, folder, table, settings, plain, pool, copies, bar, soft)
    if fresh := headless(folds):
        state = heads.start_heads(1, len(fresh), plain.shape[-1], len(table.classes), settings.head, settings.seed)
        _train_heads_of(fresh, state, [], folder, table, settings, plain, pool, copies, bar, soft)
    (folder / HEADS_STATE).unlink(missing_ok=True)
    if not settings.epochs:
        # what was done before, and what an early stop spared
        bar.update(max(0, len(folds) * settings.frozen_epochs - bar.n))


def _train_heads_of(folds, state, seconds, folder, table, settings, plain, pool, copies, bar, soft):
    """Train the heads of these folds together, from their state on."""
    metric, names = find_metric(table.metric), [oof.held_out(table, fold) for fold in folds]
    while len(state.log) < settings.frozen_epochs and not (stopped := state.stopped(settings.patience)[0]).all():
        before = time.time()
        probabilities = heads.train_epoch(state, [settings], pool, plain, table.labels, table.fold, folds, copies,
                                          soft, metric)
        for f, fold in enumerate(folds):
            if not stopped[f]:
                _write_epoch(_fold_dir(folder, fold), len(state.log), names[f], probabilities[f][0])
        seconds = [*seconds, round((time.time() - before) / len(folds), 3)]
        files.write_npz(folder / HEADS_STATE, folds=folds, seconds=seconds, **state.arrays())
        for f, fold in enumerate(folds):
            _write_history(_fold_dir(folder, fold), _heads_history(state, seconds, f, settings))
        bar.set_postfix_str(f"frozen loss {state.log[-1, 0, :, 0].mean():.3f} acc {state.log[-1, 0, :, 1].mean():.3f} "
                            f"val {metric.sign * state.best_score[0, :, 0].mean():.3f}", refresh=False)
        bar.update(0 if settings.epochs else len(folds))
    for f, fold in enumerate(folds):
        history = _heads_history(state, seconds, f, settings)
        _write_history(_fold_dir(folder, fold), history)
        _write_head(_fold_dir(folder, fold) / HEAD_FILE, [matrices[0] for matrices in state.best_of(f)],
                    history=np.array(json.dumps(history)), best_epoch=state.best_epoch[0, f])


def _heads_history(state, seconds, f, settings):
    epochs = len(state.log)
    if settings.patience:
        epochs = min(epochs, state.best_epoch[0, f] + settings.patience)
    return [_history_row(epoch + 1, "frozen", *state.log[epoch, 0, f], seconds[epoch]) for epoch in range(epochs)]


def _read_heads(folder):
    """Of an interrupted frozen phase: its folds, their Heads and the seconds of its epochs."""
    path, nothing = folder / HEADS_STATE, ([], None, [])
    if not path.exists():
        return nothing
    try:
        with np.load(path) as saved:
            folds, state = saved["folds"].tolist(), heads.read_heads(saved)
            seconds = saved["seconds"].tolist()
    except files.BROKEN as error:
        files.warn(f"{path}: cannot be read ({error}), the frozen phase starts anew")
        return nothing
    whole = all((_fold_dir(folder, fold) / "epochs" / "001.npz").exists() for fold in folds)  # the user removed none
    return (folds, state, seconds) if whole else nothing


def _build_phase(table, settings, model, images, taught, start):
    """The second phase, in which everything trains, from the backbone's weights `start`."""
    def build(table, settings):
        with device.layers_of(settings.precision):
            built = _build_model(model, table, settings, Weights("none"))
        _compile(built, settings.weight_decay, settings.label_smoothing, _layer_rates(built, settings), settings.ema)
        return built

    whole = build(table, settings)
    whole.get_layer("backbone").set_weights(start)
    small, smaller = round(settings.progressive * settings.epochs), []
    if small:
        full = network_size(model, table.size, settings.image_size or None, settings.least_size)
        sizes = [tuple(max(1, round(share * side)) for side in full) for share in GROWTH]
        smaller = [build(replace(table, size=size), replace(settings, image_size=0, least_size=0)) for size in sizes]
        if any([v.shape for v in _variables(other)] != [v.shape for v in _variables(whole)] for other in smaller):
            raise InputError(f"progressive is {settings.progressive:g}, expected 0: the number of weights of {model} "
                             "depends on the size of its images")
    targets = np.eye(len(table.classes), dtype=np.float32)
    shares = {key: getattr(settings, key) for key in MIXTURES}
    patch = settings.cutmix_least, settings.cutmix_most
    policy = settings.augment if settings.augment_phases != "frozen" else []
    apart = any(one.images is not images for one in taught.values())
    on_device = None if apart else _draw_on_device(settings, policy, images)

    def batches(fold, epoch):
        table, images, soft, _ = taught[fold]
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

    share = heads.schedule(settings.schedule, settings.warmup)
    return Phase(whole, settings.epochs, lambda done: settings.rate * share(done), batches, smaller, small)


def _build_scored(phase, model, table, settings):
    """The model that OOF predictions come from: in float32, as the zip computes, whatever training computes in."""
    if settings.precision == "float32":
        return phase.model
    return _build_model(model, table, replace(settings, batchnorm="train"), Weights("none"))


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


def _train_fold(directory, table, images, settings, phase, fold, bar, after_epoch):
    """The second phase of one fold, to its end, from wherever its state says it is; returns its Progress."""
    held_out = table.fold == fold
    labels, names, metric = table.labels[held_out], oof.held_out(table, fold), find_metric(table.metric)
    validation = Rows(images, np.flatnonzero(held_out))
    steps = _steps(table, fold, settings)
    progress, variables, best = _read_state(directory) or (Progress(), phase.start, [])
    phase.write(variables)
    bar.update(progress.epoch)
    if settings.frozen_epochs and not progress.epoch:
        _set_head(phase.model, _read_head(directory.parent, fold))
        progress.history = _read_head_progress(directory.parent, fold).history
    _write_history(directory, progress.history)  # a kill may have come between the state and its line
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
        row = _history_row(len(progress.history) + 1, "full", loss, accuracy, -quality[1],
                           oof.accuracy(probabilities, labels), time.time() - before)
        progress.history = (*progress.history, row)
        _write_epoch(directory, row["epoch"], names, probabilities)
        _write_state(directory, progress, phase.read(), best)
        _write_history(directory, progress.history)
        if after_epoch:
            after_epoch()
    bar.total -= phase.epochs - progress.epoch
    phase.average()
    if best:
        phase.write(best)
    return progress


def _probabilities(model, images, taken=None):
    return heads.softmax(predict(model, images, taken=taken))[0]


def _is_stopped(settings, progress):
    return settings.patience and progress.epoch - progress.best_epoch >= settings.patience and progress.epoch > 0


def _history_row(epoch, phase, loss, accuracy, val_loss, val_accuracy, seconds):
    return {"epoch": epoch, "phase": phase, "loss": float(loss), "accuracy": float(accuracy),
            "val_loss": float(val_loss), "val_accuracy": float(val_accuracy), "seconds": round(seconds, 3)}


def _write_history(directory, history):
    if history:
        files.write_bytes(directory / "history.csv", files.csv_bytes(pd.DataFrame(history)))


def _write_epoch(directory, epoch, images, probabilities):
    files.write_npz(directory / "epochs" / f"{epoch:03d}.npz", image=images, probs=probabilities)


def _write_state(directory, progress, variables, best):
    arrays = {f"variable_{i}": value for i, value in enumerate(variables)}
    arrays |= {f"best_{i}": value for i, value in enumerate(best)}
    files.write_npz(directory / "state.npz", progress=np.array(json.dumps(asdict(progress))), **arrays)


def _read_state(directory):
    """Progress, variables and best variables of an interrupted fold, or None."""
    path = directory / "state.npz"
    if not path.exists():
        return None
    try:
        with np.load(path) as arrays:
            progress = Progress(**json.loads(str(arrays["progress"])))
            groups = [[arrays[f"{name}_{i}"] for i in range(sum(key.startswith(name) for key in arrays.files))]
                      for name in ("variable", "best")]
    except files.BROKEN as error:
        files.warn(f"{path}: cannot be read ({error}), this fold starts anew")
        return None
    return progress, *groups


def _save_fold(directory, table, fold, progress, views, took=None):
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
    (directory / "state.npz").unlink(missing_ok=True)


def _finish(folder, table, settings, record):
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


def _report(folder, table, done):
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
