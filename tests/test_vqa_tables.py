"""The tables of question sets: their layouts, and what is refused in one line."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from question_sets import row, write_clip, write_csv, write_lines

from vniah.errors import HaystackError
from vniah.tasks.vqa.opening import open_questions, require_questions
from vniah.tasks.vqa.questions import read_options, read_right, without_options
from vniah.tasks.vqa.tables import find_tables, read_tables


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """A folder with videos of 3 and of 5 pictures."""
    folder = tmp_path_factory.mktemp("clips")
    for name, num_pictures in (("a", 3), ("b", 5)):
        write_clip(folder / f"{name}.mp4", num_pictures)
    return folder


def link(clips: Path, name: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(clips / f"{name}.mp4")


def facts(found) -> list[tuple]:
    videos = [video.name for video in found.videos]
    return [
        (q.question_id, videos[q.video], q.options, q.right, q.duration, q.question_type)
        for q in found.questions
    ]


def test_video_mme_is_read(clips, tmp_path):
    link(clips, "a", tmp_path / "data" / "fFjv93ACGo8.mp4")
    rows = [
        {
            "video_id": "001",
            "duration": "short",
            "domain": "Knowledge",
            "videoID": "fFjv93ACGo8",
            "question_id": f"001-{number}",
            "task_type": "Counting Problem",
            "question": "How many?",
            "options": ["A. Apples.", "B. Candles.", "C. Berries.", "D. All of these."],
            "answer": "C",
        }
        for number in (1, 2)
    ]
    (tmp_path / "videomme").mkdir()
    parquet.write_table(
        pa.Table.from_pylist(rows), tmp_path / "videomme" / "test-00000-of-00001.parquet"
    )
    found = open_questions(tmp_path)
    options = ("Apples.", "Candles.", "Berries.", "All of these.")
    assert facts(found) == [
        (f"001-{number}", "fFjv93ACGo8", options, (2,), "short", "Counting Problem")
        for number in (1, 2)
    ]
    assert len(found.videos) == 1 and found.num_frames == 3


def test_mlvu_is_read_from_a_table_for_each_type(clips, tmp_path):
    for kind, name in (("1_plotQA", "a"), ("2_needle", "b")):
        link(clips, name, tmp_path / "video" / kind / "movie_1.mp4")
        content = [
            {
                "video": "movie_1.mp4",
                "duration": 480.0,
                "question": "What colour?",
                "candidates": ["Red", "Blue", "Red"],
                "answer": "Red" if name == "a" else "Blue",
                "question_type": kind.partition("_")[2],
            }
        ]
        (tmp_path / "json").mkdir(exist_ok=True)
        (tmp_path / "json" / f"{kind}.json").write_text(json.dumps(content))
    summary = [{"video": "movie_1.mp4", "question": "Tell it.", "answer": "Long.", "duration": 9}]
    (tmp_path / "json" / "9_summary.json").write_text(json.dumps(summary))
    found = open_questions(tmp_path)
    first, second = (f"video/{kind}/movie_1.mp4" for kind in ("1_plotQA", "2_needle"))
    assert facts(found) == [
        ("1_plotQA-1", first, ("Red", "Blue", "Red"), (0, 2), "medium", "plotQA"),
        ("2_needle-1", second, ("Red", "Blue", "Red"), (1,), "medium", "needle"),
    ]
    assert [video.num_pictures for video in found.videos] == [3, 5]
    assert found.notes == ("1 row of 9_summary.json without options is left out",)


def test_next_qa_is_read_through_its_map(clips, tmp_path):
    link(clips, "b", tmp_path / "NExTVideo" / "1164" / "3238737531.mp4")
    (tmp_path / "map_vid_vidorID.json").write_text('{"4010069381": "1164/3238737531"}')
    options = {f"a{place}": word for place, word in enumerate(["two", "one", "ten", "six", "x, y"])}
    rows = [
        {"video": "4010069381", "frame_count": "369", "question": "how many", "answer": answer}
        | {"qid": qid, "type": "DC", **options}
        for qid, answer in (("6", "0"), ("7", "4"))
    ]
    write_csv(tmp_path / "val.csv", rows)
    found = open_questions(tmp_path)
    assert facts(found) == [
        (f"4010069381-{qid}", "4010069381", tuple(options.values()), (right,), "short", "DC")
        for qid, right in (("6", 0), ("7", 4))
    ]
    write_csv(tmp_path / "test.csv", rows)
    with pytest.raises(HaystackError, match=r"several tables, test.csv, val.csv; name the one"):
        require_questions(tmp_path)
    assert len(open_questions(tmp_path / "test.csv").questions) == 2


def test_mlvu_of_lmms_eval_is_read_without_the_options_in_its_questions(clips, tmp_path):
    link(clips, "a", tmp_path / "movie_1.mp4")
    asked = {"video_name": "movie_1.mp4", "duration": 480.0, "task_type": "needle"}
    asked |= {"candidates": ["a  cat", "B"], "answer": "B", "question_id": "Q0"}
    rows = [
        asked | {"question": "What is\nit?\n(A) a cat\n(B) B\n"},
        asked | {"question": "What is it?"},
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    found = open_questions(tmp_path)
    assert [question.question for question in found.questions] == ["What is\nit?", "What is it?"]
    expected = ("movie_1.mp4", ("a cat", "B"), (1,), "medium", "needle")
    assert facts(found) == [("1", *expected), ("2", *expected)]


def test_options_in_a_question_are_those_of_its_column():
    assert without_options("Is it (A) or (B)?", ("x", "y")) == "Is it (A) or (B)?"
    assert without_options("Which?\n(A) x", ("x", "y")) == "Which?\n(A) x"
    with pytest.raises(ValueError, match="lists other options in its question"):
        without_options("Which?\n(A) y\n(B) x", ("x", "y"))
    with pytest.raises(ValueError, match="has an empty question"):
        without_options("(A) x\n(B) y", ("x", "y"))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("empty", ["", " ", None])
def test_empty_option_of_columns_keeps_its_place(tmp_path, suffix, empty):
    def read(*options):
        asked = {"video": "v1", "question": "which", "answer": "3", "qid": "6", "type": "CW"}
        cells = asked | {f"a{place}": option for place, option in enumerate(options)}
        path = tmp_path / f"t.{suffix}"
        if suffix == "csv":
            write_csv(path, [cells])
        else:
            parquet.write_table(pa.Table.from_pylist([cells]), path)
        return read_tables([path])

    (kept,) = read("nine", "ten", "two", "right", empty).rows
    assert (kept.options, kept.right) == (("nine", "ten", "two", "right"), (3,))
    for options, letter in (
        (("nine", "ten", empty, "right", "wrong"), "C"),
        ((empty, "ten", "two", "right", empty), "A"),
    ):
        found = read(*options)
        assert found.faults == (
            f"t.{suffix} row 1 has an empty option, the one with the letter {letter}",
        )
    assert "from 0 to 2" in read("nine", "ten", "two", empty, empty).faults[0]


def test_video_of_which_two_files_have_the_name_is_refused(clips, tmp_path):
    for folder in ("x", "y"):
        link(clips, "a", tmp_path / folder / "a.mp4")
    write_lines(tmp_path / "questions.jsonl", [GOOD])
    with pytest.raises(HaystackError, match=r"'a' of 1 question may be one of 2 files: x/a\.mp4"):
        require_questions(tmp_path)
    write_lines(tmp_path / "questions.jsonl", [GOOD | {"video": "y/a"}])
    assert [video.name for video in open_questions(tmp_path).videos] == ["y/a"]


def test_names_and_texts_of_any_script_are_kept(clips, tmp_path):
    link(clips, "a", tmp_path / "видео 1 <b>.mp4")
    write_lines(
        tmp_path / "questions.jsonl",
        [row("видео 1 <b>", "q 1/2", ["да\nнет", "是\ud800"], "是\ud800", duration="長い")],
    )
    found = open_questions(tmp_path)
    assert facts(found) == [("q_1_2", "видео 1 <b>", ("да нет", "是\ud800"), (1,), "長い", None)]
    assert len(found.identity()["questions_sha256"]) == 64


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["A. Cat", "B. Dog"], ("Cat", "Dog")),
        (["(A) Cat", "(B) Dog"], ("Cat", "Dog")),
        (["A: Cat", "Dog"], ("A: Cat", "Dog")),
        (["a. Cat", "b. Dog"], ("a. Cat", "b. Dog")),
        (["A. C. Cat", "B. A. Dog", "C. Elk"], ("C. Cat", "A. Dog", "Elk")),
        (["J. Cat", "K. Dog"], ("J. Cat", "K. Dog")),  # no letters of options
        (["3:40", "B-side"], ("3:40", "B-side")),
        ([1, 2.0, 2.5], ("1", "2", "2.5")),
        (list("abcde"), tuple("abcde")),
    ],
)
def test_letters_of_options_are_taken_off_where_all_have_them(given, expected):
    assert read_options(given) == expected


@pytest.mark.parametrize(
    ("given", "option", "own", "other"),
    [
        (["B. x", "A. y"], "B. x", "A", "B"),
        (["C. x", "D. y", "E. z"], "C. x", "A", "C"),
        (["A. x", "A. y"], "A. y", "B", "A"),
        (["x", "(A) y", "z"], "(A) y", "B", "A"),
        (["b) x", "a) y"], "b) x", "A", "B"),
    ],
)
def test_letter_at_the_place_of_another_is_refused(given, option, own, other):
    message = rf"{re.escape(repr(option))} at the place of the letter {own}, so that the answer "
    with pytest.raises(ValueError, match=rf"{message}{other} may mean either; put the letters"):
        read_options(given)


def test_options_with_the_words_of_the_right_one_are_right():
    for answer, form in (("A", "any"), ("B", "letter"), ("1", "index"), ("x", "words")):
        assert read_right(answer, ("x", "x", "z", "w"), form) == (0, 1)
    with pytest.raises(ValueError, match="calls every one of its options right"):
        read_right("A", ("x", "x"), "letter")


def test_class_of_length_has_one_spelling(clips, tmp_path):
    link(clips, "a", tmp_path / "a.mp4")
    given = ["Short ", "short", "Very  Long", "very long", 3, None]
    rows = [row("a", str(n), ["x", "y"], "x", duration=one) for n, one in enumerate(given)]
    write_lines(tmp_path / "questions.jsonl", rows)
    found = [question.duration for question in open_questions(tmp_path).questions]
    assert found == ["short", "short", "Very Long", "Very Long", "short", "short"]


@pytest.mark.parametrize(
    ("answer", "form", "expected"),
    [
        ("B", "letter", (1,)),
        ("(B)", "letter", (1,)),
        ("dog", "letter", (1,)),
        ("B. dog", "any", (1,)),
        ("A", "any", (0,)),
        (["A", "fox"], "any", (0, 2)),
        (2, "index", (2,)),
        ("2", "index", (2,)),
        ("fox", "words", (2,)),
    ],
)
def test_answer_names_options_by_letter_by_place_or_by_words(answer, form, expected):
    assert read_right(answer, ("cat", "dog", "fox"), form) == expected


@pytest.mark.parametrize(
    ("answer", "options", "form", "message"),
    [
        ("D", ("cat", "dog"), "any", "has the answer 'D', which is none of its 2 options"),
        ("owl", ("cat", "dog"), "words", "which is none of its 2 options"),
        ("A", ("cat", "dog"), "words", "which is none of its 2 options"),
        (2, ("cat", "dog"), "index", "must have the number of an option, from 0 to 1"),
        ("B", ("B", "cat"), "any", "the letter of one option and the words of another"),
        (None, ("cat", "dog"), "any", "has no answer"),
        ([], ("cat", "dog"), "any", "has no answer"),
        (["A", "B"], ("cat", "dog"), "any", "calls every one of its options right"),
    ],
)
def test_answer_that_is_no_option_is_refused(answer, options, form, message):
    with pytest.raises(ValueError, match=message):
        read_right(answer, options, form)


GOOD = row("a", "good", ["x", "y"], "x")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row("gone", "1", ["x", "y"], "x"), "the video 'gone' of 1 question is missing"),
        (row("", "1", ["x", "y"], "x"), "row 2 names no video in the column 'video'"),
        (row("a", "1", ["x"], "x"), "row 2 has 1 options, and must have 2 to 26"),
        (row("a", "1", ["x"] * 27, "x"), "row 2 has 27 options"),
        (row("a", "1", ["x", " "], "x"), "row 2 has an empty option, the one with the letter B"),
        (row("a", "1", ["x", "y"], "z"), "row 2 has the answer 'z', which is none of its 2"),
        (row("a", "good", ["x", "y"], "y"), "row 2 has the id 'good', which .* row 1 has as well"),
        (row("a", "1", ["x", {}], "x"), r"row 2: options\[1\] must be"),
        (row("a", "1", ["x", "y"], "x") | {"question": " "}, "row 2 has an empty question"),
    ],
)
def test_row_that_cannot_be_asked_is_refused_or_left_out(clips, tmp_path, bad, message):
    link(clips, "a", tmp_path / "a.mp4")
    write_lines(tmp_path / "questions.jsonl", [GOOD, bad])
    for check in (require_questions, open_questions):
        with pytest.raises(HaystackError, match=message) as caught:
            check(tmp_path)
        assert "\n" not in str(caught.value) and "--keep-damaged" in str(caught.value)
    require_questions(tmp_path, keep_damaged=True)
    found = open_questions(tmp_path, keep_damaged=True)
    assert [question.question_id for question in found.questions] == ["good"]
    (note,) = found.notes
    assert "1 question can be asked; left out: " in note


def test_set_of_which_nothing_is_left_is_refused(tmp_path):
    write_lines(tmp_path / "questions.jsonl", [row("gone", "1", ["x", "y"], "x")])
    for check in (require_questions, open_questions):
        with pytest.raises(HaystackError, match=r"is missing\. No question is left\."):
            check(tmp_path, keep_damaged=True)


def test_many_faults_are_counted(tmp_path):
    rows = [row(f"gone-{number}", str(number), ["x", "y"], "x") for number in range(9)]
    write_lines(tmp_path / "questions.jsonl", rows)
    with pytest.raises(HaystackError, match=r"'gone-4' .*; and 4 more\. No question is left"):
        require_questions(tmp_path)


def test_damaged_video_is_refused_or_read_as_far_as_possible(clips, tmp_path):
    link(clips, "a", tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes((clips / "b.mp4").read_bytes()[:900])
    write_lines(tmp_path / "questions.jsonl", [GOOD, row("b", "2", ["x", "y"], "x")])
    require_questions(tmp_path)  # which reads no video
    with pytest.raises(HaystackError, match=r"b\.mp4") as caught:
        open_questions(tmp_path)
    assert ".." not in str(caught.value) and "No video has been read" not in str(caught.value)
    found = open_questions(tmp_path, keep_damaged=True)
    assert [video.name for video in found.videos] == ["a"]
    assert "b.mp4" in found.notes[0]
    # Names come first, and the line says that damage has not been looked for.
    rows = [GOOD, row("b", "2", ["x", "y"], "x"), row("gone", "3", ["x", "y"], "x")]
    write_lines(tmp_path / "questions.jsonl", rows)
    for check in (require_questions, open_questions):
        with pytest.raises(HaystackError, match=r"'gone' .*No video has been read yet; a dam"):
            check(tmp_path)
    (note,) = open_questions(tmp_path, keep_damaged=True).notes
    assert "'gone'" in note and "b.mp4" in note


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("questions.jsonl", b'{"video": "a"\n', "line 1 cannot be read as JSON"),
        ("questions.jsonl", b'{"video": "a", "x": 1}\n', "those of no known layout"),
        ("questions.jsonl", b"\xff\xfe{", "is not text in UTF-8"),
        ("questions.jsonl", b"", "holds no question with options"),
        ("t.csv", b'video,options,question,answer\na,"[""x"", ""y""]",q\n', "row 1 has 3 cells"),
        ("t.csv", b'video,options,question,answer\na,"[x]",q,x\n', "row 1: options cannot be read"),
        ("t.csv", b'video,"options\n', "cannot be read as CSV"),
        ("t.parquet", b"PAR1", "cannot be read as Parquet"),
        ("t.json", b'{"video": "a"}', "must be a list"),
    ],
)
def test_table_that_cannot_be_read_is_refused_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HaystackError, match=message) as caught:
        require_questions(tmp_path)
    assert "\n" not in str(caught.value)


def test_folder_without_a_table_and_missing_paths_are_refused(tmp_path):
    with pytest.raises(HaystackError, match="holds no table of questions"):
        require_questions(tmp_path)
    with pytest.raises(HaystackError, match=r"there is no folder .*gone with questions"):
        require_questions(tmp_path / "gone")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(HaystackError, match="nor a table"):
        require_questions(tmp_path / "x.txt")


def test_rows_of_csv_are_those_of_lines(tmp_path):
    rows = [row("a", "1", ["A. x", "B. y"], "B", duration=2000.5), row("b", "2", [1, 2], "2")]
    write_lines(tmp_path / "questions.jsonl", rows)
    written = [{**one, "options": json.dumps(one["options"])} for one in rows]
    write_csv(tmp_path / "t.csv", [{"duration": "", **one} for one in written])
    lines, cells = (
        read_tables(find_tables(tmp_path / name)).rows for name in ("questions.jsonl", "t.csv")
    )
    assert [(r.video, r.options, r.right, r.duration) for r in lines] == [
        (r.video, r.options, r.right, r.duration) for r in cells
    ]
    assert lines[0].duration == 2000.5
