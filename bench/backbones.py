"""Backbones of KerasHub and keras-cv, a small one of each family: does it train, resume to the bit, pack, and agree.

`python -m bench.backbones --scorers current` prints the table, a row a family. All weights are random. Each trains on 200
images of the sample in both phases, once as it is and once killed after the first epoch of all layers. Each scorer runs
the network that its zip holds, whose answers are compared with the toolkit's own. A family that fails says why, and the
others still run. `make matrix FAMILIES=hub:<folder>` rehearses a whole zip.
"""

import argparse
import filecmp
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")  # what is compared to the bit is so on a CPU

import numpy as np

from competition.base.files import InputError
from competition.base.text import text_table
from competition.base.workspace import MODEL_FILE, OOF_CSV, Workspace, fold_dir
from competition.data.folds import make_folds
from competition.features.extract import BATCH, predict
from competition.models import presets
from competition.models.backbones import build_backbone, find_backbone, resolve_weights
from competition.models.fuse import fuse_batchnorm
from competition.rehearsal.scorer_environments import find_python, is_path
from competition.training.train import train
from competition.trials import matrix
from competition.trials.sample import write_sample

IMAGES, SIDE, TIMED = 200, 32, 5
ASKED = "asked.npz"  # images, and what a packed network answers
SETTINGS = ("frozen_epochs=1", "epochs=2", "rate=0.003", "batch_size=16", "image_size=0", "views=identity")
SIDED = {"image_shape": (SIDE, SIDE, 3)}
VIT = {"patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, **SIDED}
TOWER = {**VIT, "intermediate_dim": 32}
TEXT = {"vocabulary_size": 20, "embedding_dim": 16, "hidden_dim": 16, "num_layers": 1, "num_heads": 2}
TEXT |= {"intermediate_dim": 32, "max_sequence_length": 8}
STAGES = {
    "stackwise_kernel_sizes": [3, 3],
    "stackwise_num_repeats": [1, 2],
    "stackwise_input_filters": [8, 8],
    "stackwise_output_filters": [8, 16],
    "stackwise_expansion_ratios": [1, 4],
    "stackwise_strides": [1, 2],
    "stackwise_squeeze_and_excite_ratios": [0.0, 0.25],
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
}
MOBILE = {
    "stackwise_expansion": [[16], [32, 32]],
    "stackwise_num_blocks": [1, 2],
    "stackwise_num_filters": [[8], [16, 16]],
    "stackwise_kernel_size": [[3], [5, 5]],
    "stackwise_num_strides": [[2], [2, 1]],
    "stackwise_se_ratio": [[None], [0.25, 0.25]],
    "stackwise_activation": [["relu"], ["hard_swish", "hard_swish"]],
    "stackwise_padding": [[1], [2, 2]],
    "output_num_filters": 32,
    "input_num_filters": 8,
    "input_activation": "hard_swish",
    "output_activation": "hard_swish",
    "depthwise_filters": 8,
    "depthwise_stride": 2,
    "depthwise_residual": False,
    "squeeze_and_excite": 0.5,
    "last_layer_filter": 32,
}
MOBILE5 = {
    "stackwise_block_types": [["er"], ["uir", "mqa"]],
    "stackwise_num_blocks": [1, 2],
    "stackwise_num_filters": [[8], [16, 16]],
    "stackwise_strides": [[2], [2, 1]],
    "stackwise_act_layers": [["relu"], ["relu", "relu"]],
    "stackwise_exp_ratios": [[4.0], [6.0, 0.0]],
    "stackwise_se_ratios": [[0.0], [0.0, 0.0]],
    "stackwise_dw_kernel_sizes": [[0], [5, 0]],
    "stackwise_dw_start_kernel_sizes": [[0], [0, 0]],
    "stackwise_dw_end_kernel_sizes": [[0], [0, 0]],
    "stackwise_exp_kernel_sizes": [[3], [0, 0]],
    "stackwise_pw_kernel_sizes": [[1], [0, 0]],
    "stackwise_num_heads": [[0], [0, 2]],
    "stackwise_key_dims": [[0], [0, 8]],
    "stackwise_value_dims": [[0], [0, 8]],
    "stackwise_kv_strides": [[0], [0, 1]],
    "stackwise_use_cpe": [[False], [False, False]],
    "use_msfa": False,
}
HGNET = {
    "depths": [1, 2],
    "embedding_size": 8,
    "hidden_sizes": [16, 32],
    "stem_channels": [3, 8, 8],
    "hidden_act": "relu",
    "use_learnable_affine_block": True,
    "stackwise_stage_filters": [(8, 8, 16, 1, 1, 3), (16, 8, 32, 2, 1, 3)],
    "apply_downsample": [False, True],
    "use_lightweight_conv_block": [False, True],
    **SIDED,
}
MIT = {"num_layers": 2, "layerwise_num_heads": [1, 2], "layerwise_sr_ratios": [8, 4], "hidden_dims": [8, 16]}
MIT |= {
    "layerwise_depths": [1, 1],
    "max_drop_path_rate": 0.1,
    "layerwise_patch_sizes": [7, 3],
    "layerwise_strides": [4, 2],
    **SIDED,
}
RESNET = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [7],
    "stackwise_num_filters": [64, 64],
    "stackwise_num_blocks": [1, 1],
    "stackwise_num_strides": [1, 2],
}

# {preset: (class in keras_hub.models, its arguments)}
HUB = {
    "vit": ("ViTBackbone", {**VIT, "mlp_dim": 32}),
    "deit": ("DeiTBackbone", TOWER),
    "dinov2": ("DINOV2Backbone", {**TOWER, "position_embedding_shape": (48, 48, 3)}),
    "dinov3": ("DINOV3Backbone", TOWER),
    "siglip": ("SigLIPBackbone", {}),
    "clip": ("CLIPBackbone", {"projection_dim": 16}),
    "swin": (
        "SwinTransformerBackbone",
        {**SIDED, "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4},
    ),
    "mit": ("MiTBackbone", MIT),
    "hgnetv2": ("HGNetV2Backbone", HGNET),
    "mobilenetv5": ("MobileNetV5Backbone", MOBILE5),
    "mobilenet": ("MobileNetBackbone", MOBILE),
    "resnet": ("ResNetBackbone", {**RESNET, "block_type": "basic_block"}),
    "efficientnet": ("EfficientNetBackbone", {**STAGES, "stackwise_block_types": ["fused", "unfused"]}),
    "densenet": ("DenseNetBackbone", {"stackwise_num_repeats": [1, 1]}),
    "vgg": ("VGGBackbone", {"stackwise_num_repeats": [1, 1], "stackwise_num_filters": [8, 16]}),
    "xception": ("XceptionBackbone", {"stackwise_conv_filters": [[8, 8], [8, 16]], "stackwise_pooling": [True, True]}),
    "cspnet": (
        "CSPNetBackbone",
        {
            "stem_filters": 8,
            "stem_kernel_size": 3,
            "stem_strides": 1,
            "stackwise_depth": [1, 2],
            "stackwise_strides": [2, 2],
            "stackwise_num_filters": [16, 32],
            "stage_type": "dark",
            "block_type": "dark_block",
        },
    ),
}
CV = (
    "resnet18",
    "resnet18_v2",
    "densenet121",
    "efficientnetv1_b0",
    "efficientnetv2_b0",
    "efficientnetlite_b0",
    "mobilenet_v3_small",
    "csp_darknet_tiny",
    "yolo_v8_xs_backbone",
    "mit_b0",
)
VITDET = {
    "include_rescaling": True,
    "input_shape": [SIDE, SIDE, 3],
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 2,
    "mlp_dim": 32,
    "num_heads": 2,
    "out_chans": 16,
    "window_size": 2,
    "global_attention_indices": [1],
}


def write_preset(folder: Path, name: str) -> Path:
    """A preset of random weights as KerasHub saves it, `folder`/<name>, with its image converter; the folder."""
    import keras_hub

    kind, arguments = HUB[name]
    models = keras_hub.models
    if name in ("siglip", "clip"):
        prefix = kind.removesuffix("Backbone")
        towers = getattr(models, f"{prefix}VisionEncoder")(**TOWER), getattr(models, f"{prefix}TextEncoder")(**TEXT)
        backbone = getattr(models, kind)(*towers, **arguments)
    else:
        backbone = getattr(models, kind)(**arguments)
    backbone.save_to_preset(str(folder / name))
    converter = keras_hub.layers.ImageConverter(
        image_size=(SIDE, SIDE), scale=[1 / 127.5, 1 / 120, 1 / 130], offset=-1.0
    )
    converter.save_to_preset(str(folder / name))
    path = folder / name / "image_converter.json"  # saved under the family's own class, as its presets are
    saved = json.loads(path.read_text("utf-8"))
    saved["registered_name"] = f"keras_hub>{kind.removesuffix('Backbone')}ImageConverter"
    saved["class_name"] = saved["registered_name"].partition(">")[2]
    saved["module"] = None
    path.write_text(json.dumps(saved), "utf-8")
    return folder / name


def write_vitdet(folder: Path) -> Path:
    """A preset of a small ViTDet as keras-cv has them."""
    import keras_cv

    path = folder / "vitdet"
    path.mkdir(parents=True)
    keras_cv.models.ViTDetBackbone(**VITDET).save_weights(path / "model.weights.h5")
    config = {"class_name": "ViTDetBackbone", "registered_name": "keras_cv.models>ViTDetBackbone", "config": VITDET}
    (path / "config.json").write_text(json.dumps(config), "utf-8")
    return path


ANSWER = """
import glob, os, sys, numpy as np, tensorflow as tf
for folder in sys.argv[1:]:
    try:
        asked = np.load(os.path.join(folder, "asked.npz"))
        (path,) = glob.glob(os.path.join(folder, "package", "**", "saved_model.pb"), recursive=True)
        loaded = tf.saved_model.load(os.path.dirname(path))
        serve = loaded.signatures["serving_default"]
        batch = serve.structured_input_signature[1]["images"].shape[0]
        rows = np.resize(asked["images"], (batch, *asked["images"].shape[1:]))
        (answers,) = serve(tf.constant(rows)).values()
        says = "%.0e" % np.abs(answers.numpy()[: len(asked["images"])] - asked["expected"]).max()
    except Exception as error:
        says = type(error).__name__ + ": " + " ".join(str(error).split())[:200]
    print(folder + "\\t" + says, flush=True)
"""


class Killed(Exception):
    """What stands for a kill."""


class KillAfter:
    """A callback that ends the training after its first epoch of all layers."""

    def on_epoch(self, run, fold, epoch, row):
        if row["phase"] == "full":
            raise Killed


def try_family(family, model, table, work):
    """A row of the table: what became of one backbone."""
    weights: str | Path = "imagenet"
    row = {"family": family, "preset": model if "/" not in model else f"{model.partition(':')[0]}:<small>"}
    try:
        preset = find_backbone(model)
        if "/" not in model:  # keras-cv has no weights of it here
            weights = work / "model.weights.h5"
            presets.build_network(preset, table.size).save_weights(weights)
        found = resolve_weights(preset, weights)
        fused = fuse_batchnorm(build_backbone(preset, table.size, None, found))
        row["features"], row["parameters"] = fused.output_shape[-1], fused.count_params()
        options = {"name": table.name, "weights": weights, "overrides": SETTINGS, "workspace": table.workspace}
        matrix.CASES[family] = matrix.Case(model, SETTINGS, weights)
        whole = train(model, run=f"{family}-quick", **options)
        row["trains"] = "yes"
        try:
            train(model, run=f"{family}-killed", callbacks=[KillAfter()], **options)
        except Killed:
            pass
        again = train(model, run=f"{family}-killed", **options)
        files = [OOF_CSV, *(fold_dir(Path(), fold) / MODEL_FILE for fold in range(table.k))]
        same = [_same(whole / name, again / name) for name in files]
        row["resumes"] = "to the bit" if all(same) else "OTHERWISE"
        batch = np.zeros((BATCH, *table.size, 3), np.float32)
        ends = []
        for _ in range(2 + TIMED):
            predict(fused, batch)
            ends.append(time.perf_counter())
        row["ms"] = round(1000 * float(np.median(np.diff(ends))) / BATCH, 2)
        zip_path, images, expected, _ = matrix._pack(family, table, work)
        row["MB"] = round(zip_path.stat().st_size / 1e6, 1)
        np.savez(work / ASKED, images=np.asarray(images, np.float32), expected=expected)
    except InputError as error:
        row["why"] = str(error)
    except Exception as error:  # of a library: the others still run
        row["why"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return row


def ask_scorers(folders, pythons):
    """{scorer: {folder: what it says}}: how far each scorer's answers are from what was expected of packed networks.

    All run in one process of a scorer, since its start takes longer than they do.
    """
    found = {}
    for scorer, python in pythons.items():
        done = subprocess.run(
            [python, "-c", ANSWER, *map(str, folders)], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        lines = [line.split("\t") for line in done.stdout.splitlines() if line.startswith("/")]
        found[scorer] = {Path(folder): says for folder, says in lines}
    return found


def _same(path, other):
    if path.suffix == ".h5":
        import h5py

        with h5py.File(path) as one, h5py.File(other) as two:
            found = [[], []]
            for file, values in zip((one, two), found):
                file.visititems(
                    lambda name, item: values.append((name, item[()].tobytes())) if hasattr(item, "dtype") else None
                )
        return found[0] == found[1]
    return filecmp.cmp(path, other, shallow=False)


def measure(only=None, scorers="current", workspace=Workspace()):
    """Print the table, a row a family, and return its rows."""
    import pandas as pd

    pythons = {
        name: find_python(None if name == "current" else name if is_path(name) else f"tensorflow=={name}", workspace)
        for name in scorers.split(",")
    }
    names = only.split(",") if only else [*(f"hub:{name}" for name in HUB), *(f"cv:{name}" for name in CV), "cv:vitdet"]
    rows = []
    with tempfile.TemporaryDirectory() as root:
        place = Workspace(root)
        write_sample(place.sample_data, IMAGES, 0)
        table = make_folds(place.sample_train, name="bench", folds=2, size=SIDE, workspace=place)
        for name in names:
            prefix, _, short = name.partition(":")
            work = Path(root) / "packed" / name.replace(":", "-")
            work.mkdir(parents=True)
            if prefix == "hub":
                model = f"hub:{write_preset(Path(root) / 'presets', short)}"
            else:
                model = name if short in CV else f"cv:{write_vitdet(Path(root) / 'presets')}"
            rows.append(try_family(name.replace(":", "-"), model, table, work))
            print(rows[-1], flush=True)
            for scorer, says in ask_scorers([work], pythons).items():
                rows[-1][scorer] = says.get(work, "-")
            print(rows[-1], flush=True)
    frame = pd.DataFrame(rows).fillna("-")
    print(text_table(frame))
    return frame


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m bench.backbones", description=__doc__)
    parser.add_argument("--only", help="some of them: hub:vit,cv:resnet18; default: all")
    parser.add_argument("--scorers", default="current", help="releases of TensorFlow, and current; default: current")
    given = parser.parse_args(arguments)
    measure(given.only, given.scorers)


if __name__ == "__main__":
    main()
