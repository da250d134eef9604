"""The drawing of the network: what is read off the model, and the skip connections
(extras/diagram.py).
"""

import pytest
import torch
from matplotlib.patches import Circle
from torchvision.models import resnet18

from extras.diagram import network_parts, plot_model
from models import s10_model, s10_plain


def test_parts_are_those_of_the_assignment_and_the_model_is_left_as_it_was():
    model = s10_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parts = network_parts(model)
    names = ["input", "PrepLayer", "Layer 1", "Layer 2", "Layer 3", "MaxPool", "FC", "SoftMax"]
    assert [part["name"] for part in parts] == names
    assert [part["out"][0] for part in parts] == [3, 64, 128, 256, 512, 512, 10, 10]
    assert parts[2]["layers"] == ["Conv 3×3, 128", "MaxPool 2", "BatchNorm", "ReLU"]
    assert parts[2]["residual"] == ["Conv 3×3, 128", "BatchNorm", "ReLU"] * 2
    assert [part["name"] for part in parts if part["add"]] == ["Layer 1", "Layer 3"]
    assert parts[6]["layers"] == ["Linear 512 → 10"] and model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert network_parts(resnet18(), input_size=(3, 64, 64))[-1]["out"] == (
        1000,
    )  # other networks and image sizes
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(("model", "circles"), [(s10_model, 4), (s10_plain, 0)])
def test_each_addition_has_a_fork_and_a_circle_and_the_plain_network_has_the_same_layers_without(
    model, circles
):
    drawing = plot_model(network_parts(model())).axes[0]
    assert sum(isinstance(patch, Circle) for patch in drawing.patches) == circles
    assert sum(text.get_rotation() == 90 for text in drawing.texts) == 30
