"""Pack the blend, or one run, as a zip for a competition's scorer, which is rehearsed before it gets its name.

The zip holds code, which is a matter of the format (competition/formats/), and `SubmissionModel/`: one TensorFlow
SavedModel from raw RGB to probabilities with all fold models, weights and views inside. Its probability of a
class is

    sum over runs of weight * mean over folds and views of softmax(logits)

to the power of 1 / temperature, normalised, where the blend has one; where a double run has a product of several softmaxes
(tree.Tree), that stands for the softmax.

The rehearsal (competition/rehearsal/rehearsal.py) runs it on a sample of the training images, and compares with the same sum
taken by this toolkit from the fold models one by one.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from competition.base.files import InputError, check_room, room_for_scratch, scratch, write_json, write_with
from competition.base.metrics import find_metric
from competition.base.option_values import whole_number
from competition.base.text import text_table
from competition.base.workspace import Workspace
from competition.data.images import load_images
from competition.data.table import choose_sample, read_folds
from competition.rehearsal.content import check_package
from competition.rehearsal.rehearsal import (
    MOST_REHEARSED,
    Conditions,
    RehearsalError,
    bound_conditions,
    list_checks,
    rehearse,
)
from competition.rehearsal.scorer_environments import find_python
from competition.submission.ensemble import read_ensemble
from competition.submission.expected_answers import average_by_hand, average_halved
from competition.submission.fit_limits import (
    ATTEMPTS,
    choose_fitting,
    find_smallest,
    measure_flattery,
    print_choices,
    refine_choices,
)
from competition.submission.limits import Cost, read_limits
from competition.submission.package import build_package, pack_folder, weights_bytes
from competition.submission.record import print_record, record_of
from competition.submission.score_log import keep_older, log_submission

PACKED = 0.8  # of the bytes of weights that a zip of them has at least


def make_submission(
    layout,
    name=None,
    run=None,
    scorer=None,
    hidden_n=None,
    max_mb=None,
    max_seconds=None,
    max_memory=None,
    fit=False,
    hidden=None,
    workspace=Workspace(),
):
    """Write `submissions/<name>.zip` of the blend, or of one finished run.

    layout  the package.Layout of the zip's format
    name    of the fold table; may be left out while there is only one
    run     pack this run in place of the blend; its views are chosen as `make blend` would for it alone
    scorer  which Python rehearses it (scorer_environments.find_python): "tensorflow==2.12.1", or its path; default: this one
    hidden_n  images of the hidden test, for the forecasts of score and seconds; default: as many as the blend's is for
    hidden  "random" or "groups": see forecast.make_forecast; default: as the blend has it
    max_mb, max_seconds, max_memory  what the scorer allows (limits.read_limits)
    fit     where the blend is over that, take the best that fits (competition/submission/fit_limits.py)
    workspace  where the table and its runs lie, and the zip is written

    Beside the zip, the JSON of the same name says what is in it, by hashes, and what the rehearsal found; the log
    (score_log.py) gets a line. Returns the zip's path. InputError for a blend or a run that is missing, unfinished or
    not of this fold table, and for a zip that fails its rehearsal or is over a limit: it is not kept, and an older one
    of the same name stays. Otherwise the older one is kept under another name (score_log.keep_older).
    """
    limits = read_limits(max_mb, max_seconds, max_memory)
    table = read_folds(name, workspace)
    ensemble = read_ensemble(table, run, hidden_n, hidden)
    count = whole_number("HIDDEN_N", hidden_n, 1, 10**9) if hidden_n else _hidden_n(ensemble, table)
    conditions = bound_conditions(
        Conditions(python=find_python(scorer, workspace)), limits.seconds, limits.memory, count
    )
    path = table.paths.zip
    taken = []
    check_room(path, int(PACKED * weights_bytes(ensemble, table)), "the zip")

    def write(temporary):
        found = prove(ensemble, table, temporary, layout, conditions, count)
        if limits.exceeded(_cost(found)):
            taken.extend(_take_what_fits(ensemble, table, temporary, layout, conditions, count, limits, found, fit))
        else:
            taken.extend((ensemble, found))
        keep_older(path, table.paths.zip_json, temporary)

    try:
        write_with(path, write, durable=True)
    except RehearsalError as error:
        checks = list_checks(error, min(MOST_REHEARSED, len(table.labels)))
        print(text_table(pd.DataFrame(checks, columns=["check", "found"])), end="\n\n")
        kept = "; the older zip of that name stays as it was" if path.exists() else ""
        raise InputError(f"{path}: not written, {error}{kept}") from None
    ensemble, found = taken
    found |= {"scorer": scorer or "the project's own Python"}
    record = record_of(path, ensemble, table, layout.format) | {
        "limits": dataclasses.asdict(limits),
        "rehearsal": found,
    }
    write_json(table.paths.zip_json, record, durable=True)
    log_submission(path, record, workspace)
    print_record(path, record)
    return path


def prove(ensemble, table, path, layout, conditions=Conditions(), count=1):
    """Write the Ensemble as a zip to `path` and rehearse it: what was found, as a dict, with seconds for `count` images.

    RehearsalError where it does not hold.
    """
    rows = choose_sample(table)
    images = load_images(dataclasses.replace(table, frame=table.frame.iloc[rows]))
    expected, oof_difference = average_by_hand(ensemble, table, images, rows)
    found = {"oof_differs": oof_difference, "hidden_n": count}
    if ensemble.half:
        exact, expected = expected, average_halved(ensemble, table, images)
        found |= {
            "float16_differs": float(np.abs(expected - exact).max()),
            "float16_labels": int((expected.argmax(1) != exact.argmax(1)).sum()),
        }
    needed = weights_bytes(ensemble, table)
    with scratch(needed, "the network of the zip") as folder:
        build_package(ensemble, table, folder, layout.write_code)
        check_package(folder, table.data)
        pack_folder(folder, path)
    with room_for_scratch(needed, "the rehearsal of the zip"):
        found |= rehearse(path, images, expected, layout.entry, conditions)
    seconds = found["load_seconds"] + found["warm_seconds"] + count / found["images_a_second"]
    held = count * np.prod([*table.size, 3]) * 4  # the images themselves, as float32, which the scorer has in memory
    return found | {
        "bytes": Path(path).stat().st_size,
        "hidden_seconds": seconds,
        "hidden_bytes": int(found["peak_bytes"] + held),
    }


def _cost(found):
    return Cost(found["bytes"], found["hidden_seconds"], found["hidden_bytes"])


def _take_what_fits(ensemble, table, path, layout, conditions, count, limits, found, wanted):
    """Write the best Choice that fits to `path`: its Ensemble, and what its rehearsal found.

    Prints the choices and raises InputError if `wanted` is false or nothing fits.
    """
    cost = _cost(found)
    over = "; ".join(limits.exceeded(cost)) + f" ({count} images)" * (limits.seconds is not None)
    print(f"the whole takes {over}; looking for what fits", flush=True)
    choices = choose_fitting(ensemble, table, found["load_seconds"] + found["warm_seconds"], cost, count)
    fits = [choice for choice in choices if not limits.exceeded(choice.cost)]
    print_choices(ensemble, table, cost, choices, limits)
    if not wanted or not fits:
        hint = "FIT=1 takes the best that fits" if fits else "nothing that was found fits, raise a limit"
        raise InputError(f"{table.paths.zip}: not written, it takes {over}; {hint}")
    for attempt in range(ATTEMPTS):
        smallest = find_smallest(choices, limits)
        fits = [choice for choice in choices if not limits.exceeded(choice.cost)]
        choice = fits[0] if fits and attempt < ATTEMPTS - 1 else smallest
        found = prove(choice.ensemble, table, path, layout, conditions, count)
        over = limits.exceeded(_cost(found))
        if not over:
            forecast = choice.ensemble.forecast
            if forecast:
                bounds = find_metric(table.metric)
                luck = max(0.0, bounds.sign * measure_flattery(choice, fits, table)) if choice in fits else 0.0
                moved = choice.expected - bounds.sign * luck - forecast["expected"]
                shifted = {
                    key: float(np.clip(forecast[key] + moved, bounds.low, bounds.high))
                    for key in ("expected", "low", "high")
                }
                forecast = forecast | shifted | {"fit": moved, "fit_optimism": luck}
            return dataclasses.replace(choice.ensemble, forecast=forecast), found
        print(f"what was to fit takes {'; '.join(over)}; trying what is smaller", flush=True)
        if choice is smallest:
            break
        choices = refine_choices(choices, choice, _cost(found))
    raise InputError(f"{table.paths.zip}: not written, the smallest that was found does not fit: {'; '.join(over)}")


def _hidden_n(ensemble, table):
    return (ensemble.forecast or {}).get("hidden_n") or len(table.labels) // table.k
