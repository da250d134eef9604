"""Receptive fields are right, for our network and for others (extras/receptive_field.py)."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18

from experiments.networks import ResNet
from extras.receptive_field import (
    first_views,
    plot_receptive_field,
    receptive_field,
)
from models import s10_model

FIELDS = {  # worked out by hand: field += (kernel - 1) * jump
    "prep_layer.0": 3,
    "layer1.0": 5,
    "layer1.1": 6,
    "resblock1.0": 10,
    "resblock1.3": 14,
    "layer2.0": 18,
    "layer2.1": 20,
    "layer3.0": 28,
    "layer3.1": 32,
    "resblock2.0": 48,
    "resblock2.3": 64,
    "pool": 88,
}
IMAGE = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def fields(model, input_size=(3, 32, 32)):
    return [(row["name"], row["receptive_field"]) for row in receptive_field(model, input_size)]


def seen_by_the_middle(model, side):
    """Height of the part of the image that the middle of the output depends on, by its gradient.

    Weights and image are positive, so that no gradient is cancelled out or stopped by a ReLU.
    """
    for parameter in model.parameters():
        parameter.data.abs_().add_(0.01)
    image = torch.rand(1, 3, side, side, dtype=torch.float64).requires_grad_()
    output = model.double().eval()(image)
    output[0, :, output.shape[2] // 2, output.shape[3] // 2].sum().backward()
    rows = image.grad.abs().sum(dim=(0, 1, 3)).nonzero()
    return int(rows.max() - rows.min()) + 1


def test_our_network():
    rows = receptive_field(s10_model())
    assert [(row["name"], row["receptive_field"]) for row in rows] == list(FIELDS.items())
    assert [row["out_size"] for row in rows] == [32, 32, 16, 16, 16, 16, 8, 8, 4, 4, 4, 1]
    assert [row["jump"] for row in rows] == [1, 1, 2, 2, 2, 2, 4, 4, 8, 8, 8, 32]
    assert rows[2] == {
        "name": "layer1.1",
        "kernel": 2,
        "stride": 2,
        "padding": 0,
        "out_size": 16,
        "jump": 2,
        "receptive_field": 6,
    }
    assert receptive_field(torch.compile(s10_model())) == rows


def test_resnet18_has_the_published_fields():
    """435 pixels after the last stage (Araujo et al. 2019); then 7x7 outputs are averaged."""
    rows = {row["name"]: row for row in receptive_field(resnet18(), (3, 224, 224))}
    published = {
        "conv1": 7,
        "maxpool": 11,
        "layer1.1.conv2": 43,
        "layer2.1.conv2": 99,
        "layer3.1.conv2": 211,
        "layer4.1.conv2": 435,
        "avgpool": 435 + 6 * 32,
        "layer2.0.downsample.0": 43,  # the shortcut
    }
    assert {name: rows[name]["receptive_field"] for name in published} == published
    assert [rows[name]["out_size"] for name in ("conv1", "layer4.1.conv2", "avgpool")] == [
        112,
        7,
        1,
    ]


@pytest.mark.parametrize("depth", [8, 20])
def test_he_networks_are_read_through_their_strided_shortcuts(depth):
    model = ResNet(depth)
    name, field = fields(model)[-1]
    assert name == f"blocks.{(depth - 2) // 2 - 1}.conv2"
    # by hand: 3, then two convolutions of 3x3 a block, at jumps of 1, 2 and 4, strides first
    blocks = (depth - 2) // 6
    assert field == 3 + 4 * blocks + (2 + 4 * (2 * blocks - 1)) + (4 + 8 * (2 * blocks - 1))
    body = nn.Sequential(model.conv, model.bn, nn.ReLU(), model.blocks)
    assert seen_by_the_middle(body, 4 * field) == field


class Net(nn.Module):
    """A convolution and BatchNorm, any function of their output, another convolution."""

    def __init__(self, middle, last=lambda x: x.mean((2, 3))):
        super().__init__()
        convolution = nn.Conv2d(3, 4, 3, stride=2, padding=2, dilation=2)
        self.conv1 = nn.Sequential(convolution, nn.BatchNorm2d(4), nn.ReLU())
        self.middle = middle
        self.conv2 = nn.Conv2d(4, 4, (3, 3), padding="same")
        self.last = last

    def forward(self, x):
        return self.last(self.conv2(self.middle(self.conv1(x))))


@pytest.mark.parametrize(
    "middle",
    [
        lambda x: F.relu(torch.cat(x.chunk(2, 1), 1)) / x.shape[2],
        lambda x: F.avg_pool2d(x, 2),
        lambda x: F.avg_pool2d(x, kernel_size=3, stride=1, padding=1),
        lambda x: F.adaptive_avg_pool2d(x, 32),
        lambda x: x[:, :, 1::3, 1::3],
        nn.AdaptiveAvgPool2d(16),
    ],
)
def test_what_the_gradient_sees_is_the_field(middle):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = receptive_field(Net(middle), (3, 64, 64))
    assert rows[-1]["name"] == "conv2"
    assert seen_by_the_middle(Net(middle, nn.Identity()), 64) == rows[-1]["receptive_field"]


@pytest.mark.parametrize(
    "middle",
    [
        lambda x: F.conv2d(x, torch.ones(4, 4, 3, 3), padding=1),
        lambda x: F.interpolate(x, scale_factor=2.0),
        lambda x: x[..., ::2, ::2],
        nn.ConvTranspose2d(4, 4, 3, padding=1),
        nn.AdaptiveAvgPool2d(5),
    ],
)
def test_a_layer_whose_kernel_is_unknown_ends_the_rows_with_a_warning(middle):
    with pytest.warns(UserWarning, match="end before"):
        assert fields(Net(middle)) == [("conv1.0", 5)]


class SqueezeAndExcitation(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        return x * torch.sigmoid(self.pool(x))


def test_the_rows_end_where_places_are_multiplied_by_a_value_of_the_whole_image():
    names = [name for name, _ in fields(Net(SqueezeAndExcitation()))]
    assert names == ["conv1.0", "middle.pool"]


def test_a_final_pooling_by_function_is_read():
    assert fields(Net(nn.Identity(), lambda x: F.avg_pool2d(x, 16).flatten(1))) == [
        ("conv1.0", 5),
        ("conv2", 9),
        ("avg_pool2d", 9 + 15 * 2),
    ]
    overlapping = fields(Net(lambda x: F.max_pool2d(x, (4, 4), stride=2)))
    assert overlapping[1:] == [("max_pool2d", 5 + 3 * 2), ("conv2", 5 + 3 * 2 + 2 * 4)]


def test_squares_have_the_given_sizes_and_the_layers_that_see_the_whole_image_are_named():
    rows = receptive_field(s10_model())
    fig = plot_receptive_field(rows, IMAGE)
    squares = fig.axes[0].patches
    assert [s.get_width() for s in squares[:9]] == [3, 5, 6, 10, 14, 18, 20, 28, 32]
    assert [s.get_linestyle() for s in squares] == ["-"] * 9 + ["--"] * 3  # beyond the image
    labels = [text.get_window_extent() for text in fig.axes[0].texts]
    overlaps = [a.overlaps(b) for i, a in enumerate(labels) for b in labels[:i]]
    assert not any(overlaps)
    # layer3.1's field has 32 pixels too, but none of its outputs lies in the middle
    assert first_views(rows, 32) == ("resblock2.0", "resblock2.3")
    assert first_views([row | {"padding": "same"} for row in rows[:2]], 4) == ("layer1.0", None)
    assert first_views(rows[:9], 32) == (None, None)


def test_a_field_that_just_covers_the_image_sees_all_of_it():
    whole, short = (receptive_field(nn.Sequential(nn.Conv2d(3, 1, kernel))) for kernel in (32, 31))
    assert first_views(whole, 32) == (whole[0]["name"], whole[0]["name"])
    assert first_views(short, 32) == (None, None)
