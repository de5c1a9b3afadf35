"""What stands for the scorer in a rehearsal: `python -I -B scorer_process.py`, in a process of its own.

competition/rehearsal/rehearsal.py starts it, by any Python from 3.8 on. It reads what it shall do on its standard input
and answers on its standard output, in the form that wire.py describes; what the zip's code prints goes to the standard
error. It imports nothing of this project and, before `model.py` does, nothing but the standard library and numpy.

Whatever is said here is said by a process that runs foreign code. It explains; the limits, the clocks and the verdict
are rehearsal.py's, and what the process can reach is up to sandbox.py.
"""

import json
import os
import struct
import sys
import threading
import time

HEADER = struct.Struct("<B8sQ")  # kind, the token of the request, bytes that follow
KINDS = {1: "done", 2: "answer", 3: "failed", 4: "tried"}
NUMBERS = {kind: number for number, kind in KINDS.items()}
TEXT = 0  # the number of the dtype of texts
DTYPES = dict(enumerate("|b1 |i1 <i2 <i4 <i8 |u1 <u2 <u4 <u8 <f2 <f4 <f8 <c8 <c16".split(), 1))
MOST_ARRAY = 1 << 28  # bytes of an answer
LONGEST = 1 << 16  # signs of a text that is told
MOST_SIGNS = 1000  # of each text in an array
MOST_TRIED = 100  # things that are told

MAKING = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
WRITING = os.O_RDWR | MAKING
CHANGES = ("os.chmod", "os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.truncate", "os.link", "os.symlink")
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

# What no zip needs, and what could help it out of a sandbox or around its limits: calls of the system, as Linux numbers
# them on two machines; those from 425 on have one number on both.
REFUSED = {
    "x86_64": (
        0xC000003E,
        317,  # seccomp itself
        # mount umount2 pivot_root chroot unshare setns open_by_handle_at swapon swapoff acct quotactl reboot
        (165, 166, 155, 161, 272, 308, 304, 167, 168, 163, 179, 169)
        # ptrace process_vm_readv process_vm_writev kcmp bpf perf_event_open userfaultfd syslog kexec_load kexec_file_load
        + (101, 310, 311, 312, 321, 298, 323, 103, 246, 320)
        # init_module finit_module delete_module add_key request_key keyctl settimeofday clock_settime iopl ioperm
        + (175, 313, 176, 248, 249, 250, 164, 227, 172, 173)
        + (319, 29, 68),  # memfd_create shmget msgget: memory that no limit counts
    ),
    "aarch64": (
        0xC00000B7,
        277,
        (40, 39, 41, 51, 97, 268, 265, 224, 225, 89, 60, 142)
        + (117, 270, 271, 272, 280, 241, 282, 116, 104, 294)
        + (105, 273, 106, 217, 218, 219, 170, 112)
        + (279, 194, 186),
    ),
}
# io_uring_setup open_tree move_mount fsopen fsconfig fsmount fspick pidfd_getfd mount_setattr memfd_secret
REFUSED_EVERYWHERE = (425, 428, 429, 430, 431, 432, 433, 438, 442, 447)

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


