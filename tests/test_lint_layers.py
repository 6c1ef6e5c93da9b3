"""The lint of the architecture finds what it is there to find."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def lint() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lint_layers", ROOT / ".ci" / "lint_layers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CLEAN = {
    "qcompiler/__init__.py": "from qcompiler.compiler import compile",
    "qcompiler/errors.py": "",
    "qcompiler/ir/__init__.py": "",
    "qcompiler/ir/graph.py": "from qcompiler.errors import ModelError\nfrom . import node\nfrom .node import Node",
    "qcompiler/ir/node.py": '"""Like the tensorrt one."""\n# tensorrt\n',
    "qcompiler/ops.py": "from qcompiler.ir.node import Node",
    "qcompiler/patterns.py": "from qcompiler import ops\nimport numpy",
    "qcompiler/target.py": "from qcompiler.patterns import Pattern",
    "qcompiler/compiler.py": "from qcompiler.passes.fuse import Fuse\nfrom qcompiler import targets",
    "qcompiler/cli.py": "import qcompiler.compiler",
    "passes/__init__.py": "",
    "passes/fuse.py": "from qcompiler.passes import _tools\nfrom qcompiler.target import Target",
    "passes/_tools.py": "restrict = 1\ntensorrtish = 2",
    "targets/__init__.py": "",
    "targets/tensorrt/__init__.py": "",
    "targets/tensorrt/lower.py": "from qcompiler.targets.tensorrt import rules\nNAME = 'tensorrt'",
    "targets/tensorrt/rules.py": "from qcompiler.passes.fuse import Fuse\nfrom .lower import NAME",
    "targets/edge_tpu/__init__.py": "",
}


def project(folder: Path, **extra: str) -> Path:
    for name, text in {**CLEAN, **extra}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_this_project_is_clean(lint: ModuleType) -> None:
    assert lint.check(ROOT) == []


def test_a_clean_project(lint: ModuleType, tmp_path: Path) -> None:
    assert lint.check(project(tmp_path)) == []


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "qcompiler/ir/graph.py",
            "\nfrom qcompiler.ops import info",
            "2: qcompiler.ir.graph imports qcompiler.ops: ops is above ir",
        ),
        ("qcompiler/ir/graph.py", "from qcompiler import ops", "imports qcompiler.ops"),
        ("qcompiler/ir/graph.py", "from .. import ops", "imports qcompiler.ops"),
        (
            "qcompiler/ir/graph.py",
            "from ..patterns import Pattern",
            "imports qcompiler.patterns: the core is above ir",
        ),
        (
            "qcompiler/errors.py",
            "import qcompiler.ir.graph",
            "imports qcompiler.ir.graph: ir is above errors",
        ),
        (
            "qcompiler/ops.py",
            "if TYPE_CHECKING:\n    from qcompiler.patterns import Pattern",
            "2: qcompiler.ops imports",
        ),
        (
            "qcompiler/target.py",
            "def f():\n    from qcompiler.passes.fuse import Fuse",
            "passes and targets is above the core",
        ),
        ("qcompiler/target.py", "from qcompiler import targets", "imports qcompiler.targets"),
        ("qcompiler/target.py", "from qcompiler import compile", "imports qcompiler: cli is above the core"),
        ("qcompiler/compiler.py", "from qcompiler.cli import main", "cli is above compiler"),
        ("passes/fuse.py", "from qcompiler.compiler import compile", "compiler is above passes and targets"),
        ("passes/fuse.py", "from qcompiler.targets.tensorrt import rules", "a pass never imports a target"),
        ("passes/fuse.py", "import qcompiler.targets", "a pass never imports a target"),
        (
            "targets/edge_tpu/lower.py",
            "from qcompiler.targets.tensorrt.rules import x",
            "never imports another target",
        ),
        ("targets/edge_tpu/lower.py", "from ..tensorrt import rules", "never imports another target"),
        (
            "passes/fuse.py",
            "if target.name == 'tensorrt:sm90': pass",
            "1: 'tensorrt' is the name of a target",
        ),
        ("qcompiler/target.py", "X = f'{y} for TensorRT'", "'TensorRT' is the name of a target"),
        ("qcompiler/target.py", "def for_edge_tpu(): pass", "'edge_tpu' is the name of a target"),
        ("qcompiler/cli.py", "HELP = 'edge-tpu'", "'edge-tpu' is the name of a target"),
        ("passes/fuse.py", "x.edgetpu(tensorrt=1)", "'edgetpu' is the name of a target"),
    ],
)
def test_violations_are_found(lint: ModuleType, tmp_path: Path, file: str, text: str, message: str) -> None:
    found = lint.check(project(tmp_path, **{file: text}))
    assert len(found) == 1, found
    assert found[0].startswith(f"{file}:")
    assert message in found[0]


def test_the_exit_code(
    lint: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["lint_layers.py", str(project(tmp_path))])
    assert lint.main() == 0
    assert capsys.readouterr().out == "lint_layers: no violations\n"
    project(tmp_path, **{"qcompiler/errors.py": "import qcompiler.ops"})
    assert lint.main() == 1
    assert capsys.readouterr().out.endswith("lint_layers: 1 violation\n")
