"""Codabench: a zip with `model.py`, whose class `Model` is made without arguments; `predict` gives a numpy array.

Everything lies at the zip's root, beside `model.py`, which finds it by its own path. It is the `model.py` of CodaLab
and a class more, since a second file to import might not be on the ingestion program's path.
"""

from functools import partial
from importlib import resources

from competition.rehearsal.rehearsal import Entry
from competition.submission.make_zip import make_submission
from competition.submission.package import Layout

CODE = '''

class Model(model):
    """What Codabench's ingestion program makes, without arguments; its answers are numpy arrays."""

    def __init__(self):
        super().__init__()

    def predict(self, X):
        """Class ids, int64 array [n]; `X` as in `predict_proba`."""
        return super().predict(X).numpy()

    def predict_proba(self, X):
        """Probabilities, float32 array [n, classes]; `X` as in `model.predict_proba`."""
        return super().predict_proba(X).numpy()
'''


def write_code(folder):
    """Write `model.py` into `folder`, beside `SubmissionModel/`."""
    code = (resources.files("competition.submission") / "submission_model.py").read_text("utf-8")
    (folder / "model.py").write_text(code + CODE, "utf-8", newline="\n")


LAYOUT = Layout("codabench", write_code, Entry("Model", with_path=False, returns="array"))
make = partial(make_submission, LAYOUT)