def forbid(folder, tried, isolated):
    """Refuse what a scorer does not allow `folder`'s code, in this process; what was tried is added to `tried`.

    That is sockets, changes of files below `folder`, reading files that lie elsewhere on this machine, and starting
    processes, which could do all that unseen. The refusals are those of a machine without network, of a read-only disk
    and of one that does not have the file, so that code which can do without goes on as it would there. Of native code
    is seen what it is asked for by ctypes: the caller looks at the files afterwards, and takes the network away.

    Where the process is `isolated` the files of this machine are not there. Then what is looked for in vain is told as
    "missing", and the caller knows whether this machine has it.
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
        return not (below(path, there) or below(os.path.realpath(path), there)) and os.path.isfile(path) != isolated

    def tell(kind, what):
        if [kind, what] not in tried and (len(tried) < MOST_TRIED or all(kind != told for told, _ in tried)):
            tried.append([kind, what])

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
            tell("network", ":".join(str(part) for part in where if part))
            raise OSError(101, "Network is unreachable")
        if event in ("ctypes.dlsym", "ctypes.dlsym/handle"):
            for kind, functions in NATIVE.items():
                if any(part in functions for part in args if isinstance(part, str)) and asked():
                    tell(kind, next(part for part in args if part in functions))
                    raise OSError(1, "Operation not permitted")
        if event in PROCESSES and asked():
            tell("process", str(args[0]) if args and isinstance(args[0], str) else event)
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
            tell("write", name(path))
            raise OSError(30, "Read-only file system", path)
        if event == "open" and isinstance(args[2], int) and not args[2] & MAKING and elsewhere(args[0]):
            tell("missing" if isolated else "read", os.path.abspath(os.fsdecode(args[0])))
            if isolated:
                return
            raise FileNotFoundError(2, "No such file or directory", args[0])

    sys.addaudithook(watch)


def plain(value, np):
    """An answer as an array of one of DTYPES or of text, and what it was: "int64 tensor", "float32 array", ..."""
    array = np.asarray(value)
    module = type(value).__module__.split(".")[0]
    if isinstance(value, np.ndarray):
        kind = "array"
    else:
        kind = "tensor" if module in ("tensorflow", "torch", "jax", "jaxlib") else type(value).__name__
    described = "%s %s" % (array.dtype, kind)
    if array.dtype.kind not in "biufcU":
        try:
            array = array.astype(np.float32 if array.dtype.kind == "V" else str)  # bfloat16 is a V to numpy
        except (TypeError, ValueError):
            array = np.array(str(value))
    if array.dtype.kind in "iufc" and array.dtype.newbyteorder("<").str not in DTYPES.values():
        array = array.astype("<c16" if array.dtype.kind == "c" else "<f8")
    return array, described


def pack(answer, np):
    """What `plain` says, as it goes through the pipe."""
    array, described = answer
    if array.dtype.kind == "U":
        signs = min(max(array.dtype.itemsize // 4, 1), MOST_SIGNS)
        array, code = array.astype("<U%d" % signs), TEXT
    else:
        signs, little = 0, array.dtype.newbyteorder("<")
        array, code = array.astype(little), next(number for number, name in DTYPES.items() if name == little.str)
    if array.nbytes > MOST_ARRAY:
        raise ValueError(
            "the answer is a %s of shape %s, more than the %d MB that are read"
            % (described, list(array.shape), MOST_ARRAY // 10**6)
        )
    said = described.encode("utf-8", "replace")[:100]
    head = struct.pack("<H", len(said)) + said + struct.pack("<BBI", code, array.ndim, signs)
    return head + struct.pack("<%dQ" % array.ndim, *array.shape) + array.tobytes()


def pack_texts(texts):
    texts = [str(text)[:LONGEST].encode("utf-8", "replace") for text in texts]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


class Pipes:
    """The two pipes, taken from the standard input and output, which the zip's code gets empty."""

    def __init__(self):
        if sys.platform == "win32":
            import msvcrt

            for number in (0, 1):
                msvcrt.setmode(number, os.O_BINARY)
        self.requests, self.answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
        empty = os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        os.dup2(2, 1)
        os.close(empty)
        self.token, self.told = bytes(8), 0

    def read(self):
        _, self.token, size = HEADER.unpack(self.requests.read(HEADER.size))
        return json.loads(self.requests.read(size).decode())

    def reply(self, kind, content, tried):
        """Answer the request, after what was tried since the last one."""
        new = tried[self.told :]
        self.told += len(new)
        frames = [("tried", pack_texts(part for pair in new for part in pair)), (kind, content)]
        for kind, content in frames[not frames[0][1] :]:
            self.answers.write(HEADER.pack(NUMBERS[kind], self.token, len(content)) + content)
        self.answers.flush()


