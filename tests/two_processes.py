"""What each of two processes does for test_distributed.py."""

import os

import numpy as np
import torch
from torch import nn

from dataset import ArrayDataset, Data, loaders
from extras import distributed
from models import s10_model
from test import predict, test
from train import train

BATCH, LR = 7, 1e-4  # 20 images: batches of 7, 7 and 6, so shares of 3 and 4 rows, and three steps


def quiet(*_):
    """Takes a line of text, and prints nothing."""


def images(n=20, n_test=9):
    """Noise; the label of an image is its number."""
    rng, names = np.random.default_rng(0), [f"class {i}" for i in range(n)]
    parts = [
        ArrayDataset(rng.integers(0, 256, (k, 32, 32, 3), dtype=np.uint8), np.arange(k), names)
        for k in (n, n_test)
    ]
    return Data("noise", *parts)


def parts():
    """Network, loaders, optimizer and loss of the exactness test, the same in every process;
    float64.
    """
    torch.manual_seed(0)
    model = s10_model(20).double()
    both = loaders(images(), BATCH, loader="device", dtype=torch.float64, log=quiet)
    both[0].set_epoch(1)
    return model, both, torch.optim.Adam(model.parameters(), lr=LR), nn.CrossEntropyLoss()


def refusals(model):
    """The sentences for what several processes cannot share."""
    attempts = [
        lambda: loaders(images(), 1, loader="device", log=quiet),
        lambda: loaders(images(), 19, loader="device", log=quiet),
        lambda: loaders(images(n_test=1), BATCH, loader="device", log=quiet),
        lambda: loaders(images(), BATCH, loader="torchvision", log=quiet),
        lambda: distributed.wrap(model, sync_batchnorm=True),
    ]
    for attempt in attempts:
        try:
            attempt()
            yield "no error"
        except ValueError as error:
            yield str(error)


def main(out):
    """Leave what this process sees and computes in OUT/<rank>.pt."""
    with distributed.process_group():
        model, (train_loader, test_loader), optimizer, criterion = parts()
        found = dict(
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            refused=list(refusals(model)),
        )
        found["seen"] = [labels.tolist() for _, labels in train_loader]
        train_loader.set_epoch(1)
        parallel = distributed.wrap(model)
        found["trained"] = train(parallel, "cpu", train_loader, optimizer, criterion)
        found["tested"] = test(model, "cpu", test_loader, criterion)
        found["own share"] = predict(model, "cpu", test_loader)[1].tolist()
        found["whole"] = distributed.run_on_rank0(
            lambda: predict(model, "cpu", test_loader.whole())[1].tolist()
        )
        found["data"] = distributed.run_on_rank0(
            lambda: images(n=20 + distributed.rank())
        ).fingerprint
        torch.save(found | dict(model=model.state_dict()), out / f"{found['rank']}.pt")


def as_rank(rank, port, target, *arguments):
    os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ |= dict(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    target(*arguments)
