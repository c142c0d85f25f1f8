from fractions import Fraction

import pytest

from vniah.answers import read_number_in_order, read_second


@pytest.mark.parametrize(
    ("text", "second"),
    [
        ("42", 42),
        ("0042", 42),
        ("42 s", 42),
        ("42s.", 42),
        ("42.5 sec", Fraction(85, 2)),
        ("second 42", 42),
        ("At 0:42", 42),
        ("**00:00:42**", 42),
        ("Answer: 42 seconds", 42),
        ("It is at 1:05.", 65),
        ("<think>1 or 2?</think>17:45", 1065),
        ("1,065", 1065),
        ("75:10", 4510),
        ("1:02:03", 3723),
        ("17 min 45 s", 1065),
        ("17 minutes and 45 seconds", 1065),
        ("1 hour, 2 minutes and 3 seconds", 3723),
        ("5 minutes", 300),
    ],
)
def test_second_that_a_text_names(text, second):
    assert read_second(text) == second


@pytest.mark.parametrize(
    "text",
    [
        "",
        "about 42 s",
        "40-45 s",
        "42 or 43",
        "0:42 to 0:45",
        "0:75",
        "1:75:00",
        "the 42nd second",
        "-5",
        "42 %",
        "1,06",
        "1e3",
        "The card is shown at second 42.",
        "not 42",
        "9" * 40,
    ],
)
def test_text_that_names_no_second_or_several(text):
    assert read_second(text) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3", 3),
        ("03", 3),
        ("(3)", 3),
        ("3rd", 3),
        ("The third part.", 3),
        ("Part 03", 3),
        ("third tenth", 3),
        ("3 of 10", 3),
        ("3/10", 3),
        ("part 3 of 10 parts", 3),
        ("tenth", 10),
        ("the last part", 10),
        ("part 3 or 4", None),
        ("3 and 4", None),
        ("11", None),
        ("0", None),
        ("3 of 12", None),
        ("third fifth", None),
        ("not part 3", None),
        ("3.5", None),
        ("9" * 40, None),
    ],
)
def test_part_that_a_text_names(text, number):
    assert read_number_in_order(text, 10) == number
