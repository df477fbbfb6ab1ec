"""Laws of keras_dit.images: round trips, the layout of a grid, what a reader of a file gets."""

import os

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from keras_dit import images


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, "uint8")


def test_bytes_come_back_exactly():
    every = np.arange(256, dtype="uint8")
    floats = images.from_uint8(every)
    assert floats.dtype == np.float32
    assert (floats[0], floats[-1]) == (-1.0, 1.0)
    np.testing.assert_array_equal(images.to_uint8(floats), every)


def test_floats_are_rounded_to_the_nearest_byte_and_clipped():
    x = np.linspace(-1, 1, 5001)
    assert np.abs(images.from_uint8(images.to_uint8(x)) - x).max() <= 0.5 / 127.5 + 1e-6
    np.testing.assert_array_equal(
        images.to_uint8(np.array([-1e9, -1.1, 1.1, 1e9])), [0, 0, 255, 255]
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match="images must be finite"):
        images.to_uint8(np.array([0.0, value]))


def test_wrong_dtypes_are_refused():
    with pytest.raises(ValueError, match=r"floats in \[-1, 1\]. Received: dtype=int64"):
        images.to_uint8(np.zeros(3, "int64"))
    with pytest.raises(ValueError, match=r"must be uint8\. Received: dtype=float32"):
        images.from_uint8(np.zeros(3, "float32"))


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_places_every_picture_row_by_row(channels):
    batch = noise(5, 4, 6, channels)
    sheet = images.grid(batch, columns=3, padding=2, scale=2, background=7)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (2 * (8 + 2) + 2, 3 * (12 + 2) + 2, channels)
    expected = np.full_like(sheet, 7)
    for i, picture in enumerate(batch):
        top, left = 2 + i // 3 * 10, 2 + i % 3 * 14
        for dy in range(2):
            for dx in range(2):  # enlarging repeats a pixel, it mixes none
                expected[top + dy : top + 8 : 2, left + dx : left + 12 : 2] = picture
    np.testing.assert_array_equal(sheet, expected)


def test_grid_of_floats_is_the_grid_of_their_bytes():
    batch = noise(9, 3, 3, 1)
    sheet = images.grid(images.from_uint8(batch), padding=0)
    assert sheet.shape == (9, 9, 1)  # about square
    np.testing.assert_array_equal(sheet, images.grid(batch, padding=0))


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 8, 8, 4), (4, 8, 8, 2), (0, 8, 8, 1)])
def test_grid_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"with 1 or 3 channels. Received: shape=\("):
        images.grid(np.zeros(shape, "float32"))


@pytest.mark.parametrize(
    "arguments", [{"columns": 0}, {"padding": -1}, {"scale": 1.5}, {"background": 256}]
)
def test_grid_refuses_arguments_out_of_range(arguments):
    name, value = next(iter(arguments.items()))
    with pytest.raises(ValueError, match=f"{name} must be .*Received: {value}"):
        images.grid(np.zeros((1, 2, 2, 1), "uint8"), **arguments)


def cells(sheet, side, gap):
    """The parts of a sheet without a heading where images lie."""
    tops, lefts = (range(gap, length, side + gap) for length in sheet.shape[:2])
    return [sheet[y : y + side, x : x + side] for y in tops for x in lefts]


@pytest.mark.parametrize(("side", "scale"), [(8, 16), (28, 5), (64, 2), (96, 1), (256, 1)])
def test_a_grid_to_look_at_enlarges_to_about_128_pixels(side, scale):
    batch = noise(6, side, side, 3)
    sheet = images.grid(batch, columns=3)
    gap = (sheet.shape[1] - 3 * side * scale) // 4
    assert sheet.shape == (2 * side * scale + 3 * gap, 3 * side * scale + 4 * gap, 3)
    assert gap >= 4
    for i, cell in enumerate(cells(sheet, side * scale, gap)):
        np.testing.assert_array_equal(cell, np.kron(batch[i], np.ones((scale, scale, 1), "uint8")))


def test_a_grid_of_many_columns_stays_of_the_width_of_a_screen():
    assert images.grid(noise(100, 8, 8, 1), columns=50).shape[1] < 2800
    assert images.grid(noise(1000, 8, 8, 1)).shape[1] < 2800


@pytest.mark.parametrize("background", [255, 0])
@pytest.mark.parametrize("channels", [1, 3])
def test_names_are_written_above_their_columns_and_change_nothing_below(background, channels):
    batch, names = noise(6, 28, 28, channels), ["cat", "", "a name that is much too long for this"]
    plain = images.grid(batch, columns=3, background=background)
    named = images.grid(batch, names=names, background=background)
    height = len(named) - len(plain)
    np.testing.assert_array_equal(named[height:], plain)
    ink = (named[:height] != background).any(axis=(0, 2))
    gap = (plain.shape[1] - 3 * 140) // 4
    written = [ink[gap + i * (140 + gap) :][:140].any() for i in range(3)]
    assert written == [True, False, True]
    assert not ink[gap + 140 + gap :][:140].any()  # no name runs into its neighbour's column


