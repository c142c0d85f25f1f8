"""What a generated text says, and the mistakes that parsers of answers are known for."""

import doctest
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vniah.answers import (
    choice_letters,
    find_ambiguous,
    find_option,
    folding,
    is_readable,
    match_answer,
    matching,
    normalize,
    read_choice,
    strip_invisible,
    wrappers,
)
from vniah.errors import NeedleError
from vniah.needles.texts import require_texts

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
        ("B - Dog", 1),
        ("B – Dog", 1),
        ("B - Cat", None),
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


@pytest.mark.parametrize("module", [folding, matching, wrappers])
def test_examples_of_the_docstrings_hold(module):
    found = doctest.testmod(module)
    assert found.attempted and not found.failed


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


# --- characters that nobody sees, and forms of one character ---


@pytest.mark.parametrize(
    "hidden",
    [
        *"\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad\u202a\u2069\u061c\ufe0f\U000e0041\u180e\x00\x1b"
    ],
)
def test_hidden_characters_do_not_count_on_either_side(hidden):
    for text in (f"{hidden}yellow", f"yel{hidden}low", f"{hidden} yellow{hidden}."):
        assert match_answer(text, ["yellow"]) == "yellow"
        assert match_answer("yellow", [text]) == text
    assert match_answer(hidden, ["yellow"]) is None
    assert read_choice(f"({hidden}B{hidden})", ANIMALS) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("７３０", "730"),
        ("ﬁg", "fig"),
        ("caf\u00e9", "cafe\u0301"),
        ("𝐘𝐞𝐥𝐥𝐨𝐰", "yellow"),
        ("3．5", "3.5"),
        ("5\u00a0%", "5 %"),
        ("don\u2019t", "don't"),
        ("\u22125", "-5"),
        ("5\u20137", "5-7"),
        ("Ⅶ", "VII"),
        ("“yellow”", "yellow"),
        ("「yellow」。", "yellow"),
    ],
)
def test_forms_of_one_character_are_equal(one, other):
    assert normalize(one) == normalize(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("10²", "102"),
        ("H₂", "H2"),
        ("½", "12"),
        ("①", "1"),
        ("e\u0301", "e"),
        ("\u22125", "5"),
        ("🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "🏴"),
        ("👩\u200d🔬", "👩🔬"),
    ],
)
def test_different_texts_stay_different(one, other):
    assert normalize(one) != normalize(other)


def test_answers_are_stripped_of_what_cannot_be_meant():
    assert strip_invisible("\ufeff 7\u200b3\u00ad0 \u200f\n") == "730"
    assert strip_invisible("می\u200cخواهم") == "می\u200cخواهم"
    assert strip_invisible("\u200b\u200c") == ""
    assert strip_invisible("a b") == "a b"


# --- one equality for options ---


@pytest.mark.parametrize(
    ("choices", "ambiguous"),
    [
        (("Cat", "cat"), ("Cat", "cat")),
        (("fox", "A fox"), ("fox", "A fox")),
        (("the dog", "Dog", "Cat"), ("the dog", "Dog")),
        (("Cat.", "Cat"), ("Cat.", "Cat")),
        (("7", "７"), ("7", "７")),
        (("yel\u200blow", "yellow"), ("yel\u200blow", "yellow")),
        (("B", "A"), ("B", "A")),
        (("x", "a"), ("A", "a")),
        (("A. Cat", "A. Dog"), ("A. Dog", "A. Dog")),
        (("Cat", "A. Cat"), ("A. Cat", "Cat")),
        (("$5$", "5"), ("$5$", "5")),
        (("B. Smith", "Jones"), ("B. Smith", "B. Smith")),
    ],
)
def test_options_that_no_text_can_name_are_found(choices, ambiguous):
    assert find_ambiguous(choices) == ambiguous


@pytest.mark.parametrize(
    "choices",
    [
        ANIMALS,
        ("10", "12", "13", "24"),
        ("-5", "5", "0.5", ".5"),
        ("A", "B", "C", "D"),
        ("C", "D"),
        ("(C) Cat", "(D) Dog"),
        ("A sharp", "B flat"),
        ("J. Smith", "B. Jones"),
        ("1. Cat", "2. Dog"),
        ("not yellow", "yellow"),
        tuple(f"after {n} seconds" for n in range(60)),
        ("<s>", "<b>", "</s>"),
        ("{x}", "`x y`", "$7$"),
    ],
)
def test_options_that_differ_are_told_apart(choices):
    assert find_ambiguous(choices) is None


