import dataclasses
import hashlib
import itertools
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convzoo.evaluation.prediction_file import (
    read_predictions,
    read_recorded_predictions,
    write_prediction_parts,
    write_predictions,
)
from convzoo.evaluation.prediction_table import NO_NUMBER
from convzoo.files import file_sha256
from tests.support.predictions import prediction_table

COLUMNS = {
    "row": "int64",
    "image": "string",
    "digest": "fixed_size_binary[32]",
    "label": "int32",
    "rank": "int32",
    "loss": "float",
    "top_classes": "fixed_size_list<element: int32>[3]",
    "top_probabilities": "fixed_size_list<element: float>[3]",
    "squared_probabilities": "float",
    "logits": "fixed_size_list<element: float>[5]",
    "error": "string",
}


def same(one, other):
    for column in dataclasses.fields(one):
        mine, theirs = getattr(one, column.name), getattr(other, column.name)
        if isinstance(mine, np.ndarray):
            np.testing.assert_array_equal(mine, theirs, err_msg=column.name)
            assert mine.dtype == theirs.dtype, column.name
        else:
            assert mine == theirs, column.name
    return True


@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("unreadable", [(), (1, 7)])
def test_a_table_comes_back_as_it_was_written(tmp_path, logits, unreadable):
    table = prediction_table(9, logits=logits, unreadable=unreadable)
    path = tmp_path / "new folder" / "p.parquet"
    write_predictions(path, table)
    assert same(read_predictions(path), table)
    assert [each.name for each in path.parent.iterdir()] == ["p.parquet"]
    assert same(read_predictions(path, logits=False), dataclasses.replace(table, logits=None))


def test_any_reader_of_parquet_finds_the_columns(tmp_path):
    """As pandas, DuckDB or the Hub's viewer do."""
    table = prediction_table(9, logits=True, unreadable=[4])
    write_predictions(tmp_path / "p.parquet", table)
    plain = pq.read_table(tmp_path / "p.parquet")
    assert {each.name: str(each.type) for each in plain.schema} == COLUMNS
    facts = json.loads(plain.schema.metadata[b"convzoo"])
    assert facts["schema_version"] == 1 and facts["class_names"] == list("abcde")
    assert facts["dataset"] == {"name": "data"} and facts["model"] == {"sha256": "0" * 64}
    rows = plain.to_pylist()
    assert rows[4]["error"] == "cut off" and rows[4]["label"] == table.label[4]
    for name in COLUMNS.keys() - {"row", "image", "digest", "label", "error"}:
        assert rows[4][name] is None and rows[3][name] is not None
    assert rows[3]["digest"] == hashlib.sha256(b"3").digest()


def test_how_the_rows_are_cut_makes_no_difference_to_the_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("convzoo.evaluation.prediction_file.ROWS_PER_GROUP", 8)
    table = prediction_table(30, logits=True, unreadable=[3, 20])
    write_predictions(tmp_path / "whole.parquet", table)
    for cuts in ([8], [1, 17, 18], [29]):
        edges = [0, *cuts, 30]
        parts = [table.take(np.arange(*edge)) for edge in itertools.pairwise(edges)]
        write_prediction_parts(tmp_path / "cut.parquet", table.facts, parts)
        assert file_sha256(tmp_path / "cut.parquet") == file_sha256(tmp_path / "whole.parquet")
    assert pq.read_metadata(tmp_path / "whole.parquet").num_row_groups == 4


def test_the_table_knows_hits_and_fingerprint():
    table = prediction_table(9, unreadable=[2])
    for k in (1, 2, 5):
        expected = [bool(0 <= rank < k) for rank in table.rank]
        assert table.hits(k).tolist() == expected and not table.hits(k)[2]
    content = b"".join(
        hashlib.sha256(str(n).encode()).digest() + int(label).to_bytes(4, "little")
        for n, label in enumerate(table.label)
    )
    assert table.fingerprint() == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert table.rank[2] == NO_NUMBER and np.isnan(table.loss[2])


def changed(column, value, place=0):
    table = prediction_table(6)
    values = getattr(table, column).copy()
    values[place] = value
    return dataclasses.replace(table, **{column: values})


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (changed("row", 3), "column row of .* must rise"),
        (changed("label", 5), "column label of .* must have class numbers of the model, 0 to 4"),
        (changed("rank", -1), "column rank of .* must be the number of classes before"),
        (changed("loss", np.nan), "column loss of .* must be finite"),
        (changed("top_classes", [1, 1, 2]), "column top_classes of .* must have different class"),
        (changed("rank", 4), "column top_classes .* with the true class at its rank"),
        (changed("top_probabilities", [0.1, 0.2, 0.3]), "column top_probabilities of .* must fall"),
        (changed("squared_probabilities", 2), "squared_probabilities .* must lie in"),
        (changed("error", "no image"), "column error of .* must be null where"),
    ],
)
def test_a_table_that_contradicts_itself_is_neither_written_nor_read(tmp_path, table, said):
    if (
        said.startswith("column rank") or "its rank" in said
    ):  # the first image's true class is first
        table = dataclasses.replace(table, label=table.label.copy())
        table.label[0] = table.top_classes[0, 0]
    with pytest.raises(ValueError, match=said):
        write_predictions(tmp_path / "p.parquet", table)
    assert not list(tmp_path.iterdir())


def test_foreign_damaged_and_newer_files_are_refused_with_what_to_do(tmp_path):
    path = tmp_path / "p.parquet"
    with pytest.raises(FileNotFoundError, match=r"p.parquet does not exist. Evaluate the model"):
        read_predictions(path)
    path.write_text("no parquet")
    with pytest.raises(ValueError, match="must be a predictions file as `convzoo evaluate` writes"):
        read_predictions(path)
    pq.write_table(pa.table({"row": [1]}), path)
    with pytest.raises(ValueError, match="its metadata says nothing of convzoo. Evaluate the mod"):
        read_predictions(path)

    write_predictions(path, prediction_table(50))
    whole, plain = path.read_bytes(), pq.read_table(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="must be a predictions file"):
        read_predictions(path)
    for place in range(100, len(whole) // 3, 97):  # in the pages, which have checksums
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="must be a predictions file|column "):
            read_predictions(path)

    facts = json.loads(plain.schema.metadata[b"convzoo"])
    newer = json.dumps(facts | {"schema_version": 2})
    pq.write_table(plain.replace_schema_metadata({"convzoo": newer}), path)
    with pytest.raises(ValueError, match=r"schema_version of .* must be 1; got 2. A newer convzoo"):
        read_predictions(path)
    pq.write_table(plain.drop_columns("loss"), path)
    with pytest.raises(ValueError, match="its columns differ: .*loss: float"):
        read_predictions(path)


def test_the_predictions_of_a_result_are_those_that_were_recorded(tmp_path):
    path = tmp_path / "predictions" / "p.parquet"
    with pytest.raises(FileNotFoundError, match="has no predictions: an older version wrote it"):
        read_recorded_predictions(tmp_path, None)
    record = {"file": "predictions/p.parquet", "sha256": "", "num_rows": 9}
    with pytest.raises(FileNotFoundError, match="they are not pushed unless asked for"):
        read_recorded_predictions(tmp_path, record)
    table = prediction_table(9)
    write_predictions(path, table)
    with pytest.raises(ValueError, match="SHA-256 is another one than was recorded"):
        read_recorded_predictions(tmp_path, record)
    record["sha256"] = file_sha256(path)
    assert same(read_recorded_predictions(tmp_path, record), table)
