"""Figures: what they show, where they go, what they say to bad input (utils.py)."""

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
from matplotlib.image import AxesImage, imread
from matplotlib.text import Text

import utils

CLASSES = ["airplane", "cat", "sixteen-char-dog"]
IMAGES = np.random.default_rng(1).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
TARGETS = np.arange(12) % 3
ACCURACIES = [70.0, 60.0, 85.0, 82.5, 90.5]
HISTORY = [
    {
        "epoch": epoch,
        "train_loss": 2 / epoch,
        "train_acc": 60 + epoch,
        "test_loss": 2.5 / epoch,
        "test_acc": accuracy,
        "lr": 0.03 / epoch,
    }
    for epoch, accuracy in enumerate(ACCURACIES, 1)
]
CONFUSION = [[8, 2, 0], [3, 7, 0], [0, 1, 9]]
RATES = np.concatenate([np.linspace(1e-4, 1e-2, 10), np.linspace(1e-2, 1e-4, 40)[1:]])
LRS = np.geomspace(1e-6, 1, 50)
LOSSES = 2.3 - 1 / (1 + (1e-3 / LRS) ** 2)
FOUND = {
    "lrs": LRS,
    "losses": LOSSES,
    "smoothed": LOSSES,
    "level": 2.25,
    "lr_min": 4.3e-5,
    "lr_max": 3.8e-3,
    "take_off": 7.6e-3,
    "lr_steepest": 1.7e-4,
    "lr_minimum": 1.4e-4,
    "lr_given": False,
}
CHANCES = np.array([[0.05, 0.9, 0.05], [0.2, 0.1, 0.7], [0.6, 0.3, 0.1]])
MISTAKES = (IMAGES[:3], [0, 1, 2], CHANCES, CLASSES)
STAGES = {"original": IMAGES[0], "pad 4": np.zeros((40, 40, 3)), "crop 32": IMAGES[1]}
DRAWS = {"albumentations": list(IMAGES[1:9] / 255.0), "torchvision": list(IMAGES[4:12])}


def range_test(**changes):
    return SimpleNamespace(**FOUND | changes)


FIGURES = {  # what draws it, and words that must stand in it
    "samples": (lambda: utils.plot_samples(IMAGES, TARGETS, CLASSES), CLASSES[:2]),
    "transforms": (lambda: utils.plot_transforms(STAGES, DRAWS), [*STAGES, *DRAWS]),
    "lr_finder": (
        lambda: utils.plot_lr_finder(range_test()),
        ["LRMIN 4.3e-5", "LRMAX 3.8e-3", "steepest descent 1.7e-4", "take-off 7.6e-3"],
    ),
    "one_cycle": (lambda: utils.plot_one_cycle(RATES, RATES, 4), ["LRMIN 1e-4"]),
    "loss_curves": (lambda: utils.plot_loss_curves(HISTORY, target=90), ["target 90 %"]),
    "confusion": (lambda: utils.plot_confusion_matrix(CONFUSION, CLASSES), ["80.0 %", *CLASSES]),
    "misclassified": (lambda: utils.plot_misclassified(*MISTAKES), ["✗ cat", "90 %", "5 %"]),
    "no_mistakes": (lambda: utils.plot_misclassified([], [], [], CLASSES), []),
}


def words(fig) -> list[str]:
    return [text.get_text() for text in fig.findobj(Text)]


def title(fig) -> str:
    return fig.texts[-3].get_text()  # before subtitle and note


def images(fig) -> list:
    """The images in a figure as arrays, from the first to the last."""
    return [np.asarray(image.get_array()) for image in fig.findobj(AxesImage)]


def boxes(fig) -> list:
    """Words and where they stand, in dots; not the ticks of charts."""
    texts = [*fig.texts]
    for ax in fig.axes:
        texts += [*ax.texts, ax.xaxis.label, ax.yaxis.label]
    return [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]


def collisions(fig) -> list:
    """Pairs of words of which one stands upon the other."""
    found = []
    for (a, one), (b, other) in combinations(boxes(fig), 2):
        width = min(one.x1, other.x1) - max(one.x0, other.x0)
        height = min(one.y1, other.y1) - max(one.y0, other.y0)
        if width > 2 and height > 6:
            found.append((a, b))
    return found


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_what_it_shows_and_no_words_are_cut_off_or_collide(name):
    draw, expected = FIGURES[name]
    fig = draw()
    assert plt.get_fignums() == []  # pyplot has forgotten it
    assert {*expected} <= {*words(fig)}
    width, height = fig.get_size_inches() * fig.dpi
    assert width == 2 * utils.WIDTH
    for text, box in boxes(fig):
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, text
    assert not collisions(fig)


