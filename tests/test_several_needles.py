"""The tasks retrieve-all, count and order: groups, where they stand, what is asked."""

from collections import Counter
from itertools import pairwise, permutations
from math import factorial

import pytest
from needle_sets import numbered_needles

from vniah.answers import find_ambiguous
from vniah.errors import TaskError
from vniah.grid import Cell, Grid
from vniah.protocol import HAYSTACK, Frames, needle_source
from vniah.scoring import GeneratedText, LogitsScore, Reading
from vniah.tasks import load_task
from vniah.tasks.groups import Spacing, group_indices

TASKS_OF_GROUPS = ("retrieve-all", "count", "order")


def samples_of(task, frames, depths, *, needles=None, **options):
    needles = needles or numbered_needles()
    return list(load_task(task, options).samples(Grid.parse(frames, depths), needles, None))


def shown_in(sample):
    """The needles that are shown, in order, each with the number of haystack frames before it."""
    found, before = [], 0
    for frame in Frames(sample.shown):
        if frame.source == HAYSTACK:
            assert frame.index == before, "the haystack is whole and in order"
            before += 1
        else:
            found.append((frame.source, before))
    assert before == sample.cell.num_frames
    return found


# --- where groups stand --------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize(("spacing", "step"), [("4", 4), ("10%", 5), ("1%", 1)])
def test_neighbours_are_equally_far_apart_at_every_depth(count, spacing, step):
    starts = []
    for depth in Grid.parse("50", "0:1:0.1").depths:
        cell = Cell(50, depth)
        indices = group_indices(cell, count, Spacing.parse(spacing, "spacing"), "x")
        assert len(indices) == count
        assert all(after - before == step for before, after in pairwise(indices))
        outside = 50 - (indices[-1] - indices[0])
        assert indices[0] == depth * outside // 1, "the share of the frames outside before it"
        starts.append(indices)
    assert starts[0][0] == 0 and starts[-1][-1] == 50
    assert starts[5][0] + starts[5][-1] in (49, 50), "at depth 0.5 its middle is the video's"


def test_a_group_of_one_stands_where_a_needle_would():
    for cell in Grid.parse("7,50,333", "0:1:0.07").cells:
        assert group_indices(cell, 1, Spacing(9), "x") == (cell.needle_index,)


@pytest.mark.parametrize("task", TASKS_OF_GROUPS)
def test_haystack_too_short_for_a_group_is_one_line(task):
    with pytest.raises(
        TaskError,
        match=rf"[34] pictures of the task {task} that stand 50 haystack frames apart need 1[05]0 "
        r"haystack frames, and the grid has cells of 99: give more frames, fewer pictures or a",
    ):
        samples_of(task, "99", "0.5", spacing="50")


@pytest.mark.parametrize("task", TASKS_OF_GROUPS)
def test_positions_are_refused(task):
    grid = Grid.parse("8", positions="0:8:4")
    with pytest.raises(TaskError, match="give --depths instead of --positions"):
        list(load_task(task).samples(grid, numbered_needles(), None))


@pytest.mark.parametrize("task", TASKS_OF_GROUPS)
@pytest.mark.parametrize("frames", ["1", "2", "3", "8"])
def test_short_haystacks_hold_a_group_or_are_one_line(task, frames):
    try:
        found = samples_of(task, frames, "0:1:0.25")
    except TaskError as error:
        assert int(frames) < 3 and "give more frames" in str(error)
    else:
        assert all(shown_in(one) for one in found)


@pytest.mark.parametrize("task", TASKS_OF_GROUPS)
def test_axis_says_what_depth_means(task):
    assert load_task(task).labels["depth"] == "Depth of the group"


# --- retrieve-all --------------------------------------------------------------------------------


