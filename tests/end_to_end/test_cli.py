"""What users do with the command line."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_runs import FAST_TARGET, Outcome, Run, contents
from onnx import numpy_helper

import qcompiler as qc
from qcompiler import demo
from qcompiler.ir.plan import Plan

MAIN = [sys.executable, "-c", "from qcompiler.cli import main; main()"]
FILES = {"manifest.json", "plan.json", "reference.onnx", "report.html", "report.json"}

CompileDemo = Callable[..., Outcome]


def artifacts(folder: Path) -> dict[str, bytes]:
    """The bytes of all files but report.*, which tell times."""
    return {
        name: data for name, data in contents(folder).items() if not Path(name).name.startswith("report.")
    }


def listed(folder: str | Path) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def report(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / "report.json").read_text()))


# -- the front door ------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['qcompiler', '--help']\n"
        "from qcompiler.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as error:\n    assert not error.code\n"
        "heavy = {'numpy', 'onnx', 'onnxruntime', 'scipy', 'networkx'} & set(sys.modules)\n"
        "print('heavy:', *heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].split() == ["heavy:"]
    for command in (
        "compile",
        "inspect",
        "evaluate",
        "diff",
        "explain",
        "targets",
        "passes",
        "bisect",
        "demo",
    ):
        assert command in done.stdout


def test_every_command_has_help(run: Run) -> None:
    assert run().code == 0
    for command in (
        "compile",
        "inspect",
        "evaluate",
        "diff",
        "explain",
        "targets",
        "passes",
        "bisect",
        "demo",
    ):
        done = run(command, "--help")
        assert done.code == 0
        assert f"Usage: qcompiler {command}" in done.out


def test_version(run: Run) -> None:
    done = run("--version")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("qcompiler ")


# -- demo and compile ----------------------------------------------------------------------------------------------


def test_the_demo(folder: Path, run: Run) -> None:
    done = run("demo")
    assert done.code == 0, done.err
    from qcompiler.targets import descriptors

    for name in descriptors():
        assert f" {name}/\n" in done.out
        assert set(listed(folder / "qcompiler-demo" / name)) > FILES
    assert "97.75" in done.out
    before = artifacts(folder / "qcompiler-demo")
    assert run("demo", "--quiet").out == ""
    assert artifacts(folder / "qcompiler-demo") == before


def test_the_demo_for_chosen_targets(folder: Path, run: Run) -> None:
    done = run("demo", "-t", "fast.toml", "-o", "here")
    assert done.code == 0, done.err
    assert (folder / "here" / "fast.toml" / "report.json").is_file()


def test_compile_says_what_came_of_it(compile_demo: CompileDemo) -> None:
    done = compile_demo("-e", demo.EVALUATION, "-o", "build/out", "--max-drop", "0.01")
    assert (done.code, done.err) == (0, "")
    for text in (
        "digits.onnx",
        "fast:sm89",
        "10 of 10 weighted nodes",
        "97.75",
        "top1",
        "KiB",
        "build/out/",
        "explain",
    ):
        assert text in done.out
    assert set(listed("build/out")) == FILES
    assert listed("build") == ["out"], "something was left beside the output"


def test_quiet_says_nothing(compile_demo: CompileDemo) -> None:
    assert compile_demo("-o", "out", "--quiet") == Outcome(0, "", "")


def test_a_budget_that_is_not_met(compile_demo: CompileDemo, folder: Path) -> None:
    (folder / "strict.py").write_text(
        "import numpy as np\n"
        "def worst(outputs, labels, reference):\n"
        "    return max(float(np.abs(outputs[name] - reference[name]).max()) for name in outputs)\n"
        "worst.higher_is_better = False\n"
    )
    words = ["-e", demo.EVALUATION, "--metric", "strict.py:worst", "--max-drop", "1e-6"]
    done = compile_demo(*words, "-o", "out")
    assert done.code == 3
    assert "budget is not met" in done.out
    budget = report(folder / "out")["budget"]
    assert (budget["asked"], budget["met"]) == ({"max_drop": 1e-6}, False)
    (text,) = budget["unmet"]
    assert text.startswith("--max-drop 1e-06 is not kept: the least drop found is ")


def test_the_same_inputs_give_the_same_bytes(compile_demo: CompileDemo, folder: Path) -> None:
    for name in ("first", "second"):
        assert compile_demo("-e", demo.EVALUATION, "-o", name).code == 0
    assert artifacts(folder / "first") == artifacts(folder / "second")
    other = {**os.environ, "PYTHONHASHSEED": "1234"}
    subprocess.run(
        [*MAIN, "compile", demo.MODEL, "-t", "fast.toml", "-c", demo.CALIBRATION, "-e", demo.EVALUATION, "-o", "third"],
        env=other, check=True, capture_output=True,
    )  # fmt: skip
    assert artifacts(folder / "third") == artifacts(folder / "first")


def test_the_manifest_knows_everything_that_went_in(compiled_demo: Path) -> None:
    manifest = json.loads((compiled_demo / "manifest.json").read_text())
    assert manifest["inputs"]["model"] == hashlib.sha256(demo.MODEL.read_bytes()).hexdigest()
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((compiled_demo / name).read_bytes()).hexdigest() == digest


def test_a_plan_applied_again_gives_the_same_model(compile_demo: CompileDemo, folder: Path) -> None:
    assert compile_demo("-o", "first").code == 0
    assert compile_demo("-o", "second", "--plan", "first/plan.json").code == 0
    for name in ("reference.onnx", "plan.json"):
        assert (folder / "first" / name).read_bytes() == (folder / "second" / name).read_bytes()


def test_a_plan_applied_again_gives_the_same_artifact(folder: Path, run: Run) -> None:
    words = ["compile", demo.MODEL, "-t", "tensorrt", "-c", demo.CALIBRATION, "-q"]
    assert run(*words, "-o", "first").code == 0
    assert run(*words, "-o", "second", "--plan", "first/plan.json").code == 0
    assert (folder / "first/model.onnx").read_bytes() == (folder / "second/model.onnx").read_bytes()


def test_a_plan_edited_by_hand(compile_demo: CompileDemo, folder: Path) -> None:
    assert compile_demo("-o", "first").code == 0
    plan = json.loads((folder / "first/plan.json").read_text())
    group = next(entry for entry in plan["groups"] if isinstance(entry["encoding"]["scale"], float))
    group["encoding"]["scale"] = 0.125
    (folder / "plan.json").write_text(json.dumps(plan))
    done = compile_demo("-o", "second", "--plan", "plan.json")
    assert done.code == 0, done.err
    again = Plan.from_json((folder / "second/plan.json").read_text())
    scale = next(entry.encoding.scale for entry in again.groups if entry.name == group["name"])
    assert scale is not None
    assert float(scale) == 0.125


def test_statistics_are_written_and_used_again(compile_demo: CompileDemo, folder: Path) -> None:
    assert compile_demo("-o", "first", "--statistics", "statistics.qcs").code == 0
    before = (folder / "statistics.qcs").read_bytes()
    assert compile_demo("-o", "second", "--statistics", "statistics.qcs").code == 0
    assert (folder / "statistics.qcs").read_bytes() == before
    assert artifacts(folder / "first") == artifacts(folder / "second")
    said = [item["message"] for entry in report(folder / "second")["passes"] for item in entry["diagnostics"]]  # type: ignore[attr-defined]
    assert any("read from statistics.qcs" in message for message in said)


def test_methods_and_options_change_the_result(compile_demo: CompileDemo, folder: Path) -> None:
    assert compile_demo("-o", "mse").code == 0
    models = [(folder / "mse/reference.onnx").read_bytes()]
    for method in ("min-max", "moving-average", "percentile", "percentile:99.9", "entropy"):
        assert compile_demo("-o", method, "--method", method).code == 0
        models.append((folder / method / "reference.onnx").read_bytes())
    assert len(set(models)) == len(models)
    assert compile_demo("-o", "same", "--option", "calibrate.method=min-max").code == 0
    assert artifacts(folder / "same") == artifacts(folder / "min-max")


def test_dump_and_verify_each(compile_demo: CompileDemo, folder: Path) -> None:
    done = compile_demo("-o", "out", "--dump", "dump", "--verify-each")
    assert done.code == 0, done.err
    names = listed("dump")
    passes = report(folder / "out")["passes"]
    assert isinstance(passes, list)
    assert names[0].startswith("00-input")
    assert {"02-fold_constants.diff", "02-fold_constants.onnx", "02-fold_constants.txt"} <= set(names)
    assert len({name.split("-")[0] for name in names}) == len(passes) + 1
    for name in names:
        if name.endswith(".onnx"):
            onnx.checker.check_model(f"dump/{name}")
    assert all(entry["error"] is not None for entry in passes)


def test_a_users_pass(compile_demo: CompileDemo, folder: Path) -> None:
    (folder / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from qcompiler import Effect, Pass, PassResult\n"
        "@dataclass(frozen=True)\n"
        "class CountNodes(Pass):\n"
        '    """Counts."""\n'
        '    name = "count_nodes"\n'
        "    effect = Effect.ANNOTATES\n"
        "    times: int = 1\n"
        "    def run(self, graph, context):\n"
        "        result = PassResult()\n"
        "        result.count('nodes', self.times * graph.node_count)\n"
        "        return result\n"
    )
    done = compile_demo("-o", "out", "--pass", "mine.py:CountNodes", "--option", "count_nodes.times=2")
    assert done.code == 0, done.err
    passes = report(folder / "out")["passes"]
    entry = next(entry for entry in passes if entry["name"].startswith("count_nodes"))  # type: ignore[attr-defined]
    assert entry["counts"]["nodes"] > 2
    assert entry["name"] == "count_nodes{times=2}"


def test_a_pipeline_of_ones_own(compile_demo: CompileDemo, folder: Path) -> None:
    text = "fold_constants,canonicalize,fold_batch_norm,fuse,calibrate{method=min-max},assign_precision,insert_qdq"
    assert compile_demo("-o", "out", "--pipeline", text).code == 0
    passes = report(folder / "out")["passes"]
    assert ",".join(entry["name"] for entry in passes) == text  # type: ignore[attr-defined]


def test_folders_of_data(compile_demo: CompileDemo, folder: Path) -> None:
    images = np.load(demo.CALIBRATION)["image"]
    (folder / "samples").mkdir()
    for index, image in enumerate(images):
        np.savez(folder / "samples" / f"{index:04}.npz", image=image)
    assert compile_demo("-o", "first").code == 0
    done = compile_demo("-o", "second", "-c", "samples")
    assert done.code == 0, done.err
    assert (folder / "first/reference.onnx").read_bytes() == (folder / "second/reference.onnx").read_bytes()


def test_force_replaces_what_we_wrote(compile_demo: CompileDemo, folder: Path) -> None:
    assert compile_demo("-o", "out", "--method", "min-max").code == 0
    (folder / "out" / "stale.txt").write_text("of an earlier run")
    assert compile_demo("-o", "out", "--force").code == 0
    assert set(listed("out")) == FILES
    (folder / "empty").mkdir()
    assert compile_demo("-o", "empty", "--force").code == 0


def test_the_result_runs_as_reported(compiled_demo: Path, run: Run) -> None:
    said = report(compiled_demo)["metric"]
    assert isinstance(said, dict)
    done = run("evaluate", compiled_demo, "-d", demo.EVALUATION)
    assert done.code == 0, done.err
    assert f"{said['reference']:.2%}".replace("%", " %") in done.out


# -- configuration -------------------------------------------------------------------------------------------------

CONFIG = """
model = "digits.onnx"
target = "fast.toml"
calibration = "calibration.npz"
output = "out"
max-drop = 0.5
evaluation = "evaluation.npz"
option = ["assign_precision.weight_range=min-max"]

