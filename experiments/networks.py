"""The networks that are compared: the assignment's, and the CIFAR-10 networks of He et al., with
and without additions.

model = ResNet(depth=20)                      # 0.27 million parameters
model = ResNet(depth=20, residual=False)      # the plain network: the same layers, nothing is added
model = make_model({"depth": 44, "residual": False}, num_classes=10)
"""

import torch
from torch import nn
from torch.nn import functional as F

import models

FC_SCALE = 1 / 8  # what models.CustomResNet multiplies its FC's initial weights by


class Block(nn.Module):
    """He et al.'s block (2015, arXiv:1512.03385): Conv-BN-ReLU-Conv-BN, the addition, ReLU.

    The assignment's block has its second ReLU before the addition, so that what flows along its
    skip connections can only grow; He et al. (2016, arXiv:1603.05027) found that variant worse at
    110 layers.
    """

    def __init__(self, in_channels, channels, stride, residual):
        super().__init__()
        self.stride, self.more, self.residual = stride, channels - in_channels, residual
        self.conv1 = nn.Conv2d(
            in_channels, channels, kernel_size=3, stride=stride, padding=1, bias=False
        )
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        r = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(r + self.shortcut(x) if self.residual else r)

    def shortcut(self, x):
        """Their option A: every second pixel, zeros as new channels; no parameters that a plain
        network lacks.
        """
        return (
            F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
            if self.more
            else x
        )


class ResNet(nn.Module):
    """He et al.'s network for CIFAR-10: a convolution, three stages of blocks with 16, 32 and 64
    channels, FC.

    Args:
        depth: layers with weights, 6n + 2: n blocks of two convolutions in each stage. 8, 14, 20,
            32, 44, 56, 110 …
        residual: False leaves out the additions, and nothing else.
    """

    def __init__(self, depth, num_classes=10, residual=True):
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth is {depth}: give 6n + 2, such as 8, 20, 44 or 110")
        blocks, channels = [], 16
        for width in (16, 32, 64):
            for _ in range((depth - 2) // 6):
                blocks.append(Block(channels, width, 1 if width == channels else 2, residual))
                channels = width
        self.conv = nn.Conv2d(3, 16, kernel_size=3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(64, num_classes)
        for layer in self.modules():
            if isinstance(
                layer, nn.Conv2d
            ):  # He et al.'s own initialisation (2015, arXiv:1502.01852)
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        x = self.blocks(F.relu(self.bn(self.conv(x))))
        return F.log_softmax(
            self.fc(x.mean(dim=(2, 3))).float(), dim=1
        )  # in float32, as in models.py


def make_model(changes, num_classes=10):
    """The network of a row: `depth` for He et al.'s, else the assignment's; `residual` and
    `fc_scale` change it.
    """
    residual = changes.get("residual", True)
    if "depth" in changes:
        return ResNet(changes["depth"], num_classes, residual)
    model = models.CustomResNet(num_classes, residual)
    with torch.no_grad():
        model.fc.weight.mul_(changes.get("fc_scale", FC_SCALE) / FC_SCALE)
    return model


def model_name(changes):
    """ "s10_model", "s10_plain", "resnet20", "resnet20_plain"."""
    plain = not changes.get("residual", True)
    if "depth" in changes:
        return f"resnet{changes['depth']}" + "_plain" * plain
    return "s10_plain" if plain else "s10_model"
