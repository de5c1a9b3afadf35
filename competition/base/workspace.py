"""Where everything lies on disk: a Workspace is the folder that a command works in, its Paths those of one competition.

No other module of the toolkit names a folder or file of a Workspace; the scripts that run alone, without the toolkit,
name their own, what makes a zip or a kernel names what it packs, and files whose names are hashes or that are one of
many (features, decoded images, rounds of `make simulate`) are named where they are written. The constants are the names
inside the folders that Workspace and Paths lead to. BESIDE is the table of what lies beside the runs of a competition:
no run may be called so; RESERVED is what no competition may be called. The paths of the default Workspace are relative,
so that messages show them as one types them.
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
RESERVED = {  # what no competition may be called, as its files would lie where others do, and what those are
    "log": "submissions/log.csv is the log of the scores",
    "simulate": "runs/simulate/ holds what `make simulate` has played",
}

LOG_CSV = "log.csv"  # of the scores

# in the folder of a run; the blend has an OOF_NPZ and an OOF_CSV too
RUN_JSON = "run.json"  # its record: a folder that has one is a run
OOF_NPZ = "oof.npz"
OOF_CSV = "oof.csv"
BACKBONE_FILE = "backbone.weights.h5"  # of a frozen run: all folds share it
HEADS_NPZ = "heads.npz"  # of the frozen phase, while it lasts
LOCK = ".lock"
TENSORBOARD = "tensorboard"  # curves for TensorBoard, a folder for each fold: tensorboard_dir
FOLD = "fold_"  # how the folders of its folds begin
NODE = "node_"  # how the folders of a double run's nodes begin

# in the folder of a fold
MODEL_FILE = "model.weights.h5"
HEAD_FILE = "head.npz"
FOLD_JSON = "fold.json"
VIEWS_NPZ = "views.npz"
HISTORY_CSV = "history.csv"
STATE_NPZ = "state.npz"  # while it is trained
TEACHER_NPZ = "teacher.npz"  # what its teachers said of each image
EPOCHS = "epochs"  # a file for each: epoch_file

# in the folder of a fold's GAN, which has HISTORY_CSV and STATE_NPZ too
GAN_JSON = "gan.json"
GENERATOR_FILE = "generator.weights.h5"
SAMPLES = "samples"  # a file for each epoch that has one: samples_file
NEIGHBOURS_PNG = "neighbours.png"

# in other folders beside the runs
BLEND_JSON = "blend.json"
STUDY_JSON = "study.json"  # of a study and of what is tuned
STUDY_CSV = "study.csv"
STUDY_MD = "study.md"
TRIALS_CSV = "trials.csv"
PAIRS_CSV = "pairs.csv"
GROUPS_HTML = "groups.html"
LOOK_HTML = "look.html"
IMAGES_CSV = "images.csv"
AUDIT_HTML = "audit.html"
AUDIT_CSV = "audit.csv"
AUDIT_JSON = "audit.json"
SHIFT_HTML = "shift.html"
SHIFT_CSV = "shift.csv"
SHIFT_JSON = "shift.json"
EXPLAIN_HTML = "explain.html"
EXPLAIN_CSV = "explain.csv"

# of the sample competition
SAMPLE_TRAIN = "train"
SAMPLE_HIDDEN = "hidden"
SAMPLE_IMAGES = "images"  # in SAMPLE_HIDDEN, as the two tables
LABELS_CSV = "labels.csv"
SCENES_CSV = "scenes.csv"
ABOUT_JSON = "about.json"

# of `make matrix`
RESULTS_CSV = "results.csv"
MATRIX_MD = "matrix.md"


def fold_dir(folder, fold):
    """The folder of a fold in a run's folder or the GAN's."""
    return Path(folder) / f"{FOLD}{fold}"


def fold_files(folder, name):
    """The files of that name, or pattern, in the folders of folds, sorted."""
    return sorted(Path(folder).glob(f"{FOLD}*/{name}"))


def node_dir(folder, number):
    """The folder of a node in a double run's folder."""
    return folder / f"{NODE}{number}"


def tensorboard_dir(run_dir, fold):
    """The folder of a fold's curves for TensorBoard."""
    return fold_dir(Path(run_dir) / TENSORBOARD, fold)


def epoch_file(fold_dir, epoch):
    """What the model of a fold said of its images after an epoch, which count from 1."""
    return Path(fold_dir) / EPOCHS / f"{epoch:03d}.npz"


def samples_file(fold_dir, epoch):
    """The sheet of images that a fold's GAN made after an epoch."""
    return Path(fold_dir) / SAMPLES / f"{epoch:04d}.png"


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
        return self.submissions / LOG_CSV

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

    def kernel_record(self, slug):
        """The record of the kernel of that name."""
        return self.kernels / f"{slug}.json"

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

    @property
    def sample_train(self):
        """Its training images, a folder for each class."""
        return self.sample_data / SAMPLE_TRAIN

    @property
    def sample_hidden(self):
        """Its test images and their labels."""
        return self.sample_data / SAMPLE_HIDDEN

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
    def blend_json(self):
        return self.blend / BLEND_JSON

    def blend_heads(self, what, run):
        """What heads said that were trained anew for the forecast, in the way `what`, of a run."""
        return self.blend / f"{what}-{run}.npz"

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
    def study_json(self):
        return self.study / STUDY_JSON

    @property
    def study_csv(self):
        return self.study / STUDY_CSV

    @property
    def study_md(self):
        return self.study / STUDY_MD

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


def check_competition_name(name):
    """`name` if a competition may be called so; InputError for what is no file's name and for a name of RESERVED."""
    if name in RESERVED:
        raise InputError(f"NAME={name}: expected another name, {RESERVED[name]}")
    return check_name("NAME", name)


def check_run_name(run):
    """`run` if a run may be called so; InputError for what is no file's name and for a name of BESIDE."""
    if run in BESIDE:
        raise InputError(f"RUN={run}: expected another name, {', '.join(BESIDE)} are other folders and files")
    return check_name("RUN", run)
