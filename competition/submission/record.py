"""The record beside an output, and how that of a zip is printed."""

import pandas as pd

from competition.base.files import sha256_file, versions
from competition.base.metrics import accuracy, log_loss
from competition.base.text import text_table
from competition.base.workspace import OOF_NPZ, RUN_JSON
from competition.blending.forecast_report import print_forecast
from competition.rehearsal.sandbox import NONE


def record_of(path, ensemble, table, format):
    """The record beside an output: format, file, members with the hashes of their files, fold table, versions."""
    members = [
        {
            "run": run.name,
            "weight": weight,
            "model": run.config["model"],
            "frozen": run.frozen,
            "folds": len(ensemble.folds or range(table.k)),
            "files": {
                file.relative_to(run.dir).as_posix(): sha256_file(file)
                for file in [run.dir / RUN_JSON, run.dir / OOF_NPZ, *run.weight_files(table.k)]
            },
        }
        for run, weight in ensemble.members
    ]
    return {
        "format": format,
        path.suffix[1:]: path.name,
        "sha256": sha256_file(path),
        "bytes": path.stat().st_size,
        "source": ensemble.source,
        "members": members,
        "views": ensemble.views,
        "temperature": ensemble.temperature,
        "weights": "float16" if ensemble.half else "float32",
        "metric": table.metric,
        "forecast": ensemble.forecast,
        "classes": {str(number): label for number, label in enumerate(table.classes)},
        "size": list(table.size),
        "table": table.hash,
        "data": table.data_hash,
        "oof_accuracy": accuracy(ensemble.oof, table.labels),
        "oof_log_loss": log_loss(ensemble.oof, table.labels),
        "versions": versions(),
    }


def print_record(path, record):
    """Print what is in a zip, what its rehearsal found and its forecast."""
    members = [
        {
            "member": member["run"],
            "weight": f"{member['weight']:.2f}",
            "folds": member["folds"],
            "network": "one frozen backbone, a head a fold" if member["frozen"] else "one a fold",
        }
        for member in record["members"]
    ]
    print(f"{path}: {record['source']}; views {', '.join(record['views'])}\n")
    print(text_table(pd.DataFrame(members)), end="\n\n")
    rows = describe_rehearsal(record)
    width = max(map(len, rows))
    print("\n".join(f"{key:<{width}}  {value}" for key, value in rows.items()))
    if record["forecast"]:
        print()
        print_forecast(record["forecast"], list(record["classes"].values()))


def describe_isolation(level):
    """How a zip's code was kept apart from this machine, in words."""
    if level == NONE.words:
        return f"{NONE.words}: native code could have reached what you can"
    return f"by {level}: it saw no file of yours, no process and no network"


def describe_rehearsal(record):
    """What the rehearsal of a zip found, in words: {what was looked at: what was found}."""
    found = record["rehearsal"]
    return {
        "rehearsed": f"{found['images']} training images, in a fresh and isolated process, on the CPU, by "
        f"{found['scorer']} ({', '.join(f'{key} {value}' for key, value in found['versions'].items())})",
        "denied": f"network ({found['no_network']}), writing to its folder, this project, files elsewhere, processes: "
        "its Python code asked for none, and its files are as they were",
        **({"kept apart": describe_isolation(found["isolated"])} if "isolated" in found else {}),
        "calls": ", ".join(found["calls"]) + "".join(f"; left out: {what}" for what in found["left_out"]),
        "repeated": "a second call and a second fresh process give the same labels and probabilities (to "
        f"{found['processes_differ']:.1g})",
        "inside": "no pickle, Lambda or Python function, no path of this machine or folder of its user",
        "labels": f"equal to the toolkit's own average ({found['near_ties']} near-ties left aside)",
        "probabilities": f"differ by {found['probabilities_differ']:.1g} at most (from the stored OOF: "
        f"{found['oof_differs']:.1g})",
        "size": f"{record['bytes'] / 1e6:.1f} MB"
        + (
            f"; weights are float16, which changes probabilities by up to {found['float16_differs']:.1g} and "
            f"{found['float16_labels']} labels of {found['images']}"
            if "float16_differs" in found
            else ""
        ),
        "speed": f"{found['load_seconds']:.1f} s to load, {found['warm_seconds']:.1f} s more for the first call, "
        f"{found['images_a_second']:.0f} images a second; "
        f"{found['hidden_seconds']:.0f} s for {found['hidden_n']} hidden images",
        "memory": f"{found['peak_bytes'] / 1e6:.0f} MB at most; {found['hidden_bytes'] / 1e6:.0f} MB with "
        f"{found['hidden_n']} hidden images as float32",
        "stands on": f"OOF accuracy {record['oof_accuracy']:.4f}, log-loss {record['oof_log_loss']:.4f}",
    }
