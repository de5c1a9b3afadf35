"""What has no place in a zip is found, and what only looks like it is let through."""

import io
import os
import pickle
import sys

import numpy as np
import pytest

from competition.rehearsal import content
from competition.rehearsal.content import check_package, find_unfit, is_pickle, machine_marks
from competition.rehearsal.rehearsal import RehearsalError

RANDOM = np.random.default_rng(0).integers(0, 256, 200_000, np.uint8).tobytes()
GRAPH = "saved_model.pb"


def graph(*names):
    """The bytes of a SavedModel with nodes of these names."""
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    nodes = model.meta_graphs.add().graph_def
    for name in names:
        nodes.node.add(name=name, op="Const").attr["value"].tensor.tensor_content = b"/ml /tf"
    return model.SerializeToString()


def saved(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def test_a_machine_that_does_not_say_who_the_user_is(monkeypatch):
    """As Windows does where the environment names nobody: Python has no `pwd` there."""

    def fail():
        raise ImportError("No module named 'pwd'")

    monkeypatch.setattr(content.getpass, "getuser", fail)
    assert all(mark.what.startswith("the path ") for mark in machine_marks("/data"))


@pytest.fixture
def alice(monkeypatch):
    """Marks of a machine whose user is alice, and whose work lies in short folders."""
    monkeypatch.setattr(content.getpass, "getuser", lambda: "alice")
    monkeypatch.setattr(content.Path, "cwd", lambda: content.Path("/tf"))
    monkeypatch.setattr(content.Path, "home", lambda: content.Path("/home/alice"))
    monkeypatch.setattr(content.sys, "prefix", "/srv/plants/.venv")
    return machine_marks("/data", "/store/photos")


@pytest.mark.parametrize(
    "name, inside, found",
    [
        ("model.py", b"x = '/home/alice/data'", "the path /home/alice"),
        ("model.py", rb"x = 'C:\\Users\\alice'", "the user name alice"),
        ("config.json", rb'{"root": "C:\\\\Users\\\\alice"}', "the user name alice"),
        ("model.py", b"open('/mnt/alice')", "the user name alice"),
        ("model.py", b"open('/data/a.png')", "the path /data"),
        ("metadata", b"/srv/plants/.venv/lib", "the path /srv/plants/.venv"),
        (GRAPH, graph("a", "/store/photos"), "the path /store/photos"),
        (GRAPH, graph("/data"), "the path /data"),
        ("variables.data-00000-of-00001", RANDOM + b"x/srv/plants/.venv/" + RANDOM, "the path /srv"),
        ("variables.data-00000-of-00001", RANDOM + b"/home/alice\0" + RANDOM, "the path /home/alice"),
        (GRAPH, graph("model/tf/data", "layer/data", "dense/home/alice", "/database"), None),
        ("model.py", b"import tensorflow as tf  # x/data ~/data /datasets alice", None),
        ("variables.data-00000-of-00001", RANDOM + b"/tf /data" + RANDOM, None),
        (GRAPH, graph("EagerPyFunc"), "a Python function"),
        ("config.json", b'{"class_name":  "Lambda"}', "a Lambda"),
        ("model.py", b"class MyPyFunctions: pass", None),
        ("weights.pkl", b"", "a pickle"),
        ("weights.dat", pickle.dumps({"a": 1}), "a pickle"),
        ("weights.dat", pickle.dumps([1, 2], 0), "a pickle"),
        ("weights.npy", saved(np.array([{}], object)), "a pickle"),
        ("weights.npy", saved(np.ones(3)), None),
        ("weights.bin", b"\x80\x04" + RANDOM, None),
        ("weights.bin", RANDOM, None),
        ("notes", b".hidden", None),
        ("notes", b"N.", None),
    ],
)
def test_what_has_no_place_in_a_zip(alice, name, inside, found):
    if found is None:
        assert find_unfit(name, inside, alice) is None
    else:
        assert find_unfit(name, inside, alice).startswith(found)


def test_a_user_called_like_a_layer(alice, monkeypatch):
    monkeypatch.setattr(content.getpass, "getuser", lambda: "dense")
    marks = machine_marks()
    assert find_unfit(GRAPH, graph("model/dense/kernel", "/dense/bias"), marks) is None
    assert find_unfit("model.py", b"'/home/dense'", marks) == "the user name dense"


def test_this_machine_s_paths(tmp_path):
    (tmp_path / "SubmissionModel").mkdir()
    (tmp_path / "model.py").write_text("x = 1")
    check_package(tmp_path)
    for path in (os.getcwd(), os.path.expanduser("~"), sys.prefix, "/where/the/images/are"):
        (tmp_path / "SubmissionModel" / "note").write_text(f"'{path}/data'")
        with pytest.raises(RehearsalError, match="SubmissionModel/note holds the path .*, which has no place"):
            check_package(tmp_path, "/where/the/images/are")


def test_pickles_in_other_files():
    file = io.BytesIO()
    np.savez(file, a=np.ones(2))
    assert not is_pickle("a.npz", file.getvalue())
    with content.zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    assert is_pickle("weights.bin", file.getvalue()) and not is_pickle("weights.bin", b"PK but no zip")
