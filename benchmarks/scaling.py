"""What do several processes gain, and how many GPUs are worth it?

Pictures a second with one process and with several, measured side by side; then a plain calculation, from the measured
step and the bytes that all-reduce moves, for other numbers and networks. See benchmarks/README.md.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import distributed
from benchmarks.common import Trainer, alternate, goal, main, noise_data, ratio, row, rows_of
from loader import DeviceLoader
from settings import pick_device, set_deterministic
from train import one_cycle, train

SIZES = dict(
    tiny=dict(batch=8, steps=1, repeats=1),
    cpu=dict(batch=512, steps=1, repeats=3),
    cuda=dict(batch=512, steps=49, repeats=9),
)
WARMUPS = 1
# Bytes a second that one GPU can send at the same time as it receives: nominal, an all-reduce reaches less
NETWORKS = {"PCIe 4.0 x16, 32 GB/s": 32e9, "NVLink 4, 450 GB/s": 450e9, "100 Gb/s network": 12.5e9}
NUMBERS = (2, 8, 64)
LATENCY = 20e-6  # seconds a message; a ring sends 2 (N - 1) of them one after the other


def all_reduce_seconds(bytes_moved, number, bandwidth):
    """A ring: every GPU sends 2 (N - 1) / N times the gradients (Patarasuk and Yuan 2009)."""
    return 2 * (number - 1) / number * bytes_moved / bandwidth + 2 * (number - 1) * LATENCY


def calculated(step, gradients):
    """Rows: how many times as fast N GPUs would be, and the step on one GPU from which on N are worth it.

    Worth it: at least half as fast for each GPU as one alone. Nothing of the all-reduce is taken to hide behind the
    backward pass, as it does in truth, so this is the least to expect.
    """
    for network, bandwidth in NETWORKS.items():
        for number in NUMBERS:
            move = all_reduce_seconds(gradients, number, bandwidth)
            yield row(f"calculated: {number} on {network}", step / (step / number + move), "times")
            yield row(f"calculated: {number} on {network} are worth it from a step of", 1000 * number * move, "ms")


def worker(sizes, path):
    """One of the processes: the first trains alone, then all together, in turn; it writes the seconds."""
    device = pick_device()
    set_deterministic(False)
    if device.type == "cpu":
        torch.set_num_threads(1)
    with distributed.joined():
        trainer, batch, steps = Trainer(device), sizes["batch"], sizes["steps"]
        loader = DeviceLoader(noise_data(batch * steps).train, batch, device, dtype=trainer.dtype)
        parallel = distributed.wrap(trainer.model)

        def epoch(model):
            scheduler = one_cycle(trainer.optimizer, 1e-3, steps, 1000)
            options = dict(scaler=trainer.scaler, dtype=trainer.dtype)
            train(model, device, loader, trainer.optimizer, trainer.criterion, scheduler, **options)

        contestants = dict(
            alone=lambda: distributed.by_first(lambda: epoch(trainer.model)), together=lambda: epoch(parallel)
        )
        seconds = alternate(contestants, sizes["repeats"], device, WARMUPS)
        gradients = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
        if distributed.rank() == 0:
            Path(path).write_text(json.dumps(seconds | dict(gradients=gradients)))


def measure(device, sizes):
    number = torch.cuda.device_count() if device.type == "cuda" else 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seconds.json"
        worker_command = ["-m", "benchmarks.scaling", "--worker", json.dumps(sizes), str(path)]
        command = [*distributed.torchrun(number), *worker_command]
        subprocess.run(command, check=True, env=os.environ | dict(OMP_NUM_THREADS="1"))
        found = json.loads(path.read_text())
    pictures, batch = sizes["batch"] * sizes["steps"], sizes["batch"]
    alone, together = found["alone"], found["together"]
    threads = "" if device.type == "cuda" else ", one thread each"
    rows = [
        rows_of(f"1 process, batch {batch}{threads}", alone, "pictures/s", pictures),
        rows_of(f"{number} processes, batch {batch}{threads}", together, "pictures/s", pictures),
        row(f"{number} processes / 1 process", ratio(alone, together), "times"),
        row("gradients, all-reduced each step", found["gradients"] / 1e6, "MB"),
    ]
    step = 512 / rows[0]["value"]  # the assignment's batch on one process
    rows.append(row("a step of 512 pictures on 1 process", step, "s"))
    rows += calculated(step, found["gradients"])
    goals = [goal("2 processes / 1 process", "at least", 1.8, rows[2]["value"])] if number == 2 else []
    return rows, goals


if __name__ == "__main__":
    if "--worker" in sys.argv:
        worker(json.loads(sys.argv[2]), sys.argv[3])
    else:
        main("scaling", measure, SIZES)
