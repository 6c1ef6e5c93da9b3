"""Arrays in .npy files, .npz members or memory, read front to back in pieces.

numpy's own loader reads a compressed member whole; here it is inflated as it is consumed, so that the memory needed
does not depend on how many samples there are. Source of the format: numpy.lib.format, versions 1 to 3.
"""

from __future__ import annotations

import dataclasses
import io
import math
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy_format

from qcompiler.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ZIP_MAGIC = b"PK"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class StoredArray:
    """An array of known dtype and shape whose elements are read only when asked for.

    Attributes:
        dtype: The elements' type, in native byte order.
        shape: The shape.
        path: The file; None for an array in memory.
        member: The name inside the .npz; None for a .npy.
        header: dtype, shape and column-major flag as they stand in the file.
        memory: The array, where it is in memory.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    path: Path | None = None
    member: str | None = None
    header: tuple[np.dtype[Any], tuple[int, ...], bool] | None = None
    memory: NDArray[Any] | None = dataclasses.field(default=None, compare=False, repr=False)

    @staticmethod
    def of(array: NDArray[Any]) -> StoredArray:
        """An array in memory, or memory-mapped."""
        return StoredArray(array.dtype, array.shape, memory=array)

    @property
    def where(self) -> str:
        """What error messages call it."""
        if self.path is None:
            return "an array in memory"
        return f"{self.path}" if self.member is None else f"{self.path} ({self.member})"

    def reshaped(self, *shape: int) -> StoredArray:
        """The same elements under a shape that adds or drops axes of size 1."""
        memory = None if self.memory is None else self.memory.reshape(shape)
        return dataclasses.replace(self, shape=shape, memory=memory)

    def read(self) -> NDArray[Any]:
        """The whole array.

        Raises:
            DataError: The file is damaged or cut off.
        """
        with RowReader(self.reshaped(1, *self.shape)) as reader:
            return reader.read(1).reshape(self.shape)


class RowReader:
    """Reads a stored array along its first axis, front to back. A context manager."""

    def __init__(self, stored: StoredArray, start: int = 0) -> None:
        """Starts at row `start`; the rows before it are skipped, in a compressed file by inflating them."""
        self._stored = stored
        self._next = start
        self._row_bytes = 0
        self._archive: zipfile.ZipFile | None = None
        self._stream: IO[bytes] | None = None
        self._array: NDArray[Any] | None = stored.memory
        if stored.path is None:
            return
        assert stored.header is not None
        dtype, shape, fortran = stored.header
        with _errors(stored):
            self._stream = self._open(stored.path, stored.member)
            _read_header(self._stream)
            if fortran and len(shape) > 1:
                self._array = _column_major(self._stream, dtype, shape).reshape(stored.shape)
                return
            self._row_bytes = math.prod(stored.shape[1:]) * dtype.itemsize
            if start:
                self._stream.seek(start * self._row_bytes, io.SEEK_CUR)

    def _open(self, path: Path, member: str | None) -> IO[bytes]:
        if member is None:
            return path.open("rb")
        self._archive = zipfile.ZipFile(path)
        return self._archive.open(member)

    def read(self, count: int) -> NDArray[Any]:
        """The next `count` rows, in native byte order.

        Raises:
            DataError: The file is damaged or cut off.
        """
        first, self._next = self._next, self._next + count
        if self._array is not None:
            rows = self._array[first : self._next]
            return np.ascontiguousarray(rows, self._stored.dtype).reshape(count, *self._stored.shape[1:])
        assert self._stream is not None
        assert self._stored.header is not None
        wanted = count * self._row_bytes
        with _errors(self._stored):
            raw = self._stream.read(wanted)
        if len(raw) < wanted:
            raise DataError(
                f"{self._stored.where} ends in the middle of sample {first + len(raw) // max(self._row_bytes, 1)}: the file is "
                "cut off. Copy or write it again."
            )
        rows = np.frombuffer(raw, self._stored.header[0]).astype(self._stored.dtype, copy=False)
        return rows.reshape(count, *self._stored.shape[1:])

    def __enter__(self) -> RowReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()
        if self._archive is not None:
            self._archive.close()


def open_npy(path: Path) -> StoredArray:
    """An array in a .npy file; only its header is read.

    Raises:
        DataError: The file is missing, no .npy file, cut off, or holds Python objects.
    """
    with _errors(path), path.open("rb") as stream:
        stored = _stored(_read_header(stream), path, None)
        expected = stream.tell() + math.prod(stored.shape) * stored.dtype.itemsize
    if path.stat().st_size < expected:
        raise DataError(
            f"{path} should have {expected} bytes by its own header and has {path.stat().st_size}: it is cut off. "
            "Copy or write it again."
        )
    return stored


def open_npz(path: Path, *, skip: Collection[str] = ()) -> dict[str, StoredArray]:
    """The arrays of an .npz file by name, members in `skip` left out; only their headers are read.

    Raises:
        DataError: The file is missing, no zip file, cut off, or has a member that is no array.
    """
    if not path.is_file():
        raise DataError(f"There is no data file at {path}; give the path of an .npz file.")
    arrays: dict[str, StoredArray] = {}
    with _errors(path), zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if member.endswith("/") or member in skip:
                continue
            with archive.open(member) as stream:
                arrays[member.removesuffix(".npy")] = _stored(_read_header(stream), path, member)
    return arrays


def _stored(
    header: tuple[np.dtype[Any], tuple[int, ...], bool], path: Path, member: str | None
) -> StoredArray:
    dtype, shape, _ = header
    stored = StoredArray(dtype.newbyteorder("="), shape, path, member, header)
    if dtype.hasobject:
        raise DataError(
            f"{stored.where} holds Python objects, not numbers (this happens when samples of different shapes are put in one array); "
            "write plain numeric arrays."
        )
    return stored


def _read_header(stream: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    version = npy_format.read_magic(stream)
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    return dtype, shape, fortran


def _column_major(stream: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Column-major elements lie strewn over the file: they go to a temporary file, to be mapped from there."""
    with tempfile.TemporaryFile(prefix="qcompiler-") as spool:
        shutil.copyfileobj(stream, spool, _CHUNK)
        if not math.prod(shape):
            return np.zeros(shape, dtype)
        return np.memmap(spool, dtype, "r", shape=shape, order="F")


class _errors:  # noqa: N801 - reads as a statement: with _errors(path)
    """Turns what a damaged file makes the readers raise into a DataError that names the file."""

    def __init__(self, source: StoredArray | Path) -> None:
        self._source = source

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, zipfile.BadZipFile | zlib.error | EOFError | ValueError | OSError):
            return
        path = self._source if isinstance(self._source, Path) else self._source.path
        where = path if isinstance(self._source, Path) else self._source.where
        if isinstance(error, FileNotFoundError):
            raise DataError(f"There is no data file at {path}.") from error
        magic = b""
        if path is not None and path.is_file():
            with path.open("rb") as stream:
                magic = stream.read(len(_ZIP_MAGIC))
        if isinstance(error, zipfile.BadZipFile) and magic != _ZIP_MAGIC:
            raise DataError(
                f"{where} is no .npz file: it is not a zip archive. Write it with numpy.savez or numpy.savez_compressed."
            ) from error
        if isinstance(error, ValueError) and not isinstance(error, OSError):
            raise DataError(
                f"{where} holds something that is no numpy array ({error}); write it with numpy.save or numpy.savez."
            ) from error
        raise DataError(f"{where} is damaged or cut off ({error}). Copy or write it again.") from error
