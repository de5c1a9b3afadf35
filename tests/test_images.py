import io
import os
import re
import struct
import sys
import time
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import class_folders, encode, smooth
from PIL import Image, ImageCms, PngImagePlugin

from competition.base.arrays import Memory, Stored
from competition.base.files import InputError, sha256_bytes
from competition.base.text import natural_order
from competition.base.threads import in_threads
from competition.base.workspace import Workspace
from competition.data import decode as decode_module
from competition.data import images as images_module
from competition.data.decode import check_image, check_values, decode, decode_with_format, resize
from competition.data.folds import make_folds
from competition.data.images import load_images, warn_of_others
from competition.data.ranges import find_ranges
from competition.data.sources import open_source

# -------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize(
    "kind, options, tolerance",
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("PPM", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 90}, 12),
        ("JPEG", {"quality": 95}, 8),
        ("JPEG", {"quality": 95, "progressive": True}, 8),
        ("GIF", {}, 24),
        ("AVIF", {"quality": 95}, 8),
        ("JPEG2000", {}, 0),
    ],
)
def test_formats(kind, options, tolerance):
    pixels, found = decode_with_format(encode(smooth(), kind, **options), "x")
    assert found == kind
    assert pixels.shape == (24, 32, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - smooth()).max() <= tolerance


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "MPO", "TIFF"])
def test_first_of_several_frames(kind):
    red, blue = (Image.new("RGB", (20, 10), colour) for colour in ("red", "blue"))
    pixels, found = decode_with_format(encode(red, kind, save_all=True, append_images=[blue]), "x")
    assert found == kind
    assert np.abs(pixels.astype(int) - [255, 0, 0]).max() <= 3


def test_grey_and_one_bit():
    grey = smooth()[:, :, 0]
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        assert (decode(encode(grey, kind), "x") == grey[:, :, None]).all()
    assert np.abs(decode(encode(grey, "JPEG", quality=95), "x").astype(int) - grey[:, :, None]).max() <= 4
    bits = grey > np.median(grey)
    assert (decode(encode(Image.fromarray(bits)), "x") == np.where(bits, 255, 0)[:, :, None]).all()


def test_palette():
    image = Image.fromarray(smooth()).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    for kind in ("PNG", "BMP", "GIF", "TIFF"):
        assert (decode(encode(image, kind), "x") == expected).all()


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette_with_a_transparent_colour_lies_on_white(kind):
    image = Image.new("P", (4, 2), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    pixels = decode(encode(image, kind, transparency=0), "x")
    assert pixels[0, 1].tolist() == [40, 50, 60]
    assert pixels[1, 3].tolist() == [255, 255, 255]


def test_palette_with_graded_transparency():
    image = Image.new("P", (2, 1), 0)
    image.putpalette([0, 0, 0, 0, 0, 0])
    image.putpixel((1, 0), 1)
    assert decode(encode(image, transparency=bytes([255, 51])), "x")[0, :, 0].tolist() == [0, 204]


def test_alpha_lies_on_white():
    rgba = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [0, 0, 0, 51]]], np.uint8)
    expected = [[[200, 0, 0], [255, 255, 255], [204, 204, 204]]]
    for kind in ("PNG", "TIFF"):
        assert decode(encode(rgba, kind), "x").tolist() == expected
    assert decode(encode(rgba, "WEBP", lossless=True, exact=True), "x").tolist() == expected
    grey_alpha = Image.merge("LA", [Image.new("L", (2, 1), 100), Image.new("L", (2, 1), 0)])
    grey_alpha.putpixel((0, 0), (100, 255))
    assert decode(encode(grey_alpha), "x")[0, :, 0].tolist() == [100, 255]
    keyed = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert decode(encode(keyed, transparency=(1, 2, 3)), "x").tolist() == [[[255, 255, 255], [4, 5, 6]]]


def test_cmyk():
    image = Image.fromarray(smooth()).convert("CMYK")
    for kind, tolerance in (("TIFF", 0), ("JPEG", 8)):
        data = encode(image, kind, **({"quality": 95} if kind == "JPEG" else {}))
        assert Image.open(io.BytesIO(data)).mode == "CMYK"
        assert np.abs(decode(data, "x").astype(int) - smooth()).max() <= tolerance


def test_sixteen_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 128, 129, 257, 25_700, 32_768, 65_535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        pixels = decode(encode(values, kind), "x")
        assert pixels.shape == (1, 7, 3)
        assert pixels[0, :, 0].tolist() == [0, 0, 1, 1, 100, 128, 255]
        assert (pixels == pixels[:, :, :1]).all()


def test_sixteen_bit_colour():
    values = struct.pack(">6H", 0, 25_700, 65_535, 65_535, 0, 257 * 9)  # two pixels
    assert decode(png_of_one_row(2, 16, 2, values), "x").tolist() == [[[0, 100, 255], [255, 0, 9]]]


