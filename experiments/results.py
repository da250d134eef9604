"""Finished runs in a JSON file, one in each line, and which of them may stand in one table.

for key, runs in rows("misc/ablation.json", images=5000).items():
    print(key, [run["accuracies"] for run in runs])
"""

import base64
import json
from pathlib import Path

import numpy as np

from extras.files import write_atomically

# Below misc/, committed: rows of today's recipe, from a machine that does not compute bfloat16
FLOAT32 = "cifar10-5000-float32"
# Two runs stand in one table only where all of these are equal, and the kind of machine
SAME = [
    "data",
    "fingerprint",
    "images",
    "test_images",
    "epochs",
    "batch_size",
    "recipe",
    "precision",
]


def read(path):
    """The lines of a results file, a list of dicts; empty where there is no file."""
    path = Path(path)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def append(path, run):
    """Add a finished run to a results file. The file is written anew, and whole at any moment."""
    path = Path(path)
    lines = [json.dumps(r, ensure_ascii=False, allow_nan=False) for r in [*read(path), run]]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, ("[\n" + ",\n".join(lines) + "\n]\n").encode("utf-8"))


def rows(*paths, like=None, **wanted):
    """Choose the runs of one table: same data, images, size, recipe, precision, kind of machine.

    Args:
        paths: results files.
        like: a run, or the identity of a study, with which they belong. None: the table that was
            begun last, one with two rows or more where there is any.
        wanted: values that every run must have, such as images=5000.

    Returns:
        {key: its runs, by seed}, in the order of the file.
    """
    tables = {}
    for run in [run for path in paths for run in read(path)]:
        if all(run.get(name) == value for name, value in wanted.items()):
            table = tables.setdefault(belongs_to(run), {})
            table.setdefault(run["key"], {})[run["seed"]] = run  # of two, the newer one
    if like is not None:
        table = tables.get(belongs_to(like), {})
    else:
        several = [table for table in tables.values() if len(table) > 1]
        table = (several or [*tables.values()] or [{}])[-1]
    return {key: [runs[seed] for seed in sorted(runs)] for key, runs in table.items()}


def belongs_to(run):
    """The table that a run belongs to, as text."""
    machine = "CPU" if "thread" in run["device"] else run["device"]
    return json.dumps([machine, *(run.get(name) for name in SAME)], sort_keys=True)


def mean(runs, name):
    """Mean over the seeds of one number of the runs; of accuracies, each run has a list of one."""
    return float(np.mean([run[name] for run in runs]))


def spread(runs, name):
    """Standard deviation over the seeds; 0 where there is one."""
    return float(np.std([run[name] for run in runs], ddof=1)) if len(runs) > 1 else 0.0


def note(run):
    """Where a figure's numbers come from, in a line."""
    version = run["recipe"].get("of")
    return (
        f"{run['data']}, {run['images']:,} training images, {run['epochs']} epochs, "
        f"{run['precision']}, {run['device']}" + (f", recipe of {version}" if version else "")
    )


def pack(correct):
    """N booleans as text: bits, in base64."""
    return base64.b64encode(np.packbits(correct)).decode()


def unpack(text, n):
    """What `pack` packed: N booleans."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=n).astype(bool)
