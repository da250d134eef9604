"""The network is that of the assignment, layer by layer, and its weights are loaded right."""

import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from extras.checkpoint import Checkpoint
from models import (
    CustomResNet,
    about_weights,
    count_parameters,
    load_weights,
    s10_model,
    s10_plain,
)

BLOCK = ["Conv2d", "BatchNorm2d", "ReLU"]
POOLED = ["Conv2d", "MaxPool2d", "BatchNorm2d", "ReLU"]
STAGES = {  # layers, and the shape of the output for an image of 32x32
    "prep_layer": (BLOCK, (64, 32, 32)),
    "layer1": (POOLED, (128, 16, 16)),
    "resblock1": (BLOCK + BLOCK, (128, 16, 16)),
    "layer2": (POOLED, (256, 8, 8)),
    "layer3": (POOLED, (512, 4, 4)),
    "resblock2": (BLOCK + BLOCK, (512, 4, 4)),
    "pool": (["MaxPool2d"], (512, 1, 1)),
    "flatten": (["Flatten"], (512,)),
    "fc": (["Linear"], (10,)),
    "softmax": (["LogSoftmax"], (10,)),
}


@pytest.fixture(scope="module")
def model():
    """The network with BatchNorms as after some training: now the order of layers matters."""
    model = s10_model()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            # negative ones too: with them BatchNorm and MaxPool do not commute
            nn.init.normal_(layer.weight, std=1.5)
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return model.eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def watch(model, names):
    """Keep the output of some modules: {name: output}, in the order of computation."""
    seen = {}
    for name in names:
        layer = model.get_submodule(name)
        layer.register_forward_hook(
            lambda _layer, _inputs, output, name=name: seen.update({name: output.clone()})
        )
    return seen


@torch.no_grad()
def test_layers_and_shapes_are_those_of_the_assignment_in_the_order_of_computation(model, images):
    assert [name for name, _ in model.named_children()] == list(STAGES)
    watched = copy.deepcopy(model)
    seen = watch(watched, STAGES)
    watched(images)
    assert list(seen) == list(STAGES)
    for name, (layers, shape) in STAGES.items():
        part = model.get_submodule(name)
        assert [type(layer).__name__ for layer in (part if len(layers) > 1 else [part])] == layers
        assert seen[name].shape[1:] == shape
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            assert (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (1, 1), (1, 1))
        assert isinstance(layer, nn.BatchNorm2d) or getattr(layer, "bias", None) is None
    assert [layer.kernel_size for layer in model.modules() if isinstance(layer, nn.MaxPool2d)] == [
        2,
        2,
        2,
        4,
    ]


def by_hand(state, x, residual):
    """The network once more, from the assignment's text: functions and a dict of weights only."""

    def bn_relu(x, name):
        parts = ("running_mean", "running_var", "weight", "bias")
        return F.relu(F.batch_norm(x, *(state[f"{name}.{part}"] for part in parts)))

    def conv(x, name):
        return F.conv2d(x, state[f"{name}.weight"], padding=1)

    def layer(x, name):
        return bn_relu(F.max_pool2d(conv(x, f"{name}.0"), 2), f"{name}.2")

    def res_block(x, name):
        return bn_relu(conv(bn_relu(conv(x, f"{name}.0"), f"{name}.1"), f"{name}.3"), f"{name}.4")

    x = layer(bn_relu(conv(x, "prep_layer.0"), "prep_layer.1"), "layer1")
    x = layer(layer(res_block(x, "resblock1") + (x if residual else 0), "layer2"), "layer3")
    x = res_block(x, "resblock2") + (x if residual else 0)
    return F.max_pool2d(x, 4).flatten(1) @ state["fc.weight"].T


@torch.no_grad()
def test_both_networks_compute_what_the_assignment_says(model, images):
    plain = s10_plain().eval()
    plain.load_state_dict(model.state_dict())  # one state for both: only the two additions differ
    for network, residual in ((model, True), (plain, False)):
        assert count_parameters(network) == 6_573_120
        logits = by_hand(model.state_dict(), images, residual)
        torch.testing.assert_close(network(images), logits.log_softmax(1), rtol=1e-4, atol=1e-4)
    assert (model(images) - plain(images)).abs().max() > 0.1


@torch.no_grad()
def test_the_loss_on_the_output_is_the_cross_entropy_of_the_logits(model, images):
    watched = copy.deepcopy(model)
    seen, labels = watch(watched, ["fc"]), torch.tensor([0, 3, 9, 3])
    output = watched(images)
    for criterion in (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1)):
        torch.testing.assert_close(
            criterion(output, labels), criterion(seen["fc"], labels), rtol=1e-5, atol=0
        )
    torch.testing.assert_close(output.exp().sum(1), torch.ones(4))  # probabilities


@torch.no_grad()
def test_the_head_is_float32_under_autocast_in_bfloat16(model, images):
    watched = copy.deepcopy(model)
    seen = watch(watched, ["layer1", "fc"])
    with torch.autocast("cpu", torch.bfloat16):
        output = watched(images[:1])
    assert (
        seen["layer1"].dtype == seen["fc"].dtype == torch.bfloat16 and output.dtype == torch.float32
    )
    torch.testing.assert_close(output, seen["fc"].float().log_softmax(1), rtol=1e-6, atol=1e-6)


