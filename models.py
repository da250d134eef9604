"""The custom ResNet of the assignment, and the same network without its skip connections.

from models import s10_model, s10_plain
model = s10_model()               # 6,573,120 parameters
log_probabilities = model(images) # (N, 3, 32, 32) -> (N, 10)
"""

import json
import re
from pathlib import Path

import torch
from torch import nn

NETWORKS = ("s10_model", "s10_plain")  # functions here that build one


def conv_bn_relu(in_channels, out_channels, pool=False):
    """Conv 3x3 (stride 1, padding 1) -> [MaxPool 2] -> BatchNorm -> ReLU, as a list of layers."""
    return [
        # no bias: BatchNorm subtracts the mean of each channel, and a bias with it
        nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=1, padding=1, bias=False),
        *([nn.MaxPool2d(kernel_size=2)] if pool else []),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]


class ResBlock(nn.Sequential):
    """The residual branch R = ResBlock(X): Conv-BN-ReLU-Conv-BN-ReLU; the shape stays the same.

    From deep residual learning (He et al. 2015, arXiv:1512.03385), but the assignment has the
    second ReLU before the addition, not after it. The addition X + R is in `CustomResNet.forward`.
    """

    def __init__(self, channels):
        super().__init__(*conv_bn_relu(channels, channels), *conv_bn_relu(channels, channels))


class CustomResNet(nn.Module):
    """The network of the assignment: images (N, 3, 32, 32) -> log-probabilities (N, num_classes).

    Args:
        num_classes: number of classes, 2 or more.
        residual: False leaves out the two additions, and nothing else: the plain network.
    """

    def __init__(self, num_classes=10, residual=True):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}: a classifier needs at least 2 classes")
        self.residual = residual
        self.prep_layer = nn.Sequential(*conv_bn_relu(3, 64))
        self.layer1 = nn.Sequential(*conv_bn_relu(64, 128, pool=True))
        self.resblock1 = ResBlock(128)
        self.layer2 = nn.Sequential(*conv_bn_relu(128, 256, pool=True))
        self.layer3 = nn.Sequential(*conv_bn_relu(256, 512, pool=True))
        self.resblock2 = ResBlock(512)
        self.pool = nn.MaxPool2d(kernel_size=4)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(512, num_classes, bias=False)
        self.softmax = nn.LogSoftmax(dim=1)
        # MaxPool takes the largest of 4x4 values, so with PyTorch's initial weights the first loss
        # would be 3 to 5, though guessing costs only ln 10 = 2.3, and the LR range test would first
        # measure how that excess goes away. Scaled by 1/8 (after Page 2018, cifar10-fast), the loss
        # starts at guessing.
        with torch.no_grad():
            self.fc.weight.mul_(1 / 8)

    def forward(self, x):
        check_size(x)
        x = self.prep_layer(x)  # (N, 64, 32, 32)

        x = self.layer1(x)  # (N, 128, 16, 16)
        r1 = self.resblock1(x)
        # The skip connection: past the block, the gradient reaches x unchanged
        x = x + r1 if self.residual else r1

        x = self.layer2(x)  # (N, 256, 8, 8)

        x = self.layer3(x)  # (N, 512, 4, 4)
        r2 = self.resblock2(x)
        x = x + r2 if self.residual else r2

        x = self.flatten(self.pool(x))  # (N, 512)
        # SoftMax comes last, as its logarithm: log-softmax of log-softmax changes nothing, so
        # CrossEntropyLoss on this output is the cross entropy of the logits. In float32, since
        # bfloat16 has three digits only.
        return self.softmax(self.fc(x).float())


@torch.fx.wrap  # torch.fx, which reads receptive fields, must not trace into it
def check_size(images):
    """MaxPool with kernel 4 and FC fit images of 32x32 pixels alone."""
    if images.shape[-2:] != (32, 32):
        raise ValueError(f"images are {tuple(images.shape)}: give (N, 3, 32, 32), so resize them")


def s10_model(num_classes=10):
    """The network of the assignment; 6,573,120 parameters with ten classes."""
    return CustomResNet(num_classes)


def s10_plain(num_classes=10):
    """The plain network: the same layers and parameters, without the two skip connections."""
    return CustomResNet(num_classes, residual=False)


def count_parameters(model):
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def load_weights(path, num_classes=None):
    """The network with trained weights, in evaluation mode and float32.

    `results.json` beside the file names the network (with skip connections or without: their
    weights have the same names) and its classes.

    Args:
        path: a state dict, in float32 or bfloat16. One of a compiled or DistributedDataParallel
            model, one under "model" or "state_dict", and `checkpoint.pt` work too.
        num_classes: None: as many as the weights have. With another number the FC layer is new,
            with random weights, and the rest is loaded: for fine-tuning.

    Raises:
        ValueError: the file holds no weights of this network, or `results.json` does not say which.
    """
    about = about_weights(path)
    state = read_state(path)
    trained_classes = len(about["classes"])
    if "fc.weight" in state and len(state["fc.weight"]) != trained_classes:
        raise ValueError(
            f"{path} has {len(state['fc.weight'])} classes, and results.json beside it names "
            f"{trained_classes}: put the file of the same run there"
        )
    if num_classes is None:
        num_classes = trained_classes
    model = CustomResNet(num_classes, residual=about["network"] == "s10_model")
    if num_classes != trained_classes:
        print(
            f"{path} has {trained_classes} classes: FC is new for {num_classes}, the rest is loaded"
        )
        state["fc.weight"] = model.fc.weight
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).partition(":")[2].split())[:200]
        raise ValueError(f"{path} holds no weights of {about['network']}: {reason}") from None
    return model.eval()


def read_state(path):
    """The state dict in a file, without prefixes of torch.compile or DistributedDataParallel."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for key in ("model", "state_dict"):
            state = state.get(key, state)
        prefix = re.compile(r"^(_orig_mod\.|module\.)+")
        return {prefix.sub("", name): tensor for name, tensor in state.items()}
    except Exception as error:  # a damaged file can fail anywhere inside torch.load
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} holds no weights that can be read ({reason})") from None


def about_weights(path):
    """A dict with network, classes, mean and std of weights, from `results.json` beside them.

    Raises ValueError where that file is missing, or does not describe a network of ours.
    """
    results = Path(path).with_name("results.json")
    try:
        about = json.loads(results.read_text(encoding="utf-8"))
        about = {key: about[key] for key in ("network", "classes", "mean", "std")}
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path}: {results.name} beside it is missing, or does not name the network and the "
            "classes of these weights: put the file of the same run there"
        ) from None
    if about["network"] not in NETWORKS:
        raise ValueError(
            f"{path} has weights of {about['network']!r}: here are {' and '.join(NETWORKS)}"
        )
    return about