def test_grid_refuses_names_that_are_not_one_for_each_column():
    with pytest.raises(ValueError, match=r"names must be one for each of 3 columns\. Received: 2"):
        images.grid(noise(6, 4, 4, 1), columns=3, names=["a", "b"])


@pytest.mark.parametrize("channels", [1, 3])
def test_png_round_trip_creates_the_folder(tmp_path, channels):
    picture = noise(5, 7, channels)
    path = tmp_path / "new" / "folder" / "picture.png"
    images.save_png(path, images.from_uint8(picture))
    np.testing.assert_array_equal(images.read(path, channels=channels), picture)
    assert os.listdir(path.parent) == ["picture.png"]  # nothing temporary is left


def test_gif_keeps_frames_durations_and_the_hold_of_the_last(tmp_path):
    frames = [np.full((4, 5, 1), value, "uint8") for value in (0, 90, 255)]
    images.save_gif(tmp_path / "a.gif", frames, milliseconds=50, last=700)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 3
        assert gif.info["loop"] == 0
        for i, (frame, duration) in enumerate(zip(frames, (50, 50, 700), strict=True)):
            gif.seek(i)
            assert gif.info["duration"] == duration
            np.testing.assert_array_equal(np.asarray(gif.convert("L")), frame[..., 0])


def test_gif_refuses_no_frames_other_shapes_and_no_time(tmp_path):
    frame = np.zeros((4, 4, 1), "uint8")
    with pytest.raises(
        ValueError, match=r"frames must be images of one shape. Received: shapes=\[\]"
    ):
        images.save_gif(tmp_path / "a.gif", [])
    with pytest.raises(ValueError, match="frames must be images of one shape"):
        images.save_gif(tmp_path / "a.gif", [frame, np.zeros((4, 5, 1), "uint8")])
    with pytest.raises(ValueError, match="milliseconds=0"):
        images.save_gif(tmp_path / "a.gif", [frame], milliseconds=0)
    assert not os.listdir(tmp_path)


def test_a_target_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    picture = np.zeros((2, 2, 1), "uint8")
    with pytest.raises(OSError, match=r"cannot write .*file/picture\.png"):
        images.save_png(tmp_path / "file" / "picture.png", picture)
    with pytest.raises(OSError, match=f"cannot write {tmp_path}: it is a folder"):
        images.save_png(tmp_path, picture)
    assert os.listdir(tmp_path) == ["file"]


def test_a_refused_picture_leaves_the_old_file(tmp_path):
    path = tmp_path / "picture.png"
    images.save_png(path, np.zeros((2, 2, 1), "uint8"))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="with 1 or 3 channels"):
        images.save_png(path, np.zeros((2, 2, 4), "uint8"))
    assert path.read_bytes() == before


def test_reading_averages_blocks_where_the_size_is_a_power_of_two(tmp_path):
    picture = noise(32, 32, 3)
    images.save_png(tmp_path / "a.png", picture)
    mean = picture.reshape(8, 4, 8, 4, 3).mean(axis=(1, 3))
    found = images.read(tmp_path / "a.png", (8, 8))
    assert np.abs(found - mean).max() <= 2.0  # four roundings: rows and columns, twice


@pytest.mark.parametrize("size", [(40, 100), (100, 40), (41, 97), (7, 300), (5, 4)])
def test_reading_covers_and_cuts_the_centre(tmp_path, size):
    """On a linear ramp, resizing to cover and cutting the centre has a closed form."""
    height, width = size
    y, x = np.mgrid[:height, :width] + 0.5
    ramps = np.stack([y / height, x / width, 0 * x], axis=-1) * 255
    images.save_png(tmp_path / "a.png", ramps.round().astype("uint8"))
    target = (10, 16)
    found = images.read(tmp_path / "a.png", target).astype("float64")
    assert found.shape == (10, 16, 3)
    scale = max(target[0] / height, target[1] / width)
    for axis, (length, goal) in enumerate(zip(size, target, strict=True)):
        covered = length * scale
        position = (np.arange(goal) + 0.5 + (covered - goal) / 2) / covered * 255
        measured = found[..., axis].mean(axis=1 - axis)
        inner = slice(2, -2)  # where the filter does not reach over the border
        # Rounding the covered size to whole pixels moves a ramp by up to a pixel.
        tolerance = 255 / covered + 2
        assert np.abs(measured - position)[inner].max() <= tolerance


