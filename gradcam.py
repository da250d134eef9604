"""Where does the network look? Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391).

    maps = grad_cam(model, pictures, classes, model.layer2)     # (N, h, w) in [0, 1]: what spoke for these classes
    plot_mistakes(..., maps=maps)                               # from utils.py: each map over its picture

Works for any network, at any layer that still has a height and a width: `model.layer4` of torchvision's ResNet-18, say.
"""

import contextlib

import torch


def grad_cam(model, pictures, classes, layer):
    """Show which places of each picture spoke for a class.

    A channel of the layer's output counts as much as the class's score would grow with it (the gradient, averaged over
    all places). The channels are added up with these weights; what is left above zero spoke for the class.

    The score is the model's output. The paper takes it before softmax; where a model ends in log-softmax, as ours, the
    map shows what spoke for the class rather than for the others.

    Args:
        model: (N, 3, H, W) -> (N, C) scores. Its mode, gradients and hooks are afterwards as they were.
        pictures: (N, 3, H, W), normalised as for training; one batch.
        classes: N class indices, e.g. the predicted ones.
        layer: the part of the model to look at. An early one gives fine maps of simple things, a late one coarse maps
            of whole objects.

    Returns:
        (N, h, w) float32 NumPy array in [0, 1], h and w those of the layer's output; the largest value of a map is 1,
        or 0 where nothing spoke for the class.

    Raises:
        ValueError: pictures and classes do not fit, or the layer gives no maps.
    """
    classes = torch.as_tensor(classes, dtype=torch.int64)
    if classes.shape != pictures.shape[:1]:
        raise ValueError(f"{len(pictures)} pictures have classes of shape {tuple(classes.shape)}: give one for each")
    device = next(model.parameters()).device
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model), watched(layer) as seen:
        scores = model(pictures.to(device, copy=True))  # a tensor from inference mode has no gradients, its copy has
        if not seen or seen[-1].ndim != 4:
            raise ValueError(f"the layer {type(layer).__name__} gives no maps (N, channels, h, w): take another one")
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < scores.shape[1]:
            raise ValueError(f"classes go from {classes.min()} to {classes.max()}: the network has {scores.shape[1]}")
        chosen = scores.gather(1, classes.to(device, copy=True)[:, None])
        (gradient,) = torch.autograd.grad(chosen.sum(), seen[-1])  # a picture's score depends on that picture only
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    maps = (weights * seen[-1].detach()).sum(dim=1).relu().float()
    highest = maps.amax(dim=(1, 2), keepdim=True)
    return (maps / torch.where(highest > 0, highest, 1)).cpu().numpy()


@contextlib.contextmanager
def evaluating(model):
    """Evaluation mode inside; afterwards each part has its own mode again, for some may have been frozen."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def watched(layer):
    """A list that receives what the layer gives, each time the network runs inside.

    The network computes on with a copy, for what comes next may change its input in place. Gradients begin here: what
    lies before the layer needs none, so a frozen network will do.
    """
    seen = []

    def keep(module, inputs, output):
        if not isinstance(output, torch.Tensor):
            return None
        seen.append(output.detach().requires_grad_())
        return seen[-1].clone()

    handle = layer.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()
