"""Do all three pipelines make the pictures that the assignment asks for, equally often each?

Every claim is read off the pixels: see `decoding.py`.
"""

from functools import partial

import numpy as np
import pytest
import torch
from decoding import COLUMN, FLIP, HOLE_COLUMN, HOLE_ROW, ROW, decode, expected, ruled, to_pixels
from PIL import Image
from scipy.stats import chi2_contingency, chisquare

import transform
from dataset import ArrayDataset
from transform import (
    HOLE,
    MEAN,
    PADDING,
    STD,
    A,
    albumentations_transforms,
    augment,
    colour,
    crop_windows,
    draw_epoch,
    normalise,
    normaliser,
    torchvision_train_transforms,
    torchvision_transforms,
    train_transforms,
)

PIPELINES = ("albumentations", "torchvision", "device")
PICTURES = 8000  # 13 for each place of the hole
LEAST_P = 1e-4  # the seeds are fixed: a sound generator passes always, and other versions of the libraries nearly so
ROUNDING = 0.5 / 255 / min(STD)  # half a level of a uint8 picture, in normalised space


def make(kind, pictures, seed, mean=MEAN, std=STD):
    """Transform (N, S, S, 3) uint8 pictures as the loaders do; returns (N, 3, S, S)."""
    size = pictures.shape[1]
    if kind == "device":
        draws = draw_epoch(len(pictures), torch.Generator().manual_seed(seed), size)
        return augment(crop_windows(torch.from_numpy(pictures), mean), in_place(draws), *normaliser(size, mean, std))
    transforms = albumentations_transforms if kind == "albumentations" else torchvision_transforms
    dataset = ArrayDataset(pictures, np.zeros(len(pictures)), ("ruled",), transforms(mean, std, size)[0])
    torch.manual_seed(seed)
    dataset.seed_transform(seed)
    return torch.stack([dataset[i][0] for i in range(len(dataset))])


def in_place(draws):
    """The same draws with the pictures in their own order."""
    return draws._replace(order=torch.arange(len(draws.order)))


@pytest.fixture(scope="module", params=PIPELINES)
def drawn(request):
    """(a batch of `ruled` pictures, the draws of very many)."""
    batch = make(request.param, np.broadcast_to(ruled(), (PICTURES, 32, 32, 3)).copy(), seed=1)
    return batch[:500].clone(), decode(batch)


def noise(n, size=32):
    return np.random.default_rng(5).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def counts(*columns_and_choices):
    """How often each combination of values was drawn."""
    shape = [choices for _, choices in columns_and_choices]
    flat = np.ravel_multi_index([column for column, _ in columns_and_choices], shape)
    return np.bincount(flat, minlength=np.prod(shape)).reshape(shape)


CROPS, HOLES = 2 * PADDING + 1, 32 - HOLE + 1


def test_the_three_steps_have_the_sizes_of_the_assignment():
    assert (PADDING, HOLE, CROPS**2, HOLES**2) == (4, 8, 81, 625)


def test_all_81_crops_occur_and_equally_often(drawn):
    _, draws = drawn
    found = counts((draws[:, ROW], CROPS), (draws[:, COLUMN], CROPS))
    assert (found > 0).all()
    assert chisquare(found.ravel()).pvalue > LEAST_P


def test_the_flip_is_fair(drawn):
    _, draws = drawn
    assert chisquare(counts((draws[:, FLIP], 2))).pvalue > LEAST_P


def test_holes_lie_at_all_625_places_equally_often(drawn):
    # `decode` has asserted for each picture: one hole, 8x8, wholly inside, of the mean colour, and nothing else changed
    _, draws = drawn
    found = counts((draws[:, HOLE_ROW], HOLES), (draws[:, HOLE_COLUMN], HOLES))
    assert (found > 0).all()
    assert chisquare(found.ravel()).pvalue > LEAST_P


