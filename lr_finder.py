"""Which learning rates suit this network? The LR range test (Smith 2015, arXiv:1506.01186), run and read by code.

    found = find_lr(model, device, train_loader, optimizer, criterion)
    found.lr_max, found.lr_min

The test itself is `torch_lr_finder`'s: the rate grows step by step from tiny to huge while the loss is watched. Added
here: nothing of yours is changed by it, a NaN ends it, and the curve is smoothed before its steepest point is taken.
"""

import contextlib
import copy
import random
import time
import warnings
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from tqdm import tqdm

from test import explained

with warnings.catch_warnings():  # it asks for tqdm's widget, which leaves behind what GitHub cannot show
    warnings.simplefilter("ignore")
    import torch_lr_finder.lr_finder as library

START_LR, END_LR = 1e-6, 1.0
DIVISOR = 100  # LRMIN = LRMAX / DIVISOR
SMOOTHING = 1 / 3  # standard deviation of the smoothing, in powers of ten of the learning rate


@dataclass
class RangeTest:
    """What the range test saw (`lrs`, `losses`, `smoothed`: one number a step) and what was read off it."""

    lr_min: float
    lr_max: float
    lrs: list
    losses: list
    smoothed: list


class NotFinite(Exception):
    """The loss of the range test became NaN or infinite: the curve ends here."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or Jupyter's stop: once it is said what is kept, Jupyter shows one word, not a screen of traceback."""

    def _render_traceback_(self):
        return ["KeyboardInterrupt"]


def find_lr(model, device, train_loader, optimizer, criterion, *, iterations=100, dtype=torch.float32, checkpoint=None):
    """Run the range test, exponentially from 1e-6 to 1, on copies of model and optimizer; read LRMIN and LRMAX off it.

    Before and after, model, BatchNorm statistics, mode, gradients, optimizer and random state are the same, also when
    it is interrupted or fails.

    Args:
        train_loader: yields (pictures, labels); begun again when it ends.
        iterations: training steps; each is one batch.
        dtype: torch.bfloat16 or float16 for mixed precision.
        checkpoint: a `checkpoint.Checkpoint` that keeps the result; where it has one, that is returned at once.

    Raises:
        ValueError: the loss never fell, so there is nothing to read off, or a batch does not fit (see `train.train`).
    """
    if checkpoint is not None and checkpoint.state.get("range_test"):
        return RangeTest(**checkpoint.state["range_test"])
    if hasattr(train_loader, "set_epoch"):
        train_loader.set_epoch(0)  # training begins with epoch 1
    if len(train_loader) == 0:
        raise ValueError("the training loader is empty: there is nothing to learn from")
    began = time.perf_counter()
    try:
        with random_state_kept():
            lrs, losses = run_test(model, device, train_loader, optimizer, criterion, iterations, dtype)
    except KeyboardInterrupt:
        print("interrupted: the LR range test has changed nothing and begins anew")
        raise Interrupted from None
    found = read_curve(lrs, losses)
    if checkpoint is not None:
        checkpoint.save(range_test=vars(found), range_seconds=time.perf_counter() - began)
    return found


def run_test(model, device, train_loader, optimizer, criterion, iterations, dtype):
    """torch_lr_finder's test on copies; returns (learning rates, losses) up to the first loss that is not finite."""
    model, optimizer = copy.deepcopy(
        (model, optimizer)
    )  # together, so that the optimizer's copy holds the model's copy
    for group in optimizer.param_groups:
        group.pop("initial_lr", None)  # a scheduler's mark, at which the library stops

    def finite_loss(output, labels):
        loss = criterion(output, labels)
        if not torch.isfinite(loss):
            raise NotFinite
        return loss

    kind = torch.device(device).type
    amp = dict(amp_backend="torch", amp_config=dict(device_type=kind, dtype=dtype, enabled=dtype != torch.float32))
    scaler = torch.amp.GradScaler(kind, enabled=dtype == torch.float16)
    finder = library.LRFinder(model, optimizer, finite_loss, device=device, grad_scaler=scaler, **amp)
    library.tqdm = partial(tqdm, desc="LR range test", leave=False, disable=None)
    batches = Batches(train_loader)
    silence = contextlib.redirect_stdout(None)  # it prints its template, not its message
    with contextlib.suppress(NotFinite), silence, explained(batches):
        finder.range_test(batches, start_lr=START_LR, end_lr=END_LR, num_iter=iterations, smooth_f=0)
    losses = [float(loss) for loss in finder.history["loss"]]
    return [float(lr) for lr in finder.history["lr"][: len(losses)]], losses


class Batches(library.TrainDataLoaderIter):
    """Lets the library take any loader, not only a DataLoader. Its length is that of the batch in hand."""

    labels = ()

    def inputs_labels_from_batch(self, batch_data):
        pictures, self.labels = super().inputs_labels_from_batch(batch_data)
        return pictures, self.labels

    def __len__(self):
        return len(self.labels)


def read_curve(lrs, losses):
    """LRMAX: the steepest fall of the smoothed loss within a power of ten of its take-off. LRMIN: LRMAX / 100.

    The slope of a single step is noise and follows the number of iterations, so the curve is smoothed by a Gaussian
    over a third of a power of ten of the rate. Only the last power of ten before the take-off counts, where the loss
    has risen by a tenth of its first value above its lowest: the take-off hardly depends on chance, and slopes further
    left are noise wherever the loss falls little. Where it never takes off, the steepest slope of all counts.
    """
    if len(losses) < 10:
        raise ValueError(
            f"the range test ended after {len(losses)} steps: check the data and the loss, then take more iterations"
        )
    steps_a_decade = 1 / np.diff(np.log10(lrs)).mean()
    smoothed = gaussian_filter1d(np.minimum(losses, 2 * losses[0]), SMOOTHING * steps_a_decade, mode="nearest")
    risen = np.flatnonzero(smoothed > np.minimum.accumulate(smoothed) + smoothed[0] / 10)
    take_off = risen[0] if len(risen) else len(smoothed) - 1
    if smoothed[: take_off + 1].min() >= smoothed[0]:
        raise ValueError("the loss never fell during the range test: check the data, the labels and the loss")
    begin = max(0, take_off - round(steps_a_decade)) if len(risen) else 0
    lr_max = float(lrs[begin + int(np.diff(smoothed[begin : take_off + 1]).argmin())])
    return RangeTest(lr_max / DIVISOR, lr_max, lrs, losses, smoothed.tolist())


@contextlib.contextmanager
def random_state_kept():
    """Give Python's, NumPy's and PyTorch's global generators back the state they had."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
