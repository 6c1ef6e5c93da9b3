"""Data sources: every form that is accepted, every mistake that is explained, and that nothing is held in memory."""

from __future__ import annotations

import itertools
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.data import DataSource
from qcompiler.errors import DataError
from qcompiler.ir.graph import Graph

RNG = np.random.default_rng(3)
X = RNG.normal(size=(10, 3, 4)).astype(np.float32)
LABELS = np.arange(10) % 3


def model(**inputs: tuple[object, ...]) -> Graph:
    graph = Graph()
    for name, shape in (inputs or {"x": ("batch", 3, 4)}).items():
        graph.add_input(name, np.float32, shape)
    graph.set_outputs([graph.add_node("Identity", [graph.inputs[0]], ["y"]).output])
    return graph


def whole(source: DataSource, size: int = 4) -> dict[str, np.ndarray]:
    batches = list(source.batches(size))
    assert all(len(batch[name]) == size for batch in batches[:-1] for name in batch)
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def folder_of(tmp_path, **files):
    for name, content in files.items():
        stem, kind = name.rsplit("_", 1)
        path = tmp_path / f"{stem}.{kind}"
        if kind == "npz":
            np.savez(path, **content)
        else:
            np.save(path, content)
    return tmp_path


@pytest.fixture(params=["stored", "compressed", "mapping", "fortran", "big-endian", "npy", "npz folder", "npy folder", "sample folder"])  # fmt: skip
def source(request, tmp_path):
    path = tmp_path / "data.npz"
    match request.param:
        case "stored":
            np.savez(path, x=X, labels=LABELS)
        case "compressed":
            np.savez_compressed(path, x=X, labels=LABELS)
        case "mapping":
            return DataSource.open({"x": X, "labels": LABELS})
        case "fortran":
            np.savez_compressed(path, x=np.asfortranarray(X), labels=LABELS)
        case "big-endian":
            np.savez(path, x=X.astype(">f4"), labels=LABELS.astype(">i8"))
        case "npy":
            path = tmp_path / "x.npy"
            np.save(path, X)
        case "npz folder":
            parts = {f"{i}_npz": {"x": X[i : i + 5], "labels": LABELS[i : i + 5]} for i in (0, 5)}
            path = folder_of(tmp_path, **parts)
        case "npy folder":
            path = folder_of(tmp_path, x_npy=X, labels_npy=LABELS)
        case "sample folder":
            path = folder_of(tmp_path, **{f"image{i}_npy": X[i] for i in range(10)})
    return DataSource.open(path)


def test_every_form_gives_the_same_samples(source):
    source = source.validate(model())
    assert source.count == 10
    read = whole(source)
    assert np.array_equal(read["x"], X)
    assert read["x"].dtype == np.float32
    assert read["x"].dtype.isnative
    if source.labels is not None:
        assert np.array_equal(source.labels, LABELS)


def test_slices_and_shards(source):
    source = source.validate(model())
    assert np.array_equal(whole(source.slice(3, 8))["x"], X[3:8])
    assert np.array_equal(whole(source.slice(2, 9).slice(1, 4))["x"], X[3:6])
    shards = [source.shard(index, 3) for index in range(3)]
    assert [shard.count for shard in shards] == [3, 3, 4]
    assert np.array_equal(np.concatenate([whole(shard)["x"] for shard in shards]), X)
    if source.labels is not None:
        assert np.array_equal(shards[1].labels, LABELS[3:6])
    hashes = {source.sha256(), *(shard.sha256() for shard in shards)}
    assert len(hashes) == 4
    assert source.shard(1, 3).sha256() == shards[1].sha256()


@given(size=st.integers(1, 12), cuts=st.lists(st.integers(0, 10), max_size=3))
@settings(max_examples=30, deadline=None)
def test_batches_of_any_size_over_any_files(tmp_path_factory, size, cuts):
    folder = tmp_path_factory.mktemp("parts")
    bounds = [0, *sorted(cuts), 10]
    for index, (start, stop) in enumerate(itertools.pairwise(bounds)):
        np.savez(folder / f"{index}.npz", x=X[start:stop])
    assert np.array_equal(whole(DataSource.open(folder).validate(model()), size)["x"], X)


def test_packed_form(tmp_path):
    pixels = RNG.integers(0, 256, (10, 3, 4), dtype=np.uint8)
    mean, scale = np.float32(127.5), np.linspace(0.01, 0.03, 3, dtype=np.float32).reshape(3, 1)
    np.savez_compressed(tmp_path / "p.npz", x_uint8=pixels, mean=mean, scale=scale, labels=LABELS)
    source = DataSource.open(tmp_path / "p.npz").validate(model())
    assert source.names == ("x",)
    assert np.array_equal(whole(source)["x"], (pixels.astype(np.float32) - mean) * scale)


def test_several_inputs_and_symbolic_sizes():
    graph = model(a=("n", "t"), b=("n", "t", 2))
    good = {"a": np.zeros((3, 7), np.float32), "b": np.zeros((3, 7, 2), np.float32)}
    assert DataSource.open(good).validate(graph).count == 3
    with pytest.raises(DataError, match="'t' is 7 in 'a' and 6 in 'b'"):
        DataSource.open(good | {"b": np.zeros((3, 6, 2), np.float32)}).validate(graph)


def test_files_of_different_sizes_are_batched_apart(tmp_path):
    folder_of(tmp_path, a_npz={"x": np.ones((2, 3), np.float32)}, b_npz={"x": np.ones((2, 5), np.float32)})
    source = DataSource.open(tmp_path).validate(model(x=("n", "t")))
    assert [batch["x"].shape for batch in source.batches(8)] == [(2, 3), (2, 5)]


