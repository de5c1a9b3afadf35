"""A single run: each fold has one model, of one backbone and one head."""

from dataclasses import replace

import numpy as np

from competition.base import files
from competition.base.workspace import BACKBONE_FILE, HEAD_FILE, MODEL_FILE, fold_dir
from competition.features.heads import predict_heads
from competition.models.backbones import Weights
from competition.models.classifier import build_classifier, build_recipe_backbone, set_head
from competition.models.presets import preset_of
from competition.runs.folder import read_weights, weight_files
from competition.runs.run import Run


class SingleRun(Run):
    """A run of one model a fold; where only heads were trained, of one backbone and a head a fold."""

    kind = "a run of one model a fold"
    plain = True

    @staticmethod
    def fits(config):
        return True

    @staticmethod
    def count_models(config):
        return 1

    @property
    def rule(self):
        return softmax

    def weight_files(self, k):
        return weight_files(self.dir, self.frozen, k)

    def build_fold_model(self, table, fold):
        import keras

        model = self.build_logits(table, fold)
        return keras.Model(model.input, keras.layers.Softmax(dtype="float32")(model.output))

    def build_logits(self, table, fold):
        """The same up to its logits float32 [n, classes]: the model whose weights a fold's MODEL_FILE holds."""
        # how BatchNormalization learnt is nothing to inference, and a plain model can be saved whole
        settings = replace(self.recipe, batchnorm="train")
        model = build_classifier(preset_of(self.config), table.size, len(table.classes), settings, Weights("none"))
        if self.frozen:
            read_weights(model.get_layer("backbone").load_weights, self.dir / BACKBONE_FILE)
            set_head(model, read_head(self.dir, fold))
        else:
            read_weights(model.load_weights, fold_dir(self.dir, fold) / MODEL_FILE)
        return model

    def build_shared(self, table):
        backbone = build_recipe_backbone(preset_of(self.config), table.size, self.recipe, Weights("none"))
        read_weights(backbone.load_weights, self.dir / BACKBONE_FILE)
        return backbone, read_heads(self.dir, table.k)

    def predict_heads(self, fold, features):
        return predict_heads(read_head(self.dir, fold), features)


def softmax(logits, ops=np):
    """Probabilities [..., C] of logits [..., C]; `ops` is numpy or keras.ops, according to what these are."""
    powers = ops.exp(logits - ops.max(logits, -1, keepdims=True))
    return powers / ops.sum(powers, -1, keepdims=True)


def write_head(path, head, **more):
    """Write a list of float32 [inputs + 1, outputs], one for each layer, the last row its bias."""
    hidden = {f"hidden_{i}": matrix for i, matrix in enumerate(head[:-1])}
    files.write_npz(path, kernel=head[-1][:-1], bias=head[-1][-1], **hidden, **more)


def read_head(run_dir, fold):
    """A fold's head as write_head got it."""

    def read(path):
        with np.load(files.plain_file(path)) as saved:
            hidden = [saved[f"hidden_{i}"] for i in range(sum(name.startswith("hidden_") for name in saved.files))]
            return [*hidden, np.concatenate([saved["kernel"], saved["bias"][None]])]

    return read_weights(read, fold_dir(run_dir, fold) / HEAD_FILE)


def read_heads(run_dir, k):
    """The heads of k folds: of each layer a float32 [k, inputs + 1, outputs], the last row the bias."""
    return [np.stack(layer) for layer in zip(*(read_head(run_dir, fold) for fold in range(k)))]
