"""What our own processes read of hostile or damaged files: sizes are summed first, reads are capped, one line names it."""

import bz2
import gzip
import io
import json
import os
import struct
import sys
import tarfile
import tracemalloc
import zipfile
import zlib

import numpy as np
import pandas as pd
import pytest
from conftest import class_folders, encode, smooth

from competition.base import archives, files, output
from competition.base.arrays import Memory
from competition.base.files import InputError
from competition.base.output import show_controls
from competition.checking import check_zip as checking
from competition.checking import model_code, reading
from competition.cli.main import main
from competition.data import decode
from competition.data.folds import make_folds
from competition.data.sources import arrays, open_source, tables
from competition.recipes.recipe import parse_override, read_recipe
from competition.runs.record import open_run_record
from competition.submission.score_log import COLUMNS, read_log
from competition.trials.sample import write_sample

MB = 2**20
MODEL = """
import numpy as np


class model:
    def __init__(self, path):
        pass

    def predict(self, X):
        return np.zeros(len(X), int)
"""


def write_zip(path, parts, zeros=(), method=zipfile.ZIP_DEFLATED):
    """A zip of {name: bytes or text}, and of files of so many MB of zeros: {name: MB}."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
        for name, size in dict(zeros).items():
            with archive.open(name, "w") as file:
                for _ in range(size):
                    file.write(bytes(MB))
    return path


def pictures():
    return {f"{label}/{n}.png": encode(smooth(n, 8, 8)) for label in "ab" for n in range(3)}


def lie_about(path, name, size):
    """Let a zip's directory say that a file has another size."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.rindex(name.encode()) - 46 + 24, size)
    path.write_bytes(data)


def peak_of(work):
    """The most bytes that Python holds while `work` runs, which may raise."""
    tracemalloc.start()
    try:
        work()
    except (InputError, OSError, zipfile.BadZipFile):
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


# ------------------------------------------------------------------------------------------------------------- archives


def test_a_zip_that_unpacks_to_far_more_than_pictures_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "BOMB", 16 * MB)
    path = write_zip(tmp_path / "x.zip", pictures(), {"labels.csv": 64})
    with pytest.raises(
        InputError, match=r"x\.zip: [\d,]+ bytes unpack to 64 MB, expected at most 200 times as many or 16"
    ):
        open_source(path)
    assert peak_of(lambda: open_source(path)) < 8 * MB


def test_a_file_in_a_zip_that_is_too_large_is_named_and_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.read_member, "__defaults__", (8 * MB,))
    path = write_zip(tmp_path / "x.zip", pictures(), {"a/large.png": 9})
    source = open_source(path)
    with pytest.raises(InputError, match=r"x\.zip: a/large\.png has 9 MB, expected 8 MB at most"):
        source.read("a/large.png")
    assert source.read("a/0.png") == pictures()["a/0.png"]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_no_more_is_unpacked_than_a_zip_says_that_a_file_has(method, tmp_path):
    path = write_zip(tmp_path / "x.zip", pictures(), {"a/large.png": 24}, method)
    lie_about(path, "a/large.png", 1000)
    source = open_source(path)
    assert peak_of(lambda: source.read("a/large.png")) < 10 * MB
    with pytest.raises(InputError, match=r"a/large\.png: cannot be read from .*x\.zip: Bad CRC-32"):
        source.read("a/large.png")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_is_unpacked_piece_by_piece(method, tmp_path):
    """Few bytes of bzip2 unpack to all memory, which `extractall` takes for them in one go."""
    path = write_zip(tmp_path / "x.zip", {"model.py": MODEL}, {"w.bin": 24}, method)

    def unpack():
        with zipfile.ZipFile(path) as archive:
            archives.unpack_all(archive, tmp_path / "out")

    assert peak_of(unpack) < 16 * MB  # LZMA has a dictionary of 8
    assert (tmp_path / "out/model.py").read_text() == MODEL and (tmp_path / "out/w.bin").stat().st_size == 24 * MB


