"""Pack the blend, or one run, as a zip for a competition's scorer, which is rehearsed before it gets its name.

The zip holds code, which is a matter of the format (competition/formats/), and `SubmissionModel/`: one TensorFlow
SavedModel from raw RGB to probabilities with all fold models, weights and views inside. Its probability of a
class is

    sum over runs of weight * mean over folds and views of softmax(logits)

to the power of 1 / temperature, normalised, where the blend has one; where a double run has a product of several softmaxes
(runs_tree.Tree), that stands for the softmax.

The rehearsal (competition/rehearsal.py) runs it on a sample of the training images, and compares with the same sum
taken by this toolkit from the fold models one by one.
"""

import dataclasses
import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from competition import fit as fitting
from competition.blend import (
    calibrate_nested,
    combine,
    count_left_out,
    forecast_again,
    make_candidates,
    make_chooser,
    read_blend,
    sharpen,
)
from competition.canonical import normalise
from competition.content import check_package
from competition.features import predict
from competition.files import InputError, sha256_file, versions, write_json, write_with
from competition.folds import read_folds, whole_number
from competition.forecast import check_hidden, forecast_blend, print_forecast
from competition.fuse import fuse_batchnorm
from competition.images import load_images
from competition.metrics import find_metric
from competition.predict_folds import predict_folds
from competition.oof import accuracy, log_loss, read_oof, text_table
from competition.record import all_runs
from competition.rehearsal import MOST, Conditions, Entry, RehearsalError, bounded, rehearse, what_was_checked
from competition.scorelog import keep_older, log_submission
from competition.scorers import find_python
from competition.runs_kinds import read_run
from competition.runs_run import Run
from competition.views import VIEWS
from competition.workspace import Workspace

ROWS = 32  # images times views that a network gets at once; 64 are 5 % faster, but what one image costs as well
OOF_TOLERANCE = 0.05  # training may have run on another device, in another precision of its products (TF32)
TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # the first that a zip can hold: the same content makes the same zip


@dataclass(frozen=True)
class Ensemble:
    """What goes into a zip."""

    source: str  # "blend" or "run <name>"
    members: list[tuple[Run, float]]  # with their weights, which sum to 1
    views: list[str]
    oof: np.ndarray  # its own out-of-fold probabilities, float32 [n, C]
    temperature: float = 1.0  # blend.sharpen
    forecast: dict | None = None  # forecast.make_forecast
    folds: tuple | None = None  # whose models are in it; None: all
    half: bool = False  # weights are stored as float16; what is computed is float32


@dataclass(frozen=True)
class Layout:
    """What the zip of one format has beside the network, and how its scorer asks that."""

    format: str
    write_code: Callable  # (folder) -> None: writes what lies beside SubmissionModel/
    entry: Entry


