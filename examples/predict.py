"""Predict the class of your own photos.

    python examples/predict.py my-cat.jpg boat.png                              # with
    misc/s10_model.pt python examples/predict.py my-cat.jpg --weights runs/s10/s10_model.pt       #
    those of your run

Prints the five likeliest classes of each photo and draws them into predictions.png. A photo is cut
to the square in its middle and made 32x32 by averaging, as CIFAR-10 was. The network names one of
its own classes for anything.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the helper files are one folder up

import numpy as np  # noqa: E402

import utils as ut  # noqa: E402


def read_photos(paths):
    """Read photos of any size.

    Args:
        paths: a list of paths; or "upload", which asks for files in Colab.

    Returns:
        images (N, 32, 32, 3) uint8, what the network sees, and originals, a list of (160, 160, 3)
        for people.

    Raises:
        ValueError: a file cannot be read; it is named.
    """
    from extras.folder import read_image

    if paths == "upload":
        from google.colab import files

        paths = list(files.upload())
    images = [read_image(path) for path in paths]
    return np.array(images, np.uint8).reshape(-1, 32, 32, 3), [
        read_image(path, 160) for path in paths
    ]


def predict_images(model, images, mean, std):
    """Class probabilities (N, C) of (N, H, W, 3) uint8 images, for a network trained with these
    statistics.
    """
    import torch

    import dataset
    from test import predict

    batch = (
        dataset.normalise_images(images, mean, std),
        torch.zeros(len(images)),
    )  # the labels are not known
    return predict(model, next(model.parameters()).device, [batch])[0]


@ut.styled
def plot_predictions(
    images, probabilities, classes, *, originals=None, note="", path=None
) -> ut.Figure:
    """The five most probable classes of each of the first 50 images.

    probabilities: (N, C), 0 to 1. originals: the images before they were shrunk, shown beside them.
    """
    ut.check_lengths(images=images, probabilities=probabilities, originals=originals)
    probabilities = ut.check_shape("probabilities", probabilities, len(images), len(classes))
    shown, columns, side = range(min(50, len(images))), 2 if originals is None else 1, 128
    width, height = (ut.WIDTH - 2 * ut.MARGIN) / columns, side + 46
    fig = ut.new_figure(ut.WIDTH, -(-len(shown) // columns) * height, None)
    for i in shown:
        x, y, end = (
            ut.MARGIN + i % columns * width,
            i // columns * height,
            ut.MARGIN + (i % columns + 1) * width,
        )
        for name, source in (("original", originals), ("the network sees", images)):
            if source is not None:
                ut.put_text(fig, x, y, name, size=ut.SMALL, color=ut.GREY)
                ut.put_image(fig, source[i], x, y + 22, side)
                x += side + 8
        best = np.argsort(-probabilities[i], kind="stable")[:5]
        ax = fig.add_axes(
            ut.box(fig, x + 112, y + 22, end - x - 112 - 66, side), xlim=(0, 1), ylim=(4.5, -0.5)
        )
        bars = ax.barh(
            range(len(best)), probabilities[i, best], color=[ut.BLUE] + 4 * [ut.SKY], height=0.72
        )
        ax.bar_label(bars, [f"{100 * p:.1f} %" for p in probabilities[i, best]], padding=4, size=12)
        for place, c in enumerate(best):
            middle = y + 22 + (place + 0.5) * side / 5
            ut.put_text(fig, x + 106, middle, classes[c], 104, size=12, ha="right", va="center")
        ax.axis("off")
    more = f" (the first 50 of {len(images)})" if len(images) > 50 else ""
    return ut.finish(
        fig,
        f"What the network takes each image for{more}\nThe five most probable classes",
        note,
        path,
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Predict the class of photos.")
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="image files of any size")
    parser.add_argument(
        "--weights",
        type=Path,
        default=ROOT / "misc" / "s10_model.pt",
        help="with results.json beside",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("predictions.png"),
        help="the figure (default: %(default)s)",
    )
    args = parser.parse_args(arguments)
    results = args.weights.with_name("results.json")
    try:
        for path in (args.weights, results):
            if not path.is_file():
                raise ValueError(
                    f"{path} is missing: train first (python main.py), or give --weights of a run"
                )
        try:
            numbers = json.loads(results.read_text(encoding="utf-8"))
            classes, mean, std, data = (
                numbers[name] for name in ("classes", "mean", "std", "data")
            )
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{results} is damaged: take the one of the run that made the weights"
            ) from None
        images, originals = read_photos(args.photos)

        import models
        from extras.settings import pick_device

        device = pick_device()
        model = models.load_weights(args.weights, len(classes)).to(device)
        probabilities = predict_images(model, images, mean, std)
        for path, row in zip(args.photos, probabilities, strict=True):
            print(
                f"{path}: "
                + ", ".join(f"{classes[i]} {row[i]:.1%}" for i in row.argsort()[::-1][:5])
            )
        note = f"trained on {data}"
        plot_predictions(
            images, probabilities, classes, originals=originals, note=note, path=args.out
        )
    except (OSError, ValueError) as error:
        sys.exit(f"predict.py: {error}")


if __name__ == "__main__":
    main()
