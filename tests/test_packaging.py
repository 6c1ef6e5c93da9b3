"""Every kind of install has the whole package: three source folders, one import package, its data files.

Nothing is downloaded: builds use the setuptools that is installed, and the fresh environments see this one's packages.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ("qcompiler", "passes", "targets", "pyproject.toml", "README.md", "LICENSE")

PROBE = """
import importlib, importlib.resources, pathlib, pkgutil, sys
import qcompiler, qcompiler.passes, qcompiler.targets
import qcompiler.demo, qcompiler.ir.graph
files = importlib.resources.files
assert files("qcompiler").joinpath("py.typed").is_file()
for name in ("digits.onnx", "calibration.npz", "evaluation.npz"):
    assert files("qcompiler.demo").joinpath(name).is_file(), name
targets = [entry.name for entry in pkgutil.iter_modules(qcompiler.targets.__path__) if entry.ispkg]
assert targets, "no targets"
for target in targets:
    assert files(f"qcompiler.targets.{target}").joinpath("descriptor.toml").is_file(), target
passes = [entry.name for entry in pkgutil.iter_modules(qcompiler.passes.__path__)]
for name in passes:
    importlib.import_module(f"qcompiler.passes.{name}")
print(pathlib.Path(qcompiler.__file__).resolve(), len(passes), *targets, sep="\\n")
"""


def _setuptools() -> int:
    """The major version of the setuptools installed; 0 for none."""
    try:
        return int(importlib.metadata.version("setuptools").split(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        _setuptools() < 77 or not (ROOT / "pyproject.toml").is_file(),
        reason="needs setuptools 77 and the source tree",
    ),
]


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree: builds write beside the sources."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, folder / name)
    return folder


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The interpreter of a fresh environment that sees the packages of this one, but not this project."""
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=False)
    interpreter = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    site = Path(
        run(interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    )
    here = [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
    # A plain .pth line adds a folder to the path without running the .pth files in it, such as an editable install's.
    (site / "borrowed.pth").write_text("".join(f"{entry}\n" for entry in here))
    return interpreter


def install(python: Path, *arguments: object, cwd: Path) -> None:
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
        "--disable-pip-version-check", "--force-reinstall", *arguments, cwd=cwd)  # fmt: skip


def probe(python: Path, cwd: Path) -> Path:
    """Where the package is imported from; fails if anything is missing from it."""
    return Path(run(python, "-c", PROBE, cwd=cwd).splitlines()[0])


def test_wheel(checkout: Path, python: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
        "--wheel-dir", tmp_path, checkout, cwd=tmp_path)  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"qcompiler"}
    for source, inside in (("qcompiler", ""), ("passes", "passes/"), ("targets", "targets/")):
        for path in (checkout / source).rglob("*.py"):
            assert f"qcompiler/{inside}{path.relative_to(checkout / source).as_posix()}" in names
    install(python, wheel, cwd=tmp_path)
    assert probe(python, tmp_path).is_relative_to(tmp_path / "venv")


@pytest.mark.parametrize("mode", ["lenient", "strict"])
def test_editable(checkout: Path, python: Path, tmp_path: Path, mode: str) -> None:
    install(python, "--editable", checkout, "--config-settings", f"editable_mode={mode}", cwd=tmp_path)
    assert probe(python, tmp_path).is_relative_to(checkout)
    if mode == "lenient":
        assert probe(python, checkout).is_relative_to(checkout)  # from the project's own folder, too
