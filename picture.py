"""How does any picture file become what the network sees?

    picture = read_picture("my-cat.jpg")  # (32, 32, 3) uint8

`folder.py` reads all pictures of a data set with it, and `test.py PICTURE` reads yours, so that both are treated alike.
"""

import os
import unicodedata

import numpy as np
import PIL
from PIL import Image, ImageOps

# Only these decoders: Pillow has others that start programs (Ghostscript for EPS), whatever a file is called.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
RULES = 1  # count up when `to_square` gives other pixels than before, so that no old cache is used
ORIENTATION = 0x0112  # EXIF tag


def read_picture(path: str | os.PathLike, size: int = 32) -> np.ndarray:
    """Read one picture file as the network sees it: (size, size, 3) uint8; see `to_square`.

    Raises:
        ValueError: one sentence, when the file is missing, unreadable, broken or not a picture.
    """
    try:
        return decode(path, size)[0]
    except ValueError as error:
        raise ValueError(f"{plain(os.fspath(path))} {error}.") from None


def to_square(image: Image.Image, size: int = 32) -> np.ndarray:
    """Turn any picture into what the network sees: (size, size, 3) uint8, RGB.

    The first frame of an animation is taken, turned upright as EXIF says, cut to the square in its middle, made
    RGB, and resized: smaller by averaging areas, larger by bicubic interpolation. An RGB picture of that size is
    unchanged.

    Raises:
        ValueError: grey levels outside every range that is in use (see `_eight_bits`).
        OSError: the file behind `image` is broken.
    """
    if image.tell() != 0:
        image.seek(0)
    image = _upright(image)
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    image = _rgb(image if width == height else image.crop((left, top, left + side, top + side)))
    if side != size:
        smaller = side > size
        image = image.resize((size, size), Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC)
    return np.array(image)


def decode(path, size):
    """Decode one file: (picture, (had another size?, was not RGB?, was animated?)).

    Raises ValueError with the end of a sentence that begins with the file's name.
    """
    if not os.path.isfile(path) and os.path.exists(path):  # opening a pipe would wait for ever
        raise ValueError("is a folder, not a picture" if os.path.isdir(path) else "is not a regular file")
    try:
        with Image.open(path, formats=FORMATS) as image:
            # an MPO holds a photograph and its preview or second view: that is no animation
            animated = getattr(image, "is_animated", False) and image.format != "MPO"
            adapted = (image.size != (size, size), image.mode != "RGB", animated)
            image.draft(None, (4 * size, 4 * size))  # JPEG may decode large photographs at 1/2, 1/4 or 1/8
            return to_square(image, size), adapted
    except FileNotFoundError:
        raise ValueError("does not exist") from None
    except PermissionError:
        raise ValueError("may not be read: change its permissions") from None
    except PIL.UnidentifiedImageError:
        raise ValueError(f"is not a picture, or not one of {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise ValueError(f"has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels: make it smaller") from None
    except Exception as error:  # decoders raise anything when they meet damage
        raise ValueError(f"cannot be decoded ({str(error) or type(error).__name__})") from None


def plain(name):
    """A name as text to compare and print: composed (macOS decomposes é), without undecodable bytes."""
    if name.isascii():
        return name
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "replace"))


def _upright(image):
    image.load()  # PNG may have its EXIF data behind the pixels
    try:
        turned = image.getexif().get(ORIENTATION, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # the EXIF data is broken, the picture is not: take it as it lies
        return image


def _rgb(image):
    """A picture of any mode as RGB; what is transparent becomes white."""
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image):
    """A grey picture with more than 8 bits a pixel, scaled to 0 … 255 (`Image.convert` would clip it).

    16 bits are scaled from their whole range, so that pictures keep their brightness relative to each other.
    32 bits have no customary range: it is the smallest of those in use that holds the picture.
    """
    levels = np.asarray(image, dtype=np.float64)
    ranges = {"I": (65_535, 2**31 - 1), "F": (1, 255, 65_535)}.get(image.mode, (65_535,))
    low, high, widest = levels.min(), levels.max(), ranges[-1]
    if not 0 <= low <= high <= widest:  # nor where there is a NaN
        raise ValueError(f"grey levels from {low:g} to {high:g}, where 0 to {widest:,} is the widest range")
    top = next(top for top in ranges if high <= top)
    return Image.fromarray(np.rint(levels * (255 / top)).astype(np.uint8))