def test_wide_integers_and_floats():
    integers = Image.fromarray(np.array([[-5, 0, 25_700, 65_535, 1_000_000]], np.int32))
    assert decode(encode(integers, "TIFF"), "x")[0, :, 0].tolist() == [0, 0, 100, 255, 255]
    unit = Image.fromarray(np.array([[0, 0.4, 1]], np.float32))
    assert decode(encode(unit, "TIFF"), "x")[0, :, 0].tolist() == [0, 102, 255]
    bytes_like = Image.fromarray(np.array([[-3, 0.4, 99.6, 300, np.nan]], np.float32))
    assert decode(encode(bytes_like, "TIFF"), "x")[0, :, 0].tolist() == [0, 0, 100, 255, 0]


UPRIGHT = {  # what a viewer does with the stored pixels, in numpy (EXIF 2.32, tag 0x0112)
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_rotation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored, expected = smooth(), UPRIGHT[orientation](smooth())
    cases = [("PNG", {}, 0), ("WEBP", {"lossless": True}, 0), ("TIFF", {}, 0), ("JPEG", {"quality": 95}, 8)]
    for kind, options, tolerance in cases:
        pixels = decode(encode(stored, kind, exif=exif, **options), "x")
        assert pixels.shape == expected.shape, kind
        assert np.abs(pixels.astype(int) - expected).max() <= tolerance, kind


@pytest.mark.parametrize(
    "kind, mode",
    [
        ("PNG", "RGB"),
        ("PNG", "LA"),
        ("TIFF", "RGB"),
        ("WEBP", "RGB"),
        ("GIF", "P"),
        ("MPO", "RGB"),
        ("JPEG", "RGB"),
        ("JPEG", "L"),
        ("JPEG", "CMYK"),
    ],
)
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_checking_finds_the_size_that_decoding_gives(kind, mode, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for height, width in ((24, 32), (67, 41), (5, 3)):
        data = encode(Image.fromarray(smooth(1, height, width)).convert(mode), kind, exif=exif)
        pixels, found = decode_with_format(data, "x")
        assert check_image(data, "x") == (pixels.shape[:2], found)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 95, "subsampling": 0}], ids=str)
def test_checking_refuses_what_decoding_refuses(options):
    """JPEGs cut at any place, and with any byte changed: both say the same of them."""
    data, random = encode(smooth(3, 90, 70), "JPEG", **options), np.random.default_rng(0)
    refused = 0
    for trial in range(200):
        damaged = bytearray(data)
        if trial % 2:
            damaged = damaged[: random.integers(len(data))]
        else:
            damaged[random.integers(len(data))] = random.integers(256)
        verdicts = []
        for look in (check_image, decode):
            try:
                look(bytes(damaged), "x")
                verdicts.append("")
            except InputError as error:
                verdicts.append(str(error))
        assert verdicts[0] == verdicts[1]
        refused += bool(verdicts[0])
    assert 90 < refused < 200


def test_exif_rotation_of_grey_alpha_and_sixteen_bit():
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.arange(6, dtype=np.uint16).reshape(2, 3) * 257
    assert decode(encode(values, exif=exif), "x")[:, :, 0].tolist() == [[3, 0], [4, 1], [5, 2]]
    assert decode(encode(Image.new("LA", (3, 2)), exif=exif), "x").shape == (3, 2, 3)


@pytest.mark.filterwarnings("ignore")
def test_broken_exif_does_not_cost_the_picture():
    for exif in (b"nonsense", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x01\x01\x12"):
        assert decode(encode(smooth(), "JPEG", exif=b"Exif\0\0" + exif), "x").shape == (24, 32, 3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "MPO"])
def test_truncated(kind):
    more = {"save_all": True, "append_images": [Image.fromarray(smooth(1))]} if kind == "MPO" else {}
    data = encode(smooth(), kind, **more)
    for length in (len(data) // 3, 20, 1):
        with pytest.raises(InputError, match="^some/name.jpg: "):
            decode(data[:length], "some/name.jpg")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_truncated_by_a_few_bytes(kind):
    data = encode(smooth(), kind)
    for cut in (1, 2, 5, 12):
        with pytest.raises(InputError, match="^x.jpg: "):
            decode(data[:-cut], "x.jpg")


@pytest.mark.parametrize("data", [b"", b"hello", b"\0" * 500, b"<svg></svg>", b"PK\3\4", b"\x89PNG\r\n\x1a\n"])
def test_no_picture(data):
    with pytest.raises(InputError, match="^my notes.txt: "):
        decode(data, "my notes.txt")


@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_never_escape_as_another_error():
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"):
        good = encode(smooth(), kind)
        for _ in range(60):
            data = np.frombuffer(good, np.uint8).copy()
            data[rng.integers(0, min(len(data), 200), 5)] = rng.integers(0, 256, 5)
            try:
                assert decode(data.tobytes(), "x").ndim == 3
            except InputError:
                pass


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "PPM", "WEBP", "GIF", "AVIF", "JPEG2000"])
def test_a_picture_that_pillow_refuses_for_its_size_comes_reduced(monkeypatch, kind):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    monkeypatch.setattr(decode_module, "LARGE", 10_000)
    monkeypatch.setattr(decode_module, "REDUCED", 2_500)
    drawn = Image.fromarray(smooth()).resize((200, 100))
    data = encode(drawn, kind)
    assert check_image(data, "x") == ((100, 200), kind)
    pixels = decode(data, "x")
    assert pixels.shape == (25, 50, 3)
    expected = resize(np.asarray(drawn), pixels.shape[:2]).astype(int)
    assert np.abs(pixels - expected).mean() < (16 if kind == "GIF" else 5)
    assert Image.MAX_IMAGE_PIXELS == 5000


