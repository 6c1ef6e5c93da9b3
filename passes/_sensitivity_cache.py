"""Sensitivities that are kept: a file each, under a name made of everything that they depend on."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.sensitivity import Loss, Sensitivity
from qcompiler.statistics import fingerprint

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcompiler.forms import Form
    from qcompiler.ir.encoding import Encoding
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Use

VARIABLE = "QCOMPILER_CACHE"
"""Environment variable: another folder for the cache, or "off"."""

_VERSION = 2


def cache_folder() -> Path | None:
    """Where sensitivities are kept: below the user's cache folder, or where QCOMPILER_CACHE says; None for "off"."""
    given = os.environ.get(VARIABLE, "")
    if given == "off":
        return None
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(given) if given else (Path(base) if base else Path.home() / ".cache") / "qcompiler"
    return root / "sensitivity"


def cache_key(
    graph: Graph,
    forms: Mapping[Form, tuple[Use, ...]],
    encodings: Iterable[Encoding],
    samples: Iterable[Mapping[str, NDArray[Any]]],
    options: str,
) -> str:
    """SHA-256, hexadecimal, of the model with its weights, the forms as they are encoded, the samples and the options."""
    digest = hashlib.sha256(f"{_VERSION} {importlib.metadata.version('qcompiler')} {options}".encode())
    digest.update(fingerprint(graph).encode())
    for (form, uses), encoding in zip(forms.items(), encodings, strict=True):
        places = [(use.node.name, use.slot) for use in uses]
        digest.update(json.dumps([form.key, places, encoding.to_json()]).encode())
    for sample in samples:
        for name in sorted(sample):
            array = np.ascontiguousarray(sample[name])
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(array.data)
    return digest.hexdigest()


def read(key: str) -> Sensitivity | None:
    """What is kept under a key; None where there is nothing, or nothing readable."""
    folder = cache_folder()
    if folder is None:
        return None
    try:
        entry = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
        losses = {
            (str(name), str(spec), None if axis is None else int(axis)): Loss(
                float(mean), float(error), bool(measured)
            )
            for name, spec, axis, mean, error, measured in entry["losses"]
        }
        return Sensitivity(losses, str(entry["measure"]), int(entry["samples"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(key: str, sensitivity: Sensitivity) -> None:
    """Keeps a sensitivity, whole or not at all; where it cannot be written, it is not kept."""
    folder = cache_folder()
    if folder is None:
        return
    losses = [[*name, loss.mean, loss.error, loss.measured] for name, loss in sensitivity.losses.items()]
    text = json.dumps({"measure": sensitivity.measure, "samples": sensitivity.samples, "losses": losses})
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(name).replace(folder / f"{key}.json")
        except OSError:
            Path(name).unlink(missing_ok=True)
