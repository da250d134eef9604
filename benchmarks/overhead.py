"""How much of a training epoch is not the network?

The time of `train.train` over that of the same number of bare steps (forward, backward, Adam) on one batch that lies
ready on the device. See benchmarks/README.md.
"""

import itertools

from benchmarks.common import Trainer, alternate, goal, main, noise_data, ratio, row, rows_of
from loader import LOADERS, make_loaders
from train import one_cycle, train

SIZES = dict(
    tiny=dict(batch=4, steps=2, repeats=1, repeats_others=1),
    cpu=dict(batch=32, steps=2, repeats=13, repeats_others=3),
    cuda=dict(batch=512, steps=49, repeats=9, repeats_others=3),
)
WORKERS = 2  # as in a run
WARMUPS = 1


def epochs_of(trainer, loader):
    """A function that trains for one epoch, the next at each call, on a schedule that does not end soon."""
    scheduler, epochs = one_cycle(trainer.optimizer, 1e-3, len(loader), 1000), itertools.count(1)

    def epoch():
        loader.set_epoch(next(epochs))
        options = dict(scaler=trainer.scaler, dtype=trainer.dtype)
        train(trainer.model, trainer.device, loader, trainer.optimizer, trainer.criterion, scheduler, **options)

    return epoch


def measure(device, sizes):
    trainer, batch, steps = Trainer(device), sizes["batch"], sizes["steps"]
    data, ready = noise_data(batch * steps), trainer.batch(batch)

    def bare():
        for _ in range(steps):
            trainer.step(*ready)

    def contest(names, repeats):
        options = dict(device=device, workers=WORKERS, dtype=trainer.dtype)
        loaders = {name: make_loaders(data, name, batch, **options)[0] for name in names}
        epochs = {name: epochs_of(trainer, loader) for name, loader in loaders.items()}
        return alternate({"bare": bare} | epochs, repeats, device, WARMUPS)

    # apart, since the others take far longer on a GPU and need no such precision
    found = contest(["device"], sizes["repeats"])
    rows = [rows_of(f"{steps} bare steps, batch {batch}", found["bare"]), rows_of("epoch, device", found["device"])]
    rows.append(row("epoch / bare steps, device", ratio(found["device"], found["bare"]), "times"))
    goals = [goal("epoch / bare steps, device", "at most", 1.03, rows[-1]["value"])]
    others = [name for name in LOADERS if name != "device"]
    found = contest(others, sizes["repeats_others"])
    for name in others:
        rows.append(rows_of(f"epoch, {name}, {WORKERS} workers", found[name]))
        rows.append(row(f"epoch / bare steps, {name}", ratio(found[name], found["bare"]), "times"))
    return rows, goals


if __name__ == "__main__":
    main("overhead", measure, SIZES)
