"""Training: one epoch, the one-cycle policy, and a whole run that can be interrupted and resumed.

    from train import train, one_cycle, fit
    scheduler = one_cycle(optimizer, lr_max, steps_per_epoch=len(train_loader), epochs=24)
    loss, accuracy = train(model, device, train_loader, optimizer, criterion, scheduler)
    history = fit(model, device, train_loader, optimizer, criterion, scheduler, epochs=24,
                  evaluate=lambda: test(model, device, test_loader, criterion))

`train` is one epoch, `fit` all of them, with an evaluation after each and checkpoints. Any
classifier, loader, optimizer, criterion and scheduler will do. The file can be copied alone.
"""

import math
import os
import sys
import time
from operator import length_hint

import torch
from torch import nn
from torch.optim import lr_scheduler
from tqdm import tqdm

PEAK = 5 / 24  # LRMAX is reached at the end of epoch 5 of 24
# Decoupled weight decay: each step multiplies the weights by 1 - lr * 0.25, which is 0.999 at a
# rate of 4e-3. So 0.25 is no typo for 5e-4. The first beta is for training without a cycle:
# one_cycle moves it from 0.95 to 0.85 and back.
RECIPE = dict(optimizer="AdamW", weight_decay=0.25, betas=[0.9, 0.999], label_smoothing=0.1)


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
):
    """Train for one epoch.

    Args:
        model: (B, …) -> (B, C) logits or log-probabilities, on `device`.
        train_loader: yields (images, labels), B class indices; the last batch may be smaller.
        criterion: gives the mean loss of a batch.
        scheduler: stepped after every batch, as `one_cycle` wants it.
        scaler: a torch.amp.GradScaler, needed for float16 alone.
        dtype: torch.bfloat16 or torch.float16 for mixed precision.
        desc: text before the progress bar.

    Returns:
        (mean loss, accuracy in per cent) of the epoch, in training mode and while the weights were
        changing.

    Raises:
        TrainingDiverged: the loss is NaN or infinite.
        ValueError: the loader is empty, the output is not that of a classifier, or float16 has no
            scaler.
    """
    if dtype == torch.float16 and scaler is None:
        raise ValueError("float16 without a scaler loses gradients: give torch.amp.GradScaler()")
    model.train()
    device = torch.device(device)
    scaler = scaler or torch.amp.GradScaler(enabled=False)  # does nothing: only float16 needs one
    # Kept on the device: to read a number in every step, Python would wait for the GPU
    loss_sum = torch.zeros((), device=device)
    correct = torch.zeros((), device=device)
    count = 0

    for images, labels in progress_bar(train_loader, desc):
        images, labels = to_device(images, labels, device)
        lr = optimizer.param_groups[0]["lr"]

        # 1. Forward pass. autocast computes convolutions in `dtype`, and sums in float32.
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            output = model(images)
            check_classifier(output, labels)
            loss = criterion(output, labels)

        # 2. Backward pass. Tiny gradients would be 0 in float16: the scaler multiplies the loss by
        #    a large number, and divides the gradients by it again before the step.
        optimizer.zero_grad()
        scaler.scale(loss).backward()

        # 3. Step of the weights, then of the learning rate.
        scaler.step(optimizer)
        scaler.update()
        if scheduler is not None:
            scheduler.step()

        # 4. Count.
        loss_sum += loss.detach().float() * len(labels)
        correct += (output.argmax(dim=1) == labels).sum()
        count += len(labels)

    if count == 0:
        raise ValueError("the training loader is empty: there is nothing to learn from")
    mean_loss = loss_sum.item() / count
    if not math.isfinite(mean_loss):  # one NaN makes the sum NaN
        raise TrainingDiverged(
            f"the loss became NaN or infinite, by learning rate {lr:.2g}: start again with a "
            "smaller LRMAX or another seed, and check that images and labels are right"
        )
    return mean_loss, 100 * correct.item() / count


def check_classifier(output, labels):
    """Refuse shapes and labels for which the accuracy would be a number without a meaning."""
    if not torch.is_tensor(output):  # several outputs, as of GoogLeNet in training mode
        raise ValueError(f"the model returns a {type(output).__name__}: give one tensor of logits")
    if output.ndim != 2 or output.shape[1] < 2 or labels.shape != output.shape[:1]:
        shapes = f"{tuple(output.shape)} and {tuple(labels.shape)}"
        raise ValueError(
            f"output and labels have shapes {shapes}: give (N, C) with C of 2 or more, and N class "
            "indices"
        )
    if labels.is_floating_point():
        raise ValueError(f"labels are {labels.dtype}: give class indices, whole numbers")


