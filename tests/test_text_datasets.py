"""Text haystacks in data sets of the datasets library; nothing is fetched."""

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet
from test_text_haystacks import Reader

from vniah.cli import main
from vniah.errors import HaystackError, HaystackTooShortError, InputError
from vniah.files import hash_text
from vniah.haystacks import text_datasets
from vniah.haystacks.text import open_text, require_text
from vniah.haystacks.text_datasets import parse_column

pytestmark = pytest.mark.usefixtures("no_network")

ROWS = [
    {"id": 1, "text": "It rained. We left.\r\n", "note": "a"},
    {"id": 2, "text": "  ", "note": "b"},
    {"id": 3, "text": " \u96e8\u3002 Then it was over.", "note": "c"},
]
BODY = "It rained. We left.\n\n\u96e8\u3002 Then it was over."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set in three forms: saved, saved with its splits, and a folder for its builder."""
    root = tmp_path_factory.mktemp("sets")
    datasets.disable_progress_bars()
    table = datasets.Dataset.from_list(ROWS)
    table.save_to_disk(root / "saved")
    splits = {"train": table, "test": table.select([0])}
    datasets.DatasetDict(splits).save_to_disk(root / "split")
    datasets.enable_progress_bars()
    (root / "build").mkdir()
    parquet.write_table(pa.Table.from_pylist(ROWS), root / "build" / "train-0.parquet")
    parquet.write_table(pa.Table.from_pylist(ROWS[:1]), root / "build" / "test-0.parquet")
    return root


@pytest.mark.parametrize("form", ["saved", "split", "build"])
def test_a_data_set_in_a_folder_is_a_haystack(form, folder):
    source = f"datasets:{folder / form}"
    text = open_text(source, num_tokens=1)
    assert (text.body, text.kind, text.sha256) == (BODY, "text", hash_text(BODY))
    assert text.name == f"{form}#train.text"
    assert open_text(f"{source}#train.note", num_tokens=1).body == "a\n\nb\n\nc"
    require_text(source)
    if form != "saved":
        assert open_text(f"{source}#test", num_tokens=1).body == "It rained. We left."


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{}/saved#dev", r"has no split 'dev'; it has train$"),
        ("{}/split#dev", r"has no split 'dev'; it has train, test$"),
        ("{}/build#dev", r"build#dev.text cannot be read by datasets: Bad split: dev"),
        ("{}/saved:fr", "has no configurations: leave out :fr"),
        ("{}/build:fr", "cannot be read by datasets: BuilderConfig 'fr' not found"),
        ("{}/build#train.body", "there is no column 'body'; it has id, text, note. Name the one"),
        ("{}/build#train.id", "row 1: expected text, got 1"),
        ("{}/none", "there is no folder .*none' with a data set, and no hub has one"),
        ("someone/texts#train", "there is no folder 'someone/texts', and the split 'train' .*Hub"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(source, message, folder):
    with pytest.raises(HaystackError, match=message) as error:
        open_text("datasets:" + source.format(folder), num_tokens=1)
    assert "\n" not in str(error.value)


NO_NAMES = ["", "#train", "x#", "x#train text", "x:#train", " #train.text", "x@#train"]


@pytest.mark.parametrize("name", NO_NAMES)
def test_names_of_another_form_are_refused(name):
    with pytest.raises(InputError, match=r"named datasets:NAME|must not|: datasets:NAME"):
        parse_column(f"datasets:{name}")


def test_names_have_configurations_splits_and_columns():
    found = parse_column("datasets:owner/set:en.v1#validation.body.text")
    assert (found.source, found.config) == ("owner/set", "en.v1")
    assert (found.split, found.column) == ("validation", "body.text")
    assert found.name == "owner/set:en.v1#validation.body.text"
    assert parse_column("datasets:imdb").name == "imdb#train.text"
    found = parse_column("datasets:owner/set@refs/pr/1:en#test")
    assert (found.source, found.revision, found.config) == ("owner/set", "refs/pr/1", "en")
    assert found.name == "owner/set@refs/pr/1:en#test.text"


def test_no_more_is_read_than_a_haystack_can_use(folder, monkeypatch):
    monkeypatch.setattr(text_datasets, "MOST_BYTES", 10)
    assert open_text(f"datasets:{folder / 'build'}", num_tokens=1).body == "It rained. We left."


def test_a_data_set_without_text_or_shorter_than_a_grid_is_refused(folder, tmp_path):
    datasets.Dataset.from_dict({"text": [" ", "\n"]}).save_to_disk(tmp_path / "blank")
    with pytest.raises(HaystackError, match=r"blank#train\.text holds no text"):
        open_text(f"datasets:{tmp_path / 'blank'}", num_tokens=1)
    text = open_text(f"datasets:{folder / 'saved'}", num_tokens=50).read_by(Reader("words"), 50)
    with pytest.raises(HaystackTooShortError, match="never looped"):
        text.characters(50)


def test_the_command_line_takes_a_data_set(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["run", "--task", "niah", "--tokens", "99", "--depths", "0"]
    assert main([*options, "--haystack", f"datasets:{folder / 'build'}#dev"]) == 2
    assert "build#dev.text cannot be read by datasets: Bad" in capsys.readouterr().err
    options += ["--haystack", "datasets:someone/texts"]
    assert main(options) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not [*tmp_path.iterdir()]
