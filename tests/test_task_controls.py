"""The default controls of each task, and what their verdict says of models with a known flaw.

Models here are rules that say an answer to a sample; nothing is encoded or run.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from needle_sets import FRAME_TASKS, numbered_needles
from runs import make_manifest

from vniah.analysis.plot import heatmap
from vniah.analysis.plot.table import resolve
from vniah.analysis.verdict import NOTHING, verdict
from vniah.answers.option_lines import find_option_lines
from vniah.grid import Grid
from vniah.protocol import needle_of
from vniah.results import Results, SampleResult, group_results
from vniah.tasks import load_task
from vniah.tasks.controls import plan_samples
from vniah.tasks.controls.gain import Gain
from vniah.tasks.controls.guessing import chance_of

GRID = Grid.parse("16,40", "0,0.4,1")
WORDS = {"answers": "words"}
ALL = ("no-needle", "option-rotation", "blind", "other-needle")


def measured(task, say, *, grid=GRID, needles=None, controls="default", **options):
    """The results of a model that says what a rule gives for a sample, with those of controls."""
    task, needles = load_task(task, options), needles or numbered_needles(6)
    samples = plan_samples(task, grid, needles, None, controls)
    rows = [result_of(task.name, sample, say(sample)) for sample in samples]
    manifest = make_manifest(grid, task=task.name)
    manifest |= {
        "controls": list(dict.fromkeys(row.control for row in rows if row.control)),
        "sample_ids": " ".join(row.sample_id for row in rows),
        "task_details": {"all_of": task.all_of} if hasattr(task, "all_of") else {},
    }
    tests = tuple(row for row in rows if row.control is None)
    return Results("rule", Path("run"), manifest, tests, tuple(row for row in rows if row.control))


def result_of(task, sample, said):
    return SampleResult(
        sample.sample_id,
        task,
        sample.cell,
        sample.question,
        sample.answer,
        sample.control,
        sample.fields,
        prediction=said,
        correct=said == sample.answer,
    )


def shown_numbers(sample):
    """What is on the cards that a sample shows, in their order."""
    ids = [needle_of(span.source) for span in sample.shown]
    return [one.removeprefix("n") for one in ids if one is not None]


def honest(sample):
    """Right about what is shown; where nothing is, the question is all it has."""
    shown = shown_numbers(sample)
    if sample.control in (None, "option-rotation"):
        return sample.answer
    asked = next((one for one in shown if f"card {one}?" in sample.question), None)
    return asked or "none"


def constant(answer):
    return lambda sample: answer


def first_card(sample):
    """Reads the first card, whatever is asked."""
    return next(iter(shown_numbers(sample)), "none")


def always_first_words(sample):
    """Chooses the option of the smallest number, wherever it stands."""
    lines = find_option_lines(sample.question)
    return lines.letters[lines.words.index("1")]


@pytest.mark.parametrize(
    ("task", "options", "expected"),
    [
        ("vniah", {}, ALL),
        ("vniah-d", {"distractors": "0,1,3"}, ALL),
        ("retrieve-all", {}, ALL),
        ("count", {}, ALL[:3]),
        ("count", WORDS, ALL[:3]),
        ("order", {}, ALL[:3]),
        ("order", WORDS, ALL[:3]),
        ("bridged", {"others": "0,1"}, ("no-needle", "blind")),
        ("localization", {}, ("no-needle", "blind")),
        ("localization", {"ask": "second"}, ("no-needle", "blind")),
    ],
)
def test_every_task_has_its_default_controls_and_none_fails(task, options, expected):
    made = load_task(task, options)
    assert made.controls == expected
    notes = []
    samples = plan_samples(made, GRID, numbered_needles(), None, on_note=notes.append)
    controls = {sample.control for sample in samples} - {None}
    has_letters = any(sample.choices for sample in samples)
    assert controls == {name for name in expected if has_letters or name != "option-rotation"}
    assert not notes, "a default control leaves out nothing that the task asks"


def test_the_cases_name_every_task():
    assert set(FRAME_TASKS) == {
        "vniah", "vniah-d", "retrieve-all", "count", "order", "bridged", "localization"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("vniah-d", {"distractors": "0,1,3"}),
        ("retrieve-all", {}),
        ("count", {}),
        ("count", WORDS),
        ("order", {}),
        ("order", WORDS),
        ("bridged", {"others": "0"}),
        ("localization", {}),
        ("localization", {"ask": "second"}),
    ],
)
def test_honest_model_is_not_conspicuous_in_any_task(task, options):
    results = measured(task, honest, **options)
    assert results.average == 1
    assert verdict(results).conspicuous == ()
    assert verdict(results).text == NOTHING


@pytest.mark.parametrize(
    ("task", "options", "say", "expected"),
    [
        ("localization", {}, constant("10"), "always answers 10"),
        ("localization", {"ask": "second"}, constant("07"), "always answers 07"),
        ("count", WORDS, constant("4"), "always answers 4"),
        ("count", {}, constant("C"), "always answers C"),
        ("order", {}, constant("B"), "always answers B"),
        ("retrieve-all", {}, first_card, "reads what stands out, ignores the question"),
        ("vniah-d", {"distractors": "0,1"}, first_card, "reads what stands out, ignores"),
    ],
)
def test_verdict_names_the_flaw_of_a_rule(task, options, say, expected):
    (found,) = verdict(measured(task, say, **options)).conspicuous
    assert found.startswith(expected)


def test_one_content_for_all_is_not_taken_for_a_letter():
    """It follows the content "1" through all orders: no letter is preferred."""
    found = verdict(measured("count", always_first_words))
    assert found.conspicuous == ("no better than without the needle",)
    rotated = next(one for one in found.findings if one.control == "option-rotation")
    assert rotated.summary == (
        "0.25 right over all orders of the options of 6 questions; guessing gives 0.25. A is "
        "chosen most often, in 25% of the samples"
    )


def test_preferred_answer_is_only_mostly_given_where_some_questions_are_read():
    """One of six cards is located, and the others said to be in part 10."""
    results = measured("localization", lambda s: s.answer if locates(s) else "10")
    found = verdict(results)
    assert found.conspicuous == ("mostly answers 10",)
    assert "the answer to 6 of 6 questions is 10" in found.findings[0].summary
    assert "guessing gets 0.6 of" in found.findings[0].summary


def locates(sample):
    return sample.control is None and sample.fields["needle_id"] == "n0"


@pytest.mark.parametrize(("num_read", "is_better"), [(0, False), (1, True)])
def test_score_is_compared_with_the_same_questions_without_the_needle(num_read, is_better):
    """One of six cards is a gain of 0.17; a model that reads none says nothing by its score."""
    results = measured("vniah", lambda s: s.answer if reads(s, num_read) else "none")
    found = verdict(results)
    assert found.conspicuous == (() if is_better else ("no better than without the needle",))
    line = "; 0.00 of the test's samples are right, and 0.00 without the needle"
    assert found.lines[0].endswith(line) is not is_better


def reads(sample, num_read):
    return sample.control is None and sample.fields["needle_id"] in {
        f"n{number}" for number in range(num_read)
    }


def test_shares_without_the_needle_are_of_the_answers_that_the_test_asks_for():
    """Part 1 is right at depth 0 only, with a needle and without one."""
    results = measured("localization", constant("01"), grid=Grid.parse("20,40,80", "0"))
    assert Gain.of(results.samples, results.control_samples) == Gain(1.0, 1.0)
    mixed = measured("localization", constant("01"), grid=Grid.parse("20,40", "0,0.4,1"))
    no_needle = [row for row in mixed.control_samples if row.control == "no-needle"]
    gain = Gain.of(mixed.samples, no_needle)
    assert (gain.shown, gain.hidden) == (mixed.average, pytest.approx(mixed.average))
    assert Gain.of(mixed.samples, []) is None


def test_one_answer_is_no_flaw_where_the_test_has_no_other():
    """At depth 0.5 alone part 6 is right everywhere; what is right without seeing says it."""
    single = Grid.parse("20,40", "0.5")
    assert verdict(measured("localization", honest, grid=single)).conspicuous == ()
    found = verdict(measured("localization", constant("06"), grid=single))
    assert found.conspicuous == ("answers without seeing",)
    wrong = verdict(measured("localization", constant("05"), grid=single))
    assert wrong.conspicuous == ("no better than without the needle",), "it may be one part off"


@pytest.mark.parametrize(
    ("task", "options", "chance"),
    [
        ("localization", {}, 1 / 10),
        ("localization", {"parts": "4"}, 1 / 4),
        ("count", WORDS, 1 / 4),
        ("count", {"counts": "0,1,2"}, 1 / 3),
        ("order", WORDS, 1 / 6),
        ("order", {"num_needles": "2"}, 1 / 2),
        ("vniah", {}, 1 / 10),
    ],
)
def test_a_guess_is_one_of_the_options_that_the_task_has(task, options, chance):
    results = measured(task, honest, **options)
    rows = [*results.samples, *results.control_samples]
    assert {chance_of(row) for row in rows} == {chance}


@pytest.mark.parametrize("task", ["retrieve-all", "vniah-d"])
def test_other_needle_counts_needles_and_not_what_they_are_shown_with(task):
    options = {"distractors": "0,1,3"} if task == "vniah-d" else {"spacing": "1,2"}
    found = verdict(measured(task, honest, **options))
    summary = {one.control: one.summary for one in found.findings}["other-needle"]
    assert "for 0 of 6 needles that it reads" in summary


def test_groups_are_counted_beside_controls_with_a_cell():
    results = measured("retrieve-all", honest)
    assert any(row.cell is not None for row in results.control_samples)
    groups = group_results(results)
    assert groups.average == 1 and groups.is_complete
    assert len(groups.samples) == 6 * len(GRID.cells)
    # A control that has no line yet does not hide a group; a sample of the test does.
    fewer = replace(results, control_samples=results.control_samples[:5])
    assert len(group_results(fewer).samples) == len(groups.samples)
    without_last = group_results(replace(results, samples=results.samples[:-1]))
    assert len(without_last.samples) == len(groups.samples) - 6


def test_a_guess_has_a_line_in_the_colour_bar_of_the_heatmap():
    figure = Figure()
    ax = heatmap(measured("localization", honest), figure.subplots())
    bar = ax.collections[0].colorbar
    assert [line.get_ydata()[0] for line in bar.ax.lines if line.get_linestyle() == ":"] == [0.1]
    assert "a guess is right in 0.10" in resolve(measured("localization", honest)).caption
    plain = measured("vniah", honest)
    assert plain.chance is None and "guess" not in resolve(plain).caption
