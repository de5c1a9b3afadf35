"""From the bytes of an image file to the RGB pixels that a person sees, and how they are resized."""

import io

import numpy as np
from PIL import Image

from competition.base.files import InputError

EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".mpo", ".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
}
FORMATS = tuple(kind for kind in EXTENSIONS if kind != "MPO")  # Pillow opens MPO as a kind of JPEG
PNG_END = b"IEND\xaeB`\x82"  # the last chunk's name and its CRC (PNG specification, 11.2.5)

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
PIXELS = 32 * 32  # that an image is shrunk to: as good for a linear model as all of them, and the time does not grow


def decode(data, name):
    """Bytes of a picture -> uint8 [height, width, 3], RGB as a person sees it.

    EXIF rotation is applied; transparency is laid on white; of several frames the first is taken; 16-bit grey
    is scaled to 8 bit (v / 257, rounded), 32-bit integers likewise, clipped at 65535; floats are taken as
    0..1 when none is outside of that, as 0..255 otherwise. Colour profiles are not applied. Raises InputError
    naming the file when it is empty, truncated or no picture.
    """
    return decode_with_format(data, name)[0]


def decode_with_format(data, name):
    """Like `decode`, and the format that the bytes have ("JPEG", "PNG", ...), whatever the name says."""
    pixels, _, kind = _decode(data, name)
    return pixels, kind


def check_image(data, name):
    """(height, width) that `decode` would give, and the format; InputError for all that it would refuse.

    Of a JPEG all bytes are decoded, but each 8 x 8 block of them to one pixel only (libjpeg's scaling within the
    cosine transform), in a half to a third of the time.
    """
    return check_with_draft(data, name, 1)[1:]


def check_with_draft(data, name, side):
    """Like `check_image`, and before that what it decoded: uint8 [h, w, 3], no smaller than `side` where the image is not."""
    return _decode(data, name, side)


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


def _decode(data, name, draft=0):
    """Pixels, (height, width) at full size, format.

    With a `draft` a JPEG's pixels may come at 1/2, 1/4 or 1/8 of their size, but no side smaller than that.
    """
    if not data:
        raise InputError(f"{name}: the file is empty, expected a picture")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise InputError(f"{name}: no picture that can be read, expected {', '.join(FORMATS)}") from None
    except Exception as error:  # decoders fail in many ways on hostile bytes; each means the same to the user
        raise InputError(f"{name}: no picture that can be read: {error}") from None
    try:
        full = image.size
        drafted = draft and image.draft(None, (draft, draft))
        image.load()
        if image.format == "PNG" and PNG_END not in data:  # Pillow is content once it has all rows
            raise OSError("the file ends before its end mark")
        pixels = np.asarray(_upright(_rgb(image), _orientation(image)))
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"{name}: broken or truncated {image.format} picture: {reason}") from None
    size = pixels.shape[:2]
    if drafted:
        size = full if _orientation(image) in SIDEWAYS else full[::-1]
    return pixels, size, image.format


def _orientation(image):
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # broken metadata: viewers show such a picture as it is stored
        return 1


def _upright(image, orientation):
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _rgb(image):
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(values):
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0, posinf=255.0, neginf=0.0)
        scale = 255.0 if values.min() >= 0 and values.max() <= 1 else 1.0
        return np.rint(np.clip(values * scale, 0, 255)).astype(np.uint8)
    return ((np.clip(values.astype(np.int64), 0, 65535) + 128) // 257).astype(np.uint8)
