"""How good is the network, and where is it wrong?

loss, accuracy = test(model, device, test_loader, criterion)
probabilities, labels = predict(model, device, test_loader)
worst = mistakes(probabilities, labels)      # most confident first
probabilities = classify(model, pictures, data.mean, data.std)      # any uint8 pictures

From the command line, for pictures of your own: python test.py my-cat.jpg --weights runs/s10/s10_model.pt
"""

import contextlib
import os
import sys

import numpy as np
import torch

import distributed


def to_device(pictures, labels, device):
    """A batch where the network wants it: pictures channels last, copied without waiting where memory is pinned."""
    layout = torch.channels_last if pictures.ndim == 4 else torch.preserve_format
    return pictures.to(device, non_blocking=True, memory_format=layout), labels.to(device, non_blocking=True)


def outputs(model, device, loader, dtype=torch.float32):
    """Yields (output (B, C), labels (B,)) for each batch, in evaluation mode and without gradients."""
    model.eval()
    with torch.inference_mode(), torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32):
        for pictures, labels in loader:
            with explained(labels):
                pictures, labels = to_device(pictures, labels, device)
                output = model(pictures)
            yield output, labels


@contextlib.contextmanager
def explained(labels):
    """Inside, three errors that come from deep within PyTorch become a sentence; any other stays as it is."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError) as error:
        text, batch_size = str(error), len(labels)
        if isinstance(error, torch.OutOfMemoryError) or "out of memory" in text:
            smaller = max(1, batch_size // 2)
            cure = MemoryError(f"out of memory with a batch of {batch_size}: try a batch size of {smaller}")
        elif "more than 1 value per channel" in text:
            text = f"BatchNorm cannot learn from a batch of {batch_size}: choose a batch size that leaves no rest of 1"
            cure = ValueError(text)
        elif "out of bounds" in text or "device-side assert" in text:
            text = f"a label is not among the network's classes ({text.splitlines()[0]})"
            cure = ValueError(f"{text}: count the classes of the data again")
        else:
            raise
        raise cure from error


def test(model, device, test_loader, criterion, *, dtype=torch.float32):
    """Evaluate a classifier on a whole data set; under torchrun each process takes its share of it.

    Args:
        model: (B, …) -> (B, C) scores; left in evaluation mode.
        device: where the model is.
        test_loader: yields (inputs, labels).
        criterion: mean loss of a batch.
        dtype: torch.bfloat16 or float16 for mixed precision.

    Returns:
        (mean loss over all pictures, accuracy in per cent).
    """
    loss, hits, count = (torch.zeros((), device=device) for _ in range(3))  # on the device: nothing waits until the end
    with contextlib.closing(outputs(model, device, test_loader, dtype)) as batches:  # leaves inference mode at once
        for output, labels in batches:
            with explained(labels):
                loss = loss + criterion(output, labels) * len(labels)
            hits = hits + (output.argmax(dim=1) == labels).sum()
            count = count + len(labels)
    loss, hits, count = (float(distributed.total(part)) for part in (loss, hits, count))
    if count == 0:
        raise ValueError("the test loader is empty: there is nothing to evaluate on")
    return loss / count, 100 * hits / count


test.__test__ = False  # pytest must not take it for one of its own


def predict(model, device, loader, *, dtype=torch.float32):
    """Class probabilities (N, C) and labels (N,) of all pictures, as NumPy arrays in the loader's order."""
    with contextlib.closing(outputs(model, device, loader, dtype)) as batches:
        results = [(output.float().softmax(dim=1), labels) for output, labels in batches]
    if not results:
        raise ValueError("the loader is empty: there is nothing to predict")
    probabilities, labels = (torch.cat(part).cpu().numpy() for part in zip(*results, strict=True))
    return probabilities, labels


def mistakes(probabilities, labels):
    """Indexes of the misclassified pictures, the most confident mistake first."""
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    return wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")]