def to_device(images, labels, device):
    """A batch on the device, images channels last, which convolutions on CUDA and CPUs like best.

    On Apple's GPU that layout gives wrong gradients (pytorch#175189), and a copy in the background
    (`non_blocking`) may read memory that is free again (pytorch#139550).
    """
    on_cuda = device.type == "cuda"
    channels_last = images.ndim == 4 and device.type in ("cuda", "cpu")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = images.to(device, non_blocking=on_cuda, memory_format=layout)
    return images, labels.to(device, non_blocking=on_cuda)


def progress_bar(loader, desc):
    """A bar in plain text, since GitHub does not show tqdm's widget; off in a log file."""
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun has started
    watched = first and (sys.stdout.isatty() or "ipykernel" in sys.modules)
    style = dict(leave=False, mininterval=1, ncols=80)
    return tqdm(loader, desc=desc, file=sys.stdout, disable=not watched, **style)


def make_optimizer(model, recipe=RECIPE):
    """Adam with decoupled weight decay, AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101).

    Decoupled: each step shrinks the weights themselves. A decay in the gradient, as in plain Adam,
    would be divided away by Adam's own scaling.
    """
    return torch.optim.AdamW(
        model.parameters(),
        weight_decay=recipe["weight_decay"],
        betas=tuple(recipe["betas"]),
        fused=True,  # one kernel for all weights: the same numbers, faster
    )


def make_criterion(recipe=RECIPE):
    """Cross entropy with label smoothing (Szegedy et al. 2015, arXiv:1512.00567)."""
    return nn.CrossEntropyLoss(label_smoothing=recipe["label_smoothing"])


def one_cycle(optimizer, lr_max, steps_per_epoch, epochs=24, lr_min=None, peak=PEAK):
    """The one-cycle policy (Smith and Topin 2017, arXiv:1708.07120), without annihilation.

    The learning rate rises linearly from LRMIN at the first step to LRMAX at the last step of
    epoch 5 of 24, and falls linearly back to LRMIN at the last step of all. Adam's beta1, or SGD's
    momentum where it has one, goes the other way, 0.95 -> 0.85 -> 0.95, whatever it was before.
    Call `scheduler.step()` after every batch.

    Args:
        optimizer: all of its groups get the same rate.
        steps_per_epoch: batches in an epoch, `len(train_loader)`. The whole cycle needs 3 or more.
        lr_min: None: LRMAX / 100.
        peak: share of the steps after which LRMAX is reached, rounded to a whole step.

    Returns:
        A torch.optim.lr_scheduler.OneCycleLR.

    Raises ValueError where there are too few steps, or not 0 < LRMIN <= LRMAX.
    """
    lr_min = lr_max / 100 if lr_min is None else lr_min
    total = epochs * steps_per_epoch
    check_cycle(total, lr_max, lr_min)
    # A whole step, or LRMAX is never reached; at least 2, for OneCycleLR divides by top - 1
    top = min(max(round(peak * total), 2), total - 1)
    # SGD without momentum stays so: the range test found LRMAX without it
    has_momentum = all("betas" in each or each.get("momentum") for each in optimizer.param_groups)
    return lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=float(lr_max),
        total_steps=total,
        pct_start=top / total,
        anneal_strategy="linear",
        cycle_momentum=has_momentum,
        div_factor=float(lr_max / lr_min),  # the first rate is LRMAX / div_factor = LRMIN
        final_div_factor=1,  # no annihilation: the last rate is LRMIN again
    )


def check_cycle(total_steps, lr_max, lr_min):
    """Refuse a cycle that OneCycleLR would divide by zero in, or that would go downwards first."""
    if total_steps < 3:
        raise ValueError(
            f"the run has {total_steps} steps, and one cycle needs 3: take more epochs, more "
            "images or a smaller batch size"
        )
    if not 0 < lr_min <= lr_max:
        raise ValueError(f"LRMIN is {lr_min:g} and LRMAX {lr_max:g}: 0 < LRMIN <= LRMAX must hold")


