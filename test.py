"""Evaluation: loss and accuracy, predictions, and which images are misclassified.

    from test import test, predict, misclassified
    loss, accuracy = test(model, device, test_loader, criterion)
    probabilities, labels = predict(model, device, test_loader)
    wrong = misclassified(probabilities, labels)        # indices, the most confident first

The file can be copied alone. In a notebook, put its folder first, `sys.path.insert(0, folder)`:
Python's standard library has a package `test`, too.
"""

import numpy as np
import torch
import torch.distributed as dist


@torch.inference_mode()
def test(model, device, test_loader, criterion, *, dtype=torch.float32):
    """Evaluate a classifier on a whole data set; under torchrun every process takes its share of
    it.

    Args:
        model: (B, …) -> (B, C) logits, on `device`; left in evaluation mode.
        test_loader: yields (images, labels).
        criterion: gives the mean loss of a batch.
        dtype: torch.bfloat16 or torch.float16 for mixed precision.

    Returns:
        (mean loss over all images, accuracy in per cent).
    """
    model.eval()
    device = torch.device(device)
    sums = torch.zeros(
        3, device=device
    )  # of loss, correct predictions, images: on the device, read once at the end
    for images, labels in test_loader:
        images, labels = to_device(images, labels, device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            output = model(images)
            loss = criterion(output, labels)
        correct = (output.argmax(dim=1) == labels).sum()
        sums += torch.stack(
            [loss.float() * len(labels), correct, torch.full_like(correct, len(labels))]
        )
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(sums)
    loss, correct, count = sums.tolist()
    if count == 0:
        raise ValueError("the test loader is empty: there is nothing to evaluate on")
    return loss / count, 100 * correct / count


test.__test__ = False  # pytest must not take it for one of its own


@torch.inference_mode()
def predict(model, device, loader, *, dtype=torch.float32):
    """Predict all images of a loader, in evaluation mode.

    Returns:
        probabilities (N, C) float32 and labels (N,) int64, NumPy arrays in the loader's order.
    """
    model.eval()
    device = torch.device(device)
    probabilities, all_labels = [], []
    for images, labels in loader:
        images, _ = to_device(images, labels, device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            output = model(images)
        probabilities.append(
            output.float().softmax(dim=1).cpu()
        )  # softmax of log-softmax is softmax
        all_labels.append(labels.cpu())
    if not probabilities:
        raise ValueError("the loader is empty: there is nothing to predict")
    return torch.cat(probabilities).numpy(), torch.cat(all_labels).numpy()


def to_device(images, labels, device):
    """A batch on the device, images channels last; only on CUDA does the copy run in the background
    (see train.py).
    """
    layout = torch.channels_last if images.ndim == 4 else torch.preserve_format
    on_cuda = device.type == "cuda"
    images = images.to(device, non_blocking=on_cuda, memory_format=layout)
    return images, labels.to(device, non_blocking=on_cuda)


def misclassified(probabilities, labels):
    """Indices of the misclassified images, the most confident first; probabilities (N, C), labels
    (N,).
    """
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    return wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")]


def confusion_matrix(probabilities, labels):
    """(C, C) counts: a row for each true class, a column for each predicted class."""
    classes = probabilities.shape[1]
    pairs = np.asarray(labels).astype(np.int64) * classes + probabilities.argmax(
        axis=1
    )  # uint8 would overflow
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
