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
    found = {NAMES[word] for word in _words(name) if word in NAMES}
    return found.pop() if len(found) == 1 else None


def is_answer_sheet(name: str) -> bool:
    """Whether a table's name says that it is a sample of what to submit, or names the test images."""
    sheet = {"sample", "samplesubmission", "submission", "submit", "solution"}
    return not sheet.isdisjoint(_words(name)) or role_of(name) == "test"


def _words(name):
    """The words of a name in small letters, also of one such as TestImages."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]
