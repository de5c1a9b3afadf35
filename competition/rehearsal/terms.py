"""What a rehearsal is asked, and what it says: Conditions, Job, Entry, Answers, RehearsalError."""

import dataclasses
import sys
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Conditions:
    """What a scorer allows. Of network and files: nothing but reading what the zip holds."""

    python: str = sys.executable  # the interpreter, of any environment that has numpy and what the zip needs
    memory: int = 16 * 10**9  # bytes, of the process and its children
    seconds: float = 3600  # wall time from the start of the interpreter to its end


@dataclass(frozen=True)
class Job:
    """One call of a zip's code, with `count` images from the one numbered `first` on, None for all of these; where there
    are fewer, they repeat."""

    count: int | None
    dtype: str
    tensor: bool = False
    probabilities: bool = True  # ask for predict_proba as well
    times: int = 1  # calls of predict, and of predict_proba, whose answers are to be the same
    budget: float | None = None  # left out where the calls before say that it would take longer, in seconds
    first: int = 0

    def describe(self, n: int) -> str:
        count = n - self.first if self.count is None else self.count
        return f"{count} {self.dtype} {'tensor' if self.tensor else 'array'}"

    def rows(self, n: int) -> np.ndarray:
        """Which of n images it gets, int64."""
        return np.resize(np.arange(self.first, n), n - self.first if self.count is None else self.count)


@dataclass(frozen=True)
class Entry:
    """How a format's scorer makes the class in `model.py`, and what it wants of `predict`."""

    class_name: str = "model"
    with_path: bool = True  # made with the path of the folder that holds the zip's files, or without arguments
    returns: str = "tensor"  # integers as a "tensor" or as a numpy "array"


@dataclass(frozen=True)
class Answers:
    """What a zip's code said to a list of Jobs, and what it took. Of jobs that were left out, None each."""

    labels: list  # what predict returned, as an array, of whatever type and shape
    again: list  # [arrays] of the further calls of a job with `times`
    returned: list  # what that was: "int64 tensor", "float32 array", "str list"
    probabilities: list  # what predict_proba returned, as an array; None where it was not asked
    seconds: list  # of (the last call of) predict
    left_out: list  # the seconds that a job was forecast to take, where it was left out for that
    load_seconds: float  # from the import of model.py to the object
    total_seconds: float  # from the start of the interpreter to its end
    peak_bytes: int  # the most memory of the process
    probabilities_again: list = dataclasses.field(default_factory=list)  # [arrays] of the further calls, as `again`
    versions: dict = dataclasses.field(default_factory=dict)  # of the Python and what the zip's code imported, by name


class RehearsalError(Exception):
    """A zip does not do what it must; one line.

    broke  "zip" (cannot be unpacked), "network", "process" (it starts one), "write", "read" (a file of this machine),
           "time", "memory", "crash" (the process dies), "error" (an exception), "answer" (what it returns is not what it
           should be)
    stage  "unpack", "start", "import" (of model.py), "load" (making the object), "predict", "predict_proba", "end"
    job    number of the Job at work, or None
    error  of "error": {"type": name of the exception, "text": its message, "trace": the traceback}
    """

    def __init__(
        self,
        line: str,
        broke: str = "answer",
        stage: str | None = None,
        job: int | None = None,
        error: dict[str, str] | None = None,
    ) -> None:
        super().__init__(line)
        self.broke, self.stage, self.job, self.error = broke, stage, job, error
        self.second = False  # whether it was in the second process of `rehearse`
