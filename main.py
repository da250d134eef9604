"""The notebook's run from a shell: range test, training, evaluation, results and figures.

python main.py                                        # CIFAR-10 (or the sample); full on a GPU,
quick without one python main.py --data photos/ --profile full          # a folder with
train/<class>/* and test/<class>/* torchrun --standalone --nproc-per-node=2 main.py      # two GPUs,
or two processes on a CPU python main.py --evaluate                             # the accuracy of
misc/s10_model.pt python main.py --help
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

# PyTorch and the files that need it are imported in the functions: a wrong argument is refused at
# once
from extras import settings as st

WEIGHTS = Path(__file__).parent / "misc" / "s10_model.pt"  # of the run that is shown


def build(
    data,
    *,
    epochs=24,
    batch_size=512,
    seed=0,
    device="cpu",
    loader="auto",
    dtype=None,
    workers=2,
    recipe=None,
    make_model=None,
    log=print,
):
    """What trains a network, for main.py, experiments and benchmarks: model, loaders, optimizer,
    criterion, schedule.

    Args: see `dataset.loaders`; dtype None is float32, recipe None `train.RECIPE`, make_model None
    `models.s10_model`.

    Returns:
        A namespace of model, train_loader, test_loader, optimizer, criterion, and schedule:
            `schedule(lr_max,
        lr_min=…)` makes the one-cycle scheduler once the rates are found.
    """
    import torch

    import dataset
    import models
    import train

    recipe, dtype = recipe or train.RECIPE, dtype or torch.float32
    torch.manual_seed(seed)
    model = (make_model or models.s10_model)(len(data.classes)).to(
        device, memory_format=torch.channels_last
    )
    parts = SimpleNamespace(model=model, criterion=train.make_criterion(recipe))
    parts.train_loader, parts.test_loader = dataset.loaders(
        data,
        batch_size,
        loader=loader,
        device=device,
        seed=seed,
        workers=workers,
        dtype=dtype,
        log=log,
    )
    parts.optimizer, steps = train.make_optimizer(model, recipe), len(parts.train_loader)
    parts.schedule = partial(train.one_cycle, parts.optimizer, steps_per_epoch=steps, epochs=epochs)
    return parts


def run(args):
    """The whole run, as in the notebook."""
    import torch

    import dataset
    import test
    import train
    from extras.checkpoint import Checkpoint
    from extras.distributed import rank, run_on_rank0, world_size, wrap
    from extras.lr_finder import find_lr

    log = print if rank() == 0 else lambda *_: None
    st.set_deterministic(args.deterministic)
    device, settings = args.device, args.settings
    log(settings.describe())
    data = run_on_rank0(
        lambda: dataset.load(args.data, log=log).limited(settings.limit)
    )  # the same images for all
    log(data.describe())

    # a run that goes on keeps its loader and its precision; rank 0 alone has the checkpoint
    config = st.run_config(data, settings, args.seed, train.RECIPE)
    checkpoint = Checkpoint(args.out, config, resume=args.resume) if rank() == 0 else None

    name = st.device_name(device, world_size())

    def choose():
        loader = checkpoint.before("loader", args.loader) or dataset.choose_loader(
            args.loader, device
        )
        precision, why = st.choose_precision(
            args.precision, device, checkpoint.before("precision", args.precision)
        )
        log(f"{name}, {precision}: {why}")
        if checkpoint.before("device") not in (None, name):
            log(f"the run was begun on {checkpoint.before('device')}")
        return loader, precision

    loader, precision = run_on_rank0(choose)
    dtype = getattr(torch, precision)
    parts = build(
        data,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        seed=args.seed,
        device=device,
        loader=loader,
        dtype=dtype,
        workers=args.workers,
        log=log,
    )
    if checkpoint:
        checkpoint.choices = dict(
            loader=loader, precision=precision, device=name, world_size=world_size()
        )

    def range_test():
        train_loader = parts.train_loader.whole() if world_size() > 1 else parts.train_loader
        return find_lr(
            parts.model,
            device,
            train_loader,
            parts.optimizer,
            parts.criterion,
            iterations=settings.iterations,
            dtype=dtype,
            checkpoint=checkpoint,
        )

    train.cycle_curve(
        1.0, len(parts.train_loader), settings.epochs
    )  # refuses too few steps now, not after the test
    found = run_on_rank0(range_test)
    log(f"LR range test: LRMIN {found.lr_min:.2e}, LRMAX {found.lr_max:.2e}")
    scheduler = parts.schedule(found.lr_max, lr_min=found.lr_min)
    history = train.fit(
        wrap(parts.model, sync_batchnorm=args.sync_batchnorm),
        device,
        parts.train_loader,
        parts.optimizer,
        parts.criterion,
        scheduler,
        epochs=settings.epochs,
        seed=args.seed,
        dtype=dtype,
        checkpoint=checkpoint,
        log=log,
        evaluate=lambda: test.test(
            parts.model, device, parts.test_loader, parts.criterion, dtype=dtype
        ),
    )
    if rank() == 0:
        about = dict(
            seed=args.seed, recipe=train.RECIPE, settings=settings, **checkpoint.state["choices"]
        )
        finish(checkpoint, data, parts, found, history, device, dtype, about)


def finish(checkpoint, data, parts, found, history, device, dtype, about):
    """Weights, results and figures of a trained network."""
    import models
    import test
    from extras import report
    from extras.checkpoint import to_bytes
    from extras.files import write_atomically

    out = checkpoint.folder
    test_loader = (
        parts.test_loader.whole() if hasattr(parts.test_loader, "whole") else parts.test_loader
    )
    probabilities, labels = test.predict(parts.model, device, test_loader, dtype=dtype)
    numbers = report.collect(
        data,
        history,
        found,
        test.confusion_matrix(probabilities, labels),
        **about,
        parameters=models.count_parameters(parts.model),
    )
    print(f"final test accuracy {numbers['final_test_acc']:.2f} % on {data.name}")
    write_atomically(
        out / "results.json", report.to_json(numbers)
    )  # the smaller file first: the disk may be full
    write_atomically(out / "s10_model.pt", to_bytes(parts.model.cpu().state_dict()))
    print(f"weights and results are in {out}")
    draw(out, data, found, numbers, probabilities, labels)


def draw(out, data, found, numbers, probabilities, labels):
    """The figures of a finished run. Its results are safe by now, so one that cannot be drawn only
    says so.
    """
    import test
    import utils
    from extras import report

    wrong, classes = test.misclassified(probabilities, labels)[:25], data.classes
    floor = utils.smoothing_floor(numbers["recipe"]["label_smoothing"], len(classes))
    figures = dict(
        sample_images=partial(utils.plot_samples, data.train.data, data.train.targets, classes),
        lr_finder=partial(utils.plot_lr_finder, found),
        loss_curves=partial(utils.plot_loss_curves, numbers["history"], loss_floor=floor),
        confusion_matrix=partial(utils.plot_confusion_matrix, numbers["confusion"], classes),
        misclassified_images=partial(
            utils.plot_misclassified,
            data.test.data[wrong],
            labels[wrong],
            probabilities[wrong],
            classes,
        ),
    )
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

    data = dataset.load(
        "cifar10" if args.data == "auto" else args.data
    )  # these weights know no drawings
    print(data.describe())
    model = models.load_weights(args.evaluate, len(data.classes)).to(
        args.device, memory_format=torch.channels_last
    )
    precision, why = st.choose_precision(args.precision, args.device)
    print(f"{st.device_name(args.device)}, {precision}: {why}")
    dtype = getattr(torch, precision)
    loader = dataset.DeviceLoader(
        data.test,
        dataset.TEST_BATCH,
        args.device,
        train=False,
        mean=data.mean,
        std=data.std,
        dtype=dtype,
    )
    loss, accuracy = test.test(
        model, args.device, loader, train.make_criterion(), dtype=dtype
    )  # results.json's loss
    print(
        f"{args.evaluate}: test accuracy {accuracy:.2f} %, loss {loss:.4f}, {len(data.test):,} images of {data.name}"
    )


def parse(arguments):
    """The command line; a wrong value ends the program with exit code 2, before any work."""
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
        choices=st.PROFILES,
        help="full: 24 epochs of all images, as on a GPU; quick: minutes on a CPU; auto: by device",
    )
    add("--epochs", type=int, help="epochs of the whole cycle (default: by profile)")
    add("--batch-size", type=int, help="images in a step (default: by profile)")
    add("--limit", type=int, metavar="N", help="N training and N/5 test images, balanced by class")
    add("--seed", type=int, default=0, help="of weights, order and augmentation (default: 0)")
    add(
        "--loader",
        default="auto",
        choices=("auto", "albumentations", "torchvision", "device"),
        help="who prepares the batches; auto: device on a GPU or under torchrun, else albumentations",
    )
    add("--workers", type=int, default=2, help="processes that prepare images (default: 2)")
    add(
        "--precision",
        default="auto",
        choices=st.PRECISIONS,
        help="auto: the fastest that the device computes well",
    )
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
    args = parser.parse_args(arguments)
    try:
        if args.data not in ("auto", "cifar10", "sample") and not (
            args.data and Path(args.data).expanduser().is_dir()
        ):
            raise ValueError(
                f"data is {args.data!r}: give auto, cifar10, sample, or a folder that exists"
            )
        if args.evaluate is not None and not Path(args.evaluate).is_file():
            raise ValueError(
                f"weights are {args.evaluate!r}: give a file that exists, such as runs/s10/s10_model.pt"
            )
        st.check_int("seed", args.seed, 0), st.check_int("workers", args.workers, 0)
        given = dict(epochs=args.epochs, batch_size=args.batch_size, limit=args.limit)
        st.choose(args.profile, **given)
        args.device = st.pick_device()
        args.settings = st.choose(args.profile, args.device, **given)
        st.choose_precision(args.precision, args.device)
        if args.evaluate is None and int(os.environ.get("RANK", 0)) == 0:
            args.lock = st.lock_folder(args.out)  # held from here on
    except ValueError as error:
        parser.error(str(error))
    return args


def main(arguments=None):
    """Exit code 0 when all went well, 1 and a sentence when not, 2 for wrong arguments, 130 after
    Ctrl-C.
    """
    rank = os.environ.get("RANK", "0")
    who = "main.py" if rank == "0" else f"main.py, rank {rank}"
    try:
        args = parse(arguments)
        from extras.distributed import process_group

        with process_group():
            run(args) if args.evaluate is None else evaluate(args)
    except KeyboardInterrupt:
        print(
            f"{who}: stopped by Ctrl-C; the same command resumes after the last finished epoch (without --no-resume)"
        )
        sys.exit(130)
    except (ValueError, ArithmeticError, ImportError, MemoryError, OSError, RuntimeError) as error:
        if (
            isinstance(error, MemoryError)
            or "out of memory" in str(error)
            or "can't allocate memory" in str(error)
        ):
            sys.exit(f"{who}: out of memory: try a smaller --batch-size")
        if type(error) is RuntimeError:  # not one of ours: a bug, which needs its traceback
            raise
        sys.exit(f"{who}: {error}")


if __name__ == "__main__":
    main()