def refuse_calls():
    """Have the system refuse REFUSED to this process and its children from now on, where it is a Linux that can."""
    import ctypes
    import platform

    if sys.platform != "linux" or platform.machine() not in REFUSED or sys.maxsize < 1 << 32:
        return False
    machine, seccomp, numbers = REFUSED[platform.machine()]
    numbers += REFUSED_EVERYWHERE
    load, equal, at_least, back = 0x20, 0x15, 0x35, 0x06  # instructions of the filter
    no, yes = 0x00050001, 0x7FFF0000  # "not permitted", and go on
    program = [(load, 0, 0, 4), (equal, 1, 0, machine), (back, 0, 0, no)]
    program += [(load, 0, 0, 0), (at_least, len(numbers) + 1, 0, 0x40000000)]  # calls of another size of numbers
    program += [(equal, len(numbers) - place, 0, number) for place, number in enumerate(numbers)]
    program += [(back, 0, 0, yes), (back, 0, 0, no)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in program))
    told = struct.pack("<H6xQ", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None)
    libc.prctl(38, 1, 0, 0, 0)  # nothing that is started gets new rights, which a filter asks for
    return libc.syscall(seccomp, 1, 4, told) == 0  # 4: as fast as before


def limit(limits):
    """Set the limits of the system, {name in `resource`: most}; what it has no name for it does not know."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for name, most in limits.items():
        which = getattr(resource, name, None)
        if which is not None:
            hard = resource.getrlimit(which)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            try:
                resource.setrlimit(which, (most, most))
            except (OSError, ValueError):  # macOS refuses some
                pass


def serve(pipes, job, images, tried):
    """Do what is asked, one request after the other, to the last one."""
    import numpy as np

    folder, entry = job["folder"], job["entry"]
    sys.path.insert(0, folder)
    model = network = batch = None
    while True:
        asked = pipes.read()
        if asked["do"] == "import":
            model = __import__("model")
        elif asked["do"] == "load":
            network = getattr(model, entry["class_name"])(*[folder] * entry["with_path"])
        elif asked["do"] == "end":
            if any(name.split(".")[0] == "competition" for name in sys.modules):
                raise ImportError("the zip's code imports this project")
            return pipes.reply("done", pack_texts(part for pair in versions().items() for part in pair), tried)
        else:
            if asked["new"]:
                batch = make_batch(images, asked, np)
            value = getattr(network, asked["do"])(batch)
            pipes.reply("answer", pack(plain(value, np), np), tried)
            continue
        pipes.reply("done", b"", tried)


def make_batch(images, asked, np):
    batch = images[asked["first"] :]
    if asked["count"] is not None:
        batch = np.resize(batch, (asked["count"],) + batch.shape[1:])
    batch = batch.astype(asked["dtype"])
    if asked["tensor"]:
        import tensorflow as tf

        batch = tf.constant(batch)
    return batch


def end_with(parent):
    """End this process when the one that started it is gone, killed say, and nobody waits for answers any more."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def versions():
    """{name: version} of this Python and of what the zip's code has imported."""
    found = {"python": sys.version.split()[0]}
    for name in LIBRARIES:
        version = getattr(sys.modules.get(name), "__version__", None)
        if isinstance(version, str):
            found[name] = version
    return found


def main():
    pipes, tried = Pipes(), []
    refuse_calls()  # before the first thread
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    try:
        job = pipes.read()
        limit(job["limits"])
        import numpy as np

        size = int(np.prod(job["shape"], dtype=np.int64)) * np.dtype(job["dtype"]).itemsize
        images = np.frombuffer(bytearray(pipes.requests.read(size)), job["dtype"]).reshape(job["shape"])
        forbid(job["folder"], tried, job["isolated"])
        pipes.reply("done", b"", tried)
        serve(pipes, job, images, tried)
    except BaseException as error:
        import traceback

        pipes.reply("failed", pack_texts([type(error).__name__, str(error), traceback.format_exc()]), tried)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # what libraries do when a process ends is no part of the answer


if __name__ == "__main__":
    main()