[passes.calibrate]
method = "min-max"
batch = 4
"""


@pytest.fixture
def project(folder: Path) -> Path:
    """A folder with a configuration, which is not the current one."""
    project = folder / "project"
    project.mkdir()
    (project / "fast.toml").write_text(FAST_TARGET)
    (project / "build.toml").write_text(CONFIG)
    for path in (demo.MODEL, demo.CALIBRATION, demo.EVALUATION):
        (project / path.name).write_bytes(path.read_bytes())
    return project


def test_a_configuration_file(project: Path, run: Run) -> None:
    done = run("compile", "--config", "project/build.toml")
    assert done.code == 0, done.err
    options = json.loads((project / "out/manifest.json").read_text())["options"]
    assert options["max_drop"] == 0.5
    assert "calibrate{method=min-max,batch=4}" in options["pipeline"]
    assert "assign_precision{weight_range=min-max}" in options["pipeline"]


def test_the_command_line_wins_over_the_file(project: Path, run: Run) -> None:
    done = run(
        "compile", "--config", "project/build.toml", "-o", "elsewhere", "--method", "entropy", "--option", "calibrate.batch=2",
        "--max-drop", "0.25",
    )  # fmt: skip
    assert done.code == 0, done.err
    options = json.loads(Path("elsewhere/manifest.json").read_text())["options"]
    assert options["max_drop"] == 0.25
    assert "calibrate{method=entropy,batch=2}" in options["pipeline"]
    assert not (project / "out").exists()


def test_the_file_has_the_keys_of_the_options(run: Run) -> None:
    from qcompiler.cli.settings import Settings
    from qcompiler.schema import SchemaReader

    said = run("compile", "--help").out
    reader = SchemaReader("x", qc.QCompilerError)
    for key in tomllib.loads(CONFIG):
        assert key in ("model", "passes") or f"--{key}" in said
    with pytest.raises(qc.QCompilerError, match="known") as refused:
        reader.read(Settings, {"zzzzzzzzzzz": 1})
    for key in str(refused.value).split("known: ")[1].rstrip(".").split(", "):
        assert key in ("model", "passes") or f"--{key}" in said


# -- looking at it -------------------------------------------------------------------------------------------------


def test_inspect_a_model(run: Run) -> None:
    done = run("inspect", demo.MODEL)
    assert done.code == 0
    for text in ("image", "[batch,1,8,8]", "logits", "Conv", "40,352"):
        assert text in done.out


def test_inspect_a_compilation(compiled_demo: Path, folder: Path, run: Run) -> None:
    done = run("inspect", compiled_demo, "--html", "page.html")
    assert done.code == 0, done.err
    for text in ("digits.onnx", "fast:sm89", "stem/conv", "97.75"):
        assert text in done.out
    assert (folder / "page.html").read_text().lower().startswith("<!doctype html>")


@pytest.mark.parametrize("name", ["stem/conv", "stem/conv_bn", "stem/conv/weight", "logits"])
def test_explain(compiled_demo: Path, run: Run, name: str) -> None:
    known = run("explain", compiled_demo, name)
    assert known.code == 0, known.err
    assert name in known.out


def test_explain_says_why_and_what_forbade_the_rest(compiled_demo: Path, run: Run) -> None:
    done = run("explain", compiled_demo, "head/pool")
    assert done.code == 0
    assert "float" in done.out
    assert "average_pool" in done.out


def test_evaluate(compiled_demo: Path, run: Run) -> None:
    done = run("evaluate", demo.MODEL, "-d", demo.EVALUATION)
    assert (done.code, done.err) == (0, "")
    assert "top1" in done.out
    assert "97.75 %" in done.out
    done = run("evaluate", compiled_demo, "-d", demo.CALIBRATION, "-r", demo.MODEL)
    assert done.code == 0
    assert "sqnr" in done.out
    done = run("evaluate", compiled_demo, "-d", demo.CALIBRATION, "-r", demo.MODEL, "--metric", "agreement")
    assert "agreement" in done.out


def test_diff_of_models(folder: Path, run: Run) -> None:
    model = onnx.load(demo.MODEL)
    weight = next(entry for entry in model.graph.initializer if entry.name == "stem/conv/weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.5), weight.name))
    onnx.save(model, "other.onnx")
    done = run("diff", demo.MODEL, "other.onnx", "--data", demo.EVALUATION)
    assert done.code == 0, done.err
    assert "* stem/conv/weight: elements differ" in done.out
    assert "top1" in done.out
    assert "no difference" in run("diff", demo.MODEL, demo.MODEL).out


def test_diff_of_compilations(compiled_demo: Path, compile_demo: CompileDemo, run: Run) -> None:
    assert compile_demo("-o", "other", "--method", "min-max").code == 0
    done = run("diff", compiled_demo, "other", "--data", demo.EVALUATION)
    assert done.code == 0, done.err
    for text in ("Output SQNR", "encodings", "QuantizeLinear", "largest difference"):
        assert text in done.out
    done = run("diff", compiled_demo, compiled_demo)
    assert done.code == 0
    assert "no difference" in done.out


def test_diff_of_a_model_and_its_compilation(compiled_demo: Path, run: Run) -> None:
    done = run("diff", demo.MODEL, compiled_demo)
    assert done.code == 0, done.err
    assert "more lines; --full shows them" in done.out
    full = run("diff", demo.MODEL, compiled_demo, "--full")
    assert len(full.out.splitlines()) > len(done.out.splitlines())


def test_targets(run: Run) -> None:
    from qcompiler.targets import descriptors

    done = run("targets")
    assert done.code == 0
    for name in descriptors():
        assert name in done.out
        assert run("targets", name).code == 0
    assert "sm90" in run("targets", "tensorrt:sm90").out
    done = run("targets", "--predicates")
    assert done.code == 0
    assert "constant" in done.out


def test_passes(run: Run) -> None:
    from qcompiler.passes import pass_names

    done = run("passes")
    assert done.code == 0
    for name in pass_names():
        assert name in done.out
        assert run("passes", name).code == 0
    said = run("passes", "calibrate").out
    for text in ("regions", "ranges", "method", "mse"):
        assert text in said


def test_bisect(folder: Path, run: Run) -> None:
    words = ["bisect", demo.MODEL, "-t", "fast.toml", "-c", demo.CALIBRATION]
    done = run(*words)
    assert done.code == 0, done.err
    assert "No pass" in done.out
    (folder / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "import numpy as np\n"
        "from qcompiler import Effect, Pass, PassResult\n"
        "@dataclass(frozen=True)\n"
        "class Flip(Pass):\n"
        '    """Flips the signs of weights."""\n'
        '    name = "flip"\n'
        "    effect = Effect.EXACT\n"
        "    def run(self, graph, context):\n"
        "        for node in graph.topological():\n"
        "            if node.op == 'Conv' and context.allow(f'flip {node.name}'):\n"
        "                weight = node.input(1)\n"
        "                graph.set_input(node, 1, graph.add_constant(weight.name + '.flipped', -weight.data))\n"
        "        return PassResult()\n"
    )
    done = run(*words, "--pass", "mine.py:Flip")
    assert done.code == 3, done.err
    assert "rewrite 1 of 9" in done.out
    assert "flip stem/conv" in done.out


# -- the process ---------------------------------------------------------------------------------------------------

SLEEPY = "import time\ndef metric(outputs, labels, reference):\n    open('ready', 'w').close()\n    time.sleep(60)\n    return 1.0\n"


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_leaves_nothing_behind(
    compile_demo: CompileDemo, folder: Path, sent: signal.Signals, code: int
) -> None:
    (folder / "sleepy.py").write_text(SLEEPY)
    assert compile_demo("-o", "out").code == 0
    before = contents(folder)
    process = subprocess.Popen(
        [*MAIN, "compile", demo.MODEL, "-t", "fast.toml", "-c", demo.CALIBRATION, "-e", demo.EVALUATION, "-o", "out",
         "--force", "--metric", "sleepy.py:metric"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (folder / "ready").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (folder / "ready").unlink()
    process.send_signal(sent)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert out == ""
    assert "Traceback" not in err
    assert contents(folder) == before


def test_the_installed_command(folder: Path) -> None:
    command = Path(sys.executable).with_name("qcompiler")
    if not command.exists():
        pytest.skip("the package is not installed")
    done = subprocess.run(
        [command, "compile", "nowhere.onnx", "-t", "fast.toml", "-o", "out"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: There is no model file at nowhere.onnx")
    assert done.stdout == ""


def test_output_into_a_pipe_that_closes(folder: Path) -> None:
    with subprocess.Popen(
        [*MAIN, "targets", "tensorrt"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
