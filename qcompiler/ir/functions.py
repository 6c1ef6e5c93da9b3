"""Composite operators that opset 21 lacks, as ONNX functions.

A recovered composite is one node in the domain "qcompiler", named and shaped like the operator of the later standard
opset that has it. Exports attach the function below, or inline it, so the graph stays executable everywhere.
Sources: ONNX operator specification, Swish-24, RMSNormalization-23.
"""

from __future__ import annotations

import functools

import onnx
import onnx.parser

DOMAIN = "qcompiler"
LOOKUP = "TableLookup"

_BODIES = {
    "Swish": """
        <opset_import: ["": 21], domain: "qcompiler">
        Swish (x) => (y) { s = Sigmoid (x)  y = Mul (x, s) }
    """,
    "RMSNormalization": """
        <opset_import: ["": 21], domain: "qcompiler">
        RMSNormalization <epsilon: float = 1e-5, axis: int = -1> (x, scale) => (y) {
            axes_attribute = Constant <value_int: int = @axis> ()
            shape_of_one = Constant <value_ints = [1]> ()
            axis_from = Reshape (axes_attribute, shape_of_one)
            axes = Identity (axis_from)
            squared = Mul (x, x)
            mean = ReduceMean <keepdims = 1> (squared, axes)
            offset = Constant <value_float: float = @epsilon> ()
            typed = CastLike (offset, mean)
            shifted = Add (mean, typed)
            root = Sqrt (shifted)
            normal = Div (x, root)
            y = Mul (normal, scale)
        }
    """,
    LOOKUP: """
        <opset_import: ["": 21], domain: "qcompiler">
        TableLookup (codes, table, scale, first) => (y) {
            flat = Constant <value_ints = [-1]> ()
            entries = Reshape (table, flat)
            code = Cast <to = 6> (codes)
            index = Add (code, first)
            entry = Gather (entries, index)
            y = Mul (entry, scale)
        }
    """,
}

COMPOSITES = tuple(_BODIES)
"""The operators of the domain "qcompiler". RMSNormalization here normalises over the one axis it names; TableLookup decodes
constants: entries of tables, one behind the other, by their codes and where the first entry of each channel is, times scales."""


@functools.cache
def composite(op: str) -> onnx.FunctionProto:
    """The function that defines a composite operator."""
    return onnx.parser.parse_function(_BODIES[op])