def test_files_of_a_zip_that_overlap_are_refused(tmp_path):
    packed = zlib.compressobj(9, 8, -15)
    body = packed.compress(bytes(MB)) + packed.flush()
    head = struct.pack("<IHHHHHIIIHH", 0x04034B50, 20, 0, 8, 0, 33, zlib.crc32(bytes(MB)), len(body), MB, 7, 0)
    names = [b"%s/%d.png" % (label, n) for label in (b"a", b"b") for n in range(9)]
    entries = b"".join(
        struct.pack(
            "<IHHHHHHIIIHHHHHII", 0x02014B50, 20, 20, 0, 8, 0, 33, zlib.crc32(bytes(MB)), len(body), MB, *numbers
        )
        + name
        for name in names
        for numbers in [(len(name), 0, 0, 0, 0, 0, 0)]
    )
    start = head + b"a/0.png" + body
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, len(names), len(names), len(entries), len(start), 0)
    (tmp_path / "x.zip").write_bytes(start + entries + end)
    with pytest.raises(InputError, match=r"x\.zip: broken zip: its files take more than its own \d+ bytes"):
        open_source(tmp_path / "x.zip")


def test_what_unpacks_to_a_file_stops_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "BOMB", 4 * MB)
    inner = write_zip(tmp_path / "inner.zip", {}, {"a/0.png": 5})
    packed = write_zip(tmp_path / "packed.zip", {}, {"inner.zip": 5})
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(bytes(20 * MB)))
    (tmp_path / "x.tar.bz2").write_bytes(bz2.compress(bytes(20 * MB)))
    outer = write_zip(tmp_path / "outer.zip", {"inner.zip": inner.read_bytes()})
    for path in (tmp_path / "x.tar.gz", tmp_path / "x.tar.bz2", packed, outer):
        with pytest.raises(InputError, match="bytes unpack to 5 MB, expected at most"):
            open_source(path)


def test_paths_that_lie_too_deep_are_named(tmp_path):
    deep = write_zip(tmp_path / "x.zip", pictures() | {"a/" * 20000 + "0.png": b""})
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("a/" * 20000 + "0.png"))
    for path in (deep, tmp_path / "x.tar"):
        with pytest.raises(InputError, match=r"a path of 40005 signs and 20000 folders, expected 2048 and 100 at most"):
            open_source(path)
    folder = class_folders(tmp_path / "data", {"a": 1, "b": 1})
    os.makedirs(folder / "a" / "/".join("d" * 101))
    with pytest.raises(InputError, match=r"data: a/d/.* folders, expected 2048 and 100 at most"):
        open_source(folder)


def test_links_that_make_billions_of_ways_are_named(tmp_path):
    folder = class_folders(tmp_path / "data", {"a": 1, "b": 1})
    for number in range(30):
        (folder / f"a/l{number}").mkdir()
        for name in "xy":
            (folder / f"a/l{number}/{name}").symlink_to(f"../l{number + 1}")
    (folder / "a/l30").mkdir()
    with pytest.raises(InputError, match=r"data/a/l\d+/.*: more than 100 ways of links lead there"):
        open_source(folder)


def test_a_large_file_in_a_folder_or_tar_is_not_read(tmp_path):
    folder = class_folders(tmp_path / "data", {"a": 1, "b": 1})
    with open(folder / "a/large.png", "wb") as file:
        file.truncate(2**31)  # sparse
    with pytest.raises(InputError, match=r"data: a/large\.png has 2\.0 GB, expected 512 MB at most"):
        open_source(folder).read("a/large.png")
    with open(tmp_path / "x.tar", "wb") as file:
        large = tarfile.TarInfo("a/large.png")
        large.size = 2**31
        file.write(large.tobuf())
        file.truncate(512 + 2**31)
        file.seek(0, os.SEEK_END)
        small = tarfile.TarInfo("b/0.png")
        file.write(small.tobuf() + bytes(1024))
    with pytest.raises(InputError, match=r"x\.tar: a/large\.png has 2\.0 GB"):
        open_source(tmp_path / "x.tar").read("a/large.png")


