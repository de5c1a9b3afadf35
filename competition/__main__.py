"""The command line: `python -m competition <verb>`; the targets of the Makefile are thin lines over it."""

import argparse
import os
import re
import sys
from importlib.util import find_spec

from competition.files import InputError
from competition.formats import FORMATS
from competition.workspace import Workspace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # warnings about missing GPUs and the like say nothing to a user


def main(arguments=None):
    """Run one verb; returns the exit code: 0, or 2 after one line that says what was wrong with the input."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a class name must not break what is printed
    options = vars(_parser().parse_args(arguments))
    verb = options.pop("verb")
    try:
        if verb in (*ON_EITHER, submission, matrix, demo):
            _choose_backend(verb)
        workspace = Workspace() if verb is folds else Workspace().of(options.get("name"))
        return verb(**options, **{} if verb is backbones else {"workspace": workspace}) or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; nothing is lost, the same command goes on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except OSError as error:  # a full disk, a folder that cannot be written, ...
        print(f"error: {error}", file=sys.stderr)
        return 2


def _choose_backend(verb):
    """Let Keras use TensorFlow; or, to train where that is not installed or when KERAS_BACKEND says so, JAX.

    What ~/.keras/keras.json says may be about other projects.
    """
    good = ["tensorflow", "jax"] if verb in ON_EITHER else ["tensorflow"]
    if os.environ.get("KERAS_BACKEND") == "jax":
        good.reverse()
    found = [backend for backend in good if find_spec(backend)]
    if not found:
        raise InputError(f"{verb.__name__}: {' and '.join(good)} not installed here, expected one to be")
    os.environ["KERAS_BACKEND"] = found[0]
    if found[0] == "tensorflow":
        import_tensorflow()


def import_tensorflow():
    """Import TensorFlow without the lines that its libraries write on stderr at every start, past any log level."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        import tensorflow  # noqa: F401
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def folds(data, name, folds, seed, size, classes, skip_bad, force, groups, near, drop_conflicts, metric, workspace):
    from competition.folds import make_folds, whole_number

    near = whole_number("NEAR", near, 0, 1)
    make_folds(data, name, folds, seed, size, classes, skip_bad, force, groups, near, drop_conflicts, metric,
               workspace)


def look(name, workspace):
    from competition.look import look

    look(name, workspace)


def sanity(name, workspace):
    from competition.sanity import sanity

    sanity(name, workspace)


def audit(name, runs, workspace):
    from competition.audit import audit

    audit(name, runs, workspace)


def shift(test, name, model, weights, runs, memory, workspace):
    from competition.shift import shift

    shift(test, name, model, weights, runs, memory, workspace)


def train(model, recipe, seeds, again, run, overrides, **options):
    from competition.train import train_seeds

    train_seeds(seeds, model, recipe, run, _part(overrides), again=again, **options)


def double(model, splits, recipe, seeds, again, run, overrides, **options):
    from competition.double import double
    from competition.train import train_seeds

    train_seeds(seeds, model, recipe, run, _part(overrides), double, again, splits=splits, **options)


def gan(name, only_fold, overrides, workspace):
    from competition.gan import gan

    gan(name, only_fold, _part(overrides), workspace)


def tune(model, space, recipe, name, weights, run, folds_used, trials, minutes, overrides, memory, workspace):
    from competition.tune import tune

    tune(model, space, recipe, name, weights, run, folds_used, trials, minutes, _part(overrides), memory,
         workspace=workspace)


def rank(name, models, recipe, weights, grid, memory, workspace):
    from competition.rank import rank

    rank(name, models, recipe, weights, grid, memory, workspace)


def study(name, backbone, quick, budget, weights, memory, workspace):
    from competition.study import study

    if quick and budget:
        raise InputError(f"QUICK=1 and BUDGET={budget}: expected one of them")
    rungs = study(name, backbone, "quick" if quick else budget or "default", weights, memory, workspace)
    return int("failed" in set(rungs["state"]))


def explain(name, run, fold, workspace):
    from competition.explain import explain

    explain(name, run, fold, workspace)


