"""Scratch memory as planned against the sizes that CMSIS-NN itself asks for, where CMSIS_NN_PATH says where it is."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from qcompiler.fixed_point import Rescale
from qcompiler.integer.operations import Convolution, DepthwiseConvolution, MatrixProduct, Pool
from qcompiler.integer.program import Operation, Tensor
from qcompiler.ir.encoding import FORMATS, Encoding
from qcompiler.targets.cmsis_nn import boards, scratch
from qcompiler.targets.cmsis_nn.host import compiler, library_sources

sys.path.insert(0, str(Path(__file__).parent))
from kernel_library import build, numbers

MANY = 400
PATHS: tuple[boards.KernelPath, ...] = get_args(boards.KernelPath)
SUFFIX = {"c": "", "dsp": "_dsp", "mve": "_mve"}
FACTOR = Rescale.of(0.5, "double")
INT8, INT4 = (Encoding(FORMATS[name], np.float32(1), np.int32(0)) for name in ("int8", "int4"))


@pytest.fixture(scope="session")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The functions of the library that tell sizes."""
    path, command = os.environ.get("CMSIS_NN_PATH"), compiler()
    if not path:
        pytest.skip("CMSIS_NN_PATH does not say where CMSIS-NN is")
    if command is None:
        pytest.skip("there is no C compiler")
    sources = [
        file
        for file in library_sources(Path(path))
        if "get_buffer_size" in file.stem or "avgpool" in file.stem
    ]
    output = tmp_path_factory.mktemp("sizes") / "sizes.so"
    return build(command, sources, [Path(path) / "Include"], output, "-w")


def tensor(*shape: int, bits: int = 8) -> Tensor:
    return Tensor("", shape, INT4 if bits == 4 else INT8 if bits == 8 else None, np.dtype(np.int16 if bits == 16 else np.int8))  # fmt: skip


def dims(shape: tuple[int, ...]) -> Any:
    return numbers(*shape)


def geometry(chance: np.random.Generator) -> dict[str, Any]:
    """Taps, strides, dilations and pads, ones and zeros more often than others; the image is large enough."""
    taps, strides, dilations = (
        tuple(int(item) for item in chance.choice(choices, 2))
        for choices in ((1, 1, 2, 3, 3, 5), (1, 1, 2, 3), (1, 1, 1, 2))
    )
    pads = tuple(int(item) for item in chance.choice((0, 0, 1, 2), 4))
    image = tuple(int(item) for item in chance.integers(9, 14, 2))
    if chance.random() < 0.3:
        image, taps, pads = (1, image[1]), (1, taps[1]), (0, pads[1], 0, pads[3])
    made = tuple(
        (image[axis] + pads[axis] + pads[axis + 2] - (taps[axis] - 1) * dilations[axis] - 1) // strides[axis]
        + 1
        for axis in (0, 1)
    )
    return {
        "taps": taps,
        "strides": strides,
        "dilations": dilations,
        "pads": pads,
        "image": image,
        "made": made,
    }


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("bits", [(8, 8), (8, 4), (16, 8)], ids=["s8", "s4", "s16"])
def test_convolutions(sizes: ctypes.CDLL, bits: tuple[int, int], path: boards.KernelPath) -> None:
    chance = np.random.default_rng(0)
    for _ in range(MANY):
        form = geometry(chance)
        channels, outputs = (int(item) for item in chance.integers(1, 40, 2))
        x = tensor(1, *form["image"], channels, bits=bits[0])
        filters = tensor(outputs, *form["taps"], channels, bits=bits[1])
        made = tensor(1, *form["made"], outputs, bits=bits[0])
        work = Convolution(form["strides"], form["dilations"], form["pads"], 1, FACTOR, 0, 0, -128, 127)
        chosen = scratch.convolution(Operation("", work, (x, filters), (made,)), path)
        asked = _asked(sizes, chosen.name, path, work, (), x, filters, made)
        assert asked <= chosen.scratch <= asked + 15 * 4, (chosen, form)  # rounded up at most


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("bits", [(8, 8), (8, 4), (16, 8)], ids=["s8", "s4", "s16"])
def test_depthwise_convolutions(sizes: ctypes.CDLL, bits: tuple[int, int], path: boards.KernelPath) -> None:
    chance = np.random.default_rng(0)
    for _ in range(MANY):
        form = geometry(chance)
        channels, multiplier = int(chance.integers(1, 300)), int(chance.choice((1, 1, 2)))
        batch = int(chance.choice((1, 1, 1, 2)))
        x = tensor(batch, *form["image"], channels, bits=bits[0])
        filters = tensor(1, *form["taps"], channels * multiplier, bits=bits[1])
        made = tensor(batch, *form["made"], channels * multiplier, bits=bits[0])
        work = DepthwiseConvolution(
            multiplier, form["strides"], form["dilations"], form["pads"], FACTOR, 0, 0, -128, 127
        )
        chosen = scratch.depthwise(Operation("", work, (x, filters), (made,)), path)
        asked = _asked(sizes, chosen.name, path, work, (multiplier,), x, filters, made)
        assert asked <= chosen.scratch <= asked + 15 * 4, (chosen, form)  # rounded up at most


