"""Your own pictures: `python test.py PICTURE …`, and the functions that the notebook's cell shares with it."""

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
import test
import utils
from dataset import CLASSES
from picture import read_picture
from transform import MEAN, STD
from transform import test_transforms as transforms

ROOT = Path(__file__).parents[1]
NUMBERS = dict(data="sample data, not CIFAR-10", classes=CLASSES, mean=MEAN, std=STD, model="CustomResNet")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder as a run leaves it: real weights (of an untrained network), results.json, and a few photos."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    torch.save(models.s10_model().state_dict(), folder / "s10_model.pt")
    (folder / "results.json").write_text(json.dumps(NUMBERS))
    rng = np.random.default_rng(0)
    portrait = Image.fromarray(rng.integers(0, 256, (6, 4, 3), dtype=np.uint8)).resize((200, 300))
    portrait.save(folder / "portrait.jpg")
    portrait.convert("L").save(folder / "grey.png")
    faded = portrait.copy()
    faded.putalpha(100)
    faded.save(folder / "faded.png")
    (folder / "text.jpg").write_text("no picture")
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """The run's folder again, to spoil."""
    for file in ("s10_model.pt", "results.json"):
        (tmp_path / file).hardlink_to(trained / file)
    return tmp_path


def replace(path, content):
    path.unlink()  # the link only
    path.write_bytes(content)