def soup(name, runs, run, memory, workspace):
    from competition.soup import soup

    soup(name, runs, run, memory, workspace)


def blend(name, runs, hidden_n, hidden, workspace):
    from competition.blend import make_blend

    make_blend(name, runs, hidden_n, hidden, workspace)


def simulate(name, n, hidden, seed, data, workspace):
    from competition.simulate import simulate

    simulate(name, n, hidden, seed, data, workspace)


def submission(format, name, run, **options):
    from competition import formats

    formats.make(format, name, run, **options)


def check(zip, **options):
    from competition.check import check

    check(zip, **options)


def score(zip, phase, value, workspace):
    from competition.scorelog import score

    score(zip, phase, value, workspace)


def matrix(scorers, families, folder, formats, workspace):
    from competition.matrix import play

    play(scorers, families, folder, formats, workspace)


def predict(name, run, **options):
    from competition import formats

    formats.make("kaggle-csv", name, run, **options)


def kernel(model, recipe, name, weights, run, only_fold, overrides, kaggle_user, competition, dataset, workspace):
    from competition.formats.kaggle_kernel import make_training

    make_training(model, recipe, name, weights, run, only_fold, _part(overrides), kaggle_user, competition, dataset,
                  workspace)


def take(source, workspace):
    from competition.formats.kaggle_kernel import take

    take(source, workspace)


def backbones(model, size):
    if model:
        from competition.receptive import show_backbones

        show_backbones(model, size)
    else:  # to build them all would take minutes
        from competition.backbones import names

        print("\n".join(names()))


def demo(folder, images, hidden, workspace):
    from competition.demo import play

    play(folder, images, hidden, workspace)


# the verbs that need Keras, on TensorFlow or on JAX
ON_EITHER = (train, double, tune, gan, rank, study, explain, shift, soup, predict, kernel, backbones)


def _part(overrides):
    """KEY=VALUE each, of strings that may hold several; the spaces of a list or a table do not part it."""
    between = r"\s+(?=\w+\s*=)(?![^{]*\})"
    return [part for text in overrides for part in re.split(between, text.strip()) if part]


