"""Loss, accuracy, predictions and confusion are those of the whole test set."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import small_run
import torch
from small_run import TinyNet
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

import dataset
import extras.sample
import main as command
import models
from dataset import DeviceLoader, SeededLoader, normalise_images
from test import confusion_matrix, misclassified, predict, test, top_k
from train import train


class Fixed(nn.Module):
    """Logits that are known: image i is predicted as class i % 3, ever more surely."""

    def forward(self, x):
        return nn.functional.one_hot(x[:, 0].long() % 3, 3) * (1 + x[:, :1] / 10)


INPUTS = torch.arange(10.0)[:, None]
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 0, 0])  # 7 and 8 are wrong
LOADER = DataLoader(TensorDataset(INPUTS, LABELS), 4)


def test_an_uneven_last_batch_counts_by_its_images():
    expected = nn.functional.cross_entropy(Fixed()(INPUTS), LABELS)
    model = Fixed().train()
    result = test(model, "cpu", LOADER, nn.CrossEntropyLoss())
    assert result == pytest.approx((float(expected), 80.0))
    assert [type(value) for value in result] == [float, float]
    assert not model.training
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_predictions_are_in_the_loaders_order_and_mistakes_begin_with_the_surest():
    model = Fixed().train()
    probabilities, labels = predict(model, "cpu", LOADER)
    assert not model.training
    assert (probabilities.dtype, labels.dtype) == (np.float32, np.int64)
    np.testing.assert_allclose(probabilities, Fixed()(INPUTS).softmax(1), rtol=1e-6)
    assert labels.tolist() == LABELS.tolist()
    assert misclassified(probabilities, labels).tolist() == [8, 7]
    assert confusion_matrix(probabilities, labels).tolist() == [[4, 1, 1], [0, 2, 0], [0, 0, 2]]


def test_labels_of_one_byte_and_twenty_classes_do_not_overflow():
    labels = np.arange(20, dtype=np.uint8).repeat(2)
    assert confusion_matrix(np.eye(20)[labels], labels).tolist() == np.diag([2] * 20).tolist()
    assert misclassified(np.eye(20)[labels], labels).tolist() == []


def test_top_k_counts_labels_among_the_k_likeliest():
    probabilities = np.random.default_rng(0).random((40, 7))
    labels = np.arange(40) % 7
    for k in (1, 2, 5, 7):
        hits = [
            label in sorted(range(7), key=lambda c: -row[c])[:k]
            for row, label in zip(probabilities, labels, strict=True)
        ]
        assert top_k(probabilities, labels, k) == pytest.approx(100 * sum(hits) / 40)
    assert top_k(probabilities, labels) == top_k(probabilities, labels, 5)
    assert top_k(probabilities, labels, 1) == 100 * (probabilities.argmax(1) == labels).mean()


def image_loader(n=20, batch_size=8, **options):
    images = torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(images, torch.arange(n) % 10), batch_size, **options)


def test_the_mirror_image_is_averaged_in_by_its_probabilities():
    model = TinyNet()
    train(model, "cpu", image_loader(), torch.optim.SGD(model.parameters(), 0.1), nn.NLLLoss())
    probabilities, _ = predict(model, "cpu", image_loader(), mirrored=True)
    images, _ = image_loader().dataset.tensors
    mirror_images = images.numpy()[:, :, :, ::-1].copy()  # left becomes right
    with torch.no_grad():
        views = [model(images).exp(), model(torch.from_numpy(mirror_images)).exp()]
    np.testing.assert_allclose(probabilities, sum(views) / 2, rtol=1e-5)
    assert np.abs(probabilities - views[0].numpy()).max() > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_test_and_predict_compute_in_the_precision(dtype):
    model, dtypes = TinyNet(), []
    model[0].register_forward_hook(lambda layer, inputs, output: dtypes.append(output.dtype))
    loss, _ = test(model, "cpu", image_loader(), nn.CrossEntropyLoss(), dtype=dtype)
    probabilities, _ = predict(model, "cpu", image_loader(), dtype=dtype, mirrored=True)
    assert dtypes == [dtype] * 9
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)  # softmax in float32


# --- what has no accuracy is refused: it was counted, and believed


def calls(output, labels, n=4):
    """train, test and predict on one batch, with a model that gives this output."""

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return output * self.scale

    model, loader = Constant(), [(torch.zeros(n, 1), labels)]

    def criterion(output, labels):
        return output.mean()

    optimizer = torch.optim.SGD(model.parameters())
    return [
        lambda: train(model, "cpu", loader, optimizer, criterion),
        lambda: test(model, "cpu", loader, criterion),
        lambda: predict(model, "cpu", loader),
    ]


@pytest.mark.parametrize(
    ("output", "labels", "value"),
    [
        (torch.zeros(4, 1), torch.zeros(4, 1), r"\(4, 1\) and \(4, 1\)"),  # regression
        (torch.zeros(4, 1), torch.zeros(4, dtype=torch.long), r"\(4, 1\) and \(4,\)"),  # binary
        (torch.zeros(4), torch.zeros(4), r"\(4,\) and \(4,\)"),
        (torch.zeros(4, 10), torch.zeros(4, 1, dtype=torch.long), r"\(4, 1\)"),  # no squeeze
        (torch.zeros(4, 10), torch.full((4, 10), 0.1), r"\(4, 10\) and \(4, 10\)"),  # MixUp
        (torch.zeros(4, 4), torch.ones(4, 4), r"\(4, 4\) and \(4, 4\)"),  # multi-label
        (torch.zeros(4, 10), torch.ones(4), "float32"),
        (torch.zeros(4, 10, 8, 8), torch.zeros(4, 8, 8).long(), r"\(4, 10, 8, 8\)"),  # pixels
        (torch.zeros(5, 10), torch.zeros(4).long(), r"\(5, 10\) and \(4,\)"),
    ],
)
def test_what_is_no_classifier_is_refused_with_its_shapes(output, labels, value):
    for call in calls(output, labels):
        with pytest.raises(ValueError, match=value):
            call()


def test_class_indices_of_any_whole_type_are_counted():
    output = torch.eye(3)[[0, 1, 2, 0]]
    for dtype in (torch.uint8, torch.int32, torch.int64):
        train_call, test_call, predict_call = calls(output, torch.tensor([0, 1, 1, 0], dtype=dtype))
        assert train_call()[1] == test_call()[1] == 75
        assert predict_call()[1].tolist() == [0, 1, 1, 0]


def test_an_empty_loader_is_one_sentence():
    model = nn.Linear(1, 1)
    parts = model, "cpu", []
    with pytest.raises(ValueError, match="test loader is empty"):
        test(*parts, nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match="loader is empty"):
        predict(*parts)
    with pytest.raises(ValueError, match="training loader is empty"):
        train(*parts, torch.optim.SGD(model.parameters()), nn.CrossEntropyLoss())


def array_dataset():
    images, labels = small_run.tiny_sample()
    return dataset.ArrayDataset(images, labels, [str(label) for label in range(10)])


def shuffled_loaders():
    tensors = image_loader().dataset
    return {
        "DataLoader": DataLoader(tensors, 8, shuffle=True),
        "SubsetRandomSampler": DataLoader(tensors, 8, sampler=SubsetRandomSampler(range(20))),
        "BatchSampler": DataLoader(
            tensors, batch_sampler=BatchSampler(RandomSampler(tensors), 8, drop_last=False)
        ),
        "DistributedSampler": DataLoader(tensors, 8, sampler=DistributedSampler(tensors, 2, 0)),
        "SeededLoader": SeededLoader(tensors, batch_size=8, shuffle=True),
        "DeviceLoader": DeviceLoader(array_dataset(), 10, train=True),
    }


@pytest.mark.parametrize("name", list(shuffled_loaders()))
def test_a_loader_that_shuffles_is_refused_by_predict(name):
    with pytest.raises(ValueError, match="shuffle"):
        predict(TinyNet(), "cpu", shuffled_loaders()[name])


def test_loaders_in_order_are_taken_by_predict():
    tensors = image_loader().dataset
    for loader, n in (
        (DataLoader(tensors, 8), 20),
        (DataLoader(Subset(tensors, range(5)), 8), 5),
        (SeededLoader(tensors, batch_size=8), 20),
        (DeviceLoader(array_dataset(), 30, train=False), 100),
    ):
        assert len(predict(TinyNet(), "cpu", loader)[1]) == n


# --- python main.py --evaluate


class TinyResidual(TinyNet):
    """The tiny network, with the arguments of CustomResNet."""

    def __init__(self, num_classes=10, residual=True):
        super().__init__(num_classes)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The command line around the tiny network, in an empty folder with trained weights, w.pt."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "CustomResNet", TinyResidual)
    monkeypatch.setattr(extras.sample, "draw_sample", small_run.tiny_sample)
    data, model = dataset.load("sample"), TinyNet()
    images = normalise_images(data.test.data, data.mean, data.std)
    labels = torch.from_numpy(data.test.targets)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    train(model, "cpu", [(images, labels)] * 2, optimizer, nn.CrossEntropyLoss())
    torch.save(model.state_dict(), "w.pt")
    about = {
        "network": "s10_model",
        "classes": list(data.classes),
        "mean": list(data.mean),
        "std": list(data.std),
    }
    (tmp_path / "results.json").write_text(json.dumps(about), encoding="utf-8")
    return model.eval(), images, labels


def evaluate(*arguments):
    command.main(
        ["--data", "sample", "--evaluate", "w.pt", "--precision", "float32", "--device", "cpu"]
        + list(arguments)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_evaluate_prints_both_accuracies_of_the_weights_and_trains_nothing(
    tiny, tmp_path, capsys, dtype
):
    model, images, labels = tiny
    torch.save({name: value.to(dtype) for name, value in model.state_dict().items()}, "w.pt")
    evaluate()
    printed = capsys.readouterr().out
    model.load_state_dict(torch.load("w.pt", weights_only=True))
    with torch.no_grad():
        plain = model(images)
        mirrored = plain.exp() + model(images.flip(-1)).exp()
    for pattern, output in ((r"accuracy (\S+) %", plain), (r"mirror.* (\S+) %", mirrored)):
        expected = 100 * (output.argmax(dim=1) == labels).double().mean()
        assert 15 < expected < 100
        assert float(re.search(pattern, printed)[1]) == pytest.approx(float(expected))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "w.pt"]


def change_results(**values):
    results = Path("results.json")
    about = json.loads(results.read_text(encoding="utf-8"))
    results.write_text(json.dumps({**about, **values}), encoding="utf-8")


def test_images_are_normalised_as_in_the_training_whatever_this_folder_has(tiny, capsys):
    model, images, labels = tiny
    change_results(mean=[0.9, 0.1, 0.5], std=[0.1, 0.2, 0.9])
    evaluate()
    data = dataset.load("sample")
    other = normalise_images(data.test.data, [0.9, 0.1, 0.5], [0.1, 0.2, 0.9])
    with torch.no_grad():
        expected = 100 * (model(other).argmax(dim=1) == labels).double().mean()
        before = 100 * (model(images).argmax(dim=1) == labels).double().mean()
    printed = float(re.search(r"accuracy (\S+) %", capsys.readouterr().out)[1])
    assert printed == pytest.approx(float(expected))
    assert printed != pytest.approx(float(before))


@pytest.mark.parametrize(
    ("spoil", "value"),
    [
        (lambda: Path("w.pt").write_bytes(b"nonsense"), "w.pt"),
        (lambda: torch.save({"w": torch.zeros(3)}, "w.pt"), "w.pt"),
        (lambda: change_results(classes=[f"c{i}" for i in range(10)]), "c9"),
        (lambda: change_results(network="resnet18"), "resnet18"),
        (lambda: Path("results.json").unlink(), "results.json"),
    ],
)
def test_weights_that_are_not_those_of_these_images_are_one_sentence(tiny, spoil, value):
    spoil()
    with pytest.raises(SystemExit) as end:
        evaluate()
    assert value in end.value.code
    assert "\n" not in end.value.code
