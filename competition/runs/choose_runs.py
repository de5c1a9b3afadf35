"""The finished runs that RUNS=a,b names, and their OOF."""

from competition.base.files import InputError, warn
from competition.base.workspace import FOLD_JSON, STUDY_RUN, fold_dir, fold_files
from competition.runs.oof import read_oof
from competition.runs.record import all_runs


def choose_runs(paths, runs):
    """The names of the runs to blend, sorted, each once, all known and finished."""
    folder, known = paths.runs, all_runs(paths)
    if runs is None or runs == "":
        own = [run for run in known if not run.startswith(STUDY_RUN)]  # the study's are to be compared, not kept
        if studied := len(known) - len(own):
            warn(
                f"{folder}/: left out, since they belong to the study: {studied} runs {STUDY_RUN}...; RUNS= takes them"
            )
        finished = [run for run in own if known[run]]
        if left_out := [run for run in own if not known[run] and not _tells_of(folder / run, finished)]:
            warn(f"{folder}/: left out, since unfinished: {', '.join(left_out)}")
        if not finished:
            raise InputError(f"{folder}/: no finished run; `make train MODEL=... NAME={paths.name}` makes one")
        return finished
    wanted = [run.strip() for run in (runs.split(",") if isinstance(runs, str) else runs)]
    wanted = [run for run in wanted if run]
    listed = ", ".join(known) or "(there is none yet)"
    if not wanted:
        raise InputError(f"RUNS={runs}: no run named, expected some of {listed}")
    for run in wanted:
        if run not in known:
            raise InputError(f"{folder / run}: no such run, expected some of {listed}")
    if doubled := sorted({run for run in wanted if wanted.count(run) > 1}):
        warn(f"RUNS: named more than once, counted once: {', '.join(doubled)}")
    return sorted(set(wanted))


def read_chosen(folder, table, asked):
    """The OOF of a run; InputError as read_oof, with the way to leave it out where nobody `asked` for it."""
    try:
        return read_oof(folder, table)
    except InputError as error:
        raise error if asked else InputError(f"{error}; RUNS=<those to blend> leaves this one out") from None


def count_left_out(paths, runs):
    """How many finished runs there are besides `runs` and the study's: nobody can know why they were left out."""
    return sum(
        finished and run not in runs and not run.startswith(STUDY_RUN) for run, finished in all_runs(paths).items()
    )


def _tells_of(run_dir, finished):
    """Whether a run is the fold that training/train.py trained once more of a finished one: it is not to be blended."""
    whole = run_dir.name.removesuffix("-seed1")
    return (
        whole != run_dir.name
        and whole in finished
        and [path.parent for path in fold_files(run_dir, FOLD_JSON)] == [fold_dir(run_dir, 0)]
    )
