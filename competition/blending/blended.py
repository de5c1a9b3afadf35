"""Blend: a blend that was chosen, to look at: its weights and views, its scores, its forecast."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from competition.base import page
from competition.blending.forecast_oof import Forecast
from competition.data.table import FoldTable
from competition.runs.oof import read_predictions
from competition.runs.trained_run import Scores


@dataclass(frozen=True, repr=False)
class Blend(Scores):
    """The blend of a fold table of n images and C classes; `record` is what its blend.json holds."""

    table: FoldTable
    record: dict[str, Any]

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

    @cached_property
    def probs(self) -> np.ndarray:
        """Its OOF probabilities with its TTA views, float32 [n, C]. InputError where its files are missing or broken."""
        return read_predictions(self.table.paths.blend, self.table).probs[0]

    def __repr__(self) -> str:
        runs = ", ".join(f"{share:.2f} {run}" for run, share in self.weights.items())
        return f"Blend of {runs}; views {', '.join(self.views)}; {self.say_scores()}\n{self.forecast!r}"

    def _repr_html_(self) -> str:
        """Weights, forecast and confusion matrix, for a notebook."""
        weights = [{"run": run, "weight": share} for run, share in self.weights.items()]
        lines = f"views {', '.join(self.views)}; {self.say_scores()}"
        return page.snippet([page.table(weights), lines, page.Html(self.forecast._repr_html_()), self.draw_confusion()])
