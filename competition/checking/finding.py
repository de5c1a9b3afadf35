"""A Reading, what was read of a zip, and its Findings, the lines of the table of `make check`."""

from dataclasses import dataclass, field

from competition.base.text import one_line
from competition.rehearsal.rehearsal import Entry
from competition.rehearsal.wire import show

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "FAILED", "not checked"
CODE = "model.py"
METADATA = "metadata"


@dataclass(frozen=True)
class Finding:
    """One line of the table: what was checked, how it went, what was found, in plain words, and how to mend it."""

    check: str
    result: str  # OK, WARNING, FAILED or SKIPPED
    found: str
    advice: str = ""
    stops: bool = False  # with this wrong there is no use in running the zip

    def __post_init__(self) -> None:
        for name in ("found", "advice"):  # whatever the zip calls its files and classes, each is one line, as shown
            object.__setattr__(self, name, show(one_line(getattr(self, name))))


@dataclass
class Reading:
    """What was read of a zip. `entry` is how its code wants to be called, whatever the format says."""

    findings: list = field(default_factory=list)
    names: list = field(default_factory=list)  # members, as paths from the folder that holds model.py
    prefix: str = ""  # that folder, "" or "folder/"
    format: str = "codalab"
    why: str = "the default"  # why it is taken to be of that format
    entry: Entry = Entry()
    trees: dict = field(default_factory=dict)  # {name: ast} of model.py and the modules of the zip that it imports
    code: dict = field(default_factory=dict)  # {name: text} of the same
    modules: dict = field(default_factory=dict)  # {name: "model.py, line 3"} that it imports from elsewhere
    keras_files: dict = field(default_factory=dict)  # {name: version of Keras that saved it, or None}

    def add(self, *arguments, **more):
        self.findings.append(Finding(*arguments, **more))

    @property
    def stopped(self):
        return any(finding.stops for finding in self.findings)
