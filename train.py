"""How does the network learn? One epoch, the one-cycle policy, and a whole run that can be cut and resumed.

    python train.py                                   # CIFAR-10 (or the sample), full on a GPU, quick without one
    python train.py --data photos/ --profile full     # a folder with train/<class>/* and test/<class>/*
    torchrun --standalone --nproc-per-node=2 train.py --loader device    # two GPUs, or two CPU processes
    python train.py --help

`train` and `fit` take any model, loader, optimizer, criterion and scheduler:

    from train import train, fit, one_cycle
    loss, accuracy = train(model, device, train_loader, optimizer, criterion, scheduler)   # one epoch
"""

import contextlib
import math
import sys
import time

import torch
from torch import nn
from tqdm import tqdm

import distributed
from lr_finder import DIVISOR, Interrupted
from lr_finder import find_lr as find_lr  # train.find_lr: whoever takes train.py along finds it here
from test import explained, test, to_device

NEVER = 2**62  # a step that is never reached
PEAK = 5 / 24  # LRMAX is reached at the end of epoch 5 of 24
RECIPE = dict(optimizer="Adam", weight_decay=0.05, betas=[0.9, 0.99], label_smoothing=0.1)


class TrainingDiverged(ArithmeticError):
    """The loss became NaN or infinite."""


class Tally:
    """Loss and hits of an epoch, summed on the device: reading them back makes the host wait, so `read` seldom."""

    def __init__(self, device):
        self.loss = torch.zeros((), device=device)
        self.hits = torch.zeros((), device=device, dtype=torch.int64)
        self.count = 0
        self.bad_loss, self.bad_pixels = (torch.full((), NEVER, device=device) for _ in range(2))  # first bad steps
        self.lrs = []

    def add(self, loss, output, pictures, labels, lr):
        step = len(self.lrs)
        self.lrs.append(lr)
        self.loss += loss.detach() * len(labels)
        self.hits += (output.detach().argmax(dim=1) == labels).sum()
        self.count += len(labels)
        self.bad_loss = first_bad(self.bad_loss, loss.detach(), step)
        self.bad_pixels = first_bad(self.bad_pixels, pictures.sum(dtype=torch.float32), step)

    def read(self):
        """(mean loss, accuracy in per cent) so far, of all processes; raises TrainingDiverged where a loss was NaN."""
        step, pixels = (int(distributed.least(bad)) for bad in (self.bad_loss, self.bad_pixels))
        if pixels < NEVER and pixels <= step:
            raise TrainingDiverged(
                f"a picture of step {pixels + 1} holds NaN or infinite pixels: check the data and its transform"
            )
        if step < NEVER:
            raise TrainingDiverged(
                f"the loss is NaN or infinite at step {step + 1}, learning rate {self.lrs[step]:.2g}: "
                "take a smaller LRMAX (a tenth, say), and check that the labels fit the pictures"
            )
        count = torch.tensor(self.count, device=self.hits.device)
        loss, hits, count = (distributed.total(part) for part in (self.loss, self.hits, count))
        return float(loss) / int(count), 100 * int(hits) / int(count)


def first_bad(so_far, value, step):
    """Remember on the device, without waiting for it, the first step whose value is not finite."""
    return torch.where((so_far == NEVER) & ~torch.isfinite(value), step, so_far)