def make_submission(name=None, run=None, layout=None, scorer=None, hidden_n=None, max_mb=None, max_seconds=None,
                    max_memory=None, fit=False, hidden=None, workspace=Workspace()):
    """Write `submissions/<name>.zip` of the blend, or of one finished run.

    name    of the fold table; may be left out while there is only one
    run     pack this run in place of the blend; its views are chosen as `make blend` would for it alone
    layout  of which format the zip is; default: CodaLab's
    scorer  which Python rehearses it (scorers.find_python): "tensorflow==2.12.1", or its path; default: this one
    hidden_n  images of the hidden test, for the forecasts of score and seconds; default: as many as the blend's is for
    hidden  "random" or "groups": see forecast.make_forecast; default: as the blend has it
    max_mb, max_seconds, max_memory  what the scorer allows (fit.read_limits)
    fit     where the blend is over that, take the best that fits (competition/fit.py)
    workspace  where the table and its runs lie, and the zip is written

    Beside the zip, the JSON of the same name says what is in it, by hashes, and what the rehearsal found; the log
    (scorelog.py) gets a line. Returns the zip's path. InputError for a blend or a run that is missing, unfinished or
    not of this fold table, and for a zip that fails its rehearsal or is over a limit: it is not kept, and an older one
    of the same name stays. Otherwise the older one is kept under another name (scorelog.keep_older).
    """
    if layout is None:
        from competition.formats.codalab import LAYOUT as layout  # which imports this module
    limits = fitting.read_limits(max_mb, max_seconds, max_memory)
    table = read_folds(name, workspace)
    ensemble = read_ensemble(table, run, hidden_n, hidden)
    count = whole_number("HIDDEN_N", hidden_n, 1, 10**9) if hidden_n else _hidden_n(ensemble, table)
    conditions = bounded(Conditions(python=find_python(scorer, workspace)), limits.seconds, limits.memory, count)
    path = table.paths.zip
    taken = []

    def write(temporary):
        found = prove(ensemble, table, temporary, layout, conditions, count)
        if limits.exceeded(_cost(found)):
            taken.extend(_fit(ensemble, table, temporary, layout, conditions, count, limits, found, fit))
        else:
            taken.extend((ensemble, found))
        keep_older(path, table.paths.zip_json, temporary)

    try:
        write_with(path, write)
    except RehearsalError as error:
        checks = what_was_checked(error, min(MOST, len(table.labels)))
        print(text_table(pd.DataFrame(checks, columns=["check", "found"])), end="\n\n")
        kept = "; the older zip of that name stays as it was" if path.exists() else ""
        raise InputError(f"{path}: not written, {error}{kept}") from None
    ensemble, found = taken
    found |= {"scorer": scorer or "the project's own Python"}
    record = record_of(path, ensemble, table, layout.format) | {"limits": dataclasses.asdict(limits), "rehearsal": found}
    write_json(table.paths.zip_json, record)
    log_submission(path, record, workspace)
    _report(path, record)
    return path


def prove(ensemble, table, path, layout, conditions=Conditions(), count=1):
    """Write the Ensemble as a zip to `path` and rehearse it: what was found, as a dict, with seconds for `count` images.

    RehearsalError where it does not hold.
    """
    rows = choose_sample(table)
    images = load_images(dataclasses.replace(table, frame=table.frame.iloc[rows]))
    expected, oof_difference = average_by_hand(ensemble, table, images, rows)
    found = {"oof_differs": oof_difference, "hidden_n": count}
    if ensemble.half:
        exact, expected = expected, average_halved(ensemble, table, images)
        found |= {"float16_differs": float(np.abs(expected - exact).max()),
                  "float16_labels": int((expected.argmax(1) != exact.argmax(1)).sum())}
    with tempfile.TemporaryDirectory() as folder:
        build_package(ensemble, table, folder, layout.write_code)
        check_package(folder, table.data)
        pack(folder, path)
    found |= rehearse(path, images, expected, layout.entry, conditions)
    seconds = found["load_seconds"] + found["warm_seconds"] + count / found["images_a_second"]
    held = count * np.prod([*table.size, 3]) * 4  # the images themselves, as float32, which the scorer has in memory
    return found | {"bytes": Path(path).stat().st_size, "hidden_seconds": seconds,
                    "hidden_bytes": int(found["peak_bytes"] + held)}


def _cost(found):
    return fitting.Cost(found["bytes"], found["hidden_seconds"], found["hidden_bytes"])


