"""What must stay true of the built-in sample: counts, balance, and that only shape gives the class away."""

import time

import numpy as np
import pytest
import torch

import sample
from sample import SAMPLE_CLASSES, TEST_PICTURES, TRAIN_PICTURES, draw_sample

CIFAR10 = {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"}


@pytest.fixture(scope="module")
def drawn():
    """Training and test pictures with their labels, drawn once for all tests."""
    return *draw_sample(train=True), *draw_sample(train=False)


@pytest.fixture(scope="module")
def statistics(drawn):
    """Mean and standard deviation of each channel, (N, 6), of the training and of the test pictures."""
    pixels = (torch.from_numpy(pictures).flatten(1, 2) / 255 for pictures in (drawn[0], drawn[2]))
    return [torch.cat([p.mean(1), p.std(1)], dim=1).numpy() for p in pixels]


def linear_accuracy(train_x, train_y, test_x, test_y, decay):
    """Per cent of test rows that a softmax regression, fitted by L-BFGS, gets right."""
    mean, std = train_x.mean(0), train_x.std(0)
    train_x, test_x = (torch.from_numpy((x - mean) / std).float() for x in (train_x, test_x))
    train_y, test_y = torch.from_numpy(train_y), torch.from_numpy(test_y)
    layer = torch.nn.Linear(train_x.shape[1], len(SAMPLE_CLASSES))
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=15, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(layer(train_x), train_y)
        value = value + decay * layer.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        return 100 * (layer(test_x).argmax(1) == test_y).float().mean().item()


def test_shapes_types_and_names(drawn):
    pictures, labels, test_pictures, test_labels = drawn
    assert (TRAIN_PICTURES, TEST_PICTURES) == (4096, 1024)
    assert pictures.shape == (4096, 32, 32, 3) and test_pictures.shape == (1024, 32, 32, 3)
    assert labels.shape == (4096,) and test_labels.shape == (1024,)
    assert pictures.dtype == test_pictures.dtype == np.uint8
    assert labels.dtype == test_labels.dtype == np.int64
    assert pictures.flags.c_contiguous and test_pictures.flags.c_contiguous
    assert isinstance(SAMPLE_CLASSES, tuple) and len(set(SAMPLE_CLASSES)) == 10
    assert not CIFAR10 & set(SAMPLE_CLASSES)  # nobody may take it for CIFAR-10


def test_every_prefix_is_balanced(drawn):
    _, labels, _, test_labels = drawn
    for column in (labels, test_labels):
        counts = np.cumsum(column[:, None] == np.arange(10), axis=0)
        assert np.ptp(counts, axis=1).max() <= 1
        assert not np.array_equal(column[:10], column[10:20])  # and yet in no fixed order


def test_always_the_same_and_global_random_state_untouched(drawn):
    np.random.seed(1)
    state, torch_state = np.random.get_state(), torch.get_rng_state()
    pictures, labels = draw_sample(train=False)
    assert np.array_equal(np.random.get_state()[1], state[1]) and np.random.get_state()[2] == state[2]
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(pictures, drawn[2]) and np.array_equal(labels, drawn[3])


def test_no_picture_twice(drawn):
    everything = np.concatenate([drawn[0], drawn[2]]).reshape(TRAIN_PICTURES + TEST_PICTURES, -1)
    assert len({row.tobytes() for row in everything}) == len(everything)


def test_training_and_test_pictures_have_one_distribution(statistics):
    ours, theirs = statistics
    error = np.hypot(ours.std(0) / TRAIN_PICTURES**0.5, theirs.std(0) / TEST_PICTURES**0.5)
    assert (abs(ours.mean(0) - theirs.mean(0)) < 4 * error).all()


def test_pictures_are_neither_flat_nor_alike(drawn, statistics):
    brightness, contrast = 255 * statistics[0][:, :3].mean(1), 255 * statistics[0][:, 3:].max(1)
    assert brightness.std() > 20 and brightness.min() > 20 and brightness.max() < 240
    assert contrast.min() > 5
    for label in range(10):  # light on dark and dark on light, in every class
        night = (brightness[drawn[1] == label] < 128).mean()
        assert 0.3 < night < 0.7


@pytest.mark.parametrize("shape", sample.SHAPES, ids=SAMPLE_CLASSES)
def test_all_classes_are_drawn_equally_large_and_whole(shape, monkeypatch):
    """Same seed, once clear and once all mist: what differs is the object and its shadow."""
    middle = {name: (0.5 * (low + high),) * 2 for name, (low, high) in sample.RANGES.items()}
    pictures = []
    for clear in (0, 1):
        monkeypatch.setattr(sample, "RANGES", middle | {"scale": (12, 12), "clear": (clear, clear)})
        pictures.append(sample.draw_class(shape, np.random.default_rng(0), 16).astype(int))
    changed = (abs(pictures[1] - pictures[0]) > 40).any(-1)
    assert 12**2 < np.median(changed.sum((1, 2))) < 1.6 * 12**2
    assert not changed[:, [0, -1]].any() and not changed[:, :, [0, -1]].any()


def test_colour_statistics_do_not_give_the_class_away(drawn, statistics):
    assert linear_accuracy(statistics[0], drawn[1], statistics[1], drawn[3], decay=0) < 20


def test_a_linear_classifier_fails(drawn):
    pictures, labels, test_pictures, test_labels = drawn
    rows, test_rows = (x.reshape(len(x), -1).astype(np.float32) / 255 for x in (pictures, test_pictures))
    assert linear_accuracy(rows, labels, test_rows, test_labels, decay=0.1) < 45


def test_shapes_can_be_told_apart(drawn):
    """Nearest neighbours by outline, blind to colour and place, do what no linear classifier on pixels can."""
    edges, test_edges = outlines(drawn[0][:2000]), outlines(drawn[2][:500])
    nearest = (test_edges @ edges.T).topk(5, dim=1).indices
    votes = torch.from_numpy(drawn[1])[nearest].mode(dim=1).values
    assert (votes == torch.from_numpy(drawn[3][:500])).float().mean() > 0.8


def outlines(pictures):
    """Where neighbouring pixels differ, moved to the middle, blurred, as unit rows: (N, 961)."""
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    across, down = pixels.diff(dim=3)[:, :, 1:].abs().sum(1), pixels.diff(dim=2)[:, :, :, 1:].abs().sum(1)
    edge = (across + down - 30).clamp(min=0)
    edge = edge / edge.sum((1, 2), keepdim=True).clamp(min=1)
    steps = torch.arange(31.0)
    dy = 15 - (edge.sum(2) @ steps).round().long()
    dx = 15 - (edge.sum(1) @ steps).round().long()
    moved = [e.roll((y, x), (0, 1)) for e, y, x in zip(edge, dy.tolist(), dx.tolist(), strict=True)]
    blurred = torch.nn.functional.avg_pool2d(torch.stack(moved)[:, None], 3, 1, 1).flatten(1).sqrt()
    return torch.nn.functional.normalize(blurred - blurred.mean(0))


def test_drawing_is_quick():
    """No slower than 8 times ten plain NumPy operations on as many pixels, run beside it; best of two."""
    pixels = np.linspace(0, 1, TEST_PICTURES * 32 * 32, dtype=np.float32)

    def plain():
        for _ in range(10):
            np.clip(np.hypot(pixels, 1 - pixels) * 3, 0, 1)

    def seconds(work):
        times = []
        for _ in range(2):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
        return min(times)

    assert seconds(lambda: draw_sample(train=False)) < 8 * seconds(plain)
