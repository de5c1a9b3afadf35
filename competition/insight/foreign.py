"""Single images that do not belong to the data: in the features of a frozen backbone nothing lies near them.

Organisers plant them, and collections from the web have them: a drawing, a screenshot, a face among plants. How far an
image is from its nearest neighbours tells it without a label or a training (Ramaswamy, Rastogi and Shim 2000, "Efficient
algorithms for mining outliers from large data sets"; Sun et al. 2022, arXiv:2204.06507, by deep features).
"""

from dataclasses import dataclass

import numpy as np

from competition.base.arrays import Stored
from competition.data.table import FoldTable, group_ids
from competition.features.extract import is_usable
from competition.features.frozen import find_features
from competition.insight.look import robust_z

NEIGHBOURS = 5  # whose mean distance counts
LIMIT = 5.0  # robust standard deviations of the logarithm of that, above which an image stands out
COMPARED = 20_000  # images at most that neighbours are looked for among
PART = 1024  # images at a time


@dataclass(frozen=True)
class Foreign:
    """How far images are from all others."""

    features: str  # what they are compared in, as text
    z: np.ndarray  # float64 [n], robust standard deviations above the median

    @property
    def ranked(self):
        """Rows of the images that stand out, the furthest first, int64 [m]."""
        order = np.argsort(-self.z, kind="stable")
        return order[self.z[order] > LIMIT]


def find_foreign(table: FoldTable) -> Foreign | None:
    """The Foreign images of a table by features that training or ranking has left; None where there are none."""
    found = next((kept for kept in find_features(table, "identity") if is_usable(kept[1])), None)
    if not found or len(table.images) <= NEIGHBOURS + 1:
        return None
    key, path = found
    distances = measure_distances(Stored(path), group_ids(table))
    name = f"{key['model']} at {key['image_size']} pixels" if key.get("image_size") else key["model"]
    return Foreign(f"frozen features of {name}", robust_z(np.log(np.maximum(distances, 1e-6))))


def measure_distances(features, groups):
    """The mean cosine distance of images from their NEIGHBOURS nearest, float64 [n].

    features  [n, d], an array or arrays.Stored; groups: int [n], images of one group show the same and are no neighbours:
              else a picture that occurs twice would be at home
    """
    n = len(features)
    compared = np.sort(np.random.default_rng(0).permutation(n)[:COMPARED])
    mean = np.mean([features[np.array([row])][0] for row in compared[:: -(-len(compared) // PART)]], axis=0)

    def unit(rows):
        centred = np.asarray(features[rows], np.float32) - mean
        return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)

    others = unit(compared)
    found = np.empty(n)
    for start in range(0, n, PART):
        rows = np.arange(start, min(n, start + PART))
        alike = unit(rows) @ others.T
        alike[groups[rows][:, None] == groups[compared]] = -1
        found[rows] = 1 - np.partition(alike, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:].mean(1)
    return found
