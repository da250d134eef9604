"""What else can be done to the pictures? The training transforms of other rows, and mildly spoilt test pictures.

    loader = VariantLoader(data.train, 512, device, variant=VARIANTS["2023"], seed=0)
    spoilt = CORRUPTIONS["blurred"](data.test.data)

With nothing changed, `VariantLoader` gives `loader.DeviceLoader`'s batches to the last bit: crops, flips and holes of
a row are the recipe's own, but for the one that is taken away.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from loader import DeviceLoader, stream
from transform import HOLE, MEAN, PADDING, draw_epoch, normalise


@dataclass(frozen=True)
class Variant:
    """Which of the three steps a row takes, and how."""

    crop: bool = True
    flip: bool = True
    reflect: bool = False  # pad with the picture's own mirror image, not with the mean colour
    hole: int = HOLE  # side of the hole in pixels, 0 for none
    share: float = 1.0  # of the pictures that have a hole
    fill: tuple = (0.0, 0.0, 0.0)  # what a hole is filled with, once normalised


VARIANTS = {
    # its CoarseDropout came after Normalize and filled the hole with the means: 0.49 where the mean colour would be 0
    "2023": Variant(reflect=True, hole=10, share=0.5, fill=MEAN),
    "no cutout": Variant(hole=0),
    "no flip": Variant(flip=False),
    "no crop": Variant(crop=False),
}


class VariantLoader(DeviceLoader):
    """`loader.DeviceLoader` for training with another transform; arguments are its own, and `variant`."""

    def __init__(self, dataset, batch_size, device="cpu", *, variant, **options):
        super().__init__(dataset, batch_size, device, **options)
        self.variant = variant
        self.pictures = reflected_windows(dataset.data, device) if variant.reflect else self.pictures[0]

    def __iter__(self):
        generator = torch.Generator().manual_seed(stream(self.seed, self.epoch))
        draws, with_hole = self.draw(generator)
        draws, with_hole = draws.to(self.device), with_hole.to(self.device)
        for chosen in draws.order.split(self.batch_size):
            yield self.batch(draws.of(chosen), with_hole[chosen]), self.labels[chosen]

    def draw(self, generator):
        """The epoch's table, the same draws as the recipe's where the variant has them, and who gets a hole."""
        n, variant = len(self.dataset), self.variant
        draws = draw_epoch(n, generator, self.size)
        if not variant.crop:
            draws = draws._replace(row=torch.full((n,), PADDING), column=torch.full((n,), PADDING))
        if not variant.flip:
            draws = draws._replace(flip=torch.zeros(n, dtype=torch.int64))
        if variant.hole not in (0, HOLE):
            places = torch.randint(self.size - variant.hole + 1, (2, n), generator=generator)
            draws = draws._replace(hole_row=places[0], hole_column=places[1])
        return draws, torch.rand(n, generator=generator) < variant.share

    def batch(self, draws, with_hole):
        """(B, 3, size, size), normalised."""
        batch = normalise(self.pictures[draws.order, draws.row, draws.column], *self.factors)
        batch = torch.where(draws.flip.view(-1, 1, 1, 1) == 1, batch.flip(3), batch)
        side = self.variant.hole
        if side:
            holes = batch.unfold(2, side, 1).unfold(3, side, 1)
            places = torch.arange(len(batch), device=batch.device), draws.hole_row, draws.hole_column
            picture, row, column = (place[with_hole] for place in places)
            fill = torch.tensor(self.variant.fill, device=batch.device, dtype=batch.dtype)
            holes[picture, :, row, column] = fill.view(3, 1, 1)
        return batch


def reflected_windows(pictures, device):
    """Every crop of every picture, padded by reflection, as a view: (N, rows, columns, size, size * 3) uint8."""
    pictures, size = torch.from_numpy(pictures).to(device), pictures.shape[1]
    inside = np.pad(np.arange(size), PADDING, mode="reflect")  # 4 3 2 1 0 1 2 … : the border itself is not repeated
    index = torch.as_tensor(inside, device=device)
    padded = pictures[:, index][:, :, index]
    return padded.flatten(2).unfold(1, size, 1).unfold(2, size * 3, 3)


def blurred(pictures):
    """(N, H, W, 3) uint8 -> the same, each pixel averaged with its neighbours (1 2 1, along rows and columns)."""
    line = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = (line[:, None] * line).expand(3, 1, 3, 3)
    planes = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    return to_uint8(F.conv2d(F.pad(planes, (1, 1, 1, 1), mode="reflect"), kernel, groups=3).permute(0, 2, 3, 1))


def noisy(pictures):
    """Gaussian noise of 10 of 255 levels; the same noise in every run."""
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    return to_uint8(torch.from_numpy(pictures) + 10 * noise)


def darker(pictures):
    """Every pixel at 70 % of its brightness."""
    return to_uint8(torch.from_numpy(pictures) * 0.7)


def to_uint8(pixels):
    return pixels.round().clamp(0, 255).to(torch.uint8).numpy()


CORRUPTIONS = dict(blurred=blurred, noisy=noisy, darker=darker)
