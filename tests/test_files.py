import ast
import errno
import hashlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from competition.base import files
from competition.base.files import InputError

ROOT = Path(__file__).parents[1]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_writes_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    files.write_text(path, "é\n")
    assert path.read_bytes() == "é\n".encode() and names(path.parent) == ["c.txt"]
    files.write_text(path, "new")
    assert path.read_text() == "new" and names(path.parent) == ["c.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "weights.h5"
    path.write_text("old")

    def fail(temporary):
        Path(temporary).write_text("half of the n")
        raise error

    with pytest.raises(error):
        files.write_with(path, fail)
    assert path.read_text() == "old" and names(tmp_path) == ["weights.h5"]
    with pytest.raises(error):
        files.write_with(tmp_path / "new.h5", fail)
    assert names(tmp_path) == ["weights.h5"]


def test_the_temporary_name_ends_as_the_file_s(tmp_path):
    seen = []
    files.write_with(tmp_path / "x.weights.h5", lambda path: seen.append(path) or Path(path).write_text("x"))
    assert seen[0].endswith("x.weights.h5") and Path(seen[0]).parent == tmp_path


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "x", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_killed_while_writing(tmp_path):
    """SIGKILL leaves the old file whole; what it leaves besides is known by its name and removed by the next."""
    code = (
        "import sys, time; from pathlib import Path; from competition.base import files\n"
        "def slow(temporary):\n"
        "    Path(temporary).write_text('half'); print('half', flush=True); time.sleep(60)\n"
        "files.write_with(sys.argv[1], slow)\n"
    )
    path = tmp_path / "sub" / "state.npz"
    files.write_text(path, "old")
    process = subprocess.Popen([sys.executable, "-c", code, path], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"half\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert path.read_text() == "old" and len(names(path.parent)) == 2
    files.remove_partial(tmp_path)
    assert path.read_text() == "old" and names(path.parent) == ["state.npz"]


def test_json_round_trip(tmp_path):
    content = {"ü": [1, 2.5, None, True], "b": {"c": "é"}}
    files.write_json(tmp_path / "x.json", content)
    assert files.read_json(tmp_path / "x.json") == content
    assert "ü" in (tmp_path / "x.json").read_text("utf-8")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", None])
def test_broken_json_is_named(tmp_path, content):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="x.json") as error:
        files.read_json(path)
    assert "\n" not in str(error.value)


def test_npz_round_trip_and_same_bytes(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "image": np.array(["é", "b"])}
    files.write_npz(tmp_path / "x.npz", **arrays)
    time.sleep(0.01)
    files.write_npz(tmp_path / "y.npz", **arrays)
    with np.load(tmp_path / "x.npz") as found:
        assert sorted(found.files) == ["a", "image"]
        for key, value in arrays.items():
            np.testing.assert_array_equal(found[key], value)
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "y.npz").read_bytes()


def test_csv_bytes_are_utf8_with_plain_line_ends_and_shortest_floats():
    frame = pd.DataFrame({"label": ["é", "a,b"], "p": np.array([0.1, 1e-9], np.float32)})
    assert files.csv_bytes(frame) == 'label,p\né,0.1\n"a,b",1e-09\n'.encode()


def test_floats_of_a_csv_are_read_bit_for_bit(tmp_path):
    frame = pd.DataFrame({"p": np.random.default_rng(0).random(1000), "label": "é"})
    files.write_bytes(tmp_path / "p.csv", files.csv_bytes(frame))
    assert files.read_csv(tmp_path / "p.csv").equals(frame)


@pytest.mark.parametrize("version, asked", [("2.2.3", "round_trip"), ("3.0.0", "round_trip"), ("3.1.1", None)])
def test_pandas_is_asked_for_them_where_it_would_not_by_itself(monkeypatch, version, asked):
    monkeypatch.setattr(pd, "__version__", version)
    monkeypatch.setattr(pd, "read_csv", lambda path, **options: options)
    assert files.read_csv("p.csv", header=0) == {"header": 0} | ({"float_precision": asked} if asked else {})


def test_hashes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    expected = hashlib.sha256(b"abc").hexdigest()
    assert files.sha256_bytes(b"abc") == files.sha256_file(tmp_path / "x") == expected
    assert files.hash_json({"a": 1, "b": [2]}) == files.hash_json({"b": [2], "a": 1}) != files.hash_json({"a": 1})


def test_versions_can_be_stored():
    versions = files.versions()
    assert {"python", "keras", "numpy"} <= versions.keys() and json.loads(json.dumps(versions)) == versions


def test_warnings_go_to_stderr(capsys):
    files.warn("mind the gap")
    assert capsys.readouterr() == ("", "warning: mind the gap\n")


