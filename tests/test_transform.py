"""All three augmentations make the images that the assignment asks for, each equally often."""

import importlib.util
import json
from functools import partial
from itertools import combinations, product
from pathlib import Path

import albumentations as A
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chi2_contingency, chisquare

import transform
from dataset import ArrayDataset
from extras.settings import augmentation_identity
from transform import HOLE, MEAN, PADDING, STD

PIPELINES = ("albumentations", "torchvision", "device")
IMAGES, BLUE = 4000, 200  # 6 images for each place of the hole
# the seeds are fixed: a sound generator passes always, other versions of the libraries nearly so
LEAST_P = 1e-4
ROW, COLUMN, FLIP, HOLE_ROW, HOLE_COLUMN = range(5)  # of a table of draws, (N, 5)
CHOICES = (2 * PADDING + 1, 2 * PADDING + 1, 2, 32 - HOLE + 1, 32 - HOLE + 1)


def ruled(n, size=32):
    """(N, size, size, 3) uint8: red grows with the row, green with the column, blue is always 200.

    So each pixel of a transformed image says where it came from, and the hole is where blue is not
    200.
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
        table = transform.draw_epoch(n, torch.Generator().manual_seed(seed), size)
        draws = table._replace(order=torch.arange(n))
        windows = transform.crop_windows(torch.from_numpy(images))
        return transform.augment(windows, draws, *transform.normaliser(size, mean, std))
    makers = {
        "albumentations": transform.albumentations_transforms,
        "torchvision": transform.torchvision_transforms,
    }
    dataset = ArrayDataset(images, np.zeros(n), ("ruled",), makers[kind](mean, std, size)[0])
    torch.manual_seed(seed)
    dataset.seed_transform(seed)
    return torch.stack([dataset[i][0] for i in range(n)])


def expected(images, draws, mean=MEAN, padding="reflect"):
    """What pad, crop, flip and cutout must make of uint8 images, given their draws (N, 5)."""
    size, reach = images.shape[1], (PADDING, PADDING)
    padded = np.pad(images, ((0, 0), reach, reach, (0, 0)), mode=padding)
    made = np.empty_like(images)
    for i, (row, column, flip, hole_row, hole_column) in enumerate(draws):
        made[i] = padded[i, row : row + size, column : column + size][:, :: -1 if flip else 1]
        hole = made[i, hole_row : hole_row + HOLE, hole_column : hole_column + HOLE]
        hole[:] = transform.mean_colour(mean)
    return made


def normalised(images, mean=MEAN, std=STD):
    return torch.from_numpy(((images / 255 - mean) / std).transpose(0, 3, 1, 2)).float()


def decode(batch, mean=MEAN, std=STD):
    """The draws of transformed `ruled` images; asserts that there is nothing else in them."""
    n, _, size, _ = batch.shape
    levels = batch.numpy().transpose(0, 2, 3, 1) * np.float32(std) + np.float32(mean)
    pixels = (levels * 255).round().astype(np.uint8)
    real = pixels[..., 2] == BLUE
    # which row of the image each row shows, each column which column: the hole hides only a part
    rows, columns = (np.where(real, pixels[..., c], 0).max(2 - c) // (256 // size) for c in (0, 1))

    draws = np.zeros((n, 5), np.int64)
    padded = np.pad(np.arange(size), PADDING, mode="reflect")
    for begin, flip in product(range(2 * PADDING + 1), (0, 1)):
        shown = padded[begin : begin + size]
        if flip:
            shown = shown[::-1]
        else:
            draws[(rows == shown).all(1), ROW] = begin
        draws[(columns == shown).all(1), COLUMN : FLIP + 1] = begin, flip
    draws[:, HOLE_ROW], draws[:, HOLE_COLUMN] = ((~real).any(2 - c).argmax(1) for c in (0, 1))
    np.testing.assert_array_equal(pixels, expected(ruled(n, size), draws, mean))
    return draws


def test_decode_tells_all_crops_flips_and_holes_apart_and_other_padding_from_reflection():
    crops = list(product(range(9), range(9), (0, 1), (0, 11, 24), (0, 13, 24)))
    holes = list(product((0, 4, 8), (8,), (0, 1), range(25), range(25)))
    draws = np.array(crops + holes)
    found = decode(normalised(expected(ruled(len(draws)), draws)))
    np.testing.assert_array_equal(found, draws)
    for padding in ("symmetric", "edge", "constant", "wrap"):
        other = expected(ruled(1), [(3, 4, 0, 10, 10)], padding=padding)
        with pytest.raises(AssertionError):
            decode(normalised(other))
    for hole in (7, 9):
        image = expected(ruled(1), [(4, 4, 0, 10, 10)])
        image[0, 10 : 10 + hole, 10 : 10 + hole] = transform.mean_colour(MEAN)
        image[0, 10 + hole : 18, 10:18, 2] = BLUE
        with pytest.raises(AssertionError):
            decode(normalised(image))


@pytest.fixture(scope="module", params=PIPELINES)
def draws(request):
    """The draws of very many images; `decode` asserts for each: one 8x8 hole, wholly inside it."""
    return decode(make(request.param, ruled(IMAGES), seed=1))


def counts(draws, *columns):
    """How often each combination of values was drawn."""
    shape = [CHOICES[c % 5] for c in columns]
    combination = np.ravel_multi_index(draws[:, columns].T, shape)
    return np.bincount(combination, minlength=np.prod(shape)).reshape(shape)


def test_all_81_crops_both_flips_and_all_625_holes_are_equally_likely(draws):
    assert (PADDING, HOLE, CHOICES) == (4, 8, (9, 9, 2, 25, 25))
    for columns in ([ROW, COLUMN], [FLIP], [HOLE_ROW, HOLE_COLUMN], [HOLE_ROW], [HOLE_COLUMN]):
        found = counts(draws, *columns)
        assert chisquare(found.ravel()).pvalue > LEAST_P and (found.all() or len(columns) == 2)


def test_crop_flip_and_hole_are_drawn_independently(draws):
    # an image in columns 0 to 4, the next one in 5 to 9
    neighbours = np.concatenate([draws[:-1], draws[1:]], axis=1)
    for pair in [*combinations(range(5), 2), *((c, c + 5) for c in range(5))]:
        assert chi2_contingency(counts(neighbours, *pair)).pvalue > LEAST_P


@pytest.mark.parametrize("kind", PIPELINES)
@pytest.mark.parametrize(
    ("size", "mean", "std"), [(32, MEAN, STD), (64, (0.2, 0.5, 0.61), (0.1, 0.2, 0.3))]
)
def test_the_same_draws_make_the_same_pixels_as_the_plain_reference(kind, size, mean, std):
    """What is decoded from `ruled` images holds for noise with the same seed."""
    draws = decode(make(kind, ruled(100, size), 7, mean, std), mean, std)
    batch = make(kind, noise(100, size), 7, mean, std)
    reference = normalised(expected(noise(100, size), draws, mean), mean, std)
    rounding = 0.5 / 255 / min(std)  # the hole: zero, or the nearest colour of a uint8 image
    torch.testing.assert_close(batch, reference, atol=rounding + 1e-5, rtol=0, check_stride=False)


def test_the_device_makes_what_its_table_of_draws_says():
    images = noise(60)
    table = transform.draw_epoch(60, torch.Generator().manual_seed(3))
    table = table._replace(order=torch.arange(60))
    windows = transform.crop_windows(torch.from_numpy(images))
    batch = transform.augment(windows, table, *transform.normaliser())
    reference = normalised(expected(images, torch.stack(table[1:], dim=1).numpy()))
    rounding = 0.5 / 255 / min(STD)  # the hole: zero, or the nearest colour of a uint8 image
    torch.testing.assert_close(batch, reference, atol=rounding + 1e-5, rtol=0, check_stride=False)


def test_albumentations_steps_are_the_assignments_and_a_misspelt_argument_is_an_error(monkeypatch):
    names = [type(step).__name__ for step in transform.train_transforms]
    steps = ["PadIfNeeded", "RandomCrop", "HorizontalFlip", "CoarseDropout"]
    assert names == [*steps, "Normalize", "ToTensorV2"]
    tests = [type(step).__name__ for step in transform.test_transforms]
    assert tests == ["Normalize", "ToTensorV2"]
    for name in names[:-1]:
        with monkeypatch.context() as patch:
            patch.setattr(A, name, partial(getattr(A, name), max_holes_of_2023=1))
            with (
                pytest.warns(UserWarning, match="max_holes"),
                pytest.raises(ValueError, match="max_holes_of_2023"),
            ):
                transform.albumentations_transforms()


def test_test_transforms_only_normalise_and_training_transforms_give_float32():
    image = noise(1)[0]
    pil, before, reference = Image.fromarray(image), image.copy(), normalised(image[None])[0]
    rows = torch.tensor(image)[None].flatten(2)
    tests = [
        transform.test_transforms(image=image)["image"],
        transform.normalise(rows, *transform.normaliser())[0],
        transform.torchvision_test_transforms(image),
        transform.torchvision_test_transforms(pil),
    ]
    for made in tests:
        torch.testing.assert_close(made, reference, atol=1e-6, rtol=0, check_stride=False)
    trained = [
        transform.train_transforms(image=image)["image"],
        transform.torchvision_train_transforms(image),
        transform.torchvision_train_transforms(pil),
    ]
    kinds = {(made.dtype, tuple(made.shape)) for made in tests + trained}
    assert kinds == {(torch.float32, (3, 32, 32))}
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_device_makes_batches_in_the_precision_of_the_network(dtype):
    windows = transform.crop_windows(torch.from_numpy(noise(64)))
    table = transform.draw_epoch(64, torch.Generator())
    exact = transform.augment(windows, table, *transform.normaliser())
    batch = transform.augment(windows, table, *transform.normaliser(dtype=dtype))
    assert batch.dtype == dtype and torch.equal(batch == 0, exact == 0)
    assert (batch.float() - exact).abs().max() <= 4 * torch.finfo(dtype).eps  # values reach 2.1


class OnApple(torch.Tensor):
    """A tensor that says that it lies on Apple's GPU."""

    device = torch.device("mps")


