"""Loss, accuracy, predictions and confusion are those of the whole test set, and evaluation changes
nothing.
"""

import re

import numpy as np
import pytest
import small_run
import torch
from small_run import TinyNet
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dataset
import extras.sample
import main as command
import models
from dataset import normalise_images
from test import confusion_matrix, misclassified, predict, test
from train import train


class Fixed(nn.Module):
    """Logits that are known: image i is predicted as class i % 3, ever more surely."""

    def forward(self, x):
        return nn.functional.one_hot(x[:, 0].long() % 3, 3) * (1 + x[:, :1] / 10)


INPUTS, LABELS = (
    torch.arange(10.0)[:, None],
    torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 0, 0]),
)  # 7 and 8 are wrong
LOADER = DataLoader(TensorDataset(INPUTS, LABELS), 4)


def test_an_uneven_last_batch_counts_by_its_images():
    model, expected = Fixed().train(), nn.functional.cross_entropy(Fixed()(INPUTS), LABELS)
    result = test(model, "cpu", LOADER, nn.CrossEntropyLoss())
    assert result == pytest.approx((float(expected), 80.0)) and [
        type(value) for value in result
    ] == [float, float]
    assert not model.training and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    probabilities, labels = predict(model.train(), "cpu", LOADER)
    assert not model.training and probabilities.dtype == np.float32 and labels.dtype == np.int64
    assert (
        np.allclose(probabilities, Fixed()(INPUTS).softmax(1))
        and labels.tolist() == LABELS.tolist()
    )
    assert misclassified(probabilities, labels).tolist() == [8, 7]  # the most confident first
    assert confusion_matrix(probabilities, labels).tolist() == [[4, 1, 1], [0, 2, 0], [0, 0, 2]]


def test_labels_of_one_byte_and_twenty_classes_do_not_overflow():
    labels = np.arange(20, dtype=np.uint8).repeat(2)
    assert confusion_matrix(np.eye(20)[labels], labels).tolist() == np.diag([2] * 20).tolist()
    assert misclassified(np.eye(20)[labels], labels).tolist() == []


def test_an_empty_loader_is_one_sentence():
    model, criterion = nn.Linear(1, 1), nn.CrossEntropyLoss()
    with pytest.raises(
        ValueError, match="the test loader is empty: there is nothing to evaluate on"
    ):
        test(model, "cpu", [], criterion)
    with pytest.raises(ValueError, match="the loader is empty: there is nothing to predict"):
        predict(model, "cpu", [])
    with pytest.raises(
        ValueError, match="the training loader is empty: there is nothing to learn from"
    ):
        train(model, "cpu", [], torch.optim.SGD(model.parameters()), criterion)


# --- python main.py --evaluate


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The command line around the tiny network, in an empty folder; returns a network that is a
    little trained.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "s10_model", TinyNet)
    monkeypatch.setattr(extras.sample, "draw_sample", small_run.tiny_sample)
    data, model = dataset.load("sample"), TinyNet()
    batch = (
        normalise_images(data.test.data, data.mean, data.std),
        torch.from_numpy(data.test.targets),
    )
    train(
        model,
        "cpu",
        [batch] * 5,
        torch.optim.Adam(model.parameters(), lr=0.003),
        nn.CrossEntropyLoss(),
    )
    return model, batch


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_evaluate_prints_the_accuracy_of_the_weights_and_trains_nothing(
    tiny, tmp_path, capsys, dtype
):
    model, (images, labels) = tiny
    torch.save({name: value.to(dtype) for name, value in model.state_dict().items()}, "w.pt")
    command.main(["--data", "sample", "--evaluate", "w.pt", "--precision", "float32"])
    accuracy = re.search(
        r"w.pt: test accuracy (\S+) %, loss \d.*, 100 images of sample", capsys.readouterr().out
    )[1]
    model.load_state_dict(torch.load("w.pt", weights_only=True))
    expected = (model.eval()(images).argmax(dim=1) == labels).float().mean()
    assert 0.15 < expected < 1 and float(accuracy) == pytest.approx(100 * float(expected))
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]


@pytest.mark.parametrize("content", ["nonsense", "other network"])
def test_a_file_without_weights_of_this_network_is_one_sentence(tiny, tmp_path, content):
    torch.save({"w": torch.zeros(3)}, "w.pt")
    if content == "nonsense":
        (tmp_path / "w.pt").write_text(content)
    with pytest.raises(SystemExit) as end:
        command.main(["--data", "sample", "--evaluate", "w.pt"])
    assert end.value.code.startswith(
        "main.py: w.pt holds no weights of this network with 10 classes"
    )
    assert "\n" not in end.value.code
