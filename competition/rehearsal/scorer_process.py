"""What stands for the scorer in a rehearsal: `python -I -B scorer_process.py job.json`, in a process of its own.

competition/rehearsal/rehearsal.py starts it, by any Python from 3.8 on, and reads what it leaves in the folder `out`:
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

# urllib3 binds a socket when it is imported, to see whether it could; its connections come from the same file
PROBE = os.path.join("urllib3", "util", "connection.py"), "_has_ipv6"
LIBRARIES = ("numpy", "tensorflow", "keras", "torch", "jax", "sklearn", "PIL", "cv2")  # whose versions are told
PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty")
PROBES = ("platform.py", os.path.join("ctypes", "util.py"))  # of the standard library: ask uname, ldconfig or gcc
WATCHED = frozenset((*SOCKETS, *CHANGES, *PROCESSES, "open", "ctypes.dlsym", "ctypes.dlsym/handle"))
NATIVE = {
    "network": ("socket", "connect", "sendto", "getaddrinfo", "gethostbyname"),  # functions that ctypes looks up
    "process": ("fork", "vfork", "system", "popen", "posix_spawn", "posix_spawnp", "execv", "execve", "execvp"),
}

# where a scorer has files of its own, beside what the interpreter came with
SYSTEM = (
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/bin",
    "/sbin",
    "/etc",
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/var",
    "/opt",
    "/snap",
    "/nix",
    "/System",
    "/Library",
    "/Applications",
    os.environ.get("SYSTEMROOT"),  # of Windows
)


def forbid(folder, tried):
    """Refuse what a scorer does not allow `folder`'s code, in this process; what was tried is added to `tried`.

    That is sockets, changes of files below `folder`, reading files that lie elsewhere on this machine, and starting
    processes, which could do all that unseen. The refusals are those of a machine without network, of a read-only disk
    and of one that does not have the file, so that code which can do without goes on as it would there. Of native code
    is seen what it is asked for by ctypes: the caller looks at the files afterwards, and takes the network away.
    """
    standard = os.path.dirname(os.__file__)
    own = [os.path.dirname(folder), os.path.abspath(__file__), standard, sys.prefix, sys.base_prefix, sys.exec_prefix]
    there = tuple(
        {
            os.path.normcase(known + os.sep)
            for path in own + sys.path + list(SYSTEM)
            if path
            for known in (os.path.abspath(path), os.path.realpath(path))
            if known != os.sep
        }
    )

    def named(path):
        return isinstance(path, (str, bytes, os.PathLike))

    def below(path, folders):
        return os.path.normcase(path + os.sep).startswith(folders)

    def inside(path):
        return named(path) and below(os.path.abspath(os.fsdecode(path)), os.path.normcase(folder + os.sep))

    def elsewhere(path):
        if not named(path):
            return False
        path = os.path.abspath(os.fsdecode(path))
        return not (below(path, there) or below(os.path.realpath(path), there)) and os.path.isfile(path)

    def probing():
        """Whether it is urllib3 that opens a socket: what called is socket.py, and who called that."""
        frame = sys._getframe(2)
        return any(
            one.f_code.co_filename.endswith(PROBE[0]) and one.f_code.co_name == PROBE[1]
            for one in (frame, frame.f_back)
            if one
        )

    def asked():
        """Whether the code in `folder` asks for this itself, and not a library that it imports, or a PROBES."""
        frame = sys._getframe(2)
        while (
            frame
            and frame.f_code.co_filename.startswith((standard + os.sep, "<frozen"))
            and "site-packages" not in frame.f_code.co_filename
        ):
            if frame.f_code.co_filename.endswith(PROBES):
                return False
            frame = frame.f_back
        return bool(frame) and inside(frame.f_code.co_filename)

    def name(path):
        return os.path.relpath(os.path.abspath(os.fsdecode(path)), folder)

    def watch(event, args):
        if event not in WATCHED:  # an import of TensorFlow has 150 thousand of the others
            return
        if event in SOCKETS:
            local = event == "socket.__new__" and args[1] == LOCAL
            if local or probing():
                return
            where = args[1] if event == "socket.connect" else args[:2] if event.startswith("socket.get") else ()
            where = where if isinstance(where, tuple) else (where,)
            tried.append(["network", ":".join(str(part) for part in where if part)])
            raise OSError(101, "Network is unreachable")
        if event in ("ctypes.dlsym", "ctypes.dlsym/handle"):
            for kind, functions in NATIVE.items():
                if any(part in functions for part in args if isinstance(part, str)) and asked():
                    tried.append([kind, next(part for part in args if part in functions)])
                    raise OSError(1, "Operation not permitted")
        if event in PROCESSES and asked():
            tried.append(["process", str(args[0]) if args and isinstance(args[0], str) else event])
            raise OSError(1, "Operation not permitted")
        if (
            event == "open"
            and isinstance(args[2], int)
            and args[2] & WRITING
            and inside(args[0])
            or event in CHANGES
            and any(map(inside, args))
        ):
            path = next(filter(inside, args))
            tried.append(["write", name(path)])
            raise OSError(30, "Read-only file system", path)
        if event == "open" and isinstance(args[2], int) and not args[2] & WRITING and elsewhere(args[0]):
            tried.append(["read", os.path.abspath(os.fsdecode(args[0]))])
            raise FileNotFoundError(2, "No such file or directory", args[0])

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
        batch = images[call["first"] :]
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
            for turn in range(call["times"]):
                answers["probabilities%d.%d" % (number, turn)] = plain(network.predict_proba(batch), np)[0]
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
        with open(
            "/proc/self/status", encoding="utf-8"
        ) as file:  # ru_maxrss would include the process that started this one
            return max(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, ValueError):
        return 0


def versions():
    """{name: version} of this Python and of what the zip's code has imported."""
    found = {"python": sys.version.split()[0]}
    for name in LIBRARIES:
        version = getattr(sys.modules.get(name), "__version__", None)
        if isinstance(version, str):
            found[name] = version
    return found


def main(path):
    with open(path, encoding="utf-8") as file:
        job = json.load(file)
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    count = len(job["jobs"])
    tried, answers = [], {}
    found = {
        "stage": "start",
        "job": None,
        "error": None,
        "tried": tried,
        "load_seconds": None,
        "returned": [None] * count,
        "seconds": [None] * count,
        "left_out": [None] * count,
    }
    try:
        import numpy as np

        forbid(job["folder"], tried)
        run(job, found, answers)
        np.savez(os.path.join(job["out"], "answers.npz"), **answers)
    except BaseException as error:
        import traceback

        found["error"] = {"type": type(error).__name__, "text": str(error), "trace": traceback.format_exc()}
    found["peak_bytes"], found["versions"] = memory(), versions()
    with open(os.path.join(job["out"], "found.json"), "w", encoding="utf-8") as file:
        json.dump(found, file)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # what libraries do when a process ends is no part of the answer


if __name__ == "__main__":
    main(sys.argv[1])
