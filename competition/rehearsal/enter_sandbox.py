"""The first stage of a sandbox: `python -I -S -B enter_sandbox.py PLAN COMMAND...`, on Linux alone, by this project's Python.

sandbox.py starts it where bubblewrap is missing. It runs no foreign code and reads nothing but its PLAN, a JSON text:

base   an empty folder, over which the new root is built
uid, gid  which the command gets; `mapped` says whether all numbers are known inside, or these alone
binds  [[source, target]] which are seen, read-only
links  [[text, path]] symbolic links
devices  [path] of device files
rooms  [[path, bytes]] empty folders in memory, of that size, which may be written
folder, environment  of the command

Three processes are at work. The first one waits, and dies with who started it. The second one is the first of the new
namespaces, in which it builds the root, gives its rights up and waits: when it ends, the system ends all others there.
The third one becomes the command.
"""

import ctypes
import json
import os
import select
import signal
import sys

NAMESPACES = 0x00020000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000  # mnt user pid net ipc uts
READ_ONLY, NO_SUID, NO_DEV, NO_EXEC, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
KEPT = {  # options of a mount that a user namespace cannot take off
    "nosuid": NO_SUID,
    "nodev": NO_DEV,
    "noexec": NO_EXEC,
    "noatime": 1024,
    "nodiratime": 2048,
    "relatime": 1 << 21,
}
DETACH = 2
DEATH_SIGNAL, DUMPABLE, DROP_BOUND, NO_NEW_PRIVILEGES, AMBIENT, CLEAR_AMBIENT = 1, 4, 24, 38, 47, 4
CAPABILITIES_3 = 0x20080522
FAILED = 125  # exit code where the sandbox cannot be built

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *args):
    """A function of the C library; OSError where it fails."""
    if getattr(libc, name)(*args) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def mount(source, target, kind=None, flags=0, data=None):
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind)]
    try:
        call("mount", *words, ctypes.c_ulong(flags), data and data.encode())
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} ({source} at {target})") from None