def test_many_links_of_a_tar_are_found_at_once(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, data in pictures().items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for number in range(3000):
            link = tarfile.TarInfo(f"a/link{number}.png")
            link.type, link.linkname = tarfile.LNKTYPE, "a/0.png"
            archive.addfile(link)
    source = open_source(tmp_path / "x.tar")
    assert len(source.images) == 3006 and source.read("a/link7.png") == pictures()["a/0.png"]


# --------------------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    "name, content, line",
    [
        ("l.csv", "image,label\n" + "a,b\n" * 50, r"l\.csv: a table of 204 cells, expected 100 at most"),
        ("l.csv", "image,label" + "," * 150 + "\n", r"l\.csv: a table of 154 cells"),
        (
            "l.csv",
            '"image' + "a" * 200_000 + "\n",
            r"l\.csv: not a CSV that can be read: field larger than field limit",
        ),
        ("l.jsonl", '{"image": ' + "[" * 100_000, r"l\.jsonl, line 1: nests too deep"),
        ("l.jsonl", "".join(json.dumps({f"k{n}": 1}) + "\n" for n in range(20)), r"l\.jsonl: a table of 460 cells"),
    ],
)
def test_a_table_that_is_too_large_is_named(name, content, line, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MOST_CELLS", 100)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=line):
        open_source(tmp_path / name)


def test_a_table_of_many_bytes_is_not_read(tmp_path):
    with open(tmp_path / "l.csv", "wb") as file:
        file.truncate(2**30)
    with pytest.raises(InputError, match=r"l\.csv: a table of 1024 MB, expected 256 MB at most"):
        open_source(tmp_path / "l.csv")


def test_the_first_line_of_a_table_is_found_wherever_it_lies(monkeypatch):
    monkeypatch.setattr(tables, "BEGINNING", 4)
    assert tables.read_table("l.csv", b"\n\n\n\n\n\nimage;label\na;b\n").columns == ["image", "label"]


def test_parquet_files_that_say_one_value_often_are_refused(tmp_path, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setattr(tables, "MOST_CELLS", 1000)
    often = pa.array(np.zeros(10_000, np.int8))
    parquet.write_table(pa.table({"image": often, "label": often}), tmp_path / "l.parquet")
    with pytest.raises(InputError, match=r"l\.parquet: a table of 50,000 cells, expected 1,000 at most"):
        open_source(tmp_path / "l.parquet")
    monkeypatch.setattr(archives, "BOMB", 4 * MB)
    picture = pa.array([bytes(MB)]).take(pa.array(np.zeros(100, np.int32)))
    parquet.write_table(pa.table({"image": picture, "label": pa.array([1] * 100)}), tmp_path / "p.parquet")
    with pytest.raises(InputError, match=r"p\.parquet: [\d,]+ bytes unpack to"):
        open_source(tmp_path / "p.parquet")


# --------------------------------------------------------------------------------------------------------------- arrays


def npy(shape, dtype="|u1", data=b"", head=None):
    """The bytes of an .npy file whose header says so."""
    text = head or repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        npy((10**9, 1000, 1000, 3), data=bytes(100)),
        npy((2**40, 2**40, 2**40, 3), data=bytes(100)),
        npy((-1, 8, 8, 3), data=bytes(1000)),
        npy((10**30, 8, 8, 3)),
        npy((), head=b"(" * 3000),
        npy((2, 8, 8, 3), "|O", bytes(8000)),
        b"PK\5\6" + bytes(18),
    ],
)
def test_headers_of_arrays_that_lie_end_in_one_line(content, tmp_path):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.npy: .*"):
        open_source(tmp_path / "x.npy")
    write_zip(tmp_path / "x.npz", {"x.npy": content, "y.npy": npy((2,), data=bytes(2))})
    with pytest.raises(InputError, match=r"x\.npz: .*"):
        open_source(tmp_path / "x.npz")


def test_sizes_of_arrays_are_summed_before_they_are_read(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.zeros((40, 256, 256, 1), np.uint8), y=np.arange(40))
    monkeypatch.setattr(arrays, "read_memory", lambda: Memory(MB, "a test"))
    with pytest.raises(InputError, match=r"x\.npz: its arrays have 3 MB, which is more than 1 MB \(a test\)"):
        open_source(path)
    write_zip(path, {"x.npy": npy((10, 8, 8, 3), data=bytes(1920)), "y.npy": npy((10,), "<U200000000", bytes(80))})
    with pytest.raises(InputError, match=r"x\.npz: y\.npy says that it holds 7\.5 GB, found 0 MB"):
        open_source(path)
    with open(tmp_path / "x.npy", "wb") as file:
        file.write(npy((1, 60_000, 60_000, 1)))
        file.truncate(file.tell() + 60_000**2)
    with pytest.raises(InputError, match=r"x\.npy: an image of x has 3\.4 GB, expected 512 MB at most"):
        open_source(tmp_path / "x.npy")


