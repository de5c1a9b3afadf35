"""Members of archives, read within limits: what an archive says of their sizes may be wrong, and a few bytes may unpack
to any number."""

import bz2
import copy
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from competition.base.arrays import gigabytes
from competition.base.files import InputError

LARGEST = 2**29  # bytes of a file that is read as a whole, a picture say
BOMB, RATIO = 2**30, 200  # bytes from which on an archive may unpack to at most so many times its own size
LONGEST, DEEPEST = 2048, 100  # signs and folders of a path
PIECE = 2**20  # bytes that are read at a time


def check_sizes(path: Path | str, entries: Sequence[zipfile.ZipInfo], packed: int) -> None:
    """InputError for a zip, of `packed` bytes on disk, whose entries together unpack to far more than any picture does."""
    if sum(entry.compress_size for entry in entries) > packed:
        raise InputError(f"{path}: broken zip: its files take more than its own {packed} bytes, so that they overlap")
    check_ratio(path, sum(entry.file_size for entry in entries), packed)


def check_ratio(path: Path | str, unpacked: int, packed: int) -> None:
    """InputError for an archive of `packed` bytes that unpacks to so many bytes, or to more."""
    if unpacked > BOMB and unpacked > RATIO * packed:
        raise InputError(
            f"{path}: {packed:,} bytes unpack to {gigabytes(unpacked)}, expected at most {RATIO} times as many or "
            f"{gigabytes(BOMB)}; unpack it and give the folder if that is meant"
        )


def check_size(path: Path | str, name: str, size: int, most: int = LARGEST) -> None:
    """InputError for a file in an archive that is too large to be read as a whole."""
    if size > most:
        raise InputError(f"{path}: {name} has {gigabytes(size)}, expected {gigabytes(most)} at most")


def check_path(path: Path | str, name: str) -> None:
    """InputError for the name of a file in an archive or a folder that is too long, or lies too deep."""
    if len(name) > LONGEST or name.count("/") > DEEPEST:
        raise InputError(
            f"{path}: {name[:40]}... is a path of {len(name)} signs and {name.count('/')} folders, expected "
            f"{LONGEST} and {DEEPEST} at most"
        )


def read_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int = LARGEST) -> bytes:
    """The bytes of a zip's entry, no more than it says that it has; InputError where that is more than `most`.

    Raises what zipfile raises for a broken entry.
    """
    check_size(archive.filename or "the zip", entry.filename, entry.file_size, most)
    if entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with archive.open(entry) as file:
            return file.read(max(1, entry.file_size))  # `ZipFile.read` unpacks all that is packed, and cuts it then
    return b"".join(member_pieces(archive, entry))


def member_pieces(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    """The bytes of a zip's entry piece by piece, no more than it says that it has; raises as `read_member`."""
    if entry.compress_type in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield from _unpack(archive, entry)
        return
    with archive.open(entry) as file:
        while data := file.read(PIECE):
            yield data


def unpack_all(archive: zipfile.ZipFile, folder: Path) -> None:
    """Unpack a zip into a folder, piece by piece: `extractall` holds all that 64 KB of bzip2 or LZMA unpack to.

    Raises ValueError for a path that leaves the folder, and as `read_member`.
    """
    for entry in archive.infolist():
        check_path(archive.filename or "the zip", entry.filename)
        path = folder / entry.filename
        if ".." in path.relative_to(folder).parts:
            raise ValueError(f"{entry.filename} lies outside the zip's own folder")
        (path if entry.is_dir() else path.parent).mkdir(parents=True, exist_ok=True)
        if not entry.is_dir():
            with open(path, "wb") as file:
                file.writelines(member_pieces(archive, entry))


def _unpack(archive, entry):
    """The same of what is packed by bzip2 or LZMA, of which Python's zipfile unpacks as much as there is in one go."""
    packed = copy.copy(entry)
    packed.compress_type, packed.file_size = zipfile.ZIP_STORED, entry.compress_size
    del packed.CRC
    left, checksum = entry.file_size, 0
    with archive.open(packed) as file:
        unpacking = bz2.BZ2Decompressor() if entry.compress_type == zipfile.ZIP_BZIP2 else _lzma(file)
        while left and not unpacking.eof:
            data = unpacking.decompress(file.read(PIECE) if unpacking.needs_input else b"", min(PIECE, left))
            if not data and unpacking.needs_input and file.tell() >= entry.compress_size:
                raise EOFError("the archive ends within the file")
            left -= len(data)
            checksum = zlib.crc32(data, checksum)
            yield data
    if checksum != entry.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {entry.filename!r}")


def _lzma(file):
    """What unpacks LZMA in a zip, of which the head is read (APPNOTE.TXT, 5.8.8)."""
    _, size = struct.unpack("<HH", _exactly(file, 4))
    properties, dictionary = struct.unpack("<BI", _exactly(file, size)[:5].ljust(5, b"\0"))
    if dictionary > LARGEST:
        raise zipfile.BadZipFile(
            f"LZMA with a dictionary of {gigabytes(dictionary)}, expected {gigabytes(LARGEST)} at most"
        )
    lc, lp, pb = properties % 9, properties // 9 % 5, properties // 45
    how = {"id": lzma.FILTER_LZMA1, "dict_size": dictionary, "lc": lc, "lp": lp, "pb": pb}
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[how])


def _exactly(file, count):
    data = file.read(count)
    if len(data) < count:
        raise EOFError("the archive ends within the file")
    return data


def copy_pieces(path: Path | str, pieces: Iterable[bytes], target: IO[bytes], packed: int) -> None:
    """Write what `packed` bytes unpack to, piece by piece; InputError as soon as it is too much."""
    done = 0
    for data in pieces:
        done += len(data)
        check_ratio(path, done, packed)
        target.write(data)