def main(plan, command):
    parent = os.getppid()
    os.umask(0o022)  # another user goes through the folders that are made here
    unshare(plan)
    call("prctl", DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(FAILED)
    alive, held = os.pipe()
    init = os.fork()
    if init:
        os.close(alive)
        leave(os.waitpid(init, 0)[1])
    os.close(held)
    build(plan)
    give_up(plan["uid"], plan["gid"])
    call("prctl", DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)  # whoever changes its user loses it
    if select.select([alive], [], [], 0)[0]:  # the first process is gone, which would have told
        os._exit(FAILED)
    judged = os.fork()
    if not judged:
        os.chdir(plan["folder"])
        os.execve(command[0], command, plan["environment"])
    call("prctl", DUMPABLE, 0, 0, 0, 0)
    while True:
        pid, status = os.wait()
        if pid == judged:
            leave(status)


def leave(status):
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def unshare(plan):
    """Enter new namespaces. Their numbers of users are written by a process that stays outside."""
    mine, maps = os.getpid(), {}
    for name, number, own in (("uid_map", plan["uid"], os.geteuid()), ("gid_map", plan["gid"], os.getegid())):
        if plan["mapped"]:
            with open(f"/proc/self/{name}", encoding="ascii") as file:
                known = [line.split() for line in file]
            maps[name] = "".join(f"{first} {first} {count}\n" for first, _, count in known)
        else:
            maps |= {"setgroups": "deny", name: f"{number} {own} 1\n"}
    told, tell = os.pipe()
    helper = os.fork()
    if not helper:
        try:
            os.close(tell)
            if os.read(told, 1):
                for name, text in maps.items():
                    with open(f"/proc/{mine}/{name}", "w", encoding="ascii") as file:
                        file.write(text)
                os._exit(0)
        except OSError as error:
            print(f"the sandbox has no users: {error}", file=sys.stderr, flush=True)
        os._exit(FAILED)
    os.close(told)
    call("unshare", NAMESPACES)
    os.write(tell, b"1")
    os.close(tell)
    if os.waitpid(helper, 0)[1]:
        os._exit(FAILED)


def build(plan):
    """A root that holds what the plan names, and the namespaces' own /proc."""
    base = plan["base"]
    mount(None, "/", None, RECURSIVE | PRIVATE)
    mount("tmpfs", base, "tmpfs", NO_SUID | NO_DEV, "mode=0755,size=16m")
    for path, size in plan["rooms"]:
        place(base + path, True)
        mount("tmpfs", base + path, "tmpfs", NO_SUID | NO_DEV, f"mode=1777,size={size},nr_inodes=100000")
    rooms = [base + path for path, _ in plan["rooms"]]  # first, as an environment may lie in /tmp
    for source, target in plan["binds"]:
        place(base + target, os.path.isdir(source))
        mount(source, base + target, None, BIND | RECURSIVE)
    for point, options in mounts_below(base):
        if point in rooms:
            continue
        kept = sum(flag for name, flag in KEPT.items() if name in options)
        mount(None, point, None, REMOUNT | BIND | READ_ONLY | NO_SUID | NO_DEV | kept)
    for device in plan["devices"]:
        place(base + device, False)
        mount(device, base + device, None, BIND)
        mount(None, base + device, None, REMOUNT | BIND | READ_ONLY | NO_SUID | NO_EXEC)  # its mode stays as it is
    for text, path in plan["links"]:
        os.makedirs(os.path.dirname(base + path), exist_ok=True)
        os.symlink(text, base + path)
    place(base + "/proc", True)
    mount("proc", base + "/proc", "proc", NO_SUID | NO_DEV | NO_EXEC)
    with open(base + "/proc/sys/user/max_user_namespaces", "w", encoding="ascii") as file:
        file.write("0")  # of this namespace: a new one would bring all capabilities back
    for part in ("sys", "sysrq-trigger", "irq", "bus"):
        if os.path.exists(path := f"{base}/proc/{part}"):
            mount(path, path, None, BIND | RECURSIVE)
            mount(None, path, None, REMOUNT | BIND | READ_ONLY | NO_SUID | NO_DEV | NO_EXEC)
    os.chdir(base)
    call("pivot_root", b".", b".")
    call("umount2", b".", DETACH)
    os.chdir("/")
    mount(None, "/", None, REMOUNT | BIND | READ_ONLY | NO_SUID | NO_DEV)
    call("sethostname", b"scorer", 6)


def place(path, folder):
    """An empty folder or file, to mount something over it."""
    os.makedirs(path if folder else os.path.dirname(path), exist_ok=True)
    if not folder and not os.path.lexists(path):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o444))


def mounts_below(base):
    """[(path, [option])] of all mounts below a folder."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        rows = [line.split() for line in file]
    paths = [row[4].encode("utf-8", "surrogateescape") for row in rows]
    for code in (b"040", b"011", b"012", b"134"):
        paths = [path.replace(b"\\" + code, bytes([int(code, 8)])) for path in paths]
    found = [(os.fsdecode(path), row[5].split(",")) for path, row in zip(paths, rows)]
    return [(path, options) for path, options in found if path.startswith(base + os.sep)]


def give_up(uid, gid):
    """Become that user, without a capability, now and later."""
    call("prctl", AMBIENT, CLEAR_AMBIENT, 0, 0, 0)
    number = 0
    while libc.prctl(DROP_BOUND, number, 0, 0, 0) == 0:
        number += 1
    if (os.getuid(), os.getgid()) != (uid, gid):
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    call("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    call("capset", (ctypes.c_uint32 * 2)(CAPABILITIES_3, 0), (ctypes.c_uint32 * 6)())


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]), sys.argv[2:])
    except OSError as error:
        print(f"the sandbox cannot be built: {error}", file=sys.stderr, flush=True)
        os._exit(FAILED)