def swallows_input_errors(code):
    """Lines of `raise InputError` in a try block that catches ValueError before it lets InputError through."""
    found = []
    for block in [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Try)]:
        caught = [ast.unparse(handler.type) if handler.type else "" for handler in block.handlers]
        first = next((types for types in caught if re.search("InputError|ValueError|BROKEN", types)), "")
        if first and "InputError" not in first:
            raised = [
                node for part in block.body for node in ast.walk(part) if isinstance(node, ast.Raise) and node.exc
            ]
            found += [node.lineno for node in raised if ast.unparse(node.exc).startswith("InputError")]
    return found


def test_an_input_error_is_a_value_error_and_no_block_takes_it_for_another():
    with pytest.raises(ValueError, match="^x: no such file$"):
        raise InputError("x: no such file")
    block = "try:\n    raise InputError('a')\n{}except (OSError, ValueError):\n    pass"
    assert swallows_input_errors(block.format("")) == [2]
    assert swallows_input_errors(block.format("except InputError:\n    raise\n")) == []
    for path in [*ROOT.glob("competition/**/*.py"), *ROOT.glob("bench/**/*.py")]:
        assert swallows_input_errors(path.read_text("utf-8")) == [], path


FULL_DISK = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fail_with(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_with_path_need_and_room(tmp_path, monkeypatch, number):
    files.write_text(tmp_path / "x.json", "old")
    monkeypatch.setattr(Path, "write_bytes", fail_with(OSError(number, os.strerror(number))))
    with pytest.raises(InputError) as error:
        files.write_bytes(tmp_path / "x.json", bytes(3 * 2**20))
    assert "\n" not in str(error.value)
    for word in (f"{tmp_path / 'x.json'}: not written", os.strerror(number), "needs 3.0 MB", "free", "same command"):
        assert word in str(error.value), word
    assert (tmp_path / "x.json").read_text() == "old" and names(tmp_path) == ["x.json"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_a_file_larger_than_the_system_lets_it_be(tmp_path):
    """The real thing: the system refuses the rest of the file."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        with pytest.raises(InputError, match="x.npz: not written, File too large: it needs 7.6 MB.*ulimit -f"):
            files.write_npz(tmp_path / "x.npz", x=np.zeros(10**6))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == []


def test_what_a_library_says_of_a_full_disk_is_known_too(tmp_path):
    error = RuntimeError("UNKNOWN: /tmp/x/variables; No space left on device")
    with pytest.raises(InputError, match="x.zip: not written, No space left on device: it needs more than 4 bytes"):

        def half(temporary):
            Path(temporary).write_text("half")
            raise error

        files.write_with(tmp_path / "x.zip", half)
    with pytest.raises(InputError, match="no space left on its disk.*the zip needs 10.0 KB or more.*TMPDIR="):
        with files.scratch(10240, "the zip"):
            raise error
    with pytest.raises(RuntimeError, match="something else"), files.scratch():
        raise RuntimeError("something else")


def test_where_temporary_files_find_no_place_it_is_said_before(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with files.scratch(1) as folder:
        (folder / "x").write_text("")
        assert folder.parent == tmp_path
    assert names(tmp_path) == []
    with pytest.raises(InputError, match=f"{tmp_path}: its disk has .* free, the zip needs 1048576.0 GB.*TMPDIR="):
        with files.scratch(2**50, "the zip"):
            pytest.fail("there is no room")
    monkeypatch.setattr(tempfile, "gettempdir", fail_with(FileNotFoundError(errno.ENOENT, "No usable temporary")))
    with pytest.raises(InputError, match="No usable temporary.*TMPDIR="), files.scratch():
        pytest.fail("there is no folder")
    with pytest.raises(InputError, match=r"new/x: its disk has .* free, the training needs 1048576.0 GB; make room"):
        files.check_room(tmp_path / "new" / "x", 2**50, "the training")
    files.check_room(tmp_path / "new" / "x", 1, "the training")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path, monkeypatch, number):
    error = OSError(number, os.strerror(number), str(tmp_path / "x"))
    monkeypatch.setattr(tempfile, "mkstemp", fail_with(error))
    with pytest.raises(InputError, match=rf"x.json: cannot be written \({os.strerror(number)}\)"):
        files.write_json(tmp_path / "x.json", {})


def test_what_is_durable_is_on_the_disk_before_it_has_its_name_and_with_it(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: done.append(os.fstat(handle).st_ino) or fsync(handle))
    monkeypatch.setattr(os, "replace", lambda old, new: done.append("named") or replace(old, new))
    files.write_json(tmp_path / "x.json", {})
    assert done == ["named"]
    done.clear()
    files.write_json(tmp_path / "x.json", {}, durable=True)
    assert done == [(tmp_path / "x.json").stat().st_ino, "named", tmp_path.stat().st_ino]