def test_each_needle_of_a_group_is_asked_for_and_all_are_shown():
    found = samples_of("retrieve-all", "40", "0.5", num_needles="2,3", spacing="5,10%")
    assert len(found) == 2 * 4 * (2 + 3), "spacings, groups, needles of a group"
    groups = {}
    for one in found:
        groups.setdefault(one.fields["group"], []).append(one)
        ids, indices = one.fields["needle_ids"], one.fields["needle_indices"]
        assert shown_in(one) == [
            (needle_source(name), place) for name, place in zip(ids, indices, strict=True)
        ]
        assert one.fields["asked_index"] == indices[ids.index(one.fields["needle_id"])]
        assert one.question == f"Which number is on card {one.fields['needle_id'][1:]}?"
    for members in groups.values():
        assert len({one.shown for one in members}) == 1, "one video"
        asked = [one.fields["needle_id"] for one in members]
        assert sorted(asked) == sorted(members[0].fields["needle_ids"])
    counts = Counter((one.fields["needle_id"], one.fields["num_needles"]) for one in found)
    assert set(counts.values()) == {4, 6}, "each as often as the others"


def test_groups_are_shown_in_many_orders():
    found = samples_of("retrieve-all", "20:400:20", "0:1:0.25", num_needles="3")
    orders = Counter(tuple(one.fields["needle_ids"]) for one in found)
    assert len(orders) == 4 * 6


def test_more_needles_than_the_set_has_are_refused():
    with pytest.raises(TaskError, match="num_needles asks for 5 needles, and the needle set has 4"):
        samples_of("retrieve-all", "40", "0", num_needles="5")


# --- count ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("answers", ["letters", "words"])
def test_needle_is_shown_as_often_as_the_answer_says(answers):
    found = samples_of("count", "40", "0,1", counts="0,2,5", spacing="3", answers=answers)
    assert len(found) == 2 * 4 * 3
    for one in found:
        own = needle_source(one.fields["needle_id"])
        shown = shown_in(one)
        assert [source for source, _ in shown] == [own] * one.fields["num_shown"]
        assert all(after - before == 3 for (_, before), (_, after) in pairwise(shown))
        options = one.choices or one.candidates
        assert options == ("0", "2", "5")
        assert options[one.candidates.index(one.answer)] == str(one.fields["num_shown"])
    assert len({one.answer for one in found}) == 3
    assert set(Counter(one.answer for one in found).values()) == {8}, "all equally often"


def test_counting_is_asked_in_the_published_form():
    one = samples_of("count", "40", "0")[1]
    assert one.question == (
        "How many times is card 0 shown in the video?\nA. 1\nB. 2\nC. 3\nD. 4\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert (one.answer, one.candidates) == ("B", ("A", "B", "C", "D"))
    assert one.choices == ("1", "2", "3", "4")


# --- order ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("answers", ["letters", "words"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_answer_is_the_order_in_which_the_needles_are_shown(count, answers):
    needles = numbered_needles(12)
    found = samples_of(
        "order", "60", "0,0.3", num_needles=count, spacing="3", answers=answers, needles=needles
    )
    names = {needle_source(needle.needle_id): needle.locator for needle in needles}
    for one in found:
        options = one.choices or one.candidates
        said = options[one.candidates.index(one.answer)]
        assert said == ", ".join(names[source] for source, _ in shown_in(one))
        asked = sorted(said.split(", "))
        assert sorted(options) == sorted(map(", ".join, permutations(asked))), "all orders"
        assert find_ambiguous(tuple(options)) is None
    for depth in {one.cell.depth for one in found}:
        right = Counter(one.answer for one in found if one.cell.depth == depth)
        counts = [right[letter] for letter in found[0].candidates] if answers == "letters" else []
        assert not counts or max(counts) - min(counts) <= 1, "all equally often"
        if answers == "letters":
            assert len(counts) == factorial(count)


def test_order_is_not_told_by_the_question():
    found = samples_of("order", "8:80:8", "0,0.5,1", num_needles="2", spacing="1")
    by_question = {}
    for one in found:
        by_question.setdefault(one.question, set()).add(one.answer)
    assert all(answers == {"A", "B"} for answers in by_question.values())


# --- what needles must have ----------------------------------------------------------------------


@pytest.mark.parametrize("task", ["count", "order"])
def test_needles_without_locators_are_one_line(task):
    plain = numbered_needles(has_locators=False)
    with pytest.raises(TaskError, match=r"the needle n0 of numbered has no 'locator': add to its"):
        samples_of(task, "40", "0", needles=plain)
    assert samples_of("retrieve-all", "40", "0", needles=plain), "asks the needles' questions"


# --- scores --------------------------------------------------------------------------------------


def readings(logprobs, ids=None):
    return [
        Reading(0.5, (number if ids is None else ids[number],), LogitsScore((1,), False, p, 3, -1))
        for number, p in enumerate(logprobs)
    ]


@pytest.mark.parametrize("answers", ["letters", "words"])
def test_most_probable_option_is_the_answer(answers):
    task = load_task("count", {"answers": answers})
    one = samples_of("count", "40", "0", answers=answers)[2]  # three times
    score = task.score(one, readings([-3.0, -2.0, -1.0, -4.0]))
    assert (score.correct, score.prediction, score.rank) == (True, one.answer, 1)
    score = task.score(one, readings([-3.0, -1.0, -2.0, -4.0]))
    assert (score.correct, score.prediction) == (False, one.candidates[1])


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("C", True),
        ("3", True),
        ("C. 3", True),
        ("B", False),
        ("The answer is 3.", True),
        ("4", False),
    ],
)
def test_chat_model_may_name_the_letter_or_the_number(text, is_right):
    one = samples_of("count", "40", "0")[2]
    said = Reading(1.0, generated=GeneratedText(text))
    assert load_task("count").score(one, [said]).correct is is_right


