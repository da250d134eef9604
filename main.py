"""The notebook's run from a shell: range test, training, evaluation, results and figures.

python main.py                                        # CIFAR-10; full on a GPU, quick without one
python main.py --data photos/ --profile full          # a folder: train/<class>/*, test/<class>/*
torchrun --standalone --nproc-per-node=2 main.py      # two GPUs, or two processes on a CPU
python main.py --evaluate                             # the accuracy of misc/s10_model.pt
python main.py --help
"""

import argparse
import os
import sys
import traceback
from functools import partial
from pathlib import Path

# PyTorch and what needs it are imported in the functions: a wrong argument is refused at once
from extras import hardware, settings

WEIGHTS = Path(__file__).parent / "misc" / "s10_model.pt"  # of the run that is shown


def run(args):
    """The whole run, as in the notebook."""
    import torch

    import dataset
    import models
    import test
    import train
    from extras.checkpoint import open_run
    from extras.distributed import rank, run_on_rank0, world_size, wrap
    from extras.lr_finder import choose_rates, find_lr

    device = args.device
    sizes = args.settings
    print(sizes.describe())
    # Rank 0 loads, so that all processes have the same images
    data = run_on_rank0(lambda: dataset.load(args.data).limited(sizes.limit))
    print(data.describe())

    torch.manual_seed(args.seed)
    layout = hardware.memory_format(device)
    model = models.s10_model(len(data.classes)).to(device, memory_format=layout)
    config = settings.run_config(
        data, sizes, args.seed, train.RECIPE, model, lr_max=args.lr_max, lr_min=args.lr_min
    )
    checkpoint, loader, dtype = open_run(
        args.out,
        config,
        device,
        loader=args.loader,
        precision=args.precision,
        workers=args.workers,
        resume=args.resume,
    )
    train_loader, test_loader = dataset.loaders(
        data,
        sizes.batch_size,
        loader=loader,
        device=device,
        seed=args.seed,
        workers=checkpoint.choices["workers"] if checkpoint else 0,
        dtype=dtype,
    )
    optimizer = train.make_optimizer(model)
    criterion = train.make_criterion()
    train.check_cycle(sizes.epochs * len(train_loader), 1, 1)  # now, not after the range test

    def range_test():
        # the whole batches, for rank 0 runs it alone
        whole = train_loader.whole() if world_size() > 1 else train_loader
        return find_lr(
            model,
            device,
            whole,
            optimizer,
            criterion,
            guess=data.guess,
            iterations=sizes.iterations,
            dtype=dtype,
            checkpoint=checkpoint,
        )

    found = run_on_rank0(lambda: choose_rates(range_test, args.lr_min, args.lr_max))
    print(f"learning rates: LRMIN {found.lr_min:.2e}, LRMAX {found.lr_max:.2e}")
    scheduler = train.one_cycle(
        optimizer, found.lr_max, len(train_loader), sizes.epochs, lr_min=found.lr_min
    )
    history = train.fit(
        wrap(model, sync_batchnorm=args.sync_batchnorm),
        device,
        train_loader,
        optimizer,
        criterion,
        scheduler,
        epochs=sizes.epochs,
        seed=args.seed,
        dtype=dtype,
        checkpoint=checkpoint,
        evaluate=lambda: test.test(model, device, test_loader, criterion, dtype=dtype),
    )
    if rank() == 0:
        finish(checkpoint, data, model, test_loader, device, dtype, found, history)


def finish(checkpoint, data, model, test_loader, device, dtype, found, history):
    """Weights, results and figures of a trained network."""
    import models
    import test
    from extras import report

    out = checkpoint.folder
    probabilities, labels = test.predict(model, device, test_loader, dtype=dtype)
    mirrored, _ = test.predict(model, device, test_loader, dtype=dtype, mirrored=True)
    numbers = report.collect(
        checkpoint,
        data,
        found,
        history,
        test.confusion_matrix(probabilities, labels),
        test.top_k(mirrored, labels, k=1),
        models.count_parameters(model),
    )
    print(f"final test accuracy {numbers['final_test_acc']:.2f} % on {data.name}")
    report.write_results(numbers, model, checkpoint, out)
    if checkpoint.unwritten:
        names = ", ".join(sorted(path.name for path in checkpoint.unwritten))
        raise OSError(f"{names} could not be written: make room for them, then run this again")
    print(f"weights and results are in {out}")
    draw(out, data, found, numbers, probabilities, labels)