WORDS = st.from_regex(
    r"A|a|B|b\.|\(C\)|A\.|B\)|the|The|an|cat|Cat|CAT\.|dog|\ufb01sh|fish|x|\*\*x\*\*|\$7\$|7|\uff17|-5|5"
    r"|not|Answer:|it|is|\u00e9|e\u0301|\u200b",
    fullmatch=True,
)
OPTIONS = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)


def test_an_option_that_reads_like_an_answer_with_a_letter_is_ambiguous():
    assert find_ambiguous(("A", "A Answer: A")) == ("Answer: A", "A Answer: A")
    with pytest.raises(NeedleError, match="cannot be told apart in generated text"):
        require_texts("Which?", "A", ("A", "A Answer: A"))
    assert find_ambiguous(("A", "B")) is None


@given(st.lists(OPTIONS, min_size=2, max_size=5, unique=True), st.data())
def test_text_of_an_option_is_right_only_for_the_answer(choices, data):
    """Holds for every set that can be loaded, whatever its options."""
    letters = choice_letters(choices)
    answer = data.draw(st.sampled_from([*choices, *letters]))
    try:
        require_texts("Which?", answer, tuple(choices))
    except NeedleError:
        return
    right = find_option(answer, choices)
    for index, choice in enumerate(choices):
        for text in (choice, letters[index], f"({letters[index]})", f"Answer: {letters[index]}"):
            assert (match_answer(text, [answer], choices) is not None) == (index == right)


def test_article_is_not_right_for_another_option():
    """The set is refused on loading; a task of one's own might still ask for it."""
    for text in ("fox", "A fox", "the fox"):
        assert match_answer(text, ["A fox"], ["fox", "A fox"]) is None


# --- wrappers ---

WRAPPED = [
    "<think>Is it 3 or 8? \\boxed{3}</think>\n\n{}",
    "it might be 3.</think>{}",
    "<think></think>{}",
    "<think>" + "Is it 3? " * 9000 + "</think>{}",
    "◁think▷3◁/think▷{}",
    "[THINK]3[/THINK]{}",
    "<seed:think>3</seed:think>{}",
    "<|channel|>analysis<|message|>3<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>",
    "{}<|im_end|>",
    "{}<|eot_id|>",
    "{}</s>",
    "<s> {}</s>",
    "{}<end_of_turn>\n",
    "{}<|endoftext|><|endoftext|>",
    "{}<｜end▁of▁sentence｜>",
    "{}<|im_end|>\n<|im_start|>user\n3",
    "{}<|end_of_sentence|>",
    "{} <|eom|>\n<|some_token_of_2027|>",
    "{}[EOT]",
    "<|START_THINKING|>3<|END_THINKING|><|START_RESPONSE|>{}<|END_RESPONSE|>",
    "<|im_start|>assistant\n{}<|im_end|>",
    "<|start_header_id|>assistant<|end_header_id|>\n\n{}<|eot_id|>",
    "\\boxed{{}}",
    "$\\boxed{{}}$.",
    "$$\\boxed{\\text{{}}}$$",
    "\\\\boxed{{}}",
    "\\({}\\)",
    "The answer is $\\boxed{{}}$.",
    "The final answer is: **\\boxed{{}}**",
    "<|begin_of_box|>{}<|end_of_box|>",
    "<box>{}</box>",
    "<answer>{}</answer>",
    "<answer><|begin_of_box|>{}<|end_of_box|></answer><|user|>",
    "<think>3</think><answer>Answer: {}</answer>",
    "Answer: <b>{}</b>",
    "<final-answer>{}</final-answer>",
    "<Digit>{}</Digit>",
    '{"answer": "{}"}',
    '{"final_answer": "{}"}',
    '```json\n{"answer": "{}"}\n```',
    "```\n{}\n```",
    "```{}```",
    "~~~text\n{}.\n~~~",
    "**{}**",
    "`{}`",
]


