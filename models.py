"""The custom ResNet of the assignment, the same network without skip connections, and receptive
fields.

    from models import s10_model, s10_plain
    model = s10_model()               # 6,573,120 parameters
    log_probabilities = model(images) # (N, 3, 32, 32) -> (N, 10)

`receptive_field(model)` reads kernels and strides off the model itself, so it works for other
networks too.
"""

import torch
from torch import nn


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
    second ReLU before the addition, not after it. The addition X + R is in `CustomResNet.forward`,
    where one can see it.
    """

    def __init__(self, channels):
        super().__init__(*conv_bn_relu(channels, channels), *conv_bn_relu(channels, channels))


class CustomResNet(nn.Module):
    """The network of the assignment: images (N, 3, 32, 32) -> log-probabilities (N, num_classes),
    float32.

    Args:
        num_classes: number of classes, 2 or more.
        residual: False leaves out the two additions, and nothing else: the plain network, for
            comparison.
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
        # MaxPool takes the largest of 4x4 values, so the first logits would be far too confident: a
        # loss of 4.3 instead of ln 10 = 2.3. Scaling them by 1/8 (Page 2018, cifar10-fast) lets
        # learning begin at once.
        with torch.no_grad():
            self.fc.weight.mul_(1 / 8)

    def forward(self, x):
        x = self.prep_layer(x)  # (N, 64, 32, 32)

        x = self.layer1(x)  # (N, 128, 16, 16)
        r1 = self.resblock1(x)
        x = (
            x + r1 if self.residual else r1
        )  # the skip connection: past the block, the gradient reaches x unchanged

        x = self.layer2(x)  # (N, 256, 8, 8)

        x = self.layer3(x)  # (N, 512, 4, 4)
        r2 = self.resblock2(x)
        x = x + r2 if self.residual else r2

        x = self.flatten(self.pool(x))  # (N, 512)
        # SoftMax comes last, as its logarithm: log-softmax of log-softmax changes nothing, so
        # CrossEntropyLoss on this output is the cross entropy of the logits. In float32, since
        # bfloat16 has three digits only.
        return self.softmax(self.fc(x).float())


def s10_model(num_classes=10):
    """The network of the assignment; 6,573,120 parameters with ten classes."""
    return CustomResNet(num_classes)


def s10_plain(num_classes=10):
    """The plain network: the same layers and parameters, without the two skip connections."""
    return CustomResNet(num_classes, residual=False)


def count_parameters(model):
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def load_weights(path, num_classes=10):
    """The network with trained weights, a state dict in float32 or bfloat16; ValueError where the
    file has none.
    """
    model = s10_model(num_classes)
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged file can fail anywhere inside torch.load
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} holds no weights of this network with {num_classes} classes ({reason})"
        ) from None
    return model.eval()
