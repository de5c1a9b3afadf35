"""Names of folders and tables that say which part of a split they are."""

import re

ROLES = {
    "train": ("train", "training", "trn", "trainset", "traindata"),
    "val": ("val", "valid", "validation", "dev", "valset", "validset"),
    "test": (
        "test",
        "testing",
        "tst",
        "testset",
        "pred",
        "prediction",
        "predict",
        "holdout",
        "unlabeled",
        "unlabelled",
    ),
}
NAMES = {name: role for role, names in ROLES.items() for name in names}


def role_of(name: str) -> str | None:
    """train, val or test where one word of a name says so ("seg_train", "TestImages", "train2017"), else None."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    found = {NAMES[word.lower()] for word in words if word.lower() in NAMES}
    return found.pop() if len(found) == 1 else None


def is_answer_sheet(name: str) -> bool:
    """Whether a table's name says that it is a sample of what to submit, or names the test images."""
    words = {word.lower() for word in re.findall("[A-Za-z]+", re.sub("[_-]", " ", name))}
    return bool(words & {"sample", "submission", "submit", "solution"}) or role_of(name) == "test"
