"""The training transforms of other rows: the recipe's without cutout, and those of the 2023 run.

    loader = VariantLoader(data.train, 512, device, seed=0, **VARIANTS["2023"])

With nothing changed, the batches are those of dataset.DeviceLoader to the last bit.
"""

import numpy as np
import torch

import transform as tf
from dataset import DeviceLoader

VARIANTS = {
    "no_cutout": dict(hole=0),
    # Its CoarseDropout came after Normalize, and filled the hole with MEAN, where the mean colour
    # would have been 0
    "2023": dict(reflect=True, hole=10, share=0.5, fill=tf.MEAN),
}


class VariantLoader(DeviceLoader):
    """dataset.DeviceLoader for training, with other padding and other holes.

    Args:
        reflect: pad with the image's own mirror image instead of the mean colour.
        hole: side of the hole in pixels; 0 for none.
        share: of the images that have a hole.
        fill: colour of the hole, once normalised.
        Others: see dataset.DeviceLoader.
    """

    def __init__(
        self,
        data,
        batch_size,
        device="cpu",
        *,
        reflect=False,
        hole=tf.HOLE,
        share=1.0,
        fill=(0, 0, 0),
        **options,
    ):
        super().__init__(data, batch_size, device, **options)
        self.hole, self.share, self.fill = hole, share, fill
        if reflect:
            self.images = reflected_windows(data.data, device)

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        draws = tf.draw_epoch(self.n, generator, self.size)
        if self.hole not in (
            0,
            tf.HOLE,
        ):  # a hole of another size has other places; crops and flips stay the recipe's
            places = torch.randint(self.size - self.hole + 1, (2, self.n), generator=generator)
            draws = draws._replace(hole_row=places[0], hole_column=places[1])
        has_hole = (torch.rand(self.n, generator=generator) < self.share).to(self.device)
        draws = tf.Draws(*(column.to(self.device) for column in draws))
        for chosen in draws.order.split(self.batch_size):
            mine = tf.Draws(chosen, *(column[chosen] for column in draws[1:]))
            yield self.augment(mine, has_hole[chosen]), self.labels[chosen]

    def augment(self, draws, has_hole):
        """As transform.augment, with this loader's hole."""
        column = torch.where(draws.flip == 1, 2 * tf.PADDING - draws.column, draws.column)
        batch = tf.normalise(self.images[draws.flip, draws.order, draws.row, column], *self.factors)
        if self.hole:
            holes = batch.unfold(2, self.hole, 1).unfold(3, self.hole, 1)  # a view
            every = (
                torch.arange(len(batch), device=batch.device),
                draws.hole_row,
                draws.hole_column,
            )
            image, row, column = (place[has_hole] for place in every)
            fill = torch.tensor(self.fill, device=batch.device, dtype=batch.dtype)
            holes[image, :, row, column] = fill.view(3, 1, 1)
        return batch


def reflected_windows(images, device):
    """As transform.crop_windows, padded by reflection: 4 3 2 1 | 0 1 2 …, the border itself is not
    repeated.
    """
    reach = (tf.PADDING, tf.PADDING)
    padded = torch.from_numpy(np.pad(images, ((0, 0), reach, reach, (0, 0)), mode="reflect")).to(
        device
    )
    both, size = torch.stack([padded, padded.flip(2)]), images.shape[1]
    return both.flatten(3).unfold(2, size, 1).unfold(3, size * 3, 3)
