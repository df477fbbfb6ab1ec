"""Images in and out: bytes, grids, PNG, GIF and the preprocessing of image files.

    x = u / 127.5 − 1,   u ∈ {0 … 255},   x ∈ [−1, 1]                                      (1)

Images are channels-last. An image file is reduced to (H, W) as in ADM (Dhariwal, Nichol:
Diffusion Models Beat GANs on Image Synthesis, 2021) and DiT: halved with a box filter while both
sides stay large enough, then resized by a bicubic filter to cover (H, W), then cut at the centre.
"""

import io
import math
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFile, ImageFont, ImageOps

from keras_dit import files

__all__ = ["from_uint8", "grid", "read", "save_gif", "save_png", "suffixes", "to_uint8"]

CELL, WIDEST = 128, 2048  # pixels of an image in a grid that is laid out to be looked at; of all


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Floats in [-1, 1] to bytes: rounded to the nearest, clipped outside.

    Args:
        images: array of floats of any shape.

    Returns:
        uint8 array of that shape.

    Raises:
        ValueError: if images are not floats, or hold NaN or an infinity.

    Example:

    >>> import keras_dit, numpy
    >>> keras_dit.images.to_uint8(numpy.array([-1.0, 0.0, 1.0])).tolist()
    [0, 128, 255]
    """
    images = np.asarray(images)
    # A kind of "V" is how numpy shows the bfloat16 of ml_dtypes.
    if images.dtype.kind not in "fV":
        raise ValueError(f"images must be floats in [-1, 1]. Received: dtype={images.dtype}")
    images = images.astype("float32")
    if not np.isfinite(images).all():
        raise ValueError("images must be finite. Received: NaN or infinite values")
    return np.clip(np.rint((images + 1.0) * 127.5), 0, 255).astype("uint8")  # (1)


def from_uint8(images: np.ndarray) -> np.ndarray:
    """Bytes to float32 in [-1, 1]; `to_uint8` gives the same bytes back.

    Args:
        images: uint8 array of any shape.

    Returns:
        float32 array of that shape.

    Raises:
        ValueError: if images are not uint8.

    Example:

    >>> import keras_dit, numpy
    >>> keras_dit.images.from_uint8(numpy.array([0, 255], "uint8")).tolist()
    [-1.0, 1.0]
    """
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise ValueError(f"images must be uint8. Received: dtype={images.dtype}")
    return images.astype("float32") / np.float32(127.5) - np.float32(1.0)  # (1)


def _bytes(images):
    images = np.asarray(images)
    return images if images.dtype == np.uint8 else to_uint8(images)


def grid(
    images: np.ndarray,
    columns: int | None = None,
    padding: int | None = None,
    scale: int | None = None,
    background: int = 255,
    names: Sequence[str] | None = None,
) -> np.ndarray:
    """Lay images out row by row in one image.

    Without `padding` and `scale` the grid is laid out to be looked at: small images are enlarged
    to about 128 pixels, with gaps to match. With either the layout is exact, and the other is 1.

    Args:
        images: (N, H, W, C), C of 1 or 3; uint8, or floats in [-1, 1].
        columns: images in a row; None: one for each name, or a grid that is about square.
        padding: pixels between the images and around them.
        scale: every pixel of an image becomes scale x scale pixels.
        background: grey level of the padding and of empty places, 0 to 255.
        names: what is written above each column, such as the classes.

    Returns:
        uint8 array (rows, columns, C), in pixels.

    Raises:
        ValueError: on another shape, no images, or an argument out of its range.

    Example:

    >>> import keras_dit
    >>> images, labels = keras_dit.datasets.load_digits()
    >>> keras_dit.images.grid(images[:10], columns=5, padding=1, scale=2).shape
    (35, 86, 1)
    """
    images = _bytes(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise ValueError(
            "images must be of shape (N, H, W, C), not empty, with 1 or 3 channels. "
            f"Received: shape={images.shape}"
        )
    if columns is None:
        columns = math.ceil(math.sqrt(len(images))) if names is None else len(names)
    _check_layout(names, background, columns=(columns, 1), padding=(padding, 0), scale=(scale, 1))
    if padding is None and scale is None:
        scale = max(1, round(min(CELL, WIDEST / columns) / max(images.shape[1:3])))
        padding = max(2, scale * min(images.shape[1:3]) // 16)
    padding, scale = 1 if padding is None else padding, scale or 1
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    sheet = _laid_out(images, columns, padding, background)
    if names is None:
        return sheet
    return np.concatenate([_heading(names, sheet, images.shape[2], padding, background), sheet])


def _check_layout(names, background, **integers):
    for name, (value, low) in integers.items():
        if value is not None and (value != int(value) or value < low):
            raise ValueError(f"{name} must be an integer of at least {low}. Received: {value}")
    if not 0 <= background <= 255:
        raise ValueError(f"background must be in 0..255. Received: {background}")
    columns = integers["columns"][0]
    if names is not None and len(names) != columns:
        raise ValueError(
            f"names must be one for each of {columns} columns. Received: {len(names)} names"
        )


def _laid_out(images, columns, padding, background):
    height, width = images.shape[1] + padding, images.shape[2] + padding
    shape = (math.ceil(len(images) / columns) * height + padding, columns * width + padding)
    sheet = np.full((*shape, images.shape[-1]), background, "uint8")
    for i, image in enumerate(images):
        top, left = i // columns * height + padding, i % columns * width + padding
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def _heading(names, sheet, width, padding, background):
    """A strip as wide as the sheet with a name above each column of images."""
    texts, font = _fitting([str(name) for name in names], width + padding // 2)
    strip = Image.new("L", (sheet.shape[1], round(font.size * 1.5) + padding), background)
    draw, ink = ImageDraw.Draw(strip), 0 if background > 127 else 255
    for i, text in enumerate(texts):
        middle = padding + i * (width + padding) + width / 2
        draw.text((middle, strip.height), text, ink, font, anchor="md")
    return np.repeat(np.asarray(strip)[..., None], sheet.shape[-1], axis=-1)


def _fitting(texts, width):
    """The texts, cut where they have to be, and the largest font in which all fit the width."""
    for size in range(24, 10, -1):
        font = ImageFont.load_default(size)
        if all(font.getlength(text) <= width for text in texts):
            break
    return [_cut(text, font, width) for text in texts], font


def _cut(text, font, width):
    if font.getlength(text) <= width:
        return text
    while len(text) > 1 and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _pillow(image):
    image = _bytes(image)
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or 0 in image.shape:
        raise ValueError(
            "an image must be of shape (H, W, C), not empty, with 1 or 3 channels. "
            f"Received: shape={image.shape}"
        )
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _write(path, data):
    with files.beside(path) as new:
        new.write_bytes(data.getbuffer())


def save_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write one image as PNG, creating the folder where needed.

    Args:
        path: the file to write; an older one is replaced whole.
        image: the image, (H, W, C), C of 1 or 3; uint8, or floats in [-1, 1].

    Raises:
        OSError: if the target cannot be written; an older file is then left as it was.
        ValueError: on another shape or dtype.

    Example:

    >>> import keras_dit, os, tempfile
    >>> images, labels = keras_dit.datasets.load_digits()
    >>> folder = tempfile.mkdtemp()
    >>> keras_dit.images.save_png(folder + "/digits.png", keras_dit.images.grid(images[:20]))
    >>> os.listdir(folder)
    ['digits.png']
    """
    data = io.BytesIO()
    _pillow(image).save(data, "PNG")
    _write(path, data)