def test_a_large_picture_is_turned_upright(monkeypatch):
    monkeypatch.setattr(decode_module, "LARGE", 10_000)
    monkeypatch.setattr(decode_module, "REDUCED", 2_500)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.fromarray(smooth()).resize((200, 100)), "PNG", exif=exif)
    assert check_image(data, "x") == ((200, 100), "PNG") and decode(data, "x").shape == (50, 25, 3)


def test_a_decompression_bomb_is_an_input_error(monkeypatch):
    data = encode(smooth())
    monkeypatch.setattr(decode_module, "LARGE", 100)
    monkeypatch.setattr(decode_module, "LARGEST", 200)
    with pytest.raises(InputError, match="^bomb.png: 32x24 pixels, expected 200 or fewer"):
        decode(data, "bomb.png")


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("chunk", ["zTXt", "iTXt", "iCCP"])
def test_a_png_with_long_texts_or_a_large_profile_is_read(chunk, behind):
    texts = PngImagePlugin.PngInfo()
    long = "layer moved; " * 100_000
    texts.add_text("history", long, zip=True) if chunk == "zTXt" else None
    texts.add_itxt("history", long, zip=True) if chunk == "iTXt" else None
    options = {"icc_profile": bytes(range(256)) * 6000} if chunk == "iCCP" else {"pnginfo": texts}
    data = encode(smooth(), "PNG", **options)
    if behind:  # the chunk comes after the pixels
        start = data.index(chunk.encode()) - 4
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        data = data[:start] + data[end:-12] + data[start:end] + data[-12:]
    assert np.array_equal(decode(data, "x"), smooth())


def test_lab_is_converted_by_colour_management():
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(Image.fromarray(smooth()), *profiles, outputMode="LAB")
    assert np.abs(decode(encode(lab, "TIFF"), "x").astype(int) - smooth()).mean() < 3


def test_heic_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    brand = b"heic" + bytes(4) + b"mif1heic"
    data = struct.pack(">I", 8 + len(brand)) + b"ftyp" + brand + bytes(64)
    with pytest.raises(InputError, match="^phone.jpg: a HEIC picture, .*pip install pillow-heif.*JPEG$"):
        decode(data, "phone.jpg")


def test_heic_is_read_by_its_package(monkeypatch):
    drawn = encode(smooth(), "BMP")
    brand = b"mif1" + bytes(4) + b"mif1heic"
    data = struct.pack(">I", 8 + len(brand)) + b"ftyp" + brand + bytes(64)

    def register():
        Image.register_open("HEIF", lambda file, name: Image.open(io.BytesIO(drawn)), lambda start: True)

    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    assert np.array_equal(decode(data, "x"), smooth())


