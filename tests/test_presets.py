"""Backbones of KerasHub and keras-cv: found, built for any size, frozen and decayed by blocks, and the whole way offline.

What needs KerasHub is skipped where it is not installed; keras-cv is a requirement.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import class_folders, import_keras_cv

from bench import backbones as small
from competition.base import files
from competition.base.files import InputError
from competition.base.workspace import Workspace
from competition.cli.main import main
from competition.data.folds import make_folds
from competition.models import backbones, keras_hub, presets
from competition.models.backbones import build_backbone, find_backbone, network_size, resolve_weights
from competition.models.classifier import backbone_blocks, build_classifier
from competition.models.keras_cv import NETWORKS
from competition.models.presets import Network, Preset
from competition.recipes.recipe import read_recipe
from competition.runs.kinds import read_run
from competition.training.optimizer import layer_rates
from competition.training.train import train

keras = pytest.importorskip("keras")
TINY = ["frozen_epochs=1", "epochs=1", "rate=0.01", "batch_size=8", "image_size=0", "views=identity"]


def import_keras_hub():
    return pytest.importorskip("keras_hub", reason="keras-hub is not here: make setup HUB=1")


def noise(*shape):
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)


@pytest.fixture(scope="module")
def vitdet(tmp_path_factory):
    """The folder of a small ViTDet, 32x32 pixels in patches of 8."""
    import_keras_cv()
    return small.write_vitdet(tmp_path_factory.mktemp("presets"))


def test_neither_library_is_imported_before_it_is_asked_for():
    code = (
        "import sys; import competition.models.receptive, competition.training.train; "
        "print(set(sys.modules) & {'keras_hub', 'keras_cv'})"
    )
    assert (
        subprocess.check_output([sys.executable, "-c", code], text=True, cwd=Path(__file__).parent.parent) == "set()\n"
    )


def test_without_the_extra_one_line_says_what_to_install(workdir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(keras_hub, "find_spec", lambda name: None)
    make_folds(class_folders(tmp_path / "data", {"a": 4, "b": 4}), folds=2)
    assert main(["train", "--model", "hub:vit_base_patch16_224_imagenet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "keras-hub is not installed here; make setup HUB=1" in error


def test_names_of_files_are_legal_everywhere():
    assert presets.file_name("hub:vit_base") == "hub-vit_base"
    assert presets.file_name("hub:hf://timm/resnet18.a1_in1k") == "hub-hf-timm-resnet18.a1_in1k"
    for name in backbones.backbone_names():
        assert presets.file_name(name) == name
    assert presets.is_preset("cv:resnet18") and not presets.is_preset("resnet50") and not presets.is_preset("a:b")


def test_what_is_no_preset_is_refused(tmp_path):
    import_keras_cv()
    for model, message in (
        ("cv:resnet17", "no backbone of keras-cv, close: resnet1"),
        ("cv:", "expected cv:<preset> or cv:<folder of a preset>"),
        (f"cv:{tmp_path}", "expected the folder of a preset, with config.json, found"),
        (f"cv:{tmp_path}/missing", "no folder with a config.json there"),
    ):
        with pytest.raises(InputError, match=message):
            find_backbone(model)
    for text, message in (
        ("{", "not the config.json of a preset"),
        ("[]", "found a list"),
        ("{}", "holds None, expected"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match=message):
            find_backbone(f"cv:{tmp_path}")


def test_weights_that_cannot_be_had_say_where_to_put_them(tmp_path, monkeypatch):
    import_keras_cv()
    from keras_cv.src.utils import preset_utils

    def refuse(*_):
        raise OSError("no route\nto host")

    monkeypatch.setattr(preset_utils, "get_file", refuse)
    with pytest.raises(
        InputError, match=r"model.weights.h5 is not here .* \(no route to host\)\. Ways on: .*kaggle://"
    ):
        resolve_weights("cv:resnet50_imagenet")
    with pytest.raises(
        InputError, match="keras-cv has no weights of that name; MODEL=cv:resnet50_imagenet has, WEIGHTS=none"
    ):
        resolve_weights("cv:resnet50")
    with pytest.raises(InputError, match="expected a folder that holds model.weights.h5 for cv:resnet18"):
        resolve_weights("cv:resnet18", tmp_path)
    assert resolve_weights("cv:resnet18", "none") == backbones.Weights("none")
    (tmp_path / "model.weights.h5").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"model.weights.h5: not weights of cv:yolo_v8_xs_backbone, as its library"):
        name = "cv:yolo_v8_xs_backbone"
        build_backbone(name, (32, 32), None, resolve_weights(name, tmp_path))


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet34_v2", "csp_darknet_tiny", "yolo_v8_xs_backbone", "mobilenet_v3_small"]
)
def test_described_networks_are_those_of_keras_cv(name):
    """By the numbers of weights that keras-cv states; that of MobileNetV3 is another one than its own network's, which
    has as many as that of keras.applications."""
    models = import_keras_cv().models
    backbone = build_backbone(f"cv:{name}", (32, 32))
    stated = getattr(models, NETWORKS[name][0]).presets[name]["metadata"]["params"]
    assert backbone.count_params() == (939120 if name == "mobilenet_v3_small" else stated)
    assert backbone.output_shape == (None, backbone.layers[-1].input.shape[-1])


def test_the_weights_of_a_folder_give_what_its_library_gives(vitdet, monkeypatch):
    keras_cv = import_keras_cv()
    model = find_backbone(f"cv:{vitdet}")
    weights = resolve_weights(model)
    assert model == "cv:vitdet" and weights.path == vitdet / "model.weights.h5" and weights.sha256
    assert find_backbone("cv:vitdet", vitdet.parent).network == model.network == find_backbone("cv:any", vitdet).network
    assert resolve_weights("cv:vitdet", vitdet.parent).sha256 == weights.sha256
    theirs = keras_cv.models.ViTDetBackbone(**small.VITDET)
    theirs.load_weights(weights.path)
    images = noise(2, 32, 32, 3)
    ours = build_backbone(model, (32, 32), None, weights)
    np.testing.assert_allclose(np.asarray(ours(images)), np.asarray(theirs(images)).mean((1, 2)), atol=1e-5)
    assert list(backbones.find_weights_at_hand(vitdet.parent)) == ["cv:vitdet"]
    assert {
        kind: where.name for kind, where in backbones.find_weights_at_hand(vitdet.parent).items() if not where.path
    } == {}


def test_other_sizes_come_up_to_the_patches_with_positions_resized(vitdet):
    model = find_backbone(f"cv:{vitdet}")
    assert network_size(model, (30, 20)) == (32, 32) and network_size(model, (40, 41)) == (48, 48)
    assert network_size(model, (30, 20), 36) == (40, 40)
    with pytest.raises(InputError, match="image_size is 4, expected at least 8"):
        network_size(model, (30, 20), 4)
    backbone = build_backbone(model, (40, 41), None, resolve_weights(model))
    assert np.isfinite(np.asarray(backbone(noise(1, 40, 41, 3)))).all()


def test_embeddings_of_positions_at_another_size():
    tokens = np.concatenate([[[7.0, 7.0]], np.ones((12, 2)), np.full((3 * 4 - 12, 2), 1)]).astype(np.float32)
    found = presets._resize_positions(tokens, (1 + 5 * 6, 2), (5, 6), (3, 4), "positions")
    np.testing.assert_allclose(found[0], 7)  # the class token
    np.testing.assert_allclose(found[1:], 1, atol=1e-5)
    ramp = np.repeat(np.arange(4, dtype=np.float32), 4).reshape(1, 16, 1)  # rows differ, columns do not
    found = presets._resize_positions(ramp, (1, 64, 1), (8, 8), (4, 4), "positions").reshape(8, 8)
    assert (np.diff(found, axis=0) >= -0.1).all() and np.ptp(found, axis=1).max() < 1e-5 and found[-1, 0] > 2.5
    table = presets._resize_positions(
        np.ones((49, 3), np.float32), (9, 3), (4, 4), (8, 8), "relative_position_bias_table"
    )
    np.testing.assert_allclose(table, np.ones((9, 3)), atol=1e-5)
    with pytest.raises(InputError, match=r"kernel has shape \[3, 4\], expected \[5, 4\]"):
        presets._resize_positions(np.ones((3, 4), np.float32), (5, 4), None, None, "kernel")


def test_a_run_needs_the_folder_no_more_and_another_network_of_that_name_is_refused(vitdet, workdir, tmp_path):
    make_folds(class_folders(tmp_path / "data", {"a": 8, "b": 8}, height=24, width=24), folds=2)
    folder = tmp_path / "mine" / "vitdet"
    folder.mkdir(parents=True)
    for path in vitdet.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    run = train(f"cv:{folder}", overrides=TINY)
    assert run.name == "cv-vitdet-quick"
    config = files.read_json(run / "run.json")["config"]
    assert config["model"] == "cv:vitdet" and config["network"]["config"]["embed_dim"] == 16
    config = json.loads((folder / "config.json").read_text())
    config["config"]["mlp_dim"] = 24
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"begun with network.config.mlp_dim = 32 \(now 24\); take another name"):
        train(f"cv:{folder}", overrides=TINY)
    for path in (*folder.iterdir(), folder):
        path.rmdir() if path.is_dir() else path.unlink()
    table = make_folds(tmp_path / "data", folds=2)
    found = read_run(run, table).build_fold_model(table, 0)(noise(3, 24, 24, 3))
    np.testing.assert_allclose(np.asarray(found).sum(1), 1, rtol=1e-5)


def test_a_transformer_inside_one_layer_is_as_many_blocks_as_it_has():
    class Block(keras.layers.Layer):
        __module__ = "keras_hub.any"

        def __init__(self, **options):
            super().__init__(**options)
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    class Encoder(keras.layers.Layer):
        __module__ = "keras_hub.any"

        def __init__(self):
            super().__init__(name="encoder")
            self.parts = [Block(name=f"block_{i}") for i in range(3)]
            self.norm = keras.layers.LayerNormalization(name="norm")

        def call(self, x):
            for part in self.parts:
                x = part(x)
            return self.norm(x)

    encoder = Encoder()
    image = keras.Input((2,))
    model = keras.Model(image, encoder(image))
    assert [part.name for part in backbone_blocks(model)] == [
        model.layers[0].name,
        "block_0",
        "block_1",
        "block_2",
        "norm",
    ]
    Encoder.__module__ = "mine"
    assert backbone_blocks(model) == model.layers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folders of a small ViT and a small ResNet, as KerasHub saves them."""
    import_keras_hub()
    folder = tmp_path_factory.mktemp("hub")
    for name in ("vit", "resnet"):
        small.write_preset(folder, name)
    return folder


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_a_folder_of_keras_hub_gives_what_keras_hub_gives(folder, name):
    theirs = import_keras_hub().models.Backbone.from_preset(str(folder / name))
    model = find_backbone(f"hub:{folder / name}")
    images = noise(2, 32, 32, 3)
    found = np.asarray(build_backbone(model, (32, 32), None, resolve_weights(model))(images))
    expected = np.asarray(theirs(images * np.float32([1 / 127.5, 1 / 120, 1 / 130]) - 1))
    np.testing.assert_allclose(found, expected[:, 0] if name == "vit" else expected.mean((1, 2)), atol=1e-4)
    other = build_backbone(model, (40, 48), None, resolve_weights(model))  # another grid of patches
    assert np.isfinite(np.asarray(other(noise(1, 40, 48, 3)))).all()