def test_saved_twice_gives_the_same_bytes_also_in_a_dark_style(tmp_path):
    folder = tmp_path / "new" / "folder"
    utils.plot_loss_curves(HISTORY, note="sample data", path=folder / "first.png")
    with plt.style.context("dark_background"):
        fig = utils.plot_loss_curves(HISTORY, note="sample data", path=str(folder / "second.png"))
        fig.savefig(tmp_path / "later.png", facecolor=fig.get_facecolor())  # as a notebook does
        assert plt.rcParams["axes.facecolor"] == "black"
    first = (folder / "first.png").read_bytes()
    assert first == (folder / "second.png").read_bytes()
    np.testing.assert_array_equal(imread(folder / "first.png"), imread(tmp_path / "later.png"))
    assert "sample data" in words(fig)


def test_a_path_that_cannot_be_written_is_named_and_the_figure_is_there(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert utils.plot_one_cycle(RATES, RATES, 5, path=tmp_path / "file" / "cycle.png").axes
    assert str(tmp_path / "file" / "cycle.png") in capsys.readouterr().out


def test_alone_in_a_folder_utils_draws_any_class_name_and_needs_no_display(tmp_path):
    shutil.copy(utils.__file__, tmp_path)
    names = ["$a^^b$", "猫"]
    code = f"import utils; utils.plot_confusion_matrix([[1, 2], [0, 1]], {names}, path='a.png')"
    hidden = {"DISPLAY", "MPLBACKEND", "PYTHONPATH"}
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, cwd=tmp_path)
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_samples_come_from_their_class_follow_the_seed_and_may_be_grey_or_few():
    def drawn(seed):
        return images(utils.plot_samples(IMAGES, TARGETS, CLASSES, per_class=3, seed=seed))

    for i, image in enumerate(drawn(4)):
        (source,) = [n for n in range(12) if (IMAGES[n] == image).all()]
        assert TARGETS[source] == i // 3
    assert np.array_equal(drawn(4), drawn(4)) and not np.array_equal(drawn(4), drawn(5))
    grey = images(utils.plot_samples(IMAGES[..., :1], TARGETS, CLASSES))[0]
    assert grey.shape == (32, 32, 3) and (grey[..., 0] == grey[..., 2]).all()
    assert len(images(utils.plot_samples(IMAGES[:2], TARGETS[:2], CLASSES))) == 2


def test_an_image_s_pixels_are_all_of_the_same_whole_number_of_dots(tmp_path):
    image = np.zeros((32, 32), np.uint8)
    image[:, ::2] = 255  # stripes, one pixel each
    utils.plot_samples([image], [0], ["stripes"], path=tmp_path / "stripes.png")
    page = imread(tmp_path / "stripes.png")[..., 0]
    dots = page[int(2 * (utils.HEAD + 20))]  # a row of dots through the image
    edges = np.flatnonzero(np.diff(dots > 0.5))[-31:]
    assert len(set(np.diff(edges))) == 1 and set(dots[edges[0] : edges[-1]]) == {0, 1}


def test_transforms_draw_every_image_and_the_stages_to_one_scale():
    fig = utils.plot_transforms(STAGES, DRAWS)
    assert len(images(fig)) == len(STAGES) + 16
    original, padded, crop = (ax.get_position().width for ax in fig.axes[:3])
    assert original == pytest.approx(crop) and padded / original == pytest.approx(40 / 32)


def vertical_lines(fig) -> set:
    lines = [line.get_xdata() for line in fig.axes[0].lines]
    return {xs[0] for xs in lines if len(xs) == 2 and xs[0] == xs[1]}


