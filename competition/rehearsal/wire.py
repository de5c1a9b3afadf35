"""What goes between a rehearsal and the process that it judges, through two pipes, in a fixed binary form.

A frame is HEADER (its kind, the token of the request, how many bytes follow) and these bytes. The process answers each
request by the token that came with it, which it cannot know earlier. This side believes nothing that it reads: kinds,
dtypes and shapes come from closed lists, sizes are checked before anything is read, texts are cut and their control
characters are shown. scorer_process.py, which must do without this project, holds the other side and the numbers.
"""

import json
import math
import struct
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

from competition.rehearsal.scorer_process import DTYPES, HEADER, KINDS, LONGEST, MOST_ARRAY, MOST_SIGNS, TEXT

MOST_TEXTS = 1 << 20  # bytes of the texts of a frame
MOST_TOLD, LONGEST_TOLD = 1000, 4096  # things that it tried, and signs of each: a path has no more
MOST_FRAMES = 1000  # of a request
MOST_ALL = 1 << 30  # bytes of all arrays


class WireError(Exception):
    """What came through the pipe is no answer; one line."""


@dataclass
class Reader:
    """The answers' end of the pipe, and what may still come through it."""

    stream: IO[bytes]
    left: int = MOST_ALL
    tried: list = field(default_factory=list)  # [kind, what] that the process said it tried

    def read(self, token: bytes) -> tuple[str, Any]:
        """(kind, content) of the answer to the request with this token: texts, or (text, array) of an "answer".

        Raises WireError for what is no answer, EOFError where the pipe ends.
        """
        for _ in range(MOST_FRAMES):
            number, given, size = HEADER.unpack(self._take(HEADER.size))
            kind = KINDS.get(number)
            if kind is None or given != token:
                raise WireError("what it sends is no answer to what it was asked")
            if kind != "answer":
                content = self._take(self._allow(size, MOST_TEXTS, "text"))
                texts = read_texts(content, LONGEST_TOLD if kind == "tried" else LONGEST)
                if kind != "tried":
                    return kind, texts
                self.tried += list(zip(texts[::2], texts[1::2]))[: MOST_TOLD - len(self.tried)]
                continue
            size = self._allow(size, MOST_ARRAY + MOST_TEXTS, "an answer")
            self.left -= size
            if self.left < 0:
                raise WireError(f"its answers have more than the {MOST_ALL / 1e6:.0f} MB that are read")
            return kind, read_answer(self._take(size))
        raise WireError(f"it sends more than {MOST_FRAMES} messages before an answer")

    def _allow(self, size, most, what):
        if size > most:
            raise WireError(f"it sends {what} of {size / 1e6:.0f} MB, more than the {most / 1e6:.0f} MB that are read")
        return size

    def _take(self, size):
        content = bytearray()
        while len(content) < size:
            part = self.stream.read(min(size - len(content), 1 << 20))
            if not part:
                raise EOFError
            content += part
        return bytes(content)


def read_texts(content: bytes, most: int = LONGEST) -> list[str]:
    """The texts of a frame, each as it can be shown, of about `most` signs."""
    texts, at = [], 0
    while at < len(content):
        if at + 4 > len(content):
            raise WireError("it sends half a text")
        (size,) = struct.unpack_from("<I", content, at)
        at += 4
        if size > len(content) - at:
            raise WireError("it sends half a text")
        texts.append(show(content[at : at + size].decode("utf-8", "replace"), most))
        at += size
    return texts


def show(text: str, most: int = LONGEST) -> str:
    """A text whose control characters are shown and not obeyed, but for the ends of lines, and which is not too long."""
    if len(text) > most:
        text = f"{text[: most // 2]} ... {text[-most // 2 :]}"
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode() for char in text
    )


def read_answer(content: bytes) -> tuple[str, np.ndarray]:
    """(what it was, in words; the array), WireError for anything else."""
    try:
        (length,) = struct.unpack_from("<H", content, 0)
        described = show(content[2 : 2 + length].decode("utf-8", "replace"), 100).replace("\n", " ")
        code, ndim, chars = struct.unpack_from("<BBI", content, 2 + length)
        at = 2 + length + 6
        if code not in (TEXT, *DTYPES) or ndim > 8:
            raise WireError("it sends an array of a type that nobody asked for")
        shape = struct.unpack_from(f"<{ndim}Q", content, at)
    except struct.error:
        raise WireError("it sends half an array") from None
    at += 8 * ndim
    if (code == TEXT) != (0 < chars <= MOST_SIGNS):
        raise WireError("it sends an array of a type that nobody asked for")
    dtype = np.dtype(f"<U{chars}" if code == TEXT else DTYPES[code])
    if math.prod(shape) * dtype.itemsize != len(content) - at or math.prod(filter(None, shape)) > MOST_ALL:
        raise WireError("it sends an array that has another size than it says")
    if " " not in described:
        raise WireError("it does not say what its answer was")
    if code == TEXT and np.any(np.frombuffer(content, "<u4", offset=at) > 0x10FFFF):
        raise WireError("it sends a text of signs that are none")
    if dtype.kind == "b":
        return described, (np.frombuffer(content, np.uint8, offset=at) != 0).reshape(shape)
    if 0 in shape:
        return described, np.zeros(shape, dtype)
    return described, np.frombuffer(content, dtype, offset=at).reshape(shape).copy()


def write_request(stream: IO[bytes], token: bytes, content: dict[str, Any], images: np.ndarray | None = None) -> None:
    """Ask the process for something; `images` go with the first request."""
    told = json.dumps(content).encode()
    stream.write(HEADER.pack(0, token, len(told)) + told)
    if images is not None:
        images = np.ascontiguousarray(images)
        view = images.reshape(-1).view(np.uint8).data
        for start in range(0, len(view), 1 << 20):
            stream.write(view[start : start + (1 << 20)])
    stream.flush()
