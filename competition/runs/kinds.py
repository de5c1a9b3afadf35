"""The kinds of run, in one table: whoever has a run's folder or config asks here what kind it is of."""

from competition.runs.run import read_checked
from competition.runs.single import SingleRun
from competition.runs.tree import TreeRun

KINDS = (TreeRun, SingleRun)  # a run is of the first that fits its config; the last fits every config


def kind_of(config):
    """The class in KINDS for the run of a config, a dict. None, of predictions from elsewhere, means a single run."""
    return next(kind for kind in KINDS if kind.fits(config or {}))


def read_run(run_dir, table):
    """The Run in a folder; InputError when it is none, or belongs to another fold table or other images.

    Predictions that were made elsewhere may have a record without a config: those have no models, and are no Run.
    """
    record = read_checked(run_dir, table)
    return kind_of(record["config"]).from_record(run_dir, record)
