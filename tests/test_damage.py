"""Damage to what a run left is noticed where it is read, by the sha256 in its record, and the remedy is said."""

import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import class_folders

from competition.base import backend, files
from competition.base.files import InputError
from competition.base.sums import SUMS
from competition.base.workspace import (
    FOLD_JSON,
    HISTORY_CSV,
    MODEL_FILE,
    OOF_CSV,
    OOF_NPZ,
    RUN_JSON,
    STATE_NPZ,
    VIEWS_NPZ,
    fold_dir,
)
from competition.cli.main import main
from competition.data.table import read_folds
from competition.runs import oof
from competition.runs.folder import read_end
from competition.runs.kinds import read_run
from competition.submission.ensemble import read_ensemble

TRAIN = ["train", "MODEL=baseline", "SET=epochs=1", "AGAIN=0"]
RUN = Path("runs/arten/a")
REMEDY = "make train MODEL=baseline RUN=a NAME=arten"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a fold table and a finished run `a`; and what of it no fsync had brought to the disk."""
    place = tmp_path_factory.mktemp("damage")
    data = class_folders(place / "data", {"oak": 8, "ash": 8})
    synced, fsync, before = set(), os.fsync, os.getcwd()
    os.chdir(place)
    try:
        os.fsync = lambda handle: synced.add(os.fstat(handle).st_ino) or fsync(handle)
        assert main(["folds", "--data", str(data), "--folds", "2", "--name", "arten"]) == 0
        assert main([*TRAIN, "RUN=a"]) == 0
    finally:
        os.fsync = fsync
        os.chdir(before)
    there = [place / "folds", *(place / "folds").iterdir(), place / RUN, *(place / RUN).rglob("*")]
    return place, [path.relative_to(place) for path in there if path.stat().st_ino not in synced]


@pytest.fixture(autouse=True)
def inside(place, monkeypatch):
    monkeypatch.chdir(place[0])


@pytest.fixture
def table():
    return read_folds("arten")


@pytest.fixture
def damage():
    """A function that flips one bit of a file, in its middle; at the end the file is as it was."""
    kept = {}

    def flip(path):
        data = bytearray(kept.setdefault(path, path.read_bytes()))
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    yield flip
    for path, data in kept.items():
        path.write_bytes(data)


def fold_file(name):
    return fold_dir(RUN, 0) / name


READERS = {  # what reads a file of the run: a function of the fold table
    fold_file(MODEL_FILE): lambda table: read_run(RUN, table).build_fold_model(table, 0),
    fold_file(VIEWS_NPZ): lambda table: oof.read_fold(fold_dir(RUN, 0), table, 0),
    fold_file(HISTORY_CSV): lambda table: oof.read_history(fold_file(HISTORY_CSV)),
    fold_file("epochs/001.npz"): lambda table: oof.read_epoch(fold_file("epochs/001.npz")),
    RUN / OOF_NPZ: lambda table: oof.read_oof(RUN, table),
    RUN / OOF_CSV: lambda table: oof.read_oof(RUN, table),
}


@pytest.mark.parametrize("path", READERS, ids=str)
def test_one_flipped_bit_is_refused_with_the_remedy(path, table, damage):
    READERS[path](table)
    damage(path)
    removed = f"`rm {path}`" if path.name not in (HISTORY_CSV, "001.npz") else f"`rm -r {fold_dir(RUN, 0)}`"
    with pytest.raises(InputError, match=f"{path}: .*damaged or changed: its sha256 is .*{removed}.*{REMEDY}") as error:
        READERS[path](table)
    assert "\n" not in str(error.value)


def test_no_zip_or_prediction_is_made_of_damaged_weights(table, damage, capsys):
    damage(fold_file(MODEL_FILE))
    with pytest.raises(InputError, match="damaged or changed"):
        read_ensemble(table, "a")
    assert main(["predict", "--run", "a", "--test", "data"]) == 2
    assert f"error: {fold_file(MODEL_FILE)}: damaged or changed" in capsys.readouterr().err


@pytest.mark.parametrize("path", READERS, ids=str)
def test_a_run_of_a_version_without_hashes_is_read_unchecked(path, table, monkeypatch):
    """As of its bytes: what is flipped is something that its format does not notice, or that is refused as ever."""
    for record in (RUN / RUN_JSON, fold_file(FOLD_JSON)):
        kept = record.read_text("utf-8")
        content = json.loads(kept)
        assert content.pop(SUMS)
        monkeypatch.setitem(KEPT, record, kept)
        record.write_text(json.dumps(content), "utf-8")
    try:
        READERS[path](table)
    finally:
        for record, kept in KEPT.items():
            record.write_text(kept, "utf-8")


KEPT: dict[Path, str] = {}


@pytest.mark.parametrize("content", ["", "{", "\0" * 100])
def test_a_broken_record_is_refused_with_its_remedy(table, capsys, content):
    for path, words in (
        (fold_file(FOLD_JSON), [f"`rm {fold_file(FOLD_JSON)}`", REMEDY]),
        (RUN / RUN_JSON, [f"`rm -r {RUN}` and train it again"]),
        (Path("folds/arten.json"), ["run `make folds` again"]),
    ):
        kept = path.read_bytes()
        path.write_text(content, "utf-8")
        try:
            assert main(["blend"]) == 2
        finally:
            path.write_bytes(kept)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {path}: ") and all(word in line for word in words), line
        assert files.MEND not in line or path.parent == Path("folds"), "two remedies"


def test_what_is_missing_is_not_to_be_removed(table):
    fold_file(FOLD_JSON).rename("kept.json")
    try:
        with pytest.raises(InputError, match=r"fold\.json: no such file; the command that made it again, `make train"):
            read_end(fold_file(FOLD_JSON).parent)
    finally:
        Path("kept.json").rename(fold_file(FOLD_JSON))


def test_the_remedy_is_one(table, damage, capsys):
    """What was removed comes back, with another hash where the file has times in it."""
    before = oof.read_oof(RUN, table).probs
    shutil.copytree(RUN, "kept")
    try:
        damage(fold_file(MODEL_FILE))
        assert main([*TRAIN, "RUN=a"]) == 0  # needs no weights, and notices nothing
        fold_file(MODEL_FILE).unlink()
        assert main([*TRAIN, "RUN=a"]) == 0
        shutil.rmtree(fold_dir(RUN, 1))
        (RUN / OOF_NPZ).unlink()
        assert main([*TRAIN, "RUN=a"]) == 0
        read_ensemble(table, "a")
        np.testing.assert_array_equal(oof.read_oof(RUN, table).probs, before)
    finally:
        shutil.rmtree(RUN)
        os.rename("kept", RUN)


def test_a_state_does_not_outlive_its_fold(table):
    """A kill may come between the end of a fold and the removal of its state."""
    fold_file(STATE_NPZ).write_bytes(b"left by a kill")
    assert main([*TRAIN, "RUN=a"]) == 0
    assert not fold_file(STATE_NPZ).exists()


def test_what_ends_a_fold_and_a_run_outlives_a_power_cut(place):
    """A disk that forgets whatever no fsync brought to it, be it a file or which names a folder has, forgets nothing
    that a record speaks of."""
    assert set(place[1]) <= {RUN / ".lock"}


def test_weights_are_written_through_memory_to_the_same_bytes(tmp_path, monkeypatch):
    import h5py
    import keras

    # HDF5 puts the second of writing into a file
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    for attempt in range(3):
        model.save_weights(tmp_path / "plain.weights.h5")
        backend.write_weights(tmp_path / "ours.weights.h5", model)
        if same := (tmp_path / "plain.weights.h5").read_bytes() == (tmp_path / "ours.weights.h5").read_bytes():
            break
    assert same and sorted(path.name for path in tmp_path.iterdir()) == ["ours.weights.h5", "plain.weights.h5"]
    opened, plain = [], h5py.File
    monkeypatch.setattr(h5py, "File", lambda *a, **k: opened.append(k.get("driver")) or plain(*a, **k))
    model.load_weights(tmp_path / "ours.weights.h5")
    assert opened == [None], "reading is as ever"


def test_weights_of_two_threads_leave_hdf5_as_it_was(tmp_path):
    import h5py

    class Slow:
        def save_weights(self, path):
            with h5py.File(path, "w"):
                time.sleep(0.2)

    plain = h5py.File
    threads = [threading.Thread(target=backend.write_weights, args=(tmp_path / f"{n}.h5", Slow())) for n in range(2)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    assert h5py.File is plain and len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_weights_that_find_no_room_are_one_line_and_no_crash(tmp_path):
    """The real thing. HDF5 itself ends the process with a segmentation fault at its exit."""
    import resource

    import keras

    model = keras.Sequential([keras.Input((400,)), keras.layers.Dense(400)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        with pytest.raises(InputError, match="x.weights.h5: not written, File too large: it needs 6[0-9][0-9].* KB"):
            backend.write_weights(tmp_path / "x.weights.h5", model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_room_is_asked_for_before_the_training(monkeypatch, capsys):
    monkeypatch.setattr(files, "free_bytes", lambda path: 1000)
    assert main([*TRAIN, "RUN=b"]) == 2
    error = capsys.readouterr().err
    assert f"error: {Path('runs/arten/b')}: its disk has 1000 bytes free, the training of 2 folds" in error
    assert error.splitlines()[-1].count("144.1 KB") == 1, "8 times the weights and biases of a dense layer of 2304 x 2"
    assert not list(Path("runs/arten/b").rglob("epochs"))
    shutil.rmtree("runs/arten/b")


def test_a_full_disk_elsewhere_is_one_line(monkeypatch, capsys):
    from competition.api.competition import Competition

    def fail(*_, **__):
        raise OSError(28, "No space left on device", "somewhere/x")

    monkeypatch.setattr(Competition, "blend", fail)
    assert main(["blend"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: somewhere/x: No space left on device")
