"""How do several processes train one network?

    torchrun --standalone --nproc-per-node=2 train.py --loader device

torchrun starts the program several times, once for each GPU. Each process takes its rows of every batch,
`DistributedDataParallel` averages the gradients, and so all of them take the same step (Li et al. 2020,
arXiv:2006.15704). A process that torchrun did not start is a group of one: every function here then gives back what it
was given, so that `train`, `test` and `fit` are the same code for one process and for eight.
"""

import contextlib
import datetime
import inspect
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

TIMEOUT = datetime.timedelta(hours=1)  # the others wait while the first one runs the range test, on a CPU for long
PATIENCE = 5  # seconds that a failing process lets the first one speak: most often all fail for the same reason

SCRIPT = Path(__file__).with_name("train.py")  # what `launch` starts

alone = False  # True while the first process does something by itself


def rank():
    """This process's number; 0 is the first, which prints, draws and writes."""
    return dist.get_rank() if dist.is_initialized() and not alone else 0


def size():
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() and not alone else 1


def devices(name):
    """For people: "2 × NVIDIA T4"."""
    return name if size() == 1 else f"{size()} × {name}"


@contextlib.contextmanager
def joined():
    """Meet the other processes that torchrun started (it tells each its RANK), and part from them at the end.

    Raises:
        ValueError: there are fewer GPUs than processes, or the port is taken.
    """
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        yield
        return
    number = int(os.environ["RANK"])
    try:
        take_gpu(int(os.environ.get("LOCAL_RANK", number)), int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        meet()
        with contextlib.ExitStack() as quiet:
            if number > 0:
                nowhere = quiet.enter_context(open(os.devnull, "w"))
                quiet.enter_context(contextlib.redirect_stdout(nowhere))
                quiet.enter_context(contextlib.redirect_stderr(nowhere))
            yield
        dist.destroy_process_group()
    except (Exception, SystemExit) as error:
        if number > 0:
            time.sleep(PATIENCE)  # when the first one has spoken and ended, torchrun ends this one as well
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            text = "another process is gone, and torchrun says which, below; the same command goes on"
            raise ConnectionError(f"{text} after the last finished epoch") from error
        raise


def take_gpu(local_rank, here):
    """One GPU for each of the `here` processes on this machine; without any GPU they share the CPU."""
    if not torch.cuda.is_available():
        if torch.backends.mps.is_available() and here > 1:
            raise ValueError("Apple's GPU cannot be shared by several processes: start train.py without torchrun")
        return
    gpus = torch.cuda.device_count()
    if here > gpus:
        raise ValueError(f"{here} processes for {gpus} GPU(s) on this machine: give torchrun --nproc-per-node={gpus}")
    torch.cuda.set_device(local_rank)  # from here on, "cuda" is this GPU


def meet():
    """Wait for the others; NCCL between GPUs, gloo between CPUs."""
    try:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    except dist.DistError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        if "EADDRINUSE" in str(error):
            raise ValueError(f"the port of {where} is in use: give torchrun another --master-port") from None
        raise ValueError(f"the processes could not meet at {where}: {str(error).splitlines()[0]}") from None


def wrap(model, *, sync_batchnorm=False):
    """The model for `train`: gradients are averaged over the processes. BatchNorm counts in its own rows only.

    Args:
        sync_batchnorm: let BatchNorm's statistics in training be those of the whole batch; CUDA only.
    """
    if size() == 1:
        return model
    if sync_batchnorm:
        if next(model.parameters()).device.type != "cuda":
            raise ValueError("--sync-batchnorm needs CUDA GPUs: leave it out on the CPU")
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    known = inspect.signature(DistributedDataParallel).parameters  # one and the same option, renamed in torch 2.14
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return DistributedDataParallel(model, **{option: False})  # `average_buffers` does it once an epoch


def unwrap(model):
    """The model itself, whose state any number of processes can load."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def share(n):
    """Which of n rows are this process's, as a slice: all are taken once, and shares differ by one row at most."""
    return slice(n * rank() // size(), n * (rank() + 1) // size())


def check_shares(batch_size, pictures, test_pictures):
    """Refuse batches in which a process would have no row."""
    rest = pictures % batch_size or batch_size
    for what, rows in (("a batch", batch_size), ("the last batch", rest), ("the test set", test_pictures)):
        if rows < size():
            raise ValueError(
                f"{what} holds {rows} pictures for {size()} processes: start fewer, or change batch size or limit"
            )


def weighted(loss, rows):
    """The mean loss over this process's rows, scaled so that the mean over processes is that of the whole batch."""
    if size() == 1:
        return loss
    everyone = total(torch.tensor(rows, device=loss.device, dtype=torch.float64))
    return loss * (size() * rows / everyone).to(loss.dtype)


def total(tensor):
    """The sum over all processes."""
    return reduced(tensor, dist.ReduceOp.SUM)


def least(tensor):
    """The minimum over all processes."""
    return reduced(tensor, dist.ReduceOp.MIN)


def reduced(tensor, operation):
    if size() == 1:
        return tensor
    tensor = tensor.clone()
    dist.all_reduce(tensor, operation)
    return tensor


def average_buffers(model):
    """Make BatchNorm's running statistics the mean of all processes'; each has seen other rows."""
    for buffer in model.buffers():
        if size() > 1 and buffer.is_floating_point():
            buffer.copy_(total(buffer) / size())


def from_first(value=None):
    """The first process's value, on every process; tensors arrive on the CPU."""
    if size() == 1:
        return value
    content = io.BytesIO()
    if rank() == 0:
        torch.save(value, content)
    box = [content.getvalue()]
    dist.broadcast_object_list(box, src=0)
    return value if rank() == 0 else torch.load(io.BytesIO(box[0]), map_location="cpu", weights_only=False)


@contextlib.contextmanager
def by_itself():
    """Inside, this process is a group of one: it takes all rows, and waits for nobody."""
    global alone
    alone = True
    try:
        yield
    finally:
        alone = False


def by_first(work):
    """Let the first process do `work`, a function, by itself; every process has its result."""
    result = None
    if rank() == 0:
        with by_itself():
            result = work()
    return from_first(result)


@contextlib.contextmanager
def first_alone():
    """The body runs on the first process, then on the others: they find what it has left on the disk."""
    if rank() > 0:
        from_first()
    yield
    if rank() == 0:
        from_first()


def begin_together(history, parts):
    """Every process begins with the first one's history and with the state of its parts; returns the history."""
    history, states = from_first((history, {name: part.state_dict() for name, part in parts.items()}))
    if rank() > 0:
        for name, part in parts.items():
            part.load_state_dict(states[name])
    return history


def torchrun(processes):
    """The command that starts a program on so many processes of this machine; the program follows."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]


def launch(processes, **options):
    """Run `train.py` on several processes from a notebook, and show what the first one prints.

    Args:
        processes: how many; one for each GPU.
        options: of the command line: batch_size=512 becomes --batch-size 512; None leaves an option out.

    Raises:
        RuntimeError: the run failed; its last words are given.
    """
    command = [*torchrun(processes), str(SCRIPT)]
    for name, value in options.items():
        command += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    environment = os.environ | dict(PYTHONUNBUFFERED="1", OMP_NUM_THREADS=threads)
    with tempfile.TemporaryFile("w+") as complaints:
        pipes = dict(stdout=subprocess.PIPE, stderr=complaints, text=True, start_new_session=True)
        with subprocess.Popen(command, env=environment, **pipes) as run:
            try:
                for line in run.stdout:
                    print(line, end="", flush=True)
            except KeyboardInterrupt:
                run.send_signal(signal.SIGINT)  # torchrun tells all processes
                raise
        complaints.seek(0)
        if run.returncode:
            raise RuntimeError(f"the run on {processes} processes failed: {cause(complaints.read())}")


def cause(complaints):
    """Our own sentence among what torchrun prints about a failed run, or which process died of what."""
    ours = re.findall(r"^train\.py: (.+)", complaints, flags=re.MULTILINE)
    dead = re.search(r"Root Cause.*?rank +: (\d+).*?exitcode +: -(\d+)", complaints, flags=re.DOTALL)
    if dead:
        return f"process {dead[1]} was ended by {signal.Signals(int(dead[2])).name}; run the same again to go on"
    return ours[-1] if ours else complaints.strip()[-500:]
