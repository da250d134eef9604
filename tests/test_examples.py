"""examples/: your own photos, next week's assignment, and the whole assignment in one file."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import models
import train
from dataset import CLASSES
from examples import minimal, next_week, predict
from extras.folder import read_image

ROOT = Path(__file__).resolve().parents[1]
# Of a run on another data set: nothing of CIFAR-10's may be taken instead
MEAN, STD = (0.2, 0.5, 0.7), (0.3, 0.15, 0.4)
NAMES = tuple("abcdefg")
NUMBERS = dict(data="letters", network="s10_plain", classes=NAMES, mean=MEAN, std=STD)


@pytest.fixture
def run(tmp_path):
    """A folder as a run leaves it, with a photo in it."""
    torch.manual_seed(0)
    model = models.s10_plain(len(NAMES))
    with torch.no_grad():
        model.fc.weight.mul_(1000)  # so that the probabilities differ from one another
    torch.save(model.state_dict(), tmp_path / "s10_model.pt")
    (tmp_path / "results.json").write_text(json.dumps(NUMBERS), encoding="utf-8")
    noise = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((200, 300)).save(tmp_path / "portrait.jpg")
    (tmp_path / "text.jpg").write_text("no image", encoding="utf-8")
    return tmp_path


def start(script, arguments, folder):
    """Start an example from another folder than the repository's."""
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), *arguments],
        cwd=folder,
        env=os.environ | dict(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=600,
    )


def shares(line):
    """{class: percentage} of a printed line."""
    parts = [part.rsplit(" ", 1) for part in line.strip().rsplit(": ", 1)[1].split(", ")]
    return {name: float(share.rstrip("%")) for name, share in parts}


def test_without_arguments_predict_recognises_the_photo_beside_it(tmp_path):
    done = start("predict.py", [], tmp_path)
    assert done.returncode == 0, done.stderr
    found = shares(done.stdout)
    assert next(iter(found)) == "cat" and set(found) < set(CLASSES) and len(found) == 5
    with Image.open(tmp_path / "predictions.png") as figure:
        assert figure.width > 1000 and figure.height > 300


