"""The predictions of runs, or of the blend, by which the commands of insight judge images."""

from dataclasses import dataclass

import numpy as np

from competition.base import files
from competition.base.files import InputError
from competition.base.workspace import OOF_NPZ
from competition.blending.record import read_blend
from competition.runs.oof import OOF, read_oof, read_predictions
from competition.runs.record import all_runs


@dataclass(frozen=True)
class Scored:
    """The predictions that an image is judged by, float64 [n, C], what they are, the runs, and their files' hashes."""

    name: str
    probs: np.ndarray
    runs: dict[str, OOF]
    hashes: dict[str, str]  # run, or "blend": sha256 of its oof.npz


def read_scored(table, runs=None):
    """The Scored of runs "a,b,c", or, without them, of the blend, or, without one, of all finished runs.

    The runs of a blend are all finished ones: what any of them gets right is no riddle. Raises InputError for runs that
    are missing, unfinished or made on another table, for an outdated blend, and where there is no finished run.
    """
    folder = table.paths.runs
    asked = list(dict.fromkeys(run.strip() for run in (runs or "").split(",") if run.strip()))
    names = asked or [run for run, finished in all_runs(table.paths).items() if finished]
    if not names:
        raise InputError(f"{folder}/: no finished run; `make train MODEL=... NAME={table.name}` makes one")
    oofs = {run: read_oof(folder / files.check_name("RUNS", run), table) for run in names}
    hashes = {run: files.sha256_file(folder / run / OOF_NPZ) for run in names}
    if not asked and table.paths.blend_json.exists():
        read_blend(table)
        hashes["blend"] = files.sha256_file(table.paths.blend / OOF_NPZ)
        return Scored("the blend", read_predictions(table.paths.blend, table).probs[0].astype(float), oofs, hashes)
    mean = np.mean([oof.mean(["identity"]) for oof in oofs.values()], axis=0)
    return Scored(names[0] if len(names) == 1 else f"the mean of {len(names)} runs", mean, oofs, hashes)