def draw(out, data, found, numbers, probabilities, labels):
    """The figures of a finished run. The results are saved, so one that fails is only named."""
    import test
    import utils
    from extras import report

    wrong = test.misclassified(probabilities, labels)[:25]
    classes = data.classes
    floor = utils.smoothing_floor(numbers["recipe"]["label_smoothing"], len(classes))
    target = report.TARGET if data.kind == "cifar10" else None
    figures = {
        "sample_images": partial(utils.plot_samples, data.train.data, data.train.targets, classes),
        "lr_finder": partial(utils.plot_lr_finder, found),
        "loss_curves": partial(
            utils.plot_loss_curves, numbers["history"], target=target, loss_floor=floor
        ),
        "confusion_matrix": partial(utils.plot_confusion_matrix, numbers["confusion"], classes),
        "misclassified_images": partial(
            utils.plot_misclassified,
            data.test.data[wrong],
            labels[wrong],
            probabilities[wrong],
            classes,
        ),
    }
    if not found.lrs:  # both rates were given
        del figures["lr_finder"]
    for name, plot in figures.items():
        try:
            plot(note=report.provenance(numbers), path=out / f"{name}.png")
        except (ValueError, OSError, RuntimeError) as error:
            print(f"{name}.png could not be drawn: {error}")
    print(f"figures: {out}/*.png")


def evaluate(args):
    """Print the accuracy of trained weights on the test images; nothing is trained."""
    import torch

    import dataset
    import models
    import test
    import train

    device = args.device
    about = models.about_weights(args.evaluate)
    model = models.load_weights(args.evaluate)
    model = model.to(device, memory_format=hardware.memory_format(device))
    # no sample: these weights do not know its classes
    data = dataset.load("cifar10" if args.data == "auto" else args.data)
    print(data.describe())
    if list(data.classes) != about["classes"]:
        raise ValueError(
            f"the classes of {data.name} are {', '.join(data.classes)}; {args.evaluate} knows "
            f"{', '.join(about['classes'])}: give images of these"
        )
    # normalised as the images that the network was trained on, whatever this folder has
    data.mean = tuple(about["mean"])
    data.std = tuple(about["std"])
    precision, why = hardware.choose_precision(args.precision, device)
    print(f"{hardware.device_name(device)}, {precision}: {why}")
    dtype = getattr(torch, precision)
    loader = dataset.test_loader(data, device, dtype=dtype)
    loss, accuracy = test.test(model, device, loader, train.make_criterion(), dtype=dtype)
    print(
        f"{args.evaluate}: test accuracy {accuracy:.2f} %, loss {loss:.4f}, "
        f"{len(data.test):,} images of {data.name}"
    )
    mirrored, labels = test.predict(model, device, loader, dtype=dtype, mirrored=True)
    print(f"with each mirror image averaged in: {test.top_k(mirrored, labels, k=1):.2f} %")


def make_parser():
    """The command line's options."""
    parser = argparse.ArgumentParser(
        description="Train the custom ResNet under the one-cycle policy."
    )
    add = parser.add_argument
    add(
        "--data",
        default="auto",
        metavar="auto|cifar10|sample|FOLDER",
        help="the images (default: auto)",
    )
    add(
        "--profile",
        default="auto",
        choices=settings.PROFILES,
        help="full: 24 epochs of all images, as on a GPU; quick: minutes on a CPU; auto: by device",
    )
    add("--epochs", type=int, help="epochs of the whole cycle (default: by profile)")
    add("--batch-size", type=int, help="images in a step (default: by profile)")
    add("--limit", type=int, metavar="N", help="N training and N/5 test images, balanced by class")
    add("--seed", type=int, default=0, help="of weights, order and augmentation (default: 0)")
    add("--lr-max", type=float, metavar="RATE", help="LRMAX (default: the range test finds it)")
    add("--lr-min", type=float, metavar="RATE", help="LRMIN (default: the range test finds it)")
    add(
        "--loader",
        default="auto",
        choices=("auto", "albumentations", "torchvision", "device"),
        help="who makes the batches; auto: device on a GPU or under torchrun, else albumentations",
    )
    add("--workers", type=int, help="processes that prepare images (default: 2)")
    add(
        "--precision",
        default="auto",
        choices=hardware.PRECISIONS,
        help="auto: the fastest that the device computes well",
    )
    add("--device", default="auto", choices=hardware.DEVICES, help="auto: a GPU where there is one")
    add(
        "--out",
        default="runs/s10",
        metavar="DIR",
        help="for results, weights and figures (default: runs/s10)",
    )
    add(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="resume an interrupted run in DIR",
    )
    add(
        "--evaluate",
        nargs="?",
        const=str(WEIGHTS),
        metavar="WEIGHTS",
        help="train nothing: test these weights (default: misc/s10_model.pt)",
    )
    add(
        "--sync-batchnorm",
        action="store_true",
        help="several GPUs: BatchNorm's statistics are of the whole batch",
    )
    add("--deterministic", action="store_true", help="the same to the last bit on CUDA too; slower")
    return parser