def _fit(ensemble, table, path, layout, conditions, count, limits, found, wanted):
    """Write the best Choice that fits to `path`: its Ensemble, and what its rehearsal found.

    Without `wanted`, and where nothing fits, show what there is and raise InputError.
    """
    cost = _cost(found)
    over = "; ".join(limits.exceeded(cost)) + f" ({count} images)" * (limits.seconds is not None)
    print(f"the whole takes {over}; looking for what fits", flush=True)
    choices = fitting.choose(ensemble, table, found["load_seconds"] + found["warm_seconds"], cost, count)
    fits = [choice for choice in choices if not limits.exceeded(choice.cost)]
    fitting.show(ensemble, table, cost, choices, limits)
    if not wanted or not fits:
        hint = "FIT=1 takes the best that fits" if fits else "nothing that was found fits, raise a limit"
        raise InputError(f"{table.paths.zip}: not written, it takes {over}; {hint}")
    for attempt in range(fitting.ATTEMPTS):
        smallest = fitting.find_smallest(choices, limits)
        fits = [choice for choice in choices if not limits.exceeded(choice.cost)]
        choice = fits[0] if fits and attempt < fitting.ATTEMPTS - 1 else smallest
        found = prove(choice.ensemble, table, path, layout, conditions, count)
        over = limits.exceeded(_cost(found))
        if not over:
            forecast = choice.ensemble.forecast
            if forecast:
                bounds = find_metric(table.metric)
                luck = max(0.0, bounds.sign * fitting.flattery(choice, fits, table)) if choice in fits else 0.0
                moved = choice.expected - bounds.sign * luck - forecast["expected"]
                shifted = {key: float(np.clip(forecast[key] + moved, bounds.low, bounds.high))
                           for key in ("expected", "low", "high")}
                forecast = forecast | shifted | {"fit": moved, "fit_optimism": luck}
            return dataclasses.replace(choice.ensemble, forecast=forecast), found
        print(f"what was to fit takes {'; '.join(over)}; trying what is smaller", flush=True)
        if choice is smallest:
            break
        choices = fitting.refine(choices, choice, _cost(found))
    raise InputError(f"{table.paths.zip}: not written, the smallest that was found does not fit: "
                     f"{'; '.join(over)}")


def _hidden_n(ensemble, table):
    return (ensemble.forecast or {}).get("hidden_n") or len(table.labels) // table.k


# ------------------------------------------------------------------------------------------ what goes into it


def read_ensemble(table, run=None, hidden_n=None, hidden=None):
    """The Ensemble of the blend, or of one finished run, forecast as asked; InputError as make_submission raises it."""
    return _read_run(table, run, hidden_n, hidden) if run else _read_blend(table, hidden_n, hidden)


def _read_blend(table, hidden_n=None, hidden=None):
    record = read_blend(table)
    oofs = {run: read_oof(table.paths.run(run), table) for run in record["weights"]}
    return _ensemble(table, "blend", oofs, record["weights"], record["views"], record["temperature"],
                     forecast_again(table, record, hidden_n, hidden))


def _read_run(table, run, hidden_n=None, hidden=None):
    hidden_n, hidden = check_hidden(hidden_n, hidden or "random")
    if run == "blend" or run not in (known := all_runs(table.paths)):
        hint = "expected " + ("no RUN= for the blend" if run == "blend" else ", ".join(known) or "none yet")
        raise InputError(f"{table.paths.run(run)}: no such run, {hint}")
    oofs = {run: read_oof(table.paths.run(run), table)}
    chooser = make_chooser(oofs, table)
    candidates, chosen = make_candidates(chooser, [[run]])
    winner = candidates[chosen]
    temperature, _ = calibrate_nested(chooser, winner)
    forecast = forecast_blend(table, oofs, chooser, winner, hidden_n, hidden, temperature)
    forecast["left_out"] = count_left_out(table.paths, oofs)
    return _ensemble(table, f"run {run}", oofs, winner.weights, winner.views, temperature, forecast)


def _ensemble(table, source, oofs, weights, views, temperature, forecast):
    weights = {run: weight for run, weight in weights.items() if weight > 0}
    members = [(read_run(table.paths.run(run), table), weight) for run, weight in weights.items()]
    for run, _ in members:
        check_weights(run, table)
    return Ensemble(source, members, views, sharpen(combine(oofs, weights, views), temperature), temperature, forecast)


# ------------------------------------------------------------------------------------------------ the network


@dataclass(frozen=True)
class Network:
    """A keras.Model [n, h, w, 3] -> [n, C], and the weights, as of its `get_weights`, of each member of that form."""

    model: object
    members: list[list[np.ndarray]]


def build_networks(ensemble, table):
    """The Networks whose members' outputs add up to the probabilities of one view.

    A fine-tuned run gives one with a member for each fold. Frozen runs give one for each different backbone: it holds
    that once and the heads of all folds of all runs on it. BatchNormalization is folded into the layers before it.
    """
    networks, shared = [], {}
    for run, weight in ensemble.members:
        chosen = ensemble.folds or range(table.k)
        share = weight / len(chosen)
        if run.frozen:
            backbone, layers = run.build_shared(table)
            _, heads = shared.setdefault(_identity(run, backbone), (backbone, []))
            heads += [(run.rule, [layer[fold] for layer in layers], share) for fold in chosen]
        else:
            folds = [_scaled(fuse_batchnorm(run.build_fold_model(table, fold)), share) for fold in chosen]
            networks.append(Network(folds[0], [model.get_weights() for model in folds]))
    for backbone, heads in shared.values():
        model = _with_heads(fuse_batchnorm(backbone), heads)
        networks.append(Network(model, [model.get_weights()]))
    return networks


