"""What a blend costs: passes of an image through networks, and their milliseconds."""

from dataclasses import dataclass

import numpy as np

from competition.base.files import hash_json, read_json
from competition.base.workspace import FOLD_JSON, RUN_JSON, fold_files
from competition.features.extract import MS
from competition.runs.folder import read_end
from competition.runs.kinds import kind_of


@dataclass(frozen=True)
class Networks:
    """What the zip runs of one run, for each view of an image. Runs of one key share it."""

    key: str
    passes: int  # of an image through a network
    ms: float | None  # that these take together where the run was trained; None where its record does not say


def read_networks(run_dir, k):
    """The Networks of a run: the models of k folds, or the backbone that their heads share."""
    record = read_json(run_dir / RUN_JSON)
    config, frozen = record.get("config") or {}, bool(record.get("frozen"))
    passes = kind_of(config).passes(record, k)
    ends = [read_end(path.parent) for path in fold_files(run_dir, FOLD_JSON)]
    ms = min((end[MS] for end in ends if MS in end), default=None)
    if frozen:
        recipe = config["recipe"]
        same = [config["model"], config["weights"], recipe.get("image_size"), recipe.get("least_size")]
        return Networks(hash_json(same), passes, ms)
    return Networks(run_dir.name, passes, ms and k * ms)


def price_networks(networks, views):
    """{"passes": of an image through a network, "ms": milliseconds that they take, None if unknown} of Networks."""
    slowest_first = sorted(networks, key=lambda one: -(one.ms or np.inf))
    each = {one.key: one for one in slowest_first}.values()  # the quickest of those of one key
    ms = None if any(one.ms is None for one in each) else sum(one.ms for one in each)
    return {"passes": views * sum(one.passes for one in each), "ms": ms and round(views * ms, 1)}
