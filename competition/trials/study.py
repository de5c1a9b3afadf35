"""The study: every system of the original report, run on the same folds and compared on the same images.

A rung of ladder.LADDER is an ordinary command (`make train`, mostly) and an ordinary run, `study-<budget>-...`, that blends
and packs like others when it is named and has trained all folds; `make blend` without RUNS= leaves it out. What a rung
may take of the machine is a matter of its kind and of the budget (ladder.BUDGETS): one fold, frozen features, fewer epochs; its
command says it in full.

Two runs are compared on the images that both have a held-out prediction of, by McNemar's exact test: of the images on
which they differ, does one win more often than a coin would (McNemar 1947; Psychometrika 12, 153)? Intervals of an
accuracy are Wilson's (1927; Journal of the American Statistical Association 22, 209). Both are scipy's `binomtest`.
"""

import contextlib
import io
import time
from pathlib import Path

import pandas as pd

from competition.base import files
from competition.base.arrays import read_memory
from competition.base.backend import make_repeatable
from competition.base.files import InputError
from competition.base.metrics import find_metric, say_scores
from competition.base.text import text_table
from competition.base.workspace import FOLD_JSON, SAMPLE, SAMPLE_TRAIN, Workspace, fold_files
from competition.data.folds import make_folds
from competition.data.table import read_folds
from competition.models.backbones import backbone_names, find_weights_at_hand
from competition.runs.record import locked
from competition.trials.ladder import BUDGETS
from competition.trials.sample import write_sample
from competition.trials.study_rungs import HOW, RUNS, Result, Skipped, Study
from competition.trials.study_table import describe_study, explain_table, format_table, score_rung


def run_study(
    name=None,
    backbone="efficientnet_lite0",
    quick=False,
    budget=None,
    weights="imagenet",
    memory=None,
    workspace=Workspace(),
    *,
    commands,
):
    """Run `study` with the budget "quick", or another; `attrs["exit_code"]` of its table is 1 where a rung failed."""
    if quick and budget:
        raise InputError(f"QUICK=1 and BUDGET={budget}: expected one of them")
    rungs = study(
        name, backbone, "quick" if quick else budget or "default", weights, memory, workspace, commands=commands
    )
    rungs.attrs["exit_code"] = int("failed" in set(rungs["state"]))
    return rungs


def study(
    name=None,
    backbone="efficientnet_lite0",
    budget="default",
    weights="imagenet",
    memory=None,
    workspace=Workspace(),
    *,
    commands,
):
    """Run the ladder on the fold table `name`; prints the table of all rungs, writes and returns it as a DataFrame.

    name      of the fold table; "sample", or none where there is no table at all, is the sample competition, which is
              played in the folder sample/ and drawn there at need
    backbone  of the rungs that do not name one; its weights must be at hand
    budget    "quick", "default" or "full", a key of BUDGETS
    weights   "imagenet", or a folder of weights, for those backbones that it holds; the others take "imagenet"
    memory    as for `train`
    workspace where the table lies; the sample is played in sample/ there
    commands  {name: function} of the commands that the rungs run; each takes its options as keywords

    Writes study.csv, study.md (with the commands) and study.json into `runs/<name>/study/` after each rung. Stopped or
    killed, the same call goes on. A rung that fails is noted with its reason, and tried again by the next call; one
    that cannot be had here (weights that are not at hand) is skipped and says why. Raises InputError for a name, budget
    or backbone that cannot be used, LookupError where `commands` lacks one that a rung runs.
    """
    if budget not in BUDGETS:
        raise InputError(f"BUDGET={budget}: expected one of {', '.join(BUDGETS)}")
    read_memory(memory)
    if weights != "imagenet":
        weights = str(Path(weights).expanduser().resolve())
    found = _find_weights(backbone, weights)
    if _wants_sample(name, workspace):
        workspace = workspace.sample
        table = make_folds(write_sample(workspace.sample_data) / SAMPLE_TRAIN, name=SAMPLE, workspace=workspace)
    else:
        table = read_folds(name, workspace)
    plan = Study(table, backbone, budget, found, memory, {}, commands)
    _check_commands(plan)
    with locked(plan.folder):
        return _climb(plan)


def _check_commands(plan):
    for name in (name for rung in plan.rungs for name in RUNS.get(rung.how, ())):
        if name not in plan.commands:
            raise LookupError(f"the study runs `make {name}`, which is no command")


def _wants_sample(name, workspace):
    tables = workspace.names()
    return SAMPLE not in tables and (name == SAMPLE or not (name or tables))


