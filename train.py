"""Training: one epoch, the one-cycle policy, and a whole run that can be interrupted and resumed.

    from train import train, one_cycle, fit
    scheduler = one_cycle(optimizer, lr_max, steps_per_epoch=len(train_loader), epochs=24)
    loss, accuracy = train(model, device, train_loader, optimizer, criterion, scheduler)    # one
    epoch history = fit(model, device, train_loader, optimizer, criterion, scheduler, epochs=24,
                  evaluate=lambda: test(model, device, test_loader, criterion))              # all
                  of them

Any model, loader, optimizer, criterion and scheduler will do, and the file can be copied alone.
"""

import math
import sys
import time

import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

PEAK = 5 / 24  # LRMAX is reached at the end of epoch 5 of 24
# Decoupled decay: each step multiplies the weights by 1 - lr * 0.25, which is 0.999 at LRMAX; 0.25
# is no typo for 5e-4. beta1 0.9 holds without a cycle: one_cycle moves it from 0.95 to 0.85 and
# back.
RECIPE = dict(optimizer="Adam", weight_decay=0.25, betas=[0.9, 0.99], label_smoothing=0.2)


class TrainingDiverged(ArithmeticError):
    """The loss became NaN or infinite."""


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
    desc="train",
    lrs=None,
):
    """Train for one epoch; under torchrun together with the other processes.

    Args:
        model: (B, …) -> (B, C) logits or log-probabilities, on `device`; under torchrun a
            DistributedDataParallel.
        train_loader: yields (images, labels); the last batch may be smaller.
        criterion: gives the mean loss of a batch.
        scheduler: stepped after every batch, as `one_cycle` wants it.
        scaler: a torch.amp.GradScaler, needed for float16 alone.
        dtype: torch.bfloat16 or torch.float16 for mixed precision.
        desc: text before the progress bar.
        lrs: a list to which the learning rate of every step is appended.

    Returns:
        (mean loss, accuracy in per cent) of the epoch, in training mode and while the weights were
        changing.

    Raises TrainingDiverged where the loss is NaN or infinite.
    """
    model.train()
    device = torch.device(device)
    scaler = scaler or torch.amp.GradScaler(enabled=False)  # does nothing unless float16 needs it
    metrics = RunningMetrics(device)
    check_every = max(1, len(train_loader) // 4)
    for step, (images, labels) in enumerate(progress_bar(train_loader, desc), start=1):
        images, labels = to_device(images, labels, device)
        lr = optimizer.param_groups[0]["lr"]

        # 1. Forward pass. autocast computes convolutions in `dtype`, and keeps in float32 what
        # needs it.
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            output = model(images)
            loss = criterion(output, labels)

        # 2. Backward pass. Tiny gradients would be 0 in float16: the scaler multiplies the loss by
        # a large number, and divides the gradients by it again before step 3.
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss * share_weight(len(labels), device)).backward()

        # 3. Step of the weights, then of the learning rate.
        scaler.step(optimizer)
        scaler.update()
        if scheduler is not None:
            scheduler.step()

        metrics.update(loss, output, labels)
        if lrs is not None:
            lrs.append(lr)
        if step % check_every == 0:  # seldom, for reading a number makes Python wait for the GPU
            metrics.compute(lr)
    if metrics.count == 0:
        raise ValueError("the training loader is empty: there is nothing to learn from")
    average_buffers(model)
    return metrics.compute(lr)


class RunningMetrics:
    """Sums of loss and correct predictions, kept on the device."""

    def __init__(self, device):
        self.loss, self.correct, self.count = (
            torch.zeros((), device=device),
            torch.zeros((), device=device),
            0,
        )

    def update(self, loss, output, labels):
        self.loss += loss.detach() * len(labels)
        self.correct += (output.detach().argmax(dim=1) == labels).sum()
        self.count += len(labels)

    def compute(self, lr):
        """(mean loss, accuracy in per cent) so far, over all processes. One NaN makes the sum NaN:
        it stops here.
        """
        sums = (
            torch.stack([self.loss, self.correct, torch.full_like(self.loss, self.count)])
            .cpu()
            .double()
        )
        loss, correct, count = all_reduce(sums, self.loss.device).tolist()
        if not math.isfinite(loss):
            cure = "start again with a smaller LRMAX or another seed, and check that images and labels are right"
            raise TrainingDiverged(f"the loss is NaN or infinite at learning rate {lr:.2g}: {cure}")
        return loss / count, 100 * correct / count


