"""Grad-CAM: right where it can be computed by hand, and without traces."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18

import utils
from gradcam import grad_cam
from models import s10_model


class Small(nn.Module):
    """Conv, ReLU, mean over all places, linear: here Grad-CAM has a closed form."""

    def __init__(self, classes=3, last=None):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(5, classes)
        self.last = last or nn.Identity()

    def forward(self, x):
        return self.last(self.fc(self.relu(self.norm(self.conv(x))).mean(dim=(2, 3))))


def by_hand(model, pictures, weights):
    """ReLU of the channels' sum, each weighted with (its row of the linear layer) / (number of places); highest 1."""
    with torch.no_grad():
        channels = model.eval().relu(model.norm(model.conv(pictures)))
        maps = (weights[:, :, None, None] / channels[0, 0].numel() * channels).sum(dim=1).relu()
        return (maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(1e-30)).numpy()


def test_equals_the_closed_form_of_a_linear_classifier_on_means():
    model, pictures, classes = Small(), torch.randn(6, 3, 8, 10), torch.tensor([0, 1, 2, 0, 1, 2])
    maps = grad_cam(model, pictures, classes, model.relu)
    assert maps.shape == (6, 8, 10) and maps.dtype == np.float32
    np.testing.assert_allclose(maps, by_hand(model, pictures, model.fc.weight[classes]), atol=1e-5)


def test_after_log_softmax_a_map_shows_what_speaks_for_the_class_rather_than_for_the_others():
    model, pictures, classes = Small(last=nn.LogSoftmax(dim=1)), torch.randn(4, 3, 8, 8), np.array([0, 1, 2, 0])
    maps = grad_cam(model, pictures, classes, model.relu)
    with torch.no_grad():
        others = model.eval()(pictures).exp() @ model.fc.weight
    np.testing.assert_allclose(maps, by_hand(model, pictures, model.fc.weight[classes] - others), atol=1e-5)


def test_a_layer_whose_output_is_changed_in_place_is_seen_as_it_was():
    model, pictures = Small().eval(), torch.randn(2, 3, 8, 8)
    maps = grad_cam(model, pictures, [0, 1], model.norm)  # the ReLU behind it works in place
    with torch.no_grad():
        before = model.norm(model.conv(pictures))
        slopes = model.fc.weight[[0, 1]] * (before > 0).float().mean(dim=(2, 3)) / 64
        expected = (slopes[:, :, None, None] * before).sum(dim=1).relu()
        expected /= expected.amax(dim=(1, 2), keepdim=True)
    np.testing.assert_allclose(maps, expected.numpy(), atol=1e-5)


def test_finds_the_place_that_a_class_depends_on():
    model = Small(classes=2)
    with torch.no_grad():
        model.conv.weight.zero_(), model.conv.bias.zero_(), model.fc.weight.zero_()
        model.conv.weight[0, 0, 1, 1] = 1  # channel 0 is the red of a pixel
        model.fc.weight[1, 0] = 1  # and class 1 is redness
    pictures = torch.zeros(1, 3, 8, 8)
    pictures[0, 0, 5, 2] = 1
    assert np.argwhere(grad_cam(model, pictures, [1], model.relu)[0]).tolist() == [[5, 2]]
    assert not grad_cam(model, pictures, [0], model.relu).any()  # nothing speaks for class 0: no NaN


@pytest.mark.parametrize(
    ("model", "layer", "side"),
    [(s10_model, "layer2", 8), (s10_model, "resblock2", 4), (resnet18, "layer4", 2), (resnet18, "layer4.1.conv2", 2)],
)
def test_takes_our_network_and_torchvision_s_at_any_layer_also_after_inference_mode(model, layer, side):
    model = model(num_classes=4)
    size = 32 if side != 2 else 64
    with torch.inference_mode():
        pictures = torch.randn(3, 3, size, size)
        classes = model.eval()(pictures).argmax(dim=1)
        maps = grad_cam(model, pictures, classes, model.get_submodule(layer))
    assert maps.shape == (3, side, side)
    assert maps.min() >= 0 and maps.max() == 1 and np.isfinite(maps).all()


def state(model):
    return (
        [module.training for module in model.modules()],
        [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()],
        [parameter.grad is None or parameter.grad.clone() for parameter in model.parameters()],
        [parameter.requires_grad for parameter in model.parameters()],
        {name: value.clone() for name, value in model.state_dict().items()},
        torch.is_grad_enabled(),
        torch.get_rng_state(),
    )


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


class Stopped(Exception):
    pass


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_mode_gradients_hooks_and_statistics_are_as_they_were(fails, frozen):
    model, pictures = Small(last=nn.Dropout(0.5)), torch.randn(4, 3, 8, 8)
    model(pictures).sum().backward()
    model.train()
    model.norm.eval()  # somebody has frozen this part
    if frozen:
        model.requires_grad_(False)
    if fails:

        def stop(*_):
            raise Stopped

        model.fc.register_forward_hook(stop)
    before, given = state(model), pictures.clone()
    if fails:
        with pytest.raises(Stopped):
            grad_cam(model, pictures, [0, 1, 2, 0], model.relu)
    else:
        assert grad_cam(model, pictures, [0, 1, 2, 0], model.relu).any()
    assert same(before, state(model))
    assert torch.equal(pictures, given) and not pictures.requires_grad


@pytest.mark.parametrize(
    ("layer", "classes", "words"),
    [
        ("fc", [0, 1], "the layer Linear gives no maps"),
        ("relu", [0], "2 pictures have classes of shape \\(1,\\): give one for each"),
        ("relu", [0, 3], "classes go from 0 to 3: the network has 3"),
        ("relu", [-1, 0], "classes go from -1 to 0"),
    ],
)
def test_what_does_not_fit_is_one_sentence(layer, classes, words):
    model = Small()
    with pytest.raises(ValueError, match=words):
        grad_cam(model, torch.randn(2, 3, 8, 8), classes, model.get_submodule(layer))


def test_a_layer_of_another_network_is_one_sentence():
    with pytest.raises(ValueError, match="gives no maps"):
        grad_cam(Small(), torch.randn(2, 3, 8, 8), [0, 1], Small().relu)


def test_no_mistakes_are_no_maps_and_still_a_figure():
    model = s10_model()
    maps = grad_cam(model, torch.empty(0, 3, 32, 32), np.empty(0, np.int64), model.layer2)
    assert maps.shape == (0, 8, 8)
    assert utils.plot_mistakes([], [], [], [], ["a", "b"], maps=maps)
