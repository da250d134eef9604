"""The assignment's augmentation: pad 4 and crop 32 at random, flip left-right, cut out an 8x8 hole.

It is written three times from the same constants, and tests show that all three draw from one
distribution:

    train_transforms(image=image)["image"]       albumentations, as the assignment asks
    torchvision_train_transforms(image)          torchvision
    augment(windows, draws, scale, shift)        whole batches on the device: dataset.DeviceLoader

An image is (height, width, 3) uint8; a transformed one is a normalised float32 tensor (3, height,
width). The padding mirrors the image at its border (4 3 2 1 | 0 1 2 …: NumPy's "reflect"); the hole
has the data's mean colour, which is zero once normalised.
"""

import functools
import inspect
import os
from typing import NamedTuple

import torch

MEAN = (0.4914, 0.4822, 0.4465)  # of CIFAR-10's training images, by channel, pixels in [0, 1]
STD = (0.2470, 0.2435, 0.2616)
SIZE = 32  # pixels
PADDING = 4  # pixels on each side before the crop
HOLE = 8  # side of the hole of Cutout (DeVries and Taylor 2017, arXiv:1708.04552), pixels


def albumentations_transforms(mean=MEAN, std=STD, size=SIZE):
    """The training and the test transform in albumentations: `transform(image=image)["image"]`."""
    # on import, albumentations would look on the internet for a newer version
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations as A
    from albumentations.pytorch import ToTensorV2

    steps = [
        # 4: cv2.BORDER_REFLECT_101, which the 2023 original had by default
        A.PadIfNeeded(size + 2 * PADDING, size + 2 * PADDING, border_mode=4),
        A.RandomCrop(size, size),
        A.HorizontalFlip(p=0.5),
        A.CoarseDropout(
            num_holes_range=(1, 1),
            hole_height_range=(HOLE, HOLE),
            hole_width_range=(HOLE, HOLE),
            fill=mean_colour(mean),
            p=1,
        ),
    ]
    normalise = [A.Normalize(mean, std), ToTensorV2()]
    # Without strict, albumentations 2 warns of a misspelt argument and does something else.
    return A.Compose(steps + normalise, strict=True), A.Compose(normalise, strict=True)


def torchvision_transforms(mean=MEAN, std=STD, size=SIZE):
    """The same two in torchvision: `transform(image)`, of a PIL image or (H, W, 3) uint8 array."""
    from torchvision import transforms as T

    steps = [
        T.RandomCrop(size, padding=PADDING, padding_mode="reflect"),
        T.RandomHorizontalFlip(p=0.5),
    ]
    normalise = [T.ToTensor(), T.Normalize(mean, std)]
    # scale: the smallest and the largest share of the image's area that is erased
    area = (HOLE / size) ** 2
    erase = T.RandomErasing(p=1, scale=(area, area), ratio=(1, 1), value=0)
    return T.Compose([T.Lambda(to_pil), *steps, *normalise, erase]), T.Compose(normalise)


def to_pil(image):
    """A PIL image as it is, or one made of an (H, W, 3) uint8 array."""
    from PIL import Image

    return image if isinstance(image, Image.Image) else Image.fromarray(image)


def mean_colour(mean):
    """A mean in [0, 1] as the nearest colour that a uint8 image can have."""
    return tuple(round(255 * channel) for channel in mean)


@functools.cache
def __getattr__(name):  # of a module: called for names that it does not have (PEP 562)
    """Make CIFAR-10's transforms on first use, since both libraries are slow to import."""
    if name in ("train_transforms", "test_transforms"):
        train, test = albumentations_transforms()
    elif name in ("torchvision_train_transforms", "torchvision_test_transforms"):
        train, test = torchvision_transforms()
    else:
        raise AttributeError(f"module 'transform' has no attribute {name!r}")
    return train if "train" in name else test


class Draws(NamedTuple):
    """Every random choice of one epoch, one row for each image: int64 tensors of shape (N,)."""

    order: torch.Tensor  # index of the image that comes first, second, …
    row: torch.Tensor  # top of the crop in the padded image, 0 … 2 * PADDING
    column: torch.Tensor  # left of the crop
    flip: torch.Tensor  # 1: flipped, 0: as it is
    hole_row: torch.Tensor  # top of the hole in the cropped image, 0 … size - HOLE
    hole_column: torch.Tensor