def picture_of(kind, height, width):
    """Smooth colours as photographs have them, with noise; or hard edges between colours."""
    random = np.random.default_rng(0)
    if kind == "smooth":
        small = Image.fromarray(random.integers(0, 256, (height // 32, width // 32, 3), "uint8"))
        image = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype("int16")
        return (image + random.integers(-20, 21, image.shape)).clip(0, 255).astype("uint8")
    image = np.full((height, width, 3), 200, "uint8")
    for _ in range(40):
        y, x, h, w = random.integers(0, (height, width, height // 3, width // 3))
        image[y : y + h, x : x + w] = random.integers(0, 256, 3)
    return image


@pytest.fixture
def decoded(monkeypatch):
    """The sizes in which JPEGs are decoded."""
    sizes, load = [], JpegImagePlugin.JpegImageFile.load

    def recorded(self):
        if self.tile:  # it is not decoded yet
            sizes.append(self.size)
        return load(self)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", recorded)
    return sizes


@pytest.mark.parametrize("kind", ["smooth", "edges"])
@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_draft_is_the_whole_to_a_level_and_a_half(tmp_path, decoded, kind, scale, orientation):
    height, width = target = (24, 32) if orientation == 1 else (32, 24)
    exif = Image.Exif()
    exif[0x0112] = orientation  # 6: taken with the camera turned by 90 degrees
    picture = Image.fromarray(picture_of(kind, 50 * scale, 66 * scale))
    picture.save(tmp_path / "a.jpg", quality=90, exif=exif)
    whole = images.read(tmp_path / "a.jpg", target).astype("int16")
    draft = images.read(tmp_path / "a.jpg", target, draft=True).astype("int16")
    assert decoded == [(66 * scale, 50 * scale), (66, 50)]
    assert draft.shape == (height, width, 3)
    assert np.abs(draft - whole).mean() < 1.6
    assert np.abs(draft - whole).max() <= 24
    again = images.read(tmp_path / "a.jpg", target, draft=True)
    np.testing.assert_array_equal(again, draft)


@pytest.mark.parametrize(("size", "target"), [((101, 132), 16), ((94, 94), 24), ((64, 256), 32)])
def test_where_a_draft_would_not_average_the_whole_is_decoded(tmp_path, decoded, size, target):
    """An odd side, a side of less than four times the target."""
    Image.fromarray(noise(*size, 3)).save(tmp_path / "a.jpg")
    found = [images.read(tmp_path / "a.jpg", (target,) * 2, draft=draft) for draft in (False, True)]
    np.testing.assert_array_equal(*found)
    assert decoded == [size[::-1]] * 2


def written(path, image):
    """Whether Pillow writes a file of that suffix, in whichever mode it does."""
    for mode in ("RGB", "L", "P", "1"):
        try:
            image.convert(mode).save(path)
        except (OSError, ValueError, KeyError):
            continue
        return True
    return False


def test_suffixes_are_those_that_pillow_decodes(tmp_path):
    found = images.suffixes()
    assert {".png", ".jpg", ".jpeg", ".jfif", ".tif", ".tiff", ".webp", ".mpo", ".ppm"} <= found
    assert not found & {".h5", ".pdf", ".mpg", ".eps", ".wmf", ".txt", ""}
    image, count = Image.fromarray(noise(32, 32, 3)), 0
    for suffix in found:
        if written(tmp_path / f"a{suffix}", image):
            assert images.read(tmp_path / f"a{suffix}", (8, 8)).shape == (8, 8, 3), suffix
            count += 1
    assert count > 20


def test_reading_turns_photographs_upright(tmp_path):
    picture = Image.fromarray(noise(4, 6, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned by 90 degrees
    picture.save(tmp_path / "a.png", exif=exif)
    turned = np.rot90(np.asarray(picture), -1)
    np.testing.assert_array_equal(images.read(tmp_path / "a.png"), turned)


def test_reading_shows_transparent_as_white(tmp_path):
    rgba = np.zeros((2, 2, 4), "uint8")
    rgba[0, 0] = (10, 20, 30, 255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    found = images.read(tmp_path / "a.png")
    assert found[0, 0].tolist() == [10, 20, 30]
    assert (found[1] == 255).all()


def test_reading_sixteen_bits_keeps_the_range(tmp_path):
    deep = np.linspace(0, 65535, 64).astype("uint16").reshape(8, 8)
    Image.fromarray(deep).save(tmp_path / "a.png")
    found = images.read(tmp_path / "a.png", channels=1)[..., 0]
    assert np.abs(found - deep / 257.0).max() <= 0.5 + 1e-6


def test_reading_grey_and_colour(tmp_path):
    grey = noise(4, 4, 1)
    images.save_png(tmp_path / "a.png", grey)
    np.testing.assert_array_equal(images.read(tmp_path / "a.png"), np.repeat(grey, 3, axis=-1))
    assert images.read(tmp_path / "a.png", channels=1).shape == (4, 4, 1)
    with pytest.raises(ValueError, match=r"channels must be 1 or 3\. Received: channels=4"):
        images.read(tmp_path / "a.png", channels=4)


@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated", "flipped"])
def test_a_broken_picture_is_named(tmp_path, damage):
    path = tmp_path / "broken.png"
    images.save_png(path, noise(64, 64, 3))
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    path.write_bytes(
        {"empty": b"", "garbage": b"no picture", "truncated": whole[:middle], "flipped": flipped}[
            damage
        ]
    )
    with pytest.raises(OSError, match=r"cannot read the image .*broken\.png"):
        images.read(path)


def test_a_missing_picture_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        images.read(tmp_path / "missing.png")
