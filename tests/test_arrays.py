import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from competition.base import arrays
from competition.base.arrays import Joined, Room, Rows, Stored, build_array, bytes_held, open_array, read_memory
from competition.base.files import InputError
from competition.features.views import VIEWS

ROOT = Path(__file__).parents[1]
SHAPE = (50, 4, 5, 3)
WHOLE = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)


def parts_of(whole, step=8, stop=None):
    """The `rows_from` that gives an array in parts; it fails at row `stop`, as a killed process would."""

    def rows_from(start):
        for row in range(start, len(whole), step):
            if row == stop:
                raise KeyboardInterrupt
            yield whole[row : row + step]

    return rows_from


@pytest.fixture
def stored(tmp_path):
    build_array(tmp_path / "a.npy", SHAPE, np.uint8, parts_of(WHOLE))
    return Stored(tmp_path / "a.npy")


# ------------------------------------------------------------------------------------------------- the setting


@pytest.mark.parametrize(
    "text, total",
    [
        ("4G", 4 * 2**30),
        ("512M", 2**29),
        ("1.5g", 3 * 2**29),
        ("2 GB", 2**31),
        ("1T", 2**40),
        ("64MiB", 2**26),
    ],
)
def test_a_setting_of_memory(text, total):
    memory = read_memory(text)
    assert (memory.total, memory.images, memory.features) == (total, total // 2, total // 4)
    assert f"MEMORY={text}" in str(memory)


@pytest.mark.parametrize("text", ["4", "G", "-4G", "0G", "0.0M", "4K", "much", "4G 2G", "1e3M", "1,5G", 4])
def test_a_setting_that_means_nothing(text):
    with pytest.raises(InputError, match=rf"MEMORY={text}: expected .*4G") as error:
        read_memory(text)
    assert "\n" not in str(error.value)


def test_without_a_setting_it_is_half_of_what_is_available(tmp_path, monkeypatch):
    there = read_memory()
    assert 0 < there.total < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert "half of the" in str(there) and "MEMORY=" in str(there)
    (tmp_path / "max").write_text("104857600\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(arrays, "CGROUP_LIMITS", (str(tmp_path / "max"), str(tmp_path / "none"), "/nowhere"))
    assert read_memory().total == 50 * 2**20 and "100 MB" in str(read_memory()), "a container's limit counts"


# ------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize(
    "rows",
    [
        0,
        -1,
        slice(3, 9),
        slice(None),
        slice(None, None, -7),
        slice(5, 2),
        [4, 2, 2, 49, -50],
        [],
        np.arange(50) % 3 == 1,
        np.array([], int),
        np.array([7]),
    ],
    ids=str,
)
def test_a_stored_array_is_indexed_like_one(stored, rows):
    found = stored[rows]
    assert type(found) is np.ndarray and found.flags.writeable
    np.testing.assert_array_equal(found, WHOLE[rows])


def test_rows_are_read_alike_where_the_system_has_no_preadv(tmp_path, stored, monkeypatch):
    monkeypatch.delattr(os, "preadv")
    monkeypatch.delattr(os, "posix_fadvise")
    numbers = np.random.default_rng(0).integers(0, 50, (40, 200))
    with ThreadPoolExecutor(8) as pool:
        for rows, found in zip(numbers, pool.map(stored.__getitem__, numbers)):
            np.testing.assert_array_equal(found, WHOLE[rows])
    os.truncate(tmp_path / "a.npy", 1000)
    with pytest.raises(EOFError, match="a.npy: ends before row 49"):
        stored[[49]]


def test_a_stored_array_says_what_it_is(stored):
    assert (stored.shape, stored.dtype, len(stored), stored.nbytes) == (SHAPE, np.uint8, 50, WHOLE.nbytes)
    np.testing.assert_array_equal(np.stack(list(stored)), WHOLE)
    for outside in (50, -51, [3, 50], [-51, 0]):
        with pytest.raises(IndexError):
            stored[outside]


def test_a_file_that_was_cut_is_noticed(tmp_path, stored):
    os.truncate(tmp_path / "a.npy", 1000)
    assert (stored[2] == WHOLE[2]).all()
    with pytest.raises(EOFError, match="a.npy: ends before row 49"):
        stored[[2, 49]]


def test_what_fits_is_held_in_memory(tmp_path, stored):
    held = open_array(tmp_path / "a.npy", WHOLE.nbytes)
    assert type(held) is np.ndarray and (held == WHOLE).all()
    assert isinstance(open_array(tmp_path / "a.npy", WHOLE.nbytes - 1), Stored)


def test_the_file_may_go_while_it_is_read(tmp_path, stored):
    (tmp_path / "a.npy").unlink()
    np.testing.assert_array_equal(stored[10:20], WHOLE[10:20])


@pytest.mark.parametrize("view", ["identity", "hflip", "rot180"])
def test_some_rows_of_an_array(stored, view):
    numbers = np.flatnonzero(np.arange(50) % 3 == 1)
    expected = VIEWS[view](WHOLE[numbers])
    for array in (WHOLE, stored):
        rows = Rows(array, numbers, VIEWS[view])
        assert len(rows) == len(numbers) and rows.shape == expected.shape
        np.testing.assert_array_equal(rows[:], expected)
        np.testing.assert_array_equal(rows[5:9], expected[5:9])


# ------------------------------------------------------------------------------------------ building


def test_the_file_is_what_numpy_writes(tmp_path, stored):
    np.save(tmp_path / "b.npy", WHOLE)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.npy", "b.npy"]


@pytest.mark.parametrize("stop, goes_on_at", [(0, 0), (8, 8), (32, 32)])
def test_a_build_that_stopped_goes_on(tmp_path, stop, goes_on_at):
    path = tmp_path / "new" / "a.npy"
    with pytest.raises(KeyboardInterrupt):
        build_array(path, SHAPE, np.uint8, parts_of(WHOLE, stop=stop))
    assert not path.exists()
    starts = []

    def rows_from(start):
        starts.append(start)
        return parts_of(WHOLE)(start)

    build_array(path, SHAPE, np.uint8, rows_from, step=8)
    build_array(path, SHAPE, np.uint8, rows_from, step=8)
    assert starts == [goes_on_at] and (np.load(path) == WHOLE).all()
    assert os.listdir(path.parent) == ["a.npy"]


@pytest.mark.parametrize("cut", range(1, 3 * 60, 17))
def test_a_row_written_in_part_is_written_again(tmp_path, cut):
    path, part = tmp_path / "a.npy", tmp_path / "a.npy.part"
    with pytest.raises(KeyboardInterrupt):
        build_array(path, SHAPE, np.uint8, parts_of(WHOLE, stop=24))
    os.truncate(part, part.stat().st_size - cut)
    build_array(path, SHAPE, np.uint8, parts_of(WHOLE), step=4)
    assert (np.load(path) == WHOLE).all()


@pytest.mark.parametrize("junk", [b"", b"junk", b"\x93NUMPY" + bytes(5000)])
def test_a_part_of_something_else_counts_for_nothing(tmp_path, junk):
    (tmp_path / "a.npy.part").write_bytes(junk)
    build_array(tmp_path / "a.npy", SHAPE, np.uint8, parts_of(WHOLE))
    assert (np.load(tmp_path / "a.npy") == WHOLE).all()


def test_a_full_disk_is_one_line_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match=r"a.npy: needs \d+\.\d GB more on its disk, which has .* free") as error:
        build_array(tmp_path / "a.npy", (10**9, 10**6), np.uint8, lambda start: pytest.fail("begun"))
    assert "\n" not in str(error.value) and not (tmp_path / "a.npy").exists()