def train(
    model,
    device,
    train_loader,
    optimizer,
    criterion,
    scheduler=None,
    *,
    scaler=None,
    dtype=torch.float32,
    title="train",
):
    """Train for one epoch; under torchrun together with the other processes (see `distributed.py`).

    Args:
        model: (B, …) -> (B, C) scores; left in training mode. Under torchrun: from `distributed.wrap`.
        device: where the model is.
        train_loader: yields (inputs, labels); the last batch may be smaller.
        optimizer, criterion: PyTorch's or your own; the criterion gives the mean loss of a batch.
        scheduler: stepped after every batch, as `one_cycle` wants it. Step a scheduler by the epoch yourself.
        scaler: a `torch.amp.GradScaler`, needed for float16 only.
        dtype: torch.bfloat16 or float16 for mixed precision.
        title: before the progress bar.

    Returns:
        (mean loss, accuracy in per cent) over the epoch, in training mode and as the weights moved.

    Raises:
        TrainingDiverged: a loss was NaN or infinite; step and learning rate are named.
        ValueError, MemoryError: the batch does not fit the network, the labels or the memory; the cure is named.
    """
    model.train()
    scaler = scaler or torch.amp.GradScaler(enabled=False)
    tally, kind = Tally(device), torch.device(device).type
    every = max(1, len(train_loader) // 4)  # steps between two read-backs
    for step, (pictures, labels) in enumerate(progress(train_loader, title), start=1):
        with explained(labels):
            pictures, labels = to_device(pictures, labels, device)
            with torch.autocast(kind, dtype, enabled=dtype != torch.float32):
                output = model(pictures)
                loss = criterion(output, labels)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(distributed.weighted(loss, len(labels))).backward()
            tally.add(loss, output, pictures, labels, optimizer.param_groups[0]["lr"])
            scaler.step(optimizer)
            scaler.update()
        if scheduler is not None:
            scheduler.step()
        if step % every == 0:
            tally.read()
    if tally.count == 0:
        raise ValueError("the training loader is empty: there is nothing to learn from")
    distributed.average_buffers(model)
    return tally.read()


def progress(loader, title):
    """A plain text bar: a widget leaves behind what GitHub cannot show. None where nobody watches, as in a log."""
    watched = sys.stdout.isatty() or "ipykernel" in sys.modules
    return tqdm(loader, desc=title, file=sys.stdout, leave=False, disable=not watched, mininterval=1, ncols=80)


def one_cycle(optimizer, lr_max, steps_per_epoch, epochs=24, *, peak=PEAK):
    """The one-cycle policy (Smith and Topin 2017, arXiv:1708.07120), without annihilation.

    The rate rises in a straight line from LRMIN = LRMAX / 100 at the first step to LRMAX at the last step of epoch 5
    of 24, and falls in a straight line back to LRMIN at the last step. Adam's beta1 goes the other way,
    0.95 -> 0.85 -> 0.95, whatever it was. Call `scheduler.step()` after every batch.

    Args:
        lr_max: LRMAX.
        steps_per_epoch: batches an epoch, `len(train_loader)`.
        epochs: epochs of the whole cycle.
        peak: share of the steps after which LRMAX is reached; rounded to a whole step.

    Returns:
        A `torch.optim.lr_scheduler.OneCycleLR`.
    """
    total = steps_of_cycle(steps_per_epoch, epochs)
    top = min(max(round(peak * total), 2), total - 1)  # OneCycleLR reaches its peak only where this is whole
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        lr_max,
        total_steps=total,
        pct_start=top / total,
        anneal_strategy="linear",
        div_factor=DIVISOR,
        final_div_factor=1,
    )


def cycle_curve(lr_max, steps_per_epoch, epochs=24, *, peak=PEAK):
    """Learning rate and beta1 of every step of a cycle, without training: two lists, a number for each step."""
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))])
    scheduler = one_cycle(optimizer, lr_max, steps_per_epoch, epochs, peak=peak)
    lrs, betas = [], []
    for _ in range(epochs * steps_per_epoch):
        lrs.append(optimizer.param_groups[0]["lr"])
        betas.append(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        scheduler.step()
    return lrs, betas


def steps_of_cycle(steps_per_epoch, epochs):
    """Steps of the whole cycle: it must go up and down again, so 3 at least."""
    if epochs * steps_per_epoch < 3:
        raise ValueError(
            f"{epochs} epochs of {steps_per_epoch} batches make {epochs * steps_per_epoch} steps; "
            "one cycle needs 3 or more: take more epochs, more pictures or a smaller batch size"
        )
    return epochs * steps_per_epoch


def make_optimizer(model, recipe=RECIPE):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017, arXiv:1711.05101); none on BatchNorm and biases."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    free = [p for p in model.parameters() if p.ndim <= 1]
    groups = [dict(params=decayed, weight_decay=recipe["weight_decay"]), dict(params=free, weight_decay=0.0)]
    return torch.optim.Adam(groups, betas=tuple(recipe["betas"]), decoupled_weight_decay=True, fused=True)


def make_criterion(recipe=RECIPE):
    """Cross entropy with label smoothing (Szegedy et al. 2015, arXiv:1512.00567)."""
    return nn.CrossEntropyLoss(label_smoothing=recipe["label_smoothing"])


