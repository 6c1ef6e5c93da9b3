"""A program as a package on disk, and back."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcompiler.errors import ModelError
from qcompiler.silence import ERRORS, silenced
from qcompiler.targets.core_ml.open_sizes import Range
from qcompiler.targets.core_ml.toolkit import toolkit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qcompiler.targets.core_ml.interface import Interface
    from qcompiler.targets.core_ml.pixels import Image

MODEL = "model.mlpackage"
_ROOT = "com.apple.CoreML"
_SPECIFICATION = f"{_ROOT}/model.mlmodel"
_WEIGHTS = f"{_ROOT}/weights"
_DATA = "Data"
_KEPT_OUT = {
    "common::int_op_canonicalization",  # dequantize, reshape, quantize become a reshape of codes whatever the two scales
    "common::distributive_quantized_binary_op_scale_normalization",  # scales are no longer those that were asked for
    "common::canonicalize_quantized_lut_pattern",  # it moves scales per channel into tables that are shared by channels
    "common::nullify_redundant_quantization_zero_point",  # lowering does that, and keeps the names
    "common::fuse_elementwise_to_batchnorm",  # it makes float32 constants for operands of float16, which is an error
}
"""Passes of coremltools that the program is kept from: what was measured of them is in docs/targets/core-ml-measured.md."""
_DATED = "com.github.apple.coremltools.conversion_date"


def files_of(
    program: Any,
    opset: Any,
    names: Mapping[str, str],
    inputs: Mapping[str, tuple[int | Range, ...]],
    interface: Interface,
    about: Mapping[str, str],
) -> Iterator[tuple[str, bytes]]:
    """The package's files, by their paths in it: the same ones for the same program.

    Args:
        program: The program, as the author left it.
        opset: Its deployment target.
        names: What values of the graph are called in it.
        inputs: Shapes of the inputs, by the graph's names.
        interface: What people see of it.
        about: What people may want to know of the model, by key.
    """
    kit, classifier = toolkit(), interface.classifier
    pipeline = kit.PassPipeline.DEFAULT
    pipeline.remove_passes(_KEPT_OUT)
    with silenced(ERRORS):  # it shows its progress
        model = kit.ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=opset,
            compute_precision=kit.ct.precision.FLOAT32,  # types are as written: nothing is left to cast
            pass_pipeline=pipeline,
            inputs=[_port(names[name], shape, interface.images.get(name)) for name, shape in inputs.items()],
            classifier_config=classifier.config(names[classifier.output]) if classifier else None,
            skip_model_load=True,
        )
    specification = model.get_spec()
    metadata = specification.description.metadata
    metadata.userDefined.pop(_DATED, None)
    for key, text in about.items():
        metadata.userDefined[key] = text
    for key, text in interface.about.items():
        setattr(metadata, key, text)
    yield f"{_DATA}/{_SPECIFICATION}", specification.SerializeToString(deterministic=True)
    weights = sorted(Path(model.weights_dir).iterdir()) if model.weights_dir else []
    for path in weights:
        yield f"{_DATA}/{_WEIGHTS}/{path.name}", path.read_bytes()
    items = {_SPECIFICATION: "CoreML Model Specification"} | (
        {_WEIGHTS: "CoreML Model Weights"} if weights else {}
    )
    text = json.dumps(_manifest(items), indent=4)
    yield (
        "Manifest.json",
        f"{text}\n".encode(),
    )  # as coremltools writes it, which it does when it reads a package


def _port(name: str, shape: tuple[int | Range, ...], image: Image | None) -> Any:
    """An input as coremltools declares it."""
    ct = toolkit().ct
    sizes = ct.Shape(
        tuple(
            ct.RangeDim(lower_bound=size.least, upper_bound=size.most, default=size.usual)
            if isinstance(size, Range)
            else size
            for size in shape
        )
    )
    return ct.TensorType(name=name, shape=sizes) if image is None else image.port(name, sizes)


def _manifest(items: Mapping[str, str]) -> dict[str, Any]:
    """What is where in the package, the model first. Identifiers only have to differ; made of the paths, they are the same every time."""
    entries = {
        str(uuid.uuid5(uuid.NAMESPACE_URL, path)).upper(): {
            "author": _ROOT,
            "description": description,
            "name": Path(path).name,
            "path": path,
        }
        for path, description in items.items()
    }
    return {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": next(iter(entries)),
    }


@dataclass(frozen=True)
class Package:
    """What a package on disk holds.

    Attributes:
        specification: Its specification, a protocol buffer.
        function: Its main function, read back through coremltools' builder, which checks types and shapes anew.
    """

    specification: Any
    function: Any


def read(path: Path) -> Package:
    """Reads a package from disk.

    Raises:
        ModelError: It is damaged, or something else than an ML program.
    """
    kit = toolkit()
    try:
        model = kit.ct.models.MLModel(str(path), skip_model_load=True)
        specification = model.get_spec()
        program = kit.milproto.load(
            specification,
            specification_version=specification.specificationVersion,
            file_weights_dir=model.weights_dir,
        )
        return Package(specification, program.functions["main"])
    except Exception as error:  # whatever coremltools raises
        raise ModelError(
            f"The package {path.name} cannot be read back: {' '.join(str(error).split())}."
        ) from error