# ----------------------------------------------------------------------------------------------------------- make check


def read(path):
    found = reading.read_zip(path, "codalab", checking.LAYOUTS)
    return [f"{one.check}: {one.result}: {one.found}" for one in found.findings], found


def test_a_submission_that_unpacks_to_too_much_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MOST_UNPACKED", 8 * MB)
    lines, found = read(write_zip(tmp_path / "x.zip", {"model.py": MODEL, "metadata": ""}, {"w.npy": 9}))
    assert lines == ["zip: FAILED: it unpacks to 9 MB, expected 8 MB at most (w.npy alone to 9 MB)"] and found.stopped


def test_a_submission_of_too_many_files_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MOST_FILES", 3)
    lines, _ = read(write_zip(tmp_path / "x.zip", {"model.py": MODEL, "metadata": "", "a": "", "b": ""}))
    assert lines == ["zip: FAILED: it holds 4 files, expected 3 at most"]


def test_a_large_file_of_a_submission_is_not_looked_into(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LOOKED_INTO", 8 * MB)
    path = write_zip(tmp_path / "x.zip", {"model.py": MODEL, "metadata": ""}, {"w.bin": 100, "v.bin": 1})
    lines, found = read(path)
    assert "safe files: not checked: w.bin (100 MB): of more than 8 MB, not looked into" in lines and not found.stopped
    assert peak_of(lambda: read(path)) < 30 * MB


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_submission_whose_sizes_lie_is_damaged(method, tmp_path):
    path = write_zip(tmp_path / "x.zip", {"model.py": MODEL, "metadata": ""}, {"w.bin": 24}, method)
    lie_about(path, "w.bin", 1000)
    assert "zip: FAILED: the zip is damaged: w.bin is not what was packed (checksum)" in read(path)[0]
    assert peak_of(lambda: read(path)) < 10 * MB


def test_names_and_texts_of_a_submission_write_no_lines_of_their_own(tmp_path):
    code = MODEL + "\nPATH = '/home/a\\n  run: ok: fine'\n"
    path = write_zip(tmp_path / "x.zip", {"model.py": code, "metadata": "", "../a\nzip: ok: \x1b[2Jwhole": ""})
    _, found = read(path)
    texts = [one.found + one.advice for one in found.findings]
    assert all(text.isprintable() for text in texts) and any("\\x1b[2J" in text for text in texts)


def test_names_of_many_files_are_counted_once(tmp_path):
    """The count for each name took 109 s for 100 thousand."""
    path = write_zip(tmp_path / "x.zip", {"model.py": MODEL, "metadata": ""} | {f"d/{n}.bin": b"" for n in range(5000)})
    lines, found = read(path)
    assert lines[0] == "zip: ok: whole, 5002 files" and len(found.names) == 5002


DEEP = {
    "a sum": "+".join(["1"] * 3000),
    "signs": "-" * 20_000 + "1",
    "brackets": "(" * 5000 + ")" * 5000,
    "attributes": "a" + ".b" * 30_000,
    "negations": "not " * 50_000 + "1",
    "functions": "lambda: " * 3000 + "1",
}


@pytest.mark.parametrize("code", [f"x = {text}\n" for text in DEEP.values()], ids=DEEP)
def test_code_that_nests_deep_is_read_or_named(code, tmp_path):
    path = write_zip(tmp_path / "x.zip", {"model.py": MODEL + code, "metadata": ""})
    lines, found = read(path)
    failed = [line for line in lines if "FAILED" in line]
    assert not failed and model_code.find_keyword(found, "a", 1) is None or "too many nested parentheses" in failed[0]
    answer = reading.ask_python(sys.executable, found)
    assert answer["syntax"] == {} or "nest" in answer["syntax"]["model.py"]
    assert found.trees or "code: warning: model.py nests too deep to be looked into" in lines or failed


@pytest.mark.parametrize(
    "code, line",
    [
        (MODEL + "if 0: pass\n" + "elif 0: pass\n" * 400, None),
        (MODEL.replace("self, X", "self, X, Y, Z=" + "+".join(["1"] * 900)), "expected predict(self, X)"),
        ("class model(B): pass\nclass B(model): pass\n", "class model has no predict"),
        (
            "class c0: pass\n"
            + "".join(f"class c{n + 1}(c{n}): pass\n" for n in range(3000))
            + "class model(c3000): pass",
            "no",
        ),
        (MODEL + "".join(f"x = '/home/me/{n}'\n" for n in range(500)), "/home/me/0 is a path of your own computer"),
        (MODEL + "x = [" + "1," * 600_000 + "]", "with it the code has more than 16 MB or 1,000,000 words"),
        (MODEL + "x = f'" + "{1}" * 60_000 + "'", "with it the code has more than 16 MB or 1,000,000 words"),
        (MODEL + "#" * (17 * MB), "with it the code has more than 16 MB or 1,000,000 words"),
    ],
    ids=["elif", "default", "circle", "chain", "paths", "words", "braces", "bytes"],
)
def test_code_that_is_odd_is_read_or_named(code, line, tmp_path):
    lines, _ = read(write_zip(tmp_path / "x.zip", {"model.py": code, "metadata": ""}))
    failed = [one for one in lines if "FAILED" in one]
    assert not failed if line is None else line in failed[0] and len(failed) <= model_code.SHOWN


def test_modules_of_the_zip_are_read_however_often_they_are_imported(tmp_path):
    parts = {
        "model.py": MODEL + "import own, pack, other\nimport pack.a\n",
        "own.py": "import json5\n",
        "pack/a.py": "x = 1\n",
    }
    _, found = read(write_zip(tmp_path / "x.zip", parts | {"pack/b/c.py": "", "metadata": ""}))
    assert sorted(found.code) == ["model.py", "own.py", "pack/a.py", "pack/b/c.py"]
    assert found.modules == {"numpy": "model.py, line 2", "other": "model.py, line 11", "json5": "own.py, line 1"}


def test_keras_files_that_are_none_have_no_version(tmp_path):
    inner = {"large": {"metadata.json": "{" + " " * (17 * MB) + "}"}, "deep": {"metadata.json": "[" * 100_000}}
    inner |= {"list": {"metadata.json": "[1]"}, "number": {"metadata.json": '{"keras_version": 3}', "config.json": ""}}
    made = {f"{name}.keras": write_zip(tmp_path / name, parts).read_bytes() for name, parts in inner.items()}
    _, found = read(write_zip(tmp_path / "x.zip", {"model.py": MODEL, "metadata": "", "h.h5": b"\x89HDF\r\n"} | made))
    assert found.keras_files == dict.fromkeys([*made, "h.h5"])


def test_sizes_that_do_not_fit_into_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checking, "read_memory", lambda: Memory(2**30, "a test"))
    path = write_zip(tmp_path / "x.zip", {"model.py": MODEL, "metadata": ""})
    with pytest.raises(
        InputError, match=r"SIZE=9999x9999: 64 images of it and their versions take 35\.8 GB, expected at most"
    ):
        checking.check_zip(path, size=9999)


