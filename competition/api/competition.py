"""Competition: what a data scientist does with one folder of work, from images to a submission.

Each method is a command of the command line and takes the same arguments; cli/main.py calls these methods. What does the
work is imported when a method is called, as TensorFlow and pandas take seconds and `--help` has no use for them.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from competition.base.backend import choose_backend
from competition.base.files import InputError, say_refused
from competition.base.output import muted
from competition.base.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from competition.base.page import Page
    from competition.blending.blended import Blend
    from competition.checking.check_zip import ZipReport
    from competition.data.table import FoldTable
    from competition.runs.trained_run import TrainedRun
    from competition.submission.outputs import Submission
    from competition.training.callbacks import Callback

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # warnings about missing GPUs and the like say nothing to a user
Method = TypeVar("Method", bound=Callable[..., Any])


def command(*backends: str) -> Callable[[Method], Method]:
    """Make a method a command: Keras uses one of these backends, and what the system refuses becomes an InputError.

    The decorated method has the attribute `backends`.
    """

    def decorate(method: Method) -> Method:
        @functools.wraps(method)
        def run(self: Competition, *arguments: Any, **options: Any) -> Any:
            if backends:
                choose_backend(method.__name__, backends)
            with self._printing():
                try:
                    return method(self, *arguments, **options)
                except BrokenPipeError:
                    raise
                except OSError as error:  # a full disk, a folder that cannot be written, ...
                    if getattr(error, "of_callback", False):
                        raise
                    raise InputError(say_refused(error)) from error

        run.backends = backends  # type: ignore[attr-defined]
        return cast(Method, run)

    return decorate


class Competition:
    """One competition, or several, in one folder: fold tables, runs and submissions lie there and nowhere else.

    Parameters
    ----------
    root : path or Workspace, default "."
        The folder. It is made when something is first written. Data stays where it is; nothing is written there. A
        relative path counts from the current folder of this call, not of later ones.
    name : str, optional
        The fold table that the methods use unless they are given another `name`. Needed only where the folder has
        several.
    verbose : bool, optional
        Whether methods print on standard output, as the commands do. By default they do, but not in a notebook, which
        shows the results themselves. Warnings and progress bars come either way.

    Notes
    -----
    Whatever is wrong with an argument, with data or with the disk raises `competition.InputError`, a ValueError of one
    line. A method that was stopped has lost nothing: the same call goes on.

    Examples
    --------
    >>> from competition import Competition
    >>> c = Competition("work/")
    >>> table = c.folds("photos.zip")
    >>> run = c.train("efficientnet_lite0")
    >>> blend = c.blend()
    >>> submission = c.submission(max_mb=100)
    """

    def __init__(
        self, root: str | Path | Workspace = ".", name: str | None = None, verbose: bool | None = None
    ) -> None:
        self.workspace = root if isinstance(root, Workspace) else Workspace(Path(root).expanduser().absolute())
        self.name = name
        if verbose is None:
            from competition.base.bars import IN_NOTEBOOK

            verbose = not IN_NOTEBOOK
        self.verbose = verbose

    # ------------------------------------------------------------------------------------------- what is there already

    def table(self, name: str | None = None) -> FoldTable:
        """The fold table that `folds` wrote. InputError where there is none, or several and no name."""
        from competition.data.table import read_folds

        return read_folds(name or self.name, self._home(name))

    def run(self, run: str, name: str | None = None) -> TrainedRun:
        """The run of that name, finished or not. InputError where there is none."""
        from competition.runs.record import all_runs
        from competition.runs.trained_run import TrainedRun

        table = self.table(name)
        if run not in (known := all_runs(table.paths)):
            raise InputError(f"{table.paths.run(run)}: no such run, expected one of {', '.join(known) or '(none yet)'}")
        return TrainedRun(table, table.paths.run(run))

    def runs(self, name: str | None = None) -> list[TrainedRun]:
        """All runs, finished or not, sorted by name."""
        from competition.runs.record import all_runs
        from competition.runs.trained_run import TrainedRun

        table = self.table(name)
        return [TrainedRun(table, table.paths.run(run)) for run in all_runs(table.paths)]

    def blended(self, name: str | None = None) -> Blend:
        """The blend that `blend` chose. InputError where there is none, or its runs have changed since."""
        from competition.blending.blended import read_blend

        return read_blend(self.table(name))

    # ------------------------------------------------------------------------------------------------------------ data

    @command()
    def folds(
        self,
        data: str | Path,
        name: str | None = None,
        folds: int | str = 5,
        seed: int | str = 0,
        size: str | int | Sequence[int] | None = None,
        classes: str | Sequence[str] | None = None,
        skip_bad: bool = False,
        force: bool = False,
        groups: str | None = None,
        near: bool | int | str = True,
        drop_conflicts: bool = False,
        metric: str = "accuracy",
        image_column: str | None = None,
        label_column: str | None = None,
        images: str | Path | None = None,
        fold_column: str | None = None,
        val: str | None = None,
        alike: str = "merge",
        dry: bool = False,
        rare: str = "train",
        drop_groups: str | Sequence[str] | None = None,
    ) -> FoldTable:
        """Read and check every image once, make stratified folds.

        Images that show the same picture, or nearly, lie in one fold.

        Parameters
        ----------
        data : path
            A folder of class folders, an archive of one, a label table (CSV, JSON lines, Parquet), arrays (.npz, .npy), or
            a competition's download.
        name : str, optional
            What to call the table; default: the name of this Competition, or else the stem of the data's name.
        folds : int, default 5
            Number of folds.
        seed : int, default 0
            Seed of the shuffling.
        size : int, "HEIGHTxWIDTH" or (height, width), optional
            Pixels that all images are brought to; default: the median, rounded.
        classes : list of str or "a,b,c", optional
            All class names in the order wanted; default: sorted, integers as numbers.
        skip_bad : bool, default False
            Leave out files that are no images, and rows of a table without file or label, instead of stopping.
        force : bool, default False
            Replace another table even though runs use it.
        groups : str, optional
            A column of the table, such as patient or camera. Images with the same value lie in one fold.
        near : bool, default True
            Look for images that are nearly the same, and not only for those of the same bytes.
        drop_conflicts : bool, default False
            Leave out pictures that have several labels.
        metric : str, default "accuracy"
            The competition's: accuracy, balanced_accuracy, macro_f1, log_loss, quadratic_kappa or auc.
        image_column, label_column : str, optional
            The columns of a label table that name the image and its class; default: recognised by their names. Of
            arrays, the names of the images and of the labels.
        images : path, optional
            The folder or archive that the images of a label table lie in; default: beside the table or below it.
        fold_column : str, optional
            A column of whole numbers that are the folds; default: folds are dealt.
        val : "out", "join" or "fold", default "out"
            What to do with the validation part of a given split: leave it out, deal it as well, make it one more fold.
        alike : "merge" or "keep", default "merge"
            Whether labels that differ only by blanks, case or Unicode form are one class.
        dry : bool, default False
            Print what was found, and write nothing.
        rare : str, default "train"
            A class of fewer different images than folds: "train", it is in the training part of every fold and counts
            in no score; "drop", it is left out; "stop", an InputError.
        drop_groups : list of str or "a,b,c", optional
            Names of images: they and all that show the same picture are left out.

        Returns
        -------
        FoldTable
            It is written to `folds/<name>.csv` and `.json`.
        """
        from competition.data.folds import make_folds

        return make_folds(
            data,
            name or self.name,
            folds=folds,
            seed=seed,
            size=size,
            classes=classes,
            skip_bad=skip_bad,
            force=force,
            groups=groups,
            near=near,
            drop_conflicts=drop_conflicts,
            metric=metric,
            workspace=self.workspace,
            rare=rare,
            drop_groups=drop_groups,
            image_column=image_column,
            label_column=label_column,
            images=images,
            fold_column=fold_column,
            val=val,
            alike=alike,
            dry=dry,
        )

    @command()
    def look(self, name: str | None = None) -> Page:
        """Show the data on a page: statistics, outliers and pictures of each class.

        Returns
        -------
        Page
            Its `frame` has a row an image with what was measured of it.
        """
        from competition.base.page import Page
        from competition.base.workspace import LOOK_HTML
        from competition.insight.look import look

        place = self._place(name)
        frame = look(**place)
        return Page(self.table(name).paths.look / LOOK_HTML, frame)

    @command()
    def sanity(self, name: str | None = None) -> pd.DataFrame:
        """Check that pictures and labels belong together, and that held out means held out.

        Returns
        -------
        pandas.DataFrame
            A row a check.
        """
        from competition.insight.sanity import sanity

        return sanity(**self._place(name))

    # -------------------------------------------------------------------------------------------------------- training

    @command("tensorflow", "jax")
    def train(
        self,
        model: str,
        recipe: str | Path = "quick",
        name: str | None = None,
        weights: str | Path = "imagenet",
        run: str | None = None,
        only_fold: int | str | Sequence[int] | None = None,
        overrides: Sequence[str] = (),
        memory: str | None = None,
        seeds: int | str = 1,
        again: bool | int | str = True,
        teacher: str | None = None,
        pseudo: str | Path | None = None,
        workers: int | str | None = None,
        cluster: str | None = None,
        tensorboard: bool = False,
        scorer: str | None = None,
        callbacks: Sequence[Callback] = (),
        **settings: Any,
    ) -> TrainedRun:
        """Train one model on all folds, save its OOF predictions.

        Parameters
        ----------
        model : str
            A backbone; `backbones()` lists them.
        recipe : str or path, default "quick"
            A name of competition/recipes/ (quick, best, report, ...), or a .toml file.
        weights : str or path, default "imagenet"
            imagenet, none, a file, or a folder of weights under Keras' own names.
        run : str, optional
            What to call the run; default: `<model>-<recipe>`.
        only_fold : int, list of int or "0,1", optional
            Train just this fold, or these; default: all.
        overrides : list of "key=value"
            Keys of the recipe to replace, as texts; `settings` does the same.
        memory : "4G", optional
            What the process may take. Images and features that need more are read from disk as they are needed;
            default: half of what is available.
        seeds : int, default 1
            Train this many runs, with the recipe's seed, the next, ... The blend takes them as one member.
        again : bool, default True
            Train the first fold again with another seed where the forecast needs it.
        teacher : "blend" or "a,b", optional
            Learn from the fold models of the blend, or of these runs, as well as from the labels.
        pseudo : path, optional
            A folder or zip of unlabelled images that the teacher (or the blend) labels where it is sure.
        workers : int, optional
            Train so many folds side by side, each in a process with its share of the cores and GPUs. This needs Ray.
            Default: one after the other; where there are several GPUs, as many as these.
        cluster : "auto" or "ray://host:10001", optional
            A Ray cluster that the workers run on; default: this machine.
        tensorboard : bool, default False
            Write TensorBoard's event files into the run's folder.
        scorer : "tensorflow==2.12.1" or a path of a Python, optional
            Refuse, before anything is trained, a network that this release cannot run.
        callbacks : list of Callback
            Objects whose `on_epoch(run, fold, epoch, row)` is called after every epoch.
        **settings
            Keys of the recipe: `epochs=8, image_size=160`.

        Returns
        -------
        TrainedRun
            The first of several seeds.

        Raises
        ------
        InputError
            For anything that cannot be used, and for a run that was begun with another config, fold table or images.
        """
        from competition.training.train import train_seeds

        return self._trained(
            train_seeds(
                seeds,
                model,
                recipe,
                run,
                _as_overrides(overrides, settings),
                again=_as_number(again),
                weights=weights,
                only_fold=_as_text(only_fold),
                memory=memory,
                teacher=teacher,
                pseudo=pseudo,
                workers=workers,
                cluster=cluster,
                scorer=scorer,
                tensorboard=tensorboard,
                callbacks=callbacks,
                **self._place(name),
            )[0],
            name,
        )

    @command("tensorflow", "jax")
    def double(
        self,
        model: str,
        splits: str,
        recipe: str | Path = "quick",
        name: str | None = None,
        weights: str | Path = "imagenet",
        run: str | None = None,
        only_fold: int | str | Sequence[int] | None = None,
        overrides: Sequence[str] = (),
        memory: str | None = None,
        seeds: int | str = 1,
        again: bool | int | str = True,
        workers: int | str | None = None,
        cluster: str | None = None,
        tensorboard: bool = False,
        callbacks: Sequence[Callback] = (),
        **settings: Any,
    ) -> TrainedRun:
        """Train a tree of models, such as one class against the rest, and merge their OOF.

        The parameters that are not listed are as of `train`, and so is what it returns and raises.

        Parameters
        ----------
        splits : str
            Classes to take apart, one split after the other: "oak;ash,elm". A|B makes several branches at once. A name
            that holds such a sign stands in double quotes, its own quotes doubled.
        """
        from competition.training.double import double_seeds

        return self._trained(
            double_seeds(
                seeds,
                model,
                recipe,
                run,
                _as_overrides(overrides, settings),
                _as_number(again),
                splits=splits,
                weights=weights,
                only_fold=_as_text(only_fold),
                memory=memory,
                workers=workers,
                cluster=cluster,
                tensorboard=tensorboard,
                callbacks=callbacks,
                **self._place(name),
            )[0],
            name,
        )

    @command("tensorflow", "jax")
    def tune(
        self,
        model: str,
        space: str = "auto",
        recipe: str | Path = "quick",
        name: str | None = None,
        weights: str | Path = "imagenet",
        run: str | None = None,
        folds_used: str | None = None,
        trials: int | str | None = None,
        minutes: float | str | None = None,
        overrides: Sequence[str] = (),
        memory: str | None = None,
        **settings: Any,
    ) -> pd.DataFrame:
        """Try values of a recipe's keys: a sweep over lists, or a search that proposes, prunes and resumes.

        The parameters that are not listed are as of `train`.

        Parameters
        ----------
        space : str, default "auto"
            "key=low:high[:log] key=a,b key=a|b": ranges, or lists. A space of lists alone is tried in full.
        run : str, optional
            What to call the search; its trials are runs of this name and a number.
        folds_used : "0,1", optional
            Which folds to train and score on; default: all.
        trials : int, optional
            How many trials in all, earlier ones too; default: all of a space of lists, else 20.
        minutes : float, optional
            Minutes of training in all, earlier trials too; default: no limit.

        Returns
        -------
        pandas.DataFrame
            A row a trial, the best first, or in a sweep's order.
        """
        from competition.trials.tune import tune

        return tune(
            model,
            space,
            recipe,
            weights=weights,
            run=run,
            folds_used=folds_used,
            trials=trials,
            minutes=minutes,
            overrides=_as_overrides(overrides, settings),
            memory=memory,
            **self._place(name),
        )

    @command("tensorflow", "jax")
    def gan(
        self,
        name: str | None = None,
        only_fold: int | str | Sequence[int] | None = None,
        overrides: Sequence[str] = (),
        **settings: Any,
    ) -> pd.DataFrame:
        """Train a conditional GAN for each fold and judge it on held-out images; only a good one may add images.

        Parameters
        ----------
        only_fold : int, optional
            Train just this fold's GAN; default: all.
        overrides : list of "key=value"
            Settings of the GAN to replace, as texts; `settings` does the same.
        **settings
            Settings of the GAN: `epochs=200, side=64`.

        Returns
        -------
        pandas.DataFrame
            A row a fold.
        """
        from competition.training.gan.gan import gan

        return gan(only_fold=_as_text(only_fold), overrides=_as_overrides(overrides, settings), **self._place(name))

    @command("tensorflow", "jax")
    def rank(
        self,
        name: str | None = None,
        models: str | Sequence[str] | None = None,
        recipe: str | Path = "quick",
        weights: str | Path = "imagenet",
        grid: str = "",
        memory: str | None = None,
    ) -> pd.DataFrame:
        """Rank backbones by the OOF score of a head on their frozen features.

        The parameters that are not listed are as of `train`.

        Parameters
        ----------
        models : list of str or "a,b", optional
            Which backbones; default: all pretrained ones whose weights are here.
        recipe : str or path
            Whose frozen phase is measured.
        grid : "key=a,b key=c,d", optional
            Settings of the head. All combinations are tried.

        Returns
        -------
        pandas.DataFrame
            A row a backbone and setting, the best first.
        """
        from competition.trials.rank import rank

        return rank(
            models=_as_text(models), recipe=recipe, weights=weights, grid=grid, memory=memory, **self._place(name)
        )

    @command("tensorflow", "jax")
    def study(
        self,
        name: str | None = None,
        backbone: str = "efficientnet_lite0",
        quick: bool = False,
        budget: str | None = None,
        weights: str | Path = "imagenet",
        memory: str | None = None,
    ) -> pd.DataFrame:
        """Compare every system of the original report on the same images: each is one rung of a ladder.

        The parameters that are not listed are as of `train`.

        Parameters
        ----------
        backbone : str
            That of the rungs that do not name one.
        quick : bool, default False
            A small budget for each rung: ten minutes for the sample competition.
        budget : "full", optional
            Every rung as its recipe has it, which wants a GPU; default: about an hour for 3000 small images.

        Returns
        -------
        pandas.DataFrame
            A row a rung; `attrs["exit_code"]` is 1 where one failed.
        """
        from competition.trials.study import run_study

        return run_study(
            backbone=backbone,
            quick=quick,
            budget=budget,
            weights=weights,
            memory=memory,
            commands=commands(self.verbose),
            **self._place(name),
        )

    @command("tensorflow", "jax")
    def soup(
        self,
        runs: str | Sequence[str],
        name: str | None = None,
        run: str | None = None,
        memory: str | None = None,
    ) -> TrainedRun:
        """Average the weights of runs of one backbone into one run, fold by fold, and say whether it holds.

        Parameters
        ----------
        runs : list of str or "a,b"
            Two or more finished runs that trained all layers.
        run : str, optional
            What to call the result; default: `soup-<runs>`.
        memory : "4G", optional
            As of `train`.
        """
        from competition.training.soup import soup

        return self._trained(soup(runs=_as_text(runs), run=run, memory=memory, **self._place(name)), name)

    # ------------------------------------------------------------------------------------------------- what was learnt

    @command("tensorflow", "jax")
    def explain(self, name: str | None = None, run: str | None = None, fold: int | str | None = None) -> Page:
        """Show what a finished run looks at in its images, background or leaves.

        Parameters
        ----------
        run : str, optional
            Default: the finished one of best OOF accuracy.
        fold : int, optional
            Only images that this fold held out; default: all.

        Returns
        -------
        Page
            Its `frame` has a row a class: the accuracy with the centre and with the border hidden.
        """
        from competition.base.page import Page
        from competition.base.workspace import EXPLAIN_HTML
        from competition.insight.explain import best_run, explain_run

        table = self.table(name)
        run = run or best_run(table)
        frame = explain_run(run=run, fold=fold, **self._place(name))
        return Page(table.paths.explain(run) / EXPLAIN_HTML, frame)

    @command()
    def audit(self, name: str | None = None, runs: str | Sequence[str] | None = None) -> Page:
        """Rank labels that are likely wrong, by the OOF; confused pairs, images that no run gets right.

        Parameters
        ----------
        runs : list of str or "a,b", optional
            Judge by the mean of these runs; default: the blend, or else all finished runs.

        Returns
        -------
        Page
            Its `frame` has a row an image, the most suspect first.
        """
        from competition.base.page import Page
        from competition.base.workspace import AUDIT_HTML
        from competition.insight.audit import audit

        frame = audit(runs=_as_text(runs), **self._place(name))
        return Page(self.table(name).paths.audit / AUDIT_HTML, frame)

    @command("tensorflow", "jax")
    def shift(
        self,
        test: str | Path,
        name: str | None = None,
        model: str = "efficientnet_lite0",
        weights: str | Path = "imagenet",
        runs: str | Sequence[str] | None = None,
        memory: str | None = None,
        strict: bool = False,
    ) -> Page:
        """Compare unlabelled test images with the training images, and say what that does to the score.

        The parameters that are not listed are as of `train`.

        Parameters
        ----------
        test : path
            A folder of images, or a zip of one; labels are not asked for.
        model : str
            Whose frozen features are compared; baseline: pixels.
        runs : list of str or "a,b", optional
            Whose score is weighted: the mean of these runs; default: the blend, or else all.
        strict : bool, default False
            Stop at test images that cannot be read (InputError). Otherwise they are named and left out.

        Returns
        -------
        Page
            Its `frame` has a row an image.
        """
        import pandas as pd

        from competition.base.page import Page
        from competition.base.workspace import SHIFT_CSV, SHIFT_HTML
        from competition.data.table import default_name
        from competition.insight.shift import shift

        asked = {"runs": _as_text(runs), "strict": strict, "memory": memory}
        shift(test, model=model, weights=weights, **asked, **self._place(name))
        folder = self.table(name).paths.shift(default_name(test))
        return Page(folder / SHIFT_HTML, pd.read_csv(folder / SHIFT_CSV))

    @command()
    def blend(
        self,
        name: str | None = None,
        runs: str | Sequence[str] | None = None,
        hidden_n: int | str | None = None,
        hidden: str = "random",
    ) -> Blend:
        """Choose weights over the runs and TTA views on their OOF predictions.

        Parameters
        ----------
        runs : list of str or "a,b", optional
            The runs to choose from; default: all finished ones.
        hidden_n : int, optional
            Images of the hidden test that the forecast is for; default: as many as a fold has.
        hidden : "random" or "groups"
            random: the hidden test has the same scenes as the training images; groups: it has new ones.

        Returns
        -------
        Blend
            Its weights, views and forecast.
        """
        from competition.blending.blend import make_blend
        from competition.blending.blended import read_blend

        make_blend(runs=_as_text(runs), hidden_n=hidden_n, hidden=hidden, **self._place(name))
        return read_blend(self.table(name))

    @command()
    def simulate(
        self,
        name: str | None = None,
        n: int | str = 20,
        hidden: str = "random",
        seed: int | str = 0,
        data: str | Path | None = None,
    ) -> pd.DataFrame:
        """Play whole competitions on frozen features: does the forecast hold on the hidden part?

        Parameters
        ----------
        name : "a,b", optional
            Fold tables; default: digits, those of scikit-learn.
        n : int, default 20
            Rounds of each condition.
        hidden : "random" or "groups"
            What is hidden, where images have groups.
        seed : int, default 0
            Seed of the first round; each round takes the next.
        data : "photos/,b.zip", optional
            Folders, zips or CSVs. Fold tables are made from them and played too.

        Returns
        -------
        pandas.DataFrame
            A row a condition.
        """
        from competition.trials.simulate import simulate

        return simulate(n=n, hidden=hidden, seed=seed, data=data, **self._place(name))

    # ------------------------------------------------------------------------------------------------------ handing in

    @command("tensorflow")
    def submission(
        self,
        format: str = "codalab",
        name: str | None = None,
        run: str | None = None,
        test: str | Path | None = None,
        sample: str | Path | None = None,
        probabilities: bool = False,
        memory: str | None = None,
        kaggle_user: str | None = None,
        competition: str | None = None,
        dataset: str | None = None,
        scorer: str | None = None,
        hidden_n: int | str | None = None,
        hidden: str | None = None,
        max_mb: float | str | None = None,
        max_seconds: float | str | None = None,
        max_memory: str | None = None,
        fit: bool = False,
        labels: str | None = None,
        strict: bool = False,
    ) -> Submission:
        """Pack the blend, or one run, in the format of the competition, and rehearse it.

        Parameters
        ----------
        format : str, default "codalab"
            codalab, codabench, kaggle-csv or kaggle-kernel.
        run : str, optional
            One run in place of the blend.
        test, sample, probabilities, labels, strict
            As of `predict`, for kaggle-csv and kaggle-kernel.
        memory : "4G", optional
            For kaggle-csv: what the process may take, as of `train`.
        kaggle_user, competition, dataset : str, optional
            For kaggle-kernel: your name there, and the competition or dataset ("owner/slug") that has the images.
        scorer : "tensorflow==2.12.1" or a path of a Python, optional
            Rehearse with these releases, in an environment that is built once; default: this Python.
        hidden_n : int, optional
            Images of the hidden test, to forecast score and seconds; default: as many as the blend's forecast is for.
        hidden : "random" or "groups", optional
            As of `blend`; default: as the blend has it.
        max_mb : float, optional
            The MB (10^6 bytes) that the zip may have.
        max_seconds : float, optional
            The seconds that it may take for hidden_n images, loading included.
        max_memory : "4G", optional
            The memory that its process may take.
        fit : bool, default False
            Where the blend is over these limits, take the best that fits.

        Returns
        -------
        Submission
            The path of what was made, what its rehearsal found, and its forecast.

        Raises
        ------
        InputError
            Where it fails its rehearsal or is over a limit, too. Then no new file is kept, and an older one stays.
        """
        from competition.formats import make
        from competition.submission.outputs import read_submission

        place = self._place(name)
        path = make(
            format,
            run=run,
            test=test,
            sample=sample,
            probabilities=probabilities,
            labels=labels,
            strict=strict,
            memory=memory,
            kaggle_user=kaggle_user,
            competition=competition,
            dataset=dataset,
            scorer=scorer,
            hidden_n=hidden_n,
            hidden=hidden,
            max_mb=max_mb,
            max_seconds=max_seconds,
            max_memory=max_memory,
            fit=fit,
            **place,
        )
        return read_submission(path, place["workspace"])

    @command("tensorflow", "jax")
    def predict(
        self,
        test: str | Path | None,
        sample: str | Path | None = None,
        probabilities: bool = False,
        name: str | None = None,
        run: str | None = None,
        memory: str | None = None,
        hidden: str | None = None,
        labels: str | None = None,
        strict: bool = False,
    ) -> Submission:
        """Write submissions/<name>.csv: the predictions of the blend, or of one run, for test images.

        The parameters that are not listed are as of `submission`.

        Parameters
        ----------
        test : path
            A folder of images, or a zip of one, to predict.
        sample : path, optional
            The competition's sample_submission.csv: ids, order, columns.
        probabilities : bool, default False
            A column for each class in place of labels.
        labels : "names" or "ids", optional
            How classes are called: by their labels, or by their numbers from 0; default: as the sample says, and by
            their labels where these are integers.
        strict : bool, default False
            Stop at test images that are missing or cannot be read (InputError). Otherwise their rows get the shares of
            the classes in training, or the likeliest class, and a warning names them.

        Returns
        -------
        Submission
            Its `frame` is the content of the CSV.
        """
        from competition.formats.kaggle_csv import make
        from competition.submission.outputs import read_submission

        place = self._place(name)
        path = make(
            run=run,
            test=test,
            sample=sample,
            probabilities=probabilities,
            labels=labels,
            strict=strict,
            memory=memory,
            hidden=hidden,
            **place,
        )
        return read_submission(path, place["workspace"])

    @command()
    def check(
        self,
        zip_path: str | Path,
        format: str | None = None,
        name: str | None = None,
        scorer: str | None = None,
        size: str | int | None = None,
        hidden_n: int | str | None = None,
        max_mb: float | str | None = None,
        max_seconds: float | str | None = None,
        max_memory: str | None = None,
        trust: bool = False,
    ) -> ZipReport:
        """Say what is wrong with a submission's zip, whoever made it, and how to mend it.

        The parameters that are not listed are as of `submission`.

        Parameters
        ----------
        zip_path : path
            Any zip with a model.py.
        format : "codalab" or "codabench", optional
            What its scorer asks for; default: guessed from the zip.
        name : str, optional
            The competition whose training images the zip must classify; default: the only one, or images of noise.
        size : int or "HEIGHTxWIDTH", optional
            Of the images; default: the competition's, or 96.
        trust : bool, default False
            Run a zip of others even where its code cannot be kept apart from this machine.

        Raises
        ------
        InputError
            One line that names them, where checks failed; `competition.check_zip` returns them instead.
        """
        from competition.checking.check_zip import print_check

        return print_check(
            zip_path,
            format,
            scorer=scorer,
            size=size,
            hidden_n=hidden_n,
            max_mb=max_mb,
            max_seconds=max_seconds,
            max_memory=max_memory,
            trust=trust,
            **self._place(name),
        )

    @command()
    def score(
        self, zip_path: str | Path | None = None, phase: str = "", value: float | str | None = None
    ) -> pd.DataFrame:
        """Write down the score that came back for a zip, beside its forecast.

        Parameters
        ----------
        zip_path : path, optional
            The zip that was handed in; default: only return the table.
        phase : str
            What the competition calls the test that it was scored on.
        value : float
            The score: of shares 0.871, not 87.1.

        Returns
        -------
        pandas.DataFrame
            A row a submission and score.
        """
        from competition.submission.score_log import log_score

        return log_score(zip_path, phase, value, self.workspace)

    @command("tensorflow")
    def matrix(
        self,
        scorers: str | None = None,
        families: str | None = None,
        formats: str | None = None,
        folder: str | Path | None = None,
    ) -> pd.DataFrame:
        """Rehearse a model of every backbone family with several scorers, and every format.

        Parameters
        ----------
        scorers : "a,b", optional
            current, or releases of TensorFlow; default: 2.12.1,2.15.1,current.
        families : "a,b", optional
            Backbones, heads, hidden-layer, double, float16; default: all, one backbone of each family.
        formats : "a,b", optional
            codabench, kaggle-csv, kaggle-kernel, of the first family; none; default: all.
        folder : path, optional
            Where the models are trained and the table lies; default: .scorers/matrix.

        Returns
        -------
        pandas.DataFrame
            A row a family, case or format, a column a scorer.
        """
        from competition.trials.matrix import rehearse_matrix

        return rehearse_matrix(scorers, families, folder, formats, self.workspace)

    @command("tensorflow", "jax")
    def kernel(
        self,
        model: str,
        recipe: str | Path = "quick",
        name: str | None = None,
        weights: str | Path = "imagenet",
        run: str | None = None,
        only_fold: int | str | Sequence[int] | None = None,
        overrides: Sequence[str] = (),
        kaggle_user: str | None = None,
        competition: str | None = None,
        dataset: str | None = None,
        **settings: Any,
    ) -> Path:
        """Write a kernel and its dataset for Kaggle, which train a run on the GPU there.

        The parameters that are not listed are as of `train`.

        Parameters
        ----------
        kaggle_user, competition, dataset : str, optional
            As of `submission`; by default the training images go into the kernel's dataset.

        Returns
        -------
        pathlib.Path
            The folder of the kernel.
        """
        from competition.formats.kaggle_kernel import make_training

        return make_training(
            model,
            recipe,
            weights=weights,
            run=run,
            only_fold=_as_text(only_fold),
            overrides=_as_overrides(overrides, settings),
            kaggle_user=kaggle_user,
            competition=competition,
            dataset=dataset,
            **self._place(name),
        )

    @command()
    def take(self, source: str | Path) -> list[Path]:
        """Take in the runs that training kernels left on Kaggle.

        Parameters
        ----------
        source : path
            The folder that `kaggle kernels output` filled, or a zip of it.

        Returns
        -------
        list of pathlib.Path
            The folders of the runs.
        """
        from competition.formats.kaggle_kernel import take

        return take(source, self.workspace)

    @command("tensorflow")
    def demo(self, folder: str | Path | None = None, images: int = 1200, hidden: int = 400) -> pd.DataFrame:
        """Play the whole sample competition, from drawing it to the score on its hidden test.

        Parameters
        ----------
        folder : path, optional
            Where it is drawn and played; default: `sample` in the root.
        images, hidden : int
            Numbers of training images and of hidden test images.

        Returns
        -------
        pandas.DataFrame
            A row a stage: stage, seconds, OOF accuracy, accuracy on the hidden test.
        """
        from competition.trials.demo import play_demo

        return play_demo(folder, images, hidden, self.workspace)

    @command("tensorflow", "jax")
    def backbones(self, models: str | Sequence[str] | None = None, size: str | int | None = None) -> pd.DataFrame:
        """List the backbones, or say what some of them see and how large they are.

        Parameters
        ----------
        models : list of str or "a,b", optional
            Which; default: the names of all, and nothing else, as to build them would take minutes.
        size : int or "HEIGHTxWIDTH", optional
            Pixels of the images; default: 224.

        Returns
        -------
        pandas.DataFrame
            A row a backbone: receptive field and stride in pixels, last feature map, features, parameters.
        """
        from competition.models.receptive import show_backbones

        return show_backbones(_as_text(models), size)

    # --------------------------------------------------------------------------------------------------------- in this

    def __repr__(self) -> str:
        return f"Competition({str(self.workspace.root)!r}): " + (
            ", ".join(self.workspace.names()) or "no fold table yet"
        )

    def _repr_html_(self) -> str:
        """The fold tables and the runs of each, for a notebook."""
        lines = [f"<p>{escape(str(self.workspace.root))}</p>"]
        for name in self.workspace.names():
            try:
                rows = "".join(f"<li>{escape(run.say_state())}</li>" for run in self.runs(name))
                lines.append(f"<p>{escape(repr(self.table(name)))}</p><ul>{rows}</ul>")
            except InputError as error:
                lines.append(f"<p>{escape(str(error))}</p>")
        return "\n".join(lines)

    def _home(self, name: str | None) -> Workspace:
        """Where the table of that name lies: the sample competition has a Workspace of its own."""
        return self.workspace.of(name or self.name)

    def _place(self, name: str | None) -> dict[str, Any]:
        """The arguments name and workspace of what does the work."""
        return {"name": name or self.name, "workspace": self._home(name)}

    def _trained(self, folder: Path, name: str | None) -> TrainedRun:
        from competition.runs.trained_run import TrainedRun

        return TrainedRun(self.table(name), folder)

    @contextlib.contextmanager
    def _printing(self) -> Iterator[None]:
        with contextlib.nullcontext() if self.verbose else muted():
            yield


def commands(verbose: bool = True) -> dict[str, Callable[..., Any]]:
    """{name: function} of all commands, for one that runs others; each takes its Workspace as `workspace` as well."""
    names = [name for name, method in vars(Competition).items() if hasattr(method, "backends")]
    return {name: functools.partial(_call_in, name, verbose) for name in names}


def _call_in(name: str, verbose: bool, /, workspace: Workspace = Workspace(), **options: Any) -> Any:
    return getattr(Competition(workspace, verbose=verbose), name)(**options)


def _as_overrides(overrides: str | Sequence[str], settings: dict[str, Any]) -> list[str]:
    """Keys of a recipe as "key=value" texts, those that were given so and the keyword arguments."""
    given = [overrides] if isinstance(overrides, str) else list(overrides)
    if not settings:
        return given
    from competition.recipes.recipe import write_override

    return given + [write_override(key, value) for key, value in settings.items()]


def _as_number(switch: bool | int | str) -> int | str:
    """True and False as the commands take them, 1 and 0."""
    return int(switch) if isinstance(switch, bool) else switch


def _as_text(names: Any) -> str | None:
    """Names, runs or numbers, one or several, with commas between, as the commands take them."""
    if names is None or isinstance(names, str):
        return names
    several = names if isinstance(names, Iterable) else [names]
    return ",".join(str(getattr(one, "name", one)) for one in several)
