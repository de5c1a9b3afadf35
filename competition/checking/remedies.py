"""What an error of a zip means in plain words, and how to mend it."""

import re

from competition.base.text import shorten
from competition.checking.finding import FAILED, Finding
from competition.checking.model_code import find_keyword
from competition.rehearsal.wire import show

BROKEN = {  # what RehearsalError.broke says: the check's name and how to mend it
    "zip": ("zip", "Make the zip again."),
    "network": (
        "network",
        "Scorers have no network: pack what is downloaded. Keras downloads weights where a network "
        'is built with weights="imagenet" (the default of keras.applications): say weights=None, '
        "and load your own.",
    ),
    "process": (
        "processes",
        "Do it in Python, within the process: a scorer may not allow others, nor have the command.",
    ),
    "read": ("files", "Pack the file beside model.py, and open it by `os.path.join(path, ...)`."),
    "write": (
        "files",
        "Scorers unpack the zip where nothing may be written. Compute it in memory, or write to "
        "`tempfile.gettempdir()`.",
    ),
    "time": ("time", "Predict in batches and not image by image, load in __init__ and not in predict, train nothing."),
    "memory": ("memory", "Predict in batches of 32, and keep one network in memory."),
    "crash": ("run", "The process died: most often memory, or a library that was built for another machine."),
}
_SAVED_MODEL = 'Save it as a SavedModel, `model.export("SubmissionModel")`, and load that with `tf.saved_model.load`'
ERRORS = (  # (what the text of an error says, what that means, how to mend it); the first that fits
    (
        r"\(\S+ names ([^()]+), which the scorer does not have\)",
        "it needs {0}, a path of this computer",
        "Pack the file beside model.py, and open it by `os.path.join(path, ...)`.",
    ),
    (r"No module named '([\w.]+)'", "the scorer lacks {0}", "Do without it, or pack it; a scorer installs nothing."),
    (
        r"safe_mode|deserialization of a `Lambda`",
        "the network has a Lambda layer, which is not loaded",
        "Replace it by a layer without Python code.",
    ),
    (
        r"Could not locate (?:class|function) '(\w+)|"
        r"Unknown (?:layer|object|activation|loss)[^:]*: '?(?!Functional|Sequential|Model\b)([\w>]+)",
        "the network has a layer of your own, whose code is not in model.py",
        "Copy its class into model.py and give it as custom_objects. " + _SAVED_MODEL + ", which needs neither.",
    ),
    (
        r"File format not supported",
        "Keras cannot read that file or folder",
        "A SavedModel, which is a folder, is "
        "loaded by `tf.saved_model.load`; `load_model` of Keras 3 reads .keras and .h5 alone.",
    ),
    (
        r"batch_shape|Unknown layer|keras\.src|DTypePolicy|quantization_config|Unrecognized keyword arguments?|"
        r"bad marshal data|Could not deserialize class|Unable to revive",
        "the network was saved with another Keras than the scorer has",
        _SAVED_MODEL + "; or train and save with the scorer's release of TensorFlow.",
    ),
    (
        r"objects? could not be loaded|Layer count mismatch|expected \d+ variables|Weight count mismatch|"
        r"You are trying to load a weight file",
        "the weights are those of another network than model.py builds",
        "Build exactly the network that was trained: the same layers in the same order.",
    ),
    (
        r"must have the same dtype",
        "it computes with images of whole numbers as they come",
        "Convert first: `X = tf.cast(X, tf.float32)`.",
    ),
    (
        r"_UFunc|UFuncTypeError|Cannot cast ufunc",
        "it computes in place on images of whole numbers",
        "Write `X = X / 255.0` in place of `X /= 255.0`, which images of type uint8 do not allow.",
    ),
    (r"allow_pickle", "a .npy file holds Python objects", "Save plain numbers, as float32."),
    (
        r"(takes|missing) .*positional argument",
        "something is called with another number of arguments than it takes",
        "The scorer calls `predict(X)` with the images alone.",
    ),
    (
        r"incompatible with the layer|expected shape|expected axis|could not broadcast|shapes? .*(not aligned|mismatch)|"
        r"cannot reshape|Matrix size-incompatible|mismatch in its core dimension|Dimensions must be equal",
        "the images have another shape than the network takes",
        "Resize them in predict, `tf.image.resize(X, (height, width))`, or check the size of the competition's images.",
    ),
    (
        r"MemoryError|ResourceExhausted|OOM|Unable to allocate",
        "there is not enough memory",
        "Predict in batches of 32, and keep one network in memory.",
    ),
    (
        r"requires grad|device type tensor",
        "a tensor of PyTorch is returned that is still at work",
        "Predict within `with torch.no_grad():`, and return `labels.cpu().numpy()`.",
    ),
    (
        r"has no attribute 'numpy'|numpy\(\)",
        "an array is treated as a tensor",
        "Take `np.asarray(...)` in place of `.numpy()`.",
    ),
    (r"name '(\w+)' is not defined", "{0} is used and defined nowhere", "Import or define it in model.py."),
)
PATHS = (
    r"filepath=(\S+?)\.?(?:\s|$)",
    r"name = '([^']+)'",
    r"at: (\S+?)/?\{",
    r"(/\S+); No such file",
    r"'([^'\n]+)'",
)  # in such a text
LONGEST = 8000  # signs of a text that is looked into: the time for some grows with their square
MISSING = re.compile(r"No such file|not found|does not exist|[Uu]nable to (synchronously )?open|cannot find", re.S)