def test_batches_are_channels_last_but_contiguous_on_apples_gpu():
    rows, factors = torch.from_numpy(noise(2)).flatten(2), transform.normaliser()
    here, there = transform.normalise(rows, *factors), rows.as_subclass(OnApple)
    there = transform.normalise(there, *factors)
    assert here.is_contiguous(memory_format=torch.channels_last) and not here.is_contiguous()
    assert there.is_contiguous() and torch.equal(there.as_subclass(torch.Tensor), here)


EDITS = {
    "a constant": ("PADDING = 4", "PADDING = 2"),
    "the hole": ("HOLE = 8", "HOLE = 10"),
    "an argument of albumentations": ("A.HorizontalFlip(p=0.5)", "A.HorizontalFlip(p=0.4)"),
    "an argument of torchvision": ('padding_mode="reflect"', 'padding_mode="edge"'),
    "the device's flips": ("uniform(crops), uniform(2),", "uniform(crops), uniform(1),"),
    "the device's padding": ("(size - 1 - place).abs()", "(size - 1 - place).clamp(min=0)"),
    "another step": ("A.RandomCrop(size, size),", "A.RandomCrop(size, size), A.ToGray(),"),
}


@pytest.mark.parametrize("edit", [None, *EDITS])
def test_an_edit_of_the_augmentation_shows_in_its_identity_and_an_edit_of_words_does_not(
    tmp_path, edit
):
    source = Path(transform.__file__).read_text(encoding="utf-8")
    old, new = EDITS.get(edit, ("A.HorizontalFlip(p=0.5)", "A.HorizontalFlip(  # half\n  p = .5 )"))
    assert source.count(old) == 1
    copy = tmp_path / "edited.py"
    copy.write_text(source.replace(old, new), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("edited", copy)
    edited = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(edited)
    identity = augmentation_identity(edited)
    assert json.loads(json.dumps(identity)) == identity
    assert (identity == augmentation_identity(transform)) is (edit is None)
    copy.write_text("", encoding="utf-8")  # edited after the import, which stays what it was
    assert augmentation_identity(edited) == identity
