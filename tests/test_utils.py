"""Figures: what they show, where they go, what they say to bad input (utils.py and
extras/figures.py).
"""

import os
import shutil
import subprocess
import sys
from itertools import combinations
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.contour import ContourSet
from matplotlib.image import AxesImage, imread
from matplotlib.text import Text

import models
import utils
from examples.predict import plot_predictions
from extras import diagram, gradcam, receptive_field

CLASSES = ["airplane", "cat", "sixteen-char-dog"]
IMAGES = np.random.default_rng(1).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
TARGETS = np.arange(12) % 3
HISTORY = [
    dict(
        epoch=e,
        train_loss=2 / e,
        train_acc=60 + e,
        test_loss=2.5 / e,
        test_acc=acc,
        lr=lr,
        seconds=9.0,
    )
    for e, acc, lr in [
        (1, 70.0, 0.01),
        (2, 60.0, 0.03),
        (3, 85.0, 0.02),
        (4, 82.5, 0.01),
        (5, 90.5, 0.001),
    ]
]
CONFUSION = [[8, 2, 0], [3, 7, 0], [0, 1, 9]]
RATES = np.concatenate([np.linspace(1e-4, 1e-2, 10), np.linspace(1e-2, 1e-4, 40)[1:]])
LRS = np.geomspace(1e-6, 1, 50)
LOSSES = 2.3 - 1 / (1 + (1e-3 / LRS) ** 2)
READ_OFF = dict(
    lr_min=4.3e-5, lr_minimum=1.4e-4, lr_steepest=1.7e-4, lr_max=3.8e-3, take_off=7.6e-3
)
FOUND = SimpleNamespace(lrs=LRS, losses=LOSSES, smoothed=LOSSES, **READ_OFF)
FIELDS = receptive_field.receptive_field(models.s10_model())  # twelve layers, from 3 to 88 pixels
CHANCES = np.array([[0.05, 0.9, 0.05], [0.2, 0.1, 0.7], [0.6, 0.3, 0.1]])
MISTAKES = (IMAGES[:3], [0, 1, 2], CHANCES, CLASSES)
MAPS = np.zeros((3, 8, 8))
MAPS[:, 2:4, 2:4] = 1
STAGES = {"original": IMAGES[0], "pad 4": np.zeros((40, 40, 3)), "crop 32": IMAGES[1]}
DRAWS = {"albumentations": list(IMAGES[1:9] / 255.0), "torchvision": list(IMAGES[4:12])}

# Every figure: its function, its arguments, and words that must stand in it.
FIGURES = {
    "samples": (
        utils.plot_samples,
        (IMAGES, TARGETS, CLASSES),
        ["airplane", "4 random images of each class"],
    ),
    "transforms": (
        utils.plot_transforms,
        (STAGES, DRAWS),
        ["original", "pad 4", "albumentations", "torchvision"],
    ),
    "receptive_field": (
        receptive_field.plot_receptive_field,
        (FIELDS, IMAGES[0]),
        ["pool", "88", "resblock2.3: 64", "field"],
    ),
    "lr_finder": (
        utils.plot_lr_finder,
        (FOUND,),
        ["LRMIN 4.3e-5", "LRMAX 3.8e-3", "steepest descent 1.7e-4"],
    ),
    "one_cycle": (
        utils.plot_one_cycle,
        (RATES, RATES, 5),
        ["LRMAX 1e-2 at step 10, the end of epoch 2"],
    ),
    "no_epoch": (
        utils.plot_one_cycle,
        (RATES, RATES, 4),
        ["epochs done", "LRMAX 1e-2 at step 10, in epoch 3"],
    ),
    "loss_curves": (
        utils.plot_loss_curves,
        (HISTORY,),
        ["epoch", "loss", "accuracy (%)", "target 90 %"],
    ),
    "confusion": (
        utils.plot_confusion_matrix,
        (CONFUSION, CLASSES),
        ["true class", "80.0 %", "class accuracy (%)"],
    ),
    "misclassified": (utils.plot_misclassified, MISTAKES, ["✗ cat", "90 %", "✓ airplane", "5 %"]),
    "model": (
        diagram.plot_model,
        (diagram.network_parts(models.s10_model()),),
        ["Layer 1", "128×16×16", "X + R2(X)"],
    ),
    "no_mistakes": (
        utils.plot_misclassified,
        ([], [], [], CLASSES),
        ["All images were classified correctly."],
    ),
    "gradcam": (
        gradcam.plot_gradcam,
        (IMAGES[:3], [0, 1, 2], [1, 2, 0], MAPS, MAPS, CLASSES),
        ["predicted", "true"],
    ),
    "predictions": (
        plot_predictions,
        (IMAGES[:3], CHANCES, CLASSES),
        ["the network sees", "90.0 %"],
    ),
}


def words(fig) -> list[str]:
    return [text.get_text() for text in fig.findobj(Text)]


def images(fig) -> list:
    """The images in a figure as arrays, from the first to the last."""
    return [np.asarray(image.get_array()) for image in fig.findobj(AxesImage)]


