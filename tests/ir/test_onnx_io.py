"""ONNX in and out: everything survives a round trip, and every broken file gets a sentence."""

from __future__ import annotations

import os
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from bodies import if_graph, nested_graph
from hypothesis import given, settings
from onnx import TensorProto, helper, numpy_helper
from strategies import feeds, networks

from qcompiler.errors import ModelError
from qcompiler.ir.graph import OPSET, Graph
from qcompiler.ir.onnx_export import save, to_onnx
from qcompiler.ir.onnx_import import import_model, load
from qcompiler.runtime import Session

FLOAT = TensorProto.FLOAT


def info(name: str, *shape: int | str, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def tensor(name: str, array: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(array, name)


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    initializers: list[onnx.TensorProto] | None = None,
    opset: int = OPSET,
    **domains: int,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers or [])
    imports = [
        helper.make_opsetid("", opset),
        *(helper.make_opsetid(name, version) for name, version in domains.items()),
    ]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def relu_model(opset: int = OPSET) -> onnx.ModelProto:
    return model_of(
        [helper.make_node("Relu", ["x"], ["y"], name="relu")], [info("x", 2)], [info("y", 2)], opset=opset
    )


def run_proto(model: onnx.ModelProto, **feeds: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    results: list[np.ndarray] = session.run(None, feeds)
    return results


def again(graph: Graph, path: Path) -> Graph:
    save(graph, path)
    return load(path)


# -- what survives -------------------------------------------------------------------------------------------


def annotated_model() -> onnx.ModelProto:
    """Doc strings and metadata wherever the format has a place for them; Clip-6, so that it needs conversion from 10."""
    model = model_of(
        [
            helper.make_node("Mul", ["x", "small"], ["m"], name="mul", doc_string="node doc"),
            helper.make_node("Add", ["m", "big"], ["y"], name="add"),
        ],
        [info("x", "batch", 400)],
        [info("y", "batch", 400)],
        [tensor("small", np.full(1, 2, np.float32)), tensor("big", np.ones(400, np.float32))],
    )
    model.graph.value_info.append(info("m", "batch", 400))
    model.doc_string, model.graph.doc_string = "model doc", "graph doc"
    model.producer_name, model.producer_version = "exporter", "1.2"
    model.domain, model.model_version = "org.example", 7
    carriers = {
        "model": model, "graph": model.graph, "mul": model.graph.node[0], "add": model.graph.node[1],
        "x": model.graph.input[0], "y": model.graph.output[0], "m": model.graph.value_info[0],
        "small": model.graph.initializer[0], "big": model.graph.initializer[1],
    }  # fmt: skip
    for name, carrier in carriers.items():
        carrier.metadata_props.add(key="of", value=name)
        if name not in ("model", "graph", "mul"):
            carrier.doc_string = f"{name} doc"
    return model


@pytest.mark.parametrize("opset", [21, 12])
def test_docs_and_metadata_survive(tmp_path: Path, opset: int) -> None:
    source = annotated_model()
    if opset != OPSET:  # an operator that has to be converted makes everything pass through the converter
        source.opset_import[0].version = opset
        axes = helper.make_node("Unsqueeze", ["y"], ["z"], name="unsqueeze", axes=[0])
        source.graph.node.append(axes)
        source.graph.output.append(info("z", 1, "batch", 400))
    graph = again(import_model(source), tmp_path / "m.onnx")
    assert (graph.doc, graph.graph_doc) == ("model doc", "graph doc")
    assert graph.producer == ("exporter", "1.2")
    assert (graph.model_domain, graph.model_version) == ("org.example", 7)
    assert (graph.metadata, graph.graph_metadata) == ({"of": "model"}, {"of": "graph"})
    assert (graph.node("mul").doc, graph.node("add").doc) == ("node doc", "add doc")
    for name in ("mul", "add"):
        assert graph.node(name).metadata == {"of": name}
    for name in ("x", "y", "m", "small", "big"):
        assert (graph.value(name).doc, graph.value(name).metadata) == (f"{name} doc", {"of": name})
    assert graph.value("m").shape == ("batch", 400)


@settings(max_examples=25, deadline=None)
@given(networks())
def test_random_networks_round_trip(graph: Graph) -> None:
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    twin = import_model(model)
    assert str(twin) == str(graph)
    assert to_onnx(twin).SerializeToString(deterministic=True) == to_onnx(graph).SerializeToString(
        deterministic=True
    )
    data = feeds(graph)
    ours, theirs = Session(graph, optimize=False).run(data), Session(twin, optimize=False).run(data)
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name])


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    graph = import_model(annotated_model())
    save(graph, tmp_path / "a.onnx")
    save(graph.copy(), tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_unknown_operators_and_domains_are_carried(tmp_path: Path) -> None:
    model = model_of(
        [
            helper.make_node(
                "Warp", ["x"], ["w"], name="warp", domain="org.example", strength=2.5, tags=["a", "b"]
            ),
            helper.make_node("NotAnOperator", ["w", "", "w"], ["y", ""], name="odd"),
        ],
        [info("x", 2)],
        [info("y", 2)],
        **{"org.example": 3},
    )
    graph = again(import_model(model), tmp_path / "m.onnx")
    warp, odd = graph.node("warp"), graph.node("odd")
    assert (warp.domain, warp.op) == ("org.example", "Warp")
    assert warp.attributes == {"strength": 2.5, "tags": [b"a", b"b"]}
    assert graph.other_opsets == {"org.example": 3}
    assert [value.name if value else None for value in odd.inputs] == ["w", None, "w"]
    assert [value.name if value else None for value in odd.outputs] == ["y", None]


@pytest.mark.parametrize("opset", [11, 17, 23])
def test_unknown_standard_operators_do_not_stop_the_conversion(opset: int) -> None:
    model = relu_model(opset)
    model.graph.node.append(helper.make_node("NotAnOperator", ["y"], ["z"], name="odd"))
    model.graph.node.append(helper.make_node("Warp", ["z"], ["v"], name="warp", domain="org.example"))
    model.graph.output.append(info("v", 2))
    model.opset_import.append(helper.make_opsetid("org.example", 1))
    graph = import_model(model)
    assert graph.opset == OPSET
    assert [node.op for node in graph.nodes] == ["Relu", "NotAnOperator", "Warp"]


def test_attributes_of_every_kind(tmp_path: Path) -> None:
    sparse = helper.make_sparse_tensor(
        tensor("v", np.ones(1, np.float32)), tensor("i", np.array([2], np.int64)), [4]
    )
    attributes = {
        "int": 3, "float": 0.1, "string": "text", "ints": [1, 2], "floats": [1.0, 2.5], "strings": ["a", "b"],
        "tensor": tensor("t", np.arange(3, dtype=np.int16)),
        "words": helper.make_tensor("s", TensorProto.STRING, [2], ["x", "y"]),
        "type": helper.make_tensor_type_proto(FLOAT, [2]), "sparse": sparse,
    }  # fmt: skip
    node = helper.make_node("Odd", ["x"], ["y"], name="odd", domain="d", **attributes)
    node.attribute.append(onnx.AttributeProto(name="no_floats", type=onnx.AttributeProto.FLOATS))
    node.attribute.append(onnx.AttributeProto(name="no_ints", type=onnx.AttributeProto.INTS))
    source = model_of([node], [info("x", 2)], [info("y", 2)], d=1)
    graph = again(import_model(source), tmp_path / "m.onnx")
    before = {entry.name: entry for entry in node.attribute}
    before["tensor"].t.ClearField("name")
    after = {entry.name: entry for entry in to_onnx(graph).graph.node[0].attribute}
    assert after.keys() == before.keys()
    for name, entry in before.items():
        assert after[name] == entry, name


def test_optional_inputs_left_out_stay_out() -> None:
    model = model_of(
        [helper.make_node("Clip", ["x", "", "top"], ["c"]), helper.make_node("Clip", ["c", "", ""], ["y"])],
        [info("x", 2)],
        [info("y", 2)],
        [tensor("top", np.array(1, np.float32))],
    )
    graph = import_model(model)
    first, second = graph.nodes
    assert [value.name if value else None for value in first.inputs] == ["x", None, "top"]
    assert len(second.inputs) == 1
    np.testing.assert_array_equal(Session(graph).run({"x": np.float32([-2, 2])})["y"], [-2, 1])


def test_nodes_without_names_and_with_equal_names() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        *(helper.make_node("Relu", ["a"], [n], name="r") for n in "bc"),
    ]
    graph = import_model(model_of(nodes, [info("x", 2)], [info("b", 2), info("c", 2)]))
    assert [node.name for node in graph.nodes] == ["Relu:a", "r", "r_1"]


