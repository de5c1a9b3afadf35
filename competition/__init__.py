"""A toolkit for image-classification competitions: images to folds to OOF predictions to a blend to a proven zip.

The packages lie along the data's way. Each imports those above it in this list, and none below:

    base         files, folders on disk, arrays, text, metrics, statistics, the start of Keras
    models       backbones, their weights, backbone and head as one network
    rehearsal    a zip run by a fresh, isolated Python, as a scorer runs it
    data         images and labels as the user has them, the fold table, groups of near-duplicates
    features     TTA views, augmentation, what frozen backbones make of images, heads on that
    recipes      how to train: the keys of a recipe, the recipes that come along, what fits a fold table
    runs         what training leaves: records, OOF predictions, the kinds of run, prediction with fold models
    blending     weights, views and temperature chosen on the OOF, and the forecast of the hidden score
    training     folds through both phases, double models, soups, teachers, GANs
    submission   a blend as one network in one zip, its limits, its record, the log of scores
    insight      what lies in the data and what a model sees: look, sanity, audit, shift, explain
    formats      a module a format that competitions ask for
    checking     what is wrong with any zip, whoever made it
    trials       whole programmes of runs: rank, tune, study, simulate, demo, matrix
    api          Competition: a folder whose methods are the commands, for Python and notebooks
    cli          the table of commands, and the command line made of it
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from competition.api.competition import Competition as Competition
    from competition.base.files import InputError as InputError
    from competition.base.page import Page as Page
    from competition.blending.blended import Blend as Blend
    from competition.blending.forecast_oof import Forecast as Forecast
    from competition.blending.forecast_oof import forecast as forecast
    from competition.checking.check_zip import ZipReport as ZipReport
    from competition.checking.check_zip import check_zip as check_zip
    from competition.data.duplicates import find_duplicates as find_duplicates
    from competition.data.splitter import StratifiedGroupFolds as StratifiedGroupFolds
    from competition.data.table import FoldTable as FoldTable
    from competition.models.backbones import register_backbone as register_backbone
    from competition.runs.trained_run import TrainedRun as TrainedRun
    from competition.submission.outputs import Submission as Submission
    from competition.training.callbacks import Callback as Callback
    from competition.training.tensorboard import TensorBoard as TensorBoard
    from competition.trials.sample import write_sample as write_sample

PUBLIC = {  # name: the module that it is from, imported when it is asked for, as most take seconds
    "Competition": "competition.api.competition",
    "InputError": "competition.base.files",
    "FoldTable": "competition.data.table",
    "TrainedRun": "competition.runs.trained_run",
    "Blend": "competition.blending.blended",
    "Submission": "competition.submission.outputs",
    "Callback": "competition.training.callbacks",
    "TensorBoard": "competition.training.tensorboard",
    "Forecast": "competition.blending.forecast_oof",
    "forecast": "competition.blending.forecast_oof",
    "find_duplicates": "competition.data.duplicates",
    "StratifiedGroupFolds": "competition.data.splitter",
    "write_sample": "competition.trials.sample",
    "register_backbone": "competition.models.backbones",
    "check_zip": "competition.checking.check_zip",
    "ZipReport": "competition.checking.check_zip",
    "Page": "competition.base.page",
}
__all__ = ["__version__", *PUBLIC]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(import_module(PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})
