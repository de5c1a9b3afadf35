"""What an option and a command are, and the options that several commands share."""

from dataclasses import dataclass, replace
from typing import Any, Tuple


@dataclass(frozen=True)
class Option:
    """One option of a command: --only-fold on the command line, ONLY_FOLD= of make, only_fold of the method.

    kind       "text"; "number", an int; "switch", on or off; "settings", a list of KEY=VALUE that may be repeated
    otherwise  words for what holds without the option, where its default does not say so
    keyword    of the method, where it is not the name
    aliases    other names that make's command line may use
    filled     an empty value is an error; of other options it counts as not given
    """

    name: str
    help: str
    default: Any = None
    otherwise: str = ""
    metavar: str = ""
    kind: str = "text"
    required: bool = False
    keyword: str = ""
    aliases: Tuple[str, ...] = ()
    filled: bool = False

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return self.name.upper()

    @property
    def key(self) -> str:
        return self.keyword or self.name

    @property
    def says_default(self) -> str:
        """The default in words; "" where there is none."""
        silent = self.default is None or self.kind in ("switch", "settings")
        return self.otherwise or ("" if silent else str(self.default))


@dataclass(frozen=True)
class Verb:
    """One command: a method of Competition, which takes the options as keywords.

    summary   one line, lower case, without a full stop
    examples  as make takes them: the words after `make <name>`
    """

    name: str
    summary: str
    examples: Tuple[str, ...]
    options: Tuple[Option, ...]

    @property
    def sentence(self) -> str:
        """The summary as a sentence."""
        return self.summary[0].upper() + self.summary[1:] + "." * (not self.summary.endswith("?"))


def as_list(option: Option, **changes: Any) -> Option:
    """The option as one that takes several names with commas between."""
    return replace(option, metavar="A,B,C", **changes)


# Options that several commands share.
NAME = Option("name", "which competition", otherwise="the only one", metavar="NAME")
MEMORY = Option(
    "memory",
    "the memory that the process may take. Images and features that need more are read from disk as they are needed",
    otherwise="half of what is available",
    metavar="4G",
)
MODEL = Option("model", "a backbone; `make backbones` lists them", required=True)
RECIPE = Option("recipe", "a name of competition/recipes/, or a .toml file", "quick")
WEIGHTS = Option("weights", "imagenet, none, a file, or a folder of weights under Keras' own names", "imagenet")
PRETRAINED = replace(WEIGHTS, help="imagenet, a file, or a folder of weights under Keras' own names")
RUN = Option("run", "what to call the run", otherwise="<model>-<recipe>")
ONE_RUN = replace(RUN, help="one run in place of the blend", otherwise="the blend")
RUNS = as_list(Option("runs", "finished runs"), aliases=("run",))
ONLY_FOLD = Option("only_fold", "train just this fold, or these: 0,1", otherwise="all folds", metavar="K")
SET = Option(
    "set",
    "replace a key of the recipe. Several stand in one text with spaces between, or the option is repeated",
    (),
    kind="settings",
    metavar="KEY=VALUE",
    keyword="overrides",
)
SEEDS = Option(
    "seeds",
    "train this many runs, with the recipe's seed, the next, ... The runs are one member of the blend",
    1,
    metavar="N",
)
AGAIN = Option(
    "again",
    "0: do not train the first fold again with another seed. The forecast uses that fold to measure what averaging the "
    "fold models gains, if all layers were trained",
    1,
    metavar="0",
)
TENSORBOARD = Option(
    "tensorboard", "write the learning curves for TensorBoard too, into the folder of the run", False, kind="switch"
)
SIZE = Option("size", "of the images: HEIGHTxWIDTH, or one number")
HIDDEN_N = Option("hidden_n", "images of the hidden test", metavar="N")
HIDDEN = Option(
    "hidden",
    "random: the hidden test has the same scenes as the training images; groups: it has new ones",
    metavar="random|groups",
)
MAX_MB = Option("max_mb", "the MB (10^6 bytes) that the zip may have", otherwise="no limit", metavar="N")
MAX_SECONDS = Option(
    "max_seconds",
    "the seconds that it may take for HIDDEN_N images, loading included",
    otherwise="no limit",
    metavar="N",
)
MAX_MEMORY = Option("max_memory", "the memory that its process may take", otherwise="no limit", metavar="4G")
TEST = Option("test", "a folder of images, or a zip of one")
STRICT = Option(
    "strict",
    "stop at test images that are missing or cannot be read. Otherwise they are named and the command goes on",
    False,
    kind="switch",
)
TO_PREDICT = (
    replace(TEST, help="a folder of images, or a zip of one, to predict"),
    Option("sample", "the competition's sample_submission.csv: ids, order, columns", metavar="CSV"),
    Option("probabilities", "a column for each class in place of labels", False, kind="switch"),
    Option(
        "labels",
        "how classes are called: names, by their labels; ids, by their numbers from 0",
        otherwise="as the sample says; names where they are numbers",
        metavar="names|ids",
    ),
    replace(
        STRICT,
        help="stop at test images that are missing or cannot be read. Otherwise their rows get the shares of the classes "
        "in training, or the likeliest class",
    ),
    MEMORY,
)
ON_KAGGLE = (
    Option("kaggle_user", "your name on Kaggle; it will own the kernel and the dataset", metavar="NAME"),
    Option("competition", "the Kaggle competition that has the images, as in its address", metavar="SLUG"),
    Option("dataset", "the Kaggle dataset that has the images", metavar="OWNER/SLUG"),
)
