"""Types and shapes of every value, by ONNX's own inference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from qcompiler.ir.facts import SHAPES
from qcompiler.ir.onnx_export import to_onnx
from qcompiler.ir.onnx_import import set_value_type

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph


def infer_shapes(graph: Graph) -> None:
    """Fills in dtypes and shapes where inference knows them; establishes the fact SHAPES. Weights are not touched.

    What inference cannot tell (operators of other domains, data-dependent sizes) keeps what the model said.
    """
    model = to_onnx(graph, skeleton=True)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for info in [*inferred.graph.value_info, *inferred.graph.output]:
        if graph.has_value(info.name):
            value = graph.value(info.name)
            known = value.shape
            set_value_type(value, info.type)
            if known is not None and value.shape is not None and len(known) == len(value.shape):
                value.shape = tuple(
                    new if isinstance(new, int) else old for old, new in zip(known, value.shape, strict=True)
                )
    graph.facts[SHAPES] = True