def test_crop_flip_and_hole_are_drawn_independently(drawn):
    _, draws = drawn
    crop, hole = draws[:, ROW] * CROPS + draws[:, COLUMN], draws[:, HOLE_ROW] * HOLES + draws[:, HOLE_COLUMN]
    pairs = [((draws[:, FLIP], 2), (crop, CROPS**2)), ((draws[:, FLIP], 2), (hole, HOLES**2))]
    sides = [(draws[:, c], CROPS) for c in (ROW, COLUMN)], [(draws[:, c], HOLES) for c in (HOLE_ROW, HOLE_COLUMN)]
    pairs += [(of_crop, of_hole) for of_crop in sides[0] for of_hole in sides[1]]
    pairs += [((draws[:-1, c], n), (draws[1:, c], n)) for c, n in ((ROW, CROPS), (FLIP, 2), (HOLE_ROW, HOLES))]
    for one, other in pairs:
        assert chi2_contingency(counts(one, other)).pvalue > LEAST_P


def test_hole_and_padding_are_zero_once_normalised(drawn):
    batch, draws = drawn
    for picture, (row, column, flip, hole_row, hole_column) in zip(batch, draws[: len(batch)], strict=True):
        hole = picture[:, hole_row : hole_row + HOLE, hole_column : hole_column + HOLE]
        assert hole.shape == (3, HOLE, HOLE) and hole.abs().max() <= ROUNDING + 1e-6
        above, left = max(PADDING - row, 0), max(PADDING - column, 0)
        assert (picture[:, :above].abs() <= ROUNDING + 1e-6).all()
        sides = picture.flip(2) if flip else picture
        assert (sides[:, :, :left].abs() <= ROUNDING + 1e-6).all()


@pytest.mark.parametrize("kind", PIPELINES)
def test_the_same_draw_makes_the_same_pixels(kind):
    """Draws do not depend on the pixels: what is decoded from `ruled` pictures holds for noise with the same seed."""
    draws = decode(make(kind, np.broadcast_to(ruled(), (200, 32, 32, 3)).copy(), seed=7))
    pictures = noise(200)
    batch = make(kind, pictures, seed=7)
    np.testing.assert_array_equal(to_pixels(batch), expected(pictures, draws))

    table = transform.Draws(torch.arange(200), *torch.from_numpy(draws).T)
    on_device = augment(crop_windows(torch.from_numpy(pictures)), table, *normaliser())
    difference = (batch - on_device).abs()
    assert difference.max() <= ROUNDING + 1e-5  # the hole: zero, or the nearest colour that a uint8 can have
    for one, (_, _, _, row, column) in zip(difference, draws, strict=True):
        one[:, row : row + HOLE, column : column + HOLE] = 0
    assert difference.max() <= 1e-5  # all else is the same number


def test_the_device_does_what_its_table_says():
    n = 300
    table = in_place(draw_epoch(n, torch.Generator().manual_seed(2)))
    pictures = torch.from_numpy(ruled()).expand(n, -1, -1, -1)
    batch = augment(crop_windows(pictures), table, *normaliser())
    np.testing.assert_array_equal(decode(batch), torch.stack(table[1:], dim=1).numpy())


def test_the_table_of_an_epoch_shuffles_and_follows_its_generator():
    first, again, other = (draw_epoch(500, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert sorted(first.order.tolist()) == list(range(500)) != first.order.tolist()
    for name in first._fields:
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))


def test_some_rows_of_the_table_can_be_taken():
    table, chosen = draw_epoch(50, torch.Generator().manual_seed(3)), torch.tensor([7, 3])
    rows = table.of(chosen)
    assert rows.order.tolist() == [7, 3]
    assert rows.hole_row.tolist() == [table.hole_row[7], table.hole_row[3]]


