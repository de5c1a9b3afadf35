"""Heads: that they learn as Keras' own would, and that none of them knows of another."""

from dataclasses import replace

import numpy as np
import pytest

from competition.base.metrics import METRICS, accuracy
from competition.features import heads
from competition.features.augment import draw_numbers, plan_copies
from competition.recipes.recipe import Recipe

RECIPE = Recipe(frozen_epochs=6, frozen_rate=0.01, frozen_schedule="one_cycle", batch_size=8, seed=5)
CLASSES, DIMENSION = 3, 7


@pytest.fixture
def task():
    """Pool of two copies, plain features, labels and folds of 50 images whose classes overlap."""
    random = np.random.default_rng(1)
    labels = random.integers(CLASSES, size=50)
    centres = random.normal(size=(CLASSES, DIMENSION))
    pool = (centres[labels] + random.normal(size=(2, 50, DIMENSION))).astype(np.float32)
    return {"pool": pool, "plain": pool[0], "labels": labels, "fold_of": random.permutation(50) % 4}


def trained(task, settings, folds, epochs=None):
    """Heads after their epochs, and the probabilities after the last."""
    state = heads.start_heads(len(settings), len(folds), DIMENSION, CLASSES, settings[0].head, settings[0].seed)
    for _ in range(epochs or settings[0].frozen_epochs):
        probabilities = heads.train_epoch(state, settings, folds=folds, **task)
    return state, probabilities


def test_they_learn_as_keras_does(task):
    """Full batches of all rows, so that the order within an epoch is all that is drawn: the same steps in Keras."""
    import keras

    recipe = replace(
        RECIPE,
        frozen_schedule="constant",
        batch_size=37,
        frozen_weight_decay=0.1,
        label_smoothing=0.1,
        class_weight="balanced",
        frozen_epochs=9,
    )
    task |= {"fold_of": np.arange(50) // 13}  # 37 images to train on, in one batch
    state, (probabilities,) = trained(task | {"pool": task["plain"][None]}, [recipe], [1])
    rows = task["fold_of"] != 1
    model = keras.Sequential([keras.Input((DIMENSION,)), keras.layers.Dense(CLASSES, kernel_initializer="zeros")])
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.1, beta_2=0.999, epsilon=1e-7)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1))
    inputs, labels = task["plain"][rows], task["labels"][rows]
    counts = np.bincount(labels)
    for _ in range(9):
        loss = model.train_on_batch(inputs, np.eye(3)[labels], 37 / (3 * counts[labels]))
    np.testing.assert_allclose(state.weights[0, 0, :-1], np.asarray(model.layers[-1].kernel), atol=3e-4)
    np.testing.assert_allclose(state.weights[0, 0, -1], np.asarray(model.layers[-1].bias), atol=3e-4)
    assert state.log[-1, 0, 0, 0] == pytest.approx(loss, rel=1e-4)
    expected = keras.ops.softmax(model.predict(task["plain"][~rows], verbose=0))
    np.testing.assert_allclose(probabilities[0], expected, atol=3e-4)
    np.testing.assert_array_equal(heads.predict_heads([state.best[0, 0]], task["plain"][~rows]), probabilities[0])


@pytest.mark.parametrize("head", [[], [6, 5]])
def test_a_head_is_the_same_alone_and_among_others(task, head):
    """Bit for bit: other folds, other settings, their order."""
    settings = [
        replace(RECIPE, head=head, frozen_rate=rate, dropout=dropout, frozen_weight_decay=decay, class_weight=weight)
        for rate, dropout, decay, weight in (
            (0.01, 0.0, 0.0, "none"),
            (0.1, 0.3, 0.0, "balanced"),
            (0.001, 0.5, 1.0, "none"),
        )
    ]
    together, probabilities = trained(task, settings, [0, 1, 2, 3])
    for s, f in np.ndindex(3, 4):
        alone, (single,) = trained(task, [settings[s]], [f])
        for one, other in zip(alone.layers, together.layers, strict=True):
            np.testing.assert_array_equal(one.weights[0, 0], other.weights[s, f])
            np.testing.assert_array_equal(one.best[0, 0], other.best[s, f])
        np.testing.assert_array_equal(alone.log[:, 0, 0], together.log[:, s, f])
        np.testing.assert_array_equal(single[0], probabilities[f][s])
    assert len({together.weights[s, f].tobytes() for s, f in np.ndindex(3, 4)}) == 12


