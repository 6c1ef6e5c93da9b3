"""Descriptors: what they say, what `extends` makes of two, and the answer to every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from quantized import ENCODINGS, HEADER, KERNELS, SMALL, target_of

from qcompiler.descriptor import load_target
from qcompiler.errors import TargetError
from qcompiler.target import FLOAT_SPEC, EncodingSpec, Stored, Target
from qcompiler.targets import descriptors, find_target, part

DEVICES = """
[device.old]
formats = ["int8"]
[device.new]
formats = ["int8", "uint8", "int32"]
rate = { int8 = 1e12 }
"""


def test_a_descriptor(tmp_path: Path) -> None:
    target = target_of(tmp_path, SMALL)
    (kernel,) = target.kernel
    (row,) = kernel.row
    assert target.label == "small"
    assert target.file == str(tmp_path / "descriptor.toml")
    assert kernel.compiled.operand_names == ("x", "w", "b")
    assert target.row_specs(row)["x"] == EncodingSpec("uint8", symmetric=False)
    assert target.output_specs(row) == (EncodingSpec("uint8", symmetric=False),)
    assert target.is_quantized(row)
    assert target.spec("float") is FLOAT_SPEC


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (EncodingSpec("float32"), "float32"),
        (EncodingSpec("int8"), "int8 symmetric per-tensor"),
        (EncodingSpec("uint8", symmetric=False), "uint8 affine per-tensor"),
        (EncodingSpec("int8", symmetric=False, offset="bias"), "int8 affine (offset in the bias) per-tensor"),
        (EncodingSpec("uint8", scale=0.5, zero_point=3), "uint8 fixed per-tensor"),
        (EncodingSpec("int4", granularity="per-block", block=32), "int4 symmetric per-block of 32"),
        (EncodingSpec("table4", granularity="per-group", group=16), "table4 symmetric per-group of 16"),
    ],
)
def test_specs_read_well(spec: EncodingSpec, text: str) -> None:
    assert str(spec) == text


def test_devices(tmp_path: Path) -> None:
    text = SMALL.replace('name = "small"', 'name = "small"\ndefault_device = "new"') + DEVICES
    assert target_of(tmp_path, text).label == "small:new"
    old = target_of(tmp_path, text, "old")
    refusal = old.device_refusal(old.kernel[0].row[0])
    assert refusal == "old has no uint8 arithmetic (it has int8)"
    assert target_of(tmp_path, text).device_refusal(old.kernel[0].row[0]) is None
    with pytest.raises(TargetError, match=r"The target small has no device 'newer'; did you mean 'new'\?"):
        target_of(tmp_path, text, "newer")


def test_a_device_stores_what_its_core_does(tmp_path: Path) -> None:
    devices = """
