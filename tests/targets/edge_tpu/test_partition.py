"""What is mapped to the Edge TPU: every rule in both directions, epochs, and memory."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.errors import TargetError
from qcompiler.targets.edge_tpu import mapping_rules as rules
from qcompiler.targets.edge_tpu.mapping_rules import RULES
from qcompiler.targets.edge_tpu.model import Model, Operator, Quantization, Tensor
from qcompiler.targets.edge_tpu.partition import AVAILABLE, epochs, partition, refusal

IMAGE = (1, 8, 8, 4)


def x(*shape: int, kind: str = "INT8", scales: int = 1) -> Tensor:
    """What is computed; with no scales it is not quantized."""
    stored = Quantization(np.full(scales, 0.5, np.float32), np.zeros(scales, np.int64)) if scales else None
    return Tensor("x", shape or IMAGE, kind, stored)


def k(*shape: int, kind: str = "INT8", fill: int = 1, zero: int = 0) -> Tensor:
    """A constant."""
    dtype = {"INT8": np.int8, "UINT8": np.uint8, "INT4": np.int8, "INT32": np.int32}[kind]
    stored = Quantization(np.ones(1, np.float32), np.full(1, zero, np.int64))
    return Tensor("k", shape, kind, stored, np.full(shape, fill, dtype))


def ints(*numbers: Any) -> Tensor:
    """Axes, sizes, paddings."""
    data = np.array(numbers, np.int32)
    return Tensor("ints", data.shape, "INT32", None, data)


def call(op: str, *tensors: Tensor | None, y: Any = None, version: int = 1, **options: Any) -> Model:
    """A model of one operator; `y` is what it writes, by default the same as `x`."""
    results = y if isinstance(y, tuple) else (y or x(),)
    stored = [tensor for tensor in tensors if tensor is not None] + list(results)
    named = [Tensor(f"{tensor.name}{at}", tensor.shape, tensor.type, tensor.quantization, tensor.data) for at, tensor in enumerate(stored)]  # fmt: skip
    places = iter(range(len(stored)))
    inputs = tuple(-1 if tensor is None else next(places) for tensor in tensors)
    operator = Operator(op, inputs, tuple(places), options, version, "Custom" if op == "CUSTOM" else "")
    return Model(tuple(named), (operator,), (0,), operator.outputs)


def conv(**given: Any) -> Model:
    taps = given.pop("taps", (3, 3))
    return call(
        "CONV_2D",
        given.pop("a", x()),
        given.pop("w", k(4, *taps, 4)),
        given.pop("b", k(4, kind="INT32")),
        **given,
    )


def dense(rows: int = 1, **given: Any) -> Model:
    return call(
        "FULLY_CONNECTED", x(rows, 8), given.pop("w", k(5, 8)), given.pop("b", None), y=x(rows, 5), **given
    )


def resize(old: tuple[int, int], new: tuple[int, int], op: str = "RESIZE_BILINEAR") -> Model:
    return call(op, x(1, *old, 4), ints(*new), y=x(1, *new, 4))


def slices(strides: tuple[int, ...] = (1, 1, 1, 1), **given: Any) -> Model:
    return call(
        "STRIDED_SLICE", x(), ints(0, 0, 0, 0), ints(1, 4, 4, 4), ints(*strides), y=x(1, 4, 4, 4), **given
    )


def mean(shape: tuple[int, ...], *axes: int, op: str = "MEAN") -> Model:
    return call(
        op, x(*shape), ints(*axes), y=x(*(1 if at in axes else extent for at, extent in enumerate(shape)))
    )


def pad(batch: int) -> Model:
    return call("PAD", x(), ints((batch, 0), (1, 1), (1, 1), (0, 0)), y=x(1 + batch, 10, 10, 4), version=2)


def broken(model: Model) -> str:
    """The rule that the one operator breaks, or nothing."""
    found = refusal(model, model.operators[0])
    return "" if found is None else found[0].id


MAPPED = {
    "convolution": conv(version=3),
    "convolution of one scale per channel": conv(w=Tensor("w", (4, 3, 3, 4), "INT8", Quantization(np.ones(4), np.zeros(4, int)), np.ones((4, 3, 3, 4), np.int8)), version=3),
    "convolution of uint8": conv(a=x(kind="UINT8"), w=k(4, 3, 3, 4, kind="UINT8")),
    "convolution, dilated": conv(dilation_w_factor=2, dilation_h_factor=2),
    "convolution, dilated along its taps": conv(taps=(3, 1), dilation_w_factor=1, dilation_h_factor=4),
    "convolution with a fused activation": conv(fused_activation_function="RELU6"),
    "depthwise": call("DEPTHWISE_CONV_2D", x(), k(1, 3, 3, 4), k(4, kind="INT32"), version=3),
    "transposed convolution": call("TRANSPOSE_CONV", ints(1, 16, 16, 4), k(4, 2, 2, 4), x(), k(4, kind="INT32"), y=x(1, 16, 16, 4), version=3),
    "dense": dense(version=4),
    "dense of an image": call("FULLY_CONNECTED", x(1, 1, 1, 8), k(5, 8), y=x(1, 5)),
    "dense of one dimension": call("FULLY_CONNECTED", x(8), k(5, 8), y=x(5)),
    "pool": call("MAX_POOL_2D", x(), version=2),
    "average": call("AVERAGE_POOL_2D", x(), fused_activation_function="NONE"),
    "addition": call("ADD", x(), x(), version=2, fused_activation_function="RELU"),
    "product with a constant": call("MUL", x(), k(1, 1, 4)),
    "maximum": call("MAXIMUM", x(), x(), version=2),
    "concatenation": call("CONCATENATION", x(), x(), x(), y=x(1, 8, 8, 12), version=2),
    "concatenation with zeros": call("CONCATENATION", x(), k(*IMAGE, fill=-3, zero=-3), y=x(1, 8, 8, 8)),
    "mean": mean(IMAGE, 1, 2),
    "mean along z": mean(IMAGE, 3),
    "mean of many": mean((1, 64, 128, 3), 1, 2),
    "sum along z of three": mean((1, 8, 8, 3), 3, op="SUM"),
    "padding": pad(0),
    "pack": call("PACK", x(1, 8, 4), x(1, 8, 4), y=x(1, 2, 8, 4), axis=1, version=2),
    "split": call("SPLIT", ints(3), x(), y=(x(1, 8, 8, 2), x(1, 8, 8, 2)), version=2),
    "split into one part": call("SPLIT", ints(0), x(), y=(x(),)),
    "slopes": call("PRELU", x(), k(1, 1, 4)),
    "requantization": call("QUANTIZE", x(kind="UINT8"), version=2),
    "twice as large": resize((24, 24), (48, 48)),
    "twice as wide": resize((4, 64), (4, 128), "RESIZE_NEAREST_NEIGHBOR"),
    "as large": resize((513, 513), (513, 513)),
    "reshape": call("RESHAPE", x(1, 40, 40, 255), ints(1, 1600, 3, 85), y=x(1, 1600, 3, 85)),
    "transpose": call("TRANSPOSE", x(1, 22, 22, 144), ints(0, 3, 1, 2), y=x(1, 144, 22, 22), version=2),
    "softmax": call("SOFTMAX", x(1, 16384), y=x(1, 16384), version=2),
    "slice": slices(version=2, begin_mask=7),
    "tile": call("TILE", x(1, 1, 1, 8), ints(1, 33, 33, 1), y=x(1, 33, 33, 8)),
    "long row": call("RELU", x(1, 196_608), y=x(1, 196_608)),
    "large image": call("RELU", x(1, 512, 256, 96), y=x(1, 512, 256, 96), version=2),
    "LSTM": call("UNIDIRECTIONAL_SEQUENCE_LSTM", x(1, 28, 28), k(20, 28), x(1, 20, kind="INT16"), y=x(1, 28, 20)),
}  # fmt: skip

REFUSED = [
    ("parses", conv(version=6), "CONV_2D of version 6"),
    ("parses", call("EXP", x(), version=2), ""),
    ("parses", call("TRANSPOSE_CONV", ints(1, 8, 8, 4), k(4, 2, 2, 4), x(), version=4), ""),
    ("parses", call("QUANTIZE", x(), version=3), ""),
    ("parses", call("TILE", x(1, 1, 1, 8), ints(1, 9, 9, 1), y=x(1, 9, 9, 8), version=3), ""),
    ("parses", call("DYNAMIC_UPDATE_SLICE", x(), x()), ""),
    ("parses", call("STABLEHLO_ADD", x(), x()), ""),
    ("static", call("RELU", x(1, -1, 8, 4)), "[1, -1, 8, 4]"),
    ("static", call("RESHAPE", x(), x(2, kind="INT32", scales=0)), "is computed"),
    ("static", call("PAD", x(), x(4, 2, kind="INT32", scales=0)), ""),
    *[("listed", call(op, x()), op) for op in ("LEAKY_RELU", "HARD_SWISH", "ELU", "EXP", "GATHER", "DIV", "PADV2", "BATCH_MATMUL", "UNPACK", "SQRT")],
    ("listed", call("TOPK_V2", x(), ints(3), y=(x(), x(kind="INT32", scales=0))), "TOPK_V2"),
    ("listed", call("CUSTOM", x()), "Custom"),
    ("type", call("CUSTOM", x(), y=x(kind="FLOAT32", scales=0)), "float32"),
    ("type", call("DEQUANTIZE", x(), y=x(kind="FLOAT32", scales=0)), "float32"),
    ("type", call("ARG_MAX", x(), ints(3), y=x(1, 8, 8, kind="INT64", scales=0)), "int64"),
    ("type", call("CAST", x(kind="UINT8"), y=x(kind="FLOAT32", scales=0)), ""),
    ("type", conv(a=x(kind="INT16"), y=x(kind="INT16")), "int16"),
    ("type", conv(w=k(4, 3, 3, 4, kind="INT4")), "int4"),
    ("type", call("QUANTIZE", x(), y=x(kind="INT16")), ""),
    ("quantized", call("RELU", x(scales=0)), "has none"),
    ("per-tensor", call("RELU", x(scales=4)), "4 scales"),
    ("version", dense(version=5), "version 5"),
    ("version", dense(version=6), "version 6"),
    ("version", dense(keep_num_dims=True), "keeps its dimensions"),
    ("version", call("ADD", x(), x(), version=4), "ADD of version 4"),
    ("version", conv(a=x(1, 8, 8, 8)), "2 groups"),
    ("version", call("TRANSPOSE", x(), ints(0, 1, 2, 3), version=4), ""),
    ("weights", conv(w=x(4, 3, 3, 4)), "is computed"),
    ("weights", conv(b=x(4, kind="INT32")), ""),
    ("weights", dense(w=x(5, 8)), ""),
    ("weights", call("PRELU", x(), x(1, 1, 4)), ""),
    ("rank", call("RELU", x(2, 8, 8, 4), y=x(2, 8, 8, 4)), "[2, 8, 8, 4]"),
    ("rank", call("RESHAPE", x(1, 8, 8, 4), ints(1, 8, 8, 2, 2), y=x(1, 8, 8, 2, 2)), "[1, 8, 8, 2, 2]"),
    ("rank", call("CONCATENATION", x(), x(), y=x(2, 8, 8, 4)), ""),
    ("narrow", call("RESHAPE", x(1, 40, 40, 255), ints(1, 4800, 85), y=x(1, 4800, 85)), "408,000"),
    ("narrow", call("RELU", x(1, 196_609), y=x(1, 196_609)), "196,609"),
    ("activation", call("MAX_POOL_2D", x(), fused_activation_function="RELU"), "RELU"),
    ("activation", call("AVERAGE_POOL_2D", x(), fused_activation_function="RELU6"), "RELU6"),
    ("activation", call("CONCATENATION", x(), x(), fused_activation_function="RELU"), ""),
    ("dilation", conv(dilation_w_factor=2, dilation_h_factor=1), "1 and 2"),
    ("zero-part", call("CONCATENATION", x(), k(*IMAGE, fill=1)), "not zero"),
    ("zero-part", call("CONCATENATION", x(), x(), k(*IMAGE, fill=0)), "3 parts"),
    ("format", dense(weights_format="SHUFFLED4x16INT8"), "SHUFFLED4x16INT8"),
    ("rows", dense(rows=3), "3 rows of 5"),
    ("rows", call("SOFTMAX", x(1, 4, 16), y=x(1, 4, 16)), "4 rows"),
    ("softmax-size", call("SOFTMAX", x(1, 16385), y=x(1, 16385)), "16,385"),
    *[("batch", mean(IMAGE, 0, 1, op=op), op) for op in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")],
    ("batch", mean(IMAGE, -4, op="SUM"), "axis 0"),
    ("batch", pad(1), "PAD"),
    ("batch", call("PACK", x(8, 8, 4), x(8, 8, 4), y=x(2, 8, 8, 4), axis=0), "PACK"),
    ("batch", call("SPLIT", ints(0), x(), y=(x(), x())), "SPLIT"),
    ("mean-depth", mean((1, 8, 8, 3), 3), "3 along z"),
    ("mean-size", mean((1, 256, 128, 3), 1, 2), "32,768"),
    ("slopes", call("PRELU", x(), k(8, 8, 4)), "[8, 8, 4]"),
    ("requantization", call("QUANTIZE", x(kind="FLOAT32", scales=0)), "float32"),
    ("resize-factor", resize((1, 1), (33, 33)), "1 x 1 to 33 x 33"),
    ("resize-factor", resize((33, 33), (513, 513)), ""),
    ("resize-factor", resize((8, 8), (4, 4), "RESIZE_NEAREST_NEIGHBOR"), ""),
    ("resize-side", resize((256, 256), (512, 512)), "512 x 512"),
    ("reshape-size", call("RESHAPE", x(1, 80, 80, 255), ints(1, 6400, 3, 85), y=x(1, 6400, 3, 85)), "1,632,000"),
    ("transpose-size", call("TRANSPOSE", x(1, 40, 40, 65), ints(0, 3, 1, 2), y=x(1, 65, 40, 40)), "TRANSPOSE of 104,000 elements; at most 69,696 have been seen mapped, 104,000 were not (measured)"),
    ("strides", slices((1, 2, 2, 1)), "[1, 2, 2, 1]"),
    ("masks", slices(ellipsis_mask=1), "ellipsis_mask is 1"),
    ("masks", slices(new_axis_mask=2), "new_axis_mask is 2"),
    ("tile", call("TILE", x(1, 2, 2, 8), ints(1, 2, 2, 1), y=x(1, 4, 4, 8)), ""),
    ("tile", call("TILE", x(1, 1, 1, 8), ints(1, 1, 1, 2), y=x(1, 1, 1, 16)), ""),
]  # fmt: skip


@pytest.mark.parametrize("model", MAPPED.values(), ids=MAPPED.keys())
def test_mapped(model: Model) -> None:
    assert broken(model) == ""
    assert partition(model).whole


@pytest.mark.parametrize(
    ("rule", "model", "words"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_refused(rule: str, model: Model, words: str) -> None:
    assert broken(model) == rule
    found = partition(model)
    assert (found.mapped, found.first_is_cpu, found.whole) == (0, True, False)
    placed = found.operators[0]
    assert placed.status == RULES[rule].status
    assert words in placed.rule
    assert placed.rule.endswith(f"({RULES[rule].evidence})")
    assert (placed.evidence, placed.source) == (RULES[rule].evidence, RULES[rule].source)


def test_every_rule_is_tested() -> None:
    assert {rule for rule, _, _ in REFUSED} == set(RULES)
    assert set(rules.VERSIONS) > rules.UNSEEN
    assert {*rules.SHAPING, *rules.WEIGHTS} <= set(rules.VERSIONS)


@pytest.mark.parametrize("op", sorted(set(rules.VERSIONS) - set(rules.SHAPING) - set(rules.WEIGHTS)))
def test_operators_say_how_it_is_known_that_they_are_mapped(op: str) -> None:
    placed = partition(call(op, x(1, 8), x(1, 8), y=x(1, 8), version=rules.VERSIONS[op])).operators[0]
    assert placed.status == rules.MAPPED
    assert placed.evidence == ("documented" if op in rules.UNSEEN else "measured")
    assert broken(call(op, x(1, 8), x(1, 8), y=x(1, 8), version=rules.VERSIONS[op] + 1)) in (
        "version",
        "parses",
    )


def graph(*steps: tuple[str, tuple[int, ...]]) -> Model:
    """Operators named with the tensors that they read; tensor 0 is given, and operator i writes tensor i + 1."""
    tensors = [Tensor(f"t{at}", IMAGE, "INT8", x().quantization) for at in range(len(steps) + 1)]
    operators = tuple(Operator(op, inputs, (at + 1,)) for at, (op, inputs) in enumerate(steps))
    return Model(tuple(tensors), operators, (0,), (len(steps),))


def statuses(model: Model) -> list[str]:
    return [placed.status for placed in partition(model).operators]


def test_what_is_in_front_stays_on_the_cpu() -> None:
    found = partition(graph(("ELU", (0,)), ("RELU", (1,)), ("TANH", (2,))))
    assert [placed.mapped for placed in found.operators] == [False, True, True]
    assert (found.segments, found.cut, found.first_is_cpu) == (1, None, False)
    assert "2 of 3 operators are mapped, in one segment; 0.0 KiB of parameters fit on chip" in found.summary
    assert "Operator 0, ELU, is not" in found.summary


def test_an_operator_in_between_strands_what_is_behind_it() -> None:
    model = graph(("RELU", (0,)), ("ELU", (1,)), ("RELU", (2,)), ("TANH", (3,)))
    assert statuses(model) == [rules.MAPPED, rules.UNSUPPORTED, rules.STRANDED, rules.STRANDED]
    found = partition(model)
    assert (found.segments, found.cut, found.mapped) == (2, 1, 1)
    assert [placed.legal for placed in found.operators] == [True, False, True, True]
    assert found.operators[3].rule == "one segment is mapped, which operator 1, ELU, ends"
    assert "1 of 4 operators are mapped, in the first of 2 segments" in found.summary
    assert "Operator 1, ELU, is not: ELU; the vendor's list does not have it (documented)" in found.summary


def test_branches_count_by_what_they_need_and_not_by_their_place() -> None:
    branches = graph(("RELU", (0,)), ("ELU", (1,)), ("TANH", (1,)), ("ADD", (2, 3)), ("TANH", (3,)))
    assert statuses(branches) == [rules.MAPPED, rules.UNSUPPORTED, rules.MAPPED, rules.STRANDED, rules.MAPPED]
    assert epochs(branches, [True, False, True, True, True]) == ((0, 2, 4), (1,), (3,))


def test_the_first_operator_that_can_run_decides_the_first_epoch() -> None:
    model = graph(("ELU", (0,)), ("RELU", (0,)), ("ADD", (1, 2)))
    assert epochs(model, [False, True, True]) == ((0,), (1, 2))
    backwards = Model(model.tensors, (Operator("RELU", (2,), (3,)), Operator("ELU", (0,), (2,))), (0,), (3,))
    assert epochs(backwards, [True, False]) == ((1,), (0,))


def test_operands_and_results_that_are_left_out_bind_nothing() -> None:
    model = graph(("ELU", (0,)), ("RELU", (0, -1)))
    spare = Operator("ELU", (0,), (1, -1))
    assert epochs(Model(model.tensors, (spare, model.operators[1]), (0,), (2,)), [False, True]) == (
        (0,),
        (1,),
    )
    assert epochs(Model(model.tensors, (model.operators[1], spare), (0,), (2,)), [True, False]) == (
        (0,),
        (1,),
    )


def test_operators_that_can_never_run() -> None:
    with pytest.raises(TargetError, match="operator 0 can never run"):
        partition(graph(("ADD", (0, 1))))


def test_a_file_without_operators() -> None:
    found = partition(Model((x(),), (), (0,), (0,)))
    assert (found.segments, found.mapped, found.whole, found.parameters) == (0, 0, True, 0)


def test_a_file_that_is_refused_as_a_whole() -> None:
    model = graph(("RELU", (0,)), ("GELU", (1,)), ("ELU", (2,)))
    found = partition(model)
    assert found.first_is_cpu
    assert statuses(model) == [rules.NOT_PARSED, rules.NOT_PARSED, rules.UNSUPPORTED]
    assert found.summary == f"The compiler refuses the file: {found.refused}."
    assert found.refused.startswith("operator 1, GELU: GELU of version 1")
    assert found.refused in found.operators[0].rule


def weighted(*sizes: tuple[int, int], shared: bool = False) -> Model:
    """Fully connected layers of (outputs, inputs), each with a bias and a requantization behind it; nothing is allocated."""
    tensors: list[Tensor] = []
    operators = []
    for outputs, inputs in sizes:
        at = len(tensors)
        weights = np.broadcast_to(np.ones((), np.int8), (outputs, inputs))
        tensors += [x(1, inputs), Tensor("w", weights.shape, "INT8", x().quantization, weights), k(outputs, kind="INT32"), x(1, outputs)]  # fmt: skip
        operators.append(Operator("FULLY_CONNECTED", (at, 1 if shared else at + 1, at + 2), (at + 3,)))
    return Model(tuple(tensors), tuple(operators), (0,), (len(tensors) - 1,))


def test_parameters_are_the_constants_of_mapped_operators() -> None:
    assert partition(weighted((5, 8))).parameters == 5 * 8 + 5 * 4
    assert partition(weighted((5, 8), (5, 8))).parameters == 2 * (5 * 8 + 5 * 4)
    assert partition(weighted((5, 8), (5, 8), shared=True)).parameters == 5 * 8 + 2 * 5 * 4
    assert partition(pad(0)).parameters == 0
    assert partition(call("MUL", x(), k(1, 1, 4))).parameters == 4
    assert partition(dense(version=5)).parameters == 0


def test_what_is_streamed() -> None:
    small = partition(weighted((1000, 1000)))
    assert (small.fits, small.streamed) == (True, (0, 0))
    assert "1.0 MiB of parameters fit on chip" in small.summary
    middle = partition(weighted(*[(1000, 1000)] * 6))
    assert middle.fits is None
    assert middle.streamed == (0, middle.parameters - AVAILABLE[0])
    assert (
        "5.7 MiB of parameters may not all fit on chip, where 4.3 MiB to 8.1 MiB are free" in middle.summary
    )
    large = partition(weighted(*[(1000, 1000)] * 10))
    assert large.fits is False
    assert large.streamed == tuple(large.parameters - free for free in reversed(AVAILABLE))
    assert "of 9.6 MiB of parameters, at least 1.5 MiB are streamed at every inference" in large.summary


def test_what_does_not_stay_on_chip_in_part() -> None:
    assert partition(weighted((4096, 4096))).streamed[0] == 4096 * 4096
    long = partition(weighted((64, 57_600)))
    assert (long.fits, long.streamed) == (False, (64 * 57_600, 64 * 57_600))
    between = partition(weighted((64, 8192)))
    assert (between.fits, between.streamed) == (None, (0, 64 * 8192))


def test_the_report_is_plain_data() -> None:
    found = partition(graph(("RELU", (0,)), ("ELU", (1,)), ("RELU", (2,))))
    details = json.loads(json.dumps(found.details()))
    assert details["summary"] == found.summary
    assert (details["mapped"], details["whole"], details["segments"], details["cut"]) == (1, False, 2, 1)
    assert details["parameters"] == {
        "bytes": 0,
        "fit": True,
        "streamed": [0, 0],
        "available": list(AVAILABLE),
    }
    assert details["operators"][1] == {
        "index": 1,
        "op": "ELU",
        "output": "t2",
        "mapped": False,
        "status": rules.UNSUPPORTED,
        "rule": "ELU; the vendor's list does not have it (documented)",
        "evidence": "documented",
        "source": "SO; pairs",
    }


def test_the_summary_of_a_whole_file() -> None:
    found = partition(weighted((1000, 1000)))
    assert found.summary == "1 of 1 operators are mapped, in one segment; 1.0 MiB of parameters fit on chip."
    assert partition(call("ELU", x())).summary.startswith(
        "None of 1 operators is mapped. Operator 0, ELU, is not"
    )


def rescanned(model: Model, legal: list[bool]) -> tuple[tuple[int, ...], ...]:
    """Epochs as TensorFlow Lite finds them: by looking at all operators again and again."""
    done: dict[int, int] = {}
    written = {tensor for item in model.operators for tensor in item.outputs if tensor >= 0}
    epoch, kind = -1, None
    while len(done) < len(model.operators):
        epoch, kind, grown = epoch + 1, None, True
        while grown:
            grown = False
            known = {tensor for index in done for tensor in model.operators[index].outputs}
            for index, item in enumerate(model.operators):
                runs = all(tensor in known or tensor not in written for tensor in item.inputs)
                if index not in done and runs and kind in (None, legal[index]):
                    kind, done[index], grown = legal[index], epoch, True
                    known.update(item.outputs)
    return tuple(tuple(sorted(at for at, of in done.items() if of == each)) for each in range(epoch + 1))


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Model, list[bool]]:
    """Operators that read up to three tensors that exist by then, some of them two outputs, in an order of their own."""
    count = draw(st.integers(1, 14))
    tensors, operators, legal = 2, [], []
    for _ in range(count):
        inputs = draw(st.lists(st.integers(-1, tensors - 1), min_size=1, max_size=3))
        made = draw(st.integers(1, 2))
        legal.append(draw(st.booleans()))
        operators.append(
            Operator("RELU" if legal[-1] else "ELU", tuple(inputs), tuple(range(tensors, tensors + made)))
        )
        tensors += made
    if draw(st.booleans()):
        order = draw(st.permutations(range(count)))
        operators, legal = [operators[at] for at in order], [legal[at] for at in order]
    stored = tuple(Tensor(f"t{at}", IMAGE, "INT8", x().quantization) for at in range(tensors))
    return Model(stored, tuple(operators), (0, 1), (tensors - 1,)), legal


@given(graphs())
def test_epochs_are_those_of_tensorflow_lite(drawn: tuple[Model, list[bool]]) -> None:
    model, legal = drawn
    found = epochs(model, legal)
    assert found == rescanned(model, legal)
    assert sorted(index for stretch in found for index in stretch) == list(range(len(legal)))
    possible = [stretch for stretch in found if legal[stretch[0]]]
    assert all(len({legal[index] for index in stretch}) == 1 for stretch in found)
    assert len(possible) in (len(found) // 2, (len(found) + 1) // 2)
