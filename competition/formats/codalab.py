"""CodaLab: a zip with `model.py`, whose class `model` gets the folder that it lies in, and `metadata`.

`predict` gives class ids as an integer tensor. competition/submission/submission_model.py is that `model.py`.
"""

from functools import partial
from importlib import resources

from competition.rehearsal.rehearsal import Entry
from competition.submission.make_zip import make_submission
from competition.submission.package import Layout

DESCRIPTION = "description: Provides prediction model to be executed by the ingestion program"


def write_code(folder):
    """Write `model.py` and `metadata` into `folder`, beside `SubmissionModel/`."""
    (folder / "model.py").write_bytes((resources.files("competition.submission") / "submission_model.py").read_bytes())
    (folder / "metadata").write_text(DESCRIPTION + "\n", "utf-8", newline="\n")


LAYOUT = Layout("codalab", write_code, Entry("model", with_path=True, returns="tensor"))
make = partial(make_submission, LAYOUT)
