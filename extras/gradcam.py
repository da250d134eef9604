"""Compute Grad-CAM maps: which places of an image speak for a class (Selvaraju et al. 2017,
arXiv:1610.02391).

maps = grad_cam(model, images, predicted, model.layer2)     # (N, h, w) in [0, 1]
plot_gradcam(…)                                             # from extras/figures.py: contours on
the images
"""

import contextlib

import torch


def grad_cam(model, images, classes, layer):
    """Show which places of each image speak for a class.

    Each channel of the layer's output is weighted by how much the class's logit would grow with it
    (the gradient, averaged over all places); the weighted channels are summed up, and what is
    negative is set to 0. Where a model ends in log-softmax, as ours, the map shows what speaks for
    the class rather than for the others.

    model: (N, 3, H, W) -> (N, C) logits; its mode, gradients and hooks are the same afterwards.
    images: one batch, normalised as for training. classes: N class indices, e.g. the predicted
    ones. layer: any that still has a height and a width; early ones show simple patterns finely,
    late ones (`model.layer4` of a ResNet-18) objects coarsely. Returns a float32 NumPy array (N, h,
    w), h and w those of the layer's output. The largest value of a map is 1, or 0 where nothing
    speaks for the class.
    """
    classes = torch.as_tensor(classes, dtype=torch.int64)
    if classes.shape != images.shape[:1]:
        raise ValueError(
            f"classes has shape {tuple(classes.shape)}: give one for each of the {len(images)} images"
        )
    device, outputs = next(model.parameters()).device, []

    def record(module, inputs, output):
        if isinstance(output, torch.Tensor):
            outputs.append(
                output.detach().requires_grad_()
            )  # gradients begin here, so frozen parts will do
            return outputs[-1].clone()  # the next layer may work in place

    with (
        layer.register_forward_hook(record),
        torch.inference_mode(False),
        torch.enable_grad(),
        evaluation_mode(model),
    ):
        logits = model(
            images.to(device, copy=True)
        )  # a tensor from inference mode has no gradient, its copy has
        if not outputs or outputs[-1].ndim != 4:
            raise ValueError(
                f"layer {type(layer).__name__} gives no output (N, channels, h, w): take another one"
            )
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < logits.shape[1]:
            raise ValueError(
                f"classes are {classes.min()} to {classes.max()}, but the network has {logits.shape[1]}"
            )
        chosen = logits.gather(1, classes.to(device, copy=True)[:, None])
        (gradient,) = torch.autograd.grad(
            chosen.sum(), outputs[-1]
        )  # the sum: a logit depends on its own image only
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    maps = (weights * outputs[-1].detach()).sum(dim=1).relu().float()
    highest = maps.amax(dim=(1, 2), keepdim=True)
    return (maps / torch.where(highest > 0, highest, 1)).cpu().numpy()


@contextlib.contextmanager
def evaluation_mode(model):
    """Evaluation mode inside; afterwards each part has its own mode again, since some may have been
    frozen.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
