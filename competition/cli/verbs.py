"""The table of commands: what each does and its options. The method of that name of Competition (api/) does it.

Parser, `make help` and docs/reference/commands.md are made from it. To add a command, add a Verb here, its name to
COMMANDS in the Makefile and a method to Competition. To add an option, add an Option to the Verb and a keyword to the
method. Only the standard library is imported here, so that help is fast and needs no set-up.
"""

from dataclasses import replace

from competition.cli.options import (
    AGAIN,
    CLUSTER,
    HIDDEN,
    HIDDEN_N,
    MAX_MB,
    MAX_MEMORY,
    MAX_SECONDS,
    MEMORY,
    MODEL,
    NAME,
    ON_KAGGLE,
    ONE_RUN,
    ONLY_FOLD,
    PRETRAINED,
    RECIPE,
    RUN,
    RUNS,
    SEEDS,
    SET,
    SIZE,
    STRICT,
    TENSORBOARD,
    TEST,
    TO_PREDICT,
    WEIGHTS,
    WORKERS,
    Option,
    Verb,
    as_list,
)
from competition.formats import FORMATS

VERBS = (
    Verb(
        "demo",
        "play the whole sample competition, from drawing it to the score on its hidden test",
        ("", "IMAGES=600 HIDDEN=200"),
        (
            Option("folder", "where the sample is drawn", otherwise="sample"),
            Option("images", "number of training images", 1200, kind="number"),
            Option("hidden", "number of hidden test images", 400, kind="number"),
        ),
    ),
    Verb(
        "folds",
        "read and check every image once, make stratified folds",
        (
            "DATA=photos/",
            "DATA=photos.zip NAME=plants FOLDS=10",
            "DATA=labels.csv SIZE=128x96 SKIP_BAD=1 GROUPS=patient",
        ),
        (
            Option(
                "data",
                "a folder of class folders, an archive of one, a label table, arrays (.npz, .npy), or a competition's download",
                required=True,
            ),
            Option("name", "what to call the competition", otherwise="the stem of the data's name", metavar="NAME"),
            Option("folds", "number of folds", 5),
            Option("seed", "seed of the shuffling", 0),
            Option(
                "size", "HEIGHTxWIDTH, or one number; all images are brought to it", otherwise="the median, rounded"
            ),
            Option("classes", "all class names, in the order wanted: a,b,c", otherwise="sorted, integers as numbers"),
            Option(
                "skip_bad",
                "leave out files that are no images, and rows of a table without file or label, instead of stopping",
                False,
                kind="switch",
            ),
            Option("force", "replace another table even though runs use it", False, kind="switch"),
            Option(
                "groups",
                "a column of the table, such as patient or camera. Images with the same value lie in one fold",
                metavar="COLUMN",
            ),
            Option("near", "0: do not look for images that are nearly the same", 1),
            Option("drop_conflicts", "leave out pictures that have several labels", False, kind="switch"),
            Option(
                "metric",
                "the competition's metric: accuracy, balanced_accuracy, macro_f1, log_loss, quadratic_kappa or auc",
                "accuracy",
            ),
            Option("image_column", "the column of a label table that names the image", otherwise="recognised"),
            Option("label_column", "the column of a label table that is the class", otherwise="recognised"),
            Option("images", "the folder or archive of a label table's images", otherwise="beside the table"),
            Option("fold_column", "a column of whole numbers that are the folds", metavar="COLUMN"),
            Option(
                "val",
                "out, join or fold: leave the validation part of a given split out, deal it too, or make it one more fold",
                otherwise="out",
            ),
            Option(
                "alike",
                "merge or keep: whether labels that differ by blanks, case or Unicode form are one class",
                "merge",
            ),
            Option("dry", "print what was found, and write nothing", False, kind="switch"),
            Option(
                "rare",
                "a class of fewer different images than folds. train: it is in the training part of every fold and counts in no "
                "score; drop: it is left out; stop: an error",
                "train",
            ),
            Option(
                "drop_groups",
                "names of images, a,b,c: they and all that show the same picture are left out",
                metavar="IMAGES",
            ),
        ),
    ),
    Verb(
        "look",
        "show the data on a page: statistics, outliers and pictures of each class",
        ("",),
        (NAME,),
    ),
    Verb(
        "sanity",
        "check that pictures and labels belong together, and that held out means held out",
        ("", "NAME=plants"),
        (NAME,),
    ),
    Verb(
        "train",
        "train one model on all folds, save its OOF predictions",
        (
            "MODEL=efficientnet_lite0",
            "MODEL=vgg16 WEIGHTS=weights/ RECIPE=quick",
            'MODEL=resnet50 RECIPE=best SET="batch_size=16 image_size=160"',
            "MODEL=efficientnet_lite0 TEACHER=blend",
        ),
        (
            MODEL,
            RECIPE,
            NAME,
            WEIGHTS,
            RUN,
            ONLY_FOLD,
            SET,
            MEMORY,
            SEEDS,
            AGAIN,
            WORKERS,
            CLUSTER,
            TENSORBOARD,
            Option(
                "teacher",
                "learn from the fold models of the blend, or of these runs, as well as from the labels",
                metavar="blend|A,B",
                filled=True,
            ),
            Option(
                "pseudo",
                "a folder or zip of unlabelled images. The teacher's fold models (or the blend's) label those "
                "that they are sure of, and training takes these as well",
                metavar="IMAGES",
                filled=True,
            ),
            Option(
                "scorer",
                "refuse, before anything is trained, a network that these releases, or the Python of this path, cannot run",
                metavar="tensorflow==2.12.1",
            ),
        ),
    ),
    Verb(
        "double",
        "train a tree of models, such as one class against the rest, and merge their OOF",
        (
            "MODEL=efficientnet_lite0 SPLITS=Species1",
            'MODEL=efficientnet_lite0 SPLITS="oak;ash,elm" RUN=trees SET=cutmix=0.5',
        ),
        (
            MODEL,
            Option(
                "splits",
                "classes to take apart, one split after the other. A|B makes several branches at once. A name "
                "that holds such a sign stands in double quotes, its own quotes doubled",
                required=True,
                metavar="A;B,C",
            ),
            RECIPE,
            NAME,
            WEIGHTS,
            replace(RUN, otherwise="<model>-<recipe>-double"),
            ONLY_FOLD,
            SET,
            MEMORY,
            SEEDS,
            AGAIN,
            WORKERS,
            CLUSTER,
            TENSORBOARD,
        ),
    ),
    Verb(
        "tune",
        "try values of a recipe's keys: a sweep over lists, or a search that proposes, prunes and resumes",
        (
            'MODEL=scratch SPACE="batch_size=4,8,16,32,64" FOLDS_USED=0',
            "MODEL=mobilenet RECIPE=best SPACE=rate=1e-4:1e-2:log FOLDS_USED=0,1 MINUTES=600",
            "MODEL=hyperresnet TRIALS=30",
        ),
        (
            replace(MODEL, help="a backbone; hyperresnet has an architecture to tune as well"),
            Option(
                "space",
                "ranges, or lists with commas between; bars part the values of keys that are lists themselves "
                "(none: the empty one). A space of lists alone is tried in full",
                "auto",
                metavar="KEY=LOW:HIGH[:log] KEY=V,V KEY=V|V,V",
            ),
            RECIPE,
            NAME,
            WEIGHTS,
            Option(
                "run",
                "what to call the search; its trials are runs of this name and a number",
                otherwise="<model>-<recipe>-<keys>",
            ),
            Option("folds_used", "which folds to train and score on", otherwise="all", metavar="0,1"),
            Option("trials", "how many trials in all, earlier ones too", otherwise="all of a space of lists, else 20"),
            Option("minutes", "minutes of training in all, earlier trials too", otherwise="no limit"),
            SET,
            MEMORY,
        ),
    ),
    Verb(
        "gan",
        "train a conditional GAN for each fold and judge it on held-out images; only a good one may add images",
        ("", 'ONLY_FOLD=0 SET="epochs=200 side=64"'),
        (
            NAME,
            replace(ONLY_FOLD, help="train just this fold's GAN"),
            replace(
                SET,
                help="replace a setting of the GAN. Several stand in one text with spaces between, or the option is "
                "repeated",
            ),
        ),
    ),
    Verb(
        "rank",
        "rank backbones by the OOF score of a head on their frozen features",
        ("", "WEIGHTS=weights/", 'MODELS=efficientnet_lite0 GRID="frozen_rate=3e-4,1e-3"'),
        (
            NAME,
            as_list(
                Option(
                    "models",
                    "which backbones",
                    otherwise="all pretrained ones whose weights are here",
                    aliases=("model",),
                )
            ),
            replace(RECIPE, help="whose frozen phase is measured: a name, or a .toml file"),
            PRETRAINED,
            Option(
                "grid",
                "settings of the head, several with spaces between. All combinations are tried",
                "",
                metavar="KEY=V,V",
            ),
            MEMORY,
        ),
    ),
    Verb(
        "study",
        "compare every system of the original report on the same images: each is one rung of a ladder",
        ("", "NAME=sample QUICK=1", "WEIGHTS=weights/", "BUDGET=full"),
        (
            NAME,
            Option("backbone", "the backbone of the rungs that do not name one", "efficientnet_lite0"),
            Option(
                "quick", "a small budget for each rung: ten minutes for the sample competition", False, kind="switch"
            ),
            Option(
                "budget",
                "full: every rung as its recipe has it, which wants a GPU",
                metavar="full",
                otherwise="one fold, frozen features or few epochs for each rung, about an hour for 3000 small images",
            ),
            replace(WEIGHTS, help="imagenet, or a folder of weights for the backbones that it holds"),
            MEMORY,
        ),
    ),
    Verb(
        "explain",
        "show what a finished run looks at in its images, background or leaves",
        ("", "RUN=vgg16-quick FOLD=0"),
        (
            NAME,
            Option("run", "which run", otherwise="the finished one of best OOF accuracy"),
            Option("fold", "only images that this fold held out", otherwise="all", metavar="K"),
        ),
    ),
    Verb(
        "audit",
        "rank labels that are likely wrong, by the OOF; confused pairs, images that no run gets right",
        ("", "RUNS=efficientnet_lite0-quick"),
        (NAME, replace(RUNS, help="judge by the mean of these runs", otherwise="the blend, or else all finished runs")),
    ),
    Verb(
        "shift",
        "compare unlabelled test images with the training images, and say what that does to the score",
        ("TEST=test_images/", "TEST=test.zip MODEL=baseline"),
        (
            replace(TEST, help="a folder of images, or a zip of one; labels are not asked for", required=True),
            NAME,
            Option("model", "whose frozen features are compared; baseline: pixels", "efficientnet_lite0"),
            PRETRAINED,
            replace(RUNS, help="whose score is weighted: the mean of these runs", otherwise="the blend, or else all"),
            replace(STRICT, help="stop at test images that cannot be read. Otherwise they are named and left out"),
            MEMORY,
        ),
    ),
    Verb(
        "soup",
        "average the weights of runs of one backbone into one run, fold by fold, and say whether it holds",
        ("RUNS=efficientnet_lite0-best,seed1", "RUNS=a,b RUN=both"),
        (
            NAME,
            replace(RUNS, help="two or more finished runs that trained all layers", required=True, aliases=()),
            replace(RUN, help="what to call the result", otherwise="soup-A-B-C"),
            MEMORY,
        ),
    ),
    Verb(
        "blend",
        "choose weights over the runs and TTA views on their OOF predictions",
        ("", "RUNS=efficientnet_lite0-quick,vgg16-quick"),
        (
            NAME,
            replace(RUNS, help="the runs to choose from", otherwise="all finished ones"),
            replace(HIDDEN_N, otherwise="as many as a fold has"),
            replace(HIDDEN, default="random"),
        ),
    ),
    Verb(
        "simulate",
        "play whole competitions on frozen features: does the forecast hold on the hidden part?",
        ("N=20", "NAME=plants,digits N=40 HIDDEN=groups", "DATA=photos.zip"),
        (
            Option(
                "name", "fold tables, several with commas between; digits: those of scikit-learn", otherwise="digits"
            ),
            Option("data", "folders, zips or CSVs. The command makes fold tables from them and plays these too"),
            Option("n", "rounds of each condition", 20),
            replace(HIDDEN, default="random", help="random or groups: what is hidden, where images have groups"),
            Option("seed", "seed of the first round; each round takes the next", 0),
        ),
    ),
    Verb(
        "submission",
        "pack the blend, or one run, in the format of the competition, and rehearse it",
        ("", "RUN=efficientnet_lite0-best", "FORMAT=codabench"),
        (
            Option("format", "; ".join(f"{key}: {what}" for key, what in FORMATS.items()), "codalab"),
            NAME,
            ONE_RUN,
            *TO_PREDICT,
            *ON_KAGGLE,
            Option(
                "scorer",
                "rehearse it with these releases, several with commas between, in an environment that is built "
                "once; or with the Python of this path",
                otherwise="the project's own",
                metavar="tensorflow==2.12.1",
            ),
            replace(
                HIDDEN_N,
                help="images of the hidden test, to forecast score and seconds",
                otherwise="as many as the blend's forecast is for",
            ),
            replace(HIDDEN, otherwise="as the blend's forecast"),
            MAX_MB,
            MAX_SECONDS,
            MAX_MEMORY,
            Option("fit", "where the blend is over these limits, take the best that fits", False, kind="switch"),
        ),
    ),
    Verb(
        "check",
        "say what is wrong with a submission's zip, whoever made it, and how to mend it",
        ("ZIP=submissions/plants.zip", "ZIP=mine.zip FORMAT=codabench SCORER=tensorflow==2.12.1"),
        (
            Option("zip", "any zip with a model.py", required=True, keyword="zip_path"),
            Option("format", "what its scorer asks for", otherwise="guessed from the zip", metavar="codalab|codabench"),
            Option(
                "name",
                "the competition whose training images the zip must classify",
                metavar="NAME",
                otherwise="the only one; images of noise where there is none",
            ),
            Option(
                "scorer",
                "the scorer's releases, or its Python",
                otherwise="the project's own",
                metavar="tensorflow==2.12.1",
            ),
            replace(SIZE, otherwise="the competition's, or 96"),
            replace(HIDDEN_N, help="images of the hidden test, to forecast the seconds"),
            MAX_MB,
            MAX_SECONDS,
            MAX_MEMORY,
            Option("trust", "run a zip of others even where its code cannot be kept apart", False, kind="switch"),
        ),
    ),
    Verb(
        "score",
        "write down the score that came back for a zip, beside its forecast",
        ("", "ZIP=submissions/plants.zip PHASE=final VALUE=0.871"),
        (
            Option("zip", "the zip that was handed in", otherwise="print the table", keyword="zip_path"),
            Option("phase", "what the competition calls the test that it was scored on", ""),
            Option("value", "the score: of shares 0.871, not 87.1"),
        ),
    ),
    Verb(
        "matrix",
        "rehearse a model of every backbone family with several scorers, and every format",
        ("", "SCORERS=current FAMILIES=scratch,resnet50"),
        (
            Option("scorers", "current, or releases of TensorFlow", otherwise="2.12.1,2.15.1,current", metavar="A,B"),
            Option(
                "families",
                "backbones, heads, hidden-layer, double, float16",
                metavar="A,B",
                otherwise="all, one backbone of each family",
            ),
            Option(
                "formats",
                "codabench, kaggle-csv, kaggle-kernel, of the first family; none",
                otherwise="all",
                metavar="A,B",
            ),
            Option("folder", "where the models are trained and the table lies", otherwise=".scorers/matrix"),
        ),
    ),
    Verb(
        "predict",
        "write submissions/<name>.csv: the predictions of the blend, or of one run, for test images",
        ("TEST=test_images/ SAMPLE=sample_submission.csv", "TEST=test.zip PROBABILITIES=1"),
        (NAME, ONE_RUN, *TO_PREDICT, replace(HIDDEN, otherwise="as the blend's forecast")),
    ),
    Verb(
        "kernel",
        "write a kernel and its dataset for Kaggle, which train a run on the GPU there",
        (
            "MODEL=efficientnet_lite0 RECIPE=best KAGGLE_USER=me",
            "MODEL=resnet50 RECIPE=best KAGGLE_USER=me COMPETITION=plant-seedlings-classification",
        ),
        (MODEL, RECIPE, NAME, WEIGHTS, RUN, ONLY_FOLD, SET, *ON_KAGGLE),
    ),
    Verb(
        "take",
        "take in the runs that training kernels left on Kaggle",
        ("FROM=kernels/plants-train-resnet50-best/output",),
        (
            Option(
                "from",
                "the folder that `kaggle kernels output` filled, or a zip of it",
                required=True,
                keyword="source",
            ),
        ),
    ),
    Verb(
        "backbones",
        "list the backbones, or say what some of them see and how large they are",
        ("", "MODEL=vgg16,vgg16_nopool SIZE=96"),
        (
            as_list(
                Option(
                    "model",
                    "print receptive field, stride and parameters of these",
                    keyword="models",
                    otherwise="list all names",
                )
            ),
            replace(SIZE, otherwise="224"),
        ),
    ),
)
BY_NAME = {verb.name: verb for verb in VERBS}