@pytest.mark.parametrize(
    "data, words",
    [
        (b"\xff\x0a rest", "a JPEG XL picture, .*convert it to PNG"),
        (b"\n<!DOCTYPE HTML><title>404", "a web page, .*fetch the picture again"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS: git lfs pull"),
        (b"<svg xmlns=''/>", "an SVG drawing"),
    ],
)
def test_files_that_are_taken_for_pictures_are_named_with_a_remedy(data, words):
    with pytest.raises(InputError, match=f"^a/1.jpg: {words}.*, expected JPEG, PNG"):
        decode(data, "a/1.jpg")


# ---------------------------------------------------------------------------- values of more than 8 bits


def deep(values, kind="PNG", dtype=np.uint16):
    """Bytes of a grey picture of one row."""
    return encode(Image.fromarray(np.array([values], dtype)), kind)


def ranges_of(*pictures):
    return find_ranges(check_values(data, "x", 1).values for data in pictures)


@pytest.mark.parametrize(
    "values, kind, dtype, found, eight_bits",
    [
        ([0, 1024, 4000], "PNG", np.uint16, {"16-bit grey": (0, 4095)}, [0, 64, 249]),
        ([0, 100, 255], "TIFF", np.int32, {"32-bit integers": (0, 255)}, [0, 100, 255]),
        ([-1000, 0, 3000], "TIFF", np.int32, {"32-bit integers": (-1000, 3000)}, [0, 64, 255]),
        ([0, 500_000, 1_000_000], "TIFF", np.int32, {"32-bit integers": (0, 1048575)}, [0, 122, 243]),
        ([29_000, 30_000, 31_000], "PNG", np.uint16, {"16-bit grey": (29000, 31000)}, [0, 128, 255]),
        ([0, 30_000, 60_000], "TIFF", np.float32, {"floats": (0, 60000)}, [0, 128, 255]),
        ([-1, 0, 1, np.nan], "TIFF", np.float32, {"floats": (-1, 1)}, [0, 128, 255, 0]),
        ([0, 128, 250], "TIFF", np.float32, {"floats": (0, 255)}, [0, 128, 250]),
        ([0, 100, 200, -3.4e38], "TIFF", np.float32, {"floats": (0, 255)}, [0, 100, 200, 0]),
        ([9_000, 12_000, 18_000], "PNG", np.uint16, {}, [35, 47, 70]),
        ([0, 257, 40_000], "PNG", np.uint16, {}, [0, 1, 156]),
        ([0, 257, 65_535], "TIFF", np.int32, {}, [0, 1, 255]),
        ([0, 0.2, 1], "TIFF", np.float32, {}, [0, 51, 255]),
        ([7, 7, 7], "PNG", np.uint16, {}, [0, 0, 0]),
    ],
)
def test_values_are_scaled_by_the_range_of_their_data_set(values, kind, dtype, found, eight_bits):
    data = deep(values, kind, dtype)
    ranges = ranges_of(data)
    assert ranges == found
    assert decode(data, "x", ranges)[0, :, 0].tolist() == eight_bits
    if not found:
        assert np.array_equal(decode(data, "x", ranges), decode(data, "x"))


def test_a_range_is_that_of_all_pictures():
    dark, bright = deep([0, 10, 40]), deep([0, 2000, 4090])
    ranges = ranges_of(dark, bright, deep([0, 0.5], "TIFF", np.float32))
    assert ranges == {"16-bit grey": (0, 4095)}
    assert decode(dark, "x", ranges)[0, :, 0].tolist() == [0, 1, 2]


def test_a_few_hot_pixels_are_clipped():
    values = np.tile(np.arange(0, 4000, 10), 100)
    values[:5] = 65_535
    ranges = ranges_of(deep(values))
    assert ranges == {"16-bit grey": (0, 4095)}
    assert decode(deep(values), "x", ranges)[0, :6, 0].tolist() == [255] * 5 + [3]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_that_pillow_does_not_read(dtype):
    values = np.linspace(0, 4000, 24 * 32 * 3).reshape(24, 32, 3).astype(dtype)
    data = cv2.imencode(".tiff", values[..., ::-1])[1].tobytes()
    ranges = ranges_of(data)
    assert ranges == {"floats": (0, 4000)}
    assert np.array_equal(decode(data, "x", ranges), np.rint(values / 4000 * 255))
    grey = cv2.imencode(".tiff", values[..., 0].astype(np.float64))[1].tobytes()
    assert check_image(grey, "x") == ((24, 32), "TIFF") and decode(grey, "x").shape == (24, 32, 3)
    with pytest.raises(InputError, match="^x: "):
        decode(data[: len(data) // 2], "x")


@pytest.mark.parametrize("colour_type, values", [(2, (0, 1024, 4095)), (6, (0, 1024, 4095, 65_535))])
def test_colours_of_twelve_bits_in_sixteen(colour_type, values):
    data = png_of_one_row(1, 16, colour_type, struct.pack(f">{len(values)}H", *values))
    ranges = ranges_of(data)
    assert ranges == {"16-bit colours": (0, 4095)}
    assert decode(data, "x").tolist() == [[[0, 4, 15]]]
    assert decode(data, "x", ranges).tolist() == [[[0, 64, 255]]]


def test_colours_of_twelve_bits_in_ppm():
    values = struct.pack(">3H", 0, 1024, 4095)
    assert decode(b"P6 1 1 4095\n" + values, "x").tolist() == [[[0, 64, 255]]]
    data = b"P6 1 1 65535\n" + values
    assert ranges_of(data) == {"16-bit colours": (0, 4095)}
    assert decode(data, "x", ranges_of(data)).tolist() == [[[0, 64, 255]]]


def test_resize():
    image = smooth()
    assert resize(image, (24, 32)) is image
    small = resize(image, (12, 16))
    assert small.shape == (12, 16, 3) and small.dtype == np.uint8
    means = image.reshape(12, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(small - means).max() < 4
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(resize(stripes, (8, 8))[:, 1:-1] - 127.5).max() < 12  # without antialiasing: 0 or 255


# -------------------------------------------------------------------------------- folders and zips

COUNTS = {"B b": 2, "10": 3, "2": 1, 'Ähre, "é"': 2}
EXPECTED = [
    "10/000.png",
    "10/001.png",
    "10/002.png",
    "2/000.png",
    "B b/000.png",
    "B b/001.png",
    'Ähre, "é"/000.png',
    'Ähre, "é"/001.png',
]


def zip_of(folder, path, prefix=""):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


def zip_with(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_class_folders(tmp_path):
    folder = class_folders(tmp_path / "data", COUNTS)
    source = open_source(folder)
    assert source.images == EXPECTED
    assert source.labels == [image.split("/")[0] for image in EXPECTED]
    assert source.classes == sorted(COUNTS) == ["10", "2", "B b", 'Ähre, "é"']
    assert source.read("2/000.png") == (folder / "2/000.png").read_bytes()
    with pytest.raises(InputError, match="2/9.png"):
        source.read("2/9.png")


def test_relative_path(tmp_path, monkeypatch):
    class_folders(tmp_path / "data", COUNTS)
    monkeypatch.chdir(tmp_path)
    source = open_source("data")
    assert source.data == tmp_path / "data"


@pytest.mark.parametrize("prefix", ["", "top folder/", "a/b/", "./"])
def test_zip_is_read_in_place(tmp_path, prefix):
    folder = class_folders(tmp_path / "data", COUNTS)
    path = zip_of(folder, tmp_path / "z.zip", prefix)
    before = sorted(tmp_path.rglob("*"))
    source = open_source(path)
    assert (source.images, source.classes) == (EXPECTED, sorted(COUNTS))
    assert all(source.read(image) == (folder / image).read_bytes() for image in EXPECTED)
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(InputError, match="2/9.png"):
        source.read("2/9.png")


def test_class_folders_in_a_top_folder(tmp_path):
    class_folders(tmp_path / "data/wrapped/twice", COUNTS)
    source = open_source(tmp_path / "data")
    assert source.images == EXPECTED
    assert source.read(EXPECTED[0])


def test_system_and_hidden_files_are_ignored(tmp_path):
    folder = class_folders(tmp_path / "data/top", {"a": 1, "b": 1})
    for name in (
        ".DS_Store",
        "a/.DS_Store",
        "a/Thumbs.db",
        "b/desktop.ini",
        "a/._000.png",
        ".git/config",
        "../__MACOSX/a/000.png",
        "a/.cache/x.png",
    ):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(b"junk")
    assert open_source(tmp_path / "data").images == ["a/000.png", "b/000.png"]
    assert open_source(zip_of(tmp_path / "data", tmp_path / "z.zip")).images == ["a/000.png", "b/000.png"]


def test_nested_folders_belong_to_their_class(tmp_path):
    folder = class_folders(tmp_path / "data", {"a": 1, "b": 1})
    (folder / "a/2023/june").mkdir(parents=True)
    (folder / "a/2023/june/x.png").write_bytes(encode(smooth(7)))
    source = open_source(folder)
    assert source.images == ["a/000.png", "a/2023/june/x.png", "b/000.png"]
    assert source.labels == ["a", "a", "b"]


def test_links_are_followed_but_not_round_in_circles(tmp_path):
    folder = class_folders(tmp_path / "data", {"a": 1, "b": 1})
    (tmp_path / "elsewhere.png").write_bytes(encode(smooth(5)))
    (folder / "a/link.png").symlink_to(tmp_path / "elsewhere.png")
    (folder / "a/up").symlink_to(folder)
    (folder / "b/here").symlink_to(folder / "b")
    (folder / "b/itself").symlink_to(folder / "b/itself")
    os.mkfifo(folder / "b/pipe")
    images = open_source(folder).images
    assert [image for image in images if "up/" not in image] == ["a/000.png", "a/link.png", "b/000.png"]
    assert len(images) < 8
    (folder / "a/up").unlink()
    (folder / "b/dangling.png").symlink_to(folder / "gone.png")
    source = open_source(folder)
    assert source.images == ["a/000.png", "a/link.png", "b/000.png", "b/dangling.png"]
    with pytest.raises(InputError, match="dangling.png"):
        source.read("b/dangling.png")


def test_names_of_any_kind(tmp_path):
    names = [
        "new\nline.png",
        "quo\"te'.png",
        "comma, semi;.png",
        " lead",
        "tab\t.png",
        "e\u0301.png",
        "é.png",
        "😀.png",
        "back\\slash.png",
        "#%$&.png",
        "a" * 200,
    ]
    folder = class_folders(tmp_path / "data", {"a": 1, "b": 1})
    for name in names:
        (folder / "a" / name).write_bytes(encode(smooth()))
    source = open_source(folder)
    assert source.images == sorted(f"a/{name}" for name in [*names, "000.png"]) + ["b/000.png"]
    assert all(source.read(image) for image in source.images)


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"a\rb.png"])
def test_names_that_a_table_cannot_hold(tmp_path, name):
    folder = class_folders(tmp_path / "data", {"a": 1, "b": 1})
    with open(os.path.join(os.fsencode(folder), b"a", name), "wb") as file:
        file.write(encode(smooth()))
    with pytest.raises(InputError, match="rename"):
        open_source(folder)


def test_zip_names_without_the_utf8_flag(tmp_path):
    """macOS' Archive Utility writes UTF-8 and does not say so."""
    path = tmp_path / "mac.zip"
    zip_with(path, {"Ähre/1.png": b"x", "b/1.png": b"x"})
    data = path.read_bytes().replace(b"\x14\x00\x00\x08", b"\x14\x00\x00\x00")  # version needed, flags
    path.write_bytes(data)
    assert not any(entry.flag_bits & 0x800 for entry in zipfile.ZipFile(path).infolist())
    source = open_source(path)
    assert source.classes == ["b", "Ähre"]
    assert source.read("Ähre/1.png") == b"x"


def test_zip_with_backslashes(tmp_path):
    source = open_source(zip_with(tmp_path / "win.zip", {"top\\a\\1.png": b"1", "top\\b\\1.png": b"2"}))
    assert source.images == ["a/1.png", "b/1.png"]
    assert source.read("b/1.png") == b"2"


@pytest.mark.parametrize(
    "name",
    ["../a/x.png", "a/../../x.png", "/etc/x.png", "C:\\x.png", "a\\..\\..\\x.png", "\\\\host\\x.png", "C:/x"],
)
def test_zip_that_climbs_out(tmp_path, name):
    with pytest.raises(InputError, match="z.zip.*climbs out"):
        open_source(zip_with(tmp_path / "z.zip", {"a/1.png": b"", "b/1.png": b"", name: b""}))


def test_encrypted_zip(tmp_path):
    path = zip_with(tmp_path / "z.zip", {"a/1.png": b"x", "b/1.png": b"x"})
    data = path.read_bytes().replace(b"\x14\x00\x00\x00", b"\x14\x00\x01\x00")
    path.write_bytes(data)
    with pytest.raises(InputError, match="z.zip.*encrypted"):
        open_source(path)


@pytest.mark.parametrize("cut", [1, 30, 400])
def test_broken_zip(tmp_path, cut):
    path = zip_of(class_folders(tmp_path / "data", COUNTS), tmp_path / "z.zip")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputError, match="z.zip: broken zip"):
        open_source(path)


def test_damaged_zip_member_is_named(tmp_path):
    path = zip_with(tmp_path / "z.zip", {"a/1.png": b"the content", "b/1.png": b"x"})
    path.write_bytes(path.read_bytes().replace(b"the content", b"THE content"))
    with pytest.raises(InputError, match="a/1.png.*CRC"):
        open_source(path).read("a/1.png")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_that_holds_a_name_twice(tmp_path):
    path = zip_with(tmp_path / "z.zip", {"a/1.png": b"1", "b/1.png": b"2"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/1.png", b"3")
    with pytest.raises(InputError, match="a/1.png more than once"):
        open_source(path)


def test_path_that_does_not_exist(tmp_path):
    for name in ("nowhere", "nowhere.zip", "nowhere.csv"):
        with pytest.raises(InputError, match=f"{name}: no such file or folder"):
            open_source(tmp_path / name)
    with pytest.raises(InputError, match="DATA is empty"):
        open_source("")


def test_other_kind_of_file(tmp_path):
    (tmp_path / "data.tar.gz").write_bytes(b"\x1f\x8b12345")
    with pytest.raises(InputError, match="data.tar.gz: found another kind of file"):
        open_source(tmp_path / "data.tar.gz")
    (tmp_path / "empty.zip").write_bytes(b"")
    with pytest.raises(InputError, match="empty.zip: broken zip"):
        open_source(tmp_path / "empty.zip")


def test_no_class_folders(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match="data: found nothing but no class folders"):
        open_source(tmp_path / "data")
    (tmp_path / "data/readme.txt").write_text("x")
    with pytest.raises(InputError, match="found 1 other files but no class folders"):
        open_source(tmp_path / "data")
    for i in range(3):
        (tmp_path / f"data/{i}.JPG").write_bytes(encode(smooth(i)))
    with pytest.raises(InputError, match="found 3 images but no class folders"):
        open_source(tmp_path / "data")
    with pytest.raises(InputError, match="found 3 images but no class folders"):
        open_source(zip_of(tmp_path / "data", tmp_path / "z.zip"))


def test_empty_class_folder(tmp_path):
    folder = class_folders(tmp_path / "data", {"a": 1, "b": 1, "bare": 0})
    (folder / "bare/.DS_Store").write_bytes(b"")
    with pytest.raises(InputError, match="empty class folder: bare"):
        open_source(folder)
    with pytest.raises(InputError, match="empty class folder: bare"):
        open_source(zip_of(folder, tmp_path / "z.zip"))


def test_one_class(tmp_path):
    with pytest.raises(InputError, match=r"1 class \(a\).*2 or more"):
        open_source(class_folders(tmp_path / "data", {"a": 3}))


def test_images_beside_the_class_folders_are_announced(tmp_path, capsys):
    folder = class_folders(tmp_path / "data", {"a": 1, "b": 1})
    (folder / "stray.jpeg").write_bytes(b"")
    (folder / "notes.txt").write_bytes(b"")
    assert len(open_source(folder).images) == 2
    assert "warning:" in (err := capsys.readouterr().err) and "stray.jpeg" in err and "notes" not in err


def test_a_split_is_not_taken_for_classes(tmp_path):
    with pytest.raises(InputError, match="found the split test, train and 1 images in train/ but no class folders"):
        open_source(class_folders(tmp_path / "data", {"train": 1, "test": 1}))


# -------------------------------------------------------------------------------- CSV


def csv_of(tmp_path, text, encoding="utf-8"):
    class_folders(tmp_path / "data/pics", {"x": 4})
    path = tmp_path / "data/labels.csv"
    path.write_bytes(text.encode(encoding))
    return path


ROWS = "pics/x/000.png,007\npics/x/001.png,NA\n./pics/x/002.png,True\npics/x/../x/003.png,7\n"


@pytest.mark.parametrize("encoding, end", [("utf-8", "\n"), ("utf-8-sig", "\r\n")])
def test_csv(tmp_path, encoding, end):
    path = csv_of(tmp_path, ("image,label\n" + ROWS).replace("\n", end), encoding)
    source = open_source(path)
    assert source.classes == ["007", "7", "NA", "True"]
    assert source.images == ["pics/x/000.png", "pics/x/003.png", "pics/x/001.png", "pics/x/002.png"]
    assert source.labels == ["007", "7", "NA", "True"]
    assert source.read("pics/x/003.png") == (path.parent / "pics/x/003.png").read_bytes()


def test_csv_with_other_columns_quotes_and_an_absolute_path(tmp_path):
    folder = tmp_path / "data"
    rows = f'1,"a, b",,"pics/x/000.png"\n2,c,Rome,{folder}/pics/x/001.png\n'
    path = csv_of(tmp_path, "id,label,site,image\n" + rows)
    source = open_source(path)
    assert (source.labels, source.images) == (["a, b", "c"], ["pics/x/000.png", "pics/x/001.png"])


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "found an empty file"),
        ("image,label\n", "no rows"),
        ("where,label\na,b\n", "found columns 'where', 'label'"),
        ("image label\na b\n", "found columns 'image label'"),
        ("image,label,label\na,b,c\n", "found columns"),
        ("image,label\npics/x/000.png,a\npics/x/9.png,b\n", r"missing below .*: pics/x/9.png \(line 3\)"),
        ("image,label\npics/x/000.png,a\npics/x,b\n", "missing below .*: pics/x "),
        ("image,label\npics/x/000.png,a\npics/x/000.png,b\n", "line 3: pics/x/000.png is in line 2 already as a"),
        ("image,label\npics/x/000.png,a\n./pics//x/000.png,b\n", "is in line 2 already"),
        ("image,label\npics/x/000.png,\n", "line 2: empty image or label"),
        ("image,label\n,a\n", "line 2: empty image or label"),
        ("image,label\npics/x/000.png\n", "line 2: other number of fields"),
        ("image,label\npics/x/000.png,a,b\n", "line 2: other number of fields"),
        ("image,label\n../secret.png,a\n", "line 2: ../secret.png is not below"),
        ("image,label\npics/../../secret.png,a\n", "is not below"),
        ("image,label\n/etc/hostname,a\n", "line 2: /etc/hostname is not below"),
        ("image,label\npics/x/000.png,a\npics/x/001.png,a\n", r"1 class \(a\).*2 or more"),
        ('image,label\n"pics/x/000.png,a\n', "labels.csv: not a CSV"),
    ],
)
def test_csv_that_cannot_be_used(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as error:
        open_source(csv_of(tmp_path, text))
    assert "labels.csv" in str(error.value) and "\n" not in str(error.value)


def test_csv_that_is_not_utf8(tmp_path):
    with pytest.raises(InputError, match="labels.csv: not UTF-8"):
        open_source(csv_of(tmp_path, "image,label\npics/x/000.png,café\n", "latin-1"))


# -------------------------------------------------------------------------------- loading


class Part(SimpleNamespace):
    """The part of a fold table that loading needs."""

    @property
    def images(self):
        return self.frame["image"].tolist()


def table_of(source, size):
    sums = [sha256_bytes(source.read(image)) for image in source.images]
    frame = pd.DataFrame({"image": source.images, "sha256": sums})
    return Part(
        frame=frame,
        size=size,
        data=str(source.data),
        root=source.root,
        name="n",
        paths=Workspace().competition("n"),
        ranges={},
    )


SMALL = Memory(1000, "MEMORY=1000")  # a picture of 24x32 takes 2304 bytes


def decoded():
    """The files of decoded images below the current directory; not their records."""
    return sorted(path.name for path in Path("runs/n/images").iterdir() if path.suffix != ".json")


def test_images_that_came_after_the_table_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = class_folders(tmp_path / "data", {"a": 4, "b": 4}, height=8, width=8)
    table = make_folds(data, folds=2)
    warn_of_others(table)
    assert "fold table" not in capsys.readouterr().err
    (data / "b" / "neu.png").write_bytes((data / "b" / "000.png").read_bytes())
    warn_of_others(table)
    assert len(load_images(table)) == 8
    assert "1 images are not in the fold table" in (error := capsys.readouterr().err) and "b/neu.png" in error


def test_load_images_in_order_and_size(tmp_path):
    folder = class_folders(tmp_path / "data", {"a": 70, "b": 70})
    for data in (folder, zip_of(folder, tmp_path / "z.zip", "top/")):
        table = table_of(open_source(data), (24, 32))
        table.frame = table.frame.sample(frac=1, random_state=0)
        images = load_images(table)
        assert images.shape == (140, 24, 32, 3) and images.dtype == np.uint8
        expected = [np.asarray(Image.open(folder / image)) for image in table.frame["image"]]
        assert (images == np.stack(expected)).all()
    table.size = (10, 11)
    assert (load_images(table)[3] == resize(expected[3], (10, 11))).all()


def test_load_images_notices_what_changed(tmp_path):
    folder = class_folders(tmp_path / "data", {"a": 2, "b": 2})
    table = table_of(open_source(folder), (24, 32))
    load_images(table)
    good = (folder / "b/000.png").read_bytes()
    (folder / "b/000.png").write_bytes(encode(smooth(99)))
    with pytest.raises(InputError, match="b/000.png.*changed since"):
        load_images(table)
    (folder / "b/000.png").write_bytes(good)
    (folder / "a/001.png").unlink()
    with pytest.raises(InputError, match="a/001.png: no such file.*make folds"):
        load_images(table)


def test_images_that_do_not_fit_into_memory(tmp_path, workdir, monkeypatch, capsys):
    folder = class_folders(tmp_path / "data", {"a": 70, "b": 70})
    table = table_of(open_source(folder), (24, 32))
    expected = load_images(table, Memory(2 * 140 * 2304, "just enough"))
    assert type(expected) is np.ndarray and not Path("runs").exists() and capsys.readouterr().out == ""
    images = load_images(table, SMALL)
    assert isinstance(images, Stored) and images.shape == expected.shape and (images[:] == expected).all()
    assert re.search(r"0 MB, more than half of .*MEMORY=1000.* runs/n/images/\w+.npy", capsys.readouterr().out)
    assert len(decoded()) == 1

    monkeypatch.setattr(decode_module, "decode", lambda *_: pytest.fail("decoded again"))
    monkeypatch.setattr(images_module, "decode", lambda *_: pytest.fail("decoded again"))
    assert (load_images(table, SMALL)[:] == expected).all()
    monkeypatch.undo()


@pytest.mark.parametrize("harm", [lambda data: data[:-1], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_damaged_decoded_images_are_made_anew_with_a_warning(tmp_path, workdir, capsys, harm):
    table = table_of(open_source(class_folders(tmp_path / "data", {"a": 2, "b": 2})), (24, 32))
    load_images(table, SMALL)
    (path,) = (Path("runs/n/images", name) for name in decoded())
    path.write_bytes(harm(path.read_bytes()))
    capsys.readouterr()
    assert (load_images(table, SMALL)[:] == load_images(table)).all()
    assert f"warning: {path}: " in capsys.readouterr().err
    load_images(table, SMALL)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("change", ["size", "pictures", "order"])
def test_decoded_images_are_of_their_table(tmp_path, workdir, change):
    folder = class_folders(tmp_path / "data", {"a": 2, "b": 2})
    table = table_of(open_source(folder), (24, 32))
    load_images(table, SMALL)
    before = decoded()
    if change == "size":
        table.size = (32, 24)
    elif change == "pictures":
        (folder / "b/000.png").write_bytes(encode(smooth(99)))
        table = table_of(open_source(folder), (24, 32))
    else:
        table.frame = table.frame.iloc[::-1]
    assert (load_images(table, SMALL)[:] == load_images(table)).all()
    assert len(decoded()) == 1 and decoded() != before, "the older file is of no more use"


def test_a_change_while_decoding_goes_on(tmp_path, workdir):
    """What was decoded before the error stays, and the rest follows when the cause is mended."""
    folder = class_folders(tmp_path / "data", {"a": 70, "b": 70})
    table = table_of(open_source(folder), (24, 32))
    expected = load_images(table)
    good = (folder / "b/060.png").read_bytes()
    (folder / "b/060.png").write_bytes(encode(smooth(999)))
    with pytest.raises(InputError, match="b/060.png.*changed since"):
        load_images(table, SMALL)
    assert [name.endswith(".npy.part") for name in decoded()] == [True]
    (folder / "b/060.png").write_bytes(good)
    (folder / "a/000.png").write_bytes(b"")  # decoded before: nobody asks for it any more
    assert (load_images(table, SMALL)[:] == expected).all()


def test_threads_keep_order_and_do_not_run_ahead():
    begun = []

    def work(item):
        begun.append(item)
        return item * 2

    results = in_threads(work, list(range(5000)), "work", part=2)
    assert next(results) == 0
    time.sleep(0.2)
    assert len(begun) < 200, "what waits to be used does not depend on the number of items"
    assert list(results) == list(range(2, 10000, 2))


def test_an_error_in_a_thread_ends_the_work():
    begun = []

    def work(item):
        begun.append(item)
        if item == 7:
            raise InputError("seven")

    with pytest.raises(InputError, match="seven"):
        list(in_threads(work, list(range(5000)), "work", part=2))
    assert len(begun) < 500


def test_natural_order():
    assert natural_order(["10", "2", "a10b2", "a10b1", "a9", "1"]) == ["1", "2", "10", "a9", "a10b1", "a10b2"]


def png_of_one_row(width, bits, colour, row):
    """The bytes of a PNG that Pillow cannot write itself (PNG specification, chapter 11)."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks
