"""The drawings: what the model has is drawn, and the blocks are what they are said to be."""

import numpy as np
import pytest
import torch
from matplotlib.patches import Circle
from torch import nn

import experiments.networks
import models
from extras.diagram import BLOCKS, plot_blocks, plot_model

IMAGE = np.full((32, 32, 3), 128, np.uint8)
UPRIGHT = {nn.Conv2d: "Conv", nn.MaxPool2d: "MaxPool", nn.BatchNorm2d: "BatchNorm"}
UPRIGHT |= {nn.ReLU: "ReLU", nn.Linear: "Linear", nn.LogSoftmax: "LogSoftmax"}


@pytest.mark.parametrize(("make", "circles"), [(models.s10_model, 4), (models.s10_plain, 0)])
def test_every_layer_is_drawn_in_order_and_each_addition_has_a_fork_and_a_circle(make, circles):
    model = make(7)
    drawing = plot_model(model, IMAGE).axes[0]
    drawn = [text.get_text() for text in drawing.texts if text.get_rotation() == 90]
    layers = [UPRIGHT[type(m)] for m in model.modules() if type(m) in UPRIGHT]
    assert [text.split()[0] for text in drawn] == layers and len(drawn) == 30
    assert drawn[0] == "Conv 3×3, 64" and "Linear 512 → 7" in drawn
    assert sum(isinstance(patch, Circle) for patch in drawing.patches) == circles


def test_the_shapes_below_the_parts_are_those_of_the_outputs():
    model = models.s10_model().eval()
    said = {text.get_text() for text in plot_model(model, IMAGE).axes[0].texts}
    x = torch.zeros(1, 3, 32, 32)
    for part in (model.prep_layer, model.layer1, model.layer2, model.layer3, model.pool):
        x = part(x)
        assert "×".join(map(str, x.shape[1:])) in said


def compute(layers, x, convolutions, norms):
    """What the drawn layers compute."""
    out, convolutions, norms = x, iter(convolutions), iter(norms)
    for layer in layers.split():
        if layer == "Conv":
            out = next(convolutions)(out)
        elif layer == "BN":
            out = next(norms)(out)
        else:
            out = torch.relu(out) if layer == "ReLU" else out + x
    return out


def test_the_drawn_blocks_compute_what_our_code_computes():
    drawn = {name: layers for name, _, layers, _ in BLOCKS}
    x = torch.randn(2, 16, 8, 8)
    block = models.ResBlock(16).eval()
    ours = (block[0], block[3]), (block[1], block[4])
    torch.testing.assert_close(compute(drawn["Plain"], x, *ours), block(x))
    torch.testing.assert_close(compute(drawn["Ours"], x, *ours), x + block(x))
    he = experiments.networks.Block(16, 16, stride=1, residual=True).eval()
    theirs = (he.conv1, he.conv2), (he.bn1, he.bn2)
    torch.testing.assert_close(compute(drawn["He et al. 2015"], x, *theirs), he(x))


def test_the_figure_shows_the_blocks_side_by_side(tmp_path):
    drawing = plot_blocks(path=tmp_path / "blocks.png").axes[0]
    names = [text for text in drawing.texts if text.get_text() in {block[0] for block in BLOCKS}]
    assert len(names) == 4 and len({text.get_position()[1] for text in names}) == 1
    assert sum(isinstance(patch, Circle) for patch in drawing.patches) == 6  # three additions
    assert (tmp_path / "blocks.png").stat().st_size > 10_000
