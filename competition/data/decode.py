"""From the bytes of an image file to the RGB pixels that a person sees, and how they are resized."""

import io
import struct
import threading
from contextlib import contextmanager
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageCms

from competition.base.arrays import gigabytes, read_memory
from competition.base.files import InputError
from competition.data.ranges import ASSUMED, DEEP_COLOURS, FLOATS, INTEGERS, SIXTEEN_BITS, Values, scale, see_values

try:
    from PIL import AvifImagePlugin
except ImportError:  # Pillow below 11.3 has none
    AvifImagePlugin = None  # type: ignore[assignment]

EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".mpo", ".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "HEIF": (".heic", ".heif", ".hif"),
}
# Pillow opens MPO as a kind of JPEG, and HEIF by a package of its own
FORMATS = tuple(kind for kind in EXTENSIONS if kind not in ("MPO", "HEIF") and (kind != "AVIF" or AvifImagePlugin))
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # ISO/IEC 23008-12, annex B
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_END = b"IEND\xaeB`\x82"  # the last chunk's name and its CRC (PNG specification, 11.2.5)

# how files begin that are taken for pictures; what they are, and what to do
OTHER_FILES = {
    b"\xff\x0a": "a JPEG XL picture, which Pillow does not read: convert it to PNG",
    b"\0\0\0\x0cJXL ": "a JPEG XL picture, which Pillow does not read: convert it to PNG",
    b"<svg": "an SVG drawing: convert it to PNG",
    b"<?xml": "an XML file, an SVG drawing perhaps: convert it to PNG",
    b"<!doctype html": "a web page, which a download leaves that has failed: fetch the picture again",
    b"<html": "a web page, which a download leaves that has failed: fetch the picture again",
    b"version https://git-lfs": "a pointer of Git LFS: git lfs pull fetches the picture",
    b"%PDF": "a PDF file: convert its pages to PNG",
    b"8BPS": "a Photoshop file: export it as PNG",
}

# EXIF orientation -> what turns the stored pixels upright (EXIF 2.32, tag 0x0112)
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)
LARGE = 178_956_970  # pixels: more Pillow refuses (twice its MAX_IMAGE_PIXELS), and they are decoded reduced
REDUCED = LARGE // 4  # pixels, that a large picture has at most
LARGEST = 2**30  # pixels: what is larger does not fit into memory
REDUCING = ("JPEG", "MPO", "JPEG2000")  # whose decoders reduce large pictures themselves
DEEP_AND_LARGE = 2**25  # pixels from which on those of more than 8 bits, which take many copies, ask for memory first
JPEG_SCALES = 8  # the most that libjpeg reduces a picture by while it decodes
PIXELS = 32 * 32  # that an image is shrunk to: as good for a linear model as all of them, and the time does not grow


_one_at_a_time = threading.RLock()


class Checked(NamedTuple):
    """What `check_values` finds."""

    pixels: np.ndarray  # uint8 [h, w, 3], at full size or smaller
    size: tuple[int, int]  # (height, width) of the whole picture, upright
    format: str
    values: Values | None  # of a picture with more than 8 bits a value


def decode(data, name, ranges=None):
    """Bytes of a picture -> uint8 [height, width, 3], RGB as a person sees it.

    EXIF rotation is applied; transparency is laid on white; of several frames the first is taken. Values of more
    than 8 bits are scaled by `ranges` (ranges.find_ranges), which a fold table holds. Without one for their kind 16-bit
    grey is scaled to 8 bit (v / 257, rounded), 32-bit integers likewise, clipped at 65535; floats are taken as
    0..1 when none is outside of that, as 0..255 otherwise. Colour profiles are not applied. A picture of more than
    LARGE pixels comes reduced, each side by the same power of two. Raises InputError naming the file when it is empty,
    truncated or no picture.
    """
    return _decode(data, name, 0, ranges)[0]


def decode_with_format(data, name):
    """Like `decode`, and the format that the bytes have ("JPEG", "PNG", ...), whatever the name says."""
    found = _decode(data, name)
    return found.pixels, found.format


def check_image(data, name):
    """(height, width) of the whole picture, and the format; InputError for all that `decode` would refuse.

    Of a JPEG all bytes are decoded, but each 8 x 8 block of them to one pixel only (libjpeg's scaling within the
    cosine transform), in a half to a third of the time.
    """
    return check_with_draft(data, name, 1)[1:]


def check_with_draft(data, name, side):
    """Like `check_image`, and before that what it decoded: uint8 [h, w, 3], no smaller than `side` where the image is not."""
    return check_values(data, name, side)[:3]


def check_values(data, name, side, ranges=None):
    """The same as a Checked, which holds what values a picture of more than 8 bits has; `ranges` as of `decode`."""
    return _decode(data, name, side, ranges)