def _find_weights(backbone, weights):
    """{model: WEIGHTS=} of the pretrained backbones on this machine; InputError unless `backbone` is one of them."""
    if backbone not in backbone_names():
        raise InputError(f"BACKBONE={backbone}: no such backbone, `make backbones` lists them")
    make_repeatable()  # the rungs train in this process
    found = dict.fromkeys(find_weights_at_hand(), "imagenet")
    if weights != "imagenet":
        found |= dict.fromkeys(find_weights_at_hand(weights), weights)
    if backbone not in found:
        raise InputError(
            f"BACKBONE={backbone}: expected one with weights at hand, which are {', '.join(found)}; "
            "WEIGHTS=<a folder of weights> may have more"
        )
    return found


def _climb(plan):
    """Run one rung after the other; the table is written after each."""
    seconds = _read_seconds(plan)
    for number, rung in enumerate(plan.rungs, 1):
        result = plan.results[rung.name] = Result(rung)
        start, quiet = time.time(), contextlib.redirect_stdout(io.StringIO())  # their tables: ours has a line for each
        try:
            with quiet:
                views = HOW[rung.how](plan, rung, result)
            averaged = any((other.how, other.reference) == ("views", rung.name) for other in plan.rungs)
            result.views = views if averaged else {"identity": views["identity"]}  # the others would fill the memory
        except Skipped as error:
            result.state, result.reason = "skipped", str(error)
            run, taken = plan.run(rung), round(time.time() - start, 1)
            if taken > 1 or run in seconds:  # a GAN, say, that is of no use
                result.seconds = seconds[run] = max(taken, seconds.get(run, 0))
        except files.NoRoom:
            raise
        except Exception as error:  # what one rung cannot do, another may: memory, a GAN that is not good, ...
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            said = " ".join(str(error).split()).replace("take another name (RUN=), or remove", "to begin anew remove")
            result.state, result.reason = "failed", f"{kind}{said[:300]}"
        else:
            # of a run that was finished before, what it took then; of one that was killed, at least its epochs
            run = plan.run(rung)
            taken = max(time.time() - start, _epoch_seconds(plan, f"{run}-[0-9]*" if rung.how == "tune" else run))
            result.seconds = seconds.setdefault(run, round(taken, 1)) if rung.how in RUNS else round(taken, 1)
        frame = _write(plan, seconds)
        row = frame.iloc[-1]
        scores = say_scores({name: row[name] for name in find_metric(plan.table.metric).besides})
        outcome = f"accuracy {row['accuracy']:.4f}{scores}, {row['seconds']:.0f} s" if result.views else result.reason
        print(f"[{number}/{len(plan.rungs)}] {rung.name}: {result.state}, {outcome}\n  {result.command}", flush=True)
    print(
        f"\n{describe_study(plan)}\n\n{text_table(format_table(frame))}\n\n{explain_table(plan, frame)}\n"
        f"{plan.folder}/study.md: the same with the command of each rung"
    )
    return frame


def _write(plan, seconds):
    """Write the table as it is now; returns it as a DataFrame."""
    frame = pd.DataFrame([score_rung(plan, result) for result in plan.results.values()])
    shown = format_table(frame).assign(
        command=[
            f"`{command}`{f': {where}' if where else ''}" if command else ""
            for command, where in zip(frame["command"], frame["where"])
        ]
    )
    lines = [shown.columns, ["---"] * len(shown.columns), *shown.to_numpy()]
    rows = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]
    files.write_bytes(plan.table.paths.study_csv, files.csv_bytes(frame))
    files.write_text(
        plan.table.paths.study_md,
        "\n".join([describe_study(plan) + ".", "", *rows, "", explain_table(plan, frame), ""]),
    )
    files.write_json(
        plan.table.paths.study_json,
        {
            "table": plan.table.hash,
            "data": plan.table.data_hash,
            "classes": plan.table.classes,
            "backbone": plan.backbone,
            "budget": plan.budget,
            "versions": files.versions(),
            "seconds": seconds,
        },
    )
    return frame


def _read_seconds(plan):
    """{run: seconds} of earlier calls, on the same images and folds."""
    path = plan.table.paths.study_json
    record = files.read_json(path) if path.exists() else {}
    same = record.get("table") == plan.table.hash and record.get("data") == plan.table.data_hash
    return dict(record["seconds"]) if same else {}


def _epoch_seconds(plan, run):
    """Of all folds of a run, or of runs of that pattern."""
    return sum(files.read_json(path)["seconds"] for path in fold_files(plan.table.paths.run(run), FOLD_JSON))
