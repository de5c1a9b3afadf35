"""What every measurement of `make bench` takes and gives."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """What to measure on, and how thoroughly."""

    data: Path  # folder of class folders, a zip of one, or a CSV, as for `make folds`
    work: Path  # an empty folder for whatever has to be written
    quick: bool = False  # QUICK=1: all figures together in 5 minutes on 2 cores, with shorter runs
    long: bool = False  # LONG=1: nothing is extrapolated, the largest sizes are measured


@dataclass(frozen=True)
class Figure:
    """One row of `bench/results.csv`, without what is the same for all rows (data, hardware, versions, date)."""

    name: str  # what was measured, as a short phrase
    unit: str  # of `ours` and `reference`: "s", "images/s", "MB", "accuracy"
    ours: float | None  # None: could not be measured here, `note` says why
    reference: float | None = None  # what it is compared with, measured in the same run; None: nothing
    n: int = 1  # how many measurements `ours` and `reference` are the median of
    target: str = ""  # what the ratio ours / reference (or ours alone) must reach: "<= 0.04"
    note: str = ""  # extrapolated, absent, what the reference is

    @property
    def ratio(self):
        return None if self.ours is None or not self.reference else self.ours / self.reference