def resize(image, size):
    """uint8 [h, w, 3] -> uint8 [height, width, 3] for `size` = (height, width): Pillow's antialiased bicubic.

    An image of that size already comes back as it is. The aspect ratio is not kept.
    """
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def shrink_size(size):
    """(height, width) with about PIXELS pixels and the same proportions; smaller sizes stay."""
    scale = min(1, (PIXELS / (size[0] * size[1])) ** 0.5)
    return tuple(max(1, round(side * scale)) for side in size)


def _decode(data, name, draft=0, ranges=None):
    """A Checked. With a `draft` a JPEG's pixels may come at 1/2, 1/4 or 1/8 of their size, but no side smaller."""
    if not data:
        raise InputError(f"{name}: the file is empty, expected a picture")
    try:
        image = _open(data, name)
    except InputError:
        if (found := _by_opencv(data, ranges)) is None:
            raise
        return found
    if image.width * image.height > LARGE:
        if image.width * image.height > LARGEST:
            raise InputError(f"{name}: {image.width}x{image.height} pixels, expected {LARGEST:,} or fewer")
        if image.format not in REDUCING:
            _check_room(image, name, 5)  # four of RGB, and one of what that is made of
        with _large_ones():
            return _load(image, data, name, draft, ranges)
    return _load(image, data, name, draft, ranges)


def _check_room(image, name, each):
    """InputError for a picture that takes more memory than is available, `each` bytes a pixel."""
    needed, memory = image.width * image.height * each, read_memory()
    if needed > 2 * memory.total:
        raise InputError(
            f"{name}: {image.width}x{image.height} pixels take {gigabytes(needed)}, expected at most "
            f"{gigabytes(2 * memory.total)}, the memory that is available"
        )


def _load(image, data, name, draft, ranges):
    """The Checked of an Image whose head is read."""
    full, factor, picture = image.size, _factor(image.size), image.format
    try:
        kind = _deep_kind(image)
        if kind and image.width * image.height > DEEP_AND_LARGE:
            _check_room(image, name, 32)
        if factor > 1:
            _reduce_early(image, factor)
        elif draft:
            image.draft(None, (draft, draft))
        image.load()
        if picture == "PNG" and PNG_END not in data:  # Pillow is content once it has all rows
            raise OSError("the file ends before its end mark")
        orientation = _orientation(image)
        exact = _sixteen_bits(data) if kind == DEEP_COLOURS and picture == "PPM" else None  # Pillow rounds these
        values = None if kind is None else see_values(kind, np.asarray(image) if exact is None else exact, image.mode)
        all_bits = _deep_colours(data, ranges[kind]) if kind == DEEP_COLOURS and kind in (ranges or {}) else None
        grey = (
            image.mode == "L" and not image.has_transparency_data
        )  # is reduced first: the same, in a quarter of the memory
        rgb = image if grey else _rgb(all_bits or image, kind, ranges)
        left = max(1, round(rgb.width * factor / full[0]))  # of the factor, after what the decoder did
        reduced = left > 1 or image.size != full
        if left > 1:
            rgb = rgb.reduce(left)
        pixels = np.asarray(_upright(_rgb(rgb, kind, ranges) if grey else rgb, orientation))
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) and data.startswith(PNG_START):  # a long text behind the pixels
            if len(shorter := _without_texts(data)) < len(data):
                return _decode(shorter, name, draft, ranges)
        reason = str(error) or type(error).__name__
        raise InputError(f"{name}: broken or truncated {picture} picture: {reason}") from None
    size = pixels.shape[:2]
    if reduced:
        size = full if orientation in SIDEWAYS else full[::-1]
    return Checked(pixels, size, picture, values)


def _orientation(image):
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # broken metadata: viewers show such a picture as it is stored
        return 1


def _upright(image, orientation):
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _rgb(image, kind, ranges):
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        limits = (ranges or {}).get(kind)
        values = np.asarray(image)
        return Image.fromarray(scale(values, limits) if limits else _to_8_bit(values)).convert("RGB")
    if image.mode == "LAB":  # which Pillow converts by colour management alone
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(values):
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0, posinf=255.0, neginf=0.0)
        factor = 255.0 if values.min() >= 0 and values.max() <= 1 else 1.0
        return np.rint(np.clip(values * factor, 0, 255)).astype(np.uint8)
    return ((np.clip(values.astype(np.int64), 0, 65535) + 128) // 257).astype(np.uint8)


def _by_opencv(data, ranges):
    """The Checked of a TIFF that Pillow does not read: floats of 64 bits, or of several colours. None for other files."""
    if not data.startswith((b"II*\0", b"MM\0*")):
        return None
    try:
        array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if array is None or array.dtype.kind != "f":
        return None
    array = array[..., 2::-1] if array.ndim == 3 else array
    limits = (ranges or {}).get(FLOATS)
    pixels = scale(array, limits) if limits else _to_8_bit(array)
    pixels = np.ascontiguousarray(pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2))
    return Checked(pixels, pixels.shape[:2], "TIFF", see_values(FLOATS, array, "F"))


