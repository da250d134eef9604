"""Evaluation: loss and accuracy, predictions, and which images are misclassified.

    from test import test, predict, misclassified
    loss, accuracy = test(model, device, test_loader, criterion)
    probabilities, labels = predict(model, device, test_loader)
    wrong = misclassified(probabilities, labels)        # indices, the most confident first

The file can be copied alone. In a notebook Python may find its own package `test` first: put this
folder first with `sys.path.insert(0, folder)` before any import, or copy the file as `evaluate.py`.
"""

import numpy as np
import torch
from torch.utils.data import RandomSampler, SubsetRandomSampler, WeightedRandomSampler


@torch.inference_mode()
def test(model, device, test_loader, criterion, *, dtype=torch.float32):
    """Evaluate a classifier on a whole data set.

    Args:
        model: (B, …) -> (B, C) logits, on `device`; left in evaluation mode.
        test_loader: yields (images, labels), B class indices; the last batch may be smaller.
        criterion: gives the mean loss of a batch.
        dtype: torch.bfloat16 or torch.float16 for mixed precision.

    Returns:
        (mean loss over all images, accuracy in per cent).

    Raises ValueError where the loader is empty, or the output is not that of a classifier.
    """
    model.eval()
    device = torch.device(device)
    loss_sum = torch.zeros((), device=device)  # on the device, and read once at the end
    correct = torch.zeros((), device=device)
    count = 0
    for images, labels in test_loader:
        images, labels = to_device(images, labels, device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            output = model(images)
            check_classifier(output, labels)
            loss = criterion(output, labels)
        loss_sum += loss.float() * len(labels)
        correct += (output.argmax(dim=1) == labels).sum()
        count += len(labels)
    if count == 0:
        raise ValueError("the test loader is empty: there is nothing to evaluate on")
    return loss_sum.item() / count, 100 * correct.item() / count


test.__test__ = False  # keeps pytest from collecting it


@torch.inference_mode()
def predict(model, device, loader, *, dtype=torch.float32, mirrored=False):
    """Predict all images of a loader, in evaluation mode.

    Args:
        loader: must not shuffle, or the predictions would belong to other images than yours.
        mirrored: average the probabilities of each image and of its mirror image, as many fast
            CIFAR-10 code bases report them; worth about half a point.

    Returns:
        probabilities (N, C) float32 and labels (N,) int64, NumPy arrays in the loader's order.

    Raises ValueError where the loader shuffles or is empty, or the output is no classifier's.
    """
    if shuffles(loader):
        raise ValueError(
            "the loader shuffles, so predictions and images would not belong together: give the "
            "test loader shuffle=False"
        )
    model.eval()
    device = torch.device(device)
    all_probabilities = []
    all_labels = []
    for images, labels in loader:
        images, labels = to_device(images, labels, device)
        views = [images, images.flip(3)] if mirrored else [images]
        probabilities = 0
        for view in views:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                output = model(view)
            check_classifier(output, labels)
            # softmax of log-softmax is softmax
            probabilities = probabilities + output.float().softmax(dim=1) / len(views)
        all_probabilities.append(probabilities.cpu())
        all_labels.append(labels.cpu())
    if not all_labels:
        raise ValueError("the loader is empty: there is nothing to predict")
    return torch.cat(all_probabilities).numpy(), torch.cat(all_labels).numpy()


def shuffles(loader):
    """Is this a DataLoader with shuffle=True, or a training loader of dataset.py?"""
    kinds = RandomSampler | SubsetRandomSampler | WeightedRandomSampler
    batches = getattr(loader, "batch_sampler", None)
    samplers = [getattr(part, "sampler", None) for part in (loader, batches)]
    # DistributedSampler has an attribute `shuffle`
    is_random = any(isinstance(s, kinds) or getattr(s, "shuffle", False) for s in samplers)
    return is_random or getattr(loader, "train", False)


def check_classifier(output, labels):
    """Refuse shapes and labels for which the accuracy would be a number without a meaning."""
    if not torch.is_tensor(output):  # several outputs, as of GoogLeNet in training mode
        raise ValueError(f"the model returns a {type(output).__name__}: give one tensor of logits")
    if output.ndim != 2 or output.shape[1] < 2 or labels.shape != output.shape[:1]:
        shapes = f"{tuple(output.shape)} and {tuple(labels.shape)}"
        raise ValueError(
            f"output and labels have shapes {shapes}: give (N, C) with C of 2 or more, and N class "
            "indices"
        )
    if labels.is_floating_point():
        raise ValueError(f"labels are {labels.dtype}: give class indices, whole numbers")


def to_device(images, labels, device):
    """A batch on the device; see `to_device` in train.py."""
    on_cuda = device.type == "cuda"
    channels_last = images.ndim == 4 and device.type in ("cuda", "cpu")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = images.to(device, non_blocking=on_cuda, memory_format=layout)
    return images, labels.to(device, non_blocking=on_cuda)


def misclassified(probabilities, labels):
    """Indices of the misclassified images, the most confident first.

    probabilities: (N, C). labels: N class indices.
    """
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    return wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")]


def top_k(probabilities, labels, k=5):
    """Per cent of the images whose label is among the k likeliest classes; k=1 is the accuracy."""
    likeliest = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return 100 * float((likeliest == np.asarray(labels)[:, None]).any(axis=1).mean())


def confusion_matrix(probabilities, labels):
    """(C, C) counts: a row for each true class, a column for each predicted class."""
    classes = probabilities.shape[1]
    pairs = np.asarray(labels).astype(np.int64) * classes  # labels of one byte would overflow
    pairs += probabilities.argmax(axis=1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