def test_other_numbers_of_rows_than_said(tmp_path):
    with pytest.raises(ValueError, match="48 rows were given for 50"):
        build_array(tmp_path / "a.npy", SHAPE, np.uint8, parts_of(WHOLE[:48]))
    assert not (tmp_path / "a.npy").exists()


BUILDER = """
import sys, time
import numpy as np
from competition.base.arrays import build_array

def rows_from(start):
    for row in range(start, 50):
        print(row, flush=True)
        time.sleep(float(sys.argv[2]))
        yield np.full((1, 100_000), row, np.uint8)

build_array(sys.argv[1], (50, 100_000), np.uint8, rows_from)
"""


def build_elsewhere(path, pause):
    return subprocess.Popen([sys.executable, "-c", BUILDER, str(path), str(pause)], cwd=ROOT, stdout=subprocess.PIPE)


def test_sigkill_and_two_processes_at_once(tmp_path):
    path, part = tmp_path / "a.npy", tmp_path / "a.npy.part"
    first = build_elsewhere(path, 0.05)
    end = time.time() + 60
    while not part.exists() or part.stat().st_size < 300_000:
        assert first.poll() is None and time.time() < end
        time.sleep(0.005)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL and not path.exists()
    begun = part.stat().st_size // 100_000
    builders = [build_elsewhere(path, 0.01) for _ in range(3)]
    outputs = [builder.communicate(timeout=60)[0].split() for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0, 0]
    worked = [output for output in outputs if output]
    assert worked == [[b"%d" % row for row in range(begun, 50)]], "one of them went on, the others waited for it"
    assert (np.load(path) == np.arange(50, dtype=np.uint8)[:, None]).all()
    assert os.listdir(tmp_path) == ["a.npy"]


def test_room_is_for_all_that_is_opened_and_held_counts_what_is_in_memory(tmp_path):
    for number in range(3):
        build_array(tmp_path / f"{number}.npy", (4, 2), np.uint8, lambda start: [np.full((4 - start, 2), 7, np.uint8)])
    room = Room(17)
    found = [room.open(tmp_path / f"{number}.npy") for number in range(3)]
    assert [type(array) for array in found] == [np.ndarray, np.ndarray, Stored] and room.left == 1
    assert isinstance(Room().open(tmp_path / "0.npy"), np.ndarray)
    joined = Joined(Rows(found[0], np.array([1])), Joined(found[1], found[2]))
    assert bytes_held(joined) == 16 and bytes_held(found[2]) == 0
