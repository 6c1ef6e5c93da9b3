"""Rows that list encodings: one row for every combination, in a stated order, with names of their own."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from quantized import HEADER, target_of

from qcompiler.descriptor import load_target
from qcompiler.errors import TargetError

NPU = Path(__file__).parents[1] / "docs" / "examples" / "npu.toml"
ENCODINGS = """
[encoding.a8]
format = "uint8"
symmetric = false
[encoding.a16]
format = "uint16"
symmetric = false
[encoding.w8]
format = "int8"
[encoding.w4]
format = "int4"
"""
KERNEL = """
[[kernel]]
name = "conv"
pattern = "Conv(x, w, b?)"
[[kernel.row]]
"""
LISTED = '{ w = ["w8", "w4"], x = ["a8", "a16"] }'


def rows(folder: Path, text: str) -> dict[str, dict[str, str]]:
    (kernel,) = target_of(folder, HEADER + ENCODINGS + KERNEL + text).kernel
    return {row.name: dict(row.operands) for row in kernel.row}


def refused(folder: Path, text: str, *says: str) -> None:
    with pytest.raises(TargetError) as caught:
        target_of(folder, HEADER + ENCODINGS + KERNEL + text)
    for words in says:
        assert words in str(caught.value)


def test_every_combination_is_a_row_and_the_last_operand_varies_fastest(tmp_path: Path) -> None:
    found = rows(tmp_path, f'name = "{{w}}{{x}}"\noperands = {LISTED}')
    assert list(found) == ["w8a8", "w8a16", "w4a8", "w4a16"]
    assert found["w4a16"] == {"w": "w4", "x": "a16"}


def test_all_else_of_the_row_is_every_row_s(tmp_path: Path) -> None:
    text = f'name = "{{w}}-{{x}}-{{w}}"\noperands = {LISTED}\noutput = ["a8", "float"]\ncost = 0.5\nsource = "the manual"'
    text += '\nlimits = [{ check = "constant", operand = "w" }]'
    (kernel,) = target_of(tmp_path, HEADER + ENCODINGS + KERNEL + text).kernel
    assert [row.name for row in kernel.row] == ["w8-a8-w8", "w8-a16-w8", "w4-a8-w4", "w4-a16-w4"]
    for row in kernel.row:
        assert (row.output, row.cost, row.source) == (("a8", "float"), 0.5, "the manual")
        assert [limit["check"] for limit in row.limits] == ["constant"]


def test_single_encodings_and_lists_mix(tmp_path: Path) -> None:
    found = rows(tmp_path, 'name = "{w}{x}"\noperands = { x = "a8", w = ["w8", "w4"], b = "float" }')
    assert found == {name: {"x": "a8", "w": name[:2], "b": "float"} for name in ("w8a8", "w4a8")}


def test_rows_without_lists_are_as_they_were(tmp_path: Path) -> None:
    assert rows(tmp_path, 'name = "{x}"\noperands = { x = "a8" }') == {"{x}": {"x": "a8"}}
    assert rows(tmp_path, 'name = "{x}"\noperands = { x = ["a8"] }') == {"a8": {"x": "a8"}}


def test_float_may_be_listed(tmp_path: Path) -> None:
    assert list(rows(tmp_path, 'name = "{x}"\noperands = { x = ["float", "a8"] }')) == ["float", "a8"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f'name = "same"\noperands = {LISTED}', ["row[1] (same).name", "another row"]),
        (f'name = "{{w}}"\noperands = {LISTED}', ["row[1] (w8).name", "another row"]),
        ('name = "{x}"\noperands = { x = ["a8", "a8"] }', ["another row"]),
        ('name = "{x}"\noperands = { x = ["a8", "a9"] }', ["row[1] (a9).operands.x", "'a9'", "not defined"]),
        ('name = "{x}"\noperands = { x = [] }', ["operands.x"]),
        ('name = "{x}"\noperands = { x = ["a8", 3] }', ["operands.x", "3"]),
        ('name = "{x}"\noperands = { x = [["a8"]] }', ["operands.x"]),
        ('name = "{x}"\noperands = { z = ["a8", "a16"] }', ["operands.z", "binds no such operand"]),
        ('name = "{x}"\noperands = ["a8"]', ["operands"]),
        ('operands = { x = ["a8", "a16"] }', ["name: this key is required"]),
        ('name = "a"\noperands = 3', ["operands"]),
    ],
)
def test_mistakes_are_told_where_they_are(tmp_path: Path, text: str, says: list[str]) -> None:
    refused(tmp_path, text, *says)


def test_rows_of_a_descriptor_that_is_extended(tmp_path: Path) -> None:
    base = HEADER + ENCODINGS + KERNEL + f'name = "{{w}}{{x}}"\noperands = {LISTED}'
    (tmp_path / "base.toml").write_text(base)
    mine = tmp_path / "mine.toml"
    mine.write_text('schema = 1\nname = "mine"\nextends = "base.toml"\n[encoding.w4]\nformat = "int5"')
    (kernel,) = load_target(mine).kernel
    assert [row.name for row in kernel.row] == ["w8a8", "w8a16", "w4a8", "w4a16"]
    assert load_target(mine).spec("w4").format == "int5"


def test_the_example_has_all_mixes() -> None:
    target = load_target(NPU)
    expected = {f"w{w}a{x}" for w, x in itertools.product((8, 6, 4, 3, 2), (8, 16, 4))}
    for kernel in target.kernel[:3]:
        assert {row.name for row in kernel.row} == expected
        assert kernel.row[0].name == "w8a8"
    assert [row.name for row in target.kernel[3].row] == ["a8", "a16", "a4"]