def test_range_test_names_never_collide_and_a_loss_that_explodes_leaves_the_frame():
    losses = np.concatenate([LOSSES[:-4], [1e3, 1e9, np.inf, np.nan]])
    names = ("lr_min", "lr_minimum", "lr_steepest", "lr_max", "take_off")
    near, far = (1e-4, 1.01e-4, 1.02e-4, 1.03e-4, 1.04e-4), (1e-6, 0.01, 0.012, 0.1, 0.9)
    for rates in (near, far):
        found = range_test(losses=losses, smoothed=losses, **dict(zip(names, rates, strict=True)))
        fig = utils.plot_lr_finder(found)
        assert vertical_lines(fig) == {*rates} and not collisions(fig)
        low, high = fig.axes[0].get_ylim()
        assert low < 1.3 and 2.3 < high < 4
    assert 2.25 in [line.get_ydata()[0] for line in fig.axes[0].lines]  # the level


def test_a_range_test_without_take_off_and_given_rates_are_said():
    fig = utils.plot_lr_finder(range_test(take_off=None, lr_max=0.1))
    assert vertical_lines(fig) == {4.3e-5, 0.1, 1.7e-4, 1.4e-4}
    assert any("no take-off" in text for text in words(fig))
    for rate, said in ((LRS[10], "At LRMIN a fifth"), (1.5e-5, "LRMIN is given")):
        assert any(said in text for text in words(utils.plot_lr_finder(range_test(lr_min=rate))))
    assert "given LRMAX 1e-2" in words(utils.plot_lr_finder(range_test(lr_max=0.01, lr_given=True)))


def test_one_cycle_marks_the_peak_in_steps_and_epochs():
    fig = utils.plot_one_cycle(RATES, 1 - RATES, 4)
    assert "LRMAX 1e-2 at step 10, after 2.5 epochs" in words(fig)
    np.testing.assert_array_equal(fig.axes[0].lines[0].get_ydata(), RATES)
    np.testing.assert_array_equal(fig.axes[1].lines[0].get_ydata(), 1 - RATES)
    # without a note, nothing is left empty below
    bottom = fig.axes[1].xaxis.label.get_window_extent().y0
    assert bottom < 2 * utils.FOOT / 2


def test_loss_curves_draw_the_numbers_the_target_and_the_floor():
    fig = utils.plot_loss_curves(HISTORY, target=85, loss_floor=0.35)
    train, test, target = fig.axes[0].lines
    assert list(test.get_ydata()) == ACCURACIES and list(train.get_ydata()) == [61, 62, 63, 64, 65]
    assert {*target.get_ydata()} == {85}
    assert fig.axes[1].lines[-1].get_ydata()[0] == 0.35
    assert "85 % in epoch 3" in title(fig) and "90.50 %" in title(fig)
    assert "91 % not reached" in title(utils.plot_loss_curves(HISTORY, target=91))


def test_loss_curves_have_no_target_unless_one_is_given():
    fig = utils.plot_loss_curves(HISTORY)
    assert len(fig.axes[0].lines) == 2 and not any("target" in text for text in words(fig))


def test_the_loss_fills_its_axes_and_an_explosion_leaves_them():
    flat = [row | {"train_loss": 1.2, "test_loss": 1.0 + row["epoch"] / 10} for row in HISTORY]
    low, high = utils.plot_loss_curves(flat).axes[1].get_ylim()
    assert 0.5 / (high - low) > 0.6  # the losses span 0.5
    wild = [*flat[:-1], flat[-1] | {"train_loss": np.inf, "test_loss": np.nan}]
    assert utils.plot_loss_curves(wild).axes[1].get_ylim()[1] < 10
    diverged = [row | {"train_loss": np.inf, "test_loss": 2.0} for row in HISTORY]
    assert utils.plot_loss_curves(diverged).axes[1].get_ylim()[1] < 10


def test_smoothing_floor_is_the_lowest_loss_that_pytorch_gives():
    target = torch.tensor([[0.94, 0.03, 0.03]])
    lowest = torch.nn.CrossEntropyLoss(label_smoothing=0.09)(target.log(), torch.tensor([0]))
    assert utils.smoothing_floor(0.09, 3) == pytest.approx(float(lowest), abs=1e-6)
    assert utils.smoothing_floor(0, 10) == 0