def test_other_numbers_of_classes_work_and_less_than_two_are_refused(images):
    assert s10_model(7).eval()(images).shape == (4, 7)
    assert s10_plain(2).eval()(images).shape == (4, 2)
    for make in (s10_model, s10_plain):
        with pytest.raises(ValueError, match="num_classes is 1"):
            make(1)


def test_images_of_another_size_are_refused_with_their_shape(model):
    with pytest.raises(ValueError, match=r"\(2, 3, 64, 64\).*\(N, 3, 32, 32\)"):
        model(torch.zeros(2, 3, 64, 64))


def test_a_new_network_guesses_and_every_weight_gets_a_gradient():
    model = s10_model()
    largest = 1 / 8 / math.sqrt(512)  # an eighth of what PyTorch draws for 512 inputs
    assert 0.99 * largest < model.fc.weight.abs().max() <= largest
    loss = F.cross_entropy(model(torch.randn(16, 3, 32, 32)), torch.arange(16) % 10)
    assert abs(loss - math.log(10)) < 0.5
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


# --- weights from a file


CLASSES = [f"class {i}" for i in range(10)]


def write_about(folder, **values):
    about = {"network": "s10_model", "classes": CLASSES, "mean": [0.5] * 3, "std": [0.2] * 3}
    (folder / "results.json").write_text(json.dumps({**about, **values}), encoding="utf-8")


def with_prefix(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("dtype", "wrapped"),
    [
        (torch.float32, lambda state: state),
        (torch.bfloat16, lambda state: state),
        (torch.float32, lambda state: with_prefix(state, "_orig_mod.")),
        (torch.float32, lambda state: {"state_dict": with_prefix(state, "module._orig_mod.")}),
    ],
    ids=["bare", "bfloat16", "compiled", "compiled, distributed and in a dict"],
)
@torch.no_grad()
def test_weights_of_either_network_are_loaded_whatever_wraps_them(
    model, images, tmp_path, dtype, wrapped
):
    state = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    torch.save(wrapped(state), tmp_path / "w.pt")
    for network, residual in (("s10_model", True), ("s10_plain", False)):
        write_about(tmp_path, network=network)  # the two have the same names and shapes
        loaded = load_weights(tmp_path / "w.pt")
        assert not loaded.training
        assert {p.dtype for p in loaded.parameters()} == {torch.float32}
        expected = CustomResNet(residual=residual).eval()
        expected.load_state_dict(state)
        assert torch.equal(loaded(images), expected(images))


def test_the_checkpoint_of_a_run_holds_weights_too(model, tmp_path):
    checkpoint = Checkpoint(tmp_path, {"epochs": 1})
    checkpoint.restore(model=model)
    checkpoint.release()
    write_about(tmp_path)
    loaded = load_weights(tmp_path / "checkpoint.pt")
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_for_other_classes_the_body_is_loaded_and_fc_is_new_and_that_is_said(
    model, tmp_path, capsys
):
    torch.save(model.state_dict(), tmp_path / "w.pt")
    write_about(tmp_path)
    loaded = load_weights(tmp_path / "w.pt", num_classes=3)
    said = capsys.readouterr().out
    assert "10 classes" in said
    assert "FC is new for 3" in said
    for name, tensor in loaded.state_dict().items():
        if name == "fc.weight":
            assert tensor.shape == (3, 512)
            assert tensor.std() > 0
        else:
            assert torch.equal(tensor, model.state_dict()[name]), name
    assert load_weights(tmp_path / "w.pt", num_classes=10).fc.out_features == 10
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("state", "about", "value"),
    [
        ({"w": torch.zeros(3)}, {}, "s10_model.*prep_layer"),
        ({"fc.weight": torch.zeros(7, 512)}, {}, "7 classes.*10"),
        ([1, 2], {}, "w.pt"),
        ({}, dict(network="resnet18"), "'resnet18'.*s10_model and s10_plain"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence_with_its_name(tmp_path, state, about, value):
    torch.save(state, tmp_path / "w.pt")
    write_about(tmp_path, **about)
    with pytest.raises(ValueError, match=value) as error:
        load_weights(tmp_path / "w.pt")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_a_damaged_file_and_missing_words_about_it_are_one_sentence(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"nonsense")
    write_about(tmp_path)
    with pytest.raises(ValueError, match="w.pt holds no weights"):
        load_weights(tmp_path / "w.pt")
    assert about_weights(tmp_path / "w.pt")["classes"] == CLASSES
    for spoilt in ("", "[]", '{"network": "s10_model"}'):
        (tmp_path / "results.json").write_text(spoilt, encoding="utf-8")
        with pytest.raises(ValueError, match="w.pt.*results.json"):
            about_weights(tmp_path / "w.pt")
    (tmp_path / "results.json").unlink()
    with pytest.raises(ValueError, match="w.pt.*results.json"):
        about_weights(tmp_path / "w.pt")


def test_weights_of_a_gpu_are_read_without_one(tmp_path, monkeypatch):
    """A file says where its tensors lay; only `map_location` reads it on another machine."""
    torch.save(s10_model().state_dict(), tmp_path / "w.pt")
    write_about(tmp_path)
    load, places = torch.load, []
    monkeypatch.setattr(
        torch, "load", lambda *a, **k: (places.append(k.get("map_location")), load(*a, **k))[1]
    )
    load_weights(tmp_path / "w.pt")
    assert places == ["cpu"]
