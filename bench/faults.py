"""`python -m bench.faults`: break every command in every way that a machine does, and see how it goes on.

Kinds of trial:

    kills    SIGKILL at a random moment, or when the command is about to write for the k-th time; once or twice
    damage   a file that the command reads has one flipped bit, is cut, empty, another run's, JSON of another type,
             read-only, a folder, a FIFO or a link to nothing
    full     a disk that is full after some bytes of what the command writes, or a limit on the size of a file
    folders  a folder that the command writes into is read-only, for a user without rights
    pairs    the same command twice at once, or beside another one

After each the same command, undisturbed, must end well with the same results, and leave nothing behind: no partial file,
no temporary folder, no process. While something is broken the command must go on to the same results; or else end with
exit code 2 and one line that names the file and what to do. Everything is drawn and lies in a temporary folder.
"""

import argparse
import json
import os
import pickle
import random
import re
import shutil
import stat
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

os.environ |= {
    "CUDA_VISIBLE_DEVICES": "-1",
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "LOKY_MAX_CPU_COUNT": "1",
}

from bench import fault_steps
from bench.fault_play import (
    NOBODY,
    Kill,
    become_reaper,
    begin,
    differences,
    end,
    fingerprint,
    grow,
    mount_small,
    play,
    steady,
)
from bench.fault_steps import BY_NAME, STEPS

COUNTS = {"kills": 200, "damage": 150, "full": 20, "folders": 20, "pairs": 12}
QUICK = {"kills": 12, "damage": 12, "full": 3, "folders": 3, "pairs": 2}
QUICK_STEPS = ("folds", "train-frozen", "train-both", "train-full", "double-frozen", "blend", "predict")
DAMAGES = ("bit", "cut", "empty", "other", "type", "read-only", "folder", "fifo", "dangling")
REMEDY = re.compile(r"make |remove|take |[A-Z]+=|again|anew|restore|bring|chmod|rerun|mend|outside")
FULL_DISK = re.compile(r"[Nn]o space|full|too large|free")


@dataclass
class Trial:
    """What was broken and how it went. faults: what should not be, as lines; empty where all is well."""

    kind: str
    number: int
    step: str
    what: str
    ended: str = ""  # "same result", "refused in a line", ...
    kills: int = 0
    faults: list = field(default_factory=list)

    def blame(self, outcome, *lines):
        """Note faults; the last line that was printed tells more of them."""
        self.faults += [*lines, f"printed last: {outcome.last}"]

    def check_ended(self, outcome, code=0):
        """Note a fault unless a command ended with this code and nothing that nobody foresaw; returns whether it did."""
        if outcome.code is None:
            self.blame(outcome, "hangs")
        elif outcome.code != code:
            self.blame(outcome, f"exit code {outcome.code}, expected {code}")
        if outcome.crashed:
            self.blame(outcome, outcome.crashed)
        if outcome.left:
            self.faults.append(f"processes left: {'; '.join(outcome.left)}")
        return outcome.code == code

    def check_refused(self, outcome, name):
        """Note a fault unless a command ended with exit code 2 and one line that names the file `name` and a remedy."""
        self.check_ended(outcome, 2)
        if outcome.code != 2:
            return
        if len(outcome.errors) != 1:
            self.blame(outcome, f"{len(outcome.errors)} lines that begin with error:, expected one")
            return
        if name and name not in outcome.errors[0]:
            self.faults.append(f"the line does not name {name}: {outcome.errors[0][:300]}")
        if not REMEDY.search(outcome.errors[0]):
            self.faults.append(f"the line names no remedy: {outcome.errors[0][:300]}")


