"""Everything that trains a network, from one set of settings: for experiments and benchmarks.

    parts = build(data, epochs=24, batch_size=512, seed=0, device=device, loader="device")
    parts.model, parts.train_loader, parts.test_loader, parts.optimizer, parts.criterion
    scheduler = parts.schedule(lr_max, lr_min=lr_min)

main.py and the notebook make these calls themselves, where one can see them.
"""

from functools import partial
from types import SimpleNamespace

import torch

import dataset
import models
import train
from extras.hardware import memory_format


def build(
    data,
    *,
    epochs=24,
    batch_size=512,
    seed=0,
    device="cpu",
    loader="auto",
    dtype=torch.float32,
    workers=2,
    recipe=train.RECIPE,
    make_model=models.s10_model,
):
    """Make model, loaders, optimizer, criterion and schedule.

    Args:
        data: a `dataset.Data`. batch_size, device, loader, workers, dtype: see `dataset.loaders`.
        recipe: a dict with the keys of `train.RECIPE`; `make_optimizer` says which optimizers.
        make_model: called with the number of classes.

    Returns:
        A namespace of model, train_loader, test_loader, optimizer, criterion and schedule, which is
        `train.one_cycle` waiting for LRMAX (and `lr_min=`) once the range test has found them.
    """
    torch.manual_seed(seed)
    model = make_model(len(data.classes)).to(device, memory_format=memory_format(device))
    train_loader, test_loader = dataset.loaders(
        data,
        batch_size,
        loader=loader,
        device=device,
        seed=seed,
        workers=workers,
        dtype=dtype,
    )
    optimizer = make_optimizer(model, recipe)
    steps = len(train_loader)
    return SimpleNamespace(
        model=model,
        train_loader=train_loader,
        test_loader=test_loader,
        optimizer=optimizer,
        criterion=train.make_criterion(recipe),
        schedule=partial(train.one_cycle, optimizer, steps_per_epoch=steps, epochs=epochs),
    )


def make_optimizer(model, recipe):
    """Make "AdamW", the recipe's, or "Adam", with a decay that is added to the gradient (2023)."""
    if recipe["optimizer"] == "AdamW":
        return train.make_optimizer(model, recipe)
    return torch.optim.Adam(
        model.parameters(),
        betas=tuple(recipe["betas"]),
        weight_decay=recipe["weight_decay"],
        fused=True,
    )