def test_the_probabilities_are_those_of_the_run_s_network_and_statistics(run, monkeypatch, capsys):
    monkeypatch.chdir(run)
    predict.main(["portrait.jpg", "--weights", "s10_model.pt"])
    line = capsys.readouterr().out.splitlines()[-1]

    model = models.CustomResNet(len(NAMES), residual=False).eval()
    model.load_state_dict(torch.load("s10_model.pt"))
    pixels = torch.from_numpy(read_image("portrait.jpg") / 255).float()
    image = ((pixels - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)
    with torch.inference_mode():
        expected = model(image[None]).exp()[0].sort(descending=True)
    best = {NAMES[i]: 100 * p for p, i in zip(expected[0], expected[1].tolist(), strict=True)}
    assert line.startswith("portrait.jpg: ")
    assert list(shares(line)) == list(best)[:5]
    for name, share in shares(line).items():
        assert share == pytest.approx(float(best[name]), abs=0.06)


def test_photos_are_a_path_a_list_of_paths_none_or_an_upload(run, tmp_path, monkeypatch):
    photo = run / "portrait.jpg"
    package = tmp_path / "google" / "colab"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("", encoding="utf-8")
    uploaded = f"def upload():\n    return {{{str(photo)!r}: b''}}\n"
    (package / "files.py").write_text(uploaded, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for photos in (photo, str(photo), [photo], "upload"):
        seen, originals = predict.read_photos(photos)
        np.testing.assert_array_equal(seen, [read_image(photo)])
        assert len(originals) == 1 and originals[0].shape == (160, 160, 3)
    assert predict.read_photos([])[0].shape == (0, 32, 32, 3)  # as the notebook's cell begins


def test_the_figure_shows_photos_bars_and_percentages(run):
    images, originals = predict.read_photos([run / "portrait.jpg"] * 2)
    chances = [[0.1, 0.3, 0.2, 0.15, 0.05, 0.2], [0.95, 0.01, 0.01, 0.01, 0.01, 0.01]]
    classes = ["a" * 30, "$b^^$", "c", "d", "e", "f"]
    fig = predict.plot_predictions(images, chances, classes, originals=originals)
    assert len(fig.axes) == 6 and len(predict.plot_predictions(images, chances, classes).axes) == 4
    bars = fig.axes[2].patches
    assert [bar.get_width() for bar in bars] == [0.3, 0.2, 0.2, 0.15, 0.1]
    assert fig.axes[2].get_yticklabels()[0].get_text() == "$b^^$"
    np.testing.assert_array_equal(fig.axes[1].images[0].get_array(), images[0])
    np.testing.assert_array_equal(fig.axes[3].images[0].get_array(), originals[1])
    with pytest.raises(ValueError, match="images"):
        predict.plot_predictions(images[:0], [], classes)
    with pytest.raises(ValueError, match="probabilities"):  # logits
        predict.plot_predictions(images, [[4.0, -1, 0, 0, 0, 0]] * 2, classes)


SPOILT = {  # name: (the file, what becomes of it)
    "no weights": ("s10_model.pt", None),
    "no results": ("results.json", None),
    "cut weights": ("s10_model.pt", b"PK"),
    "more classes": ("results.json", json.dumps(NUMBERS | dict(classes="abcdefgh")).encode()),
    "no statistics": ("results.json", b'{"network": "s10_plain", "classes": ["a", "b"]}'),
    "another network": ("results.json", json.dumps(NUMBERS | dict(network="LeNet")).encode()),
    "binary results": ("results.json", b"\xff\xfe\x00"),
    "a broken photo": ("portrait.jpg", b"no image"),
    "no photo": ("portrait.jpg", None),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_what_is_wrong_is_one_sentence_that_names_the_file(run, monkeypatch, fault):
    file, content = SPOILT[fault]
    if content is None:
        (run / file).unlink()
    else:
        (run / file).write_bytes(content)
    monkeypatch.chdir(run)
    with pytest.raises(SystemExit) as ended:
        predict.main(["portrait.jpg", "--weights", "s10_model.pt"])
    message = ended.value.code
    assert isinstance(message, str)  # Python prints it and exits with 1
    assert "\n" not in message and (file in message or "s10_model.pt" in message)
    assert not (run / "predictions.png").exists()


def test_next_week_learns_a_folder_draws_and_goes_on(tmp_path, monkeypatch, capsys):
    shapes = next_week.draw_shapes(tmp_path / "shapes", train=4, test=2)
    words = [str(shapes), "--epochs", "2", "--out", "out"]
    done = start("next_week.py", words, tmp_path)
    assert done.returncode == 0, done.stderr
    rates = [line.split("LR ")[1].split()[0] for line in done.stdout.splitlines() if " LR " in line]
    assert rates == ["2.00e-03", "2.00e-04"]  # StepLR took it down after the first epoch
    figures = {file.stem for file in (tmp_path / "out/shapes").glob("*.png")}
    assert figures >= {"samples", "loss_curves", "confusion_matrix", "misclassified"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(next_week, "draw", lambda *_: None)
    monkeypatch.setattr("train.train", None)  # nothing is trained again
    next_week.main(words)
    assert "epoch 2/2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "value"),
    [(["no-folder"], "no-folder"), (["shapes", "--loader", "magic"], "magic")],
)
def test_next_week_says_a_sentence(tmp_path, monkeypatch, arguments, value):
    next_week.draw_shapes(tmp_path / "shapes", train=1, test=1)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"^next_week.py: .*{value}"):
        next_week.main([*arguments, "--out", str(tmp_path)])


# minimal.py: the whole assignment in 100 lines


class FewImages(torch.utils.data.Dataset):
    """torchvision's CIFAR10, of which minimal.py uses this much, with noise in it."""

    def __init__(self, root, train, transform, *_):
        n = 23 if train else 10
        self.data = np.random.default_rng(n).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
        self.targets = [i % 10 for i in range(n)]
        self.transform = transform
        self.classes = list(CLASSES)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


class Recorded(nn.CrossEntropyLoss):
    """A criterion that keeps every loss."""

    def __init__(self, losses, **options):
        super().__init__(**options)
        self.losses = losses

    def forward(self, output, labels):
        loss = super().forward(output, labels)
        self.losses.append(loss.item())
        return loss


class GivenBatches:
    """A loader of batches that were recorded; each pass takes the next epoch's."""

    def __init__(self, batches, steps):
        self.batches = iter(batches)
        self.steps = steps

    def __len__(self):
        return self.steps

    def __iter__(self):
        return (next(self.batches) for _ in range(self.steps))


def test_minimal_has_100_lines_and_needs_nothing_of_ours():
    text = (ROOT / "examples/minimal.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 100
    ours = {path.stem for path in [*ROOT.glob("*.py"), ROOT / "extras", ROOT / "experiments"]}
    imported = re.findall(r"^(?:import|from) (\w+)", text, flags=re.MULTILINE)
    assert len(imported) == 10 and not ours & set(imported)


def test_minimal_and_fit_have_the_same_losses_on_the_same_batches(tmp_path, monkeypatch, capsys):
    """Both channels last: Adam's first steps make much of a rounding error in a tiny gradient."""
    rates = (1e-4, 4e-3)
    state, batches, losses = {}, [], []

    def network():
        model = made().to(memory_format=torch.channels_last)
        state.update({name: value.clone() for name, value in model.state_dict().items()})
        model.register_forward_pre_hook(keep_batch)
        return model

    def keep_batch(model, inputs):
        images = inputs[0].contiguous(memory_format=torch.channels_last)
        if model.training:
            batches.append([images])
        return images

    class Finder(minimal.LRFinder):
        def range_test(self, *args, **options):
            super().range_test(*args, num_iter=3, **options)  # it changes weights and statistics

        def reset(self):
            super().reset()
            batches.clear()
            losses.clear()

    class Criterion(Recorded):
        def __init__(self, **options):
            super().__init__(losses, **options)

        def forward(self, output, labels):
            batches[-1].append(labels)
            return super().forward(output, labels)

    made = minimal.network
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(minimal, "EPOCHS", 2)
    monkeypatch.setattr(minimal, "BATCH_SIZE", 2)
    monkeypatch.setattr(minimal, "CIFAR10", FewImages)
    monkeypatch.setattr(minimal, "LRFinder", Finder)
    monkeypatch.setattr(minimal, "network", network)
    monkeypatch.setattr(minimal, "read_rates", lambda lrs, losses: rates)
    monkeypatch.setattr(minimal.nn, "CrossEntropyLoss", Criterion)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    minimal.main()
    monkeypatch.undo()
    assert "epoch 2" in capsys.readouterr().out and (tmp_path / "misclassified_images.png").exists()

    model = models.s10_model().to(memory_format=torch.channels_last)
    assert [v.shape for v in state.values()] == [v.shape for v in model.state_dict().values()]
    model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
    bound = 512**-0.5 / 8  # PyTorch draws between -1/√512 and 1/√512
    assert model.fc.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    optimizer = train.make_optimizer(model)
    ours = []
    train.fit(
        model,
        "cpu",
        GivenBatches(batches, 12),
        optimizer,
        Recorded(ours, label_smoothing=train.RECIPE["label_smoothing"]),
        train.one_cycle(optimizer, rates[1], 12, epochs=2, lr_min=rates[0]),
        epochs=2,
        evaluate=lambda: (1.0, 50.0),
    )
    assert len(losses) == 24
    assert losses == ours


def test_minimal_augments_as_transform_does():
    """A ruled image shows its crop and its hole: the same ones are possible in both."""
    import transform

    ruled = np.zeros((32, 32, 3), np.uint8)
    ruled[..., 0], ruled[..., 1] = np.arange(32) * 8, np.arange(32)[:, None] * 8
    steps = minimal.A.Compose(
        [minimal.PAD, minimal.A.RandomCrop(32, 32), minimal.HOLE, *minimal.NORMALISE]
    )
    padded = np.pad(ruled, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    windows = [padded[y : y + 32, x : x + 32] for y in range(9) for x in range(9)]
    normalised = [transform.test_transforms(image=window)["image"] for window in windows]
    holes = set()
    for _ in range(40):
        image = steps(image=ruled)["image"]
        distance = torch.stack([(image - window).abs().amax(dim=0) for window in normalised])
        differs = distance[(distance > 1e-3).sum(dim=(1, 2)).argmin()] > 1e-3
        rows, columns = torch.nonzero(differs, as_tuple=True)
        assert rows.max() - rows.min() <= 7 and columns.max() - columns.min() <= 7
        assert image[:, differs].abs().max() < 0.012  # the mean colour, rounded to uint8
        holes.add((rows.min().item(), columns.min().item()))
    assert len(holes) > 20


@pytest.mark.parametrize("first", [2.2, 4.0])
def test_minimal_reads_both_rates_by_the_rule(first):
    """Straight lines with level pieces between them, which smoothing leaves as they are.

    The fall counts from guessing at most: what an over-confident head forgets is not learning.
    """
    lrs = np.geomspace(1e-6, 1, 400)
    level = min(first, math.log(10))
    corners = [(-6, first), (-5.6, first), (-5.5, level), (-4.9, level), (-4, 1.2), (-3, 1.2)]
    powers, heights = zip(*corners, (-1, 2.2), (0, 9.0), strict=True)
    found = minimal.read_rates(lrs, np.interp(np.log10(lrs), powers, heights))

    fifth = (level - 1.2) / 5
    slope = (level - 1.2) / 0.9
    take_off = 10 ** (-3 + 2 * fifth)  # the loss climbs by 1 in two powers of ten
    assert found[0] == pytest.approx(10 ** (-4.9 + fifth / slope), rel=0.06)
    assert found[1] == pytest.approx(take_off / 2, rel=0.06)