def test_blocks_of_a_vit_are_frozen_and_decayed(folder):
    model = find_backbone(f"hub:{folder / 'vit'}")
    settings = read_recipe("quick", ["frozen_share=0.5", "layer_decay=0.5", "image_size=0"])
    classifier = build_classifier(model, (32, 32), 3, settings, backbones.Weights("none"))
    names = [part.name for part in backbone_blocks(classifier.get_layer("backbone"))]
    assert names[-4:] == ["transformer_block_1", "transformer_block_2", "dropout", "ln"]
    rates = layer_rates(classifier, settings)
    learnt = {variable.path for variable in classifier.get_layer("backbone").trainable_variables}
    assert set(rates) == learnt and {part for part in learnt if "position_embedding" in part} == set()
    assert sorted(set(rates.values())) == [0.5, pytest.approx(0.5**0.5)]  # the second block and the last layer are left


def test_presets_that_keras_hub_lacks_are_refused(folder, tmp_path):
    import_keras_hub()
    with pytest.raises(InputError, match="has no preset of that name, close: .*vit_base_patch16_224_imagenet"):
        find_backbone("hub:vit_base_patch16_22")
    (tmp_path / "config.json").write_text(json.dumps({"registered_name": "keras_hub>BertBackbone", "config": {}}))
    with pytest.raises(InputError, match="BertBackbone is no network that takes images alone"):
        find_backbone(f"hub:{tmp_path}")