[device.core.stored]
"conv/int8" = { channel = 12, whole = 4 }
[device.part]
core = "core"
memory = 1000
[device.other]
core = "core"
[device.other.stored]
"conv/int8" = { whole = 8 }
"""
    device = target_of(tmp_path, SMALL + devices).device
    assert device["part"].stored == device["core"].stored == {"conv/int8": Stored(channel=12, whole=4)}
    assert device["other"].stored == {"conv/int8": Stored(whole=8)}


# -- mistakes --------------------------------------------------------------------------------------------------


def kernel(pattern: str = "Conv(x, w, b?)", limits: str = "", row: str = "", name: str = "k") -> str:
    rows = f"\n[[kernel.row]]\nname = 'r'\n{row}" if row else ""
    return f'{HEADER}{ENCODINGS}\n[[kernel]]\nname = "{name}"\npattern = "{pattern}"\nlimits = [{limits}]{rows}\n'


OPERANDS = "operands = { x = 'int8', w = 'weight' }\n"
MISTAKES: dict[str, tuple[str, str]] = {
    "no schema": ('name = "small"', "schema: this key is required and missing"),
    "other schema": ('schema = 2\nname = "small"\nnovelty = 1', "schema: 2 is not accepted; this qcompiler reads schema 1"),
    "no name": ("schema = 1", "name: this key is required and missing"),
    "unknown key": (HEADER + "titel = 'x'", "titel: unknown key; did you mean 'title'?"),
    "internal key": (HEADER + "chosen_device = 'x'", "chosen_device: unknown key"),
    "wrong type": (HEADER + "title = 3", "title: expected text, found 3"),
    "layout": (HEADER + "layout = 'nhcw'", "layout: 'nhcw' is not accepted; did you mean 'nhwc'?"),
    "passthrough": (HEADER + "[qdq]\npassthrough = 'after'", "qdq.passthrough: 'after' is not accepted; known: before, both."),
    "float format": (HEADER + "float_formats = ['int8']", "float_formats: 'int8' is no plain float format; known: bfloat16, float16, float32."),
    "format": (HEADER + "[encoding.a]\nformat = 'int9'", "encoding.a: format 'int9' is unknown; did you mean 'int8'?"),
    "granularity": (HEADER + "[encoding.a]\nformat = 'int8'\ngranularity = 'per-chanel'", "encoding.a.granularity: 'per-chanel' is not accepted; did you mean 'per-channel'?"),
    "block missing": (HEADER + "[encoding.a]\nformat = 'int4'\ngranularity = 'per-block'", "encoding.a: block is required for, and only for, granularity per-block"),
    "block stray": (HEADER + "[encoding.a]\nformat = 'int4'\nblock = 32", "encoding.a: block is required for, and only for"),
    "block size": (HEADER + "[encoding.a]\nformat = 'int4'\ngranularity = 'per-block'\nblock = 0", "encoding.a: block is 0; a block has at least one element"),
    "group missing": (HEADER + "[encoding.a]\nformat = 'table4'\ngranularity = 'per-group'", "encoding.a: group is required for, and only for, granularity per-group"),
    "group size": (HEADER + "[encoding.a]\nformat = 'table4'\ngranularity = 'per-group'\ngroup = 0", "encoding.a: group is 0; a group has at least one channel"),
    "group of integers": (HEADER + "[encoding.a]\nformat = 'int4'\ngranularity = 'per-group'\ngroup = 2", "encoding.a: granularity per-group is for tables; int4 has none"),
    "scale": (HEADER + "[encoding.a]\nformat = 'int8'\nscale = 0.0", "encoding.a: scale is 0.0; a fixed scale must be positive and finite"),
    "scale inf": (HEADER + "[encoding.a]\nformat = 'int8'\nscale = inf", "encoding.a: scale is inf"),
    "fixed per channel": (HEADER + "[encoding.a]\nformat = 'int8'\nscale = 1.0\ngranularity = 'per-channel'", "encoding.a: a fixed scale is for granularity per-tensor"),
    "zero point alone": (HEADER + "[encoding.a]\nformat = 'int8'\nzero_point = 3", "encoding.a: a fixed zero_point needs a fixed scale"),
    "zero point no code": (HEADER + "[encoding.a]\nformat = 'int8'\nscale = 1.0\nzero_point = 200", "encoding.a: zero_point 200 is no code of int8"),
    "offset": (HEADER + "[encoding.a]\nformat = 'int8'\noffset = 'bias'", 'encoding.a: offset "bias" is for affine per-tensor encodings'),
    "fixed and derived": (HEADER + "[encoding.a]\nformat = 'int32'\nscale = 1.0\nderived = ['x']", "encoding.a: a scale is either fixed or derived"),
    "device format": (HEADER + "[device.d]\nformats = ['int7']", "device.d.formats: format 'int7' is unknown; did you mean 'int"),
    "device rate": (HEADER + "[device.d]\nrate = { fp8 = 1 }", "device.d.rate: format 'fp8' is unknown"),
    "scale bytes": (HEADER + "scale_bytes = -4", "scale_bytes: -4 is no number of bytes"),
    "stored": (HEADER + "[device.d.stored]\n'k/r' = { channel = -1 }", "device.d.stored.k/r: channel and whole are numbers of bytes, from 0 on"),
    "stored per what": (kernel(row=OPERANDS + "stored = { channels = 8 }"), "row[0].stored.channels: unknown key; did you mean 'channel'?"),
    "default device": (HEADER + "default_device = 'x'\n[device.d]", "default_device: there is no device 'x'; known: d."),
    "kernel name": (HEADER + "[[kernel]]\npattern = 'Conv'", "kernel[0].name: this key is required and missing"),
    "kernel no table": (HEADER + "kernel = [3]", "kernel[0]: expected a table, found an integer 3"),
    "kernel twice": (kernel() + "[[kernel]]\nname = 'k'\npattern = 'Relu'", "kernel[1] (k).name: another kernel has this name"),
    "pattern": (kernel("Conv(x, w"), "kernel[0] (k).pattern: in the pattern 'Conv(x, w'"),
    "op": (kernel("Convv(x)"), "kernel[0] (k).pattern: the operator 'Convv' is not in the op table; did you mean 'Conv"),
    "quantize": (kernel().replace("[[kernel]]", "[[kernel]]\nquantize = 'never'"), "kernel[0].quantize: 'never' is not accepted; known: always, when-consumed."),
    "predicate": (kernel(limits="{ check = 'rang' }"), "kernel[0] (k).limits[0].check: the predicate 'rang' is unknown; did you mean 'rank'?"),
    "no predicate": (kernel(limits="{ operand = 'x' }"), "kernel[0] (k).limits[0].check: the predicate None is unknown"),
    "parameter": (kernel(limits="{ check = 'rank', operand = 'x', accept = [4] }"), "kernel[0] (k).limits[0].accept: the predicate rank takes no such parameter; did you mean 'accepted'?"),
    "parameter missing": (kernel(limits="{ check = 'rank', operand = 'x' }"), "kernel[0] (k).limits[0].accepted: the predicate rank requires this parameter"),
    "parameter type": (kernel(limits="{ check = 'kernel-size', maximum = '13' }"), "kernel[0] (k).limits[0].maximum: expected an integer, found '13'"),
    "parameter list": (kernel(limits="{ check = 'rank', operand = 'x', accepted = 4 }"), "kernel[0] (k).limits[0].accepted: expected a list, found an integer 4"),
    "reason type": (kernel(limits="{ check = 'constant', operand = 'x', reason = 1 }"), "kernel[0] (k).limits[0].reason: expected text, found 1"),
    "limit operand": (kernel(limits="{ check = 'constant', operand = 'z' }"), "kernel[0] (k).limits[0].operand: the pattern binds no operand 'z'; known: b, output, w, x."),
    "limit operands": (kernel(limits="{ check = 'same-shape', operands = ['x', 'z'] }"), "kernel[0] (k).limits[0].operands: the pattern binds no operand 'z'"),
    "limit on the rest": (kernel("Concat(x, ...)", limits="{ check = 'constant', operand = '...' }"), "kernel[0] (k).limits[0].operand: the pattern binds no operand '...'"),
    "row operand": (kernel(row="operands = { y = 'int8' }"), "kernel[0] (k).row[0] (r).operands.y: the pattern binds no such operand; known: b, w, x."),
    "row encoding": (kernel(row="operands = { x = 'int9' }"), "kernel[0] (k).row[0] (r).operands.x: the encoding 'int9' is not defined; did you mean 'int8'?"),
    "row output": (kernel(row="operands = { x = 'int8' }\noutput = ['int16']"), "kernel[0] (k).row[0] (r).output: the encoding 'int16' is not defined"),
    "row no output": (kernel(row="operands = { x = 'int8' }\noutput = []"), 'kernel[0] (k).row[0] (r).output: at least one encoding is needed; "float" is one'),
    "row twice": (kernel(row=OPERANDS + "[[kernel.row]]\nname = 'r'\noperands = {}"), "kernel[0] (k).row[1] (r).name: another row of this kernel has this name"),
    "row limit": (kernel(row=OPERANDS + "limits = [{ check = 'finit', operand = 'w' }]"), "kernel[0] (k).row[0] (r).limits[0].check: the predicate 'finit' is unknown; did you mean 'finite'?"),
    "same operand": (kernel(row=OPERANDS + "same = ['x', 'y']"), "kernel[0] (k).row[0] (r).same: 'y' is no operand; known: b, output, w, x."),
    "same differs": (kernel(row=OPERANDS + "same = ['x', 'w']"), "kernel[0] (k).row[0] (r).same: what shares one encoding is given several: int8, weight"),
    "same output differs": (kernel(row=OPERANDS + "same = ['x', 'output']\noutput = ['uint8', 'float']"), "kernel[0] (k).row[0] (r).same: what shares one encoding is given several: int8, uint8"),
    "derived from float": (kernel(row="operands = { w = 'weight', b = 'bias' }"), "kernel[0] (k).row[0] (r).operands.b: the scale of 'bias' is derived from the operand 'x', which has no scale in this row; operands with one: w"),
    "prepare": (HEADER + "prepare = [1]", "prepare[0]: expected text, found 1"),
    "no toml": (HEADER + "title = ", "this is not valid TOML"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_name_file_key_and_what_is_accepted(case: str, tmp_path: Path) -> None:
    text, message = MISTAKES[case]
    with pytest.raises(TargetError) as caught:
        target_of(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'descriptor.toml'}: ")
    assert message in str(caught.value)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"none\.toml: the descriptor cannot be read: No such file"):
        load_target(tmp_path / "none.toml")
    with pytest.raises(TargetError, match="There is no target descriptor at"):
        find_target(str(tmp_path / "none.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TargetError, match="not valid TOML"):
        load_target(tmp_path / "binary.toml")


# -- extends ---------------------------------------------------------------------------------------------------


def extending(folder: Path, text: str, base: str = SMALL + DEVICES) -> Target:
    (folder / "base.toml").write_text(base)
    return target_of(folder, f'schema = 1\nname = "mine"\nextends = "base.toml"\n{text}')


def test_extends_inherits(tmp_path: Path) -> None:
    target = extending(tmp_path, "")
    assert target.name == "mine"
    assert [entry.name for entry in target.kernel] == ["conv"]
    assert set(target.encoding) == {"uint8", "int8", "weight", "bias"}


def test_extends_replaces_by_name_and_puts_new_kernels_first(tmp_path: Path) -> None:
    base = SMALL + "[[kernel]]\nname = 'pool'\npattern = 'MaxPool(x)'\n" + DEVICES
    target = extending(
        tmp_path,
        "[encoding.weight]\nformat = 'int4'\n[device.new]\ntitle = 'newest'\n"
        "[[kernel]]\nname = 'conv'\npattern = 'Conv(x, w)'\n[[kernel]]\nname = 'new'\npattern = 'Relu(x)'\n",
        base,
    )
    assert [entry.name for entry in target.kernel] == ["new", "conv", "pool"]
    assert target.kernel[1].row == ()
    assert target.spec("weight") == EncodingSpec("int4")
    assert target.spec("int8") == EncodingSpec("int8")
    assert target.device["new"].formats == ()
    assert set(target.device) == {"old", "new"}


def test_extends_leaves_out_what_is_false(tmp_path: Path) -> None:
    target = extending(tmp_path, "[device]\nold = false\n[device.new]\ntitle = 'newest'\n")
    assert set(target.device) == {"new"}


def test_extends_an_installed_target(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('schema = 1\nname = "mine"\nextends = "tensorrt"\n')
    target = find_target(f"{file}:sm80")
    assert target.label == "mine:sm80"
    assert len(target.kernel) == len(find_target("tensorrt").kernel)
    assert part(target, "lower") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends = 3", "extends: expected the name or file of a descriptor, found 3"),
        ("extends = 'tensort'", "extends: there is no target 'tensort'"),
        ("extends = 'gone.toml'", "gone.toml: the descriptor cannot be read"),
        ("extends = 'descriptor.toml'", "in a circle: descriptor.toml -> descriptor.toml"),
        ("extends = 'sub/../descriptor.toml'", "in a circle"),
    ],
)
def test_extends_mistakes(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(TargetError) as caught:
        target_of(tmp_path, HEADER + text)
    assert message in str(caught.value)


def test_extends_in_a_circle_of_two(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"descriptor\.toml -> base\.toml -> descriptor\.toml"):
        extending(tmp_path, "", HEADER + "extends = 'descriptor.toml'")


def test_mistakes_in_what_is_extended_are_found(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"operands\.w: the encoding 'weight' is not defined"):
        extending(
            tmp_path, "", HEADER + ENCODINGS.replace("[encoding.weight]", "[encoding.weights]") + KERNELS
        )


# -- by name ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", descriptors())
def test_installed_descriptors_are_sound(name: str) -> None:
    target = find_target(name)
    assert target.name == name
    assert target.title
    for entry in target.kernel:
        assert entry.source, f"kernel {entry.name} has no source"
        assert all(row.source for row in entry.row), f"a row of kernel {entry.name} has no source"
        assert entry.row or entry.note, f"kernel {entry.name} has neither rows nor a note"
    for device in target.device:
        assert find_target(f"{name}:{device}").chosen_device == device


def test_unknown_names() -> None:
    with pytest.raises(TargetError, match=r"There is no target 'tensort'; did you mean 'tensorrt'\?"):
        find_target("tensort")
    with pytest.raises(TargetError, match="has no device 'sm88'; did you mean 'sm8"):
        find_target("tensorrt:sm88")