def test_superfluous_axis_of_stacked_single_sample_batches():
    source = DataSource.open({"x": X[:, None]}).validate(model(x=(1, 3, 4)))
    assert np.array_equal(whole(source)["x"], X)


@pytest.mark.parametrize(
    ("given_type", "model_type"), [("f8", "f4"), ("f2", "f4"), ("i4", "i8"), ("u1", "u2")]
)
def test_types_that_are_cast(given_type, model_type):
    graph = Graph()
    graph.add_input("x", np.dtype(model_type), ("n",))
    batch = next(DataSource.open({"x": np.arange(3, dtype=given_type)}).validate(graph).batches(8))
    assert batch["x"].dtype == model_type


F = np.float32


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"input": X}, "'x' has no array in the given arrays, which holds 'input'"),
        ({"X": X, "y": X}, "has no array"),
        ({"x": X, "extra": X}, "'extra', which is no input"),
        ({"x": X.astype(np.uint8)}, "preprocessing.*x_uint8"),
        ({"x": X.astype(np.int64)}, "float32 in the model but int64"),
        ({"x": X[:, :, :3]}, r"\(10, 3, 3\).*\(samples, 3, 4\)"),
        ({"x": X[0]}, r"\(3, 4\).*\(samples, 3, 4\)"),
        ({"x": X.transpose(0, 2, 1)}, "model's own shape"),
        ({"x": X[:0]}, "no samples"),
        ({"x": np.float32(3)}, "shape"),
        ({"x": X, "labels": LABELS[:9]}, "9 labels for 10 samples"),
        ({"x": X, "labels": np.int64(1)}, "single number"),
        ({}, "no array"),
    ],
)
def test_what_does_not_fit_the_model(arrays, words):
    with pytest.raises(DataError, match=words) as caught:
        DataSource.open(arrays).validate(model())
    assert "\n" not in str(caught.value)


def test_suggestion_for_a_misspelt_input():
    with pytest.raises(DataError, match="did you mean 'pixelz'"):
        DataSource.open({"pixelz": X}).validate(model(pixels=("n", 3, 4)))


def test_inputs_of_different_sample_counts():
    arrays = {"a": np.zeros((3, 1), F), "b": np.zeros((4, 1), F)}
    with pytest.raises(DataError, match="'a' 3, 'b' 4"):
        DataSource.open(arrays).validate(model(a=("n", 1), b=("n", 1)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_found_as_batches_pass(bad):
    spoiled = X.copy()
    spoiled[7, 1, 2] = bad
    source = DataSource.open({"x": spoiled}).validate(model())
    with pytest.raises(DataError, match=f"Sample 7 of the input 'x'.*{bad}"):
        whole(source, 3)


def test_packed_scale_must_fit():
    arrays = {"x_uint8": X.astype(np.uint8), "mean": np.zeros(7, F), "scale": F(1)}
    with pytest.raises(DataError, match=r"'mean'.*broadcast"):
        DataSource.open(arrays)
    with pytest.raises(DataError, match=r"'scale'.*finite"):
        DataSource.open(arrays | {"mean": F(0), "scale": F(np.nan)})


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "d.npz"
    with pytest.raises(DataError, match="no data file"):
        DataSource.open(path)
    path.write_bytes(b"hello")
    with pytest.raises(DataError, match="not a zip archive"):
        DataSource.open(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="not a zip archive"):
        DataSource.open(path)
    np.savez_compressed(path, x=X)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="damaged or cut off"):
        DataSource.open(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no array")
    with pytest.raises(DataError, match="no numpy array"):
        DataSource.open(path)
    np.savez(path, x=np.array([[1], [2, 3]], dtype=object))
    with pytest.raises(DataError, match="Python objects"):
        DataSource.open(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no \.npz or \.npy"):
        DataSource.open(tmp_path / "empty")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_in_the_middle_is_found(tmp_path, save):
    path = tmp_path / "d.npz"
    save(path, x=np.tile(RNG.normal(size=(100, 3, 4)).astype(np.float32), (50, 1, 1)))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 10] = bytes(10)
    path.write_bytes(raw)
    with pytest.raises(DataError, match="damaged"):
        whole(DataSource.open(path).validate(model()))


def test_truncated_npy(tmp_path):
    np.save(tmp_path / "x.npy", X)
    raw = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(raw[:-8])
    with pytest.raises(DataError, match="cut off"):
        DataSource.open(tmp_path / "x.npy")


def test_mixed_folder_and_odd_files(tmp_path):
    folder_of(tmp_path, a_npz={"x": X}, b_npz={"z": X})
    with pytest.raises(DataError, match="same arrays"):
        DataSource.open(tmp_path)
    np.save(tmp_path / "c.npy", X)
    with pytest.raises(DataError, match="both"):
        DataSource.open(tmp_path)


def test_memory_does_not_grow_with_the_number_of_samples(tmp_path):
    peaks = []
    for count in (64, 1024):
        np.savez_compressed(tmp_path / "d.npz", x=np.zeros((count, 64, 64), np.float32))
        source = DataSource.open(tmp_path / "d.npz").validate(model(x=("n", 64, 64)))
        tracemalloc.start()
        for _ in source.batches(16):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.5


def test_hash_is_of_the_content(tmp_path):
    np.savez(tmp_path / "a.npz", x=X)
    first = DataSource.open(tmp_path / "a.npz").sha256()
    np.savez(tmp_path / "a.npz", x=X + 1)
    assert DataSource.open(tmp_path / "a.npz").sha256() != first
    assert DataSource.open({"x": X}).sha256() == DataSource.open({"x": X.copy()}).sha256()
    assert DataSource.open({"x": X}).sha256() != DataSource.open({"x": X * 2}).sha256()