def _parser():
    parser = _Parser(
        prog="python -m competition",
        description="From a folder of images to a submission: folds, train, blend, submission.",
        epilog="Each verb has its own --help. An input that cannot be used ends with one line and exit code 2.",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(function, summary, example):
        line = verbs.add_parser(
            function.__name__,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog="examples:\n" + "\n".join(f"  python -m competition {text}" for text in example),
            formatter_class=_Formatter,
        )
        line.set_defaults(verb=function)
        return line.add_argument

    on_kaggle = {
        "--kaggle-user": {"metavar": "NAME", "help": "your name on Kaggle, whose kernel and dataset it will be"},
        "--competition": {"metavar": "SLUG", "help": "the Kaggle competition that has the images, as in its address"},
        "--dataset": {"metavar": "OWNER/SLUG", "help": "the Kaggle dataset that has them"},
    }
    seeds = {"default": 1, "metavar": "N", "help": "train as often, with the recipe's seed, the next, ...; the runs are "
             "one member of the blend (default: 1)"}
    again = {"default": 1, "metavar": "0", "help": "0: do not train the first fold once more, with another seed, which tells "
             "the forecast what averaging the fold models gains where that is not measured on heads (all layers trained)"}
    name = {"metavar": "NAME", "help": "which competition; may be left out while there is only one"}
    memory = {"metavar": "4G", "help": "what the process may take of memory; images and features that are too much "
              "for it are read from disk as they are needed (default: half of what is available)"}
    to_predict = {
        "--test": {"help": "a folder of images, or a zip of one, to predict"},
        "--sample": {"metavar": "CSV", "help": "the competition's sample_submission.csv: ids, order, columns"},
        "--probabilities": {"action": "store_true", "help": "a column a class in place of labels"},
        "--memory": memory,
    }

    add = verb(folds, "read and check every image once, make stratified folds",
               ["folds --data photos/", "folds --data photos.zip --name plants --folds 10",
                "folds --data labels.csv --size 128x96 --skip-bad --groups patient"])
    add("--data", required=True, help="a folder of class folders, a zip of one, or a CSV with image and label columns")
    add("--name", metavar="NAME", help="what to call the competition (default: the stem of the data's name)")
    add("--folds", default=5, help="number of folds")
    add("--seed", default=0, help="seed of the shuffling")
    add("--size", help="HEIGHTxWIDTH or one number that all images are brought to (default: the median, rounded)")
    add("--classes", help="all class names, in the order wanted: a,b,c (default: sorted)")
    add("--skip-bad", "--skip_bad", action="store_true", help="leave out files that are no images instead of stopping")
    add("--force", action="store_true", help="replace another table even though runs use it")
    add("--groups", metavar="COLUMN", help="a column of the CSV, such as patient or camera: images that have the same "
        "there lie in one fold")
    add("--near", default=1, help="0: do not look for images that are nearly the same")
    add("--drop-conflicts", "--drop_conflicts", action="store_true",
        help="leave out pictures that are there under several labels")
    add("--metric", default="accuracy", help="what the competition is scored by: accuracy, balanced_accuracy, macro_f1, "
        "log_loss, quadratic_kappa or auc")

    add = verb(look, "show what is in the data: a page of statistics, outliers and pictures of each class", ["look"])
    add("--name", **name)

    add = verb(sanity, "check that pictures and labels belong together, and that held out means held out",
               ["sanity", "sanity --name plants"])
    add("--name", **name)

    add = verb(train, "train one model on all folds, save its OOF predictions",
               ["train --model efficientnet_lite0", "train --model vgg16 --weights weights/ --recipe quick",
                "train --model resnet50 --recipe best --set batch_size=16 --set image_size=160"])
    add("--model", required=True, help="a backbone: python -m competition backbones lists them")
    add("--recipe", default="quick", help="a name of competition/recipes/, or a .toml file")
    add("--name", **name)
    add("--weights", default="imagenet", help="imagenet, none, a file, or a folder of weights under Keras' own names")
    add("--run", help="what to call the run (default: <model>-<recipe>)")
    add("--only-fold", "--only_fold", metavar="K", help="train just this fold, or these: 0,1")
    add("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="replace a key of the recipe; may be repeated, or hold several with spaces between")
    add("--memory", **memory)
    add("--seeds", **seeds)
    add("--again", **again)
    add("--teacher", metavar="blend|A,B", help="learn what the fold models of the blend, or of these runs, say of the "
        "training images, besides their labels")
    add("--pseudo", metavar="IMAGES", help="a folder or zip of unlabelled images, of which the teacher's fold models "
        "(default: the blend's) label those that they are sure of, to train on as well")

    add = verb(double, "train a tree of models, one class against the rest, say, and merge their OOF",
               ["double --model efficientnet_lite0 --splits Species1",
                "double --model efficientnet_lite0 --splits oak;ash,elm --run trees --set cutmix=0.5"])
    add("--model", required=True, help="a backbone: python -m competition backbones lists them")
    add("--splits", required=True, metavar="A;B,C",
        help="classes to take apart, one split after the other; A|B makes several branches at once, and names with "
             "such signs go in double quotes, their own doubled")
    add("--recipe", default="quick", help="a name of competition/recipes/, or a .toml file")
    add("--name", **name)
    add("--weights", default="imagenet", help="imagenet, none, a file, or a folder of weights under Keras' own names")
    add("--run", help="what to call the run (default: <model>-<recipe>-double)")
    add("--only-fold", "--only_fold", metavar="K", help="train just this fold, or these: 0,1")
    add("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="replace a key of the recipe; may be repeated, or hold several with spaces between")
    add("--memory", **memory)
    add("--seeds", **seeds)
    add("--again", **again)

    add = verb(tune, "try values of a recipe's keys: a sweep over lists, or a search that proposes, prunes and resumes",
               ["tune --model scratch --space batch_size=4,8,16,32,64 --folds-used 0",
                "tune --model mobilenet --recipe best --space rate=1e-4:1e-2:log --folds-used 0,1 --minutes 600",
                "tune --model hyperresnet --trials 30"])
    add("--model", required=True, help="a backbone; hyperresnet has an architecture to tune as well")
    add("--space", default="auto", metavar="KEY=LOW:HIGH[:log] KEY=V,V KEY=V|V,V",
        help="ranges, lists parted by commas, and by bars for keys that are lists themselves (none: the empty one); a "
             "space of lists alone is tried in full")
    add("--recipe", default="quick", help="a name of competition/recipes/, or a .toml file")
    add("--name", **name)
    add("--weights", default="imagenet", help="imagenet, none, a file, or a folder of weights under Keras' own names")
    add("--run", help="what to call it; trials are runs of this name and a number (default: <model>-<recipe>-<keys>)")
    add("--folds-used", "--folds_used", metavar="0,1", help="which folds to train and score on (default: all)")
    add("--trials", help="how many in all, earlier ones too (default: all of a space of lists, else 20)")
    add("--minutes", help="of training in all, earlier ones too")
    add("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="replace a key of the recipe; may be repeated, or hold several with spaces between")
    add("--memory", **memory)

    add = verb(gan, "train a conditional GAN a fold, judge it on held-out images; only a good one may add images",
               ["gan", "gan --only-fold 0 --set epochs=200 --set side=64"])
    add("--name", **name)
    add("--only-fold", "--only_fold", metavar="K", help="train just this fold's")
    add("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="replace a setting of competition/gan.py; may be repeated, or hold several with spaces between")

    add = verb(rank, "rank backbones by the OOF score of a head on their frozen features",
               ["rank", "rank --weights weights/",
                "rank --models efficientnet_lite0 --grid frozen_rate=3e-4,1e-3"])
    add("--name", **name)
    add("--models", metavar="A,B,C", help="which backbones (default: all pretrained ones whose weights are here)")
    add("--recipe", default="quick", help="whose frozen phase is measured: a name, or a .toml file")
    add("--weights", default="imagenet", help="imagenet, a file, or a folder of weights under Keras' own names")
    add("--grid", default="", metavar="KEY=V,V",
        help="settings of the head, several with spaces between, of which all combinations are tried")
    add("--memory", **memory)

    add = verb(study, "compare every system of the original report on the same images: one rung of a ladder each",
               ["study", "study --name sample --quick", "study --weights weights/", "study --budget full"])
    add("--name", **name)
    add("--backbone", default="efficientnet_lite0", help="of the rungs that do not name one")
    add("--quick", action="store_true", help="a small budget a rung: ten minutes for the sample competition")
    add("--budget", metavar="full", help="full: every rung as its recipe has it, which wants a GPU (default: one fold, "
        "frozen features or few epochs a rung, about an hour for 3000 small images)")
    add("--weights", default="imagenet", help="imagenet, or a folder of weights for the backbones that it holds")
    add("--memory", **memory)

    add = verb(explain, "show what a finished run looks at in its images, background or leaves",
               ["explain", "explain --run vgg16-quick --fold 0"])
    add("--name", **name)
    add("--run", help="which run (default: the finished one of best OOF accuracy)")
    add("--fold", metavar="K", help="only images that this fold held out (default: all)")

    add = verb(audit, "rank labels that are likely wrong, by the OOF; confused pairs, images that no run gets right",
               ["audit", "audit --runs efficientnet_lite0-quick"])
    add("--name", **name)
    add("--runs", metavar="A,B,C", help="judge by their mean (default: the blend, or else all finished runs)")

    add = verb(shift, "compare unlabelled test images with the training images, and what that does to the score",
               ["shift --test test_images/", "shift --test test.zip --model baseline"])
    add("--test", required=True, help="a folder of images, or a zip of one; labels are not asked for")
    add("--name", **name)
    add("--model", default="efficientnet_lite0", help="whose frozen features are compared; baseline: pixels")
    add("--weights", default="imagenet", help="imagenet, a file, or a folder of weights under Keras' own names")
    add("--runs", metavar="A,B,C", help="whose score is weighted: the mean of these (default: the blend, or else all)")
    add("--memory", **memory)

    add = verb(soup, "average the weights of runs of one backbone into one run, fold by fold, and say whether it holds",
               ["soup --runs efficientnet_lite0-best,seed1"])
    add("--name", **name)
    add("--runs", metavar="A,B,C", required=True, help="two or more finished runs in which everything was trained")
    add("--run", help="what to call the result (default: soup-A-B-C)")
    add("--memory", **memory)

    add = verb(blend, "choose weights over the runs and TTA views on their OOF predictions",
               ["blend", "blend --runs efficientnet_lite0-quick,vgg16-quick"])
    add("--name", **name)
    add("--runs", metavar="A,B,C", help="the runs to choose from (default: all finished ones)")
    add("--hidden-n", "--hidden_n", metavar="N", help="images of the hidden test (default: as many as a fold has)")
    add("--hidden", default="random", help="random: the hidden test is drawn from the same scenes; groups: from new ones")

    add = verb(simulate, "play whole competitions on frozen features: does the forecast hold on the hidden part?",
               ["simulate --n 20", "simulate --name plants,digits --n 40 --hidden groups", "simulate --data photos.zip"])
    add("--name", help="fold tables, several with commas between; digits: scikit-learn's, the default")
    add("--data", help="folders, zips or CSVs to make fold tables of, and play on as well")
    add("--n", default=20, help="rounds of each condition")
    add("--hidden", default="random", help="random or groups: what is hidden, where images have groups")
    add("--seed", default=0, help="seed of the first round; each round takes the next")

    add = verb(submission, "pack the blend, or one run, in the format of the competition, and rehearse it",
               ["submission", "submission --run efficientnet_lite0-best", "submission --format codabench"])
    add("--scorer", metavar="tensorflow==2.12.1", help="rehearse it with these releases, several with commas between, "
        "in an environment that is built once; or with the Python of this path (default: the project's own)")
    add("--hidden-n", "--hidden_n", metavar="N", help="images of the hidden test, to forecast score and seconds (default: "
        "as many as the blend's forecast is for)")
    add("--hidden", metavar="random|groups", help="whether the hidden test is of the same scenes or of new ones")
    add("--max-mb", "--max_mb", metavar="N", help="MB (10^6 bytes) that the zip may have")
    add("--max-seconds", "--max_seconds", metavar="N", help="that it may take for HIDDEN_N images, loading included")
    add("--max-memory", "--max_memory", metavar="4G", help="that its process may take")
    add("--fit", action="store_true", help="where the blend is over these, take the best that fits")
    add("--format", default="codalab", help="; ".join(f"{key}: {what}" for key, what in FORMATS.items()))
    add("--name", **name)
    add("--run", help="one run in place of the blend")
    for flag, described in to_predict.items():
        add(flag, **described)

    for flag, described in on_kaggle.items():
        add(flag, **described)

    add = verb(check, "say what is wrong with a submission's zip, whoever made it, and how to mend it",
               ["check --zip submissions/plants.zip", "check --zip mine.zip --format codabench --scorer tensorflow==2.12.1"])
    add("--zip", required=True, help="any zip with a model.py")
    add("--format", metavar="codalab|codabench", help="what its scorer asks for (default: guessed from the zip)")
    add("--name", metavar="NAME", help="the competition whose training images it is asked about (default: the only one, or "
        "without any, images of noise)")
    add("--scorer", metavar="tensorflow==2.12.1", help="the scorer's releases, or its Python (default: the project's own)")
    add("--size", help="HEIGHTxWIDTH or one number, of the images (default: the competition's, or 96)")
    add("--hidden-n", "--hidden_n", metavar="N", help="images of the hidden test, to forecast the seconds")
    add("--max-mb", "--max_mb", metavar="N", help="MB (10^6 bytes) that the zip may have")
    add("--max-seconds", "--max_seconds", metavar="N", help="that it may take for HIDDEN_N images, loading included")
    add("--max-memory", "--max_memory", metavar="4G", help="that its process may take")

    add = verb(score, "write down the score that came back for a zip, beside its forecast",
               ["score", "score --zip submissions/plants.zip --phase final --value 0.871"])
    add("--zip", help="the zip that was handed in (default: print the table)")
    add("--phase", default="", help="what the competition calls the test that it was scored on")
    add("--value", help="the score: of shares 0.871, not 87.1")

    add = verb(matrix, "rehearse a model of every backbone family with several scorers",
               ["matrix", "matrix --scorers current --families scratch,resnet50"])
    add("--scorers", metavar="A,B", help="current, or releases of TensorFlow (default: 2.12.1,2.15.1,current)")
    add("--families", metavar="A,B", help="backbones, heads, hidden-layer, double, float16 (default: all, one backbone a family)")
    add("--formats", metavar="A,B", help="codabench, kaggle-csv, kaggle-kernel, of the first family; none (default: all)")
    add("--folder", default=".scorers/matrix", help="where they are trained, and the table lies")

    add = verb(predict, "write submissions/<name>.csv: what the blend, or one run, says of test images",
               ["predict --test test_images/ --sample sample_submission.csv",
                "predict --test test.zip --probabilities"])
    add("--name", **name)
    add("--run", help="one run in place of the blend")
    add("--hidden", metavar="random|groups", help="whether the test is of the same scenes or of new ones")
    for flag, described in to_predict.items():
        add(flag, **described)

    add = verb(kernel, "write a kernel and its dataset for Kaggle, which train a run on the GPU there",
               ["kernel --model efficientnet_lite0 --recipe best --kaggle-user me",
                "kernel --model resnet50 --recipe best --kaggle-user me --competition plant-seedlings-classification"])
    add("--model", required=True, help="a backbone: python -m competition backbones lists them")
    add("--recipe", default="quick", help="a name of competition/recipes/, or a .toml file")
    add("--name", **name)
    add("--weights", default="imagenet", help="imagenet, none, a file, or a folder of weights under Keras' own names")
    add("--run", help="what to call the run (default: <model>-<recipe>)")
    add("--only-fold", "--only_fold", metavar="K", help="train just this fold, or these: 0,1")
    add("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="replace a key of the recipe; may be repeated, or hold several with spaces between")
    for flag, described in on_kaggle.items():
        add(flag, **described)

    add = verb(take, "take in the runs that training kernels left on Kaggle",
               ["take --from kernels/plants-train-resnet50-best/output"])
    add("--from", dest="source", required=True, help="the folder that `kaggle kernels output` filled, or a zip of it")

    add = verb(backbones, "list the backbones, or tell what some of them see and how large they are",
               ["backbones", "backbones --model vgg16,vgg16_nopool --size 96"])
    add("--model", metavar="A,B,C", help="print receptive field, stride and parameters of these")
    add("--size", help="HEIGHTxWIDTH or one number, of the images (default: 224)")

    add = verb(demo, "play the whole sample competition, from drawing it to its hidden test", ["demo"])
    add("--folder", default="sample", help="where the sample is drawn")
    add("--images", type=int, default=1200, help="number of training images")
    add("--hidden", type=int, default=400, help="number of hidden test images")
    return parser


class _Parser(argparse.ArgumentParser):
    """One that says what is wrong in one line, by the names of make's variables as well."""

    def error(self, message):
        flags = dict.fromkeys(re.findall(r"--[a-z][a-z-]*", message))
        typed = ", ".join(f"{flag[2:].upper().replace('-', '_')}=" for flag in flags)
        self.exit(2, f"error: {message}{f' (of make: {typed})' * bool(typed)}; {self.prog} --help explains them\n")


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, leaves the examples' lines alone, and says nothing about a default of None."""

    def _get_help_string(self, action):
        silent = action.default is None or action.default is False or action.default == []  # 0 is said
        return action.help if silent else super()._get_help_string(action)


if __name__ == "__main__":
    code = main()
    if code == 130:  # threads may be at work in native code, which a shutdown of the interpreter would abort
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