def cycle_curve(lr_max, steps_per_epoch, epochs=24, lr_min=None, peak=PEAK):
    """(learning rates, beta1s) of every step of a cycle, for a figure; nothing is trained."""
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))])
    scheduler = one_cycle(optimizer, lr_max, steps_per_epoch, epochs, lr_min, peak)
    lrs = []
    betas = []
    for _ in range(epochs * steps_per_epoch):
        lrs.append(optimizer.param_groups[0]["lr"])
        betas.append(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        scheduler.step()
    return lrs, betas


def fit(  # noqa: PLR0913  each of these parts of a run can be replaced
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
    by_epoch=None,
    after_epoch=None,
):
    """Train for whole epochs, evaluate after each, and go on where a checkpoint left off.

    Args:
        model, …, scheduler, dtype: see `train`. Under torchrun the model is wrapped in
            DistributedDataParallel, and every process calls this.
        epochs: of the whole run, those of a checkpoint included.
        evaluate: called after each epoch; returns (test loss, test accuracy in per cent).
        seed: PyTorch's generator is seeded from (seed, epoch), for models with dropout.
        checkpoint: an `extras.checkpoint.Checkpoint`, or None.
        by_epoch: step the scheduler after every epoch, not every batch. None: every batch for
            OneCycleLR and CyclicLR, else every epoch. ReduceLROnPlateau is given the test loss.
        after_epoch: called with the epoch's row of the history; if it returns something true, the
            run ends, and stays ended when it is resumed.

    Returns:
        The history, a dict for each epoch: epoch, train_loss, train_acc, test_loss, test_acc (per
        cent), lr (of the last step), seconds.

    Raises:
        TrainingDiverged: with epoch and learning rate; the checkpoint of the epoch before is kept.
        ValueError: the optimizer does not train this model, the scheduler not this optimizer, or
            one cycle has fewer steps left than the run takes.
    """
    if by_epoch is None:
        by_epoch = not isinstance(scheduler, lr_scheduler.OneCycleLR | lr_scheduler.CyclicLR)
    parts = stateful_parts(model, optimizer, scheduler, device, dtype)
    team = processes()
    rates = []  # of every step: after an epoch, the optimizer has the rate of the next step
    hook = optimizer.register_step_pre_hook(lambda *_: rates.append(rate_of(optimizer)))

    def run_epoch(epoch):
        """Train and evaluate; returns the epoch's row of the history."""
        start = time.perf_counter()
        rates.append(rate_of(optimizer))  # a scaler may skip every step of the epoch
        seed_epoch(train_loader, seed, epoch)
        train_loss, train_acc = train(
            model,
            device,
            train_loader,
            optimizer,
            criterion,
            None if by_epoch else scheduler,
            scaler=parts["scaler"],
            dtype=dtype,
            desc=f"epoch {epoch}/{epochs}",
        )
        test_loss, test_acc = map(float, evaluate())  # plain numbers, as a checkpoint needs them
        check_test_loss(test_loss, rates[-1])
        row = {
            "epoch": epoch,
            "train_loss": train_loss,
            "train_acc": train_acc,
            "test_loss": test_loss,
            "test_acc": test_acc,
            "lr": float(rates[-1]),
            "seconds": time.perf_counter() - start,
        }
        return row if team is None else team.average(row)

    kept = f"; the epochs before are kept in {checkpoint.path}" if checkpoint is not None else ""
    try:
        history = begin(checkpoint, parts, team, epochs)
        check_steps(None if by_epoch else scheduler, train_loader, epochs - len(history))
        for epoch in range(len(history) + 1, epochs + 1):
            if history and history[-1].get("ended"):
                break
            try:
                row = run_epoch(epoch)
            except TrainingDiverged as error:
                raise TrainingDiverged(f"epoch {epoch}: {error}{kept}") from None
            except KeyboardInterrupt:
                print(f"interrupted in epoch {epoch}, which is lost{kept}")
                raise
            print(epoch_line(row, epochs))
            if by_epoch:
                step_after_epoch(scheduler, row["test_loss"])
            if after_epoch is not None and ends_run(after_epoch, row, team):
                row["ended"] = True
            history.append(row)
            if checkpoint is not None:
                states = {name: part.state_dict() for name, part in parts.items()}
                checkpoint.save(history=history, **states)
    finally:
        hook.remove()
        if checkpoint is not None:
            checkpoint.release()
    return history


def stateful_parts(model, optimizer, scheduler, device, dtype):
    """What changes in training, by name: the parts that a checkpoint keeps."""
    check_parts(model, optimizer, scheduler)
    scaler = torch.amp.GradScaler(torch.device(device).type, enabled=dtype == torch.float16)
    parts = {"model": unwrapped(model), "optimizer": optimizer, "scaler": scaler}
    if scheduler is not None:
        parts["scheduler"] = scheduler
    return parts


def check_parts(model, optimizer, scheduler):
    """Refuse an optimizer or scheduler of another model: easily left by rerunning some cells."""
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [
        name for name, p in model.named_parameters() if p.requires_grad and id(p) not in trained
    ]
    if missing:
        raise ValueError(
            f"the optimizer does not train {len(missing)} of the parameters ({missing[0]}, …): "
            "make the optimizer again after the model, or freeze them with requires_grad_(False)"
        )
    if scheduler is not None and getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise ValueError(
            "the scheduler sets the learning rate of another optimizer: make the scheduler again "
            "after the optimizer"
        )


def check_steps(scheduler, train_loader, epochs):
    """Refuse a cycle that ends before the run, as when a cell is run again; name a longer one."""
    steps_per_epoch = length_hint(train_loader)  # 0 where it has no length
    if not isinstance(scheduler, lr_scheduler.OneCycleLR) or not steps_per_epoch:
        return
    steps = epochs * steps_per_epoch
    left = scheduler.total_steps - scheduler.last_epoch
    if steps > left:
        raise ValueError(
            f"the cycle has {left} steps left, and the run takes {steps}: make model, optimizer "
            "and scheduler again, the cycle with len(train_loader) and the run's epochs"
        )
    if left - steps >= steps_per_epoch:
        print(f"the run takes {steps} of the cycle's {left} steps: the rate will not fall to LRMIN")


def rate_of(optimizer):
    return optimizer.param_groups[0]["lr"]


def step_after_epoch(scheduler, test_loss):
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        scheduler.step(test_loss)
    elif scheduler is not None:
        scheduler.step()


def begin(checkpoint, parts, team, epochs):
    """Set all parts to where the run was cut, in every process; returns the history so far."""
    history = checkpoint.restore(**parts) if checkpoint is not None else []
    if team is not None:
        history = team.start_together(history, parts)
    for row in history:  # printed once more, so that a run in pieces shows all of its epochs
        print(epoch_line(row, epochs))
    return history


def seed_epoch(train_loader, seed, epoch):
    """Order, augmentation and dropout of an epoch are a function of (seed, epoch)."""
    rank = int(os.environ.get("RANK", 0))  # each process of torchrun has its own dropout
    torch.manual_seed(seed * 1_000_003 + epoch + 7919 * rank)
    for part in (train_loader, getattr(train_loader, "sampler", None)):  # a DistributedSampler
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)