def _asked(
    sizes: ctypes.CDLL,
    name: str,
    path: boards.KernelPath,
    work: Convolution | DepthwiseConvolution,
    more: tuple[int, ...],
    x: Tensor,
    filters: Tensor,
    made: Tensor,
) -> int:
    """What the library asks for on a core."""
    shapes = [dims(item.shape) for item in (x, filters, made)]
    if "wrapper" not in name:
        if "depthwise" in name:
            own = {"c": "", "dsp": "_dsp", "mve": "_mve"}[path] if name.endswith("_opt") else None
            return (
                0
                if own is None
                else int(
                    _function(sizes, f"arm_depthwise_conv_s8_opt_get_buffer_size{own}")(
                        *map(ctypes.byref, shapes[:2])
                    )
                )
            )
        own = "_mve" if path == "mve" and name.endswith("s8") else ""
        return int(_function(sizes, f"{name}_get_buffer_size{own}")(*map(ctypes.byref, shapes[:2])))
    parameters = numbers(0, 0, *more, work.strides[::-1], work.pads[1::-1], work.dilations[::-1], -128, 127)
    function = _function(sizes, f"{name}_get_buffer_size{SUFFIX[path]}")
    return int(function(*map(ctypes.byref, (parameters, *shapes))))


def _function(sizes: ctypes.CDLL, name: str) -> Any:
    function = getattr(sizes, name)
    function.restype = ctypes.c_int32
    return function


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("bits", [8, 16])
def test_average_pools(sizes: ctypes.CDLL, bits: int, path: boards.KernelPath) -> None:
    chance = np.random.default_rng(0)
    for _ in range(MANY):
        width, channels = (int(item) for item in chance.integers(1, 300, 2))
        x, made = tensor(1, 9, 9, channels, bits=bits), tensor(1, 3, width, channels, bits=bits)
        work = Pool(True, (3, 3), (1, 1), (0, 0, 0, 0), -128, 127)
        chosen = scratch.pool(Operation("", work, (x,), (made,)), path)
        assert chosen.scratch == _function(sizes, f"{chosen.name}_get_buffer_size{SUFFIX[path]}")(
            width, channels
        )


@pytest.mark.parametrize("path", PATHS)
def test_matrix_products(sizes: ctypes.CDLL, path: boards.KernelPath) -> None:
    """The library sums the rows of the second operand, as a fully connected kernel does."""
    work = MatrixProduct(FACTOR, 0, 0, 0, -128, 127)
    for columns in range(1, 60):
        a, b, made = tensor(1, 4, 12), tensor(1, columns, 12), tensor(1, 4, columns)
        chosen = scratch.matrix_product(Operation("", work, (a, b), (made,)), path)
        asked = _function(sizes, f"arm_fully_connected_s8_get_buffer_size{SUFFIX[path]}")
        assert chosen.scratch == asked(ctypes.byref(dims((12, 1, 1, columns))))