def _identity(run, backbone):
    """Equal for backbones that do the same."""
    digest = hashlib.sha256(json.dumps([run.config["model"], run.recipe.image_size, run.recipe.least_size]).encode())
    for values in backbone.get_weights():
        digest.update(values.tobytes())
    return digest.hexdigest()


def _scaled(model, share):
    import keras

    return keras.Model(model.input, model.output * share)


def _with_heads(backbone, heads):
    """Sum of share * probabilities over heads, each the `rule` of its run, a list of float32
    [inputs + 1, outputs] and a share.

    Those of the same layers and rule are computed as one.
    """
    import keras
    from keras import ops

    alike = {}
    for rule, head, share in heads:
        alike.setdefault((rule, *(matrix.shape for matrix in head)), []).append((head, share))
    features = backbone(backbone.input, training=False)
    sums = []
    for (rule, *_), group in alike.items():
        matrices, shares = zip(*group)
        probabilities = rule(_logits(features, [np.stack(layer) for layer in zip(*matrices)]), ops)
        sums.append(ops.sum(probabilities * np.array(shares, np.float32)[:, None], axis=1))
    return keras.Model(backbone.input, sum(sums[1:], sums[0]))


def _logits(features, matrices):
    """Logits [n, m, C] of m heads: of each layer a float32 [m, inputs + 1, outputs], the last row the bias."""
    from keras import layers

    first, *more = matrices
    count, dimension, units = first[:, :-1].shape
    dense = layers.Dense(count * units, dtype="float32")
    found = layers.Reshape((count, units))(dense(features))
    dense.set_weights([first[:, :-1].transpose(1, 0, 2).reshape(dimension, -1), first[:, -1].reshape(-1)])
    for matrix in more:
        layer = layers.EinsumDense("nmi,mio->nmo", (count, matrix.shape[2]), bias_axes="mo", dtype="float32")
        found = layer(layers.ReLU(dtype="float32")(found))
        layer.set_weights([matrix[:, :-1], matrix[:, -1]])
    return found


def build_package(ensemble, table, folder, write_code):
    """Write what the zip's root holds into `folder`: `SubmissionModel/`, and what `write_code` puts beside it."""
    folder = Path(folder)
    export(build_networks(ensemble, table), ensemble.views, table.size, folder / "SubmissionModel",
           ensemble.temperature, ensemble.half)
    write_code(folder)


