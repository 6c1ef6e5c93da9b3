"""Plans: exact as text, applied again to the byte, and refused with row and rule where they do not fit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantized import SMALL, Quantized, quantize, target_of
from small_graphs import graph_of, normal

from qcompiler.errors import PlanError
from qcompiler.ir.encoding import Encoding
from qcompiler.ir.graph import Graph
from qcompiler.ir.onnx_export import to_onnx
from qcompiler.ir.plan import Plan, PlannedGroup, PlannedRegion, Refusal, UsePoint

TEXT = """(float[batch,4,8,8] x) => (float y) {
    c = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(c) p = MaxPool<kernel_shape=[2,2]>(r) y = Conv(p, v, b)
}"""
CONSTANTS = {"w": normal(4, 4, 3, 3) / 6, "v": normal(4, 4, 1, 1) / 2, "b": normal(4)}


def graph() -> Graph:
    return graph_of(TEXT, CONSTANTS)


@pytest.fixture(scope="module")
def compiled() -> Quantized:
    return quantize(graph())


def encodings() -> list[Encoding]:
    third, tiny = np.float32(1) / np.float32(3), np.float32(1.1754944e-38)
    return [
        Encoding.plain("float16"),
        Encoding.from_json({"format": "int8", "scale": float(third), "zero_point": -128}),
        Encoding.from_json({"format": "int8", "scale": [float(third), float(tiny)], "zero_point": [0, 0], "axis": 0, "narrow": True}),
        Encoding.from_json({"format": "int4", "scale": [[0.1], [0.2]], "zero_point": [[0], [0]], "axis": 1, "block": 32}),
        Encoding.from_json({"format": "float8e4m3", "scale": 0.7}),
        Encoding.from_json({"format": "table2", "table": [0.0, 0.1, 0.2, 1e-30]}),
    ]  # fmt: skip


def same(one: Plan, other: Plan) -> bool:
    """Plans compare group by group: groups themselves compare by identity."""
    groups = [
        [dataclasses.astuple(dataclasses.replace(g, encoding=None)) for g in plan.groups]
        for plan in (one, other)
    ]  # type: ignore[arg-type]
    stored = [[group.encoding for group in plan.groups] for plan in (one, other)]
    return (
        groups[0] == groups[1]
        and stored[0] == stored[1]
        and dataclasses.replace(one, groups=()) == dataclasses.replace(other, groups=())
    )


NASTY = ("a [ b ]", 'say "[ 1,  2 ]"', "c:\\d", "tab\tnew\nline", "ü≤", "")


def test_json_is_exact() -> None:
    groups = tuple(
        PlannedGroup(f"g{number}{name}", encoding, (name,), (UsePoint(name, 1, name),), "same", name, "bias")
        for number, (encoding, name) in enumerate(zip(encodings(), NASTY, strict=False))
    )
    regions = tuple(
        PlannedRegion(name, (name, "n"), "k", "r", True, name, (Refusal("r", name),)) for name in NASTY
    )
    plan = Plan("t", "d", "float32", regions, groups, NASTY)
    assert same(Plan.from_json(plan.to_json()), plan)
    assert Plan.from_json(plan.to_json()).to_json() == plan.to_json()


def test_json_of_a_compilation(compiled: Quantized) -> None:
    again = Plan.from_json(compiled.plan.to_json())
    assert same(again, compiled.plan)
    assert "bias" in {group.offset for group in again.groups}


def test_text_is_compact(compiled: Quantized) -> None:
    lines = compiled.plan.to_json().splitlines()
    table = json.loads(compiled.plan.to_json())
    assert table["plan"] == 1
    per_channel = next(line for line in lines if '"scale": [' in line)
    assert per_channel.count(",") >= 4, "scales of all channels stand on one line"
    assert any(line.strip().startswith('"uses": [') for line in lines)
    assert len(lines) < 180
    assert Plan("t", "", "float32", (), ()).to_json() == (
        '{\n "plan": 1,\n "target": "t",\n "device": "",\n "float_format": "float32",\n "notes": [],\n "regions": [],\n "groups": []\n}'
    )


def test_applied_again_it_gives_the_same_bytes(compiled: Quantized) -> None:
    again = quantize(graph(), plan=Plan.from_json(compiled.plan.to_json()))
    assert to_onnx(again.graph).SerializeToString() == to_onnx(compiled.graph).SerializeToString()


def test_applied_to_a_model_with_other_weights(compiled: Quantized) -> None:
    retrained = graph_of(TEXT, {**CONSTANTS, "w": CONSTANTS["w"] * 1.01})
    again = quantize(retrained, plan=compiled.plan)
    assert again.sqnr() > 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "mine.json is not valid JSON"),
        ("[]", "mine.json is no plan of version 1"),
        ('{"plan": 7}', "mine.json is no plan of version 1"),
        ('{"plan": 1}', "mine.json lacks or misspells an entry: KeyError 'target'"),
    ],
)
def test_text_that_is_no_plan(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan.from_json(text, "mine.json")


def broken_text(compiled: Quantized, edit: Callable[[dict[str, Any]], object]) -> str:
    table = json.loads(compiled.plan.to_json())
    edit(table)
    return json.dumps(table)


MISSPELT: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "region key": (lambda t: t["regions"][0].update(rwo="x"), "lacks or misspells an entry.*rwo"),
    "region list": (lambda t: t.update(regions=[3]), "lacks or misspells an entry"),
    "format": (lambda t: t["groups"][0]["encoding"].update(format="int9"), "group 'x': the encoding is not valid"),
    "scale": (lambda t: t["groups"][0]["encoding"].update(scale=-1.0), "group 'x': the encoding is not valid .a scale must be finite"),
    "scale text": (lambda t: t["groups"][0]["encoding"].update(scale="wide"), "group 'x': the encoding is not valid"),
    "encoding list": (lambda t: t["groups"][0].update(encoding=[1]), "group 'x': the encoding is not valid"),
    "uses": (lambda t: t["groups"][0].update(uses=[["a", 1]]), "lacks or misspells an entry"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISSPELT)
def test_text_that_is_misspelt(case: str, compiled: Quantized) -> None:
    edit, message = MISSPELT[case]
    with pytest.raises(PlanError, match=message):
        Plan.from_json(broken_text(compiled, edit), "mine.json")


# -- plans that do not fit -------------------------------------------------------------------------------------

Edit = Callable[[dict[str, Any]], object]


def group(table: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in table["groups"] if entry["name"] == name)


def region(table: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in table["regions"] if entry["name"] == name)


ILLEGAL: dict[str, tuple[Edit, str]] = {
    "other target": (lambda t: t.update(target="edge"), "The plan is for the target edge:sm89, not for tensorrt:sm89"),
    "other device": (lambda t: t.update(device="sm80"), "The plan is for the target tensorrt:sm80, not for tensorrt:sm89"),
    "float format": (lambda t: t.update(float_format="bfloat16"), "keeps floats as 'bfloat16', but tensorrt:sm89 keeps them as float32 or float16"),
    "foreign region": (lambda t: region(t, "Conv:c").update(name="Conv:z"), "names the region 'Conv:z', which this model does not have .*did you mean"),
    "missing region": (lambda t: t["regions"].pop(), "says nothing of the region 'Conv:y'"),
    "other nodes": (lambda t: region(t, "Conv:c").update(nodes=["Conv:c"]), "gives Conv:c the kernel 'conv' on Conv:c, but here it is 'conv' on Conv:c, Relu:r"),
    "unknown row": (lambda t: region(t, "Conv:c").update(row="int9"), "gives Conv:c the row 'int9', which kernel conv does not have; did you mean 'int8'"),
    "illegal row": (lambda t: region(t, "Conv:c").update(row="int8-centred"), "the row 'int8-centred' of kernel conv, which is not legal there: zero padding is not zero after centring"),
    "use elsewhere": (lambda t: group(t, "x")["uses"].append(["Conv:q", 0, "x"]), "names input 0 of 'Conv:q' as 'x'; this model has no such use"),
    "use of another value": (lambda t: group(t, "x")["uses"][0].__setitem__(2, "c"), "names input 0 of 'Conv:c' as 'c'; this model has no such use"),
    "use of a float": (lambda t: group(t, "x")["uses"].append(["Conv:c", 2, "b"]), "quantizes input 2 of 'Conv:c', but the row 'int8' planned for 'Conv:c' takes a float there"),
    "float region": (lambda t: region(t, "Conv:c").update(row=""), "quantizes input 0 of 'Conv:c', but 'Conv:c', planned as float, takes a float there"),
    "use twice": (lambda t: t["groups"].append({**group(t, "x"), "name": "x2", "stored": []}), "has input 0 of 'Conv:c' in two groups, 'x' and 'x2'"),
    "use forgotten": (lambda t: group(t, "w").update(uses=[]), "the row 'int8' of 'Conv:c' takes int8 symmetric per-channel at operand w, but no group of the plan has input 1 of 'Conv:c'"),
    "format": (lambda t: group(t, "x").update(encoding={"format": "uint8", "scale": 0.1, "zero_point": 0}), "is uint8 .*, but the row 'int8' of 'Conv:c' takes int8 symmetric per-tensor at operand x"),
    "zero point": (lambda t: group(t, "x")["encoding"].update(zero_point=3), "the row 'int8' of 'Conv:c' takes int8 symmetric per-tensor at operand x: its zero point is not 0"),
    "offset": (lambda t: group(t, "r").update(offset="code"), "its offset is kept in the code, not in the bias"),
    "axis": (lambda t: group(t, "w")["encoding"].update(axis=1), "at operand w: scales along axis 1, but the target's are along axis 0"),
    "channels": (lambda t: group(t, "w")["encoding"].update(scale=[1.0] * 3, zero_point=[0] * 3), r"has scales of shape \[3\] for axis 0, but 'w' is \[4,4,3,3\]"),
    "granularity": (lambda t: group(t, "x")["encoding"].update(scale=[1.0] * 4, zero_point=[0] * 4, axis=1), "at operand x: per-channel scales, but the target takes int8 symmetric per-tensor"),
    "stored elsewhere": (lambda t: group(t, "x")["stored"].append("z"), "stores the value 'z', which this model does not have"),
    "stored as what is not written": (lambda t: group(t, "x")["stored"].append("p"), "stores 'p' as int8 .*, but the row 'int8-centred' planned for 'MaxPool:p' writes int8 affine"),
}  # fmt: skip


@pytest.mark.parametrize("case", ILLEGAL)
def test_plans_that_do_not_fit_are_refused_with_row_and_rule(case: str, compiled: Quantized) -> None:
    edit, message = ILLEGAL[case]
    plan = Plan.from_json(broken_text(compiled, edit))
    with pytest.raises(PlanError, match=message):
        quantize(graph(), plan=plan)


def test_what_shares_an_encoding_cannot_be_split(compiled: Quantized) -> None:
    def edit(table: dict[str, Any]) -> None:
        group(table, "r")["stored"].remove("p")
        table["groups"].append({**group(table, "r"), "name": "p", "uses": [], "stored": ["p"]})

    with pytest.raises(
        PlanError,
        match="'r' and 'p' as different groups, but the row 'int8-centred' of 'MaxPool:p' has one encoding for x, output",
    ):
        quantize(graph(), plan=Plan.from_json(broken_text(compiled, edit)))


def test_a_legal_edit_is_obeyed(compiled: Quantized) -> None:
    wide = Plan.from_json(
        broken_text(compiled, lambda table: group(table, "x")["encoding"].update(scale=0.5))
    )
    again = quantize(graph(), plan=wide)
    assert float(again.group("Conv:c").encoding.scale or 0) == 0.5
    assert again.sqnr() < compiled.sqnr()


def test_for_another_model(compiled: Quantized) -> None:
    other = graph_of("(float[batch,4,8,8] x) => (float y) { d = Conv(x, v) y = Elu(d) }", CONSTANTS)
    with pytest.raises(PlanError, match=r"it was made for another model, or the model changed since"):
        quantize(other, plan=compiled.plan)


def test_derived_and_fixed_scales(tmp_path: Path) -> None:
    target = target_of(tmp_path, SMALL)
    result = quantize(graph(), target)

    def edit(table: dict[str, Any]) -> None:
        group(table, "b")["encoding"]["scale"] = [1.0] * 4

    plan = Plan.from_json(broken_text(result, edit))
    with pytest.raises(
        PlanError, match="group 'b' has another scale than x x w, but the row 'int8' of 'Conv:c' takes int32"
    ):
        quantize(graph(), target, plan=plan)
