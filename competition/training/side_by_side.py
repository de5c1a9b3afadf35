"""The second phase with its folds side by side: each is trained by a worker (base/workers.py), all is written here.

A worker has the images, the network and a folder of its own that goes with it. After every epoch it tells what its fold
has written there, and the same files are written into the run's folder, in the same order: what is lost with a worker,
or with this process, is the epoch at work. So the run's folder is that of a training by one process, and either goes on
with what the other began.
"""

import json
import queue
import random
import threading
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from competition.base import files
from competition.base.backend import start_keras
from competition.base.bars import tqdm
from competition.base.sums import SUMS
from competition.base.workers import Task, open_crew
from competition.base.workspace import FOLD_JSON, HEAD_FILE, STATE_NPZ, fold_dir
from competition.models.backbones import Weights, register_backbone, share_own
from competition.models.classifier import build_recipe_backbone
from competition.models.fuse import fuse_batchnorm
from competition.runs.folder import seal_fold
from competition.training.batches import take_all
from competition.training.full_phase import WholePhase


class Told(NamedTuple):
    """What a worker tells of its fold: the row of its history that an epoch added, or None, and files."""

    row: dict | None
    epochs: int  # of the second phase that the fold has done
    written: dict  # {name: bytes, or None of one that is gone}, in the order in which they were written


class FoldTrainer:
    """What lives on a worker: the compiled model, which trains one fold after the other, and the images."""

    def __init__(self, job, images, start, drawn, own):
        self.job, self.images, self.start, self.drawn, self.own = job, images, start, drawn, own
        self.taught: dict = {}
        self.phase: Any = None  # built for the first fold

    def work(self, fold, taught, own, found):
        """Train a fold; yields a Told an epoch, and one of what the fold leaves at its end.

        taught   its Taught, whose `images` are None where they are the run's
        own      uint8 [n, h, w, 3], images of that fold alone, or None
        found    {name: bytes} of the files that it goes on with
        """
        told = queue.Queue()
        self.taught[fold] = taught._replace(images=self.images if own is None else own)

        def train():
            try:
                with files.scratch(what="what a worker trains") as place:
                    self._train(fold, place / self.job.folder.name, found, told)
                told.put(None)
            except BaseException as error:  # raised where it is told
                told.put(error)

        threading.Thread(target=train, daemon=True).start()
        yield from take_all(told)

    def _train(self, fold, folder, found, told):
        directory = fold_dir(folder, fold)
        directory.mkdir(parents=True)
        for name, content in found.items():
            (directory / name).write_bytes(content)
        seen, bar = _look(directory), _Count()
        job = replace(self.job, folder=folder)

        def tell(fold, row):
            nonlocal seen
            written, seen = _compare(directory, seen)
            told.put(Told(row, round(bar.n), written))

        if self.phase is None:
            self._build(job)
        self.phase.train(replace(job, folds=[fold]), fold, tell, bar)
        told.put(Told(None, round(bar.n), _compare(directory, seen)[0]))

    def _build(self, job):
        """Build what one process builds before its second phase, so that names and first weights are the same."""
        if self.own:
            register_backbone(job.model, *self.own)
        start_keras(job.recipe.seed)
        backbone = build_recipe_backbone(job.model, job.table.size, job.recipe, Weights("none"))
        if job.recipe.frozen_epochs:
            fuse_batchnorm(backbone)
        random.setstate(self.drawn)
        self.phase = WholePhase(job, self.images, self.taught, self.start)


def train_side_by_side(workers, works):
    """As full_phase.train_whole, of several Works (full_phase) at once, by Workers.

    The fold.json of a fold says who trained it.
    """
    many = len(works) > 1
    with open_crew(workers) as crew, ExitStack() as stack:
        groups, tasks = {}, []
        for number, work in enumerate(works):
            plain = replace(work.job, callbacks=(), workers=None, teaching=None)
            own = share_own(work.job.model)
            groups[number] = FoldTrainer, (plain, np.asarray(work.images[:]), work.start, work.drawn, own)
            for fold in work.job.folds:
                title = f"{work.job.folder.name} fold {fold}" if many else f"fold {fold}"
                tasks.append(Task(number, fold, title))
        bars = {
            task: stack.enter_context(
                tqdm(
                    total=works[task.group].job.recipe.epochs,
                    desc=task.title,
                    unit="epoch",
                    leave=False,
                    position=place,
                )
            )
            for place, task in enumerate(tasks, len(works))
        }

        def begin(task):
            work, fold = works[task.group], task.work
            one, directory = work.taught[fold], fold_dir(work.job.folder, fold)
            own = None if one.images is work.images else np.asarray(one.images[:])
            kept = (directory / name for name in (HEAD_FILE, STATE_NPZ))
            found = {path.name: path.read_bytes() for path in kept if path.exists()}
            return one._replace(images=None, behind=()), own, found

        def receive(task, message, place):
            work, fold = works[task.group], task.work
            directory = fold_dir(work.job.folder, fold)
            for name, content in message.written.items():
                if name == FOLD_JSON:
                    end = json.loads(content) | place._asdict() | {SUMS: seal_fold(directory)}
                    files.write_json(directory / name, end, durable=True)
                elif content is None:
                    (directory / name).unlink(missing_ok=True)
                else:
                    files.write_bytes(directory / name, content)
            fresh = message.epochs - bars[task].n  # an epoch may be told twice
            bars[task].update(fresh)
            work.bar.update(fresh)
            if message.row:
                bars[task].set_postfix_str(f"{place.host}, {message.row['seconds']:.0f} s an epoch", refresh=False)
                work.tell(fold, message.row)
            else:
                work.bar.total -= work.job.recipe.epochs - message.epochs  # what an early stop spared

        crew.run(groups, tasks, begin, receive)


class _Count:
    """Stands for the progress bar on a worker, where nobody looks at one; `n` counts epochs."""

    total, n = float("inf"), 0.0

    def update(self, share):
        self.n += share

    def set_postfix_str(self, text, refresh=False):
        pass


def _look(directory):
    """{name: what tells one writing of a file from another} of a folder, in the order of writing."""
    found = [(path.relative_to(directory).as_posix(), path.stat()) for path in directory.rglob("*") if path.is_file()]
    return {name: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for name, stat in sorted(found, key=_written)}


def _written(entry):
    return entry[1].st_mtime_ns


def _compare(directory, seen):
    """{name: bytes, or None} of what was written or went since, and what `_look` sees now."""
    now = _look(directory)
    written = {name: (directory / name).read_bytes() for name, kind in now.items() if seen.get(name) != kind}
    return written | dict.fromkeys(seen.keys() - now.keys()), now
