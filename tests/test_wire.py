"""The pipe from a process that is not believed: what is sound comes through whole, all else is refused by its size."""

import io
import struct

import numpy as np
import pytest

from competition.rehearsal import scorer_process, wire
from competition.rehearsal.scorer_process import HEADER, NUMBERS
from competition.rehearsal.wire import Reader, WireError, read_answer, read_texts, show

TOKEN = b"12345678"


def frame(kind, content, token=TOKEN, size=None):
    return HEADER.pack(NUMBERS.get(kind, kind), token, len(content) if size is None else size) + content


def packed(value):
    return scorer_process.pack(scorer_process.plain(value, np), np)


@pytest.mark.parametrize(
    "value, described",
    [
        (np.arange(6).reshape(2, 3), "int64 array"),
        (np.float16([0.5, np.nan]), "float16 array"),
        (np.array([True, False]), "bool array"),
        (np.zeros((0, 3), np.float32), "float32 array"),
        (np.array(["oak", "é"]), "<U3 array"),
        ([1, 2], "int64 list"),
        (np.arange(3, dtype=">i4"), ">i4 array"),
        (np.complex64([1j]), "complex64 array"),
    ],
)
def test_answers_come_through(value, described):
    said, array = read_answer(packed(value))
    assert said == described and np.array_equal(array, np.asarray(value), equal_nan=array.dtype.kind == "f")
    if array.size:
        array.ravel()[:1] = array.ravel()[-1:]  # it can be written


def test_what_numpy_has_no_plain_type_for_comes_as_text():
    assert read_answer(packed(None))[0] == "object NoneType"
    assert read_answer(packed([None, "a"]))[1].tolist() == ["None", "a"]
    assert read_answer(packed(np.array(["2020-01-01"], "M8[D]")))[1].tolist() == ["2020-01-01"]


def test_too_large_an_answer_is_told_by_its_shape(monkeypatch):
    monkeypatch.setattr(scorer_process, "MOST_ARRAY", 100)
    with pytest.raises(ValueError, match=r"float64 array of shape \[20\]"):
        packed(np.zeros(20))


ARRAY = struct.pack("<H10s", 10, b"int64 list") + struct.pack("<BBI", 5, 1, 0) + struct.pack("<Q", 2) + bytes(16)


@pytest.mark.parametrize(
    "sent",
    [
        frame("done", b"", b"another!"),
        frame(77, b""),
        frame("answer", b"", size=1 << 60),
        frame("failed", b"", size=wire.MOST_TEXTS + 1),
        frame("answer", ARRAY[:-1]),
        frame("answer", ARRAY + b"0"),
        frame("answer", ARRAY[:5]),
        frame("answer", ARRAY.replace(b"int64 list", b"int64_list")),
        frame("answer", ARRAY[:12] + struct.pack("<BBI", 99, 1, 0) + ARRAY[18:]),  # no such dtype
        frame("answer", ARRAY[:12] + struct.pack("<BBI", 5, 200, 0) + ARRAY[18:]),  # too many dimensions
        frame("answer", ARRAY[:12] + struct.pack("<BBI", 0, 1, 2) + struct.pack("<Q", 2) + b"\xff" * 16),  # no signs
        frame("answer", ARRAY[:12] + struct.pack("<BBI", 5, 2, 0) + struct.pack("<QQ", 0, 1 << 63)),
        frame("answer", ARRAY[:12] + struct.pack("<BBI", 5, 3, 0) + struct.pack("<QQQ", 0, 1 << 40, 1 << 40)),
        frame("failed", struct.pack("<I", 100) + b"short"),
        frame("failed", b"12"),
        frame("tried", b"") * (wire.MOST_FRAMES + 1),
    ],
)
def test_what_is_no_answer_is_refused(sent):
    with pytest.raises(WireError):
        Reader(io.BytesIO(sent)).read(TOKEN)


def test_all_answers_together_are_limited():
    reader = Reader(io.BytesIO(frame("answer", ARRAY) * 2), left=len(ARRAY) + 1)
    assert reader.read(TOKEN)[0] == "answer"
    with pytest.raises(WireError, match="more than"):
        reader.read(TOKEN)


def test_a_pipe_that_ends_is_no_answer():
    for sent in (b"", frame("done", b"")[:5], frame("answer", ARRAY, size=1000)):
        with pytest.raises(EOFError):
            Reader(io.BytesIO(sent)).read(TOKEN)


def test_texts_are_shown_and_not_obeyed():
    (text,) = read_texts(scorer_process.pack_texts(["\x1b[31m\u202eno\x07\nnext\r"]))
    assert text == "\\x1b[31m\\u202eno\\x07\nnext\\r"
    assert read_texts(struct.pack("<I", 2) + b"\xff\xfe") == ["\ufffd\ufffd"]
    assert len(show("x" * 10**6, 100)) < 110


def test_what_was_tried_is_kept_in_part(monkeypatch):
    told = scorer_process.pack_texts(["read", "x" * 10**5] * 10)
    reader = Reader(io.BytesIO(frame("tried", told) * 11 + frame("done", b"")))
    monkeypatch.setattr(wire, "MOST_TOLD", 100)
    assert reader.read(TOKEN) == ("done", []) and len(reader.tried) == 100
    assert max(len(what) for _, what in reader.tried) < wire.LONGEST_TOLD + 10


def test_what_was_tried_comes_before_the_answer():
    reader = Reader(
        io.BytesIO(frame("tried", scorer_process.pack_texts(["network", "1.2.3.4:80"])) + frame("done", b""))
    )
    assert reader.read(TOKEN) == ("done", []) and reader.tried == [("network", "1.2.3.4:80")]