def confusion_matrix(probabilities, labels):
    """(C, C) counts: row = true class, column = predicted class."""
    classes = probabilities.shape[1]
    pairs = labels * classes + probabilities.argmax(axis=1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def normalised(pictures, mean, std):
    """(N, H, W, 3) uint8 array -> (N, 3, H, W) float32 tensor, as the network wants it."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    return (torch.tensor(np.asarray(pictures)).permute(0, 3, 1, 2) / 255 - mean) / std


def classify(model, pictures, mean, std, device="cpu"):
    """Class probabilities (N, C) of any pictures, as a NumPy array.

    Args:
        pictures: (N, H, W, 3) uint8 array, of the size that the model was trained on.
        mean, std: the statistics that the model was trained with, by channel.
    """
    parts = [pictures[start : start + 250] for start in range(0, len(pictures), 250)]
    batches = ((normalised(part, mean, std), torch.zeros(len(part))) for part in parts)  # labels: not known
    return predict(model, device, batches)[0]


def read_photos(paths, log=print):
    """Read picture files of any size; one that cannot be read is named and left out.

    Args:
        paths: a list of paths, one path, or "upload": Colab then asks for files.
        log: takes one sentence for each file left out.

    Returns:
        paths: of the files that could be read.
        pictures: (N, 32, 32, 3) uint8 array, what the network sees.
        originals: the same for people, each the square in the middle, with 160 pixels a side.
    """
    from picture import read_picture

    if paths == "upload":
        paths = upload()
    read = []
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        try:
            read.append((path, read_picture(path), read_picture(path, 160)))
        except ValueError as error:
            log(f"left out: {error}")
    paths, pictures, originals = zip(*read, strict=True) if read else ((), (), ())
    return list(paths), np.stack(pictures) if read else np.empty((0, 32, 32, 3), np.uint8), list(originals)


def upload():
    """Let a person choose files in Colab; returns their paths."""
    try:
        from google.colab import files
    except ImportError:
        raise ValueError('"upload" works in Colab only: give a list of paths, such as ["my-cat.jpg"]') from None
    return list(files.upload())


def main(arguments=None):
    """`python test.py PICTURE … --weights runs/s10/s10_model.pt`: what does the network see in your own pictures?

    Prints the five most likely classes of each picture and draws them into `own_pictures.png` beside the weights.
    Exit code 0 when all went well, 1 when a picture was left out or nothing could be done, 2 for wrong arguments.
    """
    import argparse
    from functools import partial
    from pathlib import Path

    parser = argparse.ArgumentParser(description=main.__doc__.partition(": ")[2].partition("\n")[0])
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="photos of any size")
    parser.add_argument(
        "--weights", default="runs/s10/s10_model.pt", help="written by train.py, with results.json beside"
    )
    args = parser.parse_args(arguments)
    try:
        model, numbers = load_run(Path(args.weights))
        paths, pictures, originals = read_photos(args.pictures, log=partial(print, file=sys.stderr))
        if paths:
            show(model, numbers, paths, pictures, originals, Path(args.weights).with_name("own_pictures.png"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"test.py: {error}") from None
    if len(paths) < len(args.pictures):
        raise SystemExit(1)


def show(model, numbers, paths, pictures, originals, figure):
    """Print and draw the five most likely classes of each picture."""
    import utils

    classes = numbers["classes"]
    probabilities = classify(model, pictures, numbers["mean"], numbers["std"])
    for path, row in zip(paths, probabilities, strict=True):
        print(f"{path}: " + ", ".join(f"{classes[i]} {row[i]:.1%}" for i in row.argsort()[::-1][:5]))
    note = f"trained on {numbers['data']}"
    utils.plot_top5(pictures, probabilities, classes, originals=originals, note=note, path=figure)
    if figure.is_file():  # else it was said that it cannot be written
        print(f"figure: {figure}")


def load_run(weights):
    """The trained network and the `results.json` of its run."""
    import json

    from models import s10_model, s10_plain

    results = weights.with_name("results.json")
    for path in (weights, results):
        if not path.is_file():
            raise ValueError(f"{path} is missing: train first (python train.py), or give another --weights")
    try:
        numbers = json.loads(results.read_text(encoding="utf-8"))
        missing = [key for key in ("data", "classes", "mean", "std") if key not in numbers]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{results} is damaged ({error}): train again") from None
    if missing:
        raise ValueError(f"{results} has no {', '.join(missing)}: train again, or put the run's own file beside them")
    build = s10_plain if "without additions" in numbers.get("model", "") else s10_model  # both fit the same weights
    model = build(len(numbers["classes"]))
    try:
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged file can fail anywhere inside torch.load
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{weights} holds no weights of this network ({reason}): train again") from None
    return model, numbers


if __name__ == "__main__":
    main()
