"""The custom ResNet of the assignment, the same network without skip connections, and receptive
fields.

    from models import s10_model, s10_plain
    model = s10_model()               # 6,573,120 parameters
    log_probabilities = model(images) # (N, 3, 32, 32) -> (N, 10)

`receptive_field(model)` reads kernels and strides off the model itself, so it works for other
networks too.
"""

import copy

import torch
from torch import nn
from torch.fx import symbolic_trace
from torch.fx.passes.shape_prop import ShapeProp


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


def receptive_field(model, input_size=(3, 32, 32)):
    """Receptive field after each convolution and pooling, in the order of computation.

    With kernel k, stride s: field += (k - 1) * jump, then jump *= s, where the jump is the distance
    in pixels of the image between neighbouring outputs (Araujo et al. 2019,
    doi:10.23915/distill.00021). Where two paths are added, the larger field counts.

    Args:
        model: a network that torch.fx can trace, with convolutions and pooling as layers
            (nn.Conv2d, nn.MaxPool2d, …).
        input_size: (channels, height, width) of the image.

    Returns:
        A list of dicts: name, kernel, stride, padding, out_size, jump, receptive_field (pixels of
            the height).

    Raises ValueError where something changes the image's size, and its kernel cannot be read.
    """
    rows, seen = [], {}  # seen: node -> (field, jump) of its output
    modules = dict(model.named_modules())
    for node in trace_shapes(model, input_size).graph.nodes:
        field, jump = max((seen[n] for n in node.all_input_nodes if n in seen), default=(1, 1))
        layer = modules.get(node.target) if node.op == "call_module" else None
        what = type(layer).__name__ if layer else getattr(node.target, "__name__", str(node.target))
        before, size = (
            height(node.all_input_nodes[0]) if node.all_input_nodes else None,
            height(node),
        )
        if isinstance(layer, nn.Linear) or (before and size == 0):
            break  # from here on every output depends on the whole image
        if isinstance(
            layer,
            nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d | nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d,
        ):
            kernel, stride, padding, dilation = window(layer, before, size)
            field += (kernel - 1) * dilation * jump
            jump *= stride
            row = dict(
                name=node.target, kernel=kernel, stride=stride, padding=padding, out_size=size
            )
            rows.append(row | dict(jump=jump, receptive_field=field))
        elif (
            before and size and (size != before or "pool" in what.lower() or "conv" in what.lower())
        ):
            raise ValueError(
                f"{node.name} ({what}) has no kernel that can be read: use nn.Conv2d, nn.MaxPool2d, …"
            )
        seen[node] = (field, jump)
    return rows


def window(layer, before, size):
    """(kernel, stride, padding, dilation) of a layer that takes `before` pixels to `size`, along
    the height.
    """
    if isinstance(layer, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
        if before % size:
            raise ValueError(
                f"adaptive pooling from {before} to {size} pixels has windows of several sizes"
            )
        return before // size, before // size, 0, 1
    values = (layer.kernel_size, layer.stride, layer.padding, getattr(layer, "dilation", 1))
    return tuple(
        v[0] if isinstance(v, tuple) else v for v in values
    )  # one number for both directions, or a pair


def height(node):
    """Height in pixels of a node's output: 0 for a tensor that is no image, None for what is no
    tensor (a size).
    """
    shape = getattr(node.meta.get("tensor_meta"), "shape", None)
    return shape and (shape[2] if len(shape) == 4 else 0)


def trace_shapes(model, input_size):
    """The model as a torch.fx graph whose nodes know the shapes of their outputs; the model itself
    is not changed.
    """
    graph = symbolic_trace(copy.deepcopy(model).eval())
    parameter = next(model.parameters(), torch.zeros(()))
    with torch.no_grad():
        ShapeProp(graph).propagate(
            torch.zeros(1, *input_size, device=parameter.device, dtype=parameter.dtype)
        )
    return graph


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
