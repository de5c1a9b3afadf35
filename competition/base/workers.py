"""Processes that work side by side, by Ray: on this machine, or on a cluster that runs already.

Ray starts them, gives each its cores and GPU, carries arrays to them once a machine, and notices when one is gone. It is
the extra `cluster`, and it is imported only when several workers are asked for.
"""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from competition.base.backend import count_gpus, has_gpu, share_gpus
from competition.base.files import SCRATCH, InputError, warn
from competition.base.option_values import whole_number
from competition.base.partial import partial_folder

MOST = 1024  # workers
LOSSES = 3  # workers that may be lost over one task while it gets no further
PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Workers:
    """How many processes work side by side, and where."""

    count: int | None  # None: as many as the cluster has GPUs, or machines where it has none
    cluster: str = ""  # "": on this machine; else Ray's address of a cluster


class Place(NamedTuple):
    """Where a worker computes."""

    host: str
    threads: int
    gpus: int


def read_workers(workers: int | str | None, cluster: str | None) -> Workers | None:
    """What WORKERS= and CLUSTER= mean; None where this process does all the work itself.

    Without either there is a worker for each GPU where there are several, if Ray is installed. To be asked before Keras
    starts a GPU, as this process takes no more of one than it needs from then on. InputError for another number than a
    whole one from 1, for an address that is none, and where Ray is not installed.
    """
    if workers in (None, "") and not cluster:
        if count_gpus() < 2 or not find_spec("ray"):
            return None
        share_gpus()
        return Workers(count_gpus()) if has_gpu() else None
    count = None if workers in (None, "") else whole_number("WORKERS", workers, 1, MOST)
    if cluster and cluster != "auto" and not cluster.startswith("ray://") and ":" not in cluster:
        raise InputError(f"CLUSTER={cluster}: expected auto, or the address of a Ray cluster such as ray://host:10001")
    if not find_spec("ray"):
        raise InputError(
            "WORKERS= and CLUSTER= need Ray, which is not installed: make setup CLUSTER=1, "
            "or pip install 'competition-toolkit[cluster]'"
        )
    share_gpus()
    return Workers(count, cluster or "")


class Task(NamedTuple):
    """A piece of work for one worker."""

    group: int  # of tasks that share what a worker makes for them once
    work: Any  # what is handed on to the worker
    title: str  # for messages: "fold 2"


@dataclass(frozen=True)
class Crew:
    """The workers of a started Ray: how many, and what each has."""

    count: int
    cpus: int
    gpus: float
    environment: dict[str, str]

    def run(
        self,
        groups: Mapping[int, tuple[type, Sequence[Any]]],
        tasks: Sequence[Task],
        begin: Callable[[Task], Sequence[Any]],
        receive: Callable[[Task, Any, Place], None],
    ) -> None:
        """Let the workers do all tasks, each by one worker at a time.

        groups   {group: (a class, the arguments of it)}: a worker makes such an object once, and its
                 `work(task.work, ...)`, a generator, does one task of the group after another. The arguments travel to
                 each machine once
        begin    called with a task when a worker takes it, anew when that worker was lost: what `work` gets besides
        receive  called here with a task, what its worker told (yielded) and the Place, in the order of telling

        A worker that is lost costs what it had not told yet: another one takes its task. InputError when LOSSES workers
        were lost over a task that told nothing in between. What the work itself raises is raised here.
        """
        import ray
        from ray import exceptions

        shared = {group: (make, [ray.put(part) for part in parts]) for group, (make, parts) in groups.items()}
        actor: Any = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, runtime_env={"env_vars": self.environment})(
            _Worker
        )
        waiting, losses = list(tasks), dict.fromkeys(tasks, 0)
        idle: list[tuple[Any, int | None]] = []  # workers, and the group that each did last
        busy: dict[Any, tuple[Any, Task, Place | None]] = {}  # what is told: the worker, its task and its place

        def start() -> None:
            while waiting and len(busy) < self.count:
                worker, last = idle.pop() if idle else (actor.remote(), None)
                task = next((task for task in waiting if task.group == last), waiting[0])
                waiting.remove(task)
                make, parts = shared[task.group]
                started = worker.work.options(num_returns="streaming").remote(
                    task.group, make, task.work, begin(task), *parts
                )
                busy[started] = worker, task, None

        start()
        while busy:
            told: Any = ray.wait(list(busy), num_returns=1, fetch_local=False)[0][0]
            worker, task, place = busy[told]
            where = f" on {place.host}" if place else ""
            try:
                message = ray.get(next(told))
            except StopIteration:
                del busy[told]
                idle.append((worker, task.group))
                start()
            except (exceptions.RayActorError, exceptions.ObjectLostError, exceptions.WorkerCrashedError) as error:
                del busy[told]
                losses[task] += 1
                if losses[task] >= LOSSES:
                    reason = str(error).strip().splitlines()[0]
                    raise InputError(
                        f"{task.title}: {LOSSES} workers{where} ended one after the other ({reason}); "
                        "fewer WORKERS= take less memory"
                    ) from None
                warn(f"{task.title}: its worker{where} is lost; another one goes on with what it had told")
                waiting.insert(0, task)
                start()
            except exceptions.RayTaskError as error:
                cause = error.cause
                if isinstance(cause, InputError):
                    raise InputError(f"{cause} ({task.title}{where})") from None
                warn(f"{task.title}{where}: {type(cause).__name__}: {' '.join(str(cause).split())[:300]}")
                raise cause from None
            else:
                if place:
                    losses[task] = 0
                    receive(task, message, place)
                else:  # the first thing that a worker tells is where it is
                    busy[told] = worker, task, message


