"""What is done to the pictures before the network sees them?

The assignment's three steps, pad 4 and crop 32 at random -> flip left-right -> cut out one 8x8 hole, then normalise.
They are written three times over, from the same constants, and tests prove that all three draw alike:

    train_transforms(image=picture)["image"]      albumentations: what the assignment asks for
    torchvision_train_transforms(picture)         torchvision
    augment(windows, draws, ...)                  whole batches at once, on the device (see `loader.DeviceLoader`)

A picture is (height, width, 3) uint8; a transformed one is a normalised float32 tensor (3, height, width).
What padding and hole are filled with is the data's mean colour, that is, zero once the picture is normalised.
"""

import os
from typing import NamedTuple

import torch
from torchvision import transforms as T

# albumentations asks the network for a newer version of itself at import, and stalls where there is none
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A  # noqa: E402
import cv2  # noqa: E402
from albumentations.pytorch import ToTensorV2  # noqa: E402

MEAN = (0.4914, 0.4822, 0.4465)  # of CIFAR-10's training pictures, by channel, pixels in [0, 1]
STD = (0.2470, 0.2435, 0.2616)
SIZE = 32  # pixels
PADDING = 4  # pixels on each side before the crop
HOLE = 8  # side of the hole of Cutout (DeVries and Taylor 2017, arXiv:1708.04552), pixels


def colour(mean):
    """A mean in [0, 1] as the nearest colour a uint8 picture can have."""
    return tuple(round(255 * channel) for channel in mean)


def albumentations_transforms(mean=MEAN, std=STD, size=SIZE):
    """The training and the test transform in albumentations: `transform(image=picture)["image"]`.

    `strict=True` makes a misspelt argument an error; without it, albumentations 2 drops the argument with a warning
    and trains on something else. Its random stream ignores PyTorch's seeds: `dataset.ArrayDataset` seeds it.
    """
    steps = [
        A.PadIfNeeded(size + 2 * PADDING, size + 2 * PADDING, border_mode=cv2.BORDER_CONSTANT, fill=colour(mean)),
        A.RandomCrop(size, size),
        A.HorizontalFlip(p=0.5),
        A.CoarseDropout(
            num_holes_range=(1, 1),
            hole_height_range=(HOLE, HOLE),
            hole_width_range=(HOLE, HOLE),
            fill=colour(mean),
            p=1,
        ),
    ]
    normalise = [A.Normalize(mean, std), ToTensorV2()]
    return A.Compose(steps + normalise, strict=True), A.Compose(normalise, strict=True)


def torchvision_transforms(mean=MEAN, std=STD, size=SIZE):
    """The same two transforms in torchvision: `transform(picture)`, for a PIL picture or a (H, W, 3) uint8 array."""
    hole = (HOLE / size) ** 2  # RandomErasing wants the hole as a share of the picture; one value makes it exact
    steps = [T.RandomCrop(size, padding=PADDING, fill=colour(mean)), T.RandomHorizontalFlip(p=0.5)]
    normalise = [T.ToTensor(), T.Normalize(mean, std)]
    erase = [T.RandomErasing(p=1, scale=(hole, hole), ratio=(1, 1), value=0)]
    return T.Compose([T.Lambda(to_pil), *steps, *normalise, *erase]), T.Compose(normalise)


def to_pil(picture):
    """torchvision's classic transforms crop and flip PIL pictures."""
    return picture if hasattr(picture, "convert") else T.functional.to_pil_image(picture)


train_transforms, test_transforms = albumentations_transforms()
torchvision_train_transforms, torchvision_test_transforms = torchvision_transforms()


class Draws(NamedTuple):
    """Every random choice of one epoch, a row for each picture: int64 tensors of shape (N,)."""

    order: torch.Tensor  # which picture comes first, second, …
    row: torch.Tensor  # top of the crop in the padded picture, 0 … 2 * PADDING
    column: torch.Tensor  # left of the crop
    flip: torch.Tensor  # 1: mirrored, 0: as it is
    hole_row: torch.Tensor  # top of the hole in the cropped picture, 0 … size - HOLE
    hole_column: torch.Tensor

    def of(self, pictures):
        """The draws of some pictures only (an index tensor), in that order."""
        return Draws(pictures, *(column[pictures] for column in self[1:]))

    def to(self, device):
        return Draws(*(column.to(device, non_blocking=True) for column in self))


def draw_epoch(n, generator, size=SIZE):
    """Draw the table of an epoch for n pictures. On the CPU, so that it is the same whatever the device."""

    def uniform(choices):
        return torch.randint(choices, (n,), generator=generator)

    crops, holes = 2 * PADDING + 1, size - HOLE + 1
    order = torch.randperm(n, generator=generator)
    return Draws(order, uniform(crops), uniform(crops), uniform(2), uniform(holes), uniform(holes))


def crop_windows(pictures, mean=MEAN):
    """Every crop of every picture and of its mirror image, as one view that copies nothing.

    The pictures are padded once; `unfold` then slides a window over rows and columns. A row of a window is a run of
    neighbouring bytes, so that taking a crop out is a few fast copies.

    Args:
        pictures: (N, size, size, 3) uint8 tensor.

    Returns:
        (2, N, 2 * PADDING + 1, 2 * PADDING + 1, size, size * 3) uint8: index it with [flip, picture, row, column].
    """
    n, size = pictures.shape[:2]
    padded = torch.empty(2, n, size + 2 * PADDING, size + 2 * PADDING, 3, dtype=torch.uint8, device=pictures.device)
    padded[:] = torch.tensor(colour(mean), dtype=torch.uint8, device=pictures.device)
    inside = slice(PADDING, PADDING + size)
    padded[0, :, inside, inside] = pictures
    padded[1, :, inside, inside] = pictures.flip(2)
    return padded.flatten(3).unfold(2, size, 1).unfold(3, size * 3, 3)


def augment(windows, draws, scale, shift):
    """Crop, flip, normalise and cut out a whole batch.

    Args:
        windows: from `crop_windows`.
        draws: the rows of the epoch's table for the pictures of this batch.
        scale, shift: from `normaliser`; their dtype is that of the result.

    Returns:
        (B, 3, size, size), normalised, in channels-last memory format.
    """
    # seen from the mirrored picture, the same crop begins as far from the right as it did from the left
    column = torch.where(draws.flip == 1, 2 * PADDING - draws.column, draws.column)
    batch = normalise(windows[draws.flip, draws.order, draws.row, column], scale, shift)
    holes = batch.unfold(2, HOLE, 1).unfold(3, HOLE, 1)  # a view: (B, 3, hole rows, hole columns, HOLE, HOLE)
    holes[torch.arange(len(batch), device=batch.device), :, draws.hole_row, draws.hole_column] = 0
    return batch


def normaliser(size=SIZE, mean=MEAN, std=STD, device="cpu", dtype=torch.float32):
    """(pixel / 255 - mean) / std = pixel * scale + shift: the two factors, repeated for a row of `size` pixels."""
    mean, std = torch.tensor(mean, device=device), torch.tensor(std, device=device)
    return (1 / (255 * std)).repeat(size).to(dtype), (-mean / std).repeat(size).to(dtype)


def normalise(rows, scale, shift):
    """(B, size, size * 3) uint8 -> (B, 3, size, size) normalised, in channels-last memory format."""
    batch = torch.addcmul(shift, rows.to(scale.dtype), scale)
    return batch.unflatten(2, (-1, 3)).permute(0, 3, 1, 2)