def test_initializers_that_are_inputs_are_constants() -> None:
    model = model_of(
        [helper.make_node("Add", ["x", "w"], ["y"])], [info("x", 2), info("w", 2)], [info("y", 2)],
        [tensor("w", np.ones(2, np.float32))],
    )  # fmt: skip
    graph = import_model(model)
    assert [value.name for value in graph.inputs] == ["x"]
    assert graph.value("w").is_constant


def test_sparse_initializers_become_dense() -> None:
    values, flat = np.float32([5, 7]), np.int64([1, 3])
    model = relu_model()
    model.graph.node[0].input[0] = "s"
    model.graph.output[0].type.tensor_type.shape.ClearField("dim")
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(tensor("s", values), tensor("i", flat), [2, 2])
    )
    np.testing.assert_array_equal(import_model(model).value("s").data, [[0, 5], [0, 7]])
    pairs = np.int64([[0, 1], [1, 0]])
    model.graph.sparse_initializer[0].CopyFrom(
        helper.make_sparse_tensor(tensor("s", values), tensor("i", pairs), [2, 2])
    )
    np.testing.assert_array_equal(import_model(model).value("s").data, [[0, 5], [7, 0]])


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize(
    "dtype",
    ["float32", "float64", "float16", "int8", "uint16", "int64", "bool", "complex64",
     "bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4", "float4_e2m1fn", "int2", "uint2"],
)  # fmt: skip
def test_constants_of_every_type(tmp_path: Path, dtype: str, external: bool) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    array = (np.arange(303) % 2).astype(kind).reshape(3, 101)
    graph = Graph()
    x = graph.add_input("x", kind, (3, 101))
    node = graph.add_node(
        "Odd", [x, graph.add_constant("c", array), graph.add_constant("empty", array[:0])], domain="d"
    )
    graph.add_constant("scalar", array[1, 0])
    graph.set_outputs([node.output])
    files = save(graph, tmp_path / "m.onnx", external=external)
    assert [file.name for file in files] == ["m.onnx", "m.onnx.data"][: 1 + external]
    twin = load(files[0])
    for name, expected in {"c": array, "empty": array[:0], "scalar": array[1, 0]}.items():
        data = twin.value(name).data
        assert data is not None
        assert (data.dtype, data.shape) == (kind, expected.shape)
        assert data.tobytes() == expected.tobytes()


