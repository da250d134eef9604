"""What does `python train.py` do? The same run as the notebook's, without Jupyter: here the parts meet.

python train.py --help
"""

import argparse
import sys
from pathlib import Path

import torch

import dataset
import distributed
import models
import report
import utils
from checkpoint import Checkpoint, CheckpointError, lock_folder, to_bytes, write_atomically
from download import DownloadError
from loader import LOADERS, make_loaders
from settings import PROFILES, choose, describe_run, device_name, pick_device, precision, set_deterministic, whole
from test import confusion_matrix, mistakes, predict
from train import RECIPE, find_lr, fit, make_criterion, make_optimizer, one_cycle, steps_of_cycle


def parse(arguments):
    """The command line; wrong values end the program with exit code 2 before any work."""
    parser = argparse.ArgumentParser(description="Train the custom ResNet under the one-cycle policy.")
    add = parser.add_argument
    add(
        "--data",
        default="auto",
        metavar="auto|cifar10|sample|FOLDER",
        help="where the pictures come from (default: auto)",
    )
    add(
        "--profile",
        default="auto",
        choices=PROFILES,
        help="full: 24 epochs, for a GPU; quick: minutes without one; auto: by device",
    )
    add("--epochs", type=number, help="epochs of the whole cycle (default: by profile)")
    add("--batch-size", type=number, help="pictures a step (default: by profile)")
    add(
        "--limit",
        type=number,
        metavar="N",
        help="N training and N/5 test pictures, balanced by class (default: by profile)",
    )
    add("--seed", type=number, default=0, help="of the weights, the order and the augmentation (default: 0)")
    add(
        "--loader",
        default="albumentations",
        choices=LOADERS,
        help="who prepares the pictures (default: albumentations)",
    )
    add("--workers", type=number, default=2, help="processes that prepare pictures (default: 2)")
    add("--out", default="runs/s10", metavar="DIR", help="where results, weights and figures go (default: runs/s10)")
    add("--resume", action=argparse.BooleanOptionalAction, default=True, help="go on where a run in DIR was cut")
    add(
        "--sync-batchnorm",
        action="store_true",
        help="with several GPUs: BatchNorm's statistics are those of the whole batch",
    )
    add("--deterministic", action="store_true", help="the same to the last bit on CUDA too; slower")
    args = parser.parse_args(arguments)
    try:
        args.device = pick_device()
        args.settings = choose(
            args.profile, args.device, epochs=args.epochs, batch_size=args.batch_size, limit=args.limit
        )
        whole("seed", args.seed, 0), whole("workers", args.workers, 0)
        dataset.check_source(args.data)
        args.lock = lock_folder(Path(args.out)) if distributed.rank() == 0 else None  # held from here on
    except (ValueError, CheckpointError) as error:
        parser.error(str(error))
    return args


def number(text):
    """A whole number where the text is one; `settings.whole` refuses the rest, with the valid values."""
    return int(text) if text.removeprefix("-").isdecimal() else text


