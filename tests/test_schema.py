"""JSON from outside is of the declared type and bounded, or one line says what is wrong."""

import json
from typing import Annotated, Any, NotRequired, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from vniah.files import to_json
from vniah.schema import parse_json, read_json, require_type


class Film(TypedDict):
    name: str
    seconds: NotRequired[Annotated[int, Meta(ge=1, le=10**6)]]
    tags: NotRequired[dict[str, Annotated[str, Meta(max_length=5)]]]
    cuts: NotRequired[list[float]]
    next: NotRequired["Film"]


def test_keys_that_the_type_does_not_name_are_kept():
    text = '{"name": "sea", "cuts": [1, 2.5], "other": {"a": null}}'
    assert parse_json(text, Film, ValueError, "it") == json.loads(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "it: the field 'name' is missing"),
        ('{"name": 1}', "it: name must be text, got 1"),
        ('{"name": "", "seconds": true}', "it: seconds must be a whole number, got True"),
        ('{"name": "", "seconds": 0}', "it: seconds must be a whole number >= 1, got 0"),
        ('{"name": "", "cuts": [1, "2"]}', "it: cuts[1] must be a number, got '2'"),
        ('{"name": "", "next": {}}', "it: the field 'next.name' is missing"),
        ('{"name": "", "tags": {"a": "toolong"}}', "it: tags[...] must be text of length <= 5"),
        ("[]", "it: the content must be an object in braces, got []"),
        ('{"name": "", "name": ""}', "it cannot be read as JSON: the key 'name' is given twice"),
        ('{"a": {"b": 1, "b": 1}}', "it cannot be read as JSON: the key 'b' is given twice"),
        ('{"name": NaN}', "it cannot be read as JSON: NaN is not a number of JSON"),
        ('{"x": -1e999}', "it cannot be read as JSON: a number is too large"),
        ('{"x": 9223372036854775808}', "it cannot be read as JSON: the number 9223372036854775808"),
        ('{"x": ' + "9" * 5000 + "}", "it cannot be read as JSON: a number in it has thousands"),
        ("[" * 65 + "]" * 65, "it cannot be read as JSON: it is nested more than 64 levels"),
        ("[" * 100_000, "it is nested too deeply"),
        (b'{"name": "\xff"}', "it cannot be read as JSON: 'utf-8' codec"),
        ("", "it cannot be read as JSON: Expecting value"),
    ],
)
def test_one_line_says_what_is_wrong(text, message):
    with pytest.raises(LookupError) as caught:
        parse_json(text, Film, LookupError, "it")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_long_values_are_cut_in_messages():
    with pytest.raises(ValueError) as caught:
        require_type({"name": ["x" * 10**6] * 100}, Film, ValueError, "it")
    assert len(str(caught.value)) < 200


def test_a_file_larger_than_the_bound_is_refused(tmp_path):
    path = tmp_path / "film.json"
    path.write_text('{"name": "sea"}')
    assert read_json(path, Film, ValueError, most_bytes=15) == {"name": "sea"}
    with pytest.raises(ValueError, match="larger than 14 bytes"):
        read_json(path, Film, ValueError, most_bytes=14)


def test_files_that_cannot_be_opened(tmp_path):
    for path in (tmp_path, tmp_path / "none", tmp_path / "a\0b", tmp_path / ("n" * 5000)):
        with pytest.raises(ValueError, match="cannot be read: "):
            read_json(path, Film, ValueError)


def test_a_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "film.json"
    path.write_text('{"name": "sea"}', encoding="utf-8-sig")
    assert read_json(path, Film, ValueError) == {"name": "sea"}


@given(st.recursive(st.none() | st.booleans() | st.text(), st.lists, max_leaves=20))
def test_whatever_text_holds_can_be_written_and_read(value: Any):
    assert parse_json(to_json(value), Any, ValueError, "it") == value


def test_lone_surrogates_can_be_written_and_read():
    value = {"name": "\ud800 \udc80 é"}
    assert parse_json(to_json(value), Film, ValueError, "it") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": "\\ud800", "seconds": 1}', None),
        ('{"name": "sea", "seconds": 1, "\\udfff": ["\\ud800"]}', None),
        ('{"name": "sea", "seconds": "\\ud800"}', r"seconds must be a whole number"),
        ('{"\\ud800": 1}', "the field 'name' is missing"),
    ],
)
def test_lone_surrogates_are_texts(text, message):
    if message is None:
        assert parse_json(text, Film, ValueError, "film.json") == json.loads(text)
        return
    with pytest.raises(ValueError, match=message):
        parse_json(text, Film, ValueError, "film.json")
