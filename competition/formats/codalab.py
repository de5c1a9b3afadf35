"""CodaLab: a zip with `model.py`, whose class `model` gets the folder that it lies in, and `metadata`.

`predict` gives class ids as an integer tensor. competition/submission_model.py is that `model.py`.
"""

import shutil
from functools import partial
from pathlib import Path

from competition import submission
from competition.rehearsal import Entry

DESCRIPTION = "description: Provides prediction model to be executed by the ingestion program"


def write_code(folder):
    """Write `model.py` and `metadata` into `folder`, beside `SubmissionModel/`."""
    shutil.copyfile(Path(submission.__file__).with_name("submission_model.py"), folder / "model.py")
    (folder / "metadata").write_text(DESCRIPTION + "\n", "utf-8")


LAYOUT = submission.Layout("codalab", write_code, Entry("model", with_path=True, returns="tensor"))
make = partial(submission.make_submission, layout=LAYOUT)
