"""All three augmentations make the images that the assignment asks for, each of them equally
often.
"""

from functools import partial
from itertools import combinations

import albumentations as A
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chi2_contingency, chisquare

import transform as tf
from dataset import ArrayDataset
from transform import HOLE, MEAN, PADDING, STD

PIPELINES = ("albumentations", "torchvision", "device")
IMAGES, BLUE = 4000, 200  # 6 images for each place of the hole
# the seeds are fixed: a sound generator passes always, and other versions of the libraries nearly
# so
LEAST_P = 1e-4
ROW, COLUMN, FLIP, HOLE_ROW, HOLE_COLUMN = range(5)  # of a table of draws, (N, 5)
CHOICES = (2 * PADDING + 1, 2 * PADDING + 1, 2, 32 - HOLE + 1, 32 - HOLE + 1)


def ruled(n, size=32):
    """(N, size, size, 3) uint8: red grows with the row, green with the column, and blue is always
    200.

    So each pixel of a transformed image says where it came from; padding and hole are where blue is
    not 200.
    """
    images = np.full((n, size, size, 3), BLUE, np.uint8)
    steps = np.arange(size) * (256 // size)
    images[..., 0], images[..., 1] = steps[:, None], steps
    return images


def noise(n, size=32):
    return np.random.default_rng(5).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def make(kind, images, seed, mean=MEAN, std=STD):
    """Transform images as the loaders do; returns (N, 3, S, S)."""
    n, size = images.shape[:2]
    if kind == "device":
        draws = tf.draw_epoch(n, torch.Generator().manual_seed(seed), size)._replace(
            order=torch.arange(n)
        )
        return tf.augment(
            tf.crop_windows(torch.from_numpy(images), mean), draws, *tf.normaliser(size, mean, std)
        )
    transforms = (
        tf.albumentations_transforms if kind == "albumentations" else tf.torchvision_transforms
    )
    dataset = ArrayDataset(images, np.zeros(n), ("ruled",), transforms(mean, std, size)[0])
    torch.manual_seed(seed)
    dataset.seed_transform(seed)
    return torch.stack([dataset[i][0] for i in range(n)])


def expected(images, draws, mean=MEAN, hole=True):
    """What pad, crop, flip and cutout must make of uint8 images, given their draws (N, 5): the
    plain reference.
    """
    n, size = images.shape[:2]
    padded = np.empty((n, size + 2 * PADDING, size + 2 * PADDING, 3), np.uint8)
    padded[:] = tf.mean_colour(mean)
    padded[:, PADDING:-PADDING, PADDING:-PADDING] = images
    made = np.empty_like(images)
    for i, (row, column, flip, hole_row, hole_column) in enumerate(draws):
        made[i] = padded[i, row : row + size, column : column + size][:, :: -1 if flip else 1]
        if hole:
            made[i, hole_row : hole_row + HOLE, hole_column : hole_column + HOLE] = tf.mean_colour(
                mean
            )
    return made


def decode(batch, mean=MEAN, std=STD):
    """The draws of transformed `ruled` images; asserts that there is nothing else in them."""
    n, _, size, _ = batch.shape
    levels = batch.numpy().transpose(0, 2, 3, 1) * np.float32(std) + np.float32(mean)
    pixels = (levels * 255).round().astype(np.uint8)
    real = pixels[..., 2] == BLUE
    first = (
        (real[..., :-1] & real[..., 1:]).reshape(n, -1).argmax(1)
    )  # any two neighbours tell crop and flip
    y, x = first // (size - 1), first % (size - 1)
    red, green, after = (
        pixels[np.arange(n), y, x + d, c] // (256 // size) for d, c in ((0, 0), (0, 1), (1, 1))
    )
    flip = (after < green).astype(int)
    column = green.astype(int) + PADDING - np.where(flip, size - 1 - x, x)
    draws = np.stack([red.astype(int) + PADDING - y, column, flip, 0 * y, 0 * y], axis=1)
    inside = (expected(np.full_like(pixels, BLUE), draws, mean, hole=False) == BLUE)[..., 2]
    for where, axis in ((HOLE_ROW, 2), (HOLE_COLUMN, 1)):
        seen, within = (inside & ~real).any(axis), inside.any(axis)
        begin, end = seen.argmax(1), size - seen[:, ::-1].argmax(1)
        hidden = (begin == within.argmax(1)) & (end - begin < HOLE)  # it begins in the padding
        draws[:, where] = np.where(hidden, end - HOLE, begin)
    assert (draws[:, HOLE_ROW:] >= 0).all() and (draws[:, HOLE_ROW:] <= size - HOLE).all()
    np.testing.assert_array_equal(pixels, expected(ruled(n, size), draws, mean))
    return draws


@pytest.fixture(scope="module", params=PIPELINES)
def draws(request):
    """The draws of very many images. `decode` asserts for each: one hole, 8x8, wholly inside, of
    the mean colour.
    """
    return decode(make(request.param, ruled(IMAGES), seed=1))


def counts(draws, *columns):
    """How often each combination of values was drawn."""
    shape = [CHOICES[c % 5] for c in columns]
    return np.bincount(
        np.ravel_multi_index(draws[:, columns].T, shape), minlength=np.prod(shape)
    ).reshape(shape)


def test_all_81_crops_both_flips_and_all_625_holes_are_equally_likely(draws):
    assert (PADDING, HOLE, CHOICES) == (4, 8, (9, 9, 2, 25, 25))
    for columns in ([ROW, COLUMN], [FLIP], [HOLE_ROW, HOLE_COLUMN], [HOLE_ROW], [HOLE_COLUMN]):
        found = counts(draws, *columns)
        assert chisquare(found.ravel()).pvalue > LEAST_P and (found.all() or len(columns) == 2)


def test_crop_flip_and_hole_are_drawn_independently(draws):
    neighbours = np.concatenate(
        [draws[:-1], draws[1:]], axis=1
    )  # an image in columns 0 to 4, the next in 5 to 9
    for pair in [*combinations(range(5), 2), *((c, c + 5) for c in range(5))]:
        assert chi2_contingency(counts(neighbours, *pair)).pvalue > LEAST_P


@pytest.mark.parametrize("kind", PIPELINES)
@pytest.mark.parametrize(
    ("size", "mean", "std"), [(32, MEAN, STD), (64, (0.2, 0.5, 0.61), (0.1, 0.2, 0.3))]
)
def test_the_same_draws_make_the_same_pixels_as_the_plain_reference(kind, size, mean, std):
    """Draws do not depend on the pixels: what is decoded from `ruled` images holds for noise with
    the same seed.
    """
    draws = decode(make(kind, ruled(100, size), 7, mean, std), mean, std)
    batch = make(kind, noise(100, size), 7, mean, std)
    reference = (expected(noise(100, size), draws, mean) / 255 - mean) / std
    rounding = (
        0.5 / 255 / min(std)
    )  # the hole: zero, or the nearest colour that a uint8 image can have
    np.testing.assert_allclose(
        batch.numpy(), reference.transpose(0, 3, 1, 2), atol=rounding + 1e-5, rtol=0
    )


def test_albumentations_steps_are_those_of_the_assignment_and_a_misspelt_argument_is_an_error(
    monkeypatch,
):
    names = [type(step).__name__ for step in tf.train_transforms]
    assert names == [
        "PadIfNeeded",
        "RandomCrop",
        "HorizontalFlip",
        "CoarseDropout",
        "Normalize",
        "ToTensorV2",
    ]
    assert [type(step).__name__ for step in tf.test_transforms] == ["Normalize", "ToTensorV2"]
    for name in names[:-1]:
        with monkeypatch.context() as patch:
            patch.setattr(A, name, partial(getattr(A, name), max_holes_of_2023=1))
            with (
                pytest.warns(UserWarning, match="max_holes"),
                pytest.raises(ValueError, match="max_holes_of_2023"),
            ):
                tf.albumentations_transforms()


def test_test_transforms_only_normalise_and_training_transforms_give_float32():
    image = noise(1)[0]
    before, reference = image.copy(), ((image / 255 - MEAN) / STD).transpose(2, 0, 1)
    tests = [tf.test_transforms(image=image)["image"]]
    tests += [tf.normalise(torch.tensor(image)[None].flatten(2), *tf.normaliser())[0]]
    tests += [tf.torchvision_test_transforms(given) for given in (image, Image.fromarray(image))]
    for made in tests:
        np.testing.assert_allclose(made.numpy(), reference, atol=1e-6, rtol=0)
    trained = [tf.train_transforms(image=image)["image"], tf.torchvision_train_transforms(image)]
    trained += [tf.torchvision_train_transforms(Image.fromarray(image))]
    assert {(made.dtype, tuple(made.shape)) for made in tests + trained} == {
        (torch.float32, (3, 32, 32))
    }
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_device_makes_batches_in_the_precision_of_the_network(dtype):
    windows, table = (
        tf.crop_windows(torch.from_numpy(noise(64))),
        tf.draw_epoch(64, torch.Generator()),
    )
    exact, batch = (
        tf.augment(windows, table, *tf.normaliser()),
        tf.augment(windows, table, *tf.normaliser(dtype=dtype)),
    )
    assert batch.dtype == dtype and torch.equal(batch == 0, exact == 0)
    assert (batch.float() - exact).abs().max() <= 4 * torch.finfo(dtype).eps  # values reach 2.1
