"""What stands for the scorer in a rehearsal: `python -I -B scorer.py job.json`, in a process of its own.

competition/rehearsal.py starts it, by any Python from 3.8 on, and reads what it leaves in the folder `out`:
`found.json` (what happened, and what was tried that a scorer forbids) and `answers.npz`. It imports nothing of this
project and, before `model.py` does, nothing but the standard library and numpy.
"""

import json
import os
import sys
import threading
import time

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.truncate", "os.link", "os.symlink")
SOCKETS = ("socket.__new__", "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
LOCAL = 1  # socket.AF_UNIX: within the machine
PROBE = os.path.join("urllib3", "util", "connection.py")  # binds a socket when it is imported, to see whether it could


def forbid(folder, tried):
    """Refuse sockets, and changes of files below `folder`, in this process; what was tried is added to `tried`.

    The refusals are those of a machine without network and of a read-only disk, so that code which can do without goes
    on as it would there. Native code is not seen: the caller looks at the files afterwards.
    """

    def inside(path):
        return isinstance(path, (str, bytes, os.PathLike)) and (
            os.path.abspath(os.fsdecode(path)) + os.sep).startswith(folder + os.sep)

    def callers():
        """The frames of who opens a socket: socket.py, and who called that."""
        frame = sys._getframe(2)
        return [one for one in (frame, frame.f_back) if one]

    def watch(event, args):
        if event in SOCKETS:
            local = event == "socket.__new__" and args[1] == LOCAL
            if local or any(frame.f_code.co_filename.endswith(PROBE) for frame in callers()):
                return
            where = args[1] if event == "socket.connect" else args[:2] if event.startswith("socket.get") else ()
            where = where if isinstance(where, tuple) else (where,)
            tried.append(["network", ":".join(str(part) for part in where if part)])
            raise OSError(101, "Network is unreachable")
        if event == "open" and isinstance(args[2], int) and args[2] & WRITING and inside(args[0]) \
                or event in CHANGES and any(map(inside, args)):
            path = next(filter(inside, args))
            tried.append(["write", os.path.relpath(os.path.abspath(os.fsdecode(path)), folder)])
            raise OSError(30, "Read-only file system", path)

    sys.addaudithook(watch)


def plain(value, np):
    """An answer as an array that can be saved without pickle, and what it was: "int64 tensor", "float32 array", ..."""
    array = np.asarray(value)
    module = type(value).__module__.split(".")[0]
    if isinstance(value, np.ndarray):
        kind = "array"
    else:
        kind = "tensor" if module in ("tensorflow", "torch", "jax", "jaxlib") else type(value).__name__
    described = "%s %s" % (array.dtype, kind)
    return (array.astype(str) if array.dtype == object else array), described


def run(job, found, answers):
    """Do the jobs; found["stage"] always says what is being done."""
    import numpy as np

    images = np.load(job["images"])
    folder, entry = job["folder"], job["entry"]
    sys.path.insert(0, folder)
    found["stage"] = "import"
    start = time.perf_counter()
    import model

    found["stage"] = "load"
    network = getattr(model, entry["class_name"])(*[folder] * entry["with_path"])
    found["load_seconds"] = time.perf_counter() - start

    speed = None
    for number, call in enumerate(job["jobs"]):
        found["stage"] = "predict"
        found["job"] = number
        batch = images[call["first"]:]
        if call["count"] is not None:
            batch = np.resize(batch, (call["count"],) + batch.shape[1:])
        if call["budget"] and speed and len(batch) / speed > call["budget"]:
            found["left_out"][number] = len(batch) / speed
            continue
        batch = batch.astype(call["dtype"])
        if call["tensor"]:
            import tensorflow as tf

            batch = tf.constant(batch)
        for turn in range(call["times"]):
            start = time.perf_counter()
            value = network.predict(batch)
            seconds = time.perf_counter() - start
            labels, described = plain(value, np)
            answers["labels%d.%d" % (number, turn)] = labels
        found["returned"][number], found["seconds"][number] = described, seconds
        if len(batch) > 16:
            speed = len(batch) / max(seconds, 1e-6)
        if call["probabilities"]:
            found["stage"] = "predict_proba"
            answers["probabilities%d" % number] = plain(network.predict_proba(batch), np)[0]
    found["stage"] = "end"
    if any(name.split(".")[0] == "competition" for name in sys.modules):
        raise ImportError("the zip's code imports this project")


def end_with(parent):
    """End this process when the one that started it is gone, killed say, and nobody waits for answers any more."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def memory():
    """The most that this process has had in memory, in bytes; 0 where Linux does not tell."""
    try:
        with open("/proc/self/status") as file:  # ru_maxrss would include the process that started this one
            return max(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, ValueError):
        return 0


def main(path):
    with open(path) as file:
        job = json.load(file)
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    count = len(job["jobs"])
    tried, answers = [], {}
    found = {"stage": "start", "job": None, "error": None, "tried": tried, "load_seconds": None,
             "returned": [None] * count, "seconds": [None] * count, "left_out": [None] * count}
    try:
        import numpy as np

        forbid(job["folder"], tried)
        run(job, found, answers)
        np.savez(os.path.join(job["out"], "answers.npz"), **answers)
    except BaseException as error:
        import traceback

        found["error"] = {"type": type(error).__name__, "text": str(error), "trace": traceback.format_exc()}
    found["peak_bytes"] = memory()
    with open(os.path.join(job["out"], "found.json"), "w") as file:
        json.dump(found, file)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # what libraries do when a process ends is no part of the answer


if __name__ == "__main__":
    main(sys.argv[1])