def fit(
    model, device, train_loader, test_loader, optimizer, criterion, scheduler, epochs,
    *, by_epoch=False, dtype=torch.float32, seed=0, checkpoint=None, log=print,
):  # fmt: skip
    """Train for whole epochs, evaluate after each, and go on where a checkpoint left off.

    Args:
        scheduler: stepped after every batch, as `one_cycle` wants it, or None.
        by_epoch: step it after every epoch instead, as StepLR and its like want it.
        epochs: of the whole run, the finished ones of a checkpoint counted in.
        seed: PyTorch's global generator is set from (seed, epoch), for models that draw numbers themselves (dropout).
        checkpoint: a `checkpoint.Checkpoint`, or None to keep nothing. Under torchrun only the first process has one.
        log: takes one line of text an epoch.
        Others: see `train`.

    Returns:
        A list of dicts, one an epoch: epoch, train_loss, train_acc, test_loss, test_acc (per cent), lr (of its
        last step), seconds.

    Raises:
        TrainingDiverged: epoch, step and learning rate are named; the checkpoint of the epoch before is kept.
    """
    scaler = torch.amp.GradScaler(torch.device(device).type, enabled=dtype == torch.float16)
    network = distributed.unwrap(model)
    parts = dict(model=network, optimizer=optimizer, scaler=scaler) | ({"scheduler": scheduler} if scheduler else {})
    history = begin(checkpoint, parts)
    for row in history:
        log(epoch_line(row, epochs))  # so that a run in pieces shows all of its epochs
    rates = []  # of every step; once an epoch is over, the scheduler has moved on to the next
    for epoch in range(len(history) + 1, epochs + 1):
        began, batches = time.perf_counter(), Stopwatch(train_loader)
        torch.manual_seed(1_000_003 * seed + epoch + 7919 * distributed.rank())
        if hasattr(train_loader, "set_epoch"):
            train_loader.set_epoch(epoch)
        note_rate = optimizer.register_step_post_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
        with failures_named(epoch, checkpoint, log), note_rate:
            options = dict(scaler=scaler, dtype=dtype, title=f"epoch {epoch}/{epochs}")
            each_batch = None if by_epoch else scheduler
            train_loss, train_acc = train(model, device, batches, optimizer, criterion, each_batch, **options)
            trained = time.perf_counter() - began
            test_loss, test_acc = test(network, device, test_loader, criterion, dtype=dtype)
            if not math.isfinite(test_loss):  # the last step can ruin the weights after its loss was measured
                raise TrainingDiverged(f"the test loss is {test_loss}: take a smaller LRMAX or check the test pictures")
        row = dict(epoch=epoch, train_loss=train_loss, train_acc=train_acc, test_loss=test_loss, test_acc=test_acc)
        history.append(row | dict(lr=float(rates[-1]), seconds=time.perf_counter() - began))
        if by_epoch and scheduler is not None:
            scheduler.step()
        if checkpoint is not None:
            checkpoint.save(history=history, **{name: part.state_dict() for name, part in parts.items()})
        log(epoch_line(history[-1], epochs))
        if epoch == 1 and batches.seconds > 0.2 * trained:
            log(
                f"the network waited for pictures {batches.seconds / trained:.0%} of this epoch; "
                'loader="device" removes that'
            )
    return history


def begin(checkpoint, parts):
    """Put every part into the checkpoint's state, or store theirs where it has none; returns the history so far."""
    history = []
    if checkpoint is not None:
        if "model" not in checkpoint.state:
            checkpoint.save(**{name: part.state_dict() for name, part in parts.items()})
        history = checkpoint.restore(**parts)
    return distributed.begin_together(history, parts)


@contextlib.contextmanager
def failures_named(epoch, checkpoint, log):
    """Say which epoch was interrupted or went wrong, and what is kept of the run."""
    epochs = "epoch is" if epoch == 2 else "epochs are"
    kept = f"{epoch - 1} finished {epochs} kept in {checkpoint.path}" if checkpoint else "nothing is kept of the run"
    try:
        yield
    except KeyboardInterrupt:
        log(f"interrupted: epoch {epoch} is dropped; {kept}" + (": run the same again to go on" if checkpoint else ""))
        raise Interrupted from None
    except TrainingDiverged as error:
        raise TrainingDiverged(f"epoch {epoch}: {error}; {kept}") from None


class Stopwatch:
    """A loader that measures how long its batches are waited for: `seconds`."""

    def __init__(self, loader):
        self.loader, self.seconds = loader, 0.0

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        batches = iter(self.loader)
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - began
            if batch is None:
                return
            yield batch


def epoch_line(row, epochs):
    """One finished epoch as a line of text, short enough for JupyterLab not to break it: loss, accuracy, rate, time."""
    return (
        f"epoch {row['epoch']:2d}/{epochs}   train loss {row['train_loss']:.4f}, {row['train_acc']:5.2f} %   "
        f"test loss {row['test_loss']:.4f}, {row['test_acc']:5.2f} %   LR {row['lr']:.2e}   {row['seconds']:.1f} s"
    )


def main(arguments=None):
    """`python train.py`: the whole run, put together in `run.py`."""
    import run

    run.main(arguments)


if __name__ == "__main__":
    main()