@pytest.mark.parametrize(
    "more", [{"forecast": {"hidden_n": "x"}}, {"forecast": 3}, {"format": ["codalab"]}, {"format": {}}]
)
def test_a_record_beside_a_zip_that_is_none_counts_as_none(more, tmp_path):
    path = write_zip(tmp_path / "x.zip", {"model.py": MODEL, "metadata": ""})
    files.write_json(path.with_suffix(".json"), {"sha256": files.sha256_file(path), "format": "codalab"} | more)
    assert checking._read_record(path) == {}


# ----------------------------------------------------------------------------------------------- what else may be damaged


def test_values_that_nest_deep_or_are_huge_are_named(tmp_path):
    (tmp_path / "deep.toml").write_text("views = " + "[" * 50_000)
    with pytest.raises(InputError, match=r"deep\.toml: not a TOML file: it nests too deep"):
        read_recipe(tmp_path / "deep.toml")
    with pytest.raises(InputError, match=r"SET=head: the value nests too deep"):
        parse_override("head=" + "[" * 50_000)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"deep\.json: expected a JSON file"):
        files.read_json(tmp_path / "deep.json")
    for key in ("image_size", "least_size"):
        with pytest.raises(InputError, match=rf"{key} is 100000, expected from 0 to 10000"):
            read_recipe("quick", [f"{key}=100000"])


