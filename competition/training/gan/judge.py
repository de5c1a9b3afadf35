"""Whether generated images are good: kernel distance, diversity, copies, what they teach."""

import numpy as np

ENOUGH = 2000  # images on either side of a comparison that takes all pairs

# The verdict. A class collapsed when its generated images lie nearer to each other than half as far as real ones do;
# A copy lies nearer to a training image than 95 of 100 held-out images do. 5 copies in 100 are no surprise.
LEAST_DIVERSITY = 0.5
USUAL_COPIES, MOST_COPIES = 0.05, 0.25


def measure_generated(generated, asked, train, train_labels, held_out, held_out_labels, random):
    """What tells whether generated images are of use, a dict; and each one's nearest training image, int [n].

    generated, train, held_out   features float32 [n, d], [m, d] and [l, d] of a frozen backbone
    asked, train_labels, held_out_labels   their labels, int [n], [m] and [l]

    kid             kernel distance between generated and held-out images; floor: between training and held-out ones
    diversity       how far a generated image is from the nearest other one of its class, as a share of what it is
                    among as many training images (medians); of the class with the least
    near, near_held_out   median distance of a generated and of a held-out image from the nearest training image
    copies          share of generated images that are nearer to one than 95 of 100 held-out images are
    taught          accuracy on held-out images of a linear classifier that learned from the generated images alone;
                    taught_real: from the training images; chance: of always naming the commonest class, and two
                    standard errors
    """
    some = np.sort(random.permutation(len(train))[:ENOUGH])
    distances, nearest = _nearest(generated, train)
    usual, _ = _nearest(held_out, train)
    shares = [1.0]
    for label in np.unique(asked):
        ours, theirs = generated[asked == label], train[train_labels == label]
        count = min(len(ours), len(theirs))
        if count > 2:
            theirs = theirs[random.permutation(len(theirs))[:count]]
            apart, usually = (np.median(_nearest(x, x, skip_self=True)[0]) for x in (ours[:count], theirs))
            shares.append(apart / usually if usually > 0 else 1.0)
    commonest = np.bincount(held_out_labels).max() / len(held_out_labels)
    found = {
        "kid": kernel_distance(generated, held_out),
        "floor": kernel_distance(train[some], held_out),
        "diversity": min(shares[1:] or shares),
        "near": np.median(distances),
        "near_held_out": np.median(usual),
        "copies": np.mean(distances < np.quantile(usual, USUAL_COPIES)),
        "taught": teach_classifier(generated, asked, held_out, held_out_labels),
        "taught_real": teach_classifier(train[some], train_labels[some], held_out, held_out_labels),
        "chance": commonest + 2 * np.sqrt(commonest * (1 - commonest) / len(held_out_labels)),
    }
    return {key: float(value) for key, value in found.items()}, nearest


def decide(measures):
    """ "collapsed", "copies", "poor" (teaches a classifier no more than chance) or "good"."""
    if measures["diversity"] < LEAST_DIVERSITY:
        return "collapsed"
    if measures["copies"] > MOST_COPIES:
        return "copies"
    return "good" if measures["taught"] > measures["chance"] else "poor"


def kernel_distance(x, y):
    """KID: squared maximum mean discrepancy of features [n, d] and [m, d] with the kernel (x.y / d + 1)^3, unbiased.

    Binkowski et al. 2018, arXiv:1801.01401; around 0 for two samples of the same kind. Needs two of each.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def others(a):
        values = kernel(a, a)
        return (values.sum() - np.trace(values)) / (len(a) * (len(a) - 1))

    return others(x) + others(y) - 2 * kernel(x, y).mean()


def _nearest(x, y, skip_self=False, part=500):
    """For each of x [n, d] the distance to the nearest of y [m, d], float64 [n], and which it is, int [n]."""
    y = np.asarray(y, np.float64)
    squares, found = (y * y).sum(1), []
    for start in range(0, len(x), part):
        some = np.asarray(x[start : start + part], np.float64)
        distances = np.maximum((some * some).sum(1)[:, None] + squares - 2 * some @ y.T, 0)
        if skip_self:
            distances[np.arange(len(some)), start + np.arange(len(some))] = np.inf
        place = distances.argmin(1)
        found.append((np.sqrt(distances[np.arange(len(some)), place]), place))
    return tuple(np.concatenate(arrays) for arrays in zip(*found))


def teach_classifier(features, labels, held_out, held_out_labels):
    """Accuracy on held-out features of a ridge classifier on these features and labels."""
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(labels)) < 2:
        return 0.0
    model = make_pipeline(StandardScaler(), RidgeClassifier(alpha=float(len(labels)))).fit(features, labels)
    return np.mean(model.predict(held_out) == held_out_labels)
