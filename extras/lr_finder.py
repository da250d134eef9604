"""The LR range test (Smith 2015, arXiv:1506.01186), with LRMIN and LRMAX read off its curve.

    found = find_lr(model, device, train_loader, optimizer, criterion, guess=math.log(10))
    found.lr_min, found.lr_max

torch_lr_finder runs the test. Added here: model, optimizer and random state are the same
afterwards, a loss of NaN ends the test, and one rule reads both rates off the curve.
"""

import contextlib
import copy
import random
import sys
import time
import warnings
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

START_LR = 1e-6  # far below any rate that trains: where the test begins decides what it can find
SMOOTHING = 0.12  # standard deviation of the Gaussian over the losses, in powers of ten of the rate
FIFTH = 1 / 5  # of the fall of the loss: what counts as "has fallen" and as "rises again"
LEAST_FALL = 0.03  # of the level: less is no learning (shuffled labels fall by up to 0.008)
LEAST_STEPS = 20  # fewer make no readable curve


@dataclass
class RangeTest:
    """The curve of a range test (lists, one number for each step), and what was read off it."""

    lrs: list
    losses: list
    smoothed: list
    level: float | None  # where the fall begins: the first losses, or what guessing costs
    lr_min: float  # LRMIN: the loss has fallen by a fifth of its whole fall
    lr_max: float  # LRMAX: half of the take-off
    take_off: float | None  # beyond its minimum the loss has risen by a fifth; None: it never does
    lr_steepest: float | None  # steepest descent, which torch_lr_finder suggests
    lr_minimum: float | None  # a tenth of the rate with the lowest loss, which fastai suggests
    lr_given: bool = False  # LRMAX was not found, but given


def find_lr(
    model,
    device,
    train_loader,
    optimizer,
    criterion,
    *,
    guess=None,
    iterations=100,
    end_lr=1.0,
    dtype=torch.float32,
    checkpoint=None,
):
    """Run the range test from 1e-6 to `end_lr`, and read LRMIN and LRMAX off it.

    Model, mode, gradients, optimizer and random state are the same afterwards, also when the test
    is interrupted or fails.

    Args:
        train_loader: yields (images, labels); begun again, with new draws, when it ends.
        guess: the loss of guessing, ln 10 for ten balanced classes (`dataset.Data.guess`). Where
            the loss begins above it, the fall down to it is no learning, and does not count.
        iterations: steps of the test, 20 or more.
        checkpoint: an `extras.checkpoint.Checkpoint` that keeps the result, and gives it back.

    Returns a RangeTest.

    Raises ValueError where nothing can be read off: the loss did not fall, or became NaN at once.
    """
    kind = type(optimizer).__name__
    if checkpoint is not None and checkpoint.state.get("range_test"):
        if checkpoint.state.get("range_optimizer", kind) == kind:
            print(f"the range test is that of {checkpoint.path}")
            return RangeTest(**checkpoint.state["range_test"])
        print(f"the range test of {checkpoint.path} is of another optimizer: it runs again")
    start = time.perf_counter()
    lrs, losses = run_test(
        model, device, train_loader, optimizer, criterion, iterations, end_lr, dtype
    )
    found = read_curve(lrs, losses, guess)
    if found.take_off is None:
        print(f"the loss never takes off: LRMAX is a tenth of the last rate, {lrs[-1]:.2g}")
    if checkpoint is not None:
        seconds = time.perf_counter() - start
        checkpoint.save(range_test=vars(found), range_optimizer=kind, range_seconds=seconds)
    return found


def choose_rates(range_test, lr_min=None, lr_max=None):
    """The rates of a run: those that are given, and what `range_test()` finds for the rest.

    With both given, no test is run, and the curve is empty.
    """
    if lr_min is None or lr_max is None:
        found = range_test()
    else:
        found = RangeTest([], [], [], None, lr_min, lr_max, None, None, None)
    if lr_min is not None:
        found.lr_min = float(lr_min)
    if lr_max is not None:
        found.lr_max = float(lr_max)
        found.lr_given = True
    return found


def run_test(model, device, train_loader, optimizer, criterion, iterations, end_lr, dtype):
    """Run torch_lr_finder's test: (learning rates, losses), up to the first loss of NaN."""
    if iterations < LEAST_STEPS:
        raise ValueError(f"iterations is {iterations}: the range test needs {LEAST_STEPS} or more")
    if end_lr <= START_LR:
        raise ValueError(f"end_lr is {end_lr}: the test begins at {START_LR}, give a larger rate")
    if hasattr(train_loader, "set_epoch"):
        train_loader.set_epoch(0)  # training begins with epoch 1
    device = torch.device(device)

    def finite_loss(output, labels):
        loss = criterion(output, labels)
        if not torch.isfinite(loss):
            raise FloatingPointError  # the curve ends here; the library itself does not see a NaN
        return loss

    library = import_library()
    with keep_state(model, optimizer), keep_random_state(device):
        for group in optimizer.param_groups:
            group.pop("initial_lr", None)  # set by a scheduler; the library refuses it
        finder = library.LRFinder(
            model,
            optimizer,
            finite_loss,
            device=device,
            memory_cache=True,
            amp_backend="torch",
            amp_config={
                "device_type": device.type,
                "dtype": dtype,
                "enabled": dtype != torch.float32,
            },
            grad_scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
        )
        try:
            with contextlib.suppress(FloatingPointError), contextlib.redirect_stdout(None):
                finder.range_test(
                    library.TrainDataLoaderIter(train_loader),
                    start_lr=START_LR,
                    end_lr=end_lr,
                    num_iter=iterations,
                    smooth_f=0,
                    diverge_th=float("inf"),  # it looks at the best single loss, which is noise
                    non_blocking_transfer=device.type == "cuda",  # see train.to_device
                )
        except StopIteration:
            raise ValueError(
                "the training loader is empty: there is nothing to learn from"
            ) from None
    losses = [float(loss) for loss in finder.history["loss"]]
    return [float(lr) for lr in finder.history["lr"][: len(losses)]], losses