def boxes(fig) -> list:
    """Where the words of a figure stand, in dots; not the ticks of charts."""
    texts = fig.texts + [
        text for ax in fig.axes for text in (*ax.texts, ax.xaxis.label, ax.yaxis.label)
    ]
    return [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]


def collide(one, other) -> bool:
    width, height = (
        min(one.x1, other.x1) - max(one.x0, other.x0),
        min(one.y1, other.y1) - max(one.y0, other.y0),
    )
    return width > 2 and height > 6


def collisions(fig) -> list:
    """Pairs of words of which one stands upon the other."""
    return [(a, b) for (a, one), (b, other) in combinations(boxes(fig), 2) if collide(one, other)]


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_labelled_and_left_out_of_pyplot_and_no_words_are_cut_off_or_collide(name):
    plot, arguments, expected = FIGURES[name]
    fig = plot(*arguments, note="sample data, not CIFAR-10")
    assert plt.get_fignums() == []
    assert {*expected, "sample data, not CIFAR-10"} <= set(words(fig))
    assert fig.get_facecolor() == (1, 1, 1, 1)
    width, height = fig.get_size_inches() * fig.dpi  # in dots, two for each pixel of a page
    for text, box in boxes(fig):
        assert (
            width == 1660 and box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height
        ), text
    assert name == "receptive_field" or not collisions(
        fig
    )  # there 3, 5 and 6 pixels are close to each other


def test_saved_twice_gives_the_same_bytes_also_in_a_dark_style(tmp_path):
    plot, arguments, _ = FIGURES["loss_curves"]
    folder = tmp_path / "new" / "folder"
    plot(*arguments, path=folder / "first.png")
    with plt.style.context("dark_background"):
        fig = plot(*arguments, path=str(folder / "second.png"))
        fig.savefig(
            tmp_path / "notebook.png", facecolor=fig.get_facecolor()
        )  # as a notebook does, later
        assert plt.rcParams["axes.facecolor"] == "black"
    first = (folder / "first.png").read_bytes()
    assert first == (folder / "second.png").read_bytes() and b"matplotlib" not in first.lower()
    np.testing.assert_array_equal(imread(folder / "first.png"), imread(tmp_path / "notebook.png"))


