"""qcompiler: a quantizing compiler for neural-network inference.

    import qcompiler as qc
    result = qc.compile("model.onnx", target="tensorrt:sm89", calibration="calibration.npz", output="build/")

Attributes are imported when they are first asked for, so that `import qcompiler` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qcompiler.compiler import Result, compile  # noqa: A004 - as in re.compile
    from qcompiler.data import DataSource
    from qcompiler.errors import QCompilerError
    from qcompiler.ir.encoding import Encoding
    from qcompiler.ir.graph import Graph
    from qcompiler.ir.onnx_export import save
    from qcompiler.ir.onnx_import import import_model, load
    from qcompiler.ir.plan import Plan
    from qcompiler.options import Options
    from qcompiler.pass_manager import Effect, Pass, PassContext, PassResult
    from qcompiler.patterns import Match, Pattern
    from qcompiler.pipeline import Pipeline
    from qcompiler.rewrite import Rewrite, RewritePass

_PUBLIC = {
    "compile": "compiler", "Options": "options", "Result": "compiler", "DataSource": "data", "QCompilerError": "errors",
    "Encoding": "ir.encoding", "Graph": "ir.graph", "save": "ir.onnx_export", "import_model": "ir.onnx_import", "load": "ir.onnx_import",
    "Plan": "ir.plan", "Effect": "pass_manager", "Pass": "pass_manager", "PassContext": "pass_manager", "PassResult": "pass_manager",
    "Match": "patterns", "Pattern": "patterns", "Pipeline": "pipeline", "Rewrite": "rewrite", "RewritePass": "rewrite",
}  # fmt: skip

__all__ = [
    "DataSource", "Effect", "Encoding", "Graph", "Match", "Options", "Pass", "PassContext", "PassResult", "Pattern", "Pipeline", "Plan",
    "QCompilerError", "Result", "Rewrite", "RewritePass", "compile", "import_model", "load", "save",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'qcompiler' has no attribute {name!r}")
    return getattr(importlib.import_module(f"qcompiler.{_PUBLIC[name]}"), name)