def to_device(images, labels, device):
    """A batch on the device, images channels last, which convolutions like best.

    Only on CUDA does the copy run in the background (`non_blocking`): on Apple's GPU it may read
    memory that is free again (pytorch#139550).
    """
    layout = torch.channels_last if images.ndim == 4 else torch.preserve_format
    on_cuda = device.type == "cuda"
    images = images.to(device, non_blocking=on_cuda, memory_format=layout)
    return images, labels.to(device, non_blocking=on_cuda)


def progress_bar(loader, desc):
    """A bar in plain text: GitHub refuses notebooks with tqdm's widget. None in a log, where nobody
    watches.
    """
    first = world_size() == 1 or dist.get_rank() == 0  # of the processes, which share a terminal
    watched = first and (sys.stdout.isatty() or "ipykernel" in sys.modules)
    return tqdm(
        loader,
        desc=desc,
        file=sys.stdout,
        leave=False,
        disable=not watched,
        mininterval=1,
        ncols=80,
    )


# Several processes (torchrun): each computes the gradient of its own rows, DistributedDataParallel
# averages them.


def world_size():
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_reduce(tensor, device):
    """The sum over all processes, on the CPU; NCCL adds up on the GPU."""
    if world_size() > 1:
        tensor = tensor.to(device)
        dist.all_reduce(tensor)
    return tensor.cpu()


def share_weight(rows, device):
    """Factor on a process's loss. With uneven shares, the mean of the means would not be the mean
    of the batch.
    """
    if world_size() == 1:
        return 1.0
    total = torch.full(
        (), rows, dtype=torch.float64, device=device
    )  # torch.tensor's copy would wait for the GPU
    dist.all_reduce(total)
    return world_size() * rows / total


def average_buffers(model):
    """Average BatchNorm's running statistics over the processes, each of which has seen other
    rows.
    """
    if world_size() > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= world_size()