def explain_error(error, read):
    """The Finding that a RehearsalError is, in plain words."""
    if error.broke != "error":
        check, advice = BROKEN[error.broke]
        if error.broke == "network" and (where := find_keyword(read, "weights", "imagenet")):
            advice = f'{where} has weights="imagenet", which are downloaded: say weights=None there, and load your own.'
        return Finding(check, FAILED, str(error), advice)
    kind, text, trace = (show(error.error[key], LONGEST) for key in ("type", "text", "trace"))
    first = (text.strip().splitlines() or [kind])[0][:160]
    where = _where(trace)
    if MISSING.search(text) and (found := _explain_missing(text, read)):
        return Finding("files", FAILED, found[0] + where, found[1])
    for pattern, meaning, advice in ERRORS:
        if match := re.search(pattern, f"{kind}: {text}"):
            return Finding(
                "run", FAILED, f"{meaning.format(*match.groups())}{where}", f"{advice} Python said: {kind}: {first}"
            )
    doing = {"import": "while model.py is imported", "load": "while the object is made", "predict": "in predict"}
    return Finding(
        "run",
        FAILED,
        f"it fails {doing.get(error.stage, 'when it is run')}{where}: {kind}: {first}",
        "Try it in a new folder and a fresh Python: "
        f"`import model; model.{read.entry.class_name}({'path' * read.entry.with_path}).predict(X)`.",
    )


def _where(trace):
    """The last line of the zip's own code in a traceback: " (model.py, line 3)"."""
    lines = re.findall(r'File "[^"]*/zip/([^"]+)", line (\d+)', trace)
    return f" ({lines[-1][0]}, line {lines[-1][1]})" if lines else ""


def _explain_missing(text, read):
    """What an error about a missing file means, and a remedy; None where the text names no file."""
    match = next(filter(None, (re.search(pattern, text) for pattern in PATHS)), None)
    if not match:
        return None
    wanted = match[1].rstrip("/")
    inside = wanted.partition("/zip/")[2] if "/zip/" in wanted else None
    name = (inside or wanted).split("/")[-1]
    there = [other for other in read.names if name in other.split("/")]
    how = (
        '`os.path.join(path, "{}")` with the path that __init__ gets'
        if read.entry.with_path
        else '`os.path.join(os.path.dirname(os.path.abspath(__file__)), "{}")`'
    )
    if wanted.startswith("/") and inside is None:
        return (f"it opens {wanted}, a path of another computer", f"Pack the file and open it by {how.format(name)}.")
    if there and inside is None:
        return (
            f"it opens {wanted} where the scorer happens to stand, and not where the zip lies",
            f"The file is in the zip: open it by {how.format(wanted)}.",
        )
    if there:
        return (f"it opens {inside}, which lies at {shorten(there, 2)} in the zip", "Mend the path, or the folder.")
    return (
        f"it opens {inside or wanted}, which is not in the zip",
        f"Pack it beside model.py, and open it by {how.format(name)}.",
    )
