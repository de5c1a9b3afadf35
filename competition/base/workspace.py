"""Where everything lies on disk: a Workspace is the folder that a command works in, its Paths those of one competition.

No other module names a folder. BESIDE is the table of what lies beside the runs of a competition: no run may be called
so. The paths of the default Workspace are relative, so that messages show them as one types them.
"""

from dataclasses import dataclass
from pathlib import Path

from competition.base.files import InputError, check_name

SAMPLE = "sample"  # the sample competition and the folder that it is played in
STUDY_RUN = "study-"  # how the names of the study's runs begin
BESIDE = {  # what lies beside the runs of a competition: its name and what it is
    "blend": "the blend and what its forecast measured",
    "look": "a page of what is in the data",
    "groups": "which images show the same picture",
    "predict": "what was predicted of test images, a folder for each test",
    "study": "what the study found",
    "features": "what frozen backbones made of the images",
    "gan": "the GAN of each fold",
    "images": "decoded images that are too much for memory",
    "tune": "what was tuned, a folder for each",
    "audit": "which labels are likely wrong",
    "shift": "how test images differ from the training images, a folder for each test",
    "rank.csv": "the table of backbones",
    "rank.json": "what that table was made of",
}


@dataclass(frozen=True)
class Workspace:
    """The folder that holds fold tables, runs and submissions; the default is the current folder.

    shared   the folder that holds kernels and the scorers' environments; None: the root
    """

    root: Path = Path()
    shared: Path | None = None

    def __post_init__(self):
        object.__setattr__(self, "root", Path(self.root))
        object.__setattr__(self, "shared", self.root if self.shared is None else Path(self.shared))

    @property
    def folds(self):
        return self.root / "folds"

    @property
    def runs(self):
        return self.root / "runs"

    @property
    def submissions(self):
        return self.root / "submissions"

    @property
    def score_log(self):
        return self.submissions / "log.csv"

    @property
    def simulate(self):
        """The rounds that `make simulate` has played."""
        return self.runs / "simulate"

    @property
    def features(self):
        """The folders of features of all competitions, sorted."""
        return sorted(self.runs.glob("*/features"))

    @property
    def kernels(self):
        return self.shared / "kernels"

    @property
    def wheels(self):
        """The wheels that kernels take along."""
        return self.kernels / "wheels"

    @property
    def scorers(self):
        """The scorers' Python environments."""
        return self.shared / ".scorers"

    @property
    def matrix(self):
        """What `make matrix` trains and packs."""
        return self.scorers / "matrix"

    @property
    def sample(self):
        """The Workspace of the sample competition, a folder in this one."""
        return Workspace(self.root / SAMPLE, self.shared)

    @property
    def sample_data(self):
        """Where the sample competition is drawn, in its own Workspace."""
        return self.root / "data"

    def competition(self, name):
        """The Paths of the competition, or fold table, of that name."""
        return Paths(self, name)

    def names(self):
        """The names of all fold tables, sorted."""
        return sorted(path.stem for path in self.folds.glob("*.json") if not path.name.startswith("."))

    def of(self, name):
        """The Workspace of the table of that name: the sample's, if it was drawn and no table here is called so."""
        drawn = name == SAMPLE and self.sample.competition(name).json.exists()
        return self.sample if drawn and not self.competition(name).json.exists() else self


@dataclass(frozen=True)
class Paths:
    """Where the files of one competition lie.

    name   that of its fold table; of test images `<table>/shift/<test>` or `<table>/predict/<test>`
    """

    workspace: Workspace
    name: str

    @property
    def csv(self):
        """The fold table."""
        return self.workspace.folds / f"{self.name}.csv"

    @property
    def json(self):
        """The fold table's record."""
        return self.workspace.folds / f"{self.name}.json"

    @property
    def runs(self):
        """The folder of the runs and of all that BESIDE names."""
        return self.workspace.runs / self.name

    def run(self, run):
        """The folder of a run."""
        return self.runs / run

    def explain(self, run):
        """What a run looks at in its images; in the run's own folder."""
        return self.run(run) / "explain"

    @property
    def blend(self):
        return self.runs / "blend"

    @property
    def look(self):
        return self.runs / "look"

    @property
    def groups(self):
        return self.runs / "groups"

    @property
    def audit(self):
        return self.runs / "audit"

    def shift(self, test):
        """How the test images of that name differ from the training images."""
        return self.runs / "shift" / test

    def predict(self, test):
        """What was predicted of the test images of that name."""
        return self.runs / "predict" / test

    @property
    def study(self):
        return self.runs / "study"

    @property
    def features(self):
        return self.runs / "features"

    @property
    def gan(self):
        return self.runs / "gan"

    @property
    def images(self):
        return self.runs / "images"

    def tune(self, study):
        """What was tuned under that name; its trials are runs."""
        return self.runs / "tune" / study

    @property
    def rank_csv(self):
        return self.runs / "rank.csv"

    @property
    def rank_json(self):
        return self.runs / "rank.json"

    @property
    def zip(self):
        """The submission."""
        return self.workspace.submissions / f"{self.name}.zip"

    @property
    def zip_json(self):
        """The record of that zip."""
        return self.workspace.submissions / f"{self.name}.json"

    @property
    def predictions(self):
        """The submission that is a CSV."""
        return self.workspace.submissions / f"{self.name}.csv"

    @property
    def predictions_json(self):
        """The record of that CSV."""
        return self.workspace.submissions / f"{self.name}.csv.json"


def check_run_name(run):
    """`run` if a run may be called so; InputError for what is no file's name and for a name of BESIDE."""
    if run in BESIDE:
        raise InputError(f"RUN={run}: expected another name, {', '.join(BESIDE)} are other folders and files")
    return check_name("RUN", run)
