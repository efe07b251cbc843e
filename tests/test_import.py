"""Import of vectors that somebody already has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from conftest import MODEL, Run
from safetensors.numpy import save_file

from imgsearch import (
    InputError,
    ModelMismatchError,
    SearchEngine,
    import_vectors,
    update_index,
    verify,
)
from imgsearch.index import open_index, read_manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """Return a folder with 50 vectors, two of them without direction, and their table."""
    vectors = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
    vectors[7] = 0
    vectors[9, 3] = np.nan
    np.save(tmp_path / "v.npy", vectors)
    save_file({"embeddings": vectors}, tmp_path / "v.safetensors")
    rows = "".join(f"{99 - i}.jpg,{'ab'[i % 2]},g{i // 5}\n" for i in range(50))
    (tmp_path / "items.csv").write_text("path,label,group\n" + rows)
    return tmp_path


@pytest.mark.parametrize("name", ["v.npy", "v.safetensors"])
def test_rows_keep_their_order(given: Path, name: str) -> None:
    """Row i of the vectors belongs to row i of the table; what has no direction is skipped."""
    summary = import_vectors(given / name, given / "items.csv", given / "index")
    index = open_index(given / "index")
    vectors = np.delete(np.load(given / "v.npy").astype(np.float64), [7, 9], axis=0)
    expected = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    assert np.array_equal(index.vectors.rows, expected)
    assert index.items.column("path") == [f"{99 - i}.jpg" for i in range(50) if i not in {7, 9}]
    assert index.items.item(0).group == "g0"
    assert index.items.item(0).sha256 is None
    assert [skip.path for skip in summary.skipped] == ["92.jpg", "90.jpg"]
    assert summary.model == "external"
    assert verify(given / "index") == []


def test_external_index_is_asked_by_row_and_vector(given: Path) -> None:
    """Without a model an index answers rows and vectors, and refuses pictures (exit 5)."""
    import_vectors(given / "v.npy", given / "items.csv", given / "index")
    engine = SearchEngine.open(given / "index")
    assert len(engine.by_row(0).matches) == 5
    assert engine.by_vector(np.load(given / "v.npy")[0]).matches[0].row == 0
    with pytest.raises(ModelMismatchError, match="by row or by vector"):
        engine.by_image(b"whatever it is")


def test_import_with_its_model_is_asked_by_image(
    rooms: Path, small_photos: Path, tmp_path: Path
) -> None:
    """Vectors with the model that made them answer pictures like the index they came from."""
    index = open_index(rooms)
    np.save(tmp_path / "v.npy", np.array(index.vectors.rows))
    paths = index.items.column("path")
    columns = [paths, index.items.column("label"), index.items.column("group")]
    lines = [",".join(cell or "" for cell in row) + "\n" for row in zip(*columns, strict=True)]
    (tmp_path / "items.csv").write_text("path,label,group\n" + "".join(lines))
    import_vectors(
        *(tmp_path / "v.npy", tmp_path / "items.csv", tmp_path / "index"),
        model=MODEL,
        images=small_photos,
    )
    photo = small_photos / paths[2]
    with SearchEngine.open(rooms) as one, SearchEngine.open(tmp_path / "index") as two:
        assert one.by_image(photo).matches == two.by_image(photo).matches
        assert two.by_row(2).file == str(photo)


def test_what_does_not_fit_is_refused(given: Path) -> None:
    """Wrong types, shapes, numbers of rows and models are told in a sentence; nothing is made."""
    good = np.load(given / "v.npy")
    np.save(given / "double.npy", good.astype(np.float64))
    np.save(given / "flat.npy", good[0])
    np.save(given / "short.npy", good[:10])
    np.save(given / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (given / "text.npy").write_text("no matrix")
    (given / "text.safetensors").write_text("no tensors")
    save_file({"a": good, "b": good}, given / "two.safetensors")
    for name in (
        *("double.npy", "flat.npy", "short.npy", "objects.npy", "text.npy", "text.safetensors"),
        *("two.safetensors", "items.csv"),
    ):
        with pytest.raises(InputError, match=name.split(".", maxsplit=1)[0]):
            import_vectors(given / name, given / "items.csv", given / "index")
    with pytest.raises(InputError, match="1280"):
        import_vectors(given / "v.npy", given / "items.csv", given / "index", model=MODEL)
    assert not (given / "index").exists()


def test_import_by_the_command(given: Path, imgsearch: Callable[..., Run]) -> None:
    """The command writes the index, and refuses to replace one unasked."""
    words = ("import", "v.npy", "items.csv", "./mine")
    run = imgsearch(*words, "--json", cwd=given)
    assert run.code == 0
    assert (run.json["count"], run.json["dim"]) == (48, 16)
    assert read_manifest(given / "mine").model == "external"
    assert imgsearch(*words, cwd=given).code == 2
    assert imgsearch(*words, "--overwrite", cwd=given).code == 0
    assert imgsearch("import", "none.npy", "items.csv", "./x", cwd=given).code == 3


def test_rows_of_another_split_are_left_out(given: Path) -> None:
    """As in a build, only rows of the splits base and train, or of none, are indexed."""
    rows = "".join(f"{i}.jpg,a,{('base', 'train', '', 'test')[i % 4]}\n" for i in range(50))
    (given / "split.csv").write_text("path,label,split\n" + rows)
    summary = import_vectors(given / "v.npy", given / "split.csv", given / "index")
    kept = [i for i in range(50) if i % 4 != 3 and i != 9]
    index = open_index(given / "index")
    assert index.items.column("path") == [f"{i}.jpg" for i in kept]
    vectors = np.load(given / "v.npy").astype(np.float64)[kept]
    expected = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    assert np.array_equal(index.vectors.rows, expected)
    assert summary.left_out == {"test": 12}
    assert [skip.path for skip in summary.skipped] == ["9.jpg"]


def test_rows_stay_what_they_are_when_their_index_is_let_go(given: Path) -> None:
    """An array of rows keeps alive what FAISS has mapped."""
    import_vectors(given / "v.npy", given / "items.csv", given / "index")
    rows = open_index(given / "index").vectors.rows
    for _ in range(3):
        open_index(given / "index")
    assert np.allclose(np.linalg.norm(rows, axis=1), 1)


def test_update_of_an_import_with_its_model(
    rooms: Path, small_photos: Path, tmp_path: Path
) -> None:
    """ITEMS is the label file then; the first update sees the pictures, the next has no work."""
    index = open_index(rooms)
    np.save(tmp_path / "v.npy", np.array(index.vectors.rows))
    rows = zip(index.items.column("path"), index.items.column("label"), strict=True)
    lines = "".join(f"{path},{label}\n" for path, label in rows)
    (tmp_path / "items.csv").write_text("path,label\n" + lines)
    import_vectors(
        *(tmp_path / "v.npy", tmp_path / "items.csv", tmp_path / "index"),
        model=MODEL,
        images=small_photos,
    )
    summary = update_index(tmp_path / "index")
    assert (summary.changed, summary.embedded) == (index.items.count, index.items.count)
    assert (summary.relabelled, summary.removed, summary.added) == (0, 0, 0)
    ours = open_index(tmp_path / "index")
    assert ours.items.column("label") == index.items.column("label")
    assert ours.vectors.rows.tobytes() == index.vectors.rows.tobytes()
    assert not update_index(tmp_path / "index").written
