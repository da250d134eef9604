"""Read off a transformed picture what was drawn for it.

In `ruled()` red grows with the row, green with the column, and blue is always 200. So every pixel of a transformed one
says where it came from, and padding and hole, which have the mean colour, are where blue is not 200.
"""

import numpy as np
import torch

from transform import HOLE, MEAN, PADDING, STD, colour

BLUE = 200
ROW, COLUMN, FLIP, HOLE_ROW, HOLE_COLUMN = range(5)  # of a table of draws


def ruled(size=32):
    """The picture to decode, (size, size, 3) uint8."""
    picture = np.full((size, size, 3), BLUE, np.uint8)
    steps = np.arange(size) * (256 // size)
    picture[..., 0], picture[..., 1] = steps[:, None], steps
    return picture


def to_pixels(batch, mean=MEAN, std=STD):
    """(N, 3, S, S) normalised -> (N, S, S, 3) uint8, by NumPy alone."""
    levels = batch.numpy().transpose(0, 2, 3, 1) * np.float32(std) + np.float32(mean)
    return (levels * 255).round().astype(np.uint8)


def expected(pictures, draws, mean=MEAN, hole=True):
    """What pad, crop, flip and cutout must make of (N, S, S, 3) uint8 pictures, given their draws, (N, 5)."""
    n, size = pictures.shape[:2]
    row, column, flip, hole_row, hole_column = np.asarray(draws).T[..., None, None]
    padded = np.empty((n, size + 2 * PADDING, size + 2 * PADDING, 3), np.uint8)
    padded[:] = colour(mean)
    padded[:, PADDING:-PADDING, PADDING:-PADDING] = pictures
    y, x = np.arange(size)[:, None], np.arange(size)
    seen = padded[np.arange(n)[:, None, None], row + y, column + np.where(flip, size - 1 - x, x)]
    if hole:
        covered = (hole_row <= y) & (y < hole_row + HOLE) & (hole_column <= x) & (x < hole_column + HOLE)
        seen[covered] = colour(mean)
    return seen


def one_value(values, where):
    """For each picture: is the value the same wherever `where` is true, and which is it?"""
    low, high = np.where(where, values, 999).min((1, 2)), np.where(where, values, -999).max((1, 2))
    return low == high, low


def begin(visible, inside):
    """(N, S) each: where each hole begins along one side, from what is seen of it inside the picture."""
    first, last = visible.argmax(1), visible.shape[1] - 1 - visible[:, ::-1].argmax(1)
    cut = (first == inside.argmax(1)) & (last - first + 1 < HOLE)  # its beginning is hidden by the padding
    return np.where(cut, last + 1 - HOLE, first)


def decode(batch, mean=MEAN, std=STD):
    """Transformed `ruled` pictures, (N, 3, S, S) -> their draws, (N, 5) int64, in the order named above.

    Asserts that there is nothing else in the pictures: one crop, perhaps mirrored, and one whole hole of mean colour.
    """
    assert torch.isfinite(batch).all()
    pixels = to_pixels(batch, mean, std)
    n, size = pixels.shape[:2]
    y, x = np.arange(size)[:, None], np.arange(size)
    real = pixels[..., 2] == BLUE
    red, green = (pixels[..., channel].astype(np.int16) // (256 // size) for channel in (0, 1))
    known, row = one_value(red - y + PADDING, real)
    straight, left = one_value(green - x + PADDING, real)
    mirrored, right = one_value(green - (size - 1 - x) + PADDING, real)
    assert known.all() and (straight != mirrored).all(), "some pixels are not where a crop or its mirror image has them"
    table = np.stack([row, np.where(mirrored, right, left), mirrored, 0 * row, 0 * row], axis=1).astype(np.int64)

    blank = np.full_like(pixels, BLUE)
    inside = expected(blank, table, mean, hole=False)[..., 2] == BLUE
    covered = inside & ~real
    assert covered.any((1, 2)).all(), "a picture has no hole"
    for column, axis in ((HOLE_ROW, 2), (HOLE_COLUMN, 1)):
        table[:, column] = begin(covered.any(axis), inside.any(axis))
    holes = table[:, HOLE_ROW:]
    assert (holes >= 0).all() and (holes <= size - HOLE).all(), "a hole is not wholly inside"
    np.testing.assert_array_equal(pixels, expected(np.broadcast_to(ruled(size), pixels.shape), table, mean))
    return table
