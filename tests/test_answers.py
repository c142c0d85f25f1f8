"""What a generated text says, and the mistakes that parsers of answers are known for."""

import doctest
import time

import pytest

import vniah.answers
from vniah.answers import choice_letters, find_option, match_answer, normalize, read_choice

ANIMALS = ("Cat", "Dog", "A fox", "An owl")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" The RED card. ", "red card"),
        ("**Yellow**", "yellow"),
        ("“yellow”", "yellow"),
        ("an  owl", "owl"),
        ("vitamin A pill", "vitamin a pill"),
        ("A positive", "a positive"),
        ("a", "a"),
        ("A.", "a"),
        ("the", "the"),
        ("it’s", "it's"),
        ("3.50", "3.50"),
        (".5", ".5"),
        ("(.5)", ".5"),
        ("-5", "-5"),
        ("5 %.", "5 %"),
        ("?!", "?!"),
        ("", ""),
        ("STRASSE", "strasse"),
        ("Cafe\u0301", "caf\u00e9"),
    ],
)
def test_normalize_takes_away_only_what_does_not_count(text, expected):
    assert normalize(text) == expected


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yellow", "yellow"),
        (" yellow. ", "Yellow"),
        ("Answer: yellow", "yellow"),
        ("**Answer:** Yellow", "yellow"),
        ("The answer is yellow.", "yellow"),
        ("The correct answer is: Yellow", "yellow"),
        ("It's yellow.", "yellow"),
        ("It is a red card", "red card"),
        ("A red card", "a red card"),
        ("a red card", "A red card"),
        ("the red card", "a red card"),
        ("Answer: B", "B"),
        ("(b)", "B"),
        ("Option B.", "B"),
        ("It is raining", "It is raining"),
        ("730.", "730"),
        ("A positive", "A positive"),
    ],
)
def test_text_that_is_the_answer_is_found(text, answer):
    assert match_answer(text, [answer]) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", "yellow"),
        ("The flag is yellow.", "yellow"),
        ("not yellow", "yellow"),
        ("It is not yellow", "yellow"),
        ("yellow or red", "yellow"),
        ("yellow, red", "yellow"),
        ("yellowish", "yellow"),
        ("35", "3.5"),
        ("5", ".5"),
        ("5", "-5"),
        ("5", "5%"),
        ("1 2", "12"),
        ("102", "10²"),
        ("positive", "A positive"),
        ("red", "the red card"),
        ("Answer: B", "A"),
        ("A cat sits on the mat", "A"),
        ("A and B", "A"),
        ("B. red card", "B"),
        ("No, it is yellow", "no"),
    ],
)
def test_text_that_is_not_wholly_the_answer_is_wrong(text, answer):
    assert match_answer(text, [answer]) is None


def test_first_of_the_accepted_answers_that_fits_is_named():
    accepted = ["grey", "gray", "Gray"]
    assert match_answer("Gray.", accepted) == "gray"
    assert match_answer("black", accepted) is None


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("B", 1),
        ("b.", 1),
        ("(B)", 1),
        ("[B]", 1),
        ("（B）", 1),
        (" **B** \n", 1),
        ("Option B", 1),
        ("option (B)", 1),
        ("Answer: B", 1),
        ("Answer: (B).", 1),
        ("The answer is B", 1),
        ("My final answer is: option B", 1),
        ("B. Dog", 1),
        ("(B) dog.", 1),
        ("B: the dog", 1),
        ("B dog", 1),
        ("Dog (B)", 1),
        ("dog", 1),
        ("A dog.", 1),
        ("A cat", 0),
        ("A. Cat", 0),
        ("A", 0),
        ("a", 0),
        ("fox", 2),
        ("a fox", 2),
        ("C. A fox", 2),
        ("owl", 3),
        ("The answer is an owl.", 3),
    ],
)
def test_option_is_read_by_letter_words_or_both(text, option):
    assert read_choice(text, ANIMALS) == option


@pytest.mark.parametrize(
    "text",
    [
        "",
        "B or C",
        "B, C",
        "B/C",
        "(B) or (C)",
        "A\nB\nC\nD",
        "Not B",
        "Answer: not B",
        "I think it is (C), not (B)",
        "B. Cat",
        "A. dog",
        "Cat (B)",
        "not a dog (B)",
        "A cat sits on the mat",
        "A dog and a cat",
        "Both",
        "E",
        "B, because it barks",
        "Because of the dog",
        "None of A, B, C",
        "Answer",
        "Dog or cat",
    ],
)
def test_text_that_can_be_read_in_two_ways_names_no_option(text):
    assert read_choice(text, ANIMALS) is None


def test_options_with_letters_of_their_own_go_by_those():
    choices = ("(C) Cat", "(D) Dog")
    assert choice_letters(choices) == ("C", "D")
    assert [read_choice(text, choices) for text in ("D", "dog", "(D) Dog", "A")] == [1, 1, 1, None]


def test_options_that_differ_in_what_does_not_count_are_named_by_letter_only():
    choices = ("fox", "A fox")
    assert [read_choice(text, choices) for text in ("fox", "A", "B")] == [None, 0, 1]


def test_letters_as_options_of_other_letters_are_ambiguous():
    choices = ("B", "A", "X")
    assert [read_choice(text, choices) for text in ("A", "B", "C", "X")] == [None, None, 2, 2]


@pytest.mark.parametrize(
    ("answer", "option"), [("B", 1), ("Dog", 1), ("(B)", 1), ("the dog", 1), ("C", 2), ("E", None)]
)
def test_answer_of_a_needle_is_an_option(answer, option):
    assert find_option(answer, ANIMALS) == option


@pytest.mark.parametrize("text", ["Dog", "b", "(B) dog", "Answer: B. Dog", "a dog"])
@pytest.mark.parametrize("answer", ["B", "Dog"])
def test_multiple_choice_is_right_by_letter_and_by_words(text, answer):
    assert match_answer(text, [answer], ANIMALS) == answer


@pytest.mark.parametrize("text", ["Answer: B", "A dog", "A cat sits on the mat", "A or B", "B"])
def test_multiple_choice_is_never_right_by_an_article(text):
    assert match_answer(text, ["A"], ANIMALS) is None


def test_examples_of_the_docstrings_hold():
    assert doctest.testmod(vniah.answers).failed == 0


@pytest.mark.parametrize(
    "text",
    ["Answer: " * 400, "It is " * 400, "The answer is" + "\n" * 8000, "the " * 8000, "(" * 8000],
)
def test_text_of_a_model_that_runs_on_is_read_in_no_time(text):
    started = time.perf_counter()
    assert match_answer(text, ["B"], ANIMALS) is None
    assert time.perf_counter() - started < 5


def test_lead_ins_are_four_at_most():
    assert match_answer("Answer: " * 4 + "B", ["B"], ANIMALS) == "B"
    assert match_answer("Answer: " * 5 + "B", ["B"], ANIMALS) is None
