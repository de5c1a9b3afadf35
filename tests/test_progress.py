"""States as versions before wrote them, and what becomes of those that cannot be read."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from competition.training.progress import (
    Progress,
    read_fold_state,
    read_state,
    write_fold_state,
    write_history,
    write_state,
)

VARIABLES = [np.arange(6, dtype=np.float32).reshape(2, 3), np.float32(0.5), np.arange(3)]
BEST = [np.ones((2, 2), np.float32)]
ROW = {
    "epoch": 1,
    "phase": "full",
    "loss": 0.5,
    "accuracy": 0.25,
    "val_loss": 0.75,
    "val_accuracy": 0.5,
    "seconds": 1.5,
}


def same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert one.dtype == np.asarray(other).dtype and np.array_equal(one, other)


def test_a_fold_goes_on_from_a_state_of_before(tmp_path):
    """By the names of its arrays, more than ten of them."""
    progress = Progress(3, 2, (0.5, -0.25), (ROW,))
    many = [*VARIABLES, *(np.full(2, i) for i in range(9))]
    np.savez(
        tmp_path / "state.npz",
        progress=np.array(json.dumps(asdict(progress))),
        **{f"variable_{i}": value for i, value in enumerate(many)},
        best_0=BEST[0],
    )
    found, variables, best = read_fold_state(tmp_path)
    assert asdict(found) == json.loads(json.dumps(asdict(progress)))
    same(variables, many)
    same(best, BEST)


def test_a_gan_goes_on_from_a_state_of_before(tmp_path):
    np.savez(
        tmp_path / "state.npz",
        history=np.array(json.dumps([ROW])),
        **{f"variable_{i}": value for i, value in enumerate(VARIABLES)},
    )
    history, variables = read_state(tmp_path, "history", ["variable"])
    assert history == [ROW]
    same(variables, VARIABLES)


def test_the_names_on_disk(tmp_path):
    write_fold_state(tmp_path / "fold", Progress(history=(ROW,)), VARIABLES, BEST)
    write_state(tmp_path / "gan", "history", [ROW], variable=VARIABLES)
    names = [f"variable_{i}" for i in range(3)]
    for folder, expected in (("fold", ["progress", *names, "best_0"]), ("gan", ["history", *names])):
        with np.load(tmp_path / folder / "state.npz") as saved:
            assert saved.files == expected
    same(read_fold_state(tmp_path / "fold")[1], VARIABLES)
    assert read_state(tmp_path / "gan", "history", ["variable"])[0] == [ROW]


@pytest.mark.parametrize(
    "break_it",
    [
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: np.savez(path, variable_0=np.zeros(2)),  # without its progress
        lambda path: np.savez(path, progress=np.array('{"epochs": 3}')),  # with another one
    ],
)
def test_what_cannot_be_read_starts_anew(break_it, tmp_path, capsys):
    assert read_fold_state(tmp_path) is None and capsys.readouterr().err == ""
    write_fold_state(tmp_path, Progress(), VARIABLES, BEST)
    break_it(tmp_path / "state.npz")
    assert read_fold_state(tmp_path) is None
    error = capsys.readouterr().err
    assert "state.npz: cannot be read" in error and "this fold starts anew" in error


def test_there_is_no_history_before_the_first_epoch(tmp_path):
    write_history(tmp_path, ())
    assert not list(tmp_path.iterdir())
    write_history(tmp_path, [ROW])
    assert (tmp_path / "history.csv").read_text().startswith("epoch,phase,loss")
