"""What a zip holds, and a folder packed as one zip whose bytes depend on its content alone."""

import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from competition.base.workspace import BACKBONE_FILE
from competition.rehearsal.rehearsal import Entry
from competition.submission.network import build_networks, export_network

TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # the first that a zip can hold: the same content makes the same zip


@dataclass(frozen=True)
class Layout:
    """What the zip of one format has beside the network, and how its scorer asks that."""

    format: str
    write_code: Callable  # (folder) -> None: writes what lies beside SubmissionModel/
    entry: Entry


def build_package(ensemble, table, folder, write_code):
    """Write what the zip's root holds into `folder`: `SubmissionModel/`, and what `write_code` puts beside it."""
    folder = Path(folder)
    export_network(
        build_networks(ensemble, table),
        ensemble.views,
        table.size,
        folder / "SubmissionModel",
        ensemble.temperature,
        ensemble.half,
    )
    write_code(folder)


def weights_bytes(ensemble, table):
    """How many bytes the weights of an Ensemble take at least, in its zip's SavedModel; a backbone counts once."""
    sizes = {}
    for run, _ in ensemble.members:
        for path in run.weight_files(table.k):
            size = path.stat().st_size
            sizes[(path.name, size) if path.name == BACKBONE_FILE else path] = size
    share = len(ensemble.folds or range(table.k)) / table.k
    return int(sum(sizes.values()) * share * (0.5 if ensemble.half else 1))


def pack_folder(folder, path):
    """Zip all files below `folder`, the same bytes for the same content."""
    folder = Path(folder)
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), TIMESTAMP)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            with open(file, "rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)