def save_gif(
    path: str | os.PathLike,
    frames: Sequence[np.ndarray],
    milliseconds: int = 100,
    last: int = 1000,
) -> None:
    """Write images as an animated GIF that repeats, creating the folder where needed.

    Args:
        path: the file to write; an older one is replaced whole.
        frames: sequence of images as for `save_png`, all of one shape.
        milliseconds: how long a frame stays; the format keeps tens of milliseconds.
        last: how long the last frame stays, in milliseconds.

    Raises:
        OSError: if the target cannot be written; an older file is then left as it was.
        ValueError: on no frames, frames of several shapes, or a duration below 10.

    Example:

    >>> import keras_dit, os, tempfile
    >>> images, labels = keras_dit.datasets.load_digits()
    >>> folder = tempfile.mkdtemp()
    >>> keras_dit.images.save_gif(folder + "/digits.gif", images[:3])
    >>> os.listdir(folder)
    ['digits.gif']
    """
    sheets = [_pillow(frame) for frame in frames]
    shapes = sorted({np.shape(frame) for frame in frames})
    if len(shapes) != 1:
        raise ValueError(f"frames must be images of one shape. Received: shapes={shapes}")
    if min(milliseconds, last) < 10:
        raise ValueError(
            "milliseconds and last must be at least 10. "
            f"Received: milliseconds={milliseconds}, last={last}"
        )
    durations = [milliseconds] * (len(sheets) - 1) + [last]
    data = io.BytesIO()
    sheets[0].save(data, "GIF", save_all=True, append_images=sheets[1:], duration=durations, loop=0)
    _write(path, data)


def suffixes() -> frozenset[str]:
    """The suffixes of the files that `read` can decode: all that Pillow, as installed, knows.

    Example:

    >>> import keras_dit
    >>> {".png", ".jpg", ".jfif", ".tif", ".webp"} <= keras_dit.images.suffixes()
    True
    """
    Image.init()
    return frozenset(
        suffix for suffix, name in Image.registered_extensions().items() if _decodes(name)
    )