def test_hidden_layers_learn_as_keras_own(task):
    """Full batches of all rows, as above, from the same random weights."""
    import keras

    recipe = replace(
        RECIPE, frozen_schedule="constant", batch_size=37, frozen_weight_decay=0.1, head=[6, 5], frozen_epochs=9
    )
    task |= {"fold_of": np.arange(50) // 13, "pool": task["plain"][None]}
    rows = task["fold_of"] != 1
    start = heads.start_heads(1, 1, DIMENSION, CLASSES, recipe.head, recipe.seed)
    state, (probabilities,) = trained(task, [recipe], [1])
    sizes = enumerate([6, 5, CLASSES])
    model = keras.Sequential(
        [
            keras.Input((DIMENSION,)),
            *(keras.layers.Dense(units, activation="relu" if i < 2 else None) for i, units in sizes),
        ]
    )
    for dense, layer in zip(model.layers, start.layers):
        dense.set_weights([layer.weights[0, 0, :-1], layer.weights[0, 0, -1]])
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.1, beta_2=0.999, epsilon=1e-7)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True))
    for _ in range(9):
        model.train_on_batch(task["plain"][rows], np.eye(3)[task["labels"][rows]])
    for dense, layer, before in zip(model.layers, state.layers, start.layers, strict=True):
        np.testing.assert_allclose(layer.weights[0, 0, :-1], np.asarray(dense.kernel), atol=3e-4)
        np.testing.assert_allclose(layer.weights[0, 0, -1], np.asarray(dense.bias), atol=3e-4)
        assert np.abs(layer.weights - before.weights).max() > 0.01
    found = heads.predict_heads([matrices[0] for matrices in state.best_of(0)], task["plain"][~rows])
    np.testing.assert_array_equal(found, probabilities[0])


