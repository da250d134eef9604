"""How good is the network, and where is it wrong?

loss, accuracy = test(model, device, test_loader, criterion)
probabilities, labels = predict(model, device, test_loader)
worst = mistakes(probabilities, labels)      # most confident first
"""

import contextlib

import numpy as np
import torch


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
    """Evaluate a classifier on a whole data set.

    Args:
        model: (B, …) -> (B, C) scores; left in evaluation mode.
        device: where the model is.
        test_loader: yields (inputs, labels).
        criterion: mean loss of a batch.
        dtype: torch.bfloat16 or float16 for mixed precision.

    Returns:
        (mean loss over all pictures, accuracy in per cent).
    """
    loss, hits, count = 0, 0, 0  # the first two become tensors on the device: nothing waits until the end
    with contextlib.closing(outputs(model, device, test_loader, dtype)) as batches:  # leaves inference mode at once
        for output, labels in batches:
            with explained(labels):
                loss += criterion(output, labels) * len(labels)
            hits += (output.argmax(dim=1) == labels).sum()
            count += len(labels)
    if count == 0:
        raise ValueError("the test loader is empty: there is nothing to evaluate on")
    return float(loss) / count, 100 * int(hits) / count


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


def main(arguments=None):
    """`python test.py PICTURE … --weights runs/s10/s10_model.pt`: what does the network see in your own pictures?

    Prints the five most likely classes of each picture and draws them into `own_pictures.png` beside the weights.
    """
    import argparse
    from pathlib import Path

    import utils
    from picture import read_picture

    parser = argparse.ArgumentParser(description=main.__doc__.partition(": ")[2].partition("\n")[0])
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="photos of any size")
    parser.add_argument(
        "--weights", default="runs/s10/s10_model.pt", help="written by train.py, with results.json beside"
    )
    args = parser.parse_args(arguments)
    try:
        model, numbers = load_run(Path(args.weights))
        pictures = np.stack([read_picture(path) for path in args.pictures])
    except (OSError, ValueError) as error:
        raise SystemExit(f"test.py: {error}") from None
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(numbers[key]).view(-1, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        probabilities = model.eval()((pixels - mean) / std).exp().numpy()
    for path, row in zip(args.pictures, probabilities, strict=True):
        five = ", ".join(f"{numbers['classes'][i]} {row[i]:.1%}" for i in row.argsort()[::-1][:5])
        print(f"{path}: {five}")
    figure = Path(args.weights).with_name("own_pictures.png")
    utils.plot_top5(pictures, probabilities, numbers["classes"], note=numbers["data"], path=figure)
    print(f"figure: {figure}")


def load_run(weights):
    """The trained network and the `results.json` of its run."""
    import json

    from models import s10_model

    results = weights.with_name("results.json")
    for path in (weights, results):
        if not path.is_file():
            raise ValueError(f"{path} is missing: train first (python train.py), or give another --weights")
    numbers = json.loads(results.read_text(encoding="utf-8"))
    model = s10_model(len(numbers["classes"]))
    try:
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged file can fail anywhere inside torch.load
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{weights} holds no weights of this network ({reason}): train again") from None
    return model, numbers


if __name__ == "__main__":
    main()
