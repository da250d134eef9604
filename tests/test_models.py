"""Is it the network of the assignment, layer by layer, and is what it says about itself true?"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchsummary import summary
from torchvision.models import resnet18

from models import ResBlock, blocks, count_parameters, receptive_field, s10_model, s10_plain

BLOCK = ["Conv2d", "BatchNorm2d", "ReLU"]
POOLED = ["Conv2d", "MaxPool2d", "BatchNorm2d", "ReLU"]
STAGES = [  # name, layers, shape of the output for a picture of 32x32
    ("prep_layer", BLOCK, (64, 32, 32)),
    ("layer1", POOLED, (128, 16, 16)),
    ("resblock1", BLOCK + BLOCK, (128, 16, 16)),
    ("layer2", POOLED, (256, 8, 8)),
    ("layer3", POOLED, (512, 4, 4)),
    ("resblock2", BLOCK + BLOCK, (512, 4, 4)),
    ("pool", ["MaxPool2d"], (512, 1, 1)),
    ("flatten", ["Flatten"], (512,)),
    ("fc", ["Linear"], (10,)),
    ("softmax", ["LogSoftmax"], (10,)),
]
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


@pytest.fixture(scope="module")
def model():
    """The network with BatchNorms as after some training: no order of layers is like another any more."""
    torch.manual_seed(0)
    model = s10_model()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, std=1.5)  # negative ones too: BatchNorm and MaxPool no longer commute
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return model.eval()


@pytest.fixture(scope="module")
def pictures():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def watch(model, names):
    """Keep a copy of the input and of the output of some modules: {name: (input, output)}, filled when it runs."""
    seen = {}
    for name in names:

        def hook(_, inputs, output, name=name):
            seen[name] = (inputs[0].clone(), output.clone())

        model.get_submodule(name).register_forward_hook(hook)
    return seen


@torch.no_grad()
def test_layers_and_shapes_are_those_of_the_assignment(model, pictures):
    names = [name for name, _, _ in STAGES]
    assert [name for name, _ in model.named_children()] == names
    watched = copy.deepcopy(model)
    seen = watch(watched, names)
    watched(pictures)
    assert list(seen) == names  # in the order of computation
    for name, layers, shape in STAGES:
        part = model.get_submodule(name)
        assert [type(layer).__name__ for layer in (part if len(layers) > 1 else [part])] == layers
        assert seen[name][1].shape[1:] == shape


@pytest.mark.parametrize("make", [s10_model, s10_plain])
def test_there_are_6_573_120_parameters(make):
    assert count_parameters(make()) == 6_573_120


def test_the_layers_have_the_settings_of_the_assignment(model):
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            assert (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (1, 1), (1, 1))
    pools = [layer.kernel_size for layer in model.modules() if isinstance(layer, nn.MaxPool2d)]
    assert pools == [2, 2, 2, 4]
    assert model.fc.bias is None


def by_hand(state, x, additions):
    """The network once more, from the assignment's text: functions and a dict of weights only."""

    def bn_relu(x, name):
        names = ("running_mean", "running_var", "weight", "bias")
        return F.relu(F.batch_norm(x, *(state[f"{name}.{n}"] for n in names)))

    def conv(x, name):
        return F.conv2d(x, state[f"{name}.weight"], padding=1)

    def layer(x, name):
        return bn_relu(F.max_pool2d(conv(x, f"{name}.0"), 2), f"{name}.2")

    def res_block(x, name):
        return bn_relu(conv(bn_relu(conv(x, f"{name}.0"), f"{name}.1"), f"{name}.3"), f"{name}.4")

    x = bn_relu(conv(x, "prep_layer.0"), "prep_layer.1")
    x = layer(x, "layer1")
    x = res_block(x, "resblock1") + (x if additions else 0)
    x = layer(x, "layer2")
    x = layer(x, "layer3")
    x = res_block(x, "resblock2") + (x if additions else 0)
    logits = F.max_pool2d(x, 4).flatten(1) @ state["fc.weight"].T
    return F.log_softmax(logits, dim=1)


