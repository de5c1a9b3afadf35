"""The Ensemble that is packed: runs, weights, views, temperature and forecast."""

from dataclasses import dataclass

import numpy as np

from competition.base.files import InputError
from competition.blending.blend import forecast_again
from competition.blending.chooser import calibrate_nested, combine, make_candidates, make_chooser
from competition.blending.forecast import check_hidden, forecast_blend
from competition.blending.record import read_blend
from competition.blending.temperature import sharpen
from competition.runs.choose_runs import count_left_out
from competition.runs.folder import check_file
from competition.runs.kinds import read_run
from competition.runs.oof import read_oof
from competition.runs.record import all_runs
from competition.runs.run import Run


@dataclass(frozen=True)
class Ensemble:
    """What goes into a zip."""

    source: str  # "blend" or "run <name>"
    members: list[tuple[Run, float]]  # with their weights, which sum to 1
    views: list[str]
    oof: np.ndarray  # its own out-of-fold probabilities, float32 [n, C]
    temperature: float = 1.0  # temperature.sharpen
    forecast: dict | None = None  # forecast.make_forecast
    folds: tuple | None = None  # whose models are in it; None: all
    half: bool = False  # weights are stored as float16; what is computed is float32


def read_ensemble(table, run=None, hidden_n=None, hidden=None):
    """The Ensemble of the blend, or of one finished run, forecast as asked; InputError as make_submission raises it."""
    return _read_run(table, run, hidden_n, hidden) if run else _read_blend(table, hidden_n, hidden)


def _read_blend(table, hidden_n=None, hidden=None):
    record = read_blend(table)
    oofs = {run: read_oof(table.paths.run(run), table) for run in record["weights"]}
    return _ensemble(
        table,
        "blend",
        oofs,
        record["weights"],
        record["views"],
        record["temperature"],
        forecast_again(table, record, hidden_n, hidden),
    )


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


def check_weights(run, table):
    """InputError where a run's weights are not there, or are damaged."""
    if missing := [file for file in run.weight_files(table.k) if not file.exists()]:
        raise InputError(f"{missing[0]}: no such file, expected a finished run's weights; train it again")
    for file in run.weight_files(table.k):
        check_file(file)
