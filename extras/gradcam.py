"""Grad-CAM: which places of an image speak for a class (Selvaraju et al. 2017, arXiv:1610.02391).

maps = [grad_cam(model, tensors, classes, model.layer2) for classes in (predicted, labels)]
plot_gradcam(images, labels, predicted, *maps, names, path="misc/gradcam.png")
"""

import contextlib

import numpy as np
import torch
from matplotlib import patheffects
from PIL import Image

import utils

MAX_IMAGES = 20  # images in a figure
HALO = [patheffects.withStroke(linewidth=5, foreground="white")]  # readable on any image


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
        said = f"classes has shape {tuple(classes.shape)}"
        raise ValueError(f"{said}: give one for each of the {len(images)} images")
    device = next(model.parameters()).device
    outputs = []

    def record(module, inputs, output):
        if isinstance(output, torch.Tensor):
            outputs.append(output.detach().requires_grad_())  # works behind frozen layers too
            return outputs[-1].clone()  # the next layer may work in place

    with (
        layer.register_forward_hook(record),
        torch.inference_mode(False),
        torch.enable_grad(),
        evaluation_mode(model),
    ):
        # A tensor from inference mode has no gradient, its copy has. Contiguous, for channels last
        # gives wrong gradients on Apple's GPU (pytorch#175190).
        logits = model(images.to(device, copy=True, memory_format=torch.contiguous_format))
        if not outputs or outputs[-1].ndim != 4:
            said = f"layer {type(layer).__name__} gives no output (N, channels, h, w)"
            raise ValueError(f"{said}: take another one")
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < logits.shape[1]:
            said = f"classes are {classes.min()} to {classes.max()}"
            raise ValueError(f"{said}, but the network has {logits.shape[1]}: name existing ones")
        chosen = logits.gather(1, classes.to(device, copy=True)[:, None])
        # of the sum, since a logit depends on its own image only
        (gradient,) = torch.autograd.grad(chosen.sum(), outputs[-1])
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    maps = (weights * outputs[-1].detach()).sum(dim=1).relu().float()
    highest = maps.amax(dim=(1, 2), keepdim=True)
    return (maps / torch.where(highest > 0, highest, 1)).cpu().numpy()


@contextlib.contextmanager
def evaluation_mode(model):
    """Evaluation mode; afterwards each module has its own mode again (some may be frozen)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@utils.styled
def plot_gradcam(
    images, labels, predictions, maps_predicted, maps_true, classes, *, note="", path=None
) -> utils.Figure:
    """The first 20 images, each beside its Grad-CAM maps for the predicted and for the true class.

    labels, predictions: N class indices. maps_predicted, maps_true: (N, h, w) in [0, 1], from
    `grad_cam`, drawn as contours.
    """
    if len(images) == 0:
        return utils.finish(utils.new_figure(height_px=40), "No images", note, path)
    together = {"images": images, "labels": labels, "predictions": predictions}
    utils.check_lengths(**together, maps_predicted=maps_predicted, maps_true=maps_true)
    utils.check_classes(classes, labels=labels, predictions=predictions)
    shown = range(min(MAX_IMAGES, len(images)))
    side = utils.sharp_side(images[0], 128)
    width, height = 408, side + 32  # of an image with its two maps; two of them stand in a row
    fig = utils.new_figure(utils.WIDTH, 18 + -(-len(shown) // 2) * height, None)
    for i in shown:
        corner = utils.MARGIN + i % 2 * width, 18 + i // 2 * height
        cells = utils.image_grid(fig, [images[i]] * 3, 3, side, corner)
        right = predictions[i] == labels[i]
        mark, colour = ("✓", utils.BLUE) if right else ("✗", utils.ORANGE)
        parts = [
            ("image", "", utils.INK, None),
            ("predicted class", f"{mark} {classes[predictions[i]]}", colour, maps_predicted),
            ("true class", f"✓ {classes[labels[i]]}", utils.BLUE, maps_true),
        ]
        for cell, (heading, caption, colour, maps) in zip(cells, parts, strict=True):
            ax, x, y = cell
            utils.put_text(fig, x, y + 5, caption, side, size=12, color=colour)
            if i < 2:
                utils.put_text(fig, x, -4, heading, side, size=12, color=utils.GREY)
            if maps is not None:
                draw_contours(ax, maps[i], np.shape(images[i])[:2], colour)
    title = "Evidence for the predicted and for the true class"
    if len(images) > MAX_IMAGES:
        title = f"{title}: {MAX_IMAGES} of {len(images):,}"
    words = "Grad-CAM: contours at 50 % (thin) and 80 % (thick) of the largest value of each map"
    return utils.finish(fig, f"{title}\n{words}", note, path)


def draw_contours(ax, heat, shape: tuple, colour: str) -> None:
    """Lines around where the map is above one half and above four fifths.

    shape: (height, width) of the image, over which the map is stretched.
    """
    heat = np.asarray(heat, dtype=np.float32)
    high, wide = shape
    if not heat.any():
        style = {"size": utils.SMALL, "ha": "center", "path_effects": HALO}
        ax.text(wide / 2, high / 2, "empty map", **style)
    across, down = np.linspace(-0.5, wide - 0.5, 128), np.linspace(-0.5, high - 0.5, 128)
    smooth = np.asarray(Image.fromarray(heat).resize((128, 128), Image.Resampling.BICUBIC))
    for level, width in ((0.5, 1.8), (0.8, 3.4)):
        if smooth.min() < level < smooth.max():
            lines = ax.contour(across, down, smooth, [level], colors=colour, linewidths=width)
            lines.set_path_effects(HALO)
