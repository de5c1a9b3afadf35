"""Submission: what was made to be handed in, to look at: its path, what the rehearsal found, its forecast."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from competition.base import page
from competition.base.files import read_json
from competition.base.workspace import Workspace
from competition.blending.forecast_oof import Forecast
from competition.submission.record import describe_rehearsal


@dataclass(frozen=True, repr=False)
class Submission:
    """A zip, a CSV of predictions, or the folder of a kernel.

    Attributes
    ----------
    path : pathlib.Path
        Where it lies.
    record : dict
        What is in it, by hashes, and what made it: the JSON that lies beside it.
    """

    path: Path
    record: dict[str, Any]

    @property
    def format(self) -> str:
        """A name of competition/formats/: codalab, codabench, kaggle-csv, kaggle-kernel."""
        return self.record["format"]

    @property
    def forecast(self) -> Forecast | None:
        """What it is expected to score on the hidden test; None where that is not known."""
        found = self.record.get("forecast")
        return found and Forecast.from_record(found, list(self.record["classes"].values()))

    @property
    def rehearsal(self) -> dict[str, Any]:
        """What its rehearsal measured: images, seconds, bytes of memory, differences; {} of what is not a zip."""
        return self.record.get("rehearsal", {})

    @property
    def frame(self) -> pd.DataFrame:
        """The content of a CSV of predictions, every cell a text as it stands there. ValueError of other formats."""
        if self.format != "kaggle-csv":
            raise ValueError(f"{self.path}: a submission of the format {self.format}, expected kaggle-csv")
        form = self.record.get("form", {"separator": ",", "header": True})
        header = 0 if form["header"] else None
        return pd.read_csv(self.path, dtype=str, keep_default_na=False, sep=form["separator"], header=header)

    def __repr__(self) -> str:
        lines = [f"Submission {self.path}: {self.format}, {self.record['bytes'] / 1e6:.1f} MB"]
        return "\n".join(lines + [repr(self.forecast)] * bool(self.forecast))

    def _repr_html_(self) -> str:
        """The same for a notebook, with what the rehearsal found."""
        facts = describe_rehearsal(self.record).items() if self.rehearsal else ()
        parts = [f"{self.path}: {self.format}, {self.record['bytes'] / 1e6:.1f} MB"]
        parts += [page.facts(facts)] if facts else []
        parts += [page.table(self.frame.head().to_dict("records"))] if self.format == "kaggle-csv" else []
        if forecast := self.forecast:
            parts.append(page.Html(forecast._repr_html_()))
        return page.snippet(parts)


def read_submission(path: Path, workspace: Workspace) -> Submission:
    """The Submission at a path where `make submission` or `make predict` wrote it. InputError where its record is gone."""
    beside = {".zip": path.with_suffix(".json"), ".csv": path.with_name(f"{path.name}.json")}
    return Submission(path, read_json(beside.get(path.suffix, workspace.kernel_record(path.name))))
