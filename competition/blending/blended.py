"""Blend: a blend that was chosen, to look at: its weights and views, its scores, its forecast."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from competition.base import page
from competition.blending.forecast_oof import Forecast
from competition.blending.record import read_blend as read_record
from competition.data.table import FoldTable
from competition.runs.oof import read_predictions
from competition.runs.trained_run import Scores


@dataclass(frozen=True, repr=False, eq=False)
class Blend(Scores):
    """A blend of a fold table of n images and C classes.

    Attributes
    ----------
    table : FoldTable
        The fold table.
    record : dict
        What its blend.json holds.
    probs : numpy.ndarray
        Its OOF probabilities with its TTA views, float32 [n, C], in the table's order.
    """

    table: FoldTable
    record: dict[str, Any]
    probs: np.ndarray

    @property
    def weights(self) -> dict[str, float]:
        """{run: share}; the shares add up to 1."""
        return self.record["weights"]

    @property
    def views(self) -> list[str]:
        """The names of its TTA views."""
        return self.record["views"]

    @property
    def temperature(self) -> float:
        """Probabilities are taken to the power of 1 / temperature."""
        return self.record["temperature"]

    @property
    def forecast(self) -> Forecast:
        """What it is expected to score on the hidden test."""
        return Forecast.from_record(self.record["forecast"], self.table.classes)

    @property
    def candidates(self) -> pd.DataFrame:
        """A row for each way to weigh the runs that was tried, with its nested and in-sample score, and its price."""
        return pd.DataFrame(self.record["candidates"])

    def __repr__(self) -> str:
        runs = ", ".join(f"{share:.2f} {run}" for run, share in self.weights.items())
        return f"Blend of {runs}; views {', '.join(self.views)}; {self.say_scores()}\n{self.forecast!r}"

    def _repr_html_(self) -> str:
        """Weights, forecast and confusion matrix, for a notebook."""
        weights = [{"run": run, "weight": share} for run, share in self.weights.items()]
        lines = f"views {', '.join(self.views)}; {self.say_scores()}"
        return page.snippet([page.table(weights), lines, page.Html(self.forecast._repr_html_()), self.draw_confusion()])


def read_blend(table: FoldTable) -> Blend:
    """The Blend that lies beside the runs of a table. InputError where there is none, or it or a member has changed."""
    return Blend(table, read_record(table), read_predictions(table.paths.blend, table).probs[0])
