"""TensorRT's rules for Q/DQ nodes: what each asks, how bad it is to break it, and where that is written.

Sources: DG = NVIDIA TensorRT developer guide ("Explicit Quantization", "Quantization Schemes"); NvInfer.h = the header of
that name in github.com/NVIDIA/TensorRT, and "issue" an issue there; MO = NVIDIA Model Optimizer; RTX = measured with the
TensorRT-RTX 1.7 parser and builder.

Three severities. "error": TensorRT refuses the model, or computes other numbers than the graph says. "silent-float": it
builds, but what was asked to run quantized runs in float, and nothing says so. "warning": TensorRT-RTX takes it, but the
documents advise against it or do not promise it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qcompiler.targets.tensorrt.qdq_view import label

if TYPE_CHECKING:
    import onnx

Severity = Literal["error", "silent-float", "warning"]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: what it asks, and where that is written."""

    id: str
    severity: Severity
    asks: str
    source: str


RULES = {
    rule.id: rule
    for rule in (
        Rule("operator", "error", "integer arithmetic is written as Q/DQ around float operators", "RTX; DG"),
        Rule("opset", "error", "the opset has the quantized type and the attributes used", "ONNX; DG"),
        Rule(
            "type", "error", "the quantized type is int8, float8e4m3fn, int4 or float4e2m1", "RTX; NvInfer.h"
        ),
        Rule("type-stated", "error", "QuantizeLinear has a zero point or output_dtype", "RTX; ONNX"),
        Rule(
            "int32", "error", "no int32 DequantizeLinear; a bias stays float", "RTX; onnxruntime issue 14229"
        ),
        Rule("zero-point-zero", "error", "zero points are zero and constant", "RTX; NvInfer.h; issue 2774"),
        Rule("scale-positive", "error", "every scale is finite and > 0", "RTX; NvInfer.h"),
        Rule("scale-type", "error", "scales are float32, float16 or bfloat16 (float8 for FP4)", "NvInfer.h"),
        Rule("scale-type-matches", "warning", "a 16-bit scale has the type of Q's input", "NvInfer.h"),
        Rule("scale-constant", "silent-float", "scales are constants", "RTX"),
        Rule("scale-scalar", "silent-float", "the one scale of an activation has rank 0", "RTX"),
        Rule("activation-per-tensor", "silent-float", "activations have one scale", "RTX; NvInfer.h"),
        Rule("channel-count", "error", "there are as many scales as channels", "RTX; NvInfer.h"),
        Rule("channel-axis", "silent-float", "weight scales go by output channel", "RTX; DG"),
        Rule("conv-transpose", "error", "ConvTranspose weights have one scale", "issues 1694, 2380"),
        Rule("block-type", "error", "blocks are for int4, float8e4m3fn and float4e2m1", "NvInfer.h"),
        Rule("block-axis", "error", "blocks lie on the last or second-to-last axis", "RTX; NvInfer.h"),
        Rule("block-divides", "error", "the axis is a whole number of blocks", "RTX; NvInfer.h"),
        Rule("block-operands", "error", "a weight in fp8 blocks meets float data", "RTX"),
        Rule("block-size", "warning", "int4 blocks have 64 or 128 elements", "DG"),
        Rule("int4-activation", "error", "int4 is for weights", "DG"),
        Rule(
            "int4-expanded", "silent-float", "int4 weights are in blocks, and feed Gemm or MatMul", "RTX; DG"
        ),
        Rule("one-type", "error", "the operands of an operator have one quantized type", "RTX"),
        Rule("float-types-agree", "error", "the float inputs of an operator have one type", "RTX"),
        Rule("concat-scales", "silent-float", "tensors joined by Concat share their scale", "RTX; MO"),
        Rule("both-operands", "warning", "all data inputs of a weighted operator are quantized", "RTX; DG"),
    )
}


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule broken at a node; ``message`` says what is wrong, where, and what TensorRT makes of it."""

    rule: str
    node: str
    message: str

    @property
    def severity(self) -> Severity:
        """How bad it is: see the module's documentation."""
        return RULES[self.rule].severity


def broken(rule: str, node: onnx.NodeProto, what: str) -> Violation:
    """Report a rule broken at a node; ``what`` goes on where the node's name ends."""
    return Violation(rule, label(node), f"{node.op_type} {label(node)!r}: {what}")