def test_string_constants(tmp_path: Path) -> None:
    graph = Graph()
    words = np.array(["mañana", "b"], object)
    node = graph.add_node("StringNormalizer", [graph.add_constant("c", words)], ["y"])
    graph.set_outputs([node.output])
    for external in (False, True):
        save(graph, tmp_path / "m.onnx", external=external)
        data = load(tmp_path / "m.onnx").value("c").data
        assert data is not None
        assert [word.decode() if isinstance(word, bytes) else word for word in data.tolist()] == [
            "mañana",
            "b",
        ]


def test_values_that_are_no_tensors(tmp_path: Path) -> None:
    sequence = helper.make_value_info(
        "s", helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, [2]))
    )
    model = model_of(
        [
            helper.make_node("SequenceConstruct", ["x", "x"], ["s"]),
            helper.make_node("ConcatFromSequence", ["s"], ["y"], axis=0),
        ],
        [info("x", 2)],
        [info("y", 4)],
    )
    model.graph.value_info.append(sequence)
    graph = again(import_model(model), tmp_path / "m.onnx")
    assert graph.value("s").other_type is not None
    assert graph.value("s").dtype is None
    np.testing.assert_array_equal(Session(graph).run({"x": np.float32([1, 2])})["y"], [1, 2, 1, 2])


# -- control flow and functions ------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", [True, False])
def test_bodies_with_captures_round_trip(tmp_path: Path, flag: bool) -> None:
    graph, _ = if_graph()
    twin = again(graph, tmp_path / "m.onnx")
    assert [value.name for value in twin.node("If:y").captures] == ["doubled", "w"]
    data = {"x": np.float32([-1, 2, -3, 4]), "flag": np.array(flag)}
    for name, array in Session(graph).run(data).items():
        np.testing.assert_array_equal(array, Session(twin).run(data)[name])


def test_nested_bodies_round_trip(tmp_path: Path) -> None:
    twin = again(nested_graph()[0], tmp_path / "m.onnx")
    np.testing.assert_array_equal(Session(twin).run({"x": np.float32([1, 2, 3, 4])})["y"], [2, 4, 6, 8])


def test_a_body_that_reads_nothing_is_refused() -> None:
    model = to_onnx(if_graph()[0])
    model.graph.node[1].attribute[0].g.node[0].input[0] = "nowhere"
    with pytest.raises(ModelError, match=r"'nowhere'.*dangles"):
        import_model(model)


