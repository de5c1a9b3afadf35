"""What several measurements need: a process of their own, and a small copy of the data."""

import collections
import contextlib
import importlib
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from tqdm import tqdm

from competition.data.decode import decode
from competition.data.folds import make_folds
from competition.data.sources import open_source

MOST_SIDE = 224  # pixels


def stream_apart(function, *arguments):
    """Yield what the generator `function(*arguments)` yields, from a fresh Python process of its own.

    Tracing, memory and environment variables of one measurement can so not reach another. What is given and yielded is
    pickled; what the process prints on stdout is dropped. RuntimeError with one line when it raises or dies.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_all, args=(sender, function, arguments))
    process.start()
    sender.close()  # so that the end of the process is the end of the pipe
    try:
        with contextlib.suppress(EOFError):
            while True:
                kind, value = receiver.recv()
                if kind == "error":
                    raise RuntimeError(value)
                yield value
        process.join()
        if process.exitcode:
            raise RuntimeError(f"its process ended with exit code {process.exitcode}")
    finally:
        process.terminate()
        process.join()


def measure_theme(theme, options):
    """Yield the Figures of `bench/<theme>.py`, in the folder that its options name."""
    os.chdir(options.work)
    yield from importlib.import_module(f"bench.{theme}").measure(options)


def call_apart(function, *arguments):
    """What `function(*arguments)` returns, from a fresh Python process of its own; as `stream_apart` otherwise."""
    return next(stream_apart(_yield_result, function, *arguments))


def _yield_result(function, *arguments):
    yield function(*arguments)


def _send_all(sender, function, arguments):
    threading.Thread(target=_follow_parent, daemon=True).start()
    tqdm.set_lock(threading.RLock())  # its own is for several processes, and would be missed at the end
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            for value in function(*arguments):
                sender.send(("value", value))
        except Exception as error:  # whatever went wrong is a line in the table
            sender.send(("error", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))
        except KeyboardInterrupt:
            os._exit(130)
    sender.close()
    sys.stderr.flush()
    os._exit(0)  # native threads need not be waited for


def _follow_parent():
    """End with the process that wanted the measurement, however that ends."""
    multiprocessing.parent_process().join()
    os._exit(1)


def memory(what):
    """MB that this process has in memory: VmRSS now, VmHWM at its highest, which is all that macOS tells."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines[what].split()[0]) * 1024 / 1e6


def describe_gpu():
    """The names of the GPUs that NVIDIA's driver sees, or "no GPU"."""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        found = subprocess.run(query, capture_output=True, text=True)
        if found.returncode == 0 and found.stdout.strip():
            return ", ".join(found.stdout.strip().splitlines())
    return "no GPU"


def deal(data, name=None, folds=5):
    """`make folds` as far as the data allows: no more folds than the smallest class has images, two at least, and large
    photographs brought to MOST_SIDE pixels, as the networks here would see no more of them. Returns the FoldTable."""
    source = open_source(data)
    few = min(collections.Counter(source.labels).values())
    seen = decode(source.read(source.images[0]), source.images[0]).shape[:2]
    return make_folds(
        data, name=name, folds=max(2, min(folds, few)), size=None if max(seen) <= MOST_SIDE else fit(seen)
    )


def fit(size):
    """(height, width) of which the longer is MOST_SIDE at most."""
    factor = min(1, MOST_SIDE / max(size))
    return tuple(max(1, round(side * factor)) for side in size)


def copy_images(data, folder, images, folds):
    """Write the first images of each class, at least `images` altogether where there are as many, to class folders.

    data    folder of class folders, zip or CSV; it is only read
    folds   each class gets at least as many images, whatever the number of classes

    Returns the folder's Path.
    """
    source = open_source(data)
    wanted = max(folds, -(-images // len(source.classes)))
    number = {label: i for i, label in enumerate(source.classes)}
    taken = collections.Counter()
    for image, label in zip(source.images, source.labels):
        if taken[label] < wanted:
            path = Path(folder) / f"{number[label]:03}" / f"{taken[label]:05}{Path(image).suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.read(image))
            taken[label] += 1
    return Path(folder)
