"""Are the test images like the training images? What tells them apart, and what that would do to the score.

Adversarial validation: a logistic regression learns to tell training from test images and is scored on images that it
did not see, the groups of the fold table kept together. An area under its ROC curve (AUC) of 0.5 is what images drawn
from one distribution give. It is asked twice: of the features of a frozen backbone, which stand for what a network
sees, and of the statistics of `make look` with the images' own size, which have names.

From the first one's odds come importance weights (Shimodaira 2000, "Improving predictive inference under covariate
shift"): the out-of-fold predictions of training images count the more, the more of their kind the test has. That holds
where the two differ in images alone and not in what class an image has.
"""

from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import pandas as pd

from competition.base import files, page
from competition.base.arrays import Room, read_memory
from competition.base.backend import make_repeatable, start_keras
from competition.base.files import InputError
from competition.base.metrics import METRICS, find_metric
from competition.base.text import shorten, text_table
from competition.base.threads import in_threads
from competition.base.workspace import SHIFT_CSV, SHIFT_HTML, SHIFT_JSON, Workspace
from competition.data.decode import shrink_size
from competition.data.images import load_images
from competition.data.table import read_folds
from competition.data.unlabelled import check_all_read, read_usable
from competition.features.frozen import frozen_features
from competition.insight.audit import is_page_written
from competition.insight.look import OUTLIER_KINDS, Measures, draw_rows, draw_spread, measure_image
from competition.insight.scored import read_scored
from competition.models.backbones import build_backbone, find_backbone, is_pretrained, resolve_weights
from competition.models.fuse import fuse_batchnorm
from competition.recipes.recipe import read_recipe
from competition.runs.record import all_runs

SHIFT_FORMAT = 1  # raise it when the same images give another result
PARTS = 2  # of the cross-validation: see tell_apart
FITTED = 20000  # images that a regression learns from, at most
PENALTY = 1e-3  # C of the regression on features; of the few statistics it is 1
CLIP = 20  # times the mean: the largest weight, and its inverse the smallest
Z = 1.96  # of a 95 % interval
STRONG = 0.7  # AUC from which on a shift is called strong
LEAST = 0.2  # a standardised difference below is small (Cohen 1988)
SHEET = 48  # images on each sheet
LOGS = ("width", "height", "pixels", *(kind.column for kind in OUTLIER_KINDS if kind.log))


@dataclass(frozen=True)
class Told:
    """How well training and test images are told apart: AUC, its standard error, out-of-fold log-odds of the test."""

    auc: float
    error: float
    logits: np.ndarray  # float64 [n]

    @property
    def interval(self):
        return max(0.0, self.auc - Z * self.error), min(1.0, self.auc + Z * self.error)

    @property
    def word(self):
        """No shift where 0.5 is not below the interval."""
        return "no shift seen" if self.interval[0] <= 0.5 else "strong" if self.auc >= STRONG else "slight"


@dataclass(frozen=True)
class Score:
    """A score as it is and weighted, each with its standard error, their difference, and how many images that is."""

    plain: float
    error: float
    weighted: float
    weighted_error: float
    change: float
    change_error: float
    effective: float  # sample size: (sum of weights)^2 / sum of squares (Kish 1965)


