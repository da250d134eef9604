"""The LR range test (Smith 2015, arXiv:1506.01186), run by torch_lr_finder, with LRMIN and LRMAX
read off the curve.

    found = find_lr(model, device, train_loader, optimizer, criterion)
    found.lr_min, found.lr_max

Added to the library: model, optimizer and random state are the same afterwards, a loss of NaN ends
the test, and one rule reads both rates.
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

START_LR, END_LR = 1e-6, 1.0
# standard deviation of the Gaussian that smooths the losses, in powers of ten of the learning rate
SMOOTHING = 0.12
FIFTH = 1 / 5  # of the fall of the loss: what counts as "has fallen" and "rises again"


@dataclass
class RangeTest:
    """The curve of a range test (lists, one number for each step) and what was read off it
    (learning rates).
    """

    lrs: list
    losses: list
    smoothed: list
    lr_min: float  # LRMIN: the loss has fallen by a fifth of its whole fall
    lr_max: float  # LRMAX: half of the take-off
    take_off: float  # beyond its minimum, the loss has risen again by a fifth of its fall
    lr_steepest: float  # steepest descent, which torch_lr_finder suggests
    lr_minimum: float  # a tenth of where the loss is lowest, which fastai suggests


def find_lr(
    model,
    device,
    train_loader,
    optimizer,
    criterion,
    *,
    iterations=100,
    dtype=torch.float32,
    checkpoint=None,
):
    """Run the range test from 1e-6 to 1 on copies of model and optimizer, and read LRMIN and LRMAX
    off it.

    Model, mode, gradients, optimizer and random state are the same afterwards, also when it is
    interrupted or fails.

    Args:
        train_loader: yields (images, labels); begun again, with new draws, when it ends.
        checkpoint: an `extras.checkpoint.Checkpoint` that keeps the result; if it has one, that is
            returned.

    Raises ValueError where the loss did not fall by more than noise, so that nothing can be read
    off.
    """
    if checkpoint is not None and checkpoint.state.get("range_test"):
        return RangeTest(**checkpoint.state["range_test"])
    if len(train_loader) == 0:
        raise ValueError("the training loader is empty: there is nothing to learn from")
    if hasattr(train_loader, "set_epoch"):
        train_loader.set_epoch(0)  # training begins with epoch 1
    start, device = time.perf_counter(), torch.device(device)
    with keep_random_state(device):
        lrs, losses = run_test(model, device, train_loader, optimizer, criterion, iterations, dtype)
    found = read_curve(lrs, losses)
    if checkpoint is not None:
        checkpoint.save(range_test=vars(found), range_seconds=time.perf_counter() - start)
    return found


def run_test(model, device, train_loader, optimizer, criterion, iterations, dtype):
    """torch_lr_finder's test on copies; returns (learning rates, losses) up to the first loss that
    is not finite.
    """
    with warnings.catch_warnings():  # it asks for tqdm's widget, which GitHub cannot show
        warnings.simplefilter("ignore")
        import torch_lr_finder.lr_finder as library
    watched = sys.stdout.isatty() or "ipykernel" in sys.modules  # as in train.progress_bar
    library.tqdm = partial(
        tqdm, desc="LR range test", file=sys.stdout, leave=False, disable=not watched, ncols=80
    )

    model, optimizer = copy.deepcopy(
        (model, optimizer)
    )  # together: the optimizer's copy must hold the model's copy
    for group in optimizer.param_groups:
        group.pop("initial_lr", None)  # a scheduler's mark, at which the library stops

    def finite_loss(output, labels):
        loss = criterion(output, labels)
        if not torch.isfinite(loss):
            raise FloatingPointError  # the curve ends here
        return loss

    amp = dict(device_type=device.type, dtype=dtype, enabled=dtype != torch.float32)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    finder = library.LRFinder(
        model,
        optimizer,
        finite_loss,
        device=device,
        amp_backend="torch",
        amp_config=amp,
        grad_scaler=scaler,
    )
    with (
        contextlib.suppress(FloatingPointError),
        contextlib.redirect_stdout(None),
    ):  # it prints a placeholder
        finder.range_test(
            library.TrainDataLoaderIter(train_loader),
            start_lr=START_LR,
            end_lr=END_LR,
            num_iter=iterations,
            smooth_f=0,
            non_blocking_transfer=device.type == "cuda",  # see train.to_device
        )
    losses = [float(loss) for loss in finder.history["loss"]]
    return [float(lr) for lr in finder.history["lr"][: len(losses)]], losses


def read_curve(lrs, losses):
    """Read both rates off the curve of a range test.

    The loss of single steps is noise, so it is cut off at twice *first*, the loss at the beginning,
    and smoothed. With
    *lowest* the minimum, a fifth of the fall between them decides: LRMIN is the first rate where
    the loss has fallen by a fifth, the take-off the first one beyond the minimum where it has risen
    by a fifth, LRMAX half of the take-off. Over three seeds at full size LRMAX varies by a factor
    of 1.3, the steepest descent by 1.8.
    """
    if len(losses) < 20:
        raise ValueError(
            f"the range test ended after {len(losses)} steps: check the data and the loss"
        )
    lrs, losses = np.array(lrs), np.array(losses)
    first = np.median(losses[:10])
    smoothed = smooth(np.minimum(losses, 2 * first), SMOOTHING / np.diff(np.log10(lrs)).mean())
    bottom = int(smoothed.argmin())
    lowest = smoothed[bottom]
    fall, noise = first - lowest, losses[:10].std(ddof=1)
    if fall <= 2 * noise:
        raise ValueError(
            f"the loss fell by {fall:.3g} in the range test, which is no more than the noise between batches "
            f"({noise:.3g}): check the images, the labels and the loss, or take larger batches"
        )
    rising = np.flatnonzero(smoothed[bottom:] >= lowest + FIFTH * fall)
    take_off = lrs[bottom + rising[0]] if len(rising) else lrs[-1]
    lr_min = lrs[np.flatnonzero(smoothed <= first - FIFTH * fall)[0]]
    steepest = lrs[int(np.gradient(smoothed[: bottom + 1]).argmin())] if bottom > 1 else lrs[0]
    if take_off / 2 <= lr_min:
        raise ValueError(
            f"the loss takes off at {take_off:.2g}, before it has fallen: check the images and the labels"
        )
    rates = lr_min, take_off / 2, take_off, steepest, lrs[bottom] / 10
    return RangeTest(lrs.tolist(), losses.tolist(), smoothed.tolist(), *map(float, rates))


def smooth(values, sigma):
    """A Gaussian of `sigma` steps over the values; beyond the ends the first and the last one are
    repeated.
    """
    reach = max(1, int(4 * sigma + 0.5))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.convolve(np.pad(values, reach, mode="edge"), kernel / kernel.sum(), mode="valid")


@contextlib.contextmanager
def keep_random_state(device):
    """Give the generators of Python, NumPy and PyTorch (of the CPU and of this device) back the
    state they had.
    """
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