def _open(data, name):
    """The Image, of which only the head is read so far."""
    formats = _formats(data, name)
    try:
        try:
            return Image.open(io.BytesIO(data), formats=formats)
        except Image.DecompressionBombError:
            with _large_ones():
                return Image.open(io.BytesIO(data), formats=formats)
        except ValueError:
            if not data.startswith(PNG_START):
                raise
            return Image.open(io.BytesIO(_without_texts(data)), formats=formats)  # Pillow refuses long ones
    except Image.UnidentifiedImageError:
        found = next(
            (what for start, what in OTHER_FILES.items() if _begins(data, start)), "no picture that can be read"
        )
        raise InputError(f"{name}: {found}, expected {', '.join(FORMATS)}") from None
    except Exception as error:  # decoders fail in many ways on hostile bytes; each means the same to the user
        raise InputError(f"{name}: no picture that can be read: {error}") from None


def _begins(data, start):
    return data[:1000].lstrip()[: len(start)].lower() == start.lower()


def _formats(data, name):
    """The formats that the bytes may have. InputError for HEIC without the package that reads it."""
    if data[4:8] != b"ftyp":
        return FORMATS
    brands = data[8:12], *(data[i : i + 4] for i in range(16, min(64, int.from_bytes(data[:4], "big")), 4))
    if b"avif" in brands or not set(brands) & set(HEIF_BRANDS):
        return FORMATS
    try:
        import pillow_heif
    except ImportError:
        raise InputError(
            f"{name}: a HEIC picture, which needs the package pillow-heif (pip install pillow-heif); "
            "or convert it to JPEG"
        ) from None
    pillow_heif.register_heif_opener()
    return ("HEIF",)


@contextmanager
def _large_ones():
    """Let Pillow read pictures of more than LARGE pixels, one thread at a time: several would fill the memory."""
    with _one_at_a_time:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _without_texts(data):
    """The bytes of a PNG without its texts and colour profile: the pixels do not depend on them."""
    kept, start = [data[: len(PNG_START)]], len(PNG_START)
    while start + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[start : start + 8])
        end = start + 12 + length
        rotation = data[start + 8 : end].startswith(b"Raw profile type exif\0")
        if kind not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP") or rotation:
            kept.append(data[start:end])
        start = end
    return b"".join(kept)


def _factor(size):
    """The power of two that a large picture's sides are reduced by, 1 for others."""
    factor = 1
    while size[0] * size[1] > LARGE and size[0] * size[1] / factor**2 > REDUCED:
        factor *= 2
    return factor


def _reduce_early(image, factor):
    """Let the decoder itself reduce a picture, as far as it can."""
    if image.format == "JPEG":
        factor = min(factor, JPEG_SCALES)
        image.draft(None, (image.width // factor, image.height // factor))
    elif image.format == "JPEG2000":
        image.reduce = factor.bit_length() - 1


def _deep_kind(image):
    """The kind (ranges) of an Image's values where they have more than 8 bits, else None; before it is loaded."""
    if image.mode == "F":
        return FLOATS
    if image.mode.startswith("I"):  # of a PNG older versions of Pillow make 32 bits
        return SIXTEEN_BITS if image.mode != "I" or image.format == "PNG" else INTEGERS
    how = image.tile[0][3] if image.format in ("PNG", "TIFF", "PPM") and image.tile else ""
    deep = (
        how == ("RGB", 65535) if image.format == "PPM" else "16" in str(how)
    )  # Pillow scales other PPMs by their maximum
    return DEEP_COLOURS if deep and image.mode in ("RGB", "RGBA", "LA") else None


def _deep_colours(data, limits):
    """An Image of colours of 16 bits by all of these, transparency laid on white; None where OpenCV cannot read it."""
    values = _sixteen_bits(data)
    if values is None:
        return None
    pixels = scale(values[..., :3], limits)
    if values.shape[2] == 4:
        pixels = np.dstack([pixels, scale(values[..., 3], ASSUMED)])
    return Image.fromarray(pixels)


def _sixteen_bits(data):
    """The colours of a picture of 16 bits, uint16 [h, w, 3], or with transparency 4; None where OpenCV cannot read it."""
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        return None
    return np.dstack([values[..., 2::-1], values[..., 3:]])