class Bench:
    """The steps with what each leaves undisturbed, and the trials that were played.

    `place`/now is where everything runs: tables name their data by its path. `place`/before/<step> is what a step finds.
    """

    def __init__(self, place, steps, seed):
        self.place, self.steps, self.seed = place, steps, seed
        self.now = place / "now"
        self.expected, self.outcomes, self.used, self.trials = {}, {}, {}, []

    def build(self):
        """Play every step twice, undisturbed: what both have in common is what a step must come to."""
        kept = self.place / "built.pickle"
        if kept.exists():
            self.expected, self.outcomes, self.used = pickle.loads(kept.read_bytes())
            return
        self.now.mkdir()
        fault_steps.draw(self.now)
        if not all(step.light for step in self.steps):
            pid = os.fork()
            if not pid:
                fault_steps.save_weights(self.now / "tiny.weights.h5")
                os._exit(0)
            os.waitpid(pid, 0)
        for step in self.steps:
            fault_steps.prepare(step.name, self.now)
            shutil.copytree(self.now, self.before(step))
            first, one = play(step, self.now), fingerprint(self.now)
            added = measure(self.now) - measure(self.before(step))
            self.restore(step)
            second, two = play(step, self.now), fingerprint(self.now)
            print(f"{step.name}: {second.seconds:.1f} s, {second.events} writes, {added // 1000} kB", flush=True)
            trial = Trial("undisturbed", len(self.trials), step.name, "nothing", "same result")
            for outcome in (first, second):
                trial.check_ended(outcome)
            trial.faults += [f"left behind: {name}" for name in two if name.startswith("tmp/") or ".partial-" in name]
            trial.faults += [f"not in both runs: {name}" for name in one.keys() ^ two.keys()]
            self.trials.append(trial)
            self.tell(trial)
            self.expected[step.name], self.outcomes[step.name], self.used[step.name] = steady(one, two), second, added
        kept.write_bytes(pickle.dumps((self.expected, self.outcomes, self.used)))

    def before(self, step):
        return self.place / "before" / step.name

    def restore(self, step):
        """Lay out what the step finds."""
        clear(self.now)
        shutil.copytree(self.before(step), self.now, dirs_exist_ok=True)

    def compare(self, trial, step, folder=None, beside=()):
        """Note faults where what lies there is not what the step leaves undisturbed; `beside`: files left out."""
        found = fingerprint(folder or self.now)
        lines = differences(self.expected[step.name], found)
        trial.faults += [line for line in lines if not any(name in line for name in beside)][:6]

    def run(self, kind, number):
        """Play one trial, which kind, number and seed decide; returns it."""
        rng = random.Random(f"{self.seed}-{kind}-{number}")
        step = rng.choices(self.steps, [step.trials for step in self.steps])[0]
        self.restore(step)
        trial = Trial(kind, number, step.name, "")
        KINDS[kind](self, rng, step, trial)
        self.trials.append(trial)
        self.tell(trial)
        return trial

    def tell(self, trial):
        if trial.faults:
            print(f"FAULT {trial.kind}:{trial.number} {trial.step}, {trial.what}", flush=True)
            for line in trial.faults:
                print(f"    {line}", flush=True)


def kill(bench, rng, step, trial):
    """Kill the command once or twice, then let it end."""
    usual, moments = bench.outcomes[step.name], []
    user = NOBODY if os.getuid() == 0 and rng.random() < 0.25 else None
    if user:
        give_to(bench.now, user)
    for _ in range(rng.choice((1, 1, 1, 2))):
        if usual.events and rng.random() < 0.6:
            moment = Kill(event=rng.randint(1, usual.events), later=rng.choice((0, 0, rng.uniform(0, 0.01))))
        else:
            moment = Kill(seconds=rng.uniform(0.02, usual.seconds))
        killed = play(step, bench.now, moment, user=user)
        moments.append(str(moment))
        if killed.left:
            trial.faults.append(f"processes left by the killed command: {'; '.join(killed.left)}")
        if killed.code == 0:
            break
        trial.kills += 1
        if killed.code != -9:
            trial.blame(killed, f"exit code {killed.code} before it was killed")
    trial.what = f"killed at {' and '.join(moments)}{', as a user without rights' * bool(user)}"
    trial.check_ended(play(step, bench.now, user=user))
    bench.compare(trial, step)
    trial.ended = "same result"