def test_external_data_inside_bodies_and_attributes(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    model = to_onnx(if_graph()[0])
    inner = TensorProto(name="inner", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    inner.external_data.add(key="location", value="w.bin")
    for attribute in model.graph.node[1].attribute:
        if attribute.name == "then_branch":
            attribute.g.initializer.append(inner)
            attribute.g.node[1].input[1] = "inner"
    constant = helper.make_node("Constant", [], ["k"])
    constant.attribute.append(onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR, t=inner))
    model.graph.node.append(constant)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    graph = load(tmp_path / "m.onnx")
    np.testing.assert_array_equal(graph.value("k").producer.attributes["value"], np.arange(4))  # type: ignore[union-attr]
    (tmp_path / "w.bin").unlink()
    results = Session(graph).run({"x": np.ones(4, np.float32), "flag": np.array(True)})
    np.testing.assert_array_equal(results["y"], [2, 3, 4, 5])


def function_model(opset: int = OPSET, function_opset: int = OPSET) -> onnx.ModelProto:
    body = [helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Neg", ["r"], ["b"])]
    function = helper.make_function(
        "local", "NegRelu", ["a"], ["b"], body, [helper.make_opsetid("", function_opset)]
    )
    node = helper.make_node("NegRelu", ["x"], ["y"], name="call", domain="local")
    model = model_of([node], [info("x", 2)], [info("y", 2)], opset=opset, local=1)
    model.functions.append(function)
    return model


def test_local_functions_are_inlined() -> None:
    graph = import_model(function_model())
    assert [node.op for node in graph.nodes] == ["Relu", "Neg"]
    np.testing.assert_array_equal(Session(graph).run({"x": np.float32([-1, 2])})["y"], [0, -2])


def test_a_function_of_another_opset_is_not_misread() -> None:
    with pytest.raises(ModelError, match=r"'NegRelu' uses opset 13.*export"):
        import_model(function_model(OPSET, 13))


def test_composites_export_as_functions_and_are_written_out_in_files(tmp_path: Path) -> None:
    graph = Graph()
    x = graph.add_input("x", np.float32, (2, 4))
    swish = graph.add_node("Swish", [x], [graph.add_value("s", np.float32, (2, 4))], domain="qcompiler")
    scale = graph.add_constant("scale", np.ones(4, np.float32))
    norm = graph.add_node(
        "RMSNormalization", [swish.output, scale], [graph.add_value("y", np.float32, (2, 4))], {"epsilon": 1e-5},
        domain="qcompiler",
    )  # fmt: skip
    graph.set_outputs([norm.output])
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    assert {function.name for function in model.functions} == {"Swish", "RMSNormalization"}
    save(graph, tmp_path / "m.onnx")
    written = onnx.load(tmp_path / "m.onnx")
    assert not written.functions
    assert {node.domain for node in written.graph.node} == {""}
    data = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    expected = data / (1 + np.exp(-data))
    expected /= np.sqrt((expected**2).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(run_proto(written, x=data)[0], expected, rtol=1e-5, atol=1e-6)


# -- the opset door ------------------------------------------------------------------------------------------


def door_model(opset: int) -> onnx.ModelProto:
    """Softmax, Squeeze and Clip in the form of the opset: the ones whose meaning moved."""
    initializers = []
    if opset < 11:
        clip = helper.make_node("Clip", ["x"], ["c"], name="clip", min=-1.0, max=1.0)
    else:
        clip = helper.make_node("Clip", ["x", "low", "high"], ["c"], name="clip")
        initializers += [tensor("low", np.float32(-1)), tensor("high", np.float32(1))]
    if opset < 13:
        unsqueeze = helper.make_node("Unsqueeze", ["c"], ["u"], name="unsqueeze", axes=[0])
    else:
        unsqueeze = helper.make_node("Unsqueeze", ["c", "axes"], ["u"], name="unsqueeze")
        initializers.append(tensor("axes", np.int64([0])))
    softmax = helper.make_node("Softmax", ["u"], ["y"], name="softmax", axis=2)
    model = model_of([clip, unsqueeze, softmax], [info("x", 3, 4)], [info("y", 1, 3, 4)], initializers, opset)
    model.ir_version = 8
    return model


NEWEST = onnx.defs.onnx_opset_version()


@pytest.mark.parametrize("opset", [opset for opset in range(7, 27) if opset <= NEWEST])
def test_the_opset_door(opset: int) -> None:
    graph = import_model(door_model(opset))
    assert graph.opset == OPSET
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32) * 2
    clipped = np.exp(np.clip(x, -1, 1))
    np.testing.assert_allclose(
        run_proto(model, x=x)[0][0], clipped / clipped.sum(-1, keepdims=True), rtol=1e-5
    )
    assert {"clip", "softmax"} <= {name for node in graph.nodes for name in node.origin}


def body_model(opset: int) -> onnx.ModelProto:
    """An If whose branches hold operators that changed since, a big weight, and a nested If."""
    model = to_onnx(if_graph()[0])
    model.opset_import[0].version = opset
    model.ir_version = 8
    text = (
        "b () => (float[4] r) { u = Unsqueeze <axes = [0]> (doubled) s = Squeeze <axes = [0]> (u) "
        "r = If (flag) <then_branch = i () => (float[4] a) { v = Unsqueeze <axes = [0]> (s) a = Squeeze <axes = [0]> (v) },"
        " else_branch = j () => (float[4] c) { c = Identity(s) }> }"
    )
    for attribute in model.graph.node[1].attribute:
        attribute.g.CopyFrom(onnx.parser.parse_graph(text))
    return model


@pytest.mark.parametrize("opset", [9, 11, 12])
@pytest.mark.parametrize("flag", [True, False])
def test_bodies_go_through_the_door(opset: int, flag: bool) -> None:
    graph = import_model(body_model(opset))
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    x = np.float32([1, -2, 3, 4])
    y, _ = run_proto(model, x=x, flag=np.array(flag))
    np.testing.assert_array_equal(y, 2 * x)


def test_weights_go_through_the_door_untouched(tmp_path: Path) -> None:
    model = door_model(9)
    big = np.random.default_rng(0).standard_normal((4, 1000)).astype(np.float32)
    model.graph.node.append(helper.make_node("MatMul", ["y", "big"], ["z"]))
    model.graph.initializer.append(tensor("big", big))
    model.graph.output.append(info("z", 1, 3, 1000))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=1000)
    graph = load(tmp_path / "m.onnx")
    assert isinstance(graph.value("big").data, np.memmap)
    np.testing.assert_array_equal(graph.value("big").data, big)
    assert [value.name for value in graph.inputs] == ["x"]


@pytest.mark.parametrize(("opset", "kept"), [(24, True), (21, False)])
def test_operators_of_newer_opsets(opset: int, kept: bool) -> None:
    if opset > NEWEST:
        pytest.skip("the installed onnx does not know it")
    op = "Swish" if kept else "Relu"
    model = model_of(
        [helper.make_node(op, ["x"], ["y"], name="n")], [info("x", 2)], [info("y", 2)], opset=opset
    )
    graph = import_model(model)
    assert graph.opset == OPSET
    assert graph.node("n").domain == ("qcompiler" if kept else "")


@pytest.mark.parametrize("opset", [0, 999])
def test_unknown_opsets_are_refused(opset: int) -> None:
    with pytest.raises(ModelError, match="opset"):
        import_model(relu_model(opset))


def test_a_model_without_an_opset_is_refused() -> None:
    model = relu_model()
    del model.opset_import[:]
    with pytest.raises(ModelError, match="opset_import"):
        import_model(model)


# -- external data -------------------------------------------------------------------------------------------


@pytest.fixture
def external(tmp_path: Path) -> Path:
    graph = Graph()
    x = graph.add_input("x", np.float32, (1, 300))
    weight = graph.add_constant("w", np.arange(300 * 7, dtype=np.float32).reshape(300, 7))
    shape = graph.add_constant("shape", np.int64([7]))
    node = graph.add_node("Reshape", [graph.add_node("MatMul", [x, weight]).output, shape], [
        graph.add_value("y", np.float32, (7,))
    ])  # fmt: skip
    graph.set_outputs([node.output])
    save(graph, tmp_path / "m.onnx", external=True)
    return tmp_path


def test_external_weights_are_mapped_not_read(external: Path) -> None:
    graph = load(external / "m.onnx")
    weight = graph.value("w").data
    assert isinstance(weight, np.memmap)
    assert not weight.flags.writeable
    assert not isinstance(graph.value("shape").data, np.memmap)
    save(graph, external / "again.onnx", external=True)
    assert (external / "again.onnx.data").read_bytes() == (external / "m.onnx.data").read_bytes()
    onnx.checker.check_model(str(external / "again.onnx"), full_check=True)
    assert Session(load(external / "again.onnx")).run({"x": np.ones((1, 300), np.float32)})["y"].shape == (7,)


def test_missing_external_data(external: Path) -> None:
    (external / "m.onnx.data").unlink()
    with pytest.raises(ModelError, match=r"'w'.*m\.onnx\.data, which does not exist"):
        load(external / "m.onnx")


def test_truncated_external_data(external: Path) -> None:
    os.truncate(external / "m.onnx.data", 100)
    with pytest.raises(ModelError, match=r"8400 bytes of the tensor 'w'.*ends at 100: it is cut off"):
        load(external / "m.onnx")


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret"])
def test_external_data_outside_the_folder_are_refused(external: Path, location: str) -> None:
    model = onnx.load(external / "m.onnx", load_external_data=False)
    for entry in model.graph.initializer:
        for item in entry.external_data:
            if item.key == "location":
                item.value = location
    (external / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="outside its own folder"):
        load(external / "m.onnx")


def test_external_data_behind_a_link(external: Path) -> None:
    cache = external / "snapshot"
    cache.mkdir()
    for name in ("m.onnx", "m.onnx.data"):
        (cache / name).symlink_to(external / name)
    assert load(cache / "m.onnx").value("w").shape == (300, 7)


# -- what is refused -----------------------------------------------------------------------------------------


def test_missing_empty_cut_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(ModelError, match="no model file at"):
        load(path)
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="0 bytes"):
        load(path)
    whole = to_onnx(if_graph()[0]).SerializeToString()
    for size in (5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=r"cut off|no ONNX model"):
            load(path)
    for junk in (b"PK\x03\x04" + bytes(60), b"not a model at all\n", b"\x00" * 40, bytes(range(256))):
        path.write_bytes(junk)
        with pytest.raises(ModelError):
            load(path)