def test_a_preset_that_cannot_be_downloaded_says_which_files_to_put_where(monkeypatch):
    models = import_keras_hub().models

    def refuse(*_, **__):
        raise OSError("no route\nto host")

    monkeypatch.setattr(models.Backbone, "from_preset", refuse)
    with pytest.raises(
        InputError, match=r"\(config.json, image_converter.json, model.weights.h5\) are not here .*no route to"
    ):
        find_backbone("hub:vit_base_patch16_224_imagenet")


def test_folders_go_the_whole_way_offline(folder, workdir, tmp_path, capsys, monkeypatch):
    """Rank, train in both phases, blend, explain, submission with its rehearsal, by the commands."""
    make_folds(class_folders(tmp_path / "data", {"a": 12, "b": 12}, height=24, width=24), folds=2)
    assert main(["rank", "--weights", str(folder), "--recipe", "quick", "--grid", "frozen_rate=0.01"]) == 0
    assert set(files.read_csv("runs/data/rank.csv")["backbone"]) == {"hub:vit", "hub:resnet"}
    for name in ("vit", "resnet"):
        options = ["--again", "0", *(part for setting in TINY for part in ("--set", setting))]
        assert main(["train", "--model", f"hub:{folder / name}", *options]) == 0
    assert main(["explain", "--run", "hub-vit-quick"]) == 0
    assert "the image, occlusion; for the class" in Path("runs/data/hub-vit-quick/explain/explain.html").read_text(
        "utf-8"
    )
    assert main(["blend"]) == 0 and main(["submission"]) == 0
    assert "rehearsed" in capsys.readouterr().out


