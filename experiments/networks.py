"""The networks that are compared: the assignment's, and those of He et al. for CIFAR-10.

model = ResNet(depth=20)                      # 0.27 million parameters
model = ResNet(depth=20, residual=False)      # the plain network: the same layers, nothing is added
model = make_model("resnet44_plain", num_classes=10)
"""

import torch
from torch import nn
from torch.nn import functional as F

import models

FC_SCALE = 1 / 8  # what models.CustomResNet multiplies its FC's initial weights by
LOGITS = 1 / 8  # what the row logits_8 multiplies the logits by, in every step
OURS = ("s10_model", "s10_plain", "s10_unscaled", "s10_logits_8")


class Block(nn.Module):
    """He et al.'s block (2015, arXiv:1512.03385): Conv-BN-ReLU-Conv-BN, the addition, ReLU.

    The assignment's block has its second ReLU before the addition, so that what flows along its
    skip connections can only grow; He et al. (2016, arXiv:1603.05027) found that variant worse at
    110 layers.
    """

    def __init__(self, in_channels, channels, stride, residual):
        super().__init__()
        self.stride = stride
        self.new_channels = channels - in_channels
        self.residual = residual
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        r = F.relu(self.bn1(self.conv1(x)))
        r = self.bn2(self.conv2(r))
        return F.relu(r + self.shortcut(x) if self.residual else r)

    def shortcut(self, x):
        """Their option A, without parameters: every second pixel, and zeros as new channels."""
        if not self.new_channels:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


class ResNet(nn.Module):
    """He et al.'s network: a convolution, three stages of blocks with 16, 32, 64 channels, FC.

    Images (N, 3, 32, 32) -> log-probabilities (N, num_classes), float32.

    Args:
        depth: layers with weights, 6n + 2: n blocks of two convolutions in each stage.
        residual: False leaves out the additions, and nothing else.

    Raises ValueError for another depth.
    """

    def __init__(self, depth, num_classes=10, residual=True):
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth is {depth}: give 6n + 2, such as 8, 20, 44 or 110")
        blocks = []
        channels = 16
        for width in (16, 32, 64):
            for _ in range((depth - 2) // 6):
                blocks.append(Block(channels, width, 1 if width == channels else 2, residual))
                channels = width
        self.conv = nn.Conv2d(3, 16, kernel_size=3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(64, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):  # their own initialisation (2015, arXiv:1502.01852)
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        x = self.blocks(F.relu(self.bn(self.conv(x))))
        x = x.mean(dim=(2, 3))
        return F.log_softmax(self.fc(x).float(), dim=1)  # in float32, as in models.py


class SmallLogits(nn.Module):
    """Log-softmax of the logits × 1/8, for good: what fast code bases do (Page 2018)."""

    def forward(self, logits):
        return F.log_softmax(logits * LOGITS, dim=1)


def make_model(name, num_classes=10):
    """Make a network by its name.

    "s10_model" and "s10_plain"; "s10_unscaled", whose FC is as PyTorch initialises it;
    "s10_logits_8", the same with logits × 1/8 in every step; "resnet44", "resnet44_plain" and other
    depths of He et al.'s.
    """
    if name.startswith("resnet"):
        depth = int(name.removeprefix("resnet").removesuffix("_plain"))
        return ResNet(depth, num_classes, not name.endswith("_plain"))
    if name not in OURS:
        raise ValueError(f"network is {name!r}: choose one of {', '.join(OURS)}, or resnetN")
    model = models.CustomResNet(num_classes, residual=name != "s10_plain")
    if name in ("s10_unscaled", "s10_logits_8"):
        with torch.no_grad():
            model.fc.weight.div_(FC_SCALE)  # a power of two: exactly what PyTorch drew
    if name == "s10_logits_8":
        model.softmax = SmallLogits()
    return model
