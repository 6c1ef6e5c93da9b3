"""The output folder: it appears whole or not at all, and says what it was made from."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qcompiler.errors import OutputError

_CHUNK = 1 << 22

REFERENCE = "reference.onnx"
"""The graph with Q/DQ, in every artifact."""


@dataclass
class Artifact:
    """A folder being written.

    Attributes:
        folder: Where files go now; they move to their final place when everything is there.
        destination: That place.
        files: What the target's own tools take, relative to the folder, in order of writing.
    """

    folder: Path
    destination: Path
    files: list[Path] = field(default_factory=list)

    def path(self, name: str) -> Path:
        """Where to write a file of the artifact; it is listed in the manifest."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if Path(name) not in self.files:
            self.files.append(Path(name))
        return path

    def write_text(self, name: str, text: str) -> Path:
        """Writes a text file of the artifact."""
        path = self.path(name)
        path.write_text(text, encoding="utf-8")
        return path

    def size(self, name: str) -> int:
        """Bytes of a file, or of all files under a folder."""
        path = self.folder / name
        return (
            sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
            if path.is_dir()
            else path.stat().st_size
        )

    def hashes(self) -> dict[str, str]:
        """SHA-256 of every file written so far, by its path in the folder."""
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): file_sha256(path) for path in found}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def version() -> str:
    """The installed version of qcompiler."""
    return importlib.metadata.version("qcompiler")


def write_json(path: Path, table: Any) -> None:
    """Writes JSON that people can read and tools can diff; numbers that are no numbers become null."""
    path.write_text(
        json.dumps(plain(table), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )


def plain(item: Any) -> Any:
    """The item with NaN and infinities replaced by None and tuples by lists, which is what JSON can say."""
    if isinstance(item, dict):
        return {str(key): plain(entry) for key, entry in item.items()}
    if isinstance(item, list | tuple):
        return [plain(entry) for entry in item]
    if isinstance(item, float) and (item != item or item in (float("inf"), float("-inf"))):
        return None
    return item


def check_destination(destination: Path, *, force: bool) -> None:
    """Checks, before any work, that the folder can be written.

    Raises:
        OutputError: It exists and may not be replaced, or its parent cannot be written to.
    """
    if destination.exists() and not (
        destination.is_dir() and ((destination / "manifest.json").exists() or not any(destination.iterdir()))
    ):
        raise OutputError(
            f"{destination} exists and was not written by qcompiler (it has no manifest.json), so it is not replaced, even with --force; "
            "name another output folder."
        )
    if destination.exists() and not force:
        raise OutputError(
            f"The output folder {destination} exists; name another, or replace it with --force."
        )
    parent = destination.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"The output folder {destination} cannot be made: {parent} is no folder that can be written to."
        )


@contextlib.contextmanager
def writing(destination: Path, *, force: bool = False) -> Iterator[Artifact]:
    """A folder beside the destination, moved there when the context ends well and removed when it does not.

    Raises:
        OutputError: The disk is full, or the folder cannot be written.
    """
    check_destination(destination, force=force)
    destination = destination.absolute()
    made = [parent for parent in destination.parents if not parent.exists()]
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    except OSError as error:
        raise OutputError(f"The output folder {destination} cannot be made: {error.strerror}.") from error
    try:
        folder.chmod(0o755)
        yield Artifact(folder, destination)
        _move(folder, destination)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OutputError(
                f"The disk is full: {destination} could not be written ({error.strerror}). Nothing was left behind."
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.EIO):
            raise OutputError(
                f"{destination} could not be written: {error.strerror}. Nothing was left behind."
            ) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not destination.exists():
            for parent in made:
                with contextlib.suppress(OSError):  # something else is in it by now
                    parent.rmdir()


def _move(folder: Path, destination: Path) -> None:
    if not destination.exists():
        folder.rename(destination)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{destination.name}.old.", dir=destination.parent))
    try:
        destination.rename(old / "replaced")
        folder.rename(destination)
    except BaseException:  # an interruption, too, must not cost the user the old folder
        if not destination.exists():
            (old / "replaced").rename(destination)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
