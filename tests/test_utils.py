"""What must stay true of the figures: what they show, where they go, and what they say to bad input."""

import os
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Circle
from matplotlib.text import Text

import drawing
import utils

CLASSES = ["airplane", "cat", "a class with quite a long name"]
PICTURES = np.random.default_rng(1).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
TARGETS = np.arange(12) % 3
HISTORY = [
    dict(
        epoch=e,
        train_loss=2 / e,
        train_acc=60 + e,
        test_loss=2.5 / e,
        test_acc=88.0 + e,
        lr=0.01,
        seconds=9.0,
    )
    for e in (1, 2, 3)
]
CONFUSION = [[8, 2, 0], [3, 7, 0], [0, 1, 9]]
RATES = np.concatenate([np.linspace(1e-4, 1e-2, 10), np.linspace(1e-2, 1e-4, 40)[1:]])
RANGE_LRS = np.geomspace(1e-6, 1, 50)
RANGE_LOSSES = 2.3 - 1 / (1 + (1e-3 / RANGE_LRS) ** 2)
BRANCH = ["Conv 3×3, 128", "BatchNorm", "ReLU"]
BLOCKS = [
    dict(name="PrepLayer", layers=["Conv 3×3, 64", "ReLU"], out=(64, 32, 32), residual=None),
    dict(name="Layer 1", layers=["Conv 3×3, 128", "MaxPool 2"], out=(128, 16, 16), residual=BRANCH, add=True),
    dict(name="FC", layers=["Linear 512 → 10"], out=(10,), residual=None),
]
FIELDS = [
    dict(name=f"conv{i}", kernel=3, stride=1, padding=1, out_size=32, jump=1, receptive_field=field)
    for i, field in enumerate([3, 20, 88])
]
SEEDS = [
    dict(name="all of it", mean=93.0, std=0.2, accuracies=[92.8, 93.2]),
    dict(name="without flip", mean=92.0, std=0.1, accuracies=[91.9, 92.1]),
]
CURVES = [
    dict(name="calm", curves=[[40.0, 60, 70, 72], [42.0, 62, 71, 73]]),
    dict(name="wild", curves=[[50.0, 30, 65, 60], [52.0, 34, 66, 63]]),
]
MISTAKES = (PICTURES[:3], [0, 1, 2], [1, 2, 0], [0.99, 0.8, 0.6], CLASSES)
CHANCES = [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]

# Every figure: its function, its arguments, and words that must stand in it (axis labels with units too).
FIGURES = {
    "samples": (utils.plot_samples, (PICTURES, TARGETS, CLASSES), ["airplane", "cat"]),
    "transforms": (
        utils.plot_transforms,
        (PICTURES[0], {"device": [PICTURES[1] / 255.0]}),
        ["original", "device"],
    ),
    "model": (utils.plot_model, (BLOCKS,), ["Layer 1", "128×16×16", "X + R1(X)"]),
    "receptive_field": (
        utils.plot_receptive_field,
        (FIELDS,),
        ["receptive field (pixels of the input)"],
    ),
    "lr_finder": (
        utils.plot_lr_finder,
        (RANGE_LRS, RANGE_LOSSES, RANGE_LOSSES, 1e-5, 1e-3),
        ["LRMIN = 1.00e-05", "LRMAX = 1.00e-03", "learning rate (log scale)", "training loss (nats)"],
    ),
    "one_cycle": (
        utils.plot_one_cycle,
        (RATES, 0.96 - RATES, 5),
        ["LRMIN = 1.00e-04", "Adam's beta1", "epochs done"],
    ),
    "history": (utils.plot_history, (HISTORY,), ["epoch", "loss (nats)", "accuracy (%)", "target 90 %"]),
    "class_accuracy": (
        utils.plot_class_accuracy,
        (CONFUSION, CLASSES),
        ["accuracy (% of the class's test pictures)", "mean 80.0 %"],
    ),
    "confusion": (
        utils.plot_confusion,
        (CONFUSION, CLASSES),
        ["true class", "predicted class", "mistakes (% of the true class)", "8\n80.0 %"],
    ),
    "mistakes": (utils.plot_mistakes, MISTAKES, ["predicted: cat 99 %", "true: airplane"]),
    "no_mistakes": (
        utils.plot_mistakes,
        ([], [], [], [], CLASSES),
        ["Every picture was classified correctly."],
    ),
    "top5": (utils.plot_top5, (PICTURES[:2], CHANCES, CLASSES), ["what the network sees", "70.0 %"]),
    "bars": (utils.plot_bars, (SEEDS,), ["93.00 ± 0.20 %", "without flip"]),
    "curves": (utils.plot_curves, (CURVES,), ["epoch", "test accuracy (%)", "calm", "wild"]),
}