def make_optimizer(model, recipe=RECIPE):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017, arXiv:1711.05101); none on
    BatchNorm and biases.
    """
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        dict(params=decayed, weight_decay=recipe["weight_decay"]),
        dict(params=others, weight_decay=0.0),
    ]
    return torch.optim.Adam(
        groups, betas=tuple(recipe["betas"]), decoupled_weight_decay=True, fused=True
    )


def make_criterion(recipe=RECIPE):
    """Cross entropy with label smoothing (Szegedy et al. 2015, arXiv:1512.00567)."""
    return nn.CrossEntropyLoss(label_smoothing=recipe["label_smoothing"])


def one_cycle(optimizer, lr_max, steps_per_epoch, epochs=24, lr_min=None, peak=PEAK):
    """The one-cycle policy (Smith and Topin 2017, arXiv:1708.07120), without annihilation.

    The learning rate rises linearly from LRMIN at the first step to LRMAX at the last step of epoch
    5 of 24, and falls linearly back to LRMIN at the last step of all. Adam's beta1 goes the other
    way, 0.95 -> 0.85 -> 0.95, whatever it was before. Call `scheduler.step()` after every batch.

    Args:
        steps_per_epoch: batches in an epoch, `len(train_loader)`. The whole cycle needs 3 steps or
            more.
        lr_min: None: LRMAX / 100.
        peak: share of the steps after which LRMAX is reached, rounded to a whole step.

    Returns:
        A torch.optim.lr_scheduler.OneCycleLR.
    """
    total = epochs * steps_per_epoch
    if total < 3:
        raise ValueError(
            f"{epochs} epochs of {steps_per_epoch} batches make {total} steps, and one cycle needs 3: "
            "take more epochs, more images or a smaller batch size"
        )
    lr_max, lr_min = float(lr_max), float(lr_max / 100 if lr_min is None else lr_min)
    if not 0 < lr_min <= lr_max:
        raise ValueError(f"LRMIN is {lr_min:g} and LRMAX {lr_max:g}: 0 < LRMIN <= LRMAX must hold")
    top = min(
        max(round(peak * total), 2), total - 1
    )  # OneCycleLR reaches LRMAX only where this is a whole step
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        lr_max,
        total_steps=total,
        pct_start=top / total,
        anneal_strategy="linear",
        div_factor=lr_max / lr_min,
        final_div_factor=1,  # 1: no annihilation, the last rate is LRMIN again
    )


def cycle_curve(lr_max, steps_per_epoch, epochs=24, lr_min=None, peak=PEAK):
    """(learning rates, beta1s) of every step of a cycle, for a figure; nothing is trained."""
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))])
    scheduler = one_cycle(optimizer, lr_max, steps_per_epoch, epochs, lr_min, peak)
    lrs, betas = [], []
    for _ in range(epochs * steps_per_epoch):
        lrs.append(optimizer.param_groups[0]["lr"])
        betas.append(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        scheduler.step()
    return lrs, betas


def fit(
    model,
    device,
    train_loader,
    optimizer,
    criterion,
    scheduler=None,
    *,
    epochs,
    evaluate,
    dtype=torch.float32,
    seed=0,
    checkpoint=None,
    by_epoch=False,
    log=print,
):
    """Train for whole epochs, evaluate after each, and go on where a checkpoint left off.

    Args:
        model, …, scheduler, dtype: see `train`.
        epochs: of the whole run, those of a checkpoint included.
        evaluate: called after each epoch without arguments; returns (test loss, test accuracy in
            per cent).
        seed: PyTorch's generator is seeded from (seed, epoch), for models with dropout.
        checkpoint: an `extras.checkpoint.Checkpoint`, or None. Under torchrun, rank 0 alone has
            one.
        by_epoch: step the scheduler after every epoch, as StepLR wants it, instead of after every
            batch. (Any scheduler of PyTorch but ReduceLROnPlateau, whose step needs the loss.)

    Returns:
        A dict for each epoch: epoch, train_loss, train_acc, test_loss, test_acc (per cent), lr
            (last step), seconds.

    Raises TrainingDiverged with epoch and learning rate; the checkpoint of the epoch before is
    kept.
    """
    scaler = torch.amp.GradScaler(torch.device(device).type, enabled=dtype == torch.float16)
    network = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    parts = dict(model=network, optimizer=optimizer, scaler=scaler) | (
        {"scheduler": scheduler} if scheduler else {}
    )
    history = checkpoint.restore(**parts) if checkpoint is not None else []
    if world_size() > 1:
        from extras.distributed import start_together

        history = start_together(history, parts)
    kept = f"; the epochs before are kept in {checkpoint.path}" if checkpoint is not None else ""
    for (
        row
    ) in history:  # of epochs that are done already, so that a run in pieces shows all of them
        log(epoch_line(row, epochs))

    for epoch in range(len(history) + 1, epochs + 1):
        start, lrs = time.perf_counter(), []
        torch.manual_seed(
            seed * 1_000_003 + epoch + 7919 * (dist.get_rank() if world_size() > 1 else 0)
        )
        if hasattr(train_loader, "set_epoch"):
            train_loader.set_epoch(epoch)
        try:
            train_loss, train_acc = train(
                model,
                device,
                train_loader,
                optimizer,
                criterion,
                None if by_epoch else scheduler,
                scaler=scaler,
                dtype=dtype,
                desc=f"epoch {epoch}/{epochs}",
                lrs=lrs,
            )
            test_loss, test_acc = map(
                float, evaluate()
            )  # NumPy numbers could not be read back from a checkpoint
            if not math.isfinite(
                test_loss
            ):  # the last step can ruin the weights after its loss was measured
                raise TrainingDiverged(
                    f"the test loss is {test_loss} after learning rate {lrs[-1]:.2g}"
                )
        except TrainingDiverged as error:
            raise TrainingDiverged(f"epoch {epoch}: {error}{kept}") from None
        except KeyboardInterrupt:
            log(f"interrupted in epoch {epoch}, which is lost{kept}")
            raise
        row = dict(
            epoch=epoch,
            train_loss=train_loss,
            train_acc=train_acc,
            test_loss=test_loss,
            test_acc=test_acc,
        )
        history.append(row | dict(lr=float(lrs[-1]), seconds=time.perf_counter() - start))
        if by_epoch and scheduler is not None:
            scheduler.step()
        if checkpoint is not None:
            checkpoint.save(
                history=history, **{name: part.state_dict() for name, part in parts.items()}
            )
        log(epoch_line(history[-1], epochs))
    return history


def epoch_line(row, epochs):
    name = f"epoch {row['epoch']}/{epochs}"
    return (
        f"{name:11}   train loss {row['train_loss']:.4f}, {row['train_acc']:5.2f} %   "
        f"test loss {row['test_loss']:.4f}, {row['test_acc']:5.2f} %   LR {row['lr']:.2e}   {row['seconds']:.1f} s"
    )