def _decodes(name):
    """Whether Pillow decodes the pixels of a format, by itself and from a still image."""
    if name == "MPO":  # two JPEGs in one file, which its JPEG part opens
        return True
    if name not in Image.OPEN or name in ("EPS", "MPEG"):  # programs; films without a decoder
        return False
    opener = Image.OPEN[name][0]
    return not (isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile))


def _to_mode(image, mode):
    """Convert a Pillow image to L or RGB without losing what it shows."""
    if image.mode.startswith("I;16"):
        # Pillow's own conversion from 16 bits cuts everything above 255 off.
        image = Image.fromarray((np.asarray(image) / 257 + 0.5).astype("uint8"))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no fixed range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert(mode)


def _cover(image, height, width):
    """The centre (height, width) of a Pillow image, resized so that its shorter side fits."""
    # One halving at a time, though each rounds: scores are compared on these very pixels.
    while image.width >= 2 * width and image.height >= 2 * height:
        halves = (image.width // 2, image.height // 2)
        image = image.resize(halves, Image.Resampling.BOX)
    scale = max(width / image.width, height / image.height)
    size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return image.crop((left, top, left + width, top + height))


_ORIENTATION = 0x0112  # of EXIF: from 5 on a photograph lies on its side


def _draft(file, height, width):
    """Have the decoder of a JPEG do halvings of `_cover`: all but the last, and three at most."""
    if file.getexif().get(_ORIENTATION, 1) >= 5:
        height, width = width, height
    for scale in (8, 4, 2):
        # An odd side would be halved a little otherwise by the decoder than by `_cover`.
        divided = file.width % scale == 0 == file.height % scale
        if divided and file.width >= 2 * scale * width and file.height >= 2 * scale * height:
            file.draft(None, (file.width // scale, file.height // scale))
            return


def size(path: str | os.PathLike) -> tuple[int, int]:
    """The height and width of an image file as `read` gives it, without decoding it.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if it is no image; the message names the file.

    Example:

    >>> import keras_dit, numpy, tempfile
    >>> path = tempfile.mkdtemp() + "/grey.png"
    >>> keras_dit.images.save_png(path, numpy.zeros((6, 8, 1), "uint8"))
    >>> keras_dit.images.size(path)
    (6, 8)
    """
    try:
        with Image.open(path) as file:
            lies = file.getexif().get(_ORIENTATION, 1) >= 5
            return (file.width, file.height) if lies else (file.height, file.width)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise OSError(f"cannot read the image {path}: {error}") from error


def read(
    path: str | os.PathLike,
    image_size: tuple[int, int] | None = None,
    channels: int = 3,
    draft: bool = False,
) -> np.ndarray:
    """Decode an image file, resize it to cover image_size and cut the centre out.

    A photograph is turned as its EXIF orientation says; what is transparent becomes white; of an
    animation the first frame is taken.

    Args:
        path: a file in any format that Pillow reads.
        image_size: (H, W) of the result; None leaves the size as it is.
        channels: 3 for colour, 1 for grey.
        draft: whether a JPEG's decoder may make it smaller, which is quicker: by 2, 4 or 8, where
            that divides both sides, and never below twice image_size, so that the last halving
            still averages. See below.

    Returns:
        uint8 array (H, W, channels).

    Notes:
        A draft averages the blocks of pixels that the halvings average which it spares, and
        rounds once where each of these rounds twice, upwards. On a photograph, noise, noise with
        the spectrum of photographs, text and shapes it is 0.5, 1.0 and 1.4 levels of 256 from the
        whole in the mean, for 2, 4 and 8, nearly all of it darker (1.7 for the worst image, which
        is noise in its colours); a pixel at most 16, at hard edges
        between colours, which such files keep at half the size. It is nearer to the average
        without rounding than the whole is: 1.3, 0.9 and 0.9 levels from it instead of 1.7 to 1.9.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if it cannot be decoded; the message names the file.
        ValueError: if channels is neither 1 nor 3.

    Example:

    >>> import keras_dit, numpy, tempfile
    >>> path = tempfile.mkdtemp() + "/grey.png"
    >>> keras_dit.images.save_png(path, numpy.zeros((6, 8, 1), "uint8"))
    >>> keras_dit.images.read(path, image_size=(4, 4)).shape
    (4, 4, 3)
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3. Received: channels={channels}")
    try:
        with Image.open(path) as file:
            if draft and image_size is not None:
                _draft(file, *image_size)
            image = _to_mode(ImageOps.exif_transpose(file), "L" if channels == 1 else "RGB")
    except FileNotFoundError:
        raise
    except Exception as error:  # what a broken file raises differs from decoder to decoder
        raise OSError(f"cannot read the image {path}: {error}") from error
    if image_size is not None:
        image = _cover(image, *image_size)
    return np.array(image).reshape(image.height, image.width, channels)
