"""What is in a Core ML package, for people: its interface, operators, and how each weight is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qcompiler.file_summary import FileSummary, Listing
from qcompiler.targets.core_ml.program_file import Files, Function, read_files

SUFFIXES = (".mlpackage",)

_SYSTEMS = {
    6: "iOS 15, macOS 12",
    7: "iOS 16, macOS 13",
    8: "iOS 17, macOS 14",
    9: "iOS 18, macOS 15",
    10: "iOS 26, macOS 26",
}
"""Since when versions of the specification are read."""
_ABOUT = (
    ("Description", "shortDescription"),
    ("Author", "author"),
    ("License", "license"),
    ("Version", "versionString"),
)
_FEW_CLASSES = 5


def summary(path: Path) -> FileSummary:
    """A package at a glance.

    Raises:
        ModelError: It is no package, or damaged.
        ExtraError: coremltools is not installed.
    """
    files = read_files(path)
    description, version = files.specification.description, files.specification.specificationVersion
    facts = (
        ("Package", f"{path.name}: {files.size:,} bytes, of which {files.stored:,} of weights"),
        *((title, getattr(description.metadata, key)) for title, key in _ABOUT),
        ("Kind", _kind(files)),
        ("Needs", f"{_SYSTEMS.get(version, 'a system')} or newer (specification {version})"),
        ("Inputs", _ports(description.input)),
        ("States", _ports(description.state)),
        ("Outputs", _ports(description.output)),
        ("Classes", _classes(files.specification)),
        ("Weights", "\n".join(_totals(files))),
    )
    listings = [
        listing
        for name, function in files.functions.items()
        for listing in _listings(function, f" of {name}" if len(files.functions) > 1 else "")
    ]
    return FileSummary(tuple((name, text) for name, text in facts if text), tuple(listings))


def _kind(files: Files) -> str:
    """What sort of model it is; of others than ML programs the interface is all that is shown."""
    kind = str(files.specification.WhichOneof("Type"))
    if kind != "mlProgram":
        return f"{kind}, which is no ML program: operators and weights are not shown"
    count = len(files.functions)
    return "ML program" if count == 1 else f"ML program of {count} functions: {', '.join(files.functions)}"


def _ports(ports: Any) -> str:
    return "\n".join(f"{port.name}: {_type_text(port.type)}" for port in ports)


def _type_text(kind: Any) -> str:
    """What an input or output is."""
    which = kind.WhichOneof("Type")
    if which == "imageType":
        image = kind.imageType
        space = type(image).ColorSpace.Name(image.colorSpace).replace("_", " ").lower()
        return f"image, {space}, {_image_sizes(image)}"
    if which == "multiArrayType":
        return _array_text(kind.multiArrayType)
    if which == "stateType":
        return f"state {_array_text(kind.stateType.arrayType)}"
    if which == "dictionaryType":
        key = str(kind.dictionaryType.WhichOneof("KeyType")).removesuffix("KeyType")
        return f"numbers by {'label' if key == 'string' else key}"
    return {"stringType": "text", "int64Type": "an integer"}.get(str(which), str(which).removesuffix("Type"))


def _image_sizes(image: Any) -> str:
    """How high and wide an image is, or can be."""
    which = image.WhichOneof("SizeFlexibility")
    if which == "imageSizeRange":
        high, wide = image.imageSizeRange.heightRange, image.imageSizeRange.widthRange
        return f"{_range_text(high.lowerBound, high.upperBound)} high and {_range_text(wide.lowerBound, wide.upperBound)} wide"
    sizes = image.enumeratedSizes.sizes if which == "enumeratedSizes" else (image,)
    return " or ".join(f"{size.height} high and {size.width} wide" for size in sizes)


def _array_text(array: Any) -> str:
    """An array: its type and shape; of open sizes, from where to where they go."""
    name = type(array).ArrayDataType.Name(array.dataType).lower()
    if array.WhichOneof("ShapeFlexibility") == "shapeRange":
        sizes = [_range_text(size.lowerBound, size.upperBound) for size in array.shapeRange.sizeRanges]
    else:
        sizes = [str(size) for size in array.shape]
    return f"{name}[{','.join(sizes) or '...'}]"


def _range_text(least: int, most: int) -> str:
    if least == most:
        return str(least)
    return f"{least}..{most if most >= 0 else ''}"


def _classes(specification: Any) -> str:
    """The labels that the program's classifier gives, the first of them by name."""
    for function in specification.mlProgram.functions.values():
        block = function.block_specializations[function.opset]
        found = {op.outputs[0].name: op for op in block.operations if op.type == "const"}
        for op in block.operations:
            if op.type != "classify":
                continue
            given = op.inputs["classes"].arguments[0]
            value = given.value if given.WhichOneof("binding") == "value" else found[given.name].attributes["val"]  # fmt: skip
            labels = [_label(item) for item in value.immediateValue.list.values]
            more = ", ..." if len(labels) > _FEW_CLASSES else ""
            return f"{len(labels):,}: {', '.join(labels[:_FEW_CLASSES])}{more}"
    return ""


def _label(value: Any) -> str:
    tensor = value.immediateValue.tensor
    return str(next(iter((*tensor.strings.values, *tensor.longInts.values)), ""))


def _totals(files: Files) -> Iterator[str]:
    """Bytes of weights by how they are stored, the most first."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for function in files.functions.values():
        for weight in function.weights:
            form = ", ".join(
                part.partition(":")[0] for part in weight.kind
            )  # without what differs from one to the next
            counts[form] += 1
            sizes[form] += weight.size
    for form, size in sizes.most_common():
        yield f"{size:,} bytes in {counts[form]:,} of {form}"


def _listings(function: Function, of: str) -> Iterator[Listing]:
    kinds = sorted(function.ops.items(), key=lambda item: (-item[1], item[0]))
    yield Listing(
        f"Kinds of operators{of}",
        ("operator", "count"),
        tuple((name, f"{count:,}") for name, count in kinds),
        frozenset({1}),
    )
    rows = tuple(
        (weight.name, "x".join(map(str, weight.shape)), "\n".join(weight.kind), f"{weight.size:,}")
        for weight in function.weights
    )
    yield Listing(f"Weights{of}", ("weight", "shape", "stored as", "bytes"), rows, frozenset({3}))