def test_a_path_that_cannot_be_written_is_one_sentence_and_the_figure_is_there(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert utils.plot_one_cycle(RATES, RATES, 5, path=tmp_path / "file" / "cycle.png").axes
    assert capsys.readouterr().out.startswith(
        f"The figure cannot be written to {tmp_path / 'file' / 'cycle.png'} ("
    )


def test_alone_in_a_folder_utils_draws_any_class_name_quietly_and_needs_no_display(tmp_path):
    shutil.copy(utils.__file__, tmp_path)
    code = "import utils; utils.plot_confusion_matrix([[1, 2], [0, 1]], ['$a^^b$', '猫'], note='{$a^^b$', path='a.png')"
    code += ".savefig('b.png')  # later, in the reader's style"
    env = {
        name: os.environ[name]
        for name in os.environ.keys() - {"DISPLAY", "MPLBACKEND", "PYTHONPATH"}
    }
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_samples_come_from_their_class_follow_the_seed_and_may_be_grey_or_few():
    first, again, other = (
        images(utils.plot_samples(IMAGES, TARGETS, CLASSES, per_class=3, seed=s)) for s in (4, 4, 5)
    )
    for i, image in enumerate(first):
        (source,) = [n for n in range(12) if (IMAGES[n] == image).all()]
        assert TARGETS[source] == i // 3
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    grey = images(utils.plot_samples(IMAGES[..., :1], TARGETS, CLASSES))[0]
    assert grey.shape == (32, 32, 3) and (grey[..., 0] == grey[..., 2]).all()


def test_lr_finder_names_never_collide_and_a_loss_that_explodes_leaves_the_frame():
    losses = np.concatenate([LOSSES[:-4], [1e3, 1e9, np.inf, np.nan]])
    near = dict(
        lr_min=1e-4, lr_minimum=1.01e-4, lr_steepest=1.02e-4, lr_max=1.03e-4, take_off=1.04e-4
    )
    far = dict(lr_min=1e-6, lr_minimum=0.01, lr_steepest=0.012, lr_max=0.1, take_off=0.9)
    for rates in (near, far):
        fig = utils.plot_lr_finder(
            SimpleNamespace(lrs=LRS, losses=losses, smoothed=losses, **rates)
        )
        drawn = {line.get_xdata()[0] for line in fig.axes[0].lines if len(line.get_xdata()) == 2}
        assert drawn == set(rates.values()) and not collisions(fig)
        assert fig.axes[0].get_ylim()[0] < 1.3 and 2.3 < fig.axes[0].get_ylim()[1] < 4


def test_loss_curves_draw_the_numbers_target_floor_and_say_what_is_seen():
    fig = utils.plot_loss_curves(HISTORY, loss_floor=0.5003)
    train, test, target = fig.axes[0].lines
    assert list(test.get_ydata()) == [70, 60, 85, 82.5, 90.5]
    assert set(target.get_ydata()) == {90} and train.get_marker() != test.get_marker()
    assert fig.axes[1].lines[-1].get_ydata()[0] == 0.5003
    assert "lowest possible loss with label smoothing (0.50)" in words(fig)
    # 10 points were lost before the peak of the learning rate; after it 2.5
    assert (
        "Largest drop after the learning rate's peak: 2.50 percentage points, in epoch 4"
        in words(fig)
    )
    late = words(utils.plot_loss_curves([*HISTORY, HISTORY[-1] | dict(epoch=6, test_acc=90.0)]))
    assert "Test accuracy 90.00 % at the end, best 90.50 % in epoch 5" in late


def test_smoothing_floor_is_the_lowest_loss_that_pytorch_gives():
    target = torch.tensor([[0.94, 0.03, 0.03]])
    lowest = torch.nn.CrossEntropyLoss(label_smoothing=0.09)(target.log(), torch.tensor([0]))
    assert utils.smoothing_floor(0.09, 3) == pytest.approx(float(lowest), abs=1e-6)
    assert utils.smoothing_floor(0, 10) == 0


def test_confusion_colours_mistakes_only_and_says_where_a_class_has_no_images():
    fig = utils.plot_confusion_matrix(CONFUSION, CLASSES)
    colours = fig.axes[0].images[0].get_array()
    assert colours.mask.diagonal().all() and colours[1, 0] == pytest.approx(30)
    assert [bar.get_width() for bar in fig.axes[1].patches] == pytest.approx([80, 70, 90])
    assert fig.axes[0].get_ylim() == fig.axes[1].get_ylim()  # the bars stand beside their rows
    assert "Most common mistake: cat taken for airplane" in words(fig)
    empty = words(utils.plot_confusion_matrix([[8, 2], [0, 0]], ["cat", "dog"]))
    assert "no images" in empty and "0.0 %" not in empty


def test_misclassified_keep_their_order_stop_at_25_and_their_labels_never_collide():
    fig = utils.plot_misclassified(*MISTAKES)
    assert np.array_equal(
        images(fig), IMAGES[:3]
    ) and "Misclassified images, the most confident first" in words(fig)
    many = [np.repeat(values, 10, axis=0) for values in MISTAKES[:3]]
    captions, classes = (
        ["a caption that is far too long"] * 30,
        ["W" * 16, "sixteen-char-dog", "sixteen-char-cat"],
    )
    for columns in (3, 8):
        fig = utils.plot_misclassified(*many, classes, columns=columns, captions=captions)
        assert len(images(fig)) == 25 and not collisions(fig)


def test_gradcam_shows_image_and_contours_of_both_maps():
    nine = [
        np.repeat(values, 3, axis=0)
        for values in (IMAGES[:3], [0, 1, 2], [1, 2, 0], MAPS, MAPS * 0)
    ]
    fig = gradcam.plot_gradcam(*nine, CLASSES)
    assert np.array_equal(images(fig), np.repeat(nine[0], 3, axis=0))
    assert words(fig).count("empty map") == 9
    contours = fig.axes[1].findobj(ContourSet)
    points = np.concatenate([path.vertices for lines in contours for path in lines.get_paths()])
    assert points.min() > 7 and points.max() < 16  # the map's 2x2 of 8x8, in pixels of the image
    assert not fig.axes[0].findobj(ContourSet) and not fig.axes[2].findobj(ContourSet)
    assert "No images" in words(gradcam.plot_gradcam(*[[]] * 5, CLASSES))


@pytest.mark.parametrize(
    ("plot", "sentence"),
    [
        (
            lambda: utils.plot_samples(IMAGES, TARGETS[:5], CLASSES),
            "equally long.*images 12, targets 5",
        ),
        (
            lambda: utils.plot_samples(IMAGES, TARGETS + 1, CLASSES),
            "targets go from 1 to 3, but there are 3 classes",
        ),
        (
            lambda: utils.plot_samples(IMAGES.transpose(0, 3, 1, 2), TARGETS, CLASSES),
            r"shape \(3, 32, 32\)",
        ),
        (lambda: utils.plot_transforms(STAGES, {"device": []}), "device is empty"),
        (
            lambda: utils.plot_transforms(STAGES, {"device": [IMAGES[0] / 100]}),
            "undo the normalisation",
        ),
        (
            lambda: utils.plot_lr_finder(SimpleNamespace(lrs=[1], losses=[1], smoothed=[np.nan])),
            "no finite loss",
        ),
        (lambda: utils.plot_loss_curves([]), "history is empty"),
        (
            lambda: utils.plot_confusion_matrix([[1, 2]], CLASSES),
            r"shape \(1, 2\).* must be \(3, 3\)",
        ),
        (
            lambda: plot_predictions(IMAGES[:3], CHANCES, CLASSES[:2]),
            r"probabilities has shape \(3, 3\)",
        ),
    ],
)
def test_bad_input_is_one_clear_sentence_and_leaves_nothing_open(plot, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        plot()
    assert "\n" not in str(caught.value) and plt.get_fignums() == []