def shift(
    test,
    name=None,
    model="efficientnet_lite0",
    weights="imagenet",
    runs=None,
    strict=False,
    memory=None,
    workspace=Workspace(),
):
    """Compare the images of `test`, a folder or zip, with the training images; write `runs/<name>/shift/<test>/`.

    model, weights   the frozen backbone, as for `train`; "baseline" compares pixels and needs no weights
    runs             "a,b,c": whose OOF score is weighted, as of `audit`; where no run is finished, nobody's
    strict           stop at test images that cannot be read; by default they are named and left out
    memory           "4G", as for `train`

    Writes shift.html, shift.csv (a row an image: set, image, width, height, Measures, log-odds, weight, which training
    image it is a copy of) and shift.json (verdict, AUCs, differences, scores, hashes). Returns what shift.json holds.
    Raises InputError for whatever cannot be used.
    """
    memory = read_memory(memory)
    memory = replace(memory, total=memory.total // 2)  # of which training and test images take as much each
    table = read_folds(name, workspace)
    make_repeatable()
    model = find_backbone(model, weights)
    found = resolve_weights(model, weights)
    if model != "baseline" and not is_pretrained(model, found):
        raise InputError(f"MODEL={model}: random weights, expected pretrained ones, or baseline for plain pixels")
    scored = read_scored(table, runs) if runs or any(all_runs(table.paths).values()) else None
    unknown, broken = read_usable(test, table)
    if strict:
        check_all_read(unknown, broken)
    if broken:
        files.warn(
            f"{unknown.data}: {len(broken)} images cannot be read and are left out: "
            f"{shorten(list(broken.values()))}; STRICT=1 stops there"
        )
    folder = unknown.paths.runs
    images = [load_images(part, memory) for part in (table, unknown)]
    seen = [_measure_all(part, pixels) for part, pixels in zip((table, unknown), images)]
    copies = find_copies(table, unknown, *(hashes for _, hashes in seen))
    frame = pd.concat([measures for measures, _ in seen], ignore_index=True)
    is_test = np.repeat([False, True], [len(table.frame), len(unknown.frame)])
    groups = np.concatenate([_numbers(table.frame["group"]), len(table.frame) + _numbers(unknown.frame["sha256"])])
    statistics = prepare_statistics(frame)
    told = {
        "features": tell_apart(_features(table, unknown, images, model, found, memory), is_test, groups, PENALTY),
        "statistics": tell_apart(statistics.to_numpy(), is_test, groups, 1.0),
    }
    differences = compare_statistics(statistics, is_test)
    weight = weigh_images(told["features"].logits, is_test)
    metric = weighted_metric(table)
    score = weigh_score(metric.each(scored.probs, table.labels), weight) if scored else None
    verdict = say_verdict(told, differences)

    record = {
        "format": SHIFT_FORMAT,
        "verdict": verdict,
        "test": unknown.data,
        "images": [len(part) for part in images],
        "told": {
            key: {"auc": one.auc, "interval": list(one.interval), "verdict": one.word} for key, one in told.items()
        },
        "score": score and {metric.name if key == "plain" else key: value for key, value in asdict(score).items()},
        "predictions": scored and scored.name,
        "oof": scored and scored.hashes,
        "copies": {image: table.images[row] for image, row in zip(unknown.images, copies) if row >= 0},
        "test_data": unknown.data_hash,
        "table": table.hash,
        "data": table.data_hash,
        "classes": table.classes,
        "model": model,
        "weights": found.sha256,
        "versions": files.versions(),
    } | {"metric": name for name in find_metric(table.metric).besides}
    if broken:
        record["left_out"] = list(broken)
    _print(table, unknown, told, differences, score, scored, record)
    if is_page_written(folder / SHIFT_JSON, record):
        print(f"{folder / SHIFT_HTML}: made of these images already, nothing to do")
        return record
    frame = pd.concat(
        [
            pd.DataFrame({"set": np.where(is_test, "test", "training"), "image": table.images + unknown.images}),
            frame,
            pd.DataFrame(
                {
                    "log_odds": told["features"].logits,
                    "weight": np.append(weight, [np.nan] * len(images[1])),
                    "copy_of": [""] * len(images[0]) + [record["copies"].get(image, "") for image in unknown.images],
                }
            ),
        ],
        axis=1,
    )
    files.write_bytes(folder / SHIFT_CSV, files.csv_bytes(frame))
    page.write_page(
        folder / SHIFT_HTML,
        f"{table.name}: is {unknown.data} like it?",
        _parts(table, unknown, frame, told, differences, score, record),
    )
    files.write_json(folder / SHIFT_JSON, record)
    print(f"{folder / SHIFT_HTML}: the same with pictures; {folder / SHIFT_CSV}: a row an image")
    return record


def find_copies(table, unknown, hashes, test_hashes):
    """For each test image the row of a training image with the same bytes, or the same pixels at the table's size.

    hashes, test_hashes   of the pixels, a list each -> a list of int, -1 for an image that is no copy
    """
    rows = {key: row for row, key in reversed(list(enumerate([*zip(hashes)])))}
    rows |= {key: row for row, key in reversed(list(enumerate(table.frame["sha256"])))}
    return [rows.get(data, rows.get((pixels,), -1)) for data, pixels in zip(unknown.frame["sha256"], test_hashes)]


def prepare_statistics(frame):
    """The columns that are compared, a DataFrame of float64 [n, d]; as logarithms where a factor is what counts."""
    frame = frame.assign(pixels=frame["width"] * frame["height"]).astype(np.float64)
    return frame.assign(**{column: np.log1p(frame[column]) for column in dict.fromkeys(LOGS)})


def tell_apart(values, is_test, groups, penalty):
    """Train a logistic regression to tell test images (is_test, bool [n]) from the others by values [n, d]; returns a Told.

    Each half is predicted by the regression on the other, groups (int [n]) kept together. The AUC is the mean of the
    halves'. Within a half, which had no part in its regression, DeLong's standard error (1988) holds; the halves
    depend on each other in ways unknown, so that the error of their mean is taken as large as it can be, the mean of
    theirs. (With five parts and errors as of independent ones, an interval of 95 % held 0.5 in 50 of 60 draws without
    any shift.)
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    random = np.random.default_rng(0)
    logits, found = np.zeros(len(values)), []
    for train, held_out in StratifiedGroupKFold(PARTS, shuffle=True, random_state=0).split(values, is_test, groups):
        train = np.sort(random.permutation(train)[:FITTED])
        if len(set(is_test[train])) < 2 or len(set(is_test[held_out])) < 2:
            raise InputError("the test images, or the training images, are copies of too few pictures to compare")
        model = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=500))
        logits[held_out] = model.fit(values[train], is_test[train]).decision_function(values[held_out])
        found.append(measure_auc(logits[held_out], is_test[held_out]))
    aucs, errors = np.array(found).T
    return Told(float(aucs.mean()), float(errors.mean()), logits)


def measure_auc(scores, positive):
    """AUC and its standard error (DeLong, DeLong and Clarke-Pearson 1988) of scores [n], positive bool [n].

    Of one image against n others no variance can be had: the error is then at least that of 1/2 an image in n.
    """
    from scipy.stats import rankdata

    m, n = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(scores)
    above = (ranks[positive] - rankdata(scores[positive])) / n  # share of negatives below each positive
    below = 1 - (ranks[~positive] - rankdata(scores[~positive])) / m
    variance = sum(part.var(ddof=1) / len(part) if len(part) > 1 else 0.25 for part in (above, below))
    return float(above.mean()), float(max(np.sqrt(variance), 0.5 / min(m, n) / max(m, n)))


def compare_statistics(statistics, is_test):
    """A row a statistic, the most different first: column, means, `difference` of test less training images.

    The difference is standardised by the pooled standard deviation (Cohen's d; infinite where neither set varies and
    the two differ); `error` is its standard error (Hedges and Olkin 1985).
    """
    train, test = statistics[~is_test], statistics[is_test]
    gap, spread = test.mean() - train.mean(), np.sqrt((train.var() + test.var()) / 2)
    tiny = 1e-9 * (1 + train.mean().abs())
    d = (gap / spread.where(spread > tiny)).where(spread > tiny, np.sign(gap) * np.inf).where(gap.abs() > tiny, 0.0)
    d = d.fillna(0.0)
    error = np.sqrt(1 / len(train) + 1 / len(test) + np.minimum(d**2, 1e6) / (2 * len(is_test)))
    show = [np.expm1 if column in LOGS else float for column in statistics]
    found = pd.DataFrame(
        {
            "statistic": list(statistics),
            "training": [float(back(mean)) for back, mean in zip(show, train.mean())],
            "test": [float(back(mean)) for back, mean in zip(show, test.mean())],
            "difference": d.to_numpy(),
            "error": error.to_numpy(),
        }
    )
    return found.iloc[np.argsort(-found["difference"].abs(), kind="stable")].reset_index(drop=True)


def weigh_images(logits, is_test):
    """Importance weights of the training images, float64 [n_train], of mean 1 before they are clipped to CLIP.

    p / (1 - p) with p the probability of the test by log-odds that were calibrated on all images (Platt 1999): what
    cannot tell the two apart gives equal weights.
    """
    from sklearn.linear_model import LogisticRegression

    scale = logits.std() or 1.0
    slope = LogisticRegression(C=1e3).fit(logits[:, None] / scale, is_test).coef_[0, 0] / scale
    exponent = max(0.0, slope) * logits[~is_test]
    weight = np.exp(exponent - exponent.max())
    return np.clip(weight / weight.mean(), 1 / CLIP, CLIP)


def weighted_metric(table):
    """The table's Metric where it is the mean of a figure an image, which weights can move; else accuracy."""
    metric = find_metric(table.metric)
    return metric if metric.each else METRICS["accuracy"]


def weigh_score(right, weight):
    """The Score of a figure an image, float [n] (of accuracy 0 and 1), with the `weight`s [n] of the test's kind.

    Errors are those of a ratio of sums, linearised (Owen 2013, "Monte Carlo theory, methods and examples", 9.2).
    """
    plain, share = right.mean(), weight / weight.sum()
    weighted = float(share @ right)
    influence, before = share * (right - weighted), (right - plain) / len(right)
    norm = np.linalg.norm
    return Score(
        float(plain),
        float(norm(before)),
        weighted,
        float(norm(influence)),
        weighted - float(plain),
        float(norm(influence - before)),
        float(1 / (share @ share)),
    )


def say_verdict(told, differences):
    """One line: no shift seen, slight or strong, how that was decided, and what differs."""
    strength = ("no shift seen", "slight", "strong")
    worst = max(told, key=lambda key: (strength.index(told[key].word), told[key].auc))
    low, high = told[worst].interval
    word = told[worst].word
    side = "below" if high < 0.5 else "above" if low > 0.5 else "on both sides of"
    text = (
        f"{word}{'' if word == strength[0] else ' shift'}: of {worst} the AUC is {told[worst].auc:.3f}, its 95 % "
        f"interval {low:.3f} to {high:.3f}, {side} 0.5"
    )
    clear = differences[differences["difference"].abs() > np.maximum(LEAST, 3 * differences["error"])]
    if word != strength[0]:
        names = ", ".join(f"{row.statistic} {row.difference:+.2f}" for row in clear.head(6).itertuples())
        text += f"; most different, in standard deviations: {names}" if names else "; no single statistic differs much"
    return text


def _numbers(values):
    return pd.factorize(values)[0]


def _measure_all(table, images):
    """A DataFrame of width, height and Measures a row, and the sha256 of each image's pixels."""

    def work(row):
        image = np.ascontiguousarray(images[row])
        return measure_image(image), files.sha256_bytes(image.tobytes())

    found = list(in_threads(work, range(len(images)), "measure images"))
    sizes = table.frame[["width", "height"]].reset_index(drop=True)
    measures = pd.DataFrame([one for one, _ in found], columns=[field.name for field in fields(Measures)])
    return pd.concat([sizes, measures], axis=1), [digest for _, digest in found]


def _features(table, unknown, images, model, found, memory):
    """Features of all training and test images, float32 [n, d], kept below runs/ as those of `make train` are."""
    settings = replace(read_recipe("quick"), views=["identity"], frozen_copies=0, epochs=0)
    start_keras(settings.seed)
    parts = [table, unknown]
    if model == "baseline":  # its features are the pixels: as many as are good for a linear model
        parts, settings = (
            [replace(part, size=shrink_size(table.size)) for part in parts],
            replace(settings, image_size=0),
        )
        images = [load_images(part) for part in parts]
    backbone = fuse_batchnorm(
        build_backbone(model, parts[0].size, settings.image_size or None, found, settings.least_size)
    )
    room = Room(memory and memory.features)
    features = [
        frozen_features(part, settings, model, found, pixels, backbone, room)[0][0]
        for part, pixels in zip(parts, images)
    ]
    return np.concatenate([part[:] for part in features])


def _sentences(score, scored_name, record, table):
    name = weighted_metric(table).name
    if score:
        yield (
            f"{name} of {scored_name}: {score.plain:.4f} +- {score.error:.4f}; weighted towards the test "
            f"{score.weighted:.4f} +- {score.weighted_error:.4f}, a change of {score.change:+.4f} +- "
            f"{score.change_error:.4f}; effective sample size {score.effective:.0f} of {record['images'][0]}"
        )
        if score.effective < record["images"][0] / 10:
            yield f"the test lies where hardly any training images are: the weighted {name} says little"
        if name != table.metric:
            yield f"{table.metric} is no mean of a figure an image, so that the accuracy is weighted in its place"
    else:
        yield "no finished run, hence no score to weight"
    if copies := record["copies"]:
        yield (
            f"{len(copies)} test images are copies of training images: "
            + shorten([f"{image} = {source}" for image, source in copies.items()])
        )
    if left := record.get("left_out"):
        yield f"{len(left)} test images cannot be read and are left out: {shorten(left)}"


def _told_table(told):
    return pd.DataFrame(
        [
            {"told apart by": key, "AUC": one.auc, "from": one.interval[0], "to": one.interval[1], "verdict": one.word}
            for key, one in told.items()
        ]
    )


def _print(table, unknown, told, differences, score, scored, record):
    print(f"{table.name}: {len(table.frame)} training images, {len(unknown.frame)} test images of {unknown.data}\n")
    print(text_table(_told_table(told), 3), end="\n\n")
    print(text_table(differences.head(8), 3), end="\n\n")
    for line in (record["verdict"], *_sentences(score, scored and scored.name, record, table)):
        print(line)


def _parts(table, unknown, frame, told, differences, score, record):
    n, logits = len(table.frame), told["features"].logits
    yield record["verdict"]
    yield from _sentences(score, record["predictions"], record, table)
    yield page.table(_told_table(told).to_dict("records"), 3)
    yield page.table(differences.to_dict("records"), 3)
    order = np.argsort(-logits[n:], kind="stable")
    train = np.argsort(-logits[:n], kind="stable")
    sheets = (
        ("Test images that give the difference away", unknown, order),
        ("Test images most like the training images", unknown, order[::-1]),
        ("Training images most like the test", table, train),
        ("Training images least like the test", table, train[::-1]),
    )
    for title, part, rows in sheets:
        rows = rows[:SHEET].tolist()
        shown = draw_rows(part, sorted(rows))
        yield page.heading(title)
        yield page.grid(
            page.figure([shown[row]], f"{part.images[row]} ({logits[row + n * (part is unknown)]:+.2f})")
            for row in rows
        )
    yield "In brackets: the log-odds that an image is of the test."
    for column in differences["statistic"]:
        if column in frame:
            yield page.heading(column)
            yield draw_spread(frame.assign(label=frame["set"]), column, ["training", "test"])
