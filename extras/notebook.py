"""What the notebook needs besides the story: set-up in Colab, source code and figures as outputs,
all GPUs at once.
"""

import inspect
import io
import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec

PACKAGES = ("torch_lr_finder", "torchsummary", "albumentations")  # what Colab or Kaggle may lack


def install_absent():
    """Install what is absent in Colab or Kaggle, and never PyTorch: another version of it would
    break there.
    """
    hosted = "google.colab" in sys.modules or "KAGGLE_KERNEL_RUN_TYPE" in os.environ
    absent = [package for package in PACKAGES if find_spec(package) is None]
    if hosted and absent:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *absent], check=True)


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
    """A matplotlib figure as a cell's output: a PNG with a text for those who cannot see it, sharp
    on any screen.
    """
    import PIL.Image
    from IPython.display import Image

    drawn, content = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=figure.dpi)
    pixels = PIL.Image.open(drawn).convert("RGB")
    if not any(
        ax.images for ax in figure.axes
    ):  # curves look the same in 256 colours, in a third of the bytes
        pixels = pixels.quantize(256)
    pixels.save(content, "png", optimize=True)
    return Image(content.getvalue(), format="png", width=830, metadata={"alt": alt})


def augmentation_stages(image, mean):
    """The steps of the augmentation one after the other, for a figure: {name: (H, W, 3) uint8
    image}.
    """
    import numpy as np

    import transform as tf

    size, colour = len(image), tf.mean_colour(mean)
    padded = np.full((size + 2 * tf.PADDING, size + 2 * tf.PADDING, 3), colour, np.uint8)
    padded[tf.PADDING : -tf.PADDING, tf.PADDING : -tf.PADDING] = image
    crop = padded[1 : 1 + size, 6 : 6 + size]
    flipped = crop[:, ::-1]
    holed = flipped.copy()
    holed[size // 2 : size // 2 + tf.HOLE, size // 4 : size // 4 + tf.HOLE] = colour
    return {
        "original": image,
        "pad 4": padded,
        f"crop {size}": crop,
        "flip": flipped,
        "cutout 8×8": holed,
    }


def augmentation_draws(image, mean, std, n=8):
    """n random augmentations of one image by each of the three loaders: {name: list of (H, W, 3)
    images}.
    """
    import numpy as np

    from dataset import ArrayDataset, Data, UnNormalize, loaders

    copies = ArrayDataset(np.repeat(image[None], n, axis=0), [0] * n, ["image"])
    data, draws = Data("copies of one image", copies, copies, mean, std), {}
    for name in ("albumentations", "torchvision", "device"):
        ((batch, _),) = loaders(data, n, loader=name, workers=0, log=lambda *_: None)[0]
        draws[name] = [pixels.permute(1, 2, 0).numpy() for pixels in UnNormalize(mean, std)(batch)]
    return draws


def train_on_all_gpus(checkpoint, **options):
    """Train with `torchrun main.py` on every GPU of this machine; returns the checkpoint, of the
    finished run.

    Args:
        checkpoint: of the run; it is released, for the first of the processes writes it now, and
            opened again.
        options: of main.py's command line: batch_size=512 becomes --batch-size 512; None leaves an
            option out.
    """
    import torch

    from extras.checkpoint import Checkpoint
    from extras.distributed import torchrun

    arguments = ["--out", str(checkpoint.folder)]
    for name, value in options.items():
        arguments += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    checkpoint.release()
    try:
        torchrun(torch.cuda.device_count(), arguments)
    finally:  # whatever has happened, the next cell must find what is on the disk
        again = Checkpoint(checkpoint.folder, checkpoint.config, log=checkpoint.log)
        vars(checkpoint).update(vars(again) | dict(choices=checkpoint.choices))
    return checkpoint