def test_hidden_layers_follow_the_slope_of_the_loss(task):
    """With dropout, smoothed labels and class weights: the gradient of each layer against differences of the loss."""
    recipe = replace(RECIPE, batch_size=37, head=[16, 8], dropout=0.3, label_smoothing=0.1, class_weight="balanced")
    task |= {"fold_of": np.arange(50) // 13}

    def one_step(changes=(0, 0, 0)):
        """The loss before the first step from weights that are changed, and the gradients there."""
        state = heads.start_heads(1, 1, DIMENSION, CLASSES, recipe.head, recipe.seed)
        state.weights += np.random.default_rng(7).normal(0, 1, state.weights.shape).astype(np.float32)
        for layer, change in zip(state.layers, changes):
            layer.weights += change
        heads.train_epoch(state, [recipe], folds=[1], **task)
        return state.log[0, 0, 0, 0], [layer.mean / (1 - heads.BETA_1) for layer in state.layers]

    _, gradients = one_step()
    for number, gradient in enumerate(gradients):
        step = 1e-2 * gradient / np.linalg.norm(gradient)
        up, down = (one_step([sign * step if i == number else 0 for i in range(3)])[0] for sign in (1, -1))
        assert (up - down) / 2e-2 == pytest.approx(np.linalg.norm(gradient), rel=0.03), number


def test_heads_are_the_same_after_they_were_written(task):
    recipe = replace(RECIPE, head=[6, 5])
    state, _ = trained(task, [recipe], [0, 2], epochs=2)
    again = heads.read_heads(state.arrays()).of([1])
    heads.train_epoch(state, [recipe], folds=[0, 2], **task)
    heads.train_epoch(again, [recipe], folds=[2], **task)
    for one, other in zip(again.layers, state.layers, strict=True):
        np.testing.assert_array_equal(one.weights[:, 0], other.weights[:, 1])
    np.testing.assert_array_equal(again.log[:, :, 0], state.log[:, :, 1])


def first_gradient(task, recipe):
    """What the first step of fold 1 follows, in one batch of its 37 training images; float32 [d + 1, C]."""
    state, _ = trained(task, [recipe], [1], epochs=1)
    return state.mean[0, 0] / (1 - heads.BETA_1)


@pytest.mark.parametrize(
    "class_weight, weights",
    [
        ("none", [1, 1, 1]),
        ({"a": 3.0, "b": 1.0, "c": 0.5}, [3, 1, 0.5]),
        ("balanced", None),
    ],
)
def test_class_weights_change_the_gradient_as_they_should(task, class_weight, weights):
    """An image's part of it, (p - y) x, counts as often as its class is worth; p is 1/3 before the first step."""
    task |= {"fold_of": np.arange(50) // 13, "pool": task["plain"][None]}
    rows = task["fold_of"] != 1
    inputs, labels = np.append(task["plain"][rows], np.ones((37, 1)), 1), task["labels"][rows]
    weights = np.array(weights or 37 / (3 * np.bincount(labels)))
    expected = inputs.T @ ((1 / 3 - np.eye(3)[labels]) * weights[labels][:, None]) / 37
    found = first_gradient(task, replace(RECIPE, batch_size=37, class_weight=class_weight))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def copies(task):
    """Copies for class 1, up to 30 images; a feature of its own tells each of them apart."""
    plan = plan_copies(task["labels"], task["fold_of"], np.array([0, 30, 0]))
    sources = plan.sources[50:]
    assert len(sources) > 10
    features = np.zeros((len(sources), DIMENSION + len(sources)), np.float32)
    features[:, :DIMENSION], features[:, DIMENSION:] = task["plain"][sources], np.eye(len(sources))
    return replace(plan, features=features)


def test_copies_are_learnt_from_where_their_source_is_not_held_out(task, copies):
    marks = len(copies.sources) - 50
    pool = np.concatenate([task["pool"], np.zeros((2, 50, marks), np.float32)], -1)
    recipe = replace(RECIPE, frozen_epochs=30)
    state = heads.start_heads(1, 4, DIMENSION + marks, CLASSES)
    for _ in range(30):
        heads.train_epoch(state, [recipe], pool, pool[0], task["labels"], task["fold_of"], [0, 1, 2, 3], copies)
    moved = np.abs(state.weights[0, :, DIMENSION:-1]).max(-1) > 0  # [F, marks]
    held_out = task["fold_of"][copies.sources[50:]] == np.arange(4)[:, None]
    np.testing.assert_array_equal(moved, ~held_out)
    again = heads.start_heads(1, 2, DIMENSION + marks, CLASSES)
    for _ in range(30):
        heads.train_epoch(again, [recipe], pool, pool[0], task["labels"], task["fold_of"], [3, 1], copies)
    np.testing.assert_array_equal(again.weights[0], state.weights[0, [3, 1]])


def test_copies_are_learnt_with_their_own_features_and_labels(task):
    """One batch of all that fold 1 trains on, and its gradient by hand."""
    task |= {"fold_of": np.arange(50) // 13, "pool": task["plain"][None]}
    plan = plan_copies(task["labels"], task["fold_of"], np.array([30, 20, 25]))
    features = np.random.default_rng(3).normal(size=(len(plan.sources) - 50, DIMENSION)).astype(np.float32)
    numbers = draw_numbers(plan, task["labels"], task["fold_of"], 1, np.random.default_rng([RECIPE.seed, 1, 0, 0]))
    assert len(numbers) == 75
    state = heads.start_heads(1, 1, DIMENSION, CLASSES)
    recipe, copies = replace(RECIPE, batch_size=75), replace(plan, features=features)
    heads.train_epoch(state, [recipe], folds=[1], copies=copies, **task)
    inputs = np.append(np.concatenate([task["plain"], features])[numbers], np.ones((75, 1)), 1)
    expected = inputs.T @ (1 / 3 - np.eye(3)[task["labels"][plan.sources[numbers]]]) / 75
    np.testing.assert_allclose(state.mean[0, 0] / (1 - heads.BETA_1), expected, rtol=1e-4, atol=1e-5)


def test_copies_make_an_epoch_longer_and_count_for_balance(task, copies):
    """With as many copies as images are missing all classes weigh the same."""
    plan = plan_copies(task["labels"], task["fold_of"], np.array([40, 40, 40]))
    features = task["plain"][plan.sources[50:]]
    steps = heads.head_steps(task["fold_of"], 8, plan.needed)
    assert steps == 120 // 8 and heads.head_steps(task["fold_of"], 8) == 4
    states = []
    for class_weight in ("none", "balanced"):
        state = heads.start_heads(1, 1, DIMENSION, CLASSES)
        heads.train_epoch(
            state,
            [replace(RECIPE, class_weight=class_weight)],
            folds=[2],
            copies=replace(plan, features=features),
            **task,
        )
        states.append(state.weights)
    np.testing.assert_allclose(*states, rtol=1e-5)


def test_a_held_out_image_is_never_learnt_from(task):
    before, _ = trained(task, [RECIPE], [2])
    poison = np.where((task["fold_of"] == 2)[:, None], 1e3, task["pool"]).astype(np.float32)
    after, _ = trained(task | {"pool": poison}, [RECIPE], [2])
    np.testing.assert_array_equal(before.weights, after.weights)


def test_every_training_image_and_copy_is_learnt_from(task):
    """A copy that is marked by a feature of its own moves that feature's weights; one that is held out does not."""
    for copy, image in ((0, 3), (1, 3), (0, 40)):
        pool = np.concatenate([task["pool"], np.zeros((2, 50, 1), np.float32)], -1)
        pool[copy, image, -1] = 1
        state = heads.start_heads(1, 4, DIMENSION + 1, CLASSES)
        for _ in range(12):
            recipe = replace(RECIPE, frozen_epochs=12)
            heads.train_epoch(state, [recipe], pool, pool[0], task["labels"], task["fold_of"], [0, 1, 2, 3])
        moved = np.abs(state.weights[0, :, -2]).max(-1) > 0
        assert moved.tolist() == [fold != task["fold_of"][image] for fold in range(4)]


def test_best_epoch_counts_with_patience_and_the_last_without(task):
    wild = replace(RECIPE, frozen_rate=1.0, frozen_schedule="constant", frozen_epochs=30)
    state, probabilities = trained(task, [wild], [0, 1, 2, 3])
    assert (state.best_epoch == 30).all() and not state.stopped(0).any()
    np.testing.assert_array_equal(state.best, state.weights)

    state, _ = trained(task, [replace(wild, patience=3)], [0, 1, 2, 3])
    assert (state.best_epoch < 27).all() and state.stopped(3).all()
    for fold in range(4):
        best, last = int(state.best_epoch[0, fold]), 0
        scores = [tuple(row) for row in state.log[:, 0, fold, 3:1:-1] * [1, -1]]
        for epoch in range(1, len(scores)):  # as one reads the history: stop when three epochs brought no better one
            if scores[epoch] > scores[last]:
                last = epoch
            elif epoch - last >= 3:
                break
        assert best == last + 1
        held_out = task["fold_of"] == fold
        again = heads.predict_heads([state.best[0, fold]], task["plain"][held_out])
        assert accuracy(again, task["labels"][held_out]) == scores[last][0] == state.best_score[0, fold, 0]


@pytest.mark.parametrize("name", ["log_loss", "quadratic_kappa", "auc"])
def test_the_metric_chooses_the_epoch(task, name):
    """Labels are noise, of which metrics hold different epochs to be the best."""
    metric, apart = METRICS[name], 0
    task |= {"labels": np.random.default_rng(3).integers(CLASSES, size=50)}
    wild = replace(RECIPE, frozen_epochs=30, frozen_rate=0.3, frozen_schedule="constant", patience=30)
    state, seen = heads.start_heads(1, 4, DIMENSION, CLASSES), []
    for _ in range(30):
        seen.append(heads.train_epoch(state, [wild], folds=[0, 1, 2, 3], metric=metric, **task))
    for fold in range(4):
        labels = task["labels"][task["fold_of"] == fold]
        scores = [metric.quality(probs[fold][0], labels) for probs in seen]
        assert state.best_epoch[0, fold] == 1 + scores.index(max(scores))
        assert tuple(state.best_score[0, fold]) == max(scores)
        accuracies = [METRICS["accuracy"].quality(probs[fold][0], labels) for probs in seen]
        apart += accuracies.index(max(accuracies)) != scores.index(max(scores))
    assert apart, "accuracy would choose the same"


def test_heads_that_diverge_are_kept_so_that_they_are_refused(task):
    task |= {"plain": np.full_like(task["plain"], np.nan)}
    state = heads.start_heads(1, 1, DIMENSION, CLASSES)
    for _ in range(2):
        heads.train_epoch(state, [replace(RECIPE, patience=3)], folds=[1], metric=METRICS["log_loss"], **task)
    assert state.best_epoch[0, 0] == 1 and np.isnan(state.best_score[0, 0]).all()


def test_class_weights():
    """As scikit-learn has them."""
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([0] * 6 + [1] * 3 + [2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(heads.weigh_classes("balanced", labels, 3), expected, rtol=1e-6)
    np.testing.assert_array_equal(heads.weigh_classes("none", labels, 3), 1)


def test_schedules():
    assert heads.schedule("constant", 0.1)(0.3) == 1
    rate = heads.schedule("one_cycle", 0.2)
    rates = [rate(done) for done in np.linspace(0, 1, 101)]
    assert max(rates) == rates[20] == 1 and 0 < rates[0] < 0.1 and rates[-1] == pytest.approx(0)
    assert (np.diff(rates[:21]) > 0).all() and (np.diff(rates[20:]) < 0).all()
    assert heads.schedule("one_cycle", 0.0)(0.0) == 1 and heads.schedule("one_cycle", 1.0)(1.0) <= 1


def test_few_images_and_uneven_folds(task):
    """Batches larger than the training set, and folds of very different sizes."""
    task |= {"fold_of": np.repeat([0, 1, 2], [40, 8, 2])}
    assert heads.head_steps(task["fold_of"], 8) == 6 and heads.head_steps(task["fold_of"], 64) == 1
    state, probabilities = trained(task, [replace(RECIPE, batch_size=64)], [0, 1, 2])
    assert np.isfinite(state.weights).all() and [p.shape for p in probabilities] == [(1, 40, 3), (1, 8, 3), (1, 2, 3)]
