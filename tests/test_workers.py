"""Folds side by side: workers on a cluster of two nodes, one of which is killed, train to the same bits as one process."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import class_folders

from competition.base import workers
from competition.base.files import InputError
from competition.base.workers import Workers, read_workers

ROOT = Path(__file__).parents[1]
needs_ray = pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed: make setup CLUSTER=1")

SCRIPT = """
import hashlib, json, os, signal, sys, time
from pathlib import Path

import psutil

from competition import Competition, register_backbone


def build(x):
    from keras import layers

    x = layers.Rescaling(1 / 255)(x)
    for width in (4, 8):
        x = layers.BatchNormalization()(layers.Conv2D(width, 3, 2, activation="relu")(x))
    return layers.Dropout(0.1)(layers.GlobalAveragePooling2D()(x))


def workers():
    found = psutil.process_iter(["cmdline", "status"])
    named = [one for one in found if "".join((one.info["cmdline"] or [])[:1]).startswith("ray::_Worker")]
    return [one for one in named if one.info["status"] != psutil.STATUS_ZOMBIE]


class Kill:
    killed = 0

    def on_epoch(self, run, fold, epoch, row):
        if not self.killed:
            self.killed = 1
            found["workers"] = len(workers())
            workers()[0].send_signal(signal.SIGKILL)


def files_of(run):
    return {
        path.relative_to(run.dir).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.dir.rglob("*"))
        if path.is_file() and path.suffix in (".npz", ".csv", ".h5") and path.name != "history.csv"
    }


register_backbone("tiny", build)
here, found = Competition(".", "data", verbose=False), {}
here.folds("data", folds=3)
recipe = {"epochs": 3, "batch_size": 8, "image_size": 0, "least_size": 0, "mixup": 0.5, "rate": 1e-3}
alone = here.train("tiny", run="alone", weights="none", **recipe)

from ray.cluster_utils import Cluster

cluster = Cluster()
for _ in range(2):
    cluster.add_node(num_cpus=1, object_store_memory=10**8)
callback = Kill()
apart = here.train(
    "tiny", run="apart", weights="none", workers=2, cluster=cluster.address, callbacks=[callback], **recipe
)
cluster.shutdown()
found["same"] = files_of(apart) == files_of(alone) and len(files_of(alone)) > 6
again = [files_of(here.run(f"{name}-seed1")) for name in ("apart", "alone")]
found["again"] = again[0] == again[1] and sorted(again[0])[-1].startswith("fold_0/")
found["folds"] = [json.loads((apart.dir / f"fold_{k}/fold.json").read_text()) for k in range(3)]
found["history"] = [len(alone.history), len(apart.history)]
ends = time.monotonic() + 60
while workers() and time.monotonic() < ends:
    time.sleep(0.2)
found["left"] = len(workers())
print(json.dumps(found))
"""


@needs_ray
def test_a_cluster_of_two_nodes_trains_the_same_though_a_worker_is_killed(tmp_path):
    class_folders(tmp_path / "data", {"a": 12, "b": 12}, height=16, width=16)
    threads = {"TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1"}  # as many as a worker has
    environment = os.environ | threads | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["workers"] == 2 and found["left"] == 0
    assert found["same"] and found["again"] and found["history"] == [9, 9]
    assert all(fold["threads"] == 1 and fold["host"] for fold in found["folds"])
    assert "apart 100%" in done.stderr and "9.0/9 epochs" in done.stderr
    assert "is lost; another one goes on with what it had told" in done.stderr


def test_what_the_options_mean(monkeypatch):
    monkeypatch.setattr(workers, "find_spec", lambda name: True)
    monkeypatch.setattr(workers, "share_gpus", lambda: None)
    assert read_workers(None, None) is None and read_workers("", "") is None
    assert read_workers("2", None) == Workers(2, "")
    assert read_workers(None, "auto") == Workers(None, "auto")
    assert read_workers(3, "ray://host:10001") == Workers(3, "ray://host:10001")
    for given, line in (
        (("0", None), "WORKERS=0: expected 1 to 1024"),
        (("two", None), "WORKERS=two: expected a whole number"),
        ((None, "host"), "CLUSTER=host: expected auto, or the address"),
    ):
        with pytest.raises(InputError, match=line):
            read_workers(*given)
    monkeypatch.setattr(workers, "count_gpus", lambda: 2)
    for gpu, wanted in ((True, Workers(2, "")), (False, None)):
        monkeypatch.setattr(workers, "has_gpu", lambda gpu=gpu: gpu)
        assert read_workers(None, None) == wanted
    monkeypatch.setattr(workers, "find_spec", lambda name: None)
    assert read_workers(None, None) is None
    with pytest.raises(InputError, match="need Ray, which is not installed: make setup CLUSTER=1"):
        read_workers("2", None)


def test_cores_are_shared_out():
    crew = workers._share_out(Workers(2), {"CPU": 8.0, "GPU": 1.0}, 1)
    assert (crew.count, crew.cpus, crew.gpus) == (2, 4, 0.5)
    assert crew.environment["TF_NUM_INTRAOP_THREADS"] == crew.environment["OMP_NUM_THREADS"] == "4"
    crew = workers._share_out(Workers(None, "auto"), {"CPU": 12.0}, 3)
    assert (crew.count, crew.cpus, crew.gpus) == (3, 4, 0)
    assert workers._share_out(Workers(None, "auto"), {"CPU": 12.0, "GPU": 4.0}, 3).count == 4
    with pytest.raises(InputError, match="WORKERS=3: this machine has 2 cores, expected a worker a core or fewer"):
        workers._share_out(Workers(3), {"CPU": 2.0}, 1)