def test_albumentations_steps_are_in_the_order_of_the_assignment():
    names = [type(step).__name__ for step in train_transforms]
    assert names == ["PadIfNeeded", "RandomCrop", "HorizontalFlip", "CoarseDropout", "Normalize", "ToTensorV2"]
    assert [type(step).__name__ for step in transform.test_transforms] == ["Normalize", "ToTensorV2"]


@pytest.mark.parametrize("step", ["PadIfNeeded", "RandomCrop", "HorizontalFlip", "CoarseDropout", "Normalize"])
def test_a_dropped_argument_is_an_error(monkeypatch, step):
    monkeypatch.setattr(A, step, partial(getattr(A, step), max_holes_of_2023=1))
    with pytest.warns(UserWarning, match="max_holes_of_2023"), pytest.raises(ValueError, match="max_holes_of_2023"):
        albumentations_transforms()


def test_test_transforms_only_normalise():
    picture = noise(1)[0]
    reference = ((picture / 255 - MEAN) / STD).transpose(2, 0, 1)
    rows = torch.from_numpy(picture)[None].flatten(2)
    for made in (
        transform.test_transforms(image=picture)["image"],
        transform.torchvision_test_transforms(picture),
        transform.torchvision_test_transforms(Image.fromarray(picture)),
        normalise(rows, *normaliser())[0],
    ):
        assert made.dtype == torch.float32 and made.shape == (3, 32, 32)
        np.testing.assert_allclose(made.numpy(), reference, atol=1e-6, rtol=0)


def test_training_transforms_give_float32_tensors():
    picture = noise(1)[0]
    before = picture.copy()
    for made in (train_transforms(image=picture)["image"], torchvision_train_transforms(picture)):
        assert isinstance(made, torch.Tensor) and made.dtype == torch.float32 and made.shape == (3, 32, 32)
    np.testing.assert_array_equal(picture, before)


def test_torchvision_takes_pil_pictures_and_arrays_alike():
    made = []
    for picture in (noise(1)[0], Image.fromarray(noise(1)[0])):
        torch.manual_seed(11)
        made.append(torchvision_train_transforms(picture))
    assert torch.equal(*made)


@pytest.mark.parametrize("kind", PIPELINES)
def test_other_sizes_and_statistics(kind):
    mean, std = (0.2, 0.5, 0.61), (0.1, 0.2, 0.3)
    batch = make(kind, np.broadcast_to(ruled(64), (60, 64, 64, 3)).copy(), seed=3, mean=mean, std=std)
    assert batch.shape == (60, 3, 64, 64)
    draws = decode(batch, mean, std)
    assert draws[:, HOLE_ROW].max() > 32 - HOLE and draws[:, HOLE_COLUMN].max() > 32 - HOLE
    assert len(np.unique(draws, axis=0)) == 60


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_device_writes_the_precision_of_the_network(dtype):
    pictures = torch.from_numpy(noise(64))
    table = in_place(draw_epoch(64, torch.Generator().manual_seed(2)))
    exact = augment(crop_windows(pictures), table, *normaliser())
    batch = augment(crop_windows(pictures), table, *normaliser(dtype=dtype))
    assert batch.dtype == dtype
    assert (batch.float() - exact).abs().max() <= 4 * torch.finfo(dtype).eps  # values reach 2.1
    assert torch.equal(batch == 0, exact == 0)  # the holes


def test_the_device_writes_channels_last_and_leaves_the_pictures_alone():
    pictures = torch.from_numpy(noise(20))
    windows = crop_windows(pictures)
    before = windows.clone()
    batch = augment(windows, in_place(draw_epoch(20, torch.Generator().manual_seed(2))), *normaliser())
    assert batch.shape == (20, 3, 32, 32) and batch.is_contiguous(memory_format=torch.channels_last)
    batch.zero_()
    assert torch.equal(windows, before)


def test_colour_is_the_nearest_that_a_picture_can_have():
    assert colour(MEAN) == (125, 123, 114)
    assert colour((0, 1, 0.501)) == (0, 255, 128)