@pytest.mark.parametrize("place", ["inputs", "initializers", "nodes", "input and node"])
def test_names_defined_twice_are_refused(place: str) -> None:
    model = relu_model()
    if place == "inputs":
        model.graph.input.append(info("x", 2))
    elif place == "initializers":
        model.graph.initializer.extend([tensor("w", np.ones(1, np.float32))] * 2)
    elif place == "nodes":
        model.graph.node.append(helper.make_node("Neg", ["x"], ["y"], name="second"))
    else:
        model.graph.node.append(helper.make_node("Neg", ["y"], ["x"], name="second"))
    with pytest.raises(ModelError, match=r"named '\w'|twice, the second time in node 'second'"):
        import_model(model)


def test_a_dangling_edge_is_named() -> None:
    model = relu_model()
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ModelError, match=r"node 'relu' \(Relu\) reads 'nowhere'"):
        import_model(model)
    model = relu_model()
    model.graph.output.append(info("nothing", 2))
    with pytest.raises(ModelError, match="returns nothing"):
        import_model(model)


def test_a_cycle_is_refused() -> None:
    model = relu_model()
    del model.graph.node[:]
    model.graph.node.extend(
        [
            helper.make_node("Add", ["x", "b"], ["a"], name="first"),
            helper.make_node("Relu", ["a"], ["b"], name="second"),
        ]
    )
    model.graph.output[0].name = "b"
    with pytest.raises(ModelError, match="cycle through the nodes first, second;"):
        import_model(model)


def test_nodes_out_of_order_are_sorted() -> None:
    nodes = [
        helper.make_node("Neg", ["a"], ["y"], name="last"),
        helper.make_node("Relu", ["x"], ["a"], name="first"),
    ]
    graph = import_model(model_of(nodes, [info("x", 2)], [info("y", 2)]))
    assert [node.name for node in graph.nodes] == ["first", "last"]


@pytest.mark.parametrize("break_it", ["short", "long", "type"])
def test_tensors_that_do_not_fit_are_refused(break_it: str) -> None:
    model = relu_model()
    entry = tensor("w", np.ones(4, np.float32))
    if break_it == "type":
        entry.data_type = 99
    else:
        entry.raw_data = entry.raw_data[:8] if break_it == "short" else entry.raw_data * 2
    model.graph.initializer.append(entry)
    with pytest.raises(ModelError, match="'w'"):
        import_model(model)


def test_a_model_without_nodes() -> None:
    model = relu_model()
    del model.graph.node[:]
    model.graph.output[0].name = "x"
    graph = import_model(model)
    assert graph.node_count == 0
    assert graph.outputs == tuple(graph.inputs)
    del model.opset_import[:]
    with pytest.raises(ModelError, match="no nodes"):
        import_model(model)