def check_test_loss(test_loss, lr):
    """The last step of an epoch can ruin the weights after its own loss was measured."""
    if not math.isfinite(test_loss):
        raise TrainingDiverged(
            f"the test loss is {test_loss} after learning rate {lr:.2g}: start again with a "
            "smaller LRMAX"
        )


def ends_run(after_epoch, row, team):
    """What `after_epoch` says; with several processes, what it says to the first of them."""
    if team is None:
        return bool(after_epoch(row))
    return team.run_on_rank0(lambda: bool(after_epoch(row)))


def processes():
    """`extras.distributed`, where torchrun has started several processes, else None."""
    dist = torch.distributed
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    from extras import distributed

    return distributed


def unwrapped(model):
    """The network inside of DistributedDataParallel and torch.compile, which rename its weights."""
    model = getattr(model, "_orig_mod", model)
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    return getattr(model, "_orig_mod", model)


def epoch_line(row, epochs):
    name = f"epoch {row['epoch']}/{epochs}"
    return (
        f"{name:11}   train loss {row['train_loss']:.4f}, {row['train_acc']:5.2f} %   "
        f"test loss {row['test_loss']:.4f}, {row['test_acc']:5.2f} %   "
        f"LR {row['lr']:.2e}   {row['seconds']:.1f} s"
    )
