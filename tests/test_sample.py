"""The built-in sample is balanced, the same on any processor, and only its shapes tell a class."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dataset import CLASSES
from extras.sample import SAMPLE_CLASSES, draw_sample

# A checkpoint goes on only with the images that it began with: whoever changes these ends all runs
# on sample data.
SHA256 = {
    True: "43e0689a357a9d478cdfd162c55d0315fe5fb59478d8473316d180bda15aedf5",
    False: "273a469c9a1c12f9e7cf5fca2764110359b8e04f4be7ac7f27822756f5a854b4",
}


@pytest.fixture(scope="module")
def drawn():
    """Images and labels by split, drawn once for all tests."""
    return {train: draw_sample(train) for train in (True, False)}


def sha256(images, labels):
    return hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()


@pytest.mark.parametrize("train, count", [(True, 4096), (False, 1024)])
def test_shapes_types_and_names(drawn, train, count):
    images, labels = drawn[train]
    assert images.shape == (count, 32, 32, 3) and images.dtype == np.uint8
    assert images.flags.c_contiguous
    assert labels.shape == (count,) and labels.dtype == np.int64
    assert len(set(SAMPLE_CLASSES) - set(CLASSES)) == 10


@pytest.mark.parametrize("train", [True, False])
def test_every_prefix_is_balanced(drawn, train):
    labels = drawn[train][1]
    counts = np.cumsum(labels[:, None] == np.arange(10), axis=0)
    assert np.ptp(counts, axis=1).max() <= 1
    assert not np.array_equal(labels[:10], labels[10:20])  # and yet in no fixed order


@pytest.mark.parametrize("train", [True, False])
def test_images_are_the_ones_of_every_other_run(drawn, train):
    assert sha256(*drawn[train]) == SHA256[train]


def test_drawing_leaves_numpys_random_state_alone():
    np.random.seed(1)
    before = np.random.get_state()
    assert sha256(*draw_sample(train=False)) == SHA256[False]  # whatever was drawn before
    after = np.random.get_state()
    assert np.array_equal(before[1], after[1]) and before[2:] == after[2:]


def off_by_one_bit(function, toward):
    return lambda *x: np.nextafter(function(*x), toward)


@pytest.mark.parametrize("toward", [-np.inf, np.inf])
def test_last_bits_of_a_processor_do_not_reach_the_images(monkeypatch, toward):
    """Another processor's sines and roots may differ in the last bit: here all of them do."""
    for name in ("sin", "cos", "arctan2", "sqrt"):
        monkeypatch.setattr(np, name, off_by_one_bit(getattr(np, name), toward))
    assert sha256(*draw_sample(train=False)) == SHA256[False]


def test_images_are_the_same_without_vector_instructions():
    """NumPy takes other code for the functions above on a processor without, say, AVX2."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    code = (
        "import sys, numpy as np; from extras.sample import draw_sample; "
        "assert not np.show_config(mode='dicts')['SIMD Extensions'].get('found'); "
        "sys.stdout.buffer.write(b''.join(part.tobytes() for part in draw_sample(train=False)))"
    )
    environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": " ".join(found)}
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True)
    assert hashlib.sha256(done.stdout).hexdigest() == SHA256[False], done.stderr.decode()


def test_no_image_twice(drawn):
    images = np.concatenate([drawn[True][0], drawn[False][0]])
    assert len({image.tobytes() for image in images}) == len(images)


def test_training_and_test_images_have_one_distribution(drawn):
    ours, theirs = (drawn[train][0].reshape(-1, 1024, 3).mean(axis=1) for train in (True, False))
    error = np.hypot(ours.std(axis=0) / len(ours) ** 0.5, theirs.std(axis=0) / len(theirs) ** 0.5)
    assert (abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 4 * error).all()


def test_mean_colour_does_not_give_the_class_away(drawn):
    """It tells the scene in 80 % of the images, and two classes share each: 42 % at the best."""
    (images, labels), (test_images, test_labels) = drawn[True], drawn[False]
    splits = (images, test_images)
    colours, test_colours = (part.reshape(-1, 1024, 3).mean(axis=1) for part in splits)
    nearest = ((test_colours[:, None] - colours) ** 2).sum(axis=2).argsort(axis=1)[:, :50]
    votes = (labels[nearest][..., None] == np.arange(10)).sum(axis=1)
    assert 0.25 < (votes.argmax(axis=1) == test_labels).mean() < 0.55


def test_every_image_shows_something(drawn):
    assert (np.ptp(drawn[True][0], axis=(1, 2)).max(axis=1) > 40).all()