def test_confusion_colours_mistakes_only_and_says_where_a_class_has_no_images():
    fig = utils.plot_confusion_matrix(CONFUSION, CLASSES)
    matrix, strip = fig.axes
    colours = matrix.images[0].get_array()
    assert colours.mask.diagonal().all() and colours[1, 0] == pytest.approx(30)
    assert [bar.get_width() for bar in strip.patches] == pytest.approx([80, 70, 90])
    assert matrix.get_ylim() == strip.get_ylim()  # the bars stand beside their rows
    assert "cat taken for airplane" in title(fig)
    uneven = utils.plot_confusion_matrix([[2, 2, 0], [0, 700, 300], [0, 0, 9]], CLASSES[:3])
    assert title(uneven).endswith(f"{CLASSES[1]} taken for {CLASSES[2]}")  # 300, and not 2 of 4
    long = ["Cherry_(sour)___Powdery_mildew", "Cherry_(sour)___healthy"]
    shares = utils.plot_confusion_matrix([[0.75, 0.25], [0, 1]], long)
    assert title(shares).endswith(f"{long[0]} taken for {long[1]}")
    assert {"0.75", "75.0 %", "Cherry_…y_mildew", "Cherry_…_healthy"} <= {*words(shares)}
    assert "0 taken for 1" in title(utils.plot_confusion_matrix([[3, 1], [0, 4]], [0, 1]))
    empty = words(utils.plot_confusion_matrix([[8, 2], [0, 0]], ["cat", "dog"]))
    assert "no images" in empty and "0.0 %" not in empty


def test_a_confusion_matrix_of_many_classes_stays_on_a_page_and_has_no_numbers():
    confusion = np.eye(100, dtype=int) * 90 + 1
    fig = utils.plot_confusion_matrix(confusion, [f"class {i}" for i in range(100)])
    assert fig.get_size_inches()[1] * 96 < 1300 and not fig.axes[0].texts
    assert fig.axes[0].images[0].get_array().shape == (100, 100)
    sizes = {label.get_size() for label in fig.axes[0].get_yticklabels()}
    assert min(sizes) > 6 and len(fig.axes[1].patches) == 100


def test_misclassified_keep_their_order_stop_at_25_and_say_so(capsys):
    fig = utils.plot_misclassified(*MISTAKES)
    assert not capsys.readouterr().out
    assert np.array_equal(images(fig), IMAGES[:3])
    assert "most confident first" in title(fig)  # 0.9, 0.7, 0.6
    other = utils.plot_misclassified(IMAGES[:3], [0, 1, 2], CHANCES[[1, 0, 2]], CLASSES)
    assert "most confident" not in title(other)
    assert "classified correctly" in capsys.readouterr().out  # the second one
    many = [np.repeat(values, 10, axis=0) for values in MISTAKES[:3]]
    captions = ["a caption that is far too long"] * 30
    classes = ["W" * 16, "sixteen-char-dog", "sixteen-char-cat"]
    fig = utils.plot_misclassified(*many, classes, columns=8, captions=captions)
    assert len(images(fig)) == 25 and "25 of 30" in title(fig) and not collisions(fig)


@pytest.mark.parametrize(
    ("draw", "named"),
    [
        (lambda: utils.plot_samples(IMAGES, TARGETS[:5], CLASSES), "images 12, targets 5"),
        (lambda: utils.plot_samples(IMAGES, TARGETS + 1, CLASSES), "targets go from 1 to 3"),
        (
            lambda: utils.plot_samples(IMAGES.transpose(0, 3, 1, 2), TARGETS, CLASSES),
            r"shape \(3, 32, 32\)",
        ),
        (lambda: utils.plot_transforms(STAGES, {"device": []}), "device is empty"),
        (lambda: utils.plot_transforms(STAGES, {"a": [IMAGES[0] / 100]}), "2.55"),
        (lambda: utils.plot_lr_finder(range_test(losses=[1.0])), "losses 1"),
        (lambda: utils.plot_loss_curves([]), "history is empty"),
        (lambda: utils.plot_confusion_matrix([[1, 2]], CLASSES), r"shape \(1, 2\)"),
        (lambda: utils.plot_misclassified(*MISTAKES[:2], CHANCES[:, :2], CLASSES), r"\(3, 2\)"),
        (lambda: utils.plot_misclassified(*MISTAKES[:2], np.log(CHANCES), CLASSES), "-3"),
        (lambda: utils.plot_misclassified(*MISTAKES[:2], CHANCES * 0.9, CLASSES), "0.9"),
        (lambda: utils.plot_misclassified(*MISTAKES[:2], CHANCES * np.nan, CLASSES), "nan"),
    ],
)
def test_bad_input_is_one_sentence_with_name_and_value(draw, named):
    with pytest.raises(ValueError, match=named) as caught:
        draw()
    assert "\n" not in str(caught.value) and plt.get_fignums() == []