def damage(bench, rng, step, trial):
    """Damage a file that the command reads; then put it back."""
    path = choose_file(bench, rng, step)
    way = rng.choice(DAMAGES)
    if way == "type" and path.suffix != ".json":
        way = rng.choice(("bit", "cut", "other"))
    name = path.relative_to(bench.now).as_posix()
    trial.what = f"{way}: {name}"
    user = NOBODY if way == "read-only" and os.getuid() == 0 else None
    if user:
        give_to(bench.now, user)
    spoil(path, way, rng, bench.now)
    spoilt = content(path)
    outcome = play(step, bench.now, user=user)
    if outcome.code == 0:
        trial.ended = "same result"
        trial.check_ended(outcome)
        beside = [name] if content(path) == spoilt else []
        bench.compare(trial, step, beside=beside)
    else:
        trial.ended = "refused in a line"
        trial.check_refused(outcome, path.name)
    mended = Path(bench.before(step), name)
    if way == "read-only":
        path.chmod(0o644)
    elif content(path) == spoilt:
        remove(path)
        shutil.copy2(mended, path)
    else:
        return
    trial.check_ended(play(step, bench.now, user=user))
    bench.compare(trial, step)


def full(bench, rng, step, trial):
    """Run the command on a disk that is full, or under a limit on the size of a file; then with room."""
    added = max(bench.used[step.name], 1)
    if rng.random() < 0.3:
        limit = rng.choice((1000, 20_000, 100_000))
        trial.what = f"files of {limit} bytes at most"
        full_then_free(bench, step, trial, lambda: play(step, bench.now, file_limit=limit))
        return
    room = int(rng.uniform(0, 1) * added)
    trial.what = f"a disk with room for {room} of {added} bytes"
    answer = bench.place / "answer.json"
    pid = os.fork()
    if not pid:
        try:
            on_small_disk(bench, step, trial, -(-(measure(bench.now) + room) // 4096) * 4096)
        except BaseException as error:
            trial.faults.append(f"not tried: {error}")
        answer.write_text(json.dumps({"faults": trial.faults, "ended": trial.ended}))
        os._exit(0)
    os.waitpid(pid, 0)
    result = json.loads(answer.read_text())
    trial.faults, trial.ended = result["faults"], result["ended"]
    answer.unlink()


def on_small_disk(bench, step, trial, size):
    """`full_then_free` in a file system of `size` bytes, which this process alone sees."""
    become_reaper()
    mount_small(bench.now, size)
    shutil.copytree(bench.before(step), bench.now, dirs_exist_ok=True)

    def run():
        outcome = play(step, bench.now)
        grow(bench.now, size + 10**9)
        return outcome

    full_then_free(bench, step, trial, run)


def full_then_free(bench, step, trial, run):
    outcome = run()
    if outcome.code == 0:
        trial.ended = "same result"
        trial.check_ended(outcome)
    else:
        trial.ended = "refused in a line"
        trial.check_refused(outcome, "")
        if outcome.errors and not FULL_DISK.search(outcome.errors[0]):
            trial.faults.append(f"the line does not say that the disk is full: {outcome.errors[0][:300]}")
        if outcome.errors and "/" not in outcome.errors[0]:
            trial.faults.append(f"the line names no path: {outcome.errors[0][:300]}")
    trial.check_ended(play(step, bench.now))
    bench.compare(trial, step)


def folders(bench, rng, step, trial):
    """Make a folder that the command writes into read-only, for a user without rights; then writable."""
    work = bench.now / "work"
    places = [path for path in (work, *work.rglob("*")) if path.is_dir()]
    written = {Path(name).parts[:depth] for name in new_files(bench, step) for depth in range(1, 6)}
    places = [path for path in places if path.relative_to(bench.now).parts in written] or [work]
    place = rng.choice([*places, bench.now / "tmp"])
    trial.what = f"read-only: {place.relative_to(bench.now)}/"
    user = None
    if os.getuid() == 0:
        user = NOBODY
        give_to(bench.now, user)
    place.chmod(0o555)
    outcome = play(step, bench.now, user=user)
    place.chmod(0o755)
    if outcome.code == 0:
        trial.ended = "same result"
        trial.check_ended(outcome)
    else:
        trial.ended = "refused in a line"
        trial.check_refused(outcome, "/" if place == work else place.name)
    trial.check_ended(play(step, bench.now, user=user))
    bench.compare(trial, step)


def pairs(bench, rng, step, trial):
    """Start the command twice, a little apart; one may be refused as another process is at work."""
    later = rng.choice((0, rng.uniform(0, bench.outcomes[step.name].seconds)))
    trial.what = f"twice at once, {later:.2f} s apart"
    first = begin(step, bench.now)
    time.sleep(later)
    second = begin(step, bench.now)
    one = end(first, bench.now, orphans=False)  # beside it the other one runs
    two = end(second, bench.now)
    codes = sorted((one.code, two.code))
    for outcome in (one, two):
        if outcome.code == 2 and any("another process" in line for line in outcome.errors):
            trial.ended = "one refused in a line"
        else:
            trial.check_ended(outcome)
    if codes != [0, 0] and codes != [0, 2]:
        trial.blame(two, f"exit codes {codes}")
    trial.ended = trial.ended or "same result"
    trial.check_ended(play(step, bench.now))
    bench.compare(trial, step)


KINDS = {"kills": kill, "damage": damage, "full": full, "folders": folders, "pairs": pairs}


def choose_file(bench, rng, step):
    """A file that the command reads, mostly: those that Python opened, and all weights; else any."""
    everything = [path for path in bench.now.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    known = {path.relative_to(bench.now).as_posix(): path for path in everything}
    known.pop("tiny.weights.h5", None)  # what the user gives, as other weights would be
    known = {name: path for name, path in known.items() if not name.startswith("test/")}  # they are left out, named
    if step.name == "folds":  # other pictures are another competition
        known = {name: path for name, path in known.items() if not name.startswith("data/")} or known
    read = bench.outcomes[step.name].read
    some = [path for name, path in known.items() if name in read and not name.startswith("data/")]
    some += [path for name, path in known.items() if name.endswith(".h5") and "/runs/" in name and name not in read]
    pictures = [path for name, path in known.items() if name in read and name.startswith("data/")]
    if pictures and rng.random() < 0.08:
        return rng.choice(sorted(pictures))
    return rng.choice(sorted(some if some and rng.random() < 0.9 else known.values()))


def spoil(path, way, rng, root):
    """Damage a file in one of the ways of DAMAGES."""
    data = path.read_bytes()
    if way == "bit":
        place = rng.randrange(max(1, len(data)))
        changed = bytearray(data or b"\0")
        changed[place] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(changed))
    elif way == "cut":
        path.write_bytes(data[: rng.randrange(max(1, len(data)))])
    elif way == "empty":
        path.write_bytes(b"")
    elif way == "other":
        others = [one for one in sorted(root.rglob(f"*{path.suffix}")) if one.is_file() and one.read_bytes() != data]
        alike = [one for one in others if one.name == path.name]
        path.write_bytes(rng.choice(alike or others).read_bytes() if others else b"something else")
    elif way == "type":
        path.write_text(rng.choice(("[]", "{}", "null", '"text"', "3", "[[1, 2]]", '{"format": []}')))
    elif way == "read-only":
        path.chmod(0o444 if rng.random() < 0.5 else 0o000)
    else:
        path.unlink()
        if way == "folder":
            path.mkdir()
        elif way == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to("nowhere")


def content(path):
    """What lies at a path, to see whether a command replaced it."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return "nothing"
    if stat.S_ISREG(mode):
        return path.read_bytes()
    return "link" if stat.S_ISLNK(mode) else "folder" if stat.S_ISDIR(mode) else "fifo"


def remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def clear(folder):
    """Empty a folder, whatever its rights."""
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):
                path.chmod(0o755)
    for path in folder.iterdir():
        remove(path)


def give_to(folder, user):
    """Make `user` the owner of everything in a folder."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)


def new_files(bench, step):
    """What a step leaves that was not there before, relative to `now`."""
    return [name for name in bench.expected[step.name] if not Path(bench.before(step), name).exists()]


def measure(folder):
    """Bytes that the files of a folder take in a file system of pages."""
    paths = list(folder.rglob("*"))
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in paths if path.is_file())


def report(bench, seconds):
    """Print counts a kind and each fault; returns the exit code."""
    print(f"\n{'kind':12}{'trials':>8}{'kills':>8}{'same':>8}{'refused':>9}{'faults':>8}")
    for kind in ("undisturbed", *KINDS):
        trials = [trial for trial in bench.trials if trial.kind == kind]
        well = Counter("refused" if "refused" in trial.ended else "same" for trial in trials if not trial.faults)
        bad = sum(bool(trial.faults) for trial in trials)
        kills = sum(trial.kills for trial in trials)
        if trials:
            print(f"{kind:12}{len(trials):8}{kills:8}{well['same']:8}{well['refused']:9}{bad:8}")
    faulty = [trial for trial in bench.trials if trial.faults]
    for trial in faulty:
        print(f"{trial.kind}:{trial.number} {trial.step}, {trial.what}\n    " + "\n    ".join(trial.faults[:4]))
    by_step = Counter(trial.step for trial in bench.trials if trial.kind != "undisturbed")
    print("trials a command: " + ", ".join(f"{step.name} {by_step[step.name]}" for step in bench.steps))
    print(f"seed {bench.seed}, {seconds / 60:.1f} minutes; --case <kind>:<number> plays one of them again")
    return int(bool(faulty))


def main(arguments=None):
    """Play the trials; the exit code: 0, 1 where something is not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few commands and trials, two minutes")
    parser.add_argument("--seed", type=int, default=0, help="another seed breaks other things")
    parser.add_argument("--only", default=",".join(KINDS), help=f"some of the kinds: {', '.join(KINDS)}")
    parser.add_argument("--steps", default="", help=f"some of the commands, and what they need: {', '.join(BY_NAME)}")
    parser.add_argument("--count", type=int, help="how many trials of each kind")
    parser.add_argument("--first", type=int, default=0, help="the number of the first of them")
    parser.add_argument("--case", action="append", default=[], help="just this trial: kills:17")
    parser.add_argument("--keep", help="a folder that keeps what the steps leave undisturbed, for the next call")
    options = parser.parse_args(arguments)
    if not sys.platform.startswith("linux"):
        print("bench.faults needs Linux", file=sys.stderr)
        return 2
    began = time.monotonic()
    become_reaper()
    names = options.steps.split(",") if options.steps else QUICK_STEPS if options.quick else BY_NAME
    steps = [step for step in STEPS if step.name in names]
    os.environ["HOME"] = os.environ["KERAS_HOME"] = "/nonexistent"  # what lies at home has no part in this
    if not all(step.light for step in steps):
        import_everything()
    # no TemporaryDirectory, which removes itself at the end of every fork too
    place = Path(options.keep or tempfile.mkdtemp(prefix="faults-")).resolve()
    place.mkdir(exist_ok=True)
    place.chmod(0o755)
    bench = Bench(place, steps, options.seed)
    try:
        bench.build()
        if any(trial.faults for trial in bench.trials):  # what does not run undisturbed need not be broken
            return report(bench, time.monotonic() - began)
        counts = QUICK if options.quick else COUNTS
        cases = [case.split(":") for case in options.case] or [
            (kind, number)
            for kind in options.only.split(",")
            for number in range(options.first, options.first + (options.count or counts[kind]))
        ]
        for done, (kind, number) in enumerate(cases, 1):
            trial = bench.run(kind, int(number))
            if done % 20 == 0 or options.case:
                print(f"{done} of {len(cases)}: {trial.kind}:{trial.number} {trial.step}, {trial.what}", flush=True)
        return report(bench, time.monotonic() - began)
    finally:
        if not options.keep:
            clear(place)
            place.rmdir()


def import_everything():
    """Import what the commands import, and start nothing: forks of a process with threads at work are not sound."""
    from competition.base.backend import import_tensorflow

    import_tensorflow()
    import keras  # noqa: F401
    import matplotlib  # noqa: F401
    import sklearn.datasets
    import sklearn.decomposition  # noqa: F401

    fault_steps.register()


if __name__ == "__main__":
    sys.exit(main())
