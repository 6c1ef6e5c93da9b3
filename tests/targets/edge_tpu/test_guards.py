"""Rules that a file is held to before it is written, one broken at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qcompiler.errors import TargetError
from qcompiler.targets.edge_tpu.guards import check
from qcompiler.targets.edge_tpu.model import Model, Operator, Quantization, Tensor


def tensor(
    scale: Any = 0.5,
    zero: int = 0,
    shape: tuple[int, ...] = (1, 4),
    kind: str = "INT8",
    constant: bool = False,
) -> Tensor:
    scales = np.atleast_1d(np.float32(scale))
    stored = Quantization(scales, np.full(scales.shape, zero, np.int64))
    return Tensor("", shape, kind, stored, np.zeros(shape, kind.lower()) if constant else None)


def model(op: str, operands: list[Tensor], result: Tensor, **options: Any) -> Model:
    tensors = [replace(item, name=f"t{number}") for number, item in enumerate([*operands, result])]
    places = tuple(range(len(operands)))
    read = tuple(place for place in places if operands[place].data is None)
    operator = Operator(op, places, (len(operands),), options)
    return Model(tuple(tensors), (operator,), read, (len(operands),))


def weighted(
    weights: Tensor | None = None, bias: Tensor | None = None, made: Tensor | None = None, op: str = "CONV_2D"
) -> Model:
    x = tensor(0.5, 3)
    weights = weights or tensor([0.25, 0.125], constant=True)
    bias = bias or tensor([0.125, 0.0625], kind="INT32", constant=True)
    operands = (
        [tensor(1.0, kind="INT32", constant=True), weights, x, bias]
        if op == "TRANSPOSE_CONV"
        else [x, weights, bias]
    )
    return model(op, operands, made or tensor(0.1))


LEGAL = {
    "conv": weighted(),
    "transposed": weighted(op="TRANSPOSE_CONV"),
    "add": model("ADD", [tensor(), tensor(0.25)], tensor(0.75)),
    "add16": model("ADD", [tensor(kind="INT16")] * 2, tensor(kind="INT16"), pot_scale_int16=False),
    "concat": model("CONCATENATION", [tensor(0.5, 3), tensor(0.5, 3)], tensor(0.5, 3)),
    "softmax": model("SOFTMAX", [tensor()], tensor(1 / 256, -128)),
    "sqrt": model("SQRT", [tensor(0.5, -128)], tensor()),
    "hard_swish": model("HARD_SWISH", [tensor()], tensor()),
}
BROKEN = {
    "empty": (model("RELU", [tensor(shape=(0, 4))], tensor(shape=(0, 4))), "no elements"),
    "scale": (model("RELU", [tensor(np.inf)], tensor()), "not positive and finite"),
    "zero16": (model("RELU", [tensor(zero=1, kind="INT16")], tensor(kind="INT16")), "16-bit tensors have 0"),
    "scales": (model("RELU", [tensor([0.5, 0.25])], tensor()), "several scales"),
    "pad-rank": (model("PAD", [tensor(shape=(1,) * 6)], tensor(shape=(1,) * 6)), "takes 5 at most"),
    "rank": (model("ADD", [tensor(shape=(1,) * 9)] * 2, tensor(shape=(1,) * 9)), "takes 8 at most"),
    "concat": (model("CONCATENATION", [tensor(), tensor(0.25)], tensor()), "differ in scale or zero point"),
    "max_pool": (model("MAX_POOL_2D", [tensor()], tensor(zero=1)), "differ in scale or zero point"),
    "reshape": (model("RESHAPE", [tensor()], tensor(0.25)), "differ in scale or zero point"),
    "neg": (model("NEG", [tensor(zero=1)], tensor(zero=1)), "negates codes"),
    "logistic": (model("LOGISTIC", [tensor()], tensor(1 / 128, -128)), "writes scale and zero point"),
    "tanh16": (model("TANH", [tensor(kind="INT16")], tensor(1 / 128, kind="INT16")), "writes scale and zero point"),
    "weights": (weighted(tensor([0.25, 0.125], 1, constant=True)), "weights with a zero point"),
    "bias-scale": (weighted(bias=tensor([0.125, 0.07], kind="INT32", constant=True)), "not that of its input"),
    "bias-zero": (weighted(bias=tensor([0.125, 0.0625], 1, kind="INT32", constant=True)), "without a scale, or with a zero"),
    "bias-type": (weighted(made=tensor(kind="INT16")), "it is INT64"),
    "bias-transposed": (weighted(bias=tensor(0.5, kind="INT32", constant=True), op="TRANSPOSE_CONV"), "not that of its input"),
    "bias-far": (weighted(bias=tensor([0.12500005, 0.0625], kind="INT32", constant=True), made=tensor(1e-6)), "not that of its input"),
    "factor": (weighted(made=tensor(1e-11)), "less than 2\\*\\*30"),
    "mul": (model("MUL", [tensor(2.0**10), tensor(2.0**10)], tensor(2.0**-10)), "less than 2\\*\\*14"),
    "relu": (model("RELU", [tensor(2.0**20)], tensor(2.0**-10)), "less than 2\\*\\*22"),
    "pot": (model("ADD", [tensor(kind="INT16")] * 2, tensor(kind="INT16")), "pot_scale_int16"),
    "add": (model("ADD", [tensor(), tensor()], tensor(2.0**-20)), "too small for operands"),
    "sub": (model("SUB", [tensor(), tensor(0.25)], tensor(2.0**-21)), "too small for operands"),
    "add16": (model("ADD", [tensor(kind="INT16")] * 2, tensor(2.0**-15, kind="INT16"), pot_scale_int16=False), "too small for operands"),
    "softmax": (model("SOFTMAX", [tensor(2.0**-26)], tensor(1 / 256, -128), beta=1.0), "more than 2\\*\\*-26"),
    "log_softmax": (model("LOG_SOFTMAX", [tensor(2.0**-27)], tensor(1 / 16, 127)), "more than 2\\*\\*-26"),
    "hard_swish": (model("HARD_SWISH", [tensor(128.0)], tensor(1.0)), "less than 128"),
    "hard_swish-low": (model("HARD_SWISH", [tensor(2.0**-9)], tensor(1.0)), "at least 2\\*\\*-8"),
    "hard_swish-large": (model("HARD_SWISH", [tensor(2.0**24)], tensor(2.0**24)), "less than 2\\*\\*24"),
    "sqrt": (model("SQRT", [tensor(zero=-100)], tensor()), "allows negative numbers"),
    "rsqrt": (model("RSQRT", [tensor(2.0**24, -128)], tensor(1.0)), "at least 2\\*\\*-11"),
    "prelu": (model("PRELU", [tensor(), tensor([0.5, 0.25], constant=True)], tensor()), "slopes of several scales"),
}  # fmt: skip


@pytest.mark.parametrize("name", LEGAL)
def test_files_that_keep_the_rules(name: str) -> None:
    check(LEGAL[name])


@pytest.mark.parametrize("name", BROKEN)
def test_files_that_break_one(name: str) -> None:
    broken, reason = BROKEN[name]
    with pytest.raises(TargetError, match=reason):
        check(broken)


def test_all_findings_are_listed() -> None:
    concat, softmax = BROKEN["concat"][0], BROKEN["softmax"][0]
    moved = replace(softmax.operators[0], inputs=(3,), outputs=(4,))
    both = replace(concat, tensors=(*concat.tensors, *softmax.tensors), operators=(*concat.operators, moved))
    with pytest.raises(TargetError) as error:
        check(both)
    assert "CONCATENATION, which gives 't2'" in str(error.value)
    assert "SOFTMAX, which gives 't1'" in str(error.value)
