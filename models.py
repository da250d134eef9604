"""What is the network, and how far does each layer see?

The custom ResNet of the assignment, and its twin without the two additions:

    from models import s10_model, s10_plain
    model = s10_model()                  # 6,573,120 parameters
    log_probabilities = model(pictures)  # (N, 3, 32, 32) -> (N, 10)

`receptive_field(model)` and `blocks(model)` read their answers off the model, so they work for other networks too.
"""

import torch
from torch import nn
from torch.fx import symbolic_trace
from torch.fx.passes.shape_prop import ShapeProp

TITLES = dict(prep_layer="PrepLayer", layer1="Layer 1", layer2="Layer 2", layer3="Layer 3")
TITLES |= dict(pool="MaxPool", fc="FC", softmax="SoftMax")  # the parts' names in the assignment


def conv_bn_relu(in_channels, out_channels, pool=False):
    """Conv 3x3 (stride 1, padding 1) -> [MaxPool 2] -> BatchNorm -> ReLU, as a list of layers.

    The convolution has no bias: BatchNorm, which follows, would subtract it again.
    """
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=1, padding=1, bias=False)
    pooling = [nn.MaxPool2d(kernel_size=2)] if pool else []
    return [conv, *pooling, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


class ResBlock(nn.Sequential):
    """The residual branch, R = ResBlock(X): Conv-BN-ReLU-Conv-BN-ReLU, shapes unchanged.

    From deep residual learning (He et al. 2015, arXiv:1512.03385), with a ReLU before the addition instead of after it.

    The addition X + R is not in here but in `CustomResNet.forward`, where it can be seen.
    """

    def __init__(self, channels):
        super().__init__(*conv_bn_relu(channels, channels), *conv_bn_relu(channels, channels))


class CustomResNet(nn.Module):
    """The network of the assignment: (N, 3, 32, 32) pictures -> (N, num_classes) log-probabilities.

    The last layer is SoftMax as log-softmax. `log_softmax` of a log-softmax changes nothing, so `CrossEntropyLoss`
    on this output is exactly the cross entropy of the logits; after a plain softmax it would be wrong.

    Args:
        num_classes: number of classes.
        additions: False leaves the two additions out and keeps the layers: the twin for comparison.
    """

    def __init__(self, num_classes=10, additions=True):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}: a classifier needs at least 2 classes")
        self.additions = additions
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
        # Max pooling hands on the largest of 16 values, so the scores would start far too sure of themselves: a loss of
        # 4.3. Scaled by 1/8 (Page 2018, cifar10-fast), they start at ln 10, and the range test sees learning at once.
        with torch.no_grad():
            self.fc.weight.mul_(1 / 8)

    def forward(self, x):
        x = self.prep_layer(x)  # (N, 64, 32, 32)

        x = self.layer1(x)  # (N, 128, 16, 16)
        r1 = self.resblock1(x)
        x = x + r1 if self.additions else r1

        x = self.layer2(x)  # (N, 256, 8, 8)

        x = self.layer3(x)  # (N, 512, 4, 4)
        r2 = self.resblock2(x)
        x = x + r2 if self.additions else r2

        x = self.flatten(self.pool(x))  # (N, 512)
        return self.softmax(self.fc(x))


def s10_model(num_classes=10):
    """The network of the assignment; 6,573,120 parameters with ten classes."""
    return CustomResNet(num_classes)


def s10_plain(num_classes=10):
    """The twin without the two additions: the same layers and parameters, but nothing skips the residual blocks."""
    return CustomResNet(num_classes, additions=False)


def count_parameters(model):
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def trace_shapes(model, input_size):
    """The model as a graph (torch.fx) whose nodes know their output shapes; the model itself is left as it was."""
    parameter = next(model.parameters())
    picture = torch.zeros(1, *input_size, device=parameter.device, dtype=parameter.dtype)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()  # a picture of zeros must not move BatchNorm's statistics
    try:
        graph = symbolic_trace(model)
        with torch.no_grad():
            ShapeProp(graph).propagate(picture)
    finally:
        for module, mode in modes:  # one by one: a part may be frozen
            module.training = mode
    return graph


def receptive_field(model, input_size=(3, 32, 32)):
    """Receptive field after each convolution and pooling, in the order of computation.

    With kernel k, stride s, padding p: field += (k - 1) * jump, then jump *= s, where the jump is the distance, in
    pixels of the picture, between neighbouring outputs (Araujo et al. 2019, doi:10.23915/distill.00021).
    Where two paths are added, the one that sees further counts.

    Args:
        model: any network that torch.fx can trace.
        input_size: (channels, height, width) of the picture.

    Returns:
        A list of dicts: name, kernel, stride, padding, out_size, jump, receptive_field (pixels, of the height).
    """
    rows, seen = [], {}  # seen: node -> (field, jump) of its output
    modules = dict(model.named_modules())
    for node in trace_shapes(model, input_size).graph.nodes:
        field, jump = max((seen[n] for n in node.all_input_nodes if n in seen), default=(1, 1))
        layer = modules.get(node.target) if node.op == "call_module" else None
        if isinstance(layer, nn.Linear):
            break  # from here on every output sees the whole picture
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            kernel, stride, padding = first(layer.kernel_size), first(layer.stride), first(layer.padding)
            field += (kernel - 1) * first(getattr(layer, "dilation", 1)) * jump
            jump *= stride
            out_size = node.meta["tensor_meta"].shape[-2]
            rows.append(dict(name=node.target, kernel=kernel, stride=stride, padding=padding))
            rows[-1].update(out_size=out_size, jump=jump, receptive_field=field)
        seen[node] = (field, jump)
    return rows


def first(value):
    """PyTorch's layers hold either one number for both directions or a pair."""
    return value[0] if isinstance(value, tuple) else value


def blocks(model, input_size=(3, 32, 32)):
    """What a drawing of the network needs (`utils.plot_model`): its parts in order, with layers and output shapes.

    Returns:
        A list of dicts: name, layers (texts), out (channels, height, width), residual (texts of the branch, or None),
        add (whether the branch's output is added to its input).
    """
    shapes = {
        str(node.target): tuple(node.meta["tensor_meta"].shape[1:])
        for node in trace_shapes(model, input_size).graph.nodes
        if node.op == "call_module"
    }
    rows = []
    for name, part in model.named_children():
        leaves = [(n, m) for n, m in part.named_modules(prefix=name) if not list(m.children())]
        texts = [describe(layer) for _, layer in leaves]
        if isinstance(part, ResBlock) and rows:
            rows[-1].update(residual=texts, add=model.additions)
        elif not isinstance(part, nn.Flatten):
            title = TITLES.get(name, name)
            rows.append(dict(name=title, layers=texts, out=shapes[leaves[-1][0]], residual=None, add=False))
    return rows


def describe(layer):
    """One layer in a few words, for a drawing."""
    match layer:
        case nn.Conv2d():
            return f"Conv {first(layer.kernel_size)}×{first(layer.kernel_size)}, {layer.out_channels}"
        case nn.MaxPool2d():
            return f"MaxPool {first(layer.kernel_size)}"
        case nn.BatchNorm2d():
            return "BatchNorm"
        case nn.Linear():
            return f"Linear {layer.in_features} → {layer.out_features}"
    return type(layer).__name__