def test_a_class_order_of_two_lines_is_an_error(tmp_path, workdir):
    class_folders(tmp_path / "data", {"a": 3, "b": 3}, height=8, width=8)
    with pytest.raises(InputError, match=r"CLASSES='a\\nb': .*; expected one line, a,b,c"):
        make_folds(tmp_path / "data", folds=3, classes="a\nb")
    with pytest.raises(InputError, match=r"DROP_GROUPS='a\\nb': .*; expected one line, a,b,c"):
        make_folds(tmp_path / "data", folds=3, drop_groups="a\nb")


@pytest.mark.parametrize(
    "content", ["{}", '{"config": 3}', '{"config": {}}', '{"config": {"recipe": 3}}', "[]", "[" * 99_999]
)
def test_a_run_s_record_that_is_none_is_named(content, tmp_path, workdir):
    table = make_folds(class_folders(tmp_path / "data", {"a": 3, "b": 3}, height=8, width=8), folds=3)
    folder = workdir / "runs/data/r"
    (folder / "fold0").mkdir(parents=True)
    (folder / "fold0/history.csv").write_text("")
    (folder / "heads.npz").write_bytes(b"")
    (folder / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"r/run\.json: "):
        open_run_record(folder, table, {"model": "m", "recipe": {}}, read_recipe("quick"))


def test_a_damaged_log_is_named(competition_log):
    workspace, good = competition_log
    assert read_log(workspace)[0]["metric"] == "accuracy"
    for name, text in (("forecast", "x"), ("low", "nan"), ("high", ""), ("value", "1e999"), ("metric", "luck")):
        rows = [good | {name: text}]
        workspace.score_log.write_text(pd.DataFrame(rows)[list(COLUMNS)].to_csv(index=False))
        with pytest.raises(InputError, match=rf"log\.csv: score 1: {name} is '"):
            read_log(workspace)
    for data in (b"\xff\xfe\0", b"date,zip\n1,2\n", b'"' + b"a" * 200_000):
        workspace.score_log.write_bytes(data)
        with pytest.raises(InputError, match=r"log\.csv: "):
            read_log(workspace)


@pytest.fixture
def competition_log(workdir):
    from competition.base.workspace import Workspace

    workspace = Workspace()
    workspace.score_log.parent.mkdir(parents=True, exist_ok=True)
    good = dict(zip(COLUMNS, ("2026-01-01", "x.zip", "0" * 64, "accuracy", "0.9", "0.8", "0.95", "100", "", "")))
    workspace.score_log.write_text(pd.DataFrame([good])[list(COLUMNS)].to_csv(index=False))
    return workspace, good


@pytest.mark.parametrize("words", [["train", "MODEL=baseline", "TEACHER="], ["train", "MODEL=baseline", "PSEUDO= "]])
def test_an_empty_teacher_is_an_error(words, workdir, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"error: {words[-1].strip()} is empty, expected ")


def test_a_terminal_obeys_no_name(tmp_path, workdir, capsys):
    hostile = "\x1b]0;mine\x07\x1b[2J\x9b1m\u202egnp"
    spelt = "\\x1b]0;mine\\x07\\x1b[2J\\x9b1m\\u202egnp"
    assert show_controls(f"{hostile}\t\n") == f"{spelt}\t\n" and show_controls("käse 猫\t") == "käse 猫\t"
    folder = class_folders(tmp_path / "data", {"a": 3, "b": 3, hostile: 3}, height=8, width=8)
    assert main(["folds", "--data", str(folder), "--folds", "3"]) == 0
    (folder / "a" / f"{hostile}.png").write_bytes(b"none")
    assert main(["folds", "--data", str(folder), "--folds", "3"]) == 2
    out, error = capsys.readouterr()
    assert spelt in out and spelt in error
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(out + error)


