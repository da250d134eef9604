"""What each of two processes does for test_distributed.py."""

import os

import numpy as np
import torch
from small_run import TinyNet
from torch import nn

from dataset import ArrayDataset, Data, loaders
from extras import distributed
from test import predict, test
from train import fit, train

BATCH = 8  # 20 images: batches of 8, 8 and 4, so shares of 4, 4 and 2 rows, and three steps


def images(n=20, n_test=9):
    """Noise; the label of an image is its number."""
    rng = np.random.default_rng(0)
    names = [f"class {i}" for i in range(20)]
    train_split, test_split = (
        ArrayDataset(rng.integers(0, 256, (k, 32, 32, 3), dtype=np.uint8), np.arange(k), names)
        for k in (n, n_test)
    )
    return Data("noise", train_split, test_split)


def parts():
    """Network, loaders, optimizer and loss of the exactness test, in float64.

    They are the same in every process: no dropout. Not Adam, which would hide a gradient twice as
    large.
    """
    torch.manual_seed(0)
    model = TinyNet(20).double()
    model[5] = nn.Identity()
    both = loaders(images(), BATCH, loader="device", dtype=torch.float64)
    both[0].set_epoch(1)
    return model, both, torch.optim.SGD(model.parameters(), lr=0.01), nn.CrossEntropyLoss()


def refusals(model):
    """The sentences for what several processes cannot share."""
    attempts = [
        lambda: loaders(images(), 7, loader="device"),
        lambda: loaders(images(n=17), 16, loader="device"),  # 1 image is left for two
        lambda: loaders(images(), BATCH, loader="torchvision"),
        lambda: distributed.wrap(model, sync_batchnorm=True),
    ]
    for attempt in attempts:
        try:
            attempt()
            yield "no error"
        except ValueError as error:
            yield str(error)


def started_together(rank):
    """The parts of rank 0, which has gone on from a checkpoint, and what rank 1 takes over."""
    torch.manual_seed(rank)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    if rank == 0:
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    history = [{"epoch": 1}] if rank == 0 else []
    states = {"model": model, "optimizer": optimizer}
    history = distributed.start_together(history, states)
    return history, {name: part.state_dict() for name, part in states.items()}


def epochs_until(ending_rank):
    """How many of three epochs are trained where one rank alone wants the first to be the last."""
    model = nn.Linear(3, 2)
    batch = torch.ones(4, 3), torch.tensor([0, 1, 0, 1])
    history = fit(
        distributed.wrap(model),
        "cpu",
        [batch],
        torch.optim.SGD(model.parameters(), lr=0.1),
        nn.CrossEntropyLoss(),
        epochs=3,
        evaluate=lambda: (float(distributed.rank()), 50.0),
        after_epoch=lambda row: distributed.rank() == ending_rank,
    )
    return history


def main(out):
    """Leave what this process sees and computes in OUT/<rank>.pt."""
    with distributed.process_group("cpu"):
        rank = distributed.rank()
        model, (train_loader, test_loader), optimizer, criterion = parts()
        found = {
            "rank": rank,
            "world_size": distributed.world_size(),
            "refused": list(refusals(model)),
            "seen": [labels.tolist() for _, labels in train_loader],
        }
        train_loader.set_epoch(1)
        parallel = distributed.wrap(model)
        train_loss, train_acc = train(parallel, "cpu", train_loader, optimizer, criterion)
        row = {"train_loss": train_loss, "train_acc": train_acc, "test_loss": float(rank)}
        found["row"] = distributed.average(row)
        found["tested"] = test(model, "cpu", test_loader, criterion)
        found["predicted"] = predict(model, "cpu", test_loader)[1].tolist()
        found["data"] = distributed.run_on_rank0(lambda: images(n=20 + 2 * rank)).fingerprint
        found["started together"] = started_together(rank)
        found["ended by 0"] = epochs_until(0)
        found["ended by 1"] = epochs_until(1)
        torch.save(found | {"model": model.state_dict()}, out / f"{rank}.pt")


def as_rank(rank, port, target, *arguments):
    """Call `target` as torchrun would, as the process of this rank of two."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
    }
    target(*arguments)
