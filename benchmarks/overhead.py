"""What an epoch costs besides the network: `train.train` and `test.test` over bare steps and bare
forward passes.

Bare: on one batch that lies ready on the device, and nothing else is done.
"""

import torch

import test
from benchmarks.common import (
    alternate,
    bare_step,
    build,
    command,
    epoch,
    goal,
    ratios,
    row,
    speed_row,
)
from dataset import LOADERS, TEST_BATCH


def training(size):
    """An epoch over the same number of bare steps, for each loader."""
    batch = size.batch
    n = size.images(5, most=49 * batch, batch=batch)
    parts = {name: build(size, n, loader=name) for name in LOADERS if name != "auto"}
    step, epochs = (
        bare_step(parts["device"], size),
        {name: epoch(one, size) for name, one in parts.items()},
    )
    bare = {"bare": lambda: [step() for _ in range(n // batch)]}

    # apart, since the others take far longer on a GPU and need no such precision
    found = alternate(bare | {"device": epochs.pop("device")}, size.repeats(9), size.device)
    rows = [
        speed_row("bare steps", n, found["bare"]),
        speed_row("epoch, device", n, found["device"]),
    ]
    rows.append(row("epoch / bare steps, device", ratios(found["device"], found["bare"]), "times"))
    goals = [goal(rows[-1], "at most", 1.03)]
    found = alternate(bare | epochs, size.repeats(3), size.device)
    for name in epochs:
        rows.append(speed_row(f"epoch, {name}, 2 workers", n, found[name]))
        rows.append(row(f"epoch / bare steps, {name}", ratios(found[name], found["bare"]), "times"))
    return rows, goals


def evaluation(size):
    """`test.test` over the bare forward passes of as many batches."""
    # in 20 seconds of training; the forward pass alone takes a third of that
    n = 8 if size.tiny else size.images(20, most=10_000, batch=TEST_BATCH)
    parts, dtype = build(size, 8, n), getattr(torch, size.precision)
    ready = next(iter(parts.test_loader))[0]

    @torch.inference_mode()
    def forward():
        parts.model.eval()
        for _ in range(len(parts.test_loader)):
            with torch.autocast(size.device.type, dtype, enabled=dtype != torch.float32):
                parts.model(ready)

    def evaluate():
        test.test(parts.model, size.device, parts.test_loader, parts.criterion, dtype=dtype)

    found = alternate(dict(bare=forward, ours=evaluate), size.repeats(9), size.device)
    rows = [
        speed_row("bare forward passes", n, found["bare"]),
        speed_row("evaluation", n, found["ours"]),
    ]
    rows.append(
        row("evaluation / bare forward passes", ratios(found["ours"], found["bare"]), "times")
    )
    return rows, [goal(rows[-1], "at most", 1.05)]


def measure(size):
    (rows, goals), (more_rows, more_goals) = training(size), evaluation(size)
    return rows + more_rows, goals + more_goals


if __name__ == "__main__":
    command("overhead", measure)