@torch.no_grad()
def test_both_networks_compute_what_the_assignment_says(model, pictures):
    """One state for both: so the twin differs in the additions, and in nothing else."""
    plain = s10_plain().eval()
    plain.load_state_dict(model.state_dict())
    ours, twins = model(pictures), plain(pictures)
    torch.testing.assert_close(ours, by_hand(model.state_dict(), pictures, additions=True), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(twins, by_hand(model.state_dict(), pictures, additions=False), rtol=1e-4, atol=1e-4)
    assert (ours - twins).abs().max() > 0.1


@torch.no_grad()
def test_the_same_seed_gives_both_networks_the_same_weights():
    torch.manual_seed(3)
    ours = s10_model().state_dict()
    torch.manual_seed(3)
    twins = s10_plain().state_dict()
    assert ours.keys() == twins.keys()
    assert all(torch.equal(ours[name], twins[name]) for name in ours)


@torch.no_grad()
@pytest.mark.parametrize(
    ("before", "branch", "after"), [("layer1", "resblock1", "layer2"), ("layer3", "resblock2", "pool")]
)
def test_without_its_branch_the_addition_gives_x_back(model, pictures, before, branch, after):
    changed = copy.deepcopy(model)
    seen = watch(changed, [before, after])
    changed(pictures)
    assert not torch.equal(seen[before][1], seen[after][0])  # with the branch

    last = changed.get_submodule(branch)[4]
    assert isinstance(last, nn.BatchNorm2d)
    nn.init.zeros_(last.weight), nn.init.zeros_(last.bias)
    changed(pictures)
    assert torch.equal(seen[before][1], seen[after][0])


@torch.no_grad()
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_on_the_output_is_the_cross_entropy_of_the_logits(model, pictures, smoothing):
    watched = copy.deepcopy(model)
    seen = watch(watched, ["fc"])
    output, labels = watched(pictures), torch.tensor([0, 3, 9, 3])
    logits = seen["fc"][1]
    logs = logits.double() - logits.double().exp().sum(1, keepdim=True).log()
    target = F.one_hot(labels, 10) * (1 - smoothing) + smoothing / 10
    loss = nn.CrossEntropyLoss(label_smoothing=smoothing)(output, labels)
    assert math.isclose(loss, -(target * logs).sum(1).mean(), rel_tol=1e-5)
    torch.testing.assert_close(output.exp().sum(1), torch.ones(4))
    assert not torch.allclose(output, logits, atol=0.01)


def test_a_new_network_knows_nothing(pictures):
    """Its loss is about ln(10), which is that of guessing: the range test then sees learning at once."""
    with torch.no_grad():
        loss = F.cross_entropy(s10_model()(pictures.repeat(4, 1, 1, 1)), torch.arange(16) % 10)
    assert abs(loss - math.log(10)) < 0.5


def test_other_numbers_of_classes(pictures):
    with torch.no_grad():
        assert s10_model(7).eval()(pictures).shape == (4, 7)
        assert s10_plain(2).eval()(pictures).shape == (4, 2)


@pytest.mark.parametrize("classes", [1, 0, -3])
def test_less_than_two_classes_are_refused(classes):
    for make in (s10_model, s10_plain):
        with pytest.raises(ValueError, match=f"num_classes is {classes}: .* at least 2 classes"):
            make(classes)


@pytest.mark.parametrize("make", [s10_model, s10_plain])
def test_fields_of_the_network(make):
    rows = receptive_field(make())
    assert {row["name"]: row["receptive_field"] for row in rows} == FIELDS
    assert [row["name"] for row in rows] == list(FIELDS)
    assert rows[0]["receptive_field"] == 3 and rows[-1]["receptive_field"] == 88
    assert [row["out_size"] for row in rows] == [32, 32, 16, 16, 16, 16, 8, 8, 4, 4, 4, 1]
    assert [row["jump"] for row in rows] == [1, 1, 2, 2, 2, 2, 4, 4, 8, 8, 8, 32]
    assert rows[2] == dict(name="layer1.1", kernel=2, stride=2, padding=0, out_size=16, jump=2, receptive_field=6)
    assert rows[0] | dict(kernel=3, stride=1, padding=1) == rows[0]
    assert rows[-1] | dict(kernel=4, stride=4, padding=0) == rows[-1]


def reach(model, names, size):
    """How many rows and columns of a picture really move the middle output of each layer: {name: (rows, columns)}.

    Where a gradient is not zero, a pixel is in reach. Max pools pass it to one pixel of each window only, so average
    pools, which have the same reach, stand in for them. No padding may be in reach: the picture is large.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for parent in list(model.modules()):
        for name, pool in list(parent.named_children()):
            if isinstance(pool, nn.MaxPool2d):
                setattr(parent, name, nn.AvgPool2d(pool.kernel_size, pool.stride, pool.padding))
    outputs = {}
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda m, i, out, name=name: outputs.update({name: out}))
    picture = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(2)).requires_grad_()
    model(picture)
    found = {}
    for name, output in outputs.items():
        middle = output[0, :, output.shape[2] // 2, output.shape[3] // 2].sum()
        (gradient,) = torch.autograd.grad(middle, picture, retain_graph=True)
        rows, columns = (torch.nonzero(gradient[0].abs().sum((0, axis))).flatten() for axis in (2, 1))
        assert rows[0] > 0 and rows[-1] < size - 1, "the picture is too small"
        found[name] = (int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1)
    return found


def test_fields_are_the_pixels_that_really_reach_an_output():
    model = s10_model()
    model.flatten, model.fc, model.softmax = nn.Identity(), nn.Identity(), nn.Identity()  # any size of picture will do
    assert reach(model, FIELDS, size=96) == {name: (field, field) for name, field in FIELDS.items()}


class Branched(nn.Module):
    """A short and a far-sighted path, added and then joined, with a dilated and a strided convolution."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, stride=2, padding=2)
        self.near = nn.Conv2d(8, 8, 1)
        self.far = nn.Sequential(nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.tail = nn.Conv2d(16, 4, (3, 3), padding="same")
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([self.far(x) + self.near(x), x], dim=1)
        return self.fc(self.tail(self.pool(x)).mean((2, 3)))


def test_fields_of_a_branched_network():
    rows = {row["name"]: row for row in receptive_field(Branched())}
    fields = {name: row["receptive_field"] for name, row in rows.items()}
    assert fields == {"stem": 5, "near": 5, "far.0": 13, "far.2": 17, "pool": 21, "tail": 29}
    assert reach(Branched(), fields, 64) == {name: (field, field) for name, field in fields.items()}
    assert rows["far.0"]["padding"] == 2 and rows["tail"]["jump"] == 4


def test_fields_of_resnet18():
    """Against the published numbers: 435 pixels after the last stage (Araujo et al. 2019)."""
    rows = {row["name"]: row for row in receptive_field(resnet18(), (3, 224, 224))}
    stages = ["conv1", "maxpool", "layer1.1.conv2", "layer2.1.conv2", "layer3.1.conv2", "layer4.1.conv2"]
    assert [rows[name]["receptive_field"] for name in stages] == [7, 11, 43, 99, 211, 435]
    assert [rows[name]["out_size"] for name in stages] == [112, 56, 56, 28, 14, 7]
    assert rows["layer2.0.downsample.0"]["receptive_field"] == 43  # the short way


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("ask", [receptive_field, blocks])
def test_being_asked_leaves_a_network_as_it_was(ask, training):
    model = s10_model().train(training)
    model.layer1.eval()  # a frozen part
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    random_state = torch.get_rng_state()
    ask(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(model.fc.weight.grad, torch.ones_like(model.fc.weight))
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(("make", "add"), [(s10_model, True), (s10_plain, False)])
def test_blocks_say_what_there_is_to_draw(make, add):
    parts = blocks(make())
    names = ["PrepLayer", "Layer 1", "Layer 2", "Layer 3", "MaxPool", "FC", "SoftMax"]
    assert [part["name"] for part in parts] == names
    assert parts[0]["layers"] == ["Conv 3×3, 64", "BatchNorm", "ReLU"]
    assert parts[1]["layers"] == ["Conv 3×3, 128", "MaxPool 2", "BatchNorm", "ReLU"]
    assert parts[4]["layers"] == ["MaxPool 4"]
    assert parts[5]["layers"] == ["Linear 512 → 10"]
    assert parts[6]["layers"] == ["LogSoftmax"]
    shapes = [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 1, 1), (10,), (10,)]
    assert [part["out"] for part in parts] == shapes
    assert [part["add"] for part in parts] == [False, add, False, add, False, False, False]
    assert parts[3]["residual"] == ["Conv 3×3, 512", "BatchNorm", "ReLU"] * 2
    assert [part["residual"] is None for part in parts] == [True, False, True, False, True, True, True]


def test_a_residual_block_keeps_shapes():
    with torch.no_grad():
        assert ResBlock(6)(torch.randn(2, 6, 5, 7)).shape == (2, 6, 5, 7)


def test_torchsummary_reads_the_network(capsys):
    summary(s10_model(), (3, 32, 32), device="cpu")
    printed = capsys.readouterr().out
    assert "Total params: 6,573,120" in printed
    assert "[-1, 512, 4, 4]" in printed and "LogSoftmax" in printed


def test_it_learns():
    """Every weight gets a gradient, through the additions and the branches."""
    model = s10_model()
    F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
