"""What each of several processes does, for test_distributed.py: started by torchrun, it leaves OUT/<rank>.pt.

torchrun --standalone --nproc-per-node=2 tests/two_processes.py OUT
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before tests/ and the standard library's `test`

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

import distributed  # noqa: E402
from dataset import ArrayDataset, Data  # noqa: E402
from loader import make_loaders  # noqa: E402
from models import s10_model  # noqa: E402
from test import predict, test  # noqa: E402
from train import train  # noqa: E402

BATCH, LR = 7, 1e-4  # 20 pictures: batches of 7, 7 and 6, so shares of 3 and 4 rows, and three steps


def pictures(n=20, n_test=9):
    """Noise; the label of a training picture is its number."""
    rng, names = np.random.default_rng(0), [f"class {i}" for i in range(n)]
    parts = (
        ArrayDataset(rng.integers(0, 256, (k, 32, 32, 3), dtype=np.uint8), np.arange(k), names) for k in (n, n_test)
    )
    return Data("noise", *parts)


def ingredients():
    """Network, loaders, optimizer and loss of the exactness test, the same in every process; float64."""
    torch.manual_seed(0)
    model = s10_model(20).double()
    loaders = make_loaders(pictures(), "device", BATCH, dtype=torch.float64)
    loaders[0].set_epoch(1)
    return model, loaders, torch.optim.Adam(model.parameters(), lr=LR), nn.CrossEntropyLoss()


def refusals(model):
    """The sentences for what several processes cannot share."""
    attempts = [
        lambda: make_loaders(pictures(), "device", 1),
        lambda: make_loaders(pictures(), "device", 19),
        lambda: make_loaders(pictures(n_test=1), "device", BATCH),
        lambda: make_loaders(pictures(), "torchvision", BATCH),
        lambda: distributed.wrap(model, sync_batchnorm=True),
    ]
    for attempt in attempts:
        try:
            attempt()
            yield "no error"
        except ValueError as error:
            yield str(error)


def main(out):
    with distributed.joined():
        model, (train_loader, test_loader), optimizer, criterion = ingredients()
        seen = [labels.tolist() for _, labels in train_loader]
        trained = train(distributed.wrap(model), "cpu", train_loader, optimizer, criterion)
        tested = test(model, "cpu", test_loader, criterion)
        together = distributed.by_first(lambda: (predict(model, "cpu", test_loader)[1], distributed.size()))
        refused = list(refusals(model))
        found = dict(
            refused=refused, seen=seen, trained=trained, tested=tested, together=together, size=distributed.size()
        )
        torch.save(found | dict(model=model.state_dict()), Path(out) / f"{distributed.rank()}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
