"""The way from folds to the zip without what only POSIX has. It stands for Windows and macOS, where nothing was tried.

A child Python loses the modules and functions of POSIX that the toolkit could have called, and all programs of the
PATH, such as `unshare`. It keeps what its libraries cannot do without on Linux:

- psutil imports `resource` and calls sysconf, on Linux alone: it is imported before these go.
- subprocess and multiprocessing need `_posixsubprocess`; on Windows they have `_winapi`.
- filelock finds no fcntl and takes its lock of files that are merely there; on Windows it has a native one.

A text that is read or written without an encoding is an error there, as Windows would take another than UTF-8.
The process that rehearses the zip is another Python, which loses the PATH alone.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import class_folders

from competition.base.files import InputError
from competition.data.sources import open_source

ROOT = Path(__file__).parents[1]
CHILD = """
import os, sys, warnings
import psutil

for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("posix_fadvise", "preadv", "pread", "sched_getaffinity", "sysconf", "fork", "geteuid", "getuid", "killpg"):
    delattr(os, name)
warnings.filterwarnings("ignore", "only soft file lock", module="filelock")
warnings.filterwarnings("error", category=EncodingWarning, module="competition")

from competition.cli.main import main
from competition.rehearsal import sandbox

sandbox.LEVELS = ()  # no way to keep a process apart works there

for words in (
    ["folds", "--data", sys.argv[1], "--folds", "2"],
    ["train", "MODEL=baseline", "SET=epochs=1", "AGAIN=0", "MEMORY=0.1M"],
    ["blend"],
    ["submission"],
):
    code = main(words)
    if code:
        sys.exit(f"{words[0]}: exit code {code}")
"""


def test_from_folds_to_the_zip_without_posix(tmp_path):
    data = class_folders(tmp_path / "my photos é" / "of plants", {"oak": 12, "ash": 12, "elm": 12})
    work = tmp_path / "a work space é"
    work.mkdir()
    programs = tmp_path / "no programs"
    programs.mkdir()
    own = tmp_path / "tmp"  # others, who have locks, would take its unlocked folders for left behind
    own.mkdir()
    environment = {
        name: value for name, value in os.environ.items() if name not in ("USER", "LOGNAME", "LNAME", "USERNAME")
    }
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-c", CHILD, str(data)],
        cwd=work,
        env=environment | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "PATH": str(programs), "TMPDIR": str(own)},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"read from {Path('runs/of_plants/images')}" in done.stdout, "images lie on disk, and are read from there"
    assert "network (Python's sockets are refused; those of native code would not be seen, as this" in done.stdout
    with zipfile.ZipFile(work / "submissions" / "of_plants.zip") as archive:
        assert {"model.py", "SubmissionModel/saved_model.pb"} <= set(archive.namelist())
    left = {
        path.name
        for path in work.rglob("*")
        if path.name.endswith((".part", ".lock")) or path.name.startswith(".partial")
    }
    assert left <= {".lock"}
    assert "\noak/011.png,oak," in (work / "folds" / "of_plants.csv").read_text("utf-8")


def test_windows_writes_backslashes_and_the_images_have_the_same_names(tmp_path):
    folder = class_folders(tmp_path / "data", {"oak": 2, "ash": 2})
    rows = [f"oak\\{i:03}.png,oak\nash/{i:03}.png,ash\n" for i in range(2)]
    (folder / "labels.csv").write_text("image,label\n" + "".join(rows), "utf-8")
    source = open_source(folder / "labels.csv")
    assert source.images == ["ash/000.png", "ash/001.png", "oak/000.png", "oak/001.png"]
    assert source.read("oak/001.png") == (folder / "oak/001.png").read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="no name on Windows holds a backslash")
def test_a_backslash_that_is_part_of_a_name_stays(tmp_path):
    folder = class_folders(tmp_path / "data", {"oak": 1, "ash": 1})
    (folder / "oak/000.png").rename(folder / "oak\\000.png")
    rows = "oak\\000.png,oak\nash\\000.png,ash\n..\\secret.png,ash\n"
    (folder / "labels.csv").write_text("image,label\n" + rows.rsplit("..", 1)[0], "utf-8")
    assert open_source(folder / "labels.csv").images == ["ash/000.png", "oak\\000.png"]
    (folder / "labels.csv").write_text("image,label\n" + rows, "utf-8")
    with pytest.raises(InputError, match=r"line 4: \.\.\\secret.png is not below"):
        open_source(folder / "labels.csv")
