"""What does the network see in your own photos?

    python examples/predict.py                       # the cat that lies beside this file
    python examples/predict.py my-cat.jpg boat.png   # with the weights in misc/
    python examples/predict.py my-cat.jpg --weights runs/s10/s10_model.pt

Prints the five likeliest classes of each photo and draws them into predictions.png. A photo is cut
to the square in its middle and shrunk to 32x32 pixels by averaging, as CIFAR-10 was. The network
knows nothing but its own classes, and names one of them for anything.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the helper files are one folder up

import numpy as np  # noqa: E402

import utils  # noqa: E402

PHOTO = Path(__file__).with_name("cat.jpg")
MAX_PHOTOS = 50  # photos in a figure


def read_photos(paths):
    """Read photos of any size.

    Args:
        paths: a path, a list of paths, or "upload", which asks for files in Colab.

    Returns:
        images (N, 32, 32, 3) uint8, what the network sees, and originals, a list of (160, 160, 3)
        for display.

    Raises:
        ValueError: a file cannot be read; it is named.
    """
    from extras.folder import read_image

    if paths == "upload":
        from google.colab import files

        paths = list(files.upload())
    if isinstance(paths, str | os.PathLike):  # a string is a list too: of its letters
        paths = [paths]
    images = [read_image(path) for path in paths]
    originals = [read_image(path, 160) for path in paths]
    return np.array(images, np.uint8).reshape(-1, 32, 32, 3), originals


def predict_images(model, images, mean, std):
    """Class probabilities (N, C) of (N, H, W, 3) uint8 images.

    mean, std: of the images that the network was trained on, by channel.
    """
    import torch

    import dataset
    from test import predict

    device = next(model.parameters()).device
    unknown = torch.zeros(len(images), dtype=torch.int64)  # labels, which `predict` does not use
    batch = (dataset.normalise_images(images, mean, std), unknown)
    return predict(model, device, [batch])[0]


def likeliest(probabilities, classes, k=5):
    """The k most probable classes of one image, as pairs of name and probability."""
    best = np.argsort(-probabilities, kind="stable")[:k]
    return [(classes[i], float(probabilities[i])) for i in best]


@utils.styled
def plot_predictions(
    images, probabilities, classes, *, originals=None, note="", path=None
) -> utils.Figure:
    """Draw the five most probable classes of each image, at most 50 images.

    images: N of them, as the network sees them. probabilities: (N, C). originals: the photos before
    they were shrunk, shown beside them.

    Raises ValueError where there is no image, or where rows of probabilities do not sum to 1.
    """
    if len(images) == 0:
        raise ValueError("images is empty, so there is nothing to draw: give at least one")
    probabilities = utils.check_probabilities(probabilities, len(images), len(classes))
    shown = min(MAX_PHOTOS, len(images))
    columns = {"the network sees": images}
    if originals is not None:
        columns = {"the photo": originals, **columns}

    fig = utils.new_figure(utils.WIDTH, 170 * shown)
    widths = [2] * len(columns) + [5]
    axes = fig.subplots(shown, len(widths), width_ratios=widths, squeeze=False)
    for i, row in enumerate(axes):
        for ax, (name, pictured) in zip(row, columns.items(), strict=False):
            ax.imshow(pictured[i], interpolation="nearest")
            ax.set_title(name, size=11, color=utils.GREY)
            ax.axis("off")
        draw_bars(row[-1], likeliest(probabilities[i], classes))
    title = "Predictions"
    if shown < len(images):
        title += f" (the first {shown} of {len(images)})"
    return utils.finish(fig, f"{title}\nThe five most probable classes", note, path)


def draw_bars(ax, best):
    """Names and probabilities as horizontal bars, the most probable one on top."""
    names = [name if len(name) <= 16 else f"{name[:15]}…" for name, _ in best]
    values = [probability for _, probability in best]
    places = range(len(best))  # not the names: shortened ones may be equal
    bars = ax.barh(places, values, height=0.7, color=[utils.BLUE] + [utils.SKY] * (len(best) - 1))
    ax.bar_label(bars, [f"{100 * value:.1f} %" for value in values], padding=4, size=12)
    ax.set_yticks(places, names)
    ax.set(xlim=(0, 1.2), xticks=[])
    ax.invert_yaxis()
    ax.grid(False)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.tick_params(length=0)


def parse(arguments):
    parser = argparse.ArgumentParser(description="Predict the class of photos.")
    parser.add_argument(
        "photos",
        nargs="*",
        default=[PHOTO],
        metavar="PHOTO",
        help="image files of any size (default: the cat in examples/)",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        default=ROOT / "misc" / "s10_model.pt",
        help="with the results.json of their run beside them (default: misc/s10_model.pt)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("predictions.png"),
        help="the figure (default: predictions.png)",
    )
    return parser.parse_args(arguments)


def run(args):
    """Predict, print and draw."""
    images, originals = read_photos(args.photos)

    import models
    from extras.hardware import pick_device

    if not args.weights.is_file():
        raise ValueError(
            f"{args.weights} is missing: train first (python main.py), or give --weights of a run"
        )
    about = models.about_weights(args.weights)
    model = models.load_weights(args.weights).to(pick_device())
    probabilities = predict_images(model, images, about["mean"], about["std"])
    for path, row in zip(args.photos, probabilities, strict=True):
        named = [f"{name} {share:.1%}" for name, share in likeliest(row, about["classes"])]
        print(f"{path}: {', '.join(named)}")
    plot_predictions(
        images,
        probabilities,
        about["classes"],
        originals=originals,
        note=f"weights: {args.weights.name}",
        path=args.out,
    )


def main(arguments=None):
    try:
        run(parse(arguments))
    except (OSError, ValueError) as error:
        sys.exit(f"predict.py: {error}")


if __name__ == "__main__":
    main()