def test_a_real_command_names_five_classes_draws_them_and_says_what_is_wrong(trained):
    words = ["portrait.jpg", "grey.png", "none.jpg", "faded.png", "text.jpg"]
    command = [sys.executable, str(ROOT / "test.py"), *words, "--weights", "s10_model.pt"]
    environment = os.environ | dict(OMP_NUM_THREADS="1")
    done = subprocess.run(command, cwd=trained, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1  # two were left out
    assert done.stderr.splitlines() == [
        "left out: none.jpg does not exist.",
        "left out: text.jpg is not a picture, or not one of JPEG, PNG, WEBP, BMP, GIF, TIFF, PPM.",
    ]
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["portrait.jpg", "grey.png", "faded.png", "figure"]
    for line in lines[:3]:
        five = [part.rsplit(" ", 1) for part in line.split(": ")[1].split(", ")]
        shares = [float(share.rstrip("%")) for _, share in five]
        assert len(five) == 5 and {name for name, _ in five} <= set(CLASSES)
        assert shares == sorted(shares, reverse=True) and sum(shares) <= 100.2
    with Image.open(trained / "own_pictures.png") as figure:
        assert figure.width > 1000 and figure.height > 300


def test_all_good_is_exit_code_0(trained, capsys):
    test.main([str(trained / "portrait.jpg"), "--weights", str(trained / "s10_model.pt")])
    assert capsys.readouterr().err == ""


def test_the_numbers_are_those_of_the_network_on_the_test_transform(trained):
    model, _ = test.load_run(trained / "s10_model.pt")
    seen = read_picture(trained / "portrait.jpg")
    with torch.inference_mode():
        expected = model.eval()(transforms(image=seen)["image"][None]).exp().numpy()
    np.testing.assert_allclose(test.classify(model, seen[None], MEAN, STD), expected, atol=1e-5)


def test_classify_takes_any_model_size_and_number_of_pictures():
    class Brightness(torch.nn.Module):
        def forward(self, x):
            return torch.stack([x.mean(dim=(1, 2, 3)), -x.mean(dim=(1, 2, 3))], dim=1)

    pictures = np.zeros((501, 8, 8, 3), np.uint8)
    pictures[300:] = 255
    chances = test.classify(Brightness(), pictures, (0.5,) * 3, (0.5,) * 3)
    assert chances.shape == (501, 2)
    np.testing.assert_allclose(chances[[0, 300], 0], [1 / (1 + np.e**2), 1 / (1 + np.e**-2)], rtol=1e-5)
    assert (chances[:300, 0] < 0.5).all() and (chances[300:, 0] > 0.5).all()


def test_photos_are_read_as_the_network_and_as_people_see_them(trained):
    said = []
    paths, seen, originals = test.read_photos([trained / "portrait.jpg", trained / "none.jpg"], log=said.append)
    assert paths == [trained / "portrait.jpg"] and len(said) == 1 and said[0].endswith("none.jpg does not exist.")
    np.testing.assert_array_equal(seen, read_picture(trained / "portrait.jpg")[None])
    assert originals[0].shape == (160, 160, 3)
    assert test.read_photos(str(trained / "portrait.jpg"))[0] == [str(trained / "portrait.jpg")]  # one path, no list


def test_of_very_many_pictures_the_first_fifty_are_drawn_and_that_is_said():
    many, chances = np.zeros((51, 32, 32, 3), np.uint8), np.full((51, 2), 0.5)
    figure = utils.plot_top5(many, chances, ["a", "b"], originals=many)
    assert len(figure.axes[0].images) == 100 and "(the first 50 of 51)" in figure.texts[0].get_text()


def test_no_photo_is_no_error():
    paths, seen, originals = test.read_photos([])
    assert (paths, seen.shape, originals) == ([], (0, 32, 32, 3), [])


def test_upload_asks_in_colab_and_says_a_sentence_elsewhere(trained, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match='"upload" works in Colab only: give a list of paths'):
        test.read_photos("upload")
    package = tmp_path / "google" / "colab"
    package.mkdir(parents=True)
    photo = str(trained / "portrait.jpg")
    (package / "files.py").write_text(f"def upload():\n    return {{{photo!r}: b''}}\n")
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert test.read_photos("upload")[0] == [photo]


def no_weights(folder):
    (folder / "s10_model.pt").unlink()


def no_results(folder):
    (folder / "results.json").unlink()


def other_network(folder):
    (folder / "s10_model.pt").unlink()
    torch.save(torch.nn.Linear(2, 2).state_dict(), folder / "s10_model.pt")


def other_classes(folder):
    replace(folder / "results.json", json.dumps(NUMBERS | dict(classes=["a", "b"])).encode())


def cut_weights(folder):
    replace(folder / "s10_model.pt", (folder / "s10_model.pt").read_bytes()[:1000])


def damaged_results(folder):
    replace(folder / "results.json", b'{"data": "CIFAR')


def binary_results(folder):
    replace(folder / "results.json", b"\xff\xfe\x00")


def number_as_results(folder):
    replace(folder / "results.json", b"3")


def results_without_keys(folder):
    replace(folder / "results.json", b'{"data": "CIFAR-10", "classes": ["a", "b"]}')


SENTENCES = {
    no_weights: "s10_model.pt is missing: train first",
    no_results: "results.json is missing: train first",
    other_network: "s10_model.pt holds no weights of this network",
    other_classes: "s10_model.pt holds no weights of this network",
    cut_weights: "s10_model.pt holds no weights of this network",
    damaged_results: "results.json is damaged",
    binary_results: "results.json is damaged",
    number_as_results: "results.json is damaged",
    results_without_keys: "results.json has no mean, std: train again",
}


@pytest.mark.parametrize("spoil", SENTENCES, ids=lambda spoil: spoil.__name__)
def test_what_is_wrong_beside_the_weights_is_one_sentence(run, trained, spoil):
    spoil(run)
    with pytest.raises(SystemExit) as ended:
        test.main([str(trained / "portrait.jpg"), "--weights", str(run / "s10_model.pt")])
    assert isinstance(ended.value.code, str)  # Python prints it and exits with 1
    assert SENTENCES[spoil] in ended.value.code and ended.value.code.startswith("test.py: ")
    assert "\n" not in ended.value.code


def test_a_figure_that_cannot_be_written_costs_no_words(run, trained, capsys):
    (run / "own_pictures.png").mkdir()
    test.main([str(trained / "portrait.jpg"), "--weights", str(run / "s10_model.pt")])
    words = capsys.readouterr().out.splitlines()
    assert "portrait.jpg: " in words[0] and "own_pictures.png (Is a directory)" in words[1] and len(words) == 2


def test_only_wrong_pictures_is_exit_code_1_without_a_figure(run, trained, capsys):
    with pytest.raises(SystemExit) as ended:
        test.main([str(trained / "text.jpg"), "--weights", str(run / "s10_model.pt")])
    assert ended.value.code == 1 and not (run / "own_pictures.png").exists()
    assert "text.jpg is not a picture" in capsys.readouterr().err


def test_weights_of_the_twin_are_run_in_the_twin(run):
    replace(run / "results.json", json.dumps(NUMBERS | dict(model="CustomResNet without additions")).encode())
    assert not test.load_run(run / "s10_model.pt")[0].additions
    old = {key: value for key, value in NUMBERS.items() if key != "model"}  # a run from before it was noted
    replace(run / "results.json", json.dumps(old).encode())
    assert test.load_run(run / "s10_model.pt")[0].additions