class _Worker:
    """What Ray runs: the object of one group of tasks after the other, and where it is."""

    def __init__(self):
        self.group: int | None = None
        self.does: Any = None

    def work(self, group, make, work, arguments, *parts):
        import ray

        yield Place(ray.util.get_node_ip_address(), int(os.environ["TF_NUM_INTRAOP_THREADS"]), len(ray.get_gpu_ids()))
        if group != self.group:
            self.does = None  # makes room
            self.group, self.does = group, make(*parts)
        yield from self.does.work(work, *arguments)


@contextlib.contextmanager
def open_crew(workers: Workers) -> Iterator[Crew]:
    """The Crew of these Workers, for as long as the block lasts; of a cluster that was there nothing ends but the work.

    InputError, one line, where the cluster is not reached, or has fewer cores than workers.
    """
    import ray

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)  # or a hint about its tokens comes between the bars
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    with contextlib.ExitStack() as stack:
        try:
            if workers.cluster:
                packages = {"py_modules": [str(PACKAGE)]}
                ray.init(address=workers.cluster, runtime_env=packages, **quiet)
            else:  # a short path: Ray makes sockets below it
                top = Path("/tmp") if os.path.isdir("/tmp") else Path(tempfile.gettempdir())
                own = stack.enter_context(partial_folder(top, SCRATCH))
                ray.init(address="local", include_dashboard=False, _temp_dir=str(own), **quiet)
        except Exception as error:  # Ray raises of many kinds; each means that there are no workers
            where = f"CLUSTER={workers.cluster}" if workers.cluster else f"WORKERS={workers.count}"
            raise InputError(f"{where}: Ray does not start: {' '.join(str(error).split())[:300]}") from None
        stack.callback(ray.shutdown)
        yield _share_out(workers, ray.cluster_resources(), len(ray.nodes()))


def _share_out(workers, resources, machines):
    """The Crew among which the cores and GPUs of a cluster are shared out evenly."""
    cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    count = workers.count or gpus or machines
    if count > cpus:
        where = f"CLUSTER={workers.cluster}" if workers.cluster else "this machine"
        raise InputError(f"WORKERS={count}: {where} has {cpus} cores, expected a worker a core or fewer")
    each = cpus // count
    environment = {
        "KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "tensorflow"),
        "TF_NUM_INTRAOP_THREADS": str(each),
        "TF_NUM_INTEROP_THREADS": "1",
        "OMP_NUM_THREADS": str(each),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    if not workers.cluster:
        environment["PYTHONPATH"] = os.pathsep.join(path for path in [str(PACKAGE.parent), *sys.path] if path)
    return Crew(count, each, min(1.0, gpus / count), environment)
