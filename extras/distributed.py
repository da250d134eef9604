"""Several processes train one network: what PyTorch and torchrun do not do already.

    torchrun --standalone --nproc-per-node=2 main.py

torchrun starts main.py several times, once for each GPU. A process's number is its rank. Each takes
its rows of every batch, DistributedDataParallel averages the gradients, and all take the same step
(Li et al. 2020, arXiv:2006.15704). With equal shares that is the gradient of the whole batch;
BatchNorm sees a process's own rows. Rank 0 alone prints, reads and writes.
"""

import contextlib
import datetime
import io
import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

TIMEOUT = datetime.timedelta(hours=1)  # the others wait while rank 0 runs the range test


def rank():
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size():
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextlib.contextmanager
def process_group(device=None):
    """Join the processes that torchrun started (it sets RANK), and leave them at the end.

    device: what they compute on; None: CUDA where there is a GPU, else the CPU.

    Raises ValueError where they cannot meet, or are more than the machine has GPUs.
    """
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        yield
        return
    kind = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")).type
    check_gpus(kind, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))  # "cuda" means this one now
    try:
        backend = "nccl" if kind == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT)
    except dist.DistError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"the processes could not meet ({reason}): give torchrun another --master-port"
        ) from None
    try:
        with only_rank_0_prints():
            yield
    finally:
        dist.destroy_process_group()


def check_gpus(kind, processes):
    """Refuse more processes on this machine than it has GPUs; on a CPU any number will do."""
    if kind == "mps" and processes > 1:
        raise ValueError("Apple's GPU cannot be shared: start main.py without torchrun")
    gpus = torch.cuda.device_count()
    if kind == "cuda" and processes > gpus:
        raise ValueError(
            f"{processes} processes for {gpus} GPU(s) on this machine: give --nproc-per-node={gpus}"
        )


@contextlib.contextmanager
def only_rank_0_prints():
    if rank() == 0:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def wrap(model, *, sync_batchnorm=False):
    """The model for `train.train`: its gradients are averaged over the processes.

    sync_batchnorm: BatchNorm's statistics in training are those of the whole batch, not of each
    process's rows. Otherwise its running statistics are rank 0's.
    """
    if world_size() == 1:
        return model
    if sync_batchnorm:
        if next(model.parameters()).device.type != "cuda":
            raise ValueError("--sync-batchnorm needs CUDA GPUs: leave it out on a CPU")
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return DistributedDataParallel(model)


def broadcast(value=None):
    """Rank 0's value, on every process; tensors arrive on the CPU."""
    if world_size() == 1:
        return value
    content = io.BytesIO()
    if rank() == 0:
        torch.save(value, content)
    box = [content.getvalue()]
    dist.broadcast_object_list(box, src=0)
    if rank() == 0:
        return value
    return torch.load(io.BytesIO(box[0]), map_location="cpu", weights_only=False)


def run_on_rank0(work):
    """Let rank 0 call `work`, a function, while the others wait; every process gets its result."""
    return broadcast(work() if rank() == 0 else None)


def start_together(history, parts):
    """Give every process the history of rank 0 and the state of its parts; returns the history.

    parts: model, optimizer … by name, see `train.fit`.
    """
    states = {name: part.state_dict() for name, part in parts.items()}
    history, states = broadcast((history, states))
    if rank() > 0:
        for name, part in parts.items():
            part.load_state_dict(states[name])
    return history


def average(row):
    """An epoch's row of the history: training loss and accuracy averaged, the rest is rank 0's.

    The shares are equal (the last batch of some data sets differs by an image), so the average over
    the processes is that over the images. Rank 0 evaluates what it saves.
    """
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"  # NCCL sums on GPUs alone
    sums = torch.tensor([row["train_loss"], row["train_acc"]], dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    train_loss, train_acc = (sums / world_size()).tolist()
    return broadcast({**row, "train_loss": train_loss, "train_acc": train_acc})


def torchrun(processes, arguments, main=Path(__file__).parents[1] / "main.py"):
    """Start `torchrun main.py` from a notebook, on several GPUs, and show what it prints."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", str(main), *arguments]
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(
        command,
        env=environment,
        text=True,
        encoding="utf-8",
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as run:
        for line in run.stdout:  # a notebook shows what Python prints, not what a child does
            print(line, end="", flush=True)
    if run.returncode:
        raise RuntimeError(
            f"the run on {processes} processes failed, see above; run this again to go on with it"
        )