def parse(arguments):
    """The command line; a wrong value ends the program with exit code 2, before any work."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    try:
        check(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def check(args):
    """Refuse what argparse cannot see (ValueError), and choose the device and the settings."""
    is_folder = os.path.isdir(os.path.expanduser(args.data))
    if args.data not in ("auto", "cifar10", "sample") and not is_folder:
        raise ValueError(
            f"data is {args.data!r}: give auto, cifar10, sample, or a folder that exists"
        )
    if args.evaluate is not None:
        if not Path(args.evaluate).is_file():
            raise ValueError(
                f"weights are {args.evaluate!r}: give a file, such as runs/s10/s10_model.pt"
            )
        if args.limit is not None:
            raise ValueError("--limit has no meaning with --evaluate: all test images are taken")
    else:
        check_folder(args.out)
    settings.check_int("seed", args.seed, 0, settings.LARGEST_SEED)
    if args.workers is not None:
        settings.check_int("workers", args.workers, 0)
    settings.check_rates(args.lr_max, args.lr_min)
    given = {"epochs": args.epochs, "batch_size": args.batch_size, "limit": args.limit}
    settings.choose(args.profile, **given)  # before PyTorch is imported
    args.device = hardware.pick_device(args.device)
    args.settings = settings.choose(args.profile, args.device, **given)
    hardware.choose_precision(args.precision, args.device)


def check_folder(folder):
    """Refuse a folder that cannot be written: now, not after CIFAR-10 was downloaded."""
    path = Path(folder).absolute()
    nearest = next(parent for parent in (path, *path.parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ValueError(f"out is {folder!r}: {nearest} is not a folder that can be written")


def main(arguments=None):
    """Exit codes: 0 success, 1 an error (a sentence says which), 2 wrong arguments, 130 Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        # each line is written at once, in a log too; "?" stands for what the terminal cannot show
        if hasattr(stream, "reconfigure"):  # a notebook's streams have no such method
            stream.reconfigure(line_buffering=True, errors="replace")
    rank = os.environ.get("RANK", "0")
    who = "main.py" if rank == "0" else f"main.py, rank {rank}"
    try:
        args = parse(arguments)
        from extras.distributed import process_group

        hardware.set_deterministic(args.deterministic)
        with process_group(args.device):
            if args.evaluate is None:
                run(args)
            else:
                evaluate(args)
    except KeyboardInterrupt:
        print(f"{who}: stopped by Ctrl-C; the same command resumes a run after its last epoch")
        sys.exit(130)
    except (ValueError, ArithmeticError, ImportError, MemoryError, OSError, RuntimeError) as error:
        message = sentence(error)
        if message is None:  # a bug, which needs its traceback
            raise
        if not is_raised_here(error):
            traceback.print_exc()
        sys.exit(f"{who}: {message}")


def sentence(error):
    """The sentence to print for an error, ours or a library's; None where it is a bug."""
    text = str(error)
    if isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text:
        return "out of memory: try a smaller --batch-size, or --device cpu"
    if type(error).__name__.startswith("Dist"):  # of torch.distributed: NCCL writes a page
        return text.partition("\n")[0]
    if isinstance(error, RuntimeError) and type(error).__module__.partition(".")[0] != "extras":
        return None  # PyTorch's own, CUDA's among them
    return text.replace("resume=False", "--no-resume")  # the option's name here


def is_raised_here(error):
    """Was an error raised on purpose, in our code? Else its traceback is printed as well."""
    if not isinstance(error, ValueError | ArithmeticError):
        return True  # no disk space, no such package, out of memory
    last = traceback.extract_tb(error.__traceback__)[-1]
    is_ours = Path(__file__).parent in Path(last.filename).parents and ".venv" not in last.filename
    return is_ours and last.line.startswith("raise")


if __name__ == "__main__":
    main()
