"""What several processes gain: the same epoch by one process and by all, in turn, in one torchrun.

On a CPU two processes with one thread each; with several GPUs one process for each.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.common import Run, Sizes, alternate, goal, ratios, row, speed_row
from extras import distributed, hardware


def worker(batch_size, images, repeats, path):
    """One of the processes: rank 0 trains alone while the others wait, then all train together.

    What rank 0 learns alone, the others do not: the networks differ, and only the time counts.
    """
    with distributed.process_group():
        hardware.set_deterministic(False)  # as in any run
        sizes = Sizes(hardware.pick_device(), int(batch_size), int(images), int(repeats))
        run = Run(sizes, sizes.precisions[-1])
        whole = run.parts.train_loader.whole()
        parallel = distributed.wrap(run.parts.model)
        contestants = {
            "alone": lambda: distributed.run_on_rank0(lambda: run.epoch(loader=whole)),
            "together": lambda: run.epoch(model=parallel),
        }
        seconds = alternate(contestants, sizes.repeats, sizes.device)
        if distributed.rank() == 0:
            Path(path).write_text(json.dumps(seconds), encoding="utf-8")


def measure(sizes):
    on_cpu = sizes.device.type == "cpu"
    processes = 2 if on_cpu else torch.cuda.device_count()
    if processes < 2:
        print("scaling: there is one GPU, so there is nothing to compare")
        return [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "seconds.json")
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        numbers = [str(n) for n in (sizes.batch_size, sizes.images, sizes.repeats)]
        command = [sys.executable, *launch, "-m", "benchmarks.scaling", *numbers, str(path)]
        root = Path(__file__).parents[1]
        subprocess.run(command, check=True, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"})
        seconds = json.loads(path.read_text(encoding="utf-8"))
    threads = ", one thread each" if on_cpu else ""
    faster = ratios(seconds["alone"], seconds["together"])
    rows = [
        speed_row(f"1 process{threads}", sizes.images, seconds["alone"]),
        speed_row(f"{processes} processes{threads}", sizes.images, seconds["together"]),
        row(f"{processes} processes / 1 process", faster, "times"),
    ]
    return rows, [goal(rows[2], "at least", 1.9)] if processes == 2 else []


if __name__ == "__main__":
    worker(*sys.argv[1:])
