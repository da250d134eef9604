"""The training transforms of other rows: other padding, no hole, and those of the 2023 run.

    loader = VariantLoader(data.train, 512, device, seed=0, **VARIANTS["2023"])

With nothing changed, the batches are those of dataset.DeviceLoader to the last bit.
"""

import torch

import transform
from dataset import DeviceLoader, epoch_seed

VARIANTS = {
    "recipe": {},
    "mean_padding": dict(padding="mean"),
    "no_cutout": dict(hole=0),
    # Its CoarseDropout came after Normalize, and filled the hole with MEAN, where the mean colour
    # would have been 0
    "2023": dict(hole=10, share=0.5, fill=transform.MEAN),
}


class VariantLoader(DeviceLoader):
    """dataset.DeviceLoader for training, with other padding and other holes.

    Args:
        padding: "reflect", or "mean" for the data's mean colour, as at 1cd1259.
        hole: side of the hole in pixels; 0 for none.
        share: of the images that have a hole.
        fill: colour of the hole, once normalised.
        options: see dataset.DeviceLoader.
    """

    def __init__(
        self,
        data,
        batch_size,
        device="cpu",
        *,
        padding="reflect",
        hole=transform.HOLE,
        share=1.0,
        fill=(0, 0, 0),
        **options,
    ):
        super().__init__(data, batch_size, device, **options)
        self.hole = hole
        self.share = share
        self.fill = fill
        if padding == "mean":
            images = torch.from_numpy(data.data).to(device)
            self.images = mean_windows(images, options.get("mean", transform.MEAN))

    def __iter__(self):
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, self.epoch))
        self.epoch += 1  # as in DeviceLoader
        draws = transform.draw_epoch(self.n, generator, self.size)
        if self.hole not in (0, transform.HOLE):
            # a hole of another size has other places; crops and flips stay the recipe's
            top, left = torch.randint(self.size - self.hole + 1, (2, self.n), generator=generator)
            draws = draws._replace(hole_row=top, hole_column=left)
        has_hole = (torch.rand(self.n, generator=generator) < self.share).to(self.device)
        draws = transform.Draws(*(column.to(self.device) for column in draws))
        for chosen in draws.order.split(self.batch_size):
            rows = transform.Draws(chosen, *(column[chosen] for column in draws[1:]))
            yield self.augment(rows, has_hole[chosen]), self.labels[chosen]

    def augment(self, draws, has_hole):
        """As transform.augment, with this loader's hole: (B, 3, size, size) in channels-last."""
        column = torch.where(draws.flip == 1, 2 * transform.PADDING - draws.column, draws.column)
        windows = self.images[draws.flip, draws.order, draws.row, column]
        batch = transform.normalise(windows, *self.factors)
        if self.hole:
            holes = batch.unfold(2, self.hole, 1).unfold(3, self.hole, 1)  # a view
            image = torch.arange(len(batch), device=batch.device)[has_hole]
            fill = torch.tensor(self.fill, device=batch.device, dtype=batch.dtype)
            row = draws.hole_row[has_hole]
            column = draws.hole_column[has_hole]
            holes[image, :, row, column] = fill.view(3, 1, 1)
        return batch


def mean_windows(images, mean=transform.MEAN):
    """As transform.crop_windows, padded with the mean colour instead of by reflection.

    Args:
        images: (N, size, size, 3) uint8 tensor.

    Returns:
        (2, N, 9, 9, size, size * 3) uint8: index it with [flip, image, row, column].
    """
    n, size = images.shape[:2]
    side = size + 2 * transform.PADDING
    padded = torch.empty(2, n, side, side, 3, dtype=torch.uint8, device=images.device)
    padded[:] = torch.tensor(transform.mean_colour(mean), dtype=torch.uint8, device=images.device)
    inside = slice(transform.PADDING, transform.PADDING + size)
    padded[0, :, inside, inside] = images
    padded[1, :, inside, inside] = images.flip(2)
    return padded.flatten(3).unfold(2, size, 1).unfold(3, size * 3, 3)
