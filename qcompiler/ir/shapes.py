"""Types and shapes of every value, by ONNX's own inference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from qcompiler.ir.facts import SHAPES
from qcompiler.ir.onnx_export import to_onnx
from qcompiler.ir.onnx_import import set_value_type

if TYPE_CHECKING:
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.node import Dim, Node, Shape

_MADE_UP = "unk__"  # the prefix of the symbols that ONNX's inference generates


def infer_shapes(graph: Graph) -> None:
    """Fills in dtypes and shapes where inference knows them; establishes the fact SHAPES. Weights are not touched.

    Inference starts from the inputs and the operators, not from what the model says of values in between: that may be
    stale (a batch size of 1 from before the input was made symbolic). What inference cannot tell (operators of other
    domains, data-dependent sizes) keeps what the model said. Symbols that inference makes up do not become names of
    sizes: they mean something else on every run.
    """
    model = to_onnx(graph, skeleton=True)
    told = {name for node in graph.topological() if node.domain for name in _output_names(node)}
    kept = [info for info in model.graph.value_info if info.name in told]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    for info in model.graph.output:
        computed = graph.value(info.name).producer is not None
        if computed and info.name not in told and info.type.HasField("tensor_type"):
            info.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for info in [*inferred.graph.value_info, *inferred.graph.output]:
        if graph.has_value(info.name):
            value = graph.value(info.name)
            if value.producer is None:
                continue
            known = value.shape
            set_value_type(value, info.type)
            value.shape = _merged(known, value.shape)
    graph.facts[SHAPES] = True


def _output_names(node: Node) -> list[str]:
    return [value.name for value in node.outputs if value is not None]


def _merged(known: Shape | None, new: Shape | None) -> Shape | None:
    if new is None:
        return None if known is None else tuple(_named(dim) for dim in known)
    told = known if known is not None and len(known) == len(new) else (None,) * len(new)
    return tuple(_named(old) if _named(dim) is None else dim for old, dim in zip(told, new, strict=True))


def _named(dim: Dim) -> Dim:
    """The dimension, or None for a symbol that shape inference made up."""
    return None if isinstance(dim, str) and dim.startswith(_MADE_UP) else dim