def export(networks, views, size, path, temperature=1.0, half=False):
    """Write the SavedModel: its `serve` maps raw RGB float32 [b, h, w, 3] to probabilities float32 [b, C].

    They are sharpened with the temperature (blend.sharpen), which changes no label. With `half` the weights are stored
    as float16, where these can hold them, and cast as they are used, one member after the other.

    All views of the b images go through a member as one batch of up to ROWS. b is fixed, so that what an image
    gets does not depend on how many came with it, and small, so that few images are not padded with many.

    A plain tf.Module of variables and functions: TensorFlow 2.12 and later load it without Keras. How long that takes
    depends on the number of variables and operations. So the members of a Network share one function, which is not
    inlined and so optimised once, and each variable holds the weights of all of them, [members, ...].
    """
    import tensorflow as tf

    functions = [_as_function(network.model) for network in networks]
    module = tf.Module()
    module.weights = [[tf.Variable(_stored(np.stack(values), half)) for values in zip(*network.members)] for network in networks]
    batch = max(1, ROWS // len(views))
    signature = [tf.TensorSpec([batch, *size, 3], tf.float32, name="images")]

    @tf.function(input_signature=signature, autograph=False)
    def serve(images):
        seen = tf.concat([VIEWS[view](images) for view in views], axis=0)
        total = tf.constant(0.0)
        for function, variables in zip(functions, module.weights):
            for weights in zip(*map(tf.unstack, variables)):
                with tf.control_dependencies([total]):  # one after the other: the memory of one member is enough
                    total += function(seen, [_computed(weight) for weight in weights])
        mean = tf.reduce_mean(tf.reshape(total, [len(views), batch, -1]), axis=0)
        if temperature == 1:
            return mean
        powers = tf.pow(tf.maximum(mean, 1e-30), 1 / temperature)
        return powers / tf.reduce_sum(powers, axis=1, keepdims=True)

    module.serve = serve
    tf.saved_model.save(module, str(path), signatures=serve)
    normalise(Path(path))


def _stored(values, half):
    """float32 arrays as float16 where `half` says so and these can hold them: up to 65504."""
    fits = values.dtype == np.float32 and np.abs(values).max(initial=0) < np.finfo(np.float16).max
    return values.astype(np.float16) if half and fits else values


def _computed(weight):
    import tensorflow as tf

    return tf.cast(weight, tf.float32) if weight.dtype == tf.float16 else weight


def _as_function(model):
    """A tf.function (images, weights) -> answers of a keras.Model with those weights in place of its own."""
    import keras
    import tensorflow as tf

    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def answer(images, weights):
        with keras.StatelessScope(state_mapping=zip(model.weights, weights)):
            return model(images, training=False)

    return answer


def pack(folder, path):
    """Zip all files below `folder`, the same bytes for the same content."""
    folder = Path(folder)
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), TIMESTAMP)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            with open(file, "rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)


# ---------------------------------------------------------------------------------------------- the same by hand

def choose_sample(table, count=MOST):
    """Rows of up to `count` images, sorted, the classes in turn; the same ones each time. int64 [count]."""
    labels = table.labels
    order = np.random.RandomState(0).permutation(len(labels))
    turn = pd.Series(labels[order]).groupby(labels[order]).cumcount().to_numpy()
    return np.sort(order[np.argsort(turn, kind="stable")[:count]])


def average_by_hand(ensemble, table, images, rows):
    """The ensemble's probabilities of images uint8 [n, h, w, 3], `rows` of the table, by fold and view.

    Nothing of the exported network is used. On the way each image's own fold is compared with the stored OOF:
    returns probabilities float32 [n, C] and the largest of those differences; InputError when it is large.
    """
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # that many networks are traced is no mistake here
    tf.config.experimental.enable_tensor_float_32_execution(False)  # the rehearsal's CPU does not round so
    total, worst = 0.0, 0.0
    for run, weight in ensemble.members:
        oof = read_oof(run.dir, table)
        chosen = list(ensemble.folds or range(table.k))
        folds = predict_folds(run, table, ensemble.views, images, chosen)
        there = np.flatnonzero(np.isin(table.fold[rows], chosen))  # images whose own fold is among them
        stored = oof.probs[[oof.views.index(view) for view in ensemble.views]][:, rows[there]]
        own = folds[[chosen.index(fold) for fold in table.fold[rows[there]]], :, there].swapaxes(0, 1)
        difference = float(np.abs(own - stored).max(initial=0))
        if not difference <= OOF_TOLERANCE:
            raise InputError(
                f"{run.dir}: its weights do not give its OOF (probabilities differ by {difference:.2g}), "
                "something has changed since it was trained; train it again"
            )
        worst = max(worst, difference)
        total = total + weight * folds.mean((0, 1), dtype=np.float64)
    return sharpen(total, ensemble.temperature), worst


def average_halved(ensemble, table, images):
    """The ensemble's probabilities of images uint8 [n, h, w, 3] with weights that are rounded to float16, by Keras."""
    total = 0.0
    for network in build_networks(ensemble, table):
        stacks = [_stored(np.stack(values), True).astype(values[0].dtype) for values in zip(*network.members)]
        for weights in zip(*stacks):
            network.model.set_weights(weights)
            seen = [predict(network.model, VIEWS[view](images)) for view in ensemble.views]
            total = total + np.mean(seen, axis=0, dtype=np.float64)
    return sharpen(total, ensemble.temperature)


# ------------------------------------------------------------------------------------------------- the record


def record_of(path, ensemble, table, format):
    """What the record beside an output says: its format, the file, what it is made of, by hashes, what it stands on."""
    members = [
        {
            "run": run.name,
            "weight": weight,
            "model": run.config["model"],
            "frozen": run.frozen,
            "folds": len(ensemble.folds or range(table.k)),
            "files": {
                file.relative_to(run.dir).as_posix(): sha256_file(file)
                for file in [run.dir / "run.json", run.dir / "oof.npz", *run.weight_files(table.k)]
            },
        }
        for run, weight in ensemble.members
    ]
    return {
        "format": format,
        path.suffix[1:]: path.name,
        "sha256": sha256_file(path),
        "bytes": path.stat().st_size,
        "source": ensemble.source,
        "members": members,
        "views": ensemble.views,
        "temperature": ensemble.temperature,
        "weights": "float16" if ensemble.half else "float32",
        "metric": table.metric,
        "forecast": ensemble.forecast,
        "classes": {str(number): label for number, label in enumerate(table.classes)},
        "size": list(table.size),
        "table": table.hash,
        "data": table.data_hash,
        "oof_accuracy": accuracy(ensemble.oof, table.labels),
        "oof_log_loss": log_loss(ensemble.oof, table.labels),
        "versions": versions(),
    }


def check_weights(run, table):
    """InputError where a run's weights are not there."""
    if missing := [file for file in run.weight_files(table.k) if not file.exists()]:
        raise InputError(f"{missing[0]}: no such file, expected a finished run's weights; train it again")


def _report(path, record):
    members = [
        {
            "member": member["run"],
            "weight": f"{member['weight']:.2f}",
            "folds": member["folds"],
            "network": "one frozen backbone, a head a fold" if member["frozen"] else "one a fold",
        }
        for member in record["members"]
    ]
    found = record["rehearsal"]
    rows = {
        "rehearsed": f"{found['images']} training images, in a fresh and isolated process, on the CPU, by "
                     f"{found['scorer']} ({', '.join(f'{key} {value}' for key, value in found['versions'].items())})",
        "denied": f"network ({found['no_network']}), writing to its folder, this project, files elsewhere, processes: "
                  "its Python code asked for none, and its files are as they were",
        "calls": ", ".join(found["calls"]) + "".join(f"; left out: {what}" for what in found["left_out"]),
        "repeated": "a second call and a second fresh process give the same labels and probabilities (to "
                    f"{found['processes_differ']:.1g})",
        "inside": "no pickle, Lambda or Python function, no path of this machine or folder of its user",
        "labels": f"equal to the toolkit's own average ({found['near_ties']} near-ties left aside)",
        "probabilities": f"differ by {found['probabilities_differ']:.1g} at most (from the stored OOF: "
                         f"{found['oof_differs']:.1g})",
        "size": f"{record['bytes'] / 1e6:.1f} MB" + (
            f"; weights are float16, which changes probabilities by up to {found['float16_differs']:.1g} and "
            f"{found['float16_labels']} labels of {found['images']}" if "float16_differs" in found else ""),
        "speed": f"{found['load_seconds']:.1f} s to load, {found['warm_seconds']:.1f} s more for the first call, "
                 f"{found['images_a_second']:.0f} images a second; "
                 f"{found['hidden_seconds']:.0f} s for {found['hidden_n']} hidden images",
        "memory": f"{found['peak_bytes'] / 1e6:.0f} MB at most; {found['hidden_bytes'] / 1e6:.0f} MB with "
                  f"{found['hidden_n']} hidden images as float32",
        "stands on": f"OOF accuracy {record['oof_accuracy']:.4f}, log-loss {record['oof_log_loss']:.4f}",
    }
    print(f"{path}: {record['source']}; views {', '.join(record['views'])}\n")
    print(text_table(pd.DataFrame(members)), end="\n\n")
    width = max(map(len, rows))
    print("\n".join(f"{key:<{width}}  {value}" for key, value in rows.items()))
    if record["forecast"]:
        print()
        print_forecast(record["forecast"], list(record["classes"].values()))