@pytest.mark.parametrize(
    ("text", "is_right"), [("card 1, card 0", True), ("card 0, card 1", False)]
)
def test_chat_model_may_name_the_order_in_words(text, is_right):
    task = load_task("order", {"num_needles": "2"})
    one = next(
        s
        for s in task.samples(Grid.parse("40:80:8", "0"), numbered_needles(2), None)
        if s.fields["needle_ids"] == ["n1", "n0"]
    )
    for said in (text, f"{one.candidates[one.choices.index(text)]}. {text}"):
        reading = Reading(1.0, generated=GeneratedText(said))
        assert task.score(one, [reading]).correct is is_right


def test_options_that_a_model_reads_as_the_same_tokens_are_an_error():
    """As by a vocabulary without the letters: it could not choose, and the first would win."""
    one = samples_of("count", "40", "0")[0]
    with pytest.raises(TaskError, match="reads the options 'A' and 'B' as the same tokens"):
        load_task("count").score(one, readings([-1.0] * 4, ids=[7, 7, 7, 7]))


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("retrieve-all", {"num_needles": "1"}, "option num_needles must be whole numbers from 2"),
        (
            "retrieve-all",
            {"spacing": "0"},
            "option spacing must be a whole number of haystack",
        ),
        ("retrieve-all", {"spacing": "wide"}, "option spacing must be"),
        ("order", {"num_needles": "5"}, "option num_needles must be whole numbers from 2 to 4"),
        ("order", {"answers": "numbers"}, "option answers must be one of letters, words"),
        ("count", {"counts": "3"}, "option counts must name 2 to 26 numbers to choose among"),
        ("count", {"counts": "0:40:1"}, "option counts must name 2 to 26 numbers"),
        ("count", {"counts": "1,1"}, "option counts must name each number once"),
    ],
)
def test_invalid_option_is_one_line(task, options, message):
    with pytest.raises(TaskError, match=message):
        load_task(task, options)


def test_settings_say_what_is_measured():
    assert load_task("count", {"spacing": "5%,3"}).settings == {
        "counts": [1, 2, 3, 4],
        "spacing": ["5%", 3],
        "answers": "letters",
    }
    assert load_task("order", {"num_needles": "2", "needle_frames": "2"}).settings == {
        "num_needles": [2],
        "spacing": ["10%"],
        "answers": "letters",
        "needle_frames": 2,
    }
