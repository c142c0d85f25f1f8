"""Text haystacks: where sentences end, generated prose, folders of texts, and their tokens."""

import hashlib
import json
import re
from fractions import Fraction

import pytest
from text_models import tokenizer_of

from vniah.errors import HaystackError, HaystackTooShortError, InputError, NeedleError
from vniah.haystacks.prose import write_prose
from vniah.haystacks.text import find_sentence_ends, open_text
from vniah.needles import load_needles
from vniah.needles.numbers import number_needles, read_numbers
from vniah.needles.records import Needle


class Reader:
    """Counts tokens by a tokenizer."""

    name = "reader"

    def __init__(self, kind="bytes"):
        self._tokenizer = tokenizer_of(kind)

    def token_ends(self, text):
        return [
            stop for _, stop in self._tokenizer(text, return_offsets_mapping=True).offset_mapping
        ]


# --- sentences -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It rained. We left. Then", ["It rained.", " We left."]),
        ("Was it so? Yes! \u201cNo.\u201d So", ["Was it so?", " Yes!", " \u201cNo.\u201d"]),
        ("Dr. Roe met Mrs. Low at St. Ives. He", ["Dr. Roe met Mrs. Low at St. Ives."]),
        ("J. R. Smith, i.e. Jack. He", ["J. R. Smith, i.e. Jack."]),
        ("It costs 3.50 or more. 12 men came. So", ["It costs 3.50 or more.", " 12 men came."]),
        ("One e.g. this. and so on", []),
        ("One.\n\nTwo.\n", ["One."]),
        ("\u96e8\u304c\u964d\u3063\u305f\u3002\u51fa\u305f\u3002", ["雨が降った。", "出た。"]),
        (
            "\u00c9l vino. \u00c9l fue. \u0414\u0430. \u041d\u0435\u0442",
            ["Él vino.", " Él fue.", " Да."],
        ),
        ("no end", []),
        ("", []),
    ],
)
def test_sentences_end_where_the_text_says(text, expected):
    ends = find_sentence_ends(text)
    assert [text[a:b] for a, b in zip((0, *ends), ends, strict=False)] == expected


# --- generated prose -----------------------------------------------------------------------------


def test_prose_is_the_same_everywhere():
    """If it changes, its version has to be raised."""
    digest = hashlib.sha256(write_prose(20_000).encode()).hexdigest()
    assert digest == "066902fdd89bb7cb627d1db615001d21960ff49ae9abf455311061785c3c6de4"


def test_longer_prose_begins_with_shorter_prose():
    long, short = write_prose(5000), write_prose(500)
    assert long.startswith(short) and 500 <= len(short) < 700
    assert write_prose(500, seed=1) != short


def test_prose_has_sentences_paragraphs_and_no_digits():
    text = write_prose(30_000)
    assert not re.search(r"[\d\"{}]|  ", text)
    sentences = re.split(r"(?<=\.)\s+", text)
    assert len(find_sentence_ends(text)) == len(sentences) - 1
    assert all(re.fullmatch(r"[A-Z][^.]+\.", sentence) for sentence in sentences)
    assert len({*sentences}) > 0.95 * len(sentences)
    assert text.count("\n\n") == (len(sentences) - 1) // 9


# --- haystacks -----------------------------------------------------------------------------------


def test_generated_text_is_known_by_its_recipe():
    short, long = open_text(num_tokens=10), open_text(num_tokens=100)
    assert short.identity() == long.identity()
    assert open_text(num_tokens=10, seed=1).identity() != short.identity()
    assert repr(short).startswith("TextHaystack(name='prose-v1-seed0', kind='prose'")


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    (tmp_path / "b.txt").write_bytes("\ufeffSecond.\r\nLine.\n".encode())
    (tmp_path / "a.TXT").write_text("First.\n\n")
    (tmp_path / "c.txt").write_text(" \n")
    (tmp_path / "notes.md").write_text("not read")
    found = open_text(tmp_path, num_tokens=1)
    assert found.body == "First.\n\nSecond.\nLine."
    assert found.identity() == {"kind": "text", "sha256": found.sha256}


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_byte_order_marks_are_no_text_however_many_there_are(tmp_path, suffix):
    content = {"txt": "Text. \ufeff.", "jsonl": json.dumps({"text": "Text. \ufeff."})}[suffix]
    for count in range(3):
        path = tmp_path / f"{count}.{suffix}"
        path.write_text("\ufeff" * count + content, encoding="utf-8")
        assert open_text(path, num_tokens=1).body == "Text. \ufeff."