def import_library():
    """torch_lr_finder, with a progress bar in plain text, as in train.progress_bar."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch_lr_finder.lr_finder as library
    watched = sys.stdout.isatty() or "ipykernel" in sys.modules
    library.tqdm = partial(
        tqdm, desc="LR range test", file=sys.stdout, leave=False, disable=not watched, ncols=80
    )
    return library


def read_curve(lrs, losses, guess=None):
    """Read both rates off the curve of a range test; returns a RangeTest.

    The loss of single steps is noise, so the losses are cut off at twice *first*, the median of the
    first ten, and smoothed over the logarithm of the rate. `read_rates` has the rule.
    """
    if len(losses) < LEAST_STEPS:
        raise ValueError(
            f"the loss was NaN or infinite after {len(losses)} steps of the range test, at "
            f"learning rate {lrs[-1] if lrs else START_LR:.2g}: check the images and the loss"
        )
    lrs = np.array(lrs)
    losses = np.array(losses)
    first = float(np.median(losses[:10]))
    level = first if guess is None else min(first, guess)
    step = np.diff(np.log10(lrs)).mean()  # powers of ten from one rate to the next
    smoothed = smooth(np.minimum(losses, 2 * first), SMOOTHING / step)
    bottom = int(smoothed.argmin())
    fall = level - smoothed[bottom]
    if fall <= LEAST_FALL * level:
        raise ValueError(
            f"the loss fell by {fall:.3g} below {level:.3g} in the range test, and must fall by "
            f"more than {LEAST_FALL:.0%} of that: check that images and labels belong together, "
            "take larger batches, or give LRMAX and LRMIN yourself"
        )
    lr_min, lr_max, take_off = read_rates(lrs, smoothed, level)
    if lr_max <= lr_min and take_off is None:
        raise ValueError(
            f"the loss has only begun to fall at learning rate {lrs[-1]:.2g}: give a larger "
            "end_lr, or LRMAX and LRMIN yourself"
        )
    if lr_max <= lr_min:
        raise ValueError(
            f"the loss rises again at learning rate {2 * lr_max:.2g}, before it has fallen: check "
            "the images and the labels, or give LRMAX and LRMIN yourself"
        )
    steepest = int(np.gradient(smoothed[: bottom + 1]).argmin()) if bottom > 1 else 0
    return RangeTest(
        lrs=lrs.tolist(),
        losses=losses.tolist(),
        smoothed=smoothed.tolist(),
        level=level,
        lr_min=lr_min,
        lr_max=lr_max,
        take_off=take_off,
        lr_steepest=float(lrs[steepest]),
        lr_minimum=float(lrs[bottom] / 10),
    )


def read_rates(lrs, smoothed, level):
    """The rule: (LRMIN, LRMAX, take-off) from the smoothed losses, which fall from `level`.

    Where the loss never takes off, the take-off is None, and LRMAX a tenth of the last rate.
    """
    bottom = int(smoothed.argmin())
    lowest = smoothed[bottom]
    fall = level - lowest

    # LRMIN: the first rate at which a fifth of the whole fall is over (argmax: the first True)
    lr_min = float(lrs[np.argmax(smoothed <= level - FIFTH * fall)])

    # Take-off: the first rate beyond the lowest point at which the loss has risen by as much
    rising = np.flatnonzero(smoothed[bottom:] >= lowest + FIFTH * fall)
    take_off = float(lrs[bottom + rising[0]]) if len(rising) else None

    # LRMAX: half of the take-off
    lr_max = take_off / 2 if take_off else float(lrs[-1] / 10)
    return lr_min, lr_max, take_off


def smooth(values, sigma):
    """A Gaussian of `sigma` steps over the values; the first and the last one are repeated."""
    reach = max(1, int(4 * sigma + 0.5))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.convolve(np.pad(values, reach, mode="edge"), kernel / kernel.sum(), mode="valid")


@contextlib.contextmanager
def keep_state(model, optimizer):
    """Give weights, buffers, gradients, modes and the optimizer back the state they had.

    In place, since not every model can be copied: weight_norm's cannot.
    """
    values = [tensor.detach().clone() for tensor in (*model.parameters(), *model.buffers())]
    gradients = [(p, p.grad) for p in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    optimizer_state = copy.deepcopy(optimizer.state_dict())
    for p, _ in gradients:
        p.grad = None  # else the test would add to it, where the optimizer does not own it
    try:
        yield
    finally:
        with torch.no_grad():
            # by now a buffer may be another tensor: `self.mean = …` makes one, a new device too
            tensors = [*model.parameters(), *model.buffers()]
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        for p, gradient in gradients:
            p.grad = gradient
        for module, mode in modes:
            module.training = mode
        optimizer.load_state_dict(optimizer_state)


@contextlib.contextmanager
def keep_random_state(device):
    """Give the generators of Python, NumPy and PyTorch back the state they had."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type=device.type):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
