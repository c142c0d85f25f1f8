"""Text haystacks in files: one .txt file, and tables with a column of texts."""

import json
import os

import pyarrow as pa
import pytest
from pyarrow import parquet

from vniah.errors import HaystackError
from vniah.haystacks.text import open_text
from vniah.haystacks.text_files import read_text

TEXTS = ["It rained. We left.\r\n", "", "  Élan vital, said he. \u96e8\u3002", "Then it was over."]
BODY = "It rained. We left.\n\nÉlan vital, said he. \u96e8\u3002\n\nThen it was over."


def write(folder, suffix, texts=TEXTS, column="text"):
    path = folder / f"essays{suffix}"
    rows = [{"id": number, column: text} for number, text in enumerate(texts)]
    if suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    elif suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n\n".join(text.strip() for text in texts if text))
    return path


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet", ".JSONL"])
def test_a_file_holds_the_text_of_all_its_rows(suffix, tmp_path):
    if suffix == ".JSONL":
        path = write(tmp_path, ".jsonl").rename(tmp_path / "essays.JSONL")
    else:
        path = write(tmp_path, suffix)
    text = open_text(path, num_tokens=1)
    assert text.body == BODY and text.kind == "text" and text.name == path.name


def test_the_same_text_is_the_same_haystack_in_every_form(tmp_path):
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder", ".txt")
    paths = [tmp_path / "folder", *(write(tmp_path, s) for s in (".txt", ".jsonl", ".parquet"))]
    assert len({open_text(path, num_tokens=1).sha256 for path in paths}) == 1


def test_rows_of_several_batches_keep_their_order(tmp_path):
    path = write(tmp_path, ".parquet", [f"Row {number}." for number in range(600)])
    assert open_text(path, num_tokens=1).body.startswith("Row 0.\n\nRow 1.\n\n")
    assert open_text(path, num_tokens=1).body.endswith("\n\nRow 599.")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "one"}\n{"text": 2}', r"a\.jsonl line 2.*text"),
        ("a.jsonl", '{"body": "one"}', r"a\.jsonl line 1.*text"),
        ("a.jsonl", "one", r"a\.jsonl line 1 cannot be read as JSON"),
        ("a.jsonl", '{"text": " "}', r"a\.jsonl holds no text"),
        ("a.parquet", "PAR1", r"a\.parquet cannot be read as Parquet"),
        ("a.txt", "", r"a\.txt holds no text"),
        ("a.csv", "text\none", r"nor a file .*a\.csv that ends in \.txt, \.jsonl or \.parquet"),
    ],
)
def test_what_cannot_be_read_is_one_line(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(HaystackError, match=message) as raised:
        open_text(tmp_path / name, num_tokens=1)
    assert "\n" not in str(raised.value)


def test_a_table_without_the_column_names_those_that_it_has(tmp_path):
    path = write(tmp_path, ".parquet", column="content")
    with pytest.raises(HaystackError, match=r"no column 'text'; it has id, content\. Rename"):
        open_text(path, num_tokens=1)
    with pytest.raises(HaystackError, match=r"row 1.*text"):
        open_text(write(tmp_path, ".parquet", [1, 2]), num_tokens=1)


def test_only_files_of_a_folder_are_read(tmp_path):
    (tmp_path / "a.txt").write_text("It rained.")
    (tmp_path / "b.txt").mkdir()
    os.mkfifo(tmp_path / "c.txt")
    (tmp_path / "d.txt").symlink_to("d.txt")
    (tmp_path / "e.txt").symlink_to("nowhere.txt")
    (tmp_path / "f.txt").symlink_to("a.txt")
    assert read_text(tmp_path) == "It rained.\n\nIt rained."


@pytest.mark.parametrize("name", ["pipe.txt", "loop.txt", "pipe.jsonl"])
def test_what_is_no_file_is_refused_at_once(tmp_path, name):
    if name.startswith("pipe"):
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to(name)
    with pytest.raises(HaystackError, match="nor a file"):
        read_text(tmp_path / name)


def test_half_a_character_is_refused_by_its_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "It rained."}\n{"text": "Lone \\ud800 here."}\n')
    with pytest.raises(HaystackError, match=r"a\.jsonl line 2 holds half of a character"):
        read_text(path)
    path.write_text('{"text": "A pair: \\ud83d\\ude00."}\n')
    assert read_text(path) == "A pair: \U0001f600."