def words(fig) -> list[str]:
    return [text.get_text() for text in fig.findobj(Text)]


def shown(fig) -> list:
    """The pictures in a figure, from the first to the last."""
    return fig.axes[0].images


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_returned_labelled_and_left_out_of_pyplot(name):
    plot, arguments, expected = FIGURES[name]
    fig = plot(*arguments, note="sample data, not CIFAR-10")
    assert isinstance(fig, Figure)
    assert plt.get_fignums() == []
    assert set(expected) <= set(words(fig))
    assert "sample data, not CIFAR-10" in words(fig)
    assert fig.get_facecolor() == (1, 1, 1, 1)


@pytest.mark.parametrize("name", FIGURES)
def test_no_words_are_cut_off_and_the_note_stays_in_its_place(name):
    plot, arguments, _ = FIGURES[name]
    fig = plot(*arguments, note="CIFAR-10, JPEG edition")
    width, height = fig.get_size_inches() * fig.dpi
    renderer = fig.canvas.get_renderer()
    for text in fig.texts + [text for ax in fig.axes for text in ax.texts + [ax.xaxis.label, ax.yaxis.label]]:
        if text.get_text():
            box = text.get_window_extent(renderer)
            assert box.x0 >= -1 and box.x1 <= width + 1 and box.y0 >= -1 and box.y1 <= height + 1, text.get_text()
    note = next(text for text in fig.texts if text.get_text() == "CIFAR-10, JPEG edition")
    assert note.get_window_extent(renderer).x0 == pytest.approx(drawing.MARGIN, abs=2)
    assert note.get_window_extent(renderer).y1 <= drawing.FOOT


@pytest.mark.parametrize("name", ["samples", "history"])
def test_saved_twice_gives_the_same_bytes_and_nothing_else_in_the_folder(name, tmp_path):
    plot, arguments, _ = FIGURES[name]
    first, second = tmp_path / "new" / "folder" / "first.png", tmp_path / "new" / "folder" / "second.png"
    plot(*arguments, path=first)
    plot(*arguments, path=str(second))
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(b"\x89PNG")
    assert b"matplotlib" not in first.read_bytes().lower()
    assert sorted(file.name for file in first.parent.iterdir()) == ["first.png", "second.png"]


def test_a_path_that_cannot_be_written_is_one_sentence_and_the_figure_is_there(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "bars.png").mkdir()
    for path in (tmp_path / "file" / "bars.png", tmp_path / "bars.png"):
        assert utils.plot_bars(SEEDS, path=path).axes
        (words,) = capsys.readouterr().out.splitlines()
        assert words.startswith(f"The figure cannot be written to {path} (")
        assert words.endswith("give a file name in a folder that you may write to.")
    assert sorted(os.listdir(tmp_path)) == ["bars.png", "file"]
    with pytest.raises(ValueError, match="figures are PNG files"):
        utils.plot_bars(SEEDS, path=tmp_path / "bars.jpg")