def test_the_language_reference_of_python_is_prose():
    found = open_text("pydoc", num_tokens=1)
    assert len(find_sentence_ends(found.body)) > 1000
    assert "\n" not in found.body


def test_what_is_no_text_is_refused_in_one_line(tmp_path):
    with pytest.raises(HaystackError, match=r"there is no folder .*nowhere"):
        open_text(tmp_path / "nowhere", num_tokens=1)
    with pytest.raises(HaystackError, match=r"has no \.txt file that holds text"):
        open_text(tmp_path, num_tokens=1)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(HaystackError, match=r"latin\.txt is not text in UTF-8.*Convert it"):
        open_text(tmp_path, num_tokens=1)


def test_text_has_no_frames():
    haystack = open_text(num_tokens=10)
    for source in (haystack, haystack.read_by(Reader(), 10)):
        with pytest.raises(InputError, match="prose-v1-seed0 is text, and the task shows frames"):
            source.frames(stop=1)


def test_a_text_is_counted_in_tokens_and_never_looped(tmp_path):
    (tmp_path / "a.txt").write_text("It rained. We left. Then it was over.")
    text = open_text(tmp_path, num_tokens=1).read_by(Reader("words"), 1000)
    assert text.name == tmp_path.name and len(text.ends) == 18
    assert text.body[: text.characters(4)] == "It rained."
    assert text.tokens_before(10) == 4 and text.tokens_before(9) == 3
    assert text.sentence_end(18, Fraction(1, 2)) == 19
    assert text.sentence_end(18, Fraction(0)) == text.sentence_end(3, Fraction(1)) == 0
    assert text.characters(0) == 0
    with pytest.raises(HaystackTooShortError, match="has 18 tokens as reader reads it, and 19 are"):
        text.characters(19)


def test_of_a_long_text_only_the_beginning_is_read():
    class Counting(Reader):
        most = 0

        def token_ends(self, text):
            self.most = max(self.most, len(text))
            return super().token_ends(text)

    reader = Counting()
    text = open_text(num_tokens=10_000).read_by(reader, 50)
    assert len(text.ends) == 50
    assert reader.most < 4000
    whole = reader.token_ends(text.body[:2000])
    assert list(text.ends) == whole[:50]


# --- needles of text -----------------------------------------------------------------------------


def test_numbers_have_seven_digits_and_the_published_words():
    needles = number_needles(200)
    assert len({*needles.ids}) == 200
    for needle in needles:
        assert re.fullmatch(r"[1-9]\d{6}", needle.answer)
        assert needle.text == f"\nThe special magic Singapore number is: {needle.answer}.\n"
        assert needle.num_frames == 0 and needle.image is None
    assert needles.needles[0].question == (
        "Based on the content of the book, Question: What is the special magic Singapore number? "
        "Answer: The special magic Singapore number is:"
    )
    assert repr(needles.needles[0]).startswith("<Needle singapore-")


def test_numbers_are_chosen_by_name():
    assert load_needles("numbers").ids == number_needles(5).ids == load_needles("numbers:5").ids
    assert load_needles("numbers:7").ids[:5] == number_needles(5).ids
    assert load_needles("numbers:5:3").sha256 == number_needles(5, seed=3).sha256
    assert number_needles(5, seed=3).sha256 != number_needles(5).sha256
    assert read_numbers("numbersets") is None
    for name in ("numbers:x", "numbers:5:-1", "numbers:1.5"):
        with pytest.raises(NeedleError, match="named numbers, numbers:COUNT or numbers:COUNT:SEED"):
            load_needles(name)
    with pytest.raises(NeedleError, match="1 to 10,000 needles"):
        load_needles("numbers:0")


def test_a_needle_is_a_picture_or_a_text(needle_folder):
    picture = load_needles(needle_folder).needles[0].image
    for image, text in ((None, None), (None, " \n"), (picture, "Both.")):
        with pytest.raises(NeedleError, match="a picture"):
            Needle("n", "Which?", "1", None, image, text=text)
    one, other = (Needle("n", "Which?", "1", None, None, text=text) for text in ("A.", "B."))
    assert one != other and one.image_sha256 != other.image_sha256