def run(args):
    """The whole run, as the notebook does it: here the parts meet."""
    set_deterministic(args.deterministic)
    device, settings, dtype = args.device, args.settings, precision(args.device)
    print(settings.describe(device))
    if torch.cuda.device_count() > distributed.size() == 1:
        print(f"One of {torch.cuda.device_count()} GPUs is used; torchrun takes all, see the top of distributed.py.")
    with distributed.first_alone():  # the others find what it has fetched and decoded
        data = dataset.load(args.data).limited(settings.limit)
    print(data.describe())

    torch.manual_seed(args.seed)
    model = models.s10_model(len(data.classes)).to(device, memory_format=torch.channels_last)
    options = dict(seed=args.seed, device=device, workers=args.workers, dtype=dtype)
    train_loader, test_loader = make_loaders(data, args.loader, settings.batch_size, **options)
    optimizer, criterion = make_optimizer(model), make_criterion()
    steps_of_cycle(len(train_loader), settings.epochs)  # a cycle that is too short is refused before any work

    config = describe_run(
        data, model, settings, seed=args.seed, loader=args.loader, workers=args.workers, recipe=RECIPE
    )
    checkpoint = None  # the first process keeps it
    if distributed.rank() == 0:
        checkpoint = Checkpoint(args.out, config, resume=args.resume, device=distributed.devices(device_name(device)))
    common = dict(dtype=dtype, checkpoint=checkpoint)
    parts, options = (model, device, train_loader, optimizer, criterion), dict(iterations=settings.iterations, **common)
    found = distributed.by_first(lambda: find_lr(*parts, **options))
    print(f"LR range test: LRMAX {found.lr_max:.2e}, LRMIN {found.lr_min:.2e}")

    scheduler = one_cycle(optimizer, found.lr_max, len(train_loader), settings.epochs)
    parallel = distributed.wrap(model, sync_batchnorm=args.sync_batchnorm)
    loaders, options = (train_loader, test_loader), dict(seed=args.seed, **common)
    history = fit(parallel, device, *loaders, optimizer, criterion, scheduler, settings.epochs, **options)
    if distributed.rank() == 0:
        finish(args, data, model, test_loader, found, history, config)


def finish(args, data, model, test_loader, found, history, config):
    """Weights, results and figures of a trained network, by the first process alone."""
    out, device = Path(args.out), args.device
    with distributed.by_itself():
        probabilities, labels = predict(model, device, test_loader, dtype=precision(device))
    about = dict(parameters=models.count_parameters(model), device=device_name(device), world_size=distributed.size())
    numbers = report.collect(data, history, found, config, confusion_matrix(probabilities, labels), **about)
    write_atomically(out / "s10_model.pt", to_bytes(model.state_dict()))
    write_atomically(out / "results.json", report.to_json(numbers))
    print(f"final test accuracy {numbers['final_test_acc']:.2f} % on {data.name}; weights and results are in {out}")
    draw(out, data, found, numbers, probabilities, labels)


def draw(out, data, found, numbers, probabilities, labels):
    """The figures of a finished run. Its results are safe by now, so a figure that cannot be written only says so."""
    worst, confusion = mistakes(probabilities, labels)[:25], numbers["confusion"]
    wrong = (data.test.data[worst], labels[worst], probabilities[worst].argmax(1), probabilities[worst].max(1))
    figures = [
        (utils.plot_samples, "sample_images", (data.train.data, data.train.targets, data.classes)),
        (utils.plot_lr_finder, "lr_finder", (found.lrs, found.losses, found.smoothed, found.lr_min, found.lr_max)),
        (utils.plot_history, "loss_curves", (numbers["history"],)),
        (utils.plot_class_accuracy, "class_accuracy", (confusion, data.classes)),
        (utils.plot_confusion, "confusion_matrix", (confusion, data.classes)),
        (utils.plot_mistakes, "misclassified_images", (*wrong, data.classes)),
    ]
    for plot, name, values in figures:
        try:
            plot(*values, note=report.provenance(numbers), path=out / f"{name}.png")
        except ValueError as error:  # nothing to draw: no finite loss, say
            print(f"{name}.png could not be drawn: {error}")
    print(f"figures: {out}/*.png")


def main(arguments=None):
    """`python train.py`: 0 when all went well, 1 and a sentence when not, 2 for wrong arguments, 130 after Ctrl-C."""
    try:
        with distributed.joined():
            run(parse(arguments))
    except (ValueError, TypeError, ArithmeticError, MemoryError, OSError, CheckpointError, DownloadError) as error:
        who = f"rank {distributed.rank()}: " if distributed.rank() else ""
        sys.exit(f"train.py: {who}{error}")
    except KeyboardInterrupt:
        if distributed.rank() == 0:
            print("train.py: stopped by Ctrl-C; the same command goes on after the last finished epoch")
        sys.exit(130)