def test_a_network_that_the_scorer_cannot_run_is_refused_before_it_is_trained(workdir, tmp_path, capsys):
    """A Python without TensorFlow stands for a TensorFlow that lacks what the network does; then the project's own."""
    make_folds(class_folders(tmp_path / "data", {"a": 4, "b": 4}, height=8, width=8), folds=2)
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'NotFoundError: Op type not registered' >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(InputError, match=r"cannot load or run this network, .*: NotFoundError: Op type not registered"):
        train("baseline", overrides=["epochs=1"], scorer=str(program))
    assert not Path("runs").exists()
    train("baseline", overrides=["epochs=1"], scorer=sys.executable)
    assert "baseline: TensorFlow 2." in capsys.readouterr().out and Path("runs/data/baseline-quick/run.json").is_file()


def test_the_example_of_the_docs_runs(workdir, monkeypatch):
    page = (Path(__file__).parent.parent / "docs/how-to/backbones.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    assert "epochs=20" in code
    monkeypatch.setattr(backbones, "_OWN", {})
    data = class_folders(workdir / "data", {"a": 6, "b": 6}, height=16, width=16)
    make_folds(data, folds=2, workspace=Workspace("work"))
    exec(compile(code.replace("epochs=20", "epochs=1, again=False"), "backbones.md", "exec"), {})
    record = files.read_json("work/runs/data/mine-quick/run.json")
    assert record["finished"] and record["config"]["weights"] == files.sha256_file("mine.weights.h5")


def test_a_preset_object_is_a_name_with_its_network():
    preset = Preset("hub:any", Network("keras_hub>ViTBackbone", {"patch_size": [8, 8], "image_shape": [32, 48, 3]}))
    assert preset == "hub:any" and json.dumps([preset]) == '["hub:any"]'
    assert presets.preset_of({"model": "vgg16"}) == "vgg16"
    config = {"model": "hub:any", **presets.preset_config(preset)}
    assert presets.preset_of(json.loads(json.dumps(config))).network == preset.network
    assert presets.native_size(preset.network) == (32, 48) and presets.fit_size(preset.network, (9, 30)) == (16, 32)
