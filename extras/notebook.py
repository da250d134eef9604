"""What the notebook needs besides the story: source code and figures as outputs, all GPUs."""

import inspect
import io
import os
import textwrap


def show_source(*objects):
    """The source code of functions or classes, highlighted, as it stands in the files; without
    their docstrings.
    """
    from IPython.display import Markdown

    parts = []
    for thing in objects:
        before, _, rest = inspect.getsource(thing).partition('"""')
        source = before.rstrip() + rest.partition('"""')[2]
        file = os.path.basename(inspect.getsourcefile(thing))
        parts.append(f"`{file}`\n```python\n{textwrap.dedent(source).strip()}\n```")
    return Markdown("\n\n".join(parts))


def show(figure, alt):
    """A matplotlib figure as a cell's output: a sharp PNG, with an alternative text."""
    import PIL.Image
    from IPython.display import Image

    drawn, content = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=figure.dpi)
    pixels = PIL.Image.open(drawn).convert("RGB")
    # Curves look the same in 256 colours, in a third of the bytes
    if not any(ax.images for ax in figure.axes):
        pixels = pixels.quantize(256)
    pixels.save(content, "png", optimize=True)
    return Image(content.getvalue(), format="png", width=830, metadata={"alt": alt})


def augmentation_stages(image, mean):
    """The augmentation's steps one after the other: {name: (H, W, 3) uint8 image}, for a figure."""
    import numpy as np

    import transform

    size, padding, hole_side = len(image), transform.PADDING, transform.HOLE
    reach = (padding, padding)
    padded = np.pad(image, (reach, reach, (0, 0)), mode="reflect")
    top, left = padding // 4, 3 * padding // 2  # one of the crops that may be drawn
    crop = padded[top : top + size, left : left + size]
    flipped = crop[:, ::-1]
    holed = flipped.copy()
    row, column = size // 2, size // 4
    hole = holed[row : row + hole_side, column : column + hole_side]
    hole[:] = transform.mean_colour(mean)
    return {
        "original": image,
        f"pad {padding}": padded,
        f"crop {size}": crop,
        "flip": flipped,
        f"cutout {hole_side}×{hole_side}": holed,
    }


def augmentation_draws(image, mean, std, n=8):
    """n augmentations of one image by each loader: {name: list of (H, W, 3) images in [0, 1]}."""
    import numpy as np

    import transform
    from dataset import ArrayDataset, DeviceLoader, SeededLoader, UnNormalize

    copies = ArrayDataset(np.repeat(image[None], n, axis=0), [0] * n, ["image"])
    libraries = {
        "albumentations": transform.albumentations_transforms,
        "torchvision": transform.torchvision_transforms,
    }
    loaders = {}
    for name, make in libraries.items():
        for_train, _ = make(mean, std, len(image))
        loaders[name] = SeededLoader(copies.with_transform(for_train), batch_size=n)
    loaders["device"] = DeviceLoader(copies, n, mean=mean, std=std)

    pixels, draws = UnNormalize(mean, std), {}
    for name, loader in loaders.items():
        ((batch, _),) = loader
        draws[name] = [image.permute(1, 2, 0).numpy() for image in pixels(batch)]
    return draws


def train_on_all_gpus(checkpoint, **options):
    """Train with `torchrun main.py` on every GPU here; `train.fit` then finds the run finished.

    Args:
        checkpoint: of the run, whose folder the processes use.
        options: of main.py's command line: batch_size=512 becomes --batch-size 512; None leaves an
            option out.
    """
    import torch

    from extras.distributed import torchrun

    arguments = ["--out", str(checkpoint.folder)]
    for name, value in options.items():
        if value is not None:
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    torchrun(torch.cuda.device_count(), arguments)
