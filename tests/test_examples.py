"""examples/: photos of your own, and next week's assignment done with the helpers as they are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import models
from dataset import CLASSES
from examples import next_week, predict
from extras.folder import read_image
from transform import MEAN, STD
from transform import test_transforms as transforms

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = dict(data="sample data, not CIFAR-10", classes=CLASSES, mean=MEAN, std=STD)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder as a run leaves it: real weights (of an untrained network), results.json; and a few
    photos.
    """
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    torch.save(models.s10_model().state_dict(), folder / "s10_model.pt")
    (folder / "results.json").write_text(json.dumps(NUMBERS))
    rng = np.random.default_rng(0)
    portrait = Image.fromarray(rng.integers(0, 256, (6, 4, 3), dtype=np.uint8)).resize((200, 300))
    portrait.save(folder / "portrait.jpg")
    portrait.convert("L").save(folder / "grey.png")
    (folder / "text.jpg").write_text("no image")
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """The run's folder again, to spoil."""
    for file in ("s10_model.pt", "results.json", "portrait.jpg", "text.jpg"):
        (tmp_path / file).write_bytes((trained / file).read_bytes())
    return tmp_path


def start(script, arguments, folder):
    command = [sys.executable, str(ROOT / "examples" / script), *arguments]
    environment = os.environ | dict(
        OMP_NUM_THREADS="1"
    )  # from another folder than the repository's
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )


def test_predict_names_five_classes_of_each_photo_and_draws_them(trained, tmp_path):
    words = [
        "portrait.jpg",
        "grey.png",
        "--weights",
        "s10_model.pt",
        "--out",
        str(tmp_path / "seen.png"),
    ]
    done = start("predict.py", words, trained)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["portrait.jpg", "grey.png"]
    for line in lines:
        five = [part.rsplit(" ", 1) for part in line.split(": ")[1].split(", ")]
        shares = [float(share.rstrip("%")) for _, share in five]
        assert len(five) == 5 and {name for name, _ in five} <= set(CLASSES)
        assert shares == sorted(shares, reverse=True) and sum(shares) <= 100.3
    with Image.open(tmp_path / "seen.png") as figure:
        assert figure.width > 1000 and figure.height > 300


def test_the_probabilities_are_those_of_the_network_on_the_test_transform(trained):
    model = models.load_weights(trained / "s10_model.pt")
    seen, originals = predict.read_photos([trained / "portrait.jpg", trained / "grey.png"])
    np.testing.assert_array_equal(seen[0], read_image(trained / "portrait.jpg"))
    assert seen.shape == (2, 32, 32, 3) and originals[0].shape == (160, 160, 3)
    with torch.inference_mode():
        expected = (
            model(torch.stack([transforms(image=image)["image"] for image in seen])).exp().numpy()
        )
    np.testing.assert_allclose(predict.predict_images(model, seen, MEAN, STD), expected, atol=1e-5)
    assert predict.read_photos([])[0].shape == (0, 32, 32, 3)  # as the notebook's cell begins


def test_upload_asks_in_colab(trained, tmp_path, monkeypatch):
    package = tmp_path / "google" / "colab"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "files.py").write_text(
        f"def upload():\n    return {{{str(trained / 'portrait.jpg')!r}: b''}}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert len(predict.read_photos("upload")[0]) == 1


SPOILT = {  # name: (the file, what becomes of it, the sentence)
    "no weights": ("s10_model.pt", None, "s10_model.pt is missing: train first"),
    "no results": ("results.json", None, "results.json is missing: train first"),
    "cut weights": ("s10_model.pt", b"PK", "s10_model.pt holds no weights of this network"),
    "other classes": (
        "results.json",
        json.dumps(NUMBERS | dict(classes="ab")).encode(),
        "holds no weights of this",
    ),
    "cut results": ("results.json", b'{"data": "CIFAR', "results.json is damaged"),
    "binary results": ("results.json", b"\xff\xfe\x00", "results.json is damaged"),
    "other results": ("results.json", b"[3]", "results.json is damaged"),
    "results without statistics": (
        "results.json",
        b'{"data": "CIFAR-10", "classes": ["a"]}',
        "results.json is damaged",
    ),
    "a broken photo": ("portrait.jpg", b"no image", "portrait.jpg"),
    "no photo": ("portrait.jpg", None, "portrait.jpg"),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_what_is_wrong_is_one_sentence(run, monkeypatch, fault):
    file, content, sentence = SPOILT[fault]
    (run / file).unlink() if content is None else (run / file).write_bytes(content)
    monkeypatch.chdir(run)
    with pytest.raises(SystemExit) as ended:
        predict.main(["portrait.jpg", "--weights", "s10_model.pt"])
    assert isinstance(ended.value.code, str)  # Python prints it and exits with 1
    assert sentence in ended.value.code and ended.value.code.startswith("predict.py: ")
    assert "\n" not in ended.value.code and not (run / "predictions.png").exists()


def test_next_week_learns_a_folder_draws_and_goes_on(tmp_path, monkeypatch, capsys):
    shapes = next_week.draw_shapes(tmp_path / "shapes", train=4, test=2)
    words = [str(shapes), "--epochs", "2", "--out", "out"]
    done = start("next_week.py", words, tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "18" in lines[0] and "64x64" in lines[0]  # of 100x80, and that is said
    assert "data: shapes, 12 training and 6 test images, 3 classes" in lines
    rates = [line.split("LR ")[1].split()[0] for line in lines if line.startswith("epoch")]
    assert rates == ["2.00e-03", "2.00e-04"]  # StepLR took it down after the first epoch
    figures = {file.name for file in (tmp_path / "out/shapes").glob("*.png")}
    assert figures >= {
        "samples.png",
        "loss_curves.png",
        "confusion_matrix.png",
        "misclassified.png",
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(next_week, "draw", lambda *_: None)
    next_week.main(words)
    assert "the run is finished" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["no-such-folder"], ["shapes", "--loader", "magic"]])
def test_next_week_says_a_sentence(tmp_path, monkeypatch, arguments):
    next_week.draw_shapes(tmp_path / "shapes", train=1, test=1)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SystemExit, match="^next_week.py: .*no-such-folder|^next_week.py: loader is 'magic'"
    ):
        next_week.main([*arguments, "--out", str(tmp_path)])
