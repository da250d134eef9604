"""Several processes that train one network (torchrun), as far as PyTorch does not do it already.

    torchrun --standalone --nproc-per-node=2 main.py

torchrun starts main.py several times, once for each GPU. Each process (rank) takes its rows of
every batch, DistributedDataParallel averages the gradients, and all take the same step (Li et al.
2020, arXiv:2006.15704). Without torchrun every function here gives back what it was given.
"""

import contextlib
import datetime
import inspect
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
def process_group():
    """Join the processes that torchrun started (it sets RANK), and leave them at the end."""
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        yield
        return
    here, local_rank = (
        int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        int(os.environ.get("LOCAL_RANK", 0)),
    )
    if torch.backends.mps.is_available() and here > 1:
        raise ValueError(
            "Apple's GPU cannot be shared by several processes: start main.py without torchrun"
        )
    if torch.cuda.is_available():
        if here > torch.cuda.device_count():
            gpus = torch.cuda.device_count()
            raise ValueError(
                f"{here} processes for {gpus} GPU(s) on this machine: give --nproc-per-node={gpus}"
            )
        torch.cuda.set_device(local_rank)  # from here on, "cuda" is this GPU
    try:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    except dist.DistError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"the processes could not meet ({reason}): give torchrun another --master-port"
        ) from None
    try:
        yield
    finally:
        dist.destroy_process_group()


def wrap(model, *, sync_batchnorm=False):
    """The model for `train.train`: its gradients are averaged over the processes.

    sync_batchnorm: BatchNorm's statistics in training are those of the whole batch, not of each
    process's rows.
    """
    if world_size() == 1:
        return model
    if sync_batchnorm:
        if next(model.parameters()).device.type != "cuda":
            raise ValueError("--sync-batchnorm needs CUDA GPUs: leave it out on a CPU")
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    # train.average_buffers does it once an epoch; torch 2.14 has renamed the option
    known = inspect.signature(DistributedDataParallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return DistributedDataParallel(model, **{option: False})


def broadcast(value=None):
    """Rank 0's value, on every process; tensors arrive on the CPU."""
    if world_size() == 1:
        return value
    content = io.BytesIO()
    if rank() == 0:
        torch.save(value, content)
    box = [content.getvalue()]
    dist.broadcast_object_list(box, src=0)
    return (
        value
        if rank() == 0
        else torch.load(io.BytesIO(box[0]), map_location="cpu", weights_only=False)
    )


def run_on_rank0(work):
    """Let rank 0 call `work`, a function, while the others wait; every process gets its result."""
    return broadcast(work() if rank() == 0 else None)


def start_together(history, parts):
    """Give every process the history of rank 0 and the state of its parts (see `train.fit`);
    returns the history.
    """
    history, states = broadcast(
        (history, {name: part.state_dict() for name, part in parts.items()})
    )
    if rank() > 0:
        for name, part in parts.items():
            part.load_state_dict(states[name])
    return history


def torchrun(processes, arguments, main=Path(__file__).parents[1] / "main.py"):
    """Train on several GPUs from a notebook: start `torchrun main.py` with these arguments and show
    what it prints.
    """
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
    ]
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    environment = os.environ | dict(OMP_NUM_THREADS=threads, PYTHONUNBUFFERED="1")
    with subprocess.Popen(
        [*launcher, str(main), *arguments],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as run:
        for (
            line
        ) in run.stdout:  # a notebook shows what Python prints, not what a child process does
            print(line, end="", flush=True)
    if run.returncode:
        raise RuntimeError(
            f"the run on {processes} processes failed, see above; running this again goes on with it"
        )
