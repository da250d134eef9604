"""What two processes gain: an epoch of the same batches with one process and with several, in turn,
in one torchrun.

On a CPU two processes with one thread each; with several GPUs one process for each.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import torch

import train
from benchmarks.common import (
    HERE,
    Size,
    alternate,
    build,
    command,
    epoch,
    goal,
    ratios,
    row,
    speed_row,
)
from extras import distributed
from extras import settings as st


def worker(batch, steps, repeats, path):
    """One of the processes: rank 0 trains alone while the others wait, then all together; rank 0
    writes the seconds.

    What rank 0 learns alone, the others do not: the networks differ, and only the time counts.
    """
    st.set_deterministic(False)
    with distributed.process_group():
        size = Size(st.pick_device())
        parts = build(size, batch * steps, batch=batch)
        train_epoch, parallel = epoch(parts, size), distributed.wrap(parts.model)

        def alone():
            with mock.patch.object(
                train, "world_size", lambda: 1
            ):  # or it would wait for the others' sums
                train_epoch(parts.train_loader.whole())

        contestants = dict(
            alone=lambda: distributed.run_on_rank0(alone),
            together=lambda: train_epoch(model=parallel),
        )
        seconds = alternate(contestants, repeats, size.device)
        if distributed.rank() == 0:
            Path(path).write_text(json.dumps(seconds))


def measure(size):
    on_cpu = size.device.type == "cpu"
    processes = 2 if on_cpu else torch.cuda.device_count()
    if processes < 2:
        print("  there is one GPU: nothing to compare")
        return [], []
    # One thread alone is half as fast, so 9 seconds of this machine are 18. Small batches gain
    # less: the exchange of the gradients takes as long whatever the number of images.
    batch = 8 if size.tiny else size.images(9, most=512, batch=64)
    steps = 1 if on_cpu else 49
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "seconds.json")
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        numbers = [str(number) for number in (batch, steps, size.repeats(3))]
        subprocess.run(
            [
                sys.executable,
                *launcher,
                "-m",
                "benchmarks.scaling",
                "--worker",
                *numbers,
                str(path),
            ],
            check=True,
            cwd=HERE.parent,
            env=os.environ | dict(OMP_NUM_THREADS="1"),
        )
        found = json.loads(path.read_text())
    threads = ", one thread each" if on_cpu else ""
    rows = [speed_row(f"1 process{threads}", batch * steps, found["alone"])]
    rows.append(speed_row(f"{processes} processes{threads}", batch * steps, found["together"]))
    rows.append(
        row(
            f"{processes} processes / 1 process", ratios(found["alone"], found["together"]), "times"
        )
    )
    rows.append(row("batch", batch, "images"))
    return rows, [goal(rows[2], "at least", 1.9)] if processes == 2 else []


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(*(int(number) for number in sys.argv[2:5]), sys.argv[5])
    else:
        command("scaling", measure)
