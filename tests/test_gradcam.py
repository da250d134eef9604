"""Grad-CAM: right where it can be computed by hand, and without traces (extras/gradcam.py)."""

import contextlib

import numpy as np
import pytest
import torch
from matplotlib.contour import ContourSet
from matplotlib.image import AxesImage
from torch import nn
from torchvision.models import resnet18

from extras.gradcam import grad_cam, plot_gradcam
from models import s10_model


class Small(nn.Module):
    """Conv, ReLU, mean over all places, linear: here Grad-CAM has a closed form."""

    def __init__(self, last):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(5, 3)
        self.last = last

    def forward(self, x):
        return self.last(self.fc(self.relu(self.norm(self.conv(x))).mean(dim=(2, 3))))


@pytest.mark.parametrize("last", [nn.Identity(), nn.LogSoftmax(dim=1)])
def test_equals_the_closed_form_of_a_linear_classifier_on_means(last):
    model, images, classes = (
        Small(last).eval(),
        torch.randn(6, 3, 8, 10),
        torch.tensor([0, 1, 2, 0, 1, 2]),
    )
    model.requires_grad_(False).fc.weight[2] = (
        0  # frozen will do; where nothing speaks for a class the map is 0
    )
    maps = grad_cam(model, images, classes, model.relu)
    assert maps.shape == (6, 8, 10) and maps.dtype == np.float32
    # after log-softmax: what speaks for the class rather than for the others
    others = model(images).exp() @ model.fc.weight if isinstance(last, nn.LogSoftmax) else 0
    channels = model.relu(model.norm(model.conv(images)))
    expected = (
        ((model.fc.weight[classes] - others)[:, :, None, None] / 80 * channels).sum(dim=1).relu()
    )
    np.testing.assert_allclose(
        maps, expected / expected.amax(dim=(1, 2), keepdim=True).clamp_min(1e-30), atol=1e-5
    )


def test_a_channel_s_weight_is_the_mean_of_its_gradient_over_all_places():
    """A linear layer on every place: its weights are the gradient, another one at each place."""
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5 * 6 * 6, 2))
    images = torch.randn(4, 3, 8, 8)
    gradient = model[2].weight.detach().numpy().reshape(2, 5, 6, 6)
    channels = model[0](images).detach().numpy()
    for image, c in enumerate([0, 1, 1, 0]):
        expected = sum(gradient[c, k].sum() / 36 * channels[image, k] for k in range(5)).clip(0)
        (found,) = grad_cam(model, images[image, None], [c], model[0])
        np.testing.assert_allclose(found, expected / expected.max(), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "layer", "side"), [(s10_model, "layer2", 8), (resnet18, "layer4.1.bn2", 1)]
)
def test_takes_our_network_and_torchvision_s_at_any_layer_also_after_inference_mode(
    model, layer, side
):
    model = model(num_classes=4)
    with torch.inference_mode():
        images = torch.randn(3, 3, 32, 32)
        maps = grad_cam(
            model, images, model.eval()(images).argmax(dim=1), model.get_submodule(layer)
        )
    assert maps.shape == (3, side, side) and maps.min() >= 0 and maps.max() == 1  # and so no NaN
    assert grad_cam(model, images[:0], [], model.get_submodule(layer)).shape == (0, side, side)


def state(model):
    """All that must be the same afterwards, as text."""
    modules = [(module.training, len(module._forward_hooks)) for module in model.modules()]
    gradients = [(p.requires_grad, p.grad is None or p.grad.tolist()) for p in model.parameters()]
    values = [value.tolist() for value in model.state_dict().values()]
    return repr((modules, gradients, values, torch.is_grad_enabled(), torch.get_rng_state().sum()))


@pytest.mark.parametrize("fails", [False, True])
def test_mode_gradients_hooks_and_statistics_are_as_they_were(fails):
    model, images = Small(nn.Dropout(0.5)), torch.randn(4, 3, 8, 8)
    model(images).sum().backward()
    model.train()
    model.norm.eval().requires_grad_(False)  # somebody has frozen this part
    if fails:
        model.fc.register_forward_pre_hook(lambda *_: 1 / 0)
    before, given = state(model), images.clone()
    with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext():
        assert grad_cam(model, images, [0, 1, 2, 0], model.relu).any()
    assert state(model) == before and torch.equal(images, given) and not images.requires_grad


def test_what_does_not_fit_is_one_sentence():
    model = Small(nn.Identity())
    for layer, classes, sentence in (
        (model.fc, [0, 1], "layer Linear gives no output"),
        (model.relu, [0], r"shape \(1,\): give one for each of the 2 images"),
        (model.relu, [-1, 3], "classes are -1 to 3, but the network has 3"),
    ):
        with pytest.raises(ValueError, match=sentence):
            grad_cam(model, torch.randn(2, 3, 8, 8), classes, layer)


def drawn(fig):
    """(images as arrays, texts) of a figure."""
    pixels = [np.asarray(image.get_array()) for image in fig.findobj(AxesImage)]
    texts = [*fig.texts, *(text for ax in fig.axes for text in ax.texts)]
    return pixels, [text.get_text() for text in texts]


def test_every_image_is_drawn_three_times_with_contours_where_its_maps_are_large():
    images = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    maps = np.zeros((10, 8, 8))
    maps[:, 2:4, 2:4] = 1
    labels, predictions = np.arange(10) % 2, np.arange(10) // 9  # right where both are equal
    fig = plot_gradcam(images, labels, predictions, maps, maps * 0, ["cat", "dog"])
    pixels, texts = drawn(fig)
    np.testing.assert_array_equal(pixels, np.repeat(images, 3, axis=0))
    assert texts.count("empty map") == 10
    right = int((labels == predictions).sum())
    assert sum("✗" in text for text in texts) == 10 - right
    assert sum("✓" in text for text in texts) == 10 + right
    for i, ax in enumerate(fig.axes):
        contours = ax.findobj(ContourSet)
        assert bool(contours) == (i % 3 == 1)
        for path in (path for lines in contours for path in lines.get_paths()):
            assert path.vertices.min() > 7 and path.vertices.max() < 16  # 2x2 of 8x8, in pixels


def test_contours_lie_on_an_image_that_is_not_square():
    maps = np.zeros((1, 4, 12))
    maps[:, 1, 9:11] = 1  # the upper half of the image, at its right
    pixels = np.zeros((1, 32, 96, 3))
    fig = plot_gradcam(pixels, [0], [0], maps, maps, ["cat"])
    for ax in fig.axes[1:]:
        for path in (path for lines in ax.findobj(ContourSet) for path in lines.get_paths()):
            (left, top), (right, bottom) = path.vertices.min(axis=0), path.vertices.max(axis=0)
            assert 64 < left < right < 96 and 4 < top < bottom < 20


def test_more_images_than_fit_are_said():
    arguments = [np.zeros((24, 8, 8, 3)), [0] * 24, [0] * 24, np.ones((24, 2, 2))]
    pixels, texts = drawn(plot_gradcam(*arguments, arguments[-1], ["cat"]))
    assert len(pixels) == 60 and any("20 of 24" in text for text in texts)
    assert not drawn(plot_gradcam([], [], [], [], [], ["cat"]))[0]
    with pytest.raises(ValueError, match="labels go from 0 to 1"):
        plot_gradcam(arguments[0][:2], [0, 1], [0, 0], np.ones((2, 2, 2)), np.ones((2, 2, 2)), "a")