def test_a_user_s_own_code_and_bars_reach_the_terminal_as_they_are(capsys):
    with output.shown():
        print("\x1b[1mnamed")
        with output.muted():
            print("unheard")
            with output.heard():
                print("\x1b[1mown")
        print("\r", file=output.bare(output.sys.stderr))
    assert capsys.readouterr() == ("\\x1b[1mnamed\n\x1b[1mown\n", "\r\n")


def test_no_cell_of_a_table_for_people_is_a_formula():
    frame = pd.DataFrame(
        {"image": ["=cmd()", "a.png", "-1", "+x"], "label": ["@x", "\tx", "1e3", ""], "=p": [-1.5, 2, 3, 4]}
    )
    lines = files.sheet_bytes(frame).decode().splitlines()
    assert lines == ["image,label,'=p", "'=cmd(),'@x,-1.5", "a.png,'\tx,2.0", "-1,1e3,3.0", "'+x,,4.0"]
    plain = pd.DataFrame({"image": ["a", "b"], "x": [0.1 + 0.2, -1e-9], "n": [1, -2], "ok": [True, False]})
    assert files.sheet_bytes(plain) == files.csv_bytes(plain)


def test_the_words_of_unsafe_marks_are_looked_for_first():
    samples = (b" PyFunc ", b"EagerPyFunc ", b' "class_name": "Lambda"')
    for sample in samples:
        assert any(mark.search(sample) for mark in reading.UNSAFE.values())
        assert any(word in sample for word in reading.UNSAFE_WORDS)


def test_pictures_by_their_heads_alone(tmp_path):
    """A head that claims 60000 x 60000 pixels allocates none."""
    rows = zlib.compress(bytes(60_001 * 3))
    parts = ((b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    with pytest.raises(InputError, match=r"x\.png: 60000x60000 pixels, expected 1,073,741,824 or fewer"):
        decode.decode(png, "x.png")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("size", [0, 1, 5000, 300_000])
def test_members_are_what_was_packed(method, size, tmp_path):
    content = np.random.default_rng(0).integers(0, 8, size, np.uint8).tobytes()
    path = write_zip(tmp_path / "x.zip", {"a": content, "b": content[::-1]}, method=method)
    with zipfile.ZipFile(path) as archive:
        for name, expected in (("a", content), ("b", content[::-1])):
            entry = archive.getinfo(name)
            assert archives.read_member(archive, entry) == expected
            assert b"".join(archives.member_pieces(archive, entry)) == expected


def test_large_pictures_ask_for_memory_first(monkeypatch):
    monkeypatch.setattr(decode, "read_memory", lambda: Memory(1000, "a test"))
    deep = encode(decode.Image.fromarray(np.zeros((20, 30), np.uint16)))
    plain = encode(smooth(0, 20, 30))
    assert decode.decode(deep, "x.png").shape == decode.decode(plain, "x.png").shape
    monkeypatch.setattr(decode, "DEEP_AND_LARGE", 500)
    with pytest.raises(InputError, match=r"x\.png: 30x20 pixels take 0 MB, expected at most 0 MB, the memory that is"):
        decode.decode(deep, "x.png")
    monkeypatch.setattr(decode, "LARGE", 500)
    with pytest.raises(InputError, match=r"x\.png: 30x20 pixels take 0 MB"):
        decode.decode(plain, "x.png")
    assert decode.decode(encode(smooth(0, 20, 30), "JPEG"), "x.jpg").shape[2] == 3


def test_large_grey_pictures_are_reduced_before_they_are_coloured(monkeypatch):
    grey = decode.Image.fromarray(smooth(0, 200, 300)[..., 0])
    expected = np.asarray(grey.convert("RGB").reduce(4))
    monkeypatch.setattr(decode, "LARGE", 10_000)
    monkeypatch.setattr(decode, "REDUCED", 6000)
    assert np.array_equal(decode.decode(encode(grey), "x.png"), expected)


def test_a_sample_has_a_limit(tmp_path):
    for counts in ({"images": 10**30}, {"hidden": 10**30}, {"images": 900_000, "hidden": 200_000}):
        with pytest.raises(
            InputError, match=r"sample: expected 1,000,000 images at most, hidden ones included, found \d"
        ):
            write_sample(tmp_path / "sample", **counts)