@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.parametrize("answer", ["7", "yellow one"])
def test_wrappers_around_an_answer_are_taken_off(wrapper, answer):
    text = wrapper.replace("{}", answer)
    assert match_answer(text, [answer]) == answer
    assert match_answer(wrapper.replace("{}", f"not {answer}"), [answer]) is None
    assert is_readable(text, ["8"] if answer == "7" else ["green"])


@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.parametrize("said", ["B", "(B)", "B. Dog", "dog"])
def test_wrappers_around_an_option_are_taken_off(wrapper, said):
    text = wrapper.replace("{}", said)
    assert read_choice(text, ANIMALS) == 1
    assert match_answer(text, ["B"], ANIMALS) == "B"
    assert match_answer(text, ["A"], ANIMALS) is None


@pytest.mark.parametrize(
    "text",
    [
        "<think>7",
        "<think>7\n7",
        "<think>It is 7. \\boxed{7}",
        "<think>\\boxed{7}</think>",
        "<think>7</think>8",
        "7<think>no, 8</think>",
        "7 <think> or is it",
        "<think>a</think>7<think>b</think>8",
        "[THINK]7",
        "<|channel|>analysis<|message|>7<|end|>",
        "<|im_end|>7",
        "8<|im_end|>7",
        "It is not \\boxed{7}",
        "\\boxed{7} or \\boxed{8}",
        "\\boxed{7}\\boxed{8}",
        "\\boxed{not 7}",
        "<b>7</b> or <b>8</b>",
        "<answer>7</answer><answer>8</answer>",
        '{"answer": "7", "other": "8"}',
        '{"answer": "8", "answer": "7"}',
        '{"reasoning": "7"}',
        '{"thought": "7"}',
        '{"not": "7"}',
        '{"answer": null}',
        '{"answer": {"answer": "7"}}',
        "{" * 5000 + "}" * 5000,
        "$7$ or $8$",
        "```\n7\n```\n```\n8\n```",
        "$7",
        "<|START_THINKING|>7<|END_THINKING|>",
        "<|START_THINKING|>7",
        "<thought-of>7</thought-of>",
        "<not>7</not>",
        "<|not|>7",
    ],
)
def test_reasoning_is_never_read_and_only_whole_texts_are_unwrapped(text):
    assert match_answer(text, ["7"]) is None
    assert read_choice(text.replace("7", "B").replace("8", "C"), ANIMALS) in (None, 2)


@pytest.mark.parametrize("text", ["<s>", "<b>x</b>", "red <s> card", "\\boxed{7}", '{"a": 1}'])
def test_answers_that_look_like_wrappers_are_themselves(text):
    assert match_answer(text, [text]) == text
    assert match_answer(f"{text} or not", [text]) is None


def test_number_in_json_is_read_as_it_is_written():
    assert match_answer('{"digit": 7}', ["7"]) == "7"
    assert match_answer('{"value": 7.50}', ["7.50"]) == "7.50"
    assert match_answer('{"value": 7.50}', ["7.5"]) is None


def test_wrapped_text_of_a_model_that_runs_on_is_read_in_no_time():
    started = time.perf_counter()
    for text in (
        "\\boxed{" * 9000,
        "<answer>" * 9000,
        "<think>" * 90000,
        "<|a|>" * 90000,
        " " * 90000 + "<|a",
        "```" * 30000,
        "$" * 90000,
    ):
        assert match_answer(text, ["B"], ANIMALS) is None
        assert match_answer(text, ["7"]) is None
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("text", "answers", "choices", "expected"),
    [
        ("8", ["7"], None, True),
        ("Answer: 45", ["7"], None, True),
        ("$12", ["7"], None, True),
        ("I cannot see the video.", ["7"], None, False),
        ("The digit on the card is 7.", ["7"], None, False),
        ("7" * 32, ["7"], None, False),
        ("", ["7"], None, False),
        ("<think>7", ["7"], None, False),
        ("red", ["Blue"], None, True),
        ("a light greyish blue", ["Blue"], None, True),
        ("Sorry, I cannot find any such sign here", ["Blue"], None, False),
        ("...", ["Blue"], None, False),
        ("C", ["A"], ANIMALS, True),
        ("B or C", ["A"], ANIMALS, False),
        ("a bird", ["A"], ANIMALS, False),
    ],
)
def test_readable_is_what_has_the_form_of_an_answer(text, answers, choices, expected):
    assert is_readable(text, answers, choices) is expected