def draw_epoch(n, generator, size=SIZE):
    """Draw an epoch's choices for n images, on the CPU: the same ones whatever the device."""

    def uniform(choices):
        return torch.randint(choices, (n,), generator=generator)

    crops, holes = 2 * PADDING + 1, size - HOLE + 1
    order = torch.randperm(n, generator=generator)
    return Draws(order, uniform(crops), uniform(crops), uniform(2), uniform(holes), uniform(holes))


def crop_windows(images):
    """Every crop of every image and of its mirror image, as a view that copies nothing.

    The images are padded once; `unfold` then slides a window over rows and columns. A window's row
    is a run of neighbouring bytes, so that taking out a crop means a few fast copies.

    Args:
        images: (N, size, size, 3) uint8 tensor, size > PADDING.

    Returns:
        (2, N, 2 * PADDING + 1, 2 * PADDING + 1, size, size * 3) uint8: index it with [flip, image,
        row, column].
    """
    n, size = images.shape[:2]
    # 4 3 2 1 0 1 2 … 30 31 30 29 28 27: the rows, and the columns, of a padded image
    place = torch.arange(-PADDING, size + PADDING, device=images.device).abs()
    place = size - 1 - (size - 1 - place).abs()
    padded = images.new_empty(2, n, len(place), len(place), 3)
    padded[0] = images[:, place][:, :, place]
    padded[1] = padded[0].flip(2)
    return padded.flatten(3).unfold(2, size, 1).unfold(3, size * 3, 3)


def augment(windows, draws, scale, shift):
    """Crop, flip, normalise and cut out a whole batch: (B, 3, size, size), see `normalise`.

    Args:
        windows: from `crop_windows`.
        draws: the rows of the epoch's table that belong to the images of this batch.
        scale, shift: from `normaliser`; the result has their dtype.
    """
    # in the mirror image, the same crop begins as far from the right as it did from the left
    column = torch.where(draws.flip == 1, 2 * PADDING - draws.column, draws.column)
    batch = normalise(windows[draws.flip, draws.order, draws.row, column], scale, shift)
    # a view of every place that a hole can have: (B, 3, hole rows, hole columns, HOLE, HOLE)
    holes = batch.unfold(2, HOLE, 1).unfold(3, HOLE, 1)
    image = torch.arange(len(batch), device=batch.device)
    # A zero made on the device: Python would wait until a number is copied from the CPU to the GPU.
    # A single element, since with more CUDA's deterministic form is wrong where places overlap.
    holes[image, :, draws.hole_row, draws.hole_column] = batch.new_zeros(())
    return batch


def normaliser(size=SIZE, mean=MEAN, std=STD, device="cpu", dtype=torch.float32):
    """Scale and shift, repeated for a row of `size` pixels.

    (pixel / 255 - mean) / std = pixel * scale + shift.
    """
    mean, std = torch.tensor(mean, device=device), torch.tensor(std, device=device)
    return (1 / (255 * std)).repeat(size).to(dtype), (-mean / std).repeat(size).to(dtype)


def normalise(rows, scale, shift):
    """(B, size, size * 3) uint8 -> (B, 3, size, size), normalised, in channels-last memory format.

    On Apple's GPU it is contiguous: PyTorch computes channels-last wrong there (pytorch#175189).
    """
    batch = torch.addcmul(shift, rows.to(scale.dtype), scale)
    batch = batch.unflatten(2, (-1, 3)).permute(0, 3, 1, 2)
    return batch.contiguous() if batch.device.type == "mps" else batch


def seedable(transform):
    """albumentations' transforms: this one, or those that a function or an object holds."""
    inside = list(getattr(transform, "__dict__", {}).values())
    if inspect.isfunction(transform):  # lambda image: pipeline(image=image)["image"]
        used = inspect.getclosurevars(transform)
        inside += [*used.nonlocals.values(), *used.globals.values()]
    objects = [each for each in (transform, *inside) if not inspect.isclass(each)]
    return [each for each in objects if hasattr(each, "set_random_state")]