def test_bars_name_a_best_row_only_where_the_error_bars_part_it_from_the_next():
    rows = [dict(name=name, mean=mean, std=0.0, accuracies=[mean]) for name, mean in (("a", 74.0), ("b", 74.5))]
    assert "Highest mean accuracy: b" in words(utils.plot_bars(rows))
    fig = utils.plot_bars([row | dict(error=1.4) for row in rows], bars="standard error by test pictures")
    assert "Too close to call: the best 2 of 2" in words(fig)
    assert "test accuracy (%): mean, standard error by test pictures, and each seed (|)" in words(fig)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, capsys):
    path = tmp_path / "bars.png"
    utils.plot_bars(SEEDS, path=path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    utils.plot_bars(SEEDS[:1], path=path)
    assert "(No space left on device)" in capsys.readouterr().out
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["bars.png"]


def test_pictures_are_enlarged_by_a_whole_number_and_every_pixel_is_a_sharp_square(tmp_path):
    utils.plot_samples(PICTURES[:1], [0], ["cat"], path=tmp_path / "one.png")
    fig = utils.plot_samples(PICTURES[:1], [0], ["cat"])
    left, right, bottom, top = shown(fig)[0].get_extent()
    scale = (right - left) / 32
    assert scale == int(scale) >= 3
    saved = (imread(tmp_path / "one.png")[..., :3] * 255).round().astype(np.uint8)
    x, y = int(left), int(top) + drawing.HEAD
    drawn = saved[y : y + 32 * int(scale), x : x + 32 * int(scale)]
    np.testing.assert_array_equal(drawn, PICTURES[0].repeat(int(scale), axis=0).repeat(int(scale), axis=1))


def test_the_readers_dark_style_changes_nothing(tmp_path):
    utils.plot_history(HISTORY, path=tmp_path / "light.png")
    with plt.style.context("dark_background"):
        fig = utils.plot_history(HISTORY, path=tmp_path / "dark.png")
        fig.savefig(tmp_path / "notebook.png", facecolor=fig.get_facecolor())  # as a notebook does
        assert plt.rcParams["axes.facecolor"] == "black"
    assert (tmp_path / "light.png").read_bytes() == (tmp_path / "dark.png").read_bytes()
    np.testing.assert_array_equal(imread(tmp_path / "light.png"), imread(tmp_path / "notebook.png"))


def test_importing_draws_nothing_and_needs_no_display():
    code = (
        "import utils, matplotlib.pyplot as plt; assert plt.get_fignums() == []; utils.plot_bars(" + repr(SEEDS) + ")"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "MPLBACKEND")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_samples_come_from_their_class_and_follow_the_seed():
    fig = utils.plot_samples(PICTURES, TARGETS, CLASSES, per_class=3, seed=4)
    for i, image in enumerate(shown(fig)):
        source = [n for n in range(12) if (PICTURES[n] == image.get_array()).all()]
        assert TARGETS[source[0]] == i // 3
    again, other = (utils.plot_samples(PICTURES, TARGETS, CLASSES, per_class=3, seed=seed) for seed in (4, 5))
    arrays = [np.stack([image.get_array() for image in shown(f)]) for f in (fig, again, other)]
    assert (arrays[0] == arrays[1]).all() and (arrays[0] != arrays[2]).any()


def test_samples_show_what_there_is_and_grey_pictures():
    assert len(shown(utils.plot_samples(PICTURES, TARGETS, CLASSES, per_class=10))) == 12
    assert len(shown(utils.plot_samples(PICTURES[:2], [0, 0], CLASSES))) == 2
    for grey in (PICTURES[..., 0], PICTURES[..., :1]):
        array = shown(utils.plot_samples(grey, TARGETS, CLASSES))[0].get_array()
        assert (array[..., 0] == array[..., 2]).all()


def test_transforms_show_all_draws_and_the_original_once():
    draws = {"albumentations": list(PICTURES[1:4] / 255.0), "torchvision": list(PICTURES[4:7])}
    fig = utils.plot_transforms(PICTURES[0], draws)
    assert len(shown(fig)) == 7
    assert sum(np.array_equal(image.get_array(), PICTURES[0]) for image in shown(fig)) == 1


def test_model_has_a_circle_for_each_addition_and_the_twin_has_none():
    def circles(blocks):
        return [patch for patch in utils.plot_model(blocks).axes[0].patches if isinstance(patch, Circle)]

    twin = [{**block, "add": False} for block in BLOCKS]
    assert len(circles(BLOCKS)) == 2  # the fork and the addition
    assert circles(twin) == []
    layers = sum(len(block["layers"]) + len(block["residual"] or ()) for block in twin)
    assert sum(text.get_rotation() == 90 for text in utils.plot_model(twin).axes[0].texts) == layers


def test_receptive_field_bars_have_the_given_lengths():
    ax = utils.plot_receptive_field(FIELDS, input_size=32).axes[0]
    assert [bar.get_width() for bar in ax.patches] == [
        3,
        20,
        32,
        56,
    ]  # 56 pixels of 88 are beyond the picture
    assert ax.patches[-1].get_hatch() and not ax.patches[0].get_hatch()
    assert "conv2" in ax.figure.texts[0].get_text()
    assert "No layer" in utils.plot_receptive_field(FIELDS[:2]).texts[0].get_text()


def test_lr_finder_marks_the_rates_given():
    ax = utils.plot_lr_finder(RANGE_LRS, RANGE_LOSSES, RANGE_LOSSES, 2e-5, 2e-3).axes[0]
    _, smoothed, low, high, dot = ax.lines
    assert (low.get_xdata()[0], high.get_xdata()[0], dot.get_xdata()[0]) == (2e-5, 2e-3, 2e-3)
    assert low.get_linestyle() != high.get_linestyle()
    assert smoothed.get_linewidth() > ax.lines[0].get_linewidth()


def test_lr_finder_stays_readable_when_the_loss_explodes():
    losses = RANGE_LOSSES.copy()
    losses[-8:] = [1e3, 1e5, 1e7, 1e9, np.inf, np.nan, np.nan, np.nan]
    low, high = utils.plot_lr_finder(RANGE_LRS, losses, losses, 1e-5, 1e-3).axes[0].get_ylim()
    assert low < 1.3 and 2.3 < high < 4


def test_one_cycle_marks_the_peak_and_works_without_betas():
    fig = utils.plot_one_cycle(RATES, 0.96 - RATES, 5)
    assert "LRMAX = 1.00e-02 at step 10, the end of epoch 2" in words(fig)
    assert "LRMAX = 1.00e-02 at step 10, in epoch 3" in words(utils.plot_one_cycle(RATES, None, 4))
    rate, beta = (ax.lines[0].get_ydata() for ax in fig.axes)
    np.testing.assert_array_equal(rate, RATES)
    np.testing.assert_array_equal(beta, 0.96 - RATES)
    assert len(utils.plot_one_cycle(RATES[:2], None, 2).axes) == 1


def test_history_draws_the_numbers_given_the_target_and_the_reference():
    reference = {
        "label": "2023 original",
        "history": [{"epoch": 1, "test_acc": 54.9}, {"epoch": 2, "test_acc": 60.0}],
    }
    fig = utils.plot_history(HISTORY, reference=reference)
    train, test, old, target = fig.axes[1].lines
    np.testing.assert_array_equal(test.get_ydata(), [89, 90, 91])
    np.testing.assert_array_equal(old.get_ydata(), [54.9, 60.0])
    assert set(target.get_ydata()) == {90}
    assert train.get_linestyle() != test.get_linestyle() and train.get_marker() != test.get_marker()
    assert "test, 2023 original" in words(fig)
    assert fig.texts[0].get_text() == "Best test accuracy: 91.00 %, in epoch 3"


def test_history_of_one_epoch_and_of_a_run_gone_wrong():
    assert utils.plot_history(HISTORY[:1]).axes[0].lines[0].get_marker() == "o"
    wrong = [dict(row) for row in HISTORY]
    wrong[0]["test_loss"], wrong[1]["test_loss"], wrong[2]["test_acc"] = 8e6, float("nan"), float("nan")
    fig = utils.plot_history(wrong)
    assert fig.axes[0].get_ylim()[1] < 20
    assert "8e+06 ↑" in words(fig)
    assert "90.00 %, in epoch 2" in fig.texts[0].get_text()
    nothing = [{**HISTORY[0], **dict.fromkeys(("train_loss", "test_loss", "train_acc", "test_acc"), float("nan"))}]
    assert isinstance(utils.plot_history(nothing), Figure)


def test_class_accuracy_bars_are_sorted_and_as_long_as_the_accuracy():
    ax = utils.plot_class_accuracy(CONFUSION, CLASSES).axes[0]
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([90, 80, 70])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a class with qu…", "airplane", "cat"]
    assert ax.lines[0].get_xdata()[0] == pytest.approx(80)
    assert "no pictures" in words(utils.plot_class_accuracy([[1, 0], [0, 0]], ["cat", "dog"]))


def test_confusion_leaves_the_diagonal_out_of_the_colours():
    image = utils.plot_confusion(CONFUSION, CLASSES).axes[0].images[0]
    assert image.get_array().mask.diagonal().all()
    assert image.get_array()[1, 0] == pytest.approx(30)
    assert image.get_clim() == pytest.approx((0, 30))
    assert "No mistakes" in words(utils.plot_confusion(np.eye(3) * 5, CLASSES))


def test_mistakes_keep_their_order_and_stop_at_25():
    fig = utils.plot_mistakes(*MISTAKES)
    for image, picture in zip(shown(fig), PICTURES, strict=False):
        np.testing.assert_array_equal(image.get_array(), picture)
    many = [np.repeat(values, 10, axis=0) for values in MISTAKES[:4]]
    assert len(shown(utils.plot_mistakes(*many, CLASSES))) == 25


def test_mistakes_stand_beside_their_maps():
    maps = np.zeros((3, 4, 4))
    maps[:, 0, 0] = 1
    grey = np.full((3, 32, 32, 3), 128, dtype=np.uint8)
    images = [image.get_array() for image in shown(utils.plot_mistakes(grey, *MISTAKES[1:], maps=maps))]
    assert len(images) == 6
    np.testing.assert_array_equal(images[0], grey[0])
    assert images[1].shape == (32, 32, 3)
    hot, cold = images[1][0, 0], images[1][-1, -1]
    assert hot[1] > cold[1] + 0.3  # viridis: yellow where the map is high, dark violet where it is low


def test_top5_bars_are_proportional_and_ordered():
    chances = np.array([[0.05, 0.4, 0.3, 0.15, 0.06, 0.04]])
    fig = utils.plot_top5(PICTURES[:1], chances, list("abcdef"), originals=[np.zeros((60, 90, 3))])
    widths = np.array([bar.get_width() for bar in fig.axes[0].patches])
    np.testing.assert_allclose(widths / widths[0], np.array([0.4, 0.3, 0.15, 0.06, 0.05]) / 0.4)
    assert [word for word in words(fig) if word in list("abcdef")] == ["b", "c", "d", "e", "a"]
    assert shown(fig)[0].get_array().shape == (60, 90, 3)


def test_bars_show_means_seeds_and_the_reference():
    ax = utils.plot_bars(SEEDS, reference={"label": "2023 original", "value": 90.27}).axes[0]
    xs = [list(line.get_xdata()) for line in ax.lines]
    assert [92.8, 93.2] in xs and [93.0] in xs and [90.27, 90.27] in xs
    spread = [line.get_segments()[0][:, 0] for line in ax.collections if isinstance(line, LineCollection)]
    np.testing.assert_allclose(spread, [[92.8, 93.2], [91.9, 92.1]])
    assert "2023 original: 90.27 %" in words(ax.figure)


def test_curves_show_means_bands_and_the_largest_fall():
    fig = utils.plot_curves(CURVES, peak=2)
    calm, wild = fig.axes[0].lines[:2]
    np.testing.assert_allclose(calm.get_ydata(), [41, 61, 70.5, 72.5])
    np.testing.assert_allclose(wild.get_xdata(), [1, 2, 3, 4])
    assert fig.axes[0].collections[1].get_paths()[0].get_extents().y0 == 30
    assert "Largest fall in an epoch after the peak: 5.0 points (wild)" in words(fig)
    assert "Largest fall in an epoch: 20.0 points (wild)" in words(utils.plot_curves(CURVES))
    assert "No curve falls" in words(utils.plot_curves(CURVES[:1]))
    assert utils.plot_curves([dict(name="one epoch", curves=[[40.0]])], peak=1).axes


def test_the_palette_can_be_told_apart_in_black_and_white():
    grey = [np.dot(to_rgb(colour), (0.2126, 0.7152, 0.0722)) for colour in (drawing.BLUE, drawing.SKY)]
    assert abs(grey[0] - grey[1]) > 0.2


@pytest.mark.parametrize(
    ("plot", "sentence"),
    [
        (lambda: utils.plot_samples(PICTURES, TARGETS[:5], CLASSES), "equally long.*pictures 12, targets 5"),
        (lambda: utils.plot_samples([], [], CLASSES), "pictures is empty"),
        (
            lambda: utils.plot_samples(PICTURES, TARGETS + 1, CLASSES),
            "targets go from 1 to 3, but there are 3 classes",
        ),
        (
            lambda: utils.plot_samples(PICTURES.transpose(0, 3, 1, 2), TARGETS, CLASSES),
            r"shape \(3, 32, 32\)",
        ),
        (lambda: utils.plot_transforms(PICTURES[0], {}), "draws is empty"),
        (lambda: utils.plot_transforms(PICTURES[0], {"device": []}), "device.* is empty"),
        (
            lambda: utils.plot_transforms(PICTURES[0], {"device": [PICTURES[0] / 100]}),
            "undo the normalisation",
        ),
        (
            lambda: utils.plot_transforms(PICTURES[0], {"device": [np.full((8, 8), np.nan)]}),
            "from nan to nan",
        ),
        (lambda: utils.plot_model([]), "blocks is empty"),
        (lambda: utils.plot_receptive_field([]), "rows is empty"),
        (lambda: utils.plot_lr_finder([1e-3], [1, 2], [1, 2], 1e-5, 1e-3), "lrs 1, losses 2"),
        (lambda: utils.plot_lr_finder([1e-3], [1], [np.nan], 1e-5, 1e-3), "no finite loss"),
        (lambda: utils.plot_one_cycle([], None, 5), "lrs is empty"),
        (lambda: utils.plot_one_cycle(RATES, [0.9], 5), "lrs 49, betas 1"),
        (lambda: utils.plot_history([]), "history is empty"),
        (lambda: utils.plot_class_accuracy([[1, 2]], CLASSES), r"shape \(1, 2\).* must be 3 x 3"),
        (lambda: utils.plot_confusion(np.zeros((3, 3)), CLASSES), "counts 0 pictures"),
        (lambda: utils.plot_mistakes(*MISTAKES[:3], [0.9], CLASSES), "pictures 3.*confidences 1"),
        (lambda: utils.plot_mistakes(*MISTAKES, maps=np.zeros((2, 4, 4))), "maps 2"),
        (lambda: utils.plot_mistakes(PICTURES[:1], [7], [1], [0.9], CLASSES), "labels go from 7 to 7"),
        (lambda: utils.plot_top5(PICTURES[:2], CHANCES[:1], CLASSES), "pictures 2, probabilities 1"),
        (lambda: utils.plot_bars([]), "rows is empty"),
        (lambda: utils.plot_curves([]), "rows is empty"),
    ],
)
def test_bad_input_is_one_clear_sentence_and_leaves_nothing_open(plot, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        plot()
    assert "\n" not in str(caught.value)
    assert plt.get_fignums() == []
