"""Question sets in data sets of the datasets library; nothing is fetched, no video is decoded."""

import json
import shutil
import zipfile
from argparse import Namespace
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet
from question_sets import SeesNumbers, row, write_clip, write_lines
from test_format_schema import require_described

from vniah.cli import main
from vniah.embeddings.inventory import find_cached
from vniah.errors import HaystackError, InputError
from vniah.grid import Grid
from vniah.haystacks import dataset_rows
from vniah.haystacks.library import STORED_VIDEOS
from vniah.needles import NeedleSet
from vniah.sweep.run import run_sweep
from vniah.tasks.vqa.opening import open_questions, require_questions

pytestmark = pytest.mark.usefixtures("no_network")

ROWS = [  # Arrow takes the columns of the first row
    row("a", "1", ["A. 90", "B. 0"], "B", duration="short", question_type="early"),
    row("b", "2", ["0", "91", "92"], "0", duration="long", question_type="late"),
    row("a", "3", ["0", "93"], "0", duration="short", question_type="early"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A set as a folder with a table, and as data sets in several forms."""
    root = tmp_path_factory.mktemp("sets")
    plain = root / "plain"
    for name, num_pictures in (("a", 3), ("b", 5)):
        write_clip(plain / f"{name}.mp4", num_pictures)
    write_lines(plain / "questions.jsonl", ROWS)
    for name, splits in (("one", ["test"]), ("two", ["test", "train"])):
        (root / name).mkdir()
        for split in splits:
            parquet.write_table(pa.Table.from_pylist(ROWS), root / name / f"{split}-0.parquet")
    # A folder of videos with metadata, as a data set of videos is published.
    shutil.copytree(plain, root / "videofolder", ignore=shutil.ignore_patterns("*.jsonl"))
    lines = [{**one, "file_name": f"{one['video']}.mp4"} for one in ROWS]
    metadata = [{name: cell for name, cell in line.items() if name != "video"} for line in lines]
    write_lines(root / "videofolder" / "metadata.jsonl", metadata)
    datasets.disable_progress_bars()
    held = [{**one, "video": str(plain / f"{one['video']}.mp4")} for one in ROWS]
    table = datasets.Dataset.from_list(held).cast_column("video", datasets.Video())
    table.save_to_disk(root / "bytes")  # which stores videos as bytes
    table.rename_column("video", "clip").save_to_disk(root / "clips")
    datasets.enable_progress_bars()
    return root


@pytest.mark.parametrize(
    ("source", "videos", "name"),
    [
        ("one", "plain", "one#test"),
        ("two#train", "plain", "two#train"),
        ("bytes", None, "bytes#train"),
        ("clips#train.clip", None, "clips#train.clip"),
        ("videofolder", None, "videofolder#train"),
    ],
)
def test_a_data_set_is_the_question_set_of_its_rows(root, source, videos, name):
    folder = None if videos is None else root / videos
    require_questions(f"datasets:{root / source}", videos=folder)
    found = open_questions(f"datasets:{root / source}", videos=folder)
    expected = open_questions(root / "plain")
    assert found.identity() == expected.identity() and found.questions == expected.questions
    assert [video.name for video in found.videos] == ["a", "b"]
    assert found.name == found.origin["dataset"] == name
    assert ("fingerprint" in found.origin) == (source.startswith(("bytes", "clips")))


def test_a_table_may_lie_apart_from_its_videos(root, tmp_path):
    write_lines(tmp_path / "mine.jsonl", ROWS)
    found = open_questions(tmp_path / "mine.jsonl", videos=root / "plain")
    assert found.identity() == open_questions(root / "plain").identity()
    assert found.name == "mine" and not found.origin
    whole = [{**one, "video": str(root / "plain" / f"{one['video']}.mp4")} for one in ROWS]
    write_lines(tmp_path / "whole.jsonl", whole)
    of_paths = open_questions(tmp_path / "whole.jsonl")
    assert of_paths.identity() == found.identity()
    assert [video.name for video in of_paths.videos] == ["a", "b"]


def test_bytes_are_stored_once_and_again_where_the_file_is_damaged(root, own_cache):
    source = f"datasets:{root / 'bytes'}"
    require_questions(source)
    assert not (own_cache / STORED_VIDEOS).exists()  # nothing is read of the videos
    expected = open_questions(source).identity()
    first, second = sorted((own_cache / STORED_VIDEOS).iterdir())
    before = second.stat().st_mtime_ns
    first.write_bytes(b"damaged")
    (found,) = (one for one in find_cached(own_cache, verify=True) if one.path.name == "videos")
    assert found.damaged == (first,) and found.files == (second,) and found.num_frames is None
    assert open_questions(source).identity() == expected
    assert second.stat().st_mtime_ns == before


def test_videos_of_one_name_are_told_apart(root, tmp_path):
    for folder, name in (("x", "a"), ("y", "b")):
        (tmp_path / folder).mkdir()
        shutil.copy(root / "plain" / f"{name}.mp4", tmp_path / folder / "clip.mp4")
    rows = [{**one, "video": str(tmp_path / f)} for one, f in zip(ROWS, "xyx", strict=True)]
    rows = [{**one, "video": f"{one['video']}/clip.mp4"} for one in rows]
    table = datasets.Dataset.from_list(rows).cast_column("video", datasets.Video(decode=False))
    datasets.disable_progress_bars()
    table.save_to_disk(tmp_path / "bytes")  # both are clip.mp4
    datasets.enable_progress_bars()
    found = open_questions(f"datasets:{tmp_path / 'bytes'}")
    names = [video.name for video in found.videos]
    assert names == [f"clip-{video.sha256[:12]}" for video in found.videos]
    assert found.questions == open_questions(root / "plain").questions


@pytest.mark.parametrize("column", ["clip", "video"])
def test_videos_that_whole_paths_name_are_called_by_their_files(root, tmp_path, column):
    rows = [{**one, column: str(root / "plain" / f"{one['video']}.mp4")} for one in ROWS]
    write_lines(tmp_path / "set" / "train.jsonl", rows)
    source = f"datasets:{tmp_path / 'set'}#train" + ".clip" * (column == "clip")
    require_questions(source)
    found = open_questions(source)
    assert [video.name for video in found.videos] == ["a", "b"]
    assert found.identity() == open_questions(root / "plain").identity()


def test_whole_paths_keep_as_much_as_tells_videos_apart(root, tmp_path):
    places = {"x/a.mp4": "a", "y/a.mp4": "b", "y/b.mp4": "a", "y/b.mkv": "b"}
    for name, source in places.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / "plain" / f"{source}.mp4", tmp_path / name)
    paths = [str(tmp_path / name) for name in places]
    asked = [
        {"video": path, "qid": "7", "question": "?", "a0": "x", "a1": "y", "answer": "0"}
        for path in [*paths, "only"]
    ]
    shutil.copy(root / "plain" / "a.mp4", tmp_path / "only.mp4")
    write_lines(tmp_path / "set" / "train.jsonl", asked)
    found = open_questions(f"datasets:{tmp_path / 'set'}", videos=tmp_path)
    names = ["x/a", "y/a", "b.mp4", "b.mkv", "only"]
    assert [video.name for video in found.videos] == names
    ids = [question.question_id for question in found.questions]
    assert ids == [f"{name.replace('/', '_')}-7" for name in names]
    # A name that has to be found is never that of a whole path.
    write_lines(tmp_path / "set" / "train.jsonl", [asked[0], {**asked[4], "video": "a"}])
    found = open_questions(f"datasets:{tmp_path / 'set'}", videos=root / "plain")
    assert [video.name for video in found.videos] == ["x/a", "a"]
    assert found.videos[1].path == root / "plain" / "a.mp4"
    # Of a table as well.
    write_lines(tmp_path / "mine.jsonl", asked)
    found = open_questions(tmp_path / "mine.jsonl")
    assert [video.name for video in found.videos] == names


def test_run_says_where_its_questions_are_from(root, tmp_path, monkeypatch):
    of_folder = datasets.load_dataset_builder(str(root / "one"))
    commit = "0123456789" * 4

    def build(name, config, revision):
        assert (name, config, revision) == ("owner/set", "mc", "v1")
        return Namespace(hash=commit, as_streaming_dataset=of_folder.as_streaming_dataset)

    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load_dataset_builder", build)
        asked = open_questions("datasets:owner/set@v1:mc", videos=root / "plain")
    run_sweep(
        *(SeesNumbers(), asked, NeedleSet.none(), Grid.of([2], [0])),
        output=tmp_path / "run",
        task="vqa",
        progress=False,
    )
    require_described(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "manifest.json").read_bytes())
    origin = {"dataset": "owner/set@v1:mc#test", "revision": commit}
    assert record["environment"]["questions"] == origin
    # The same questions and videos are the same run, wherever they are from.
    results = run_sweep(
        *(SeesNumbers(), open_questions(root / "plain"), NeedleSet.none(), Grid.of([2], [0])),
        output=tmp_path / "run",
        task="vqa",
        progress=False,
    )
    assert results.manifest["haystack"]["name"] == "owner/set@v1:mc#test"


@pytest.mark.parametrize(
    ("source", "videos", "message"),
    [
        ("{}/two", "plain", r"two has the splits train, test: name one, datasets:NAME"),
        ("{}/one#dev", "plain", r"one#dev cannot be read by datasets: Bad split: dev"),
        ("{}/bytes#dev", None, r"has no split 'dev'; it has train$"),
        ("{}/bytes:fr", None, r"has no configurations: leave out :fr"),
        ("{}/one#test.clip", "plain", r"no column 'clip'; it has the columns 'video, question_id"),
        ("{}/one#test", "none", r"there is no folder .*none with videos"),
        ("{}/one#test", None, r"the video 'a' of 2 questions is missing.* is given behind the set"),
        ("owner/set#test", "plain", r"no folder 'owner/set', and the split 'test' of .*Hub"),
        ("owner/set", "plain", r"no folder 'owner/set', and the data set of this name .*Hub"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(root, source, videos, message):
    folder = None if videos is None else root / videos
    for check in (require_questions, open_questions):
        with pytest.raises(HaystackError, match=message) as error:
            check("datasets:" + source.format(root), videos=folder)
        assert "\n" not in str(error.value)


def test_a_hub_set_without_videos_asks_for_their_folder(root, monkeypatch):
    builder = datasets.load_dataset_builder(str(root / "one"))
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: builder)
    with pytest.raises(HaystackError, match=r"owner/set#test names its videos, such as 'a', and"):
        require_questions("datasets:owner/set")


def test_configurations_of_a_data_set_are_named(root, tmp_path):
    names = ("MC", "OE")
    for name in names:
        (tmp_path / name).mkdir()
        shutil.copy(root / "one" / "test-0.parquet", tmp_path / name / "test-0.parquet")
    listed = "".join(
        f"- config_name: {n}\n  data_files: [{{split: test, path: {n}/test-*}}]\n" for n in names
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{listed}---\n")
    with pytest.raises(HaystackError, match=r"several configurations: name one, .*'MC', 'OE'"):
        require_questions(f"datasets:{tmp_path}", videos=root / "plain")
    found = open_questions(f"datasets:{tmp_path}:OE", videos=root / "plain")
    assert found.name == f"{tmp_path.name}:OE#test" and len(found.questions) == 3


def test_files_in_an_archive_are_found_in_a_folder(root, tmp_path):
    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as archive:
        for path in (root / "videofolder").iterdir():
            archive.write(path, f"clips/{path.name}")
    with pytest.raises(HaystackError, match=r"the video 'clips/a\.mp4' of 2 questions is missing"):
        open_questions(f"datasets:{tmp_path}")
    shutil.copytree(root / "plain", tmp_path / "unpacked" / "clips")
    found = open_questions(f"datasets:{tmp_path}", videos=tmp_path / "unpacked")
    assert found.identity() == open_questions(root / "plain").identity()


def test_a_column_may_hold_several_right_answers(root, tmp_path):
    rows = [{**ROWS[1], "answer": ["A", "C"]}, {**ROWS[2], "answer": ["0"]}]
    write_lines(tmp_path / "test.jsonl", rows)
    found = open_questions(f"datasets:{tmp_path}#test", videos=root / "plain")
    assert [question.right for question in found.questions] == [(0, 2), (0,)]


def test_columns_of_no_layout_and_revisions_of_folders_are_refused(root, tmp_path):
    (tmp_path / "odd").mkdir()
    parquet.write_table(pa.table({"q": ["x"], "film": ["a"]}), tmp_path / "odd" / "test.parquet")
    with pytest.raises(HaystackError, match=r"row 1 has the columns 'q, film', which are those"):
        require_questions(f"datasets:{tmp_path / 'odd'}")
    with pytest.raises(InputError, match="only a data set of the hub has revisions"):
        require_questions(f"datasets:{root / 'one'}@v1#test")
    assert dataset_rows.parse_dataset(f"datasets:{root / 'one'}#test").is_folder


def test_the_command_line_takes_a_data_set_and_the_folder_of_its_videos(root, tmp_path, capsys):
    arguments = ["run", "--task", "vqa", "--model", "tests.question_sets:make_model", "--quiet"]
    arguments += ["--frames", "2", "--controls", "none", "--output", str(tmp_path / "run")]
    given = [f"datasets:{root / 'one'}#test", str(root / "plain")]
    assert main([*arguments, "--haystack", *given, "third"]) == 2
    assert "after it the folder that holds the videos" in capsys.readouterr().err
    assert main([*arguments, "--haystack", given[0]]) == 2
    assert "the video 'a' of 2 questions is missing" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    encode = ["encode", "--task", "vqa", "--model", "tests.question_sets:make_model", "--quiet"]
    assert main([*encode, "--frames", "2", "--haystack", *given]) == 0
