"""The forecast, printed as the user reads it."""

from competition.base.metrics import METRICS
from competition.base.text import shorten
from competition.blending.forecast import LEAST_GROUPED


def print_forecast(found, classes):
    """Some lines: the forecast, what it is made of, its noise, what depends on what the hidden images are, classes."""
    better = {True: "", False: " (less is better)"}[METRICS[found["metric"]].sign > 0]
    random = found["hidden"] == "random"
    drawn = "drawn at random from the same scenes" if random else "of new scenes"
    errors, sizes = found["standard_errors"], found["grouped_images"]
    print(
        f"forecast: {found['metric']} {found['expected']:.4f}{better} on a hidden test, 90 % of such tests between "
        f"{found['low']:.4f} and {found['high']:.4f} ({found['hidden_n']} images {drawn})"
    )
    notes = [
        f"of {run} by another seed, on {images} images" for run, images in found.get("measured_on_seeds", {}).items()
    ]
    if missing := found.get("not_measured"):
        notes += [
            f"not measured, counted as 0: {', '.join(missing)}; the same `make train` (or `make double`) with "
            "SEEDS=2 ONLY_FOLD=0 tells the next `make blend`, and nothing does of a soup"
        ]
    gain = f"averaging fold models {found['averaging_gain']:+.4f}" + f" ({'; '.join(notes)})" * bool(notes)
    early = f"stopping early {-found['early_stop']:+.4f}"
    if missing := found.get("stop_not_measured"):
        early += f" (not measured, counted as 0: {', '.join(missing)})"
    fit = (
        f"; made to fit {found['fit']:+.4f} (that it is the best of several flatters by {found['fit_optimism']:.4f}, taken "
        "off)"
        if "fit" in found
        else ""
    )
    scenes = f"; other pictures of a scene in training {found['scenes']:+.4f}" * bool(sizes and random)
    print(
        f"  made of: in-sample {found['in_sample']:.4f}, optimism {found['nested'] - found['in_sample']:+.4f}, "
        f"nested OOF {found['nested']:.4f} (of the whole way, the choice of the candidate included); {gain}; {early}; "
        f"stratified folds {-found['stratified']:+.4f}{scenes}{fit}"
    )
    noise = {
        "hidden test": "hidden_noise",
        "OOF": "oof_noise",
        "gain": "gain_noise",
        "stopping early": "early_noise",
        "scenes": "scenes_noise",
        "folds beyond sampling": "fold_spread",
    }
    print(
        "  noise (standard errors): "
        + ", ".join(
            f"{name} {errors[key]:.4f}"
            for name, key in noise.items()
            if errors[key] or not key.startswith(("early", "scenes"))
        )
    )
    if sizes:
        measured = found.get("scenes_measured_on")
        few = sizes < LEAST_GROUPED * sum(row["images"] for row in found["classes"])
        tell = (
            f"measured on {', '.join(measured)}"
            if measured
            else "too few to move the score"
            if few
            else "not measured, as there is no run of heads whose features are kept; more than this, if anything"
        )
        other = (
            f"of new scenes (HIDDEN=groups) {found['expected'] - found['scenes']:.4f}"
            if random
            else f"drawn at random from the same scenes (HIDDEN=random) {found['expected'] + found['scenes']:.4f}"
        )
        print(f"  {sizes} images share {found['groups']} scenes with others; were the hidden images {other} ({tell})")
    if left := found.get("left_out"):
        print(
            f"  {left} other finished runs were left out by hand: if their scores were why, this is too good by what "
            "that gained"
        )
    rows = [
        f"{name} {row['expected']:.2f} ({row['low']:.2f}-{row['high']:.2f})"
        for name, row in zip(classes, found["classes"])
        if row["images"]
    ]
    print("  accuracy of each class: " + "; ".join(rows[:20]) + "; ..." * (len(rows) > 20))
    if unscored := [name for name, row in zip(classes, found["classes"]) if not row["images"]]:
        print(
            f"  {len(unscored)} classes have no image that was scored ({shorten(unscored)}): this forecasts the score of the "
            "others' images"
        )
