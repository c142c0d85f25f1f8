"""Controls: what they ask, and whether the verdict catches models with a known flaw."""

import itertools
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from chat_server import serve
from chat_server import write_haystack as write_greys
from chat_server import write_needles as write_colours
from decoder_models import DecoderStandIn, open_engine
from planted_models import (
    OPTIONS,
    Planted,
    PlantedChat,
    always_c,
    from_haystack,
    from_language,
    honest,
    odd_frame,
    write_haystack,
    write_needles,
)
from test_prefill import build_decoder

from vniah.analysis.verdict import verdict
from vniah.answers.option_lines import find_option_lines, rotate_options
from vniah.cli import main
from vniah.cli.display import format_controls
from vniah.errors import InputError, TaskError
from vniah.grid import Grid
from vniah.haystacks.haystack import open_haystack
from vniah.models.server.client import ServerOptions, open_server
from vniah.models.server.messages import FrameFormat
from vniah.needles import Needle, NeedleSet, load_needles
from vniah.options import Decoding
from vniah.protocol import HAYSTACK, Frames, FrameSpan, needle_source
from vniah.results import load_results
from vniah.sweep.estimate import estimate
from vniah.sweep.run import Sweep, SweepOptions, run_sweep
from vniah.sweep.throughput import Rates
from vniah.tasks.controls import CONTROLS, Finding, plan_samples
from vniah.tasks.controls.guessing import guess_chance, tail_of
from vniah.tasks.vniah import VisualNeedle

pytestmark = pytest.mark.usefixtures("quick_pictures", "checked_once")

DOCS = Path(__file__).parent.parent / "docs"
GRID = Grid.parse("4,12", "0,1")
NOTHING = "nothing conspicuous"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A grey haystack, and four cards with a digit and four that are asked for by a letter."""
    folder = tmp_path_factory.mktemp("world")
    return (
        open_haystack(write_haystack(folder / "greys", 12)),
        load_needles(write_needles(folder / "cards")),
    )


@pytest.fixture
def measure(world, tmp_path):
    """Runs a sweep of a planted model."""

    def run(model, *, haystack=None, needles=None, controls="all", output="run", **options):
        return run_sweep(
            model,
            haystack or world[0],
            needles or world[1],
            options.pop("grid", GRID),
            output=tmp_path / output,
            controls=controls,
            progress=False,
            **options,
        )

    return run


# --- planted models ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Planted(honest), NOTHING),
        (Planted(always_c), "always answers C"),
        (Planted(odd_frame), "reads what stands out, ignores the question"),
        (Planted(from_haystack), "the haystack gives the answer away"),
        (Planted(from_language), "answers without seeing"),
        (Planted(honest, reads_order=False), "reads the haystack in no order"),
        (PlantedChat(honest), NOTHING),
        (PlantedChat(odd_frame), "reads what stands out, ignores the question"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_verdict_names_the_flaw_of_a_planted_model_and_no_other(measure, tmp_path, model, expected):
    results = measure(model)
    found = verdict(results)
    assert results.is_complete and found.gaps == ()
    assert re.sub(r" \(.*\)", "", found.text) == expected
    assert [one.control for one in found.findings] == list(CONTROLS)
    assert verdict(load_results(tmp_path / "run")) == found, "also of a run that lies in its folder"


@pytest.mark.usefixtures("film")
def test_embedded_model_is_not_conspicuous(tmp_path, capsys):
    words = ["run", "--frames", "4,8", "--depths", "0,1", "--output", str(tmp_path / "run")]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "\nverdict: nothing conspicuous\n" in shown
    assert re.search(r"control +4 +8 +-\n", shown) and re.search(r"blind +0\.\d\d\n", shown)


def test_model_that_always_answers_c_has_the_debiased_accuracy_of_chance(measure):
    results = measure(Planted(always_c))
    assert results.debiased.score == results.debiased.chance == 0.25
    assert {cell: one.score for cell, one in results.debiased_by_cell.items()} == dict.fromkeys(
        GRID.cells, 0.25
    )
    assert {n: one.num_samples for n, one in results.debiased_by_length.items()} == {4: 8, 12: 8}
    assert "all orders of the options  0.25  0.25" in format_controls(results)


def test_letter_beyond_some_length_is_named_with_the_lengths(measure):
    def forgets(seen, question):
        return honest(seen, question) if len(seen) < 9 else "B"

    results = measure(Planted(forgets), controls="option-rotation", grid=Grid.parse("3,4,12", "0"))
    assert verdict(results).text == "always answers B at the length 12"
    assert results.debiased_by_length[12].score == 0.25 and results.debiased.score == 0.75


def test_letter_is_mostly_chosen_where_some_samples_follow_the_content(measure):
    """C has the majority in every order, and is chosen in two of three samples."""

    def mixed(seen, question):
        return "C" if len(seen) < 9 else honest(seen, question)

    grid = Grid.parse("3,4,12", "0")
    results = measure(Planted(mixed), controls="option-rotation", grid=grid)
    found = verdict(results)
    assert found.text == "mostly answers C"
    chosen = [
        find_option_lines(row.question).chosen(row.prediction) == "C"
        for row in (*results.samples, *results.control_samples)
        if find_option_lines(row.question)
    ]
    assert sum(chosen) < 0.9 * len(chosen)
    assert (
        f"C is chosen most often, in {sum(chosen) / len(chosen):.0%} of the samples"
        in (found.lines[0])
    )


def test_four_orders_of_one_question_are_too_few_to_tell(measure, world):
    one = NeedleSet("one", "one", (next(needle for needle in world[1] if needle.choices),))
    found = verdict(measure(Planted(always_c), needles=one, controls="option-rotation"))
    assert found.text == NOTHING
    assert "in 100% of the samples, and the orders are too few to tell" in found.lines[0]


def test_haystack_that_shows_one_answer_is_named_with_the_needle(measure, tmp_path):
    film = open_haystack(write_haystack(tmp_path / "film", 12, colour=(0, 250, 0)))
    found = verdict(measure(Planted(honest), haystack=film, controls="default"))
    assert found.text == "the haystack gives the answer away (card-3)"


def test_haystack_is_not_blamed_for_what_only_a_text_says(measure, tmp_path):
    """One question of eight is no evidence where nobody knows how sure the model is."""
    film = open_haystack(write_haystack(tmp_path / "film", 12, colour=(0, 250, 0)))
    found = verdict(measure(PlantedChat(honest), haystack=film, controls="default"))
    assert found.text == NOTHING
    assert "right without the needle in 1 of 8 questions (card-3)" in found.lines[0]
    assert found.lines[0].endswith("cannot be told without log-probabilities")


@pytest.mark.parametrize(("num_sevens", "is_caught"), [(5, True), (1, False)])
def test_answers_that_can_be_guessed_are_caught_and_one_of_five_is_not(
    measure, world, num_sevens, is_caught
):
    """Five needles, and a model that says 7 to all."""
    answers = ["7"] * num_sevens + ["1", "2", "3", "4"]
    cards = [
        Needle(f"card-{k}", f"Which digit is on card {k}?", answer, None, needle.image)
        for k, (answer, needle) in enumerate(zip(answers[:5], world[1], strict=False))
    ]

    def seven(seen, question):
        return "7"

    results = measure(
        Planted(seven), needles=NeedleSet("five", "five", tuple(cards)), controls="no-needle,blind"
    )
    assert results.average == num_sevens / 5
    assert "too few" not in "".join(verdict(results).lines)
    expected = "answers without seeing" if is_caught else "no better than without the needle"
    assert verdict(results).text == expected


def test_control_with_errors_is_not_inconspicuous(measure):
    class Failing(VisualNeedle):
        def score(self, sample, readings):
            if sample.control == "blind":
                raise KeyError("oh")
            return super().score(sample, readings)

    found = verdict(measure(Planted(honest), task=Failing(), controls="default"))
    assert found.text == "nothing conspicuous in what was run; blind lacks 8 samples of 8"
    only = verdict(measure(Planted(honest), task=Failing(), controls="blind", output="blind"))
    assert only.text == "none, as no control has a result; blind lacks 8 samples of 8"


def test_two_questions_are_too_few_to_tell(measure, world):
    found = verdict(
        measure(Planted(from_language), needles=world[1].select(["card-7"]), controls="blind")
    )
    assert found.text == "no better than from the question alone"
    summary, shares = found.lines[0].rsplit("; ", 1)
    assert summary.endswith("guessing gets 0.1 of 1, and they are too few to tell")
    assert shares == "1.00 of the test's samples are right, and 1.00 from the question alone"


def test_run_without_controls_has_no_verdict(measure):
    assert verdict(measure(Planted(honest), controls="none")) is None


# --- what guessing gives -------------------------------------------------------------------------


@pytest.mark.parametrize("chances", [[0.5] * 4, [0.1, 0.25, 0.25, 0.001], [1.0, 0.5]])
def test_tail_is_that_of_all_outcomes(chances):
    for num_right in range(len(chances) + 2):
        expected = 0.0
        for outcome in itertools.product([0, 1], repeat=len(chances)):
            if sum(outcome) >= num_right:
                pairs = zip(outcome, chances, strict=True)
                product = 1.0
                for is_right, chance in pairs:
                    product *= chance if is_right else 1 - chance
                expected += product
        assert tail_of(num_right, chances) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("question", "answer", "chance"),
    [
        ("Which?\nA. Cat\nB. Dog\nC. Fox\n", "B", 1 / 3),
        ("Which letter?", "B", 1 / 4),
        ("Is it?", "Yes", 1 / 2),
        ("Which digit?", "7", 1 / 10),
        ("How many ml?", "730", 1 / 1000),
        ("Which color?", "blue", 1 / 10),
        ("Which numbers?", "12, 3456, and 789", 1e-9),
        ("When?", "1:30", 1e-3),
    ],
)
def test_guess_is_judged_by_the_form_of_the_answer(question, answer, chance):
    assert guess_chance(question, answer) == pytest.approx(chance)


# --- options in other orders ---------------------------------------------------------------------

LISTED = "Which is it?\nA. 10\nB. 12\nC. 13\nAnswer with the option's letter."


@pytest.mark.parametrize(
    ("choices", "candidates", "expected"),
    [
        (("10", "12", "13"), ("C",), ("B",)),
        (("10", "12", "13"), ("13",), ("13",)),
        (("10", "12", "13"), ("C", "13", "C. 13", "13 (C)"), ("B", "13", "B. 13", "13 (B)")),
        (("A. 10", "B. 12", "C. 13"), ("C. 13", "C"), ("B. 13", "B")),
        (("10", "12", "13"), ("C", "A", "B"), ("C", "A", "B")),
    ],
)
def test_options_and_the_names_of_the_answer_are_rotated_together(choices, candidates, expected):
    found = rotate_options(LISTED, choices, candidates, candidates[0], steps=1)
    assert found.question == "Which is it?\nA. 12\nB. 13\nC. 10\nAnswer with the option's letter."
    assert found.candidates == expected
    assert found.answer == ("B" if len(set(candidates)) == 3 else expected[0])
    back = rotate_options(found.question, found.choices, found.candidates, found.answer, steps=2)
    assert (back.question, back.choices, back.candidates) == (LISTED, choices, candidates)


@pytest.mark.parametrize(
    "question",
    [
        "Which is it? A. 10 B. 12 C. 13",
        "Which is it?\n10\n12\n13",
        "Which is it?\nA. 12\nB. 10\nC. 13",
        "Which is it?\nA. 10\nB. 12\nC. 13\nD. 14",
        "A. 10\nB. 12\nC. 13\nA. 10\nB. 12\nC. 13",
    ],
)
def test_question_in_another_form_is_not_rotated_and_said_so(question, world):
    needle = Needle("odd", question, "C", ("10", "12", "13"), world[1].needles[0].image)
    notes = []
    samples = plan_samples(
        VisualNeedle(),
        GRID,
        NeedleSet("one", "one", (needle,)),
        None,
        "option-rotation",
        on_note=notes.append,
    )
    assert {sample.control for sample in samples} == {None}
    assert notes[0].startswith("the control option-rotation leaves out odd: ")


def test_each_option_of_the_published_form_stands_behind_each_letter_once():
    needles = load_needles("counterfactual")
    samples = plan_samples(VisualNeedle(), Grid.parse("4", "0"), needles, None, "option-rotation")
    by_needle = {}
    for sample in samples:
        if sample.choices is not None:
            lines = find_option_lines(sample.question)
            assert lines.words == sample.choices
            place = "ABCD".index(sample.answer)
            by_needle.setdefault(sample.fields["needle_id"], []).append((place, lines.words[place]))
    assert by_needle.keys() == {"clock", "bicycle", "snowman"}
    for found in by_needle.values():
        assert sorted(place for place, _ in found) == [0, 1, 2, 3]
        assert len({words for _, words in found}) == 1


def test_sample_whose_order_has_an_error_is_not_debiased(measure):
    results = measure(Planted(honest), controls="option-rotation")
    first, *rest = results.control_samples
    broken = replace(first, correct=None, error="oh", rank=None)
    some = replace(results, control_samples=(broken, *rest))
    assert some.debiased.num_samples == results.debiased.num_samples - 1
    assert some.debiased.score == 1.0 and "in 27% of" not in verdict(some).findings[0].summary


# --- the other needle ----------------------------------------------------------------------------


def other_needles(needles, **changes):
    samples = plan_samples(VisualNeedle(), Grid.parse("4", "0"), needles, None, "other-needle")
    return {
        sample.fields["needle_id"]: sample for sample in samples if sample.control == "other-needle"
    }


def test_other_needle_is_the_first_declared_distractor_with_a_question():
    found = other_needles(load_needles("cards"))
    for needle_id, sample in found.items():
        asked_id = sample.fields["asked_needle_id"]
        needle = load_needles("cards").select([needle_id]).needles[0]
        assert asked_id == next(name for name in needle.distractors if name in found)
        assert sample.sample_id == f"4/0/{needle_id}/{asked_id}/other-needle"
        assert sample.answer == needle.answer
        assert {span.source for span in sample.shown} == {needle_source(needle_id), HAYSTACK}


def test_without_distractors_it_is_the_next_with_an_answer_of_the_same_form(world):
    found = {name: one.fields["asked_needle_id"] for name, one in other_needles(world[1]).items()}
    assert found["card-7"] == "card-3" and found["card-4"] == "card-7"


def test_option_that_was_shown_is_named_by_its_letter_in_the_other_question(world):
    found = other_needles(world[1])
    assert set(found) == set(world[1].ids)
    cat = found["card-cat"]
    assert cat.fields["asked_needle_id"] == "card-dog" and cat.choices == OPTIONS
    assert cat.candidates == ("A",)


def test_answers_that_match_are_never_paired(world):
    images = [needle.image for needle in world[1]]
    cards = [("a", "Yes"), ("b", "the yes."), ("c", "no"), ("d", "7")]
    needles = NeedleSet(
        "four",
        "four",
        tuple(
            Needle(name, f"What is {name}?", answer, None, image)
            for (name, answer), image in zip(cards, images, strict=False)
        ),
    )
    found = {name: one.fields["asked_needle_id"] for name, one in other_needles(needles).items()}
    assert found == {"a": "c", "b": "c", "c": "a", "d": "a"}
    notes = []
    one = NeedleSet("two", "two", needles.needles[:2])
    plan_samples(VisualNeedle(), GRID, one, None, "other-needle", on_note=notes.append)
    assert notes[0].startswith("the control other-needle leaves out a, b: ")


def test_question_of_a_needle_that_is_shown_is_not_asked(world):
    class Two(VisualNeedle):
        def samples(self, grid, needles, haystack):
            for sample in super().samples(grid, needles, haystack):
                second = FrameSpan(needle_source("card-3"), 0, 1)
                yield replace(sample, shown=(second, *sample.shown))

    samples = plan_samples(Two(), Grid.parse("4", "0"), world[1], None, "other-needle")
    asked = {one.fields["needle_id"]: one.fields.get("asked_needle_id") for one in samples}
    assert asked["card-7"] == "card-9" and "card-3" not in asked.values()


# --- placement -----------------------------------------------------------------------------------


def test_samples_of_controls_are_the_same_whatever_else_the_grid_holds(world):
    def planned(frames, depths):
        grid = Grid.parse(frames, depths)
        return {s.sample_id: s for s in plan_samples(VisualNeedle(), grid, world[1], None, "all")}

    few, many = planned("8", "0.5"), planned("4,8,12", "0:1:0.25")
    assert Counter(sample.control for sample in few.values()).keys() == {None, *CONTROLS}
    assert few.keys() < many.keys()
    assert all(many[sample_id] == sample for sample_id, sample in few.items())


def test_shuffled_frames_are_the_same_ones_with_the_needle_at_its_place(world):
    samples = plan_samples(VisualNeedle(), Grid.parse("40", "0,0.3,1"), world[1], None, "shuffled")
    by_id = {sample.sample_id: sample for sample in samples}
    orders = set()
    for sample in samples:
        if sample.control is None:
            continue
        original = list(Frames(by_id[sample.sample_id.removesuffix("/shuffled")].shown))
        shown = list(Frames(sample.shown))
        place = sample.fields["needle_index"]
        assert shown[place] == original[place] and sorted(map(str, shown)) == sorted(
            map(str, original)
        )
        orders.add(tuple(frame.index for frame in shown if frame.source == HAYSTACK))
    (order,) = orders
    assert sum(k == frame for k, frame in enumerate(order)) < 5
    single = plan_samples(VisualNeedle(), Grid.parse("1", "0"), world[1], None, "shuffled")
    assert {sample.control for sample in single} == {None}


# --- without a video -----------------------------------------------------------------------------


class Sees(PlantedChat):
    """Fails without frames, as nobody has asked it so before."""

    def answer(self, frames, question):
        return super().answer([frames[0], *frames], question)


def test_chat_model_that_fails_without_frames_does_not_fail_the_run(
    world, tmp_path, monkeypatch, capsys
):
    write_needles(tmp_path / "mine")
    write_haystack(tmp_path / "greys", 8)
    monkeypatch.chdir(tmp_path)
    material = ["--haystack", "greys", "--needles", "mine", "--frames", "8", "--depths", "0"]
    words = ["run", "--model", "test_controls:make_seeing", *material, "--output", "out"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "the first: honest-chat failed without frames: IndexError" in shown
    assert "verdict: nothing conspicuous in what was run; blind lacks 8 samples of 8" in shown


def make_seeing():
    return Sees(honest)


def test_model_that_needs_frames_has_no_control_without_them(measure):
    model = PlantedChat(honest)
    model.needs_frames = True
    results = measure(model, controls="default")
    assert results.is_complete and "blind" not in results.manifest["controls"]
    assert results.manifest["notes"] == [
        "the control blind is left out: honest-chat needs frames (needs_frames = True)"
    ]


def test_model_whose_forward_pass_fails_without_frames_has_no_such_control(measure):
    class Needing(Planted):
        def answer_logits(self, sequence, embeds):
            return super().answer_logits(sequence, embeds[[0, *range(len(embeds))]])

    results = measure(Needing(honest), controls="default")
    assert results.is_complete and verdict(results).text == NOTHING
    (note,) = results.manifest["notes"]
    assert note.startswith("the control blind is left out: honest failed without frames: IndexErr")


def test_decoder_that_composes_nothing_without_frames_has_no_such_control(world):
    class Needing(DecoderStandIn):
        def compose(self, frames, question, answer):
            return super().compose([frames[0], *frames[1:]], question, answer)

    found = estimate(Needing(build_decoder("qwen2")), world[1], GRID, rates=Rates(1e9, 1e9))
    assert "the control blind is left out: stand-in failed without frames" in found.notes[-1]
    options = SweepOptions(controls="blind")
    sweep = Sweep(Needing(build_decoder("qwen2")), *world, GRID, options)
    assert {sample.control for sample in sweep.samples} == {None}
    sweep = Sweep(DecoderStandIn(build_decoder("qwen2")), *world, GRID, options)
    assert Counter(sample.control for sample in sweep.samples)["blind"] == 8


def test_server_is_asked_in_words_alone(tmp_path):
    haystack = open_haystack(write_greys(tmp_path / "grey", 8))
    needles = load_needles(write_colours(tmp_path / "colours"))
    with serve() as server:
        model = open_server(server.model, ServerOptions(frames=FrameFormat(size=(16, 16))))
        results = run_sweep(
            model, haystack, needles, GRID_OF_8, output=tmp_path / "run", controls="blind"
        )
        blind = [request for request in server.requests if not request.labels]
    assert len(blind) == 3 and {found.score for found in results.controls} == {0.0}
    assert {row.prompt_tokens - len(row.question) for row in results.control_samples} == {20}


GRID_OF_8 = Grid.parse("8", "0")


def test_controls_on_the_tree_are_those_one_by_one(world):
    """A decoder with every kind of sharing, also where text is generated."""
    needles = world[1].select(["card-7", "card-3", "card-cat", "card-dog"])
    samples = plan_samples(VisualNeedle(), Grid.parse("3,9", "0,1"), needles, None, "all")
    model = DecoderStandIn(build_decoder("qwen2"))
    model.decode = lambda token_ids: " ".join(map(str, token_ids))
    found = {}
    for share in ("tree", "none"):
        engine = open_engine(model, decoding=Decoding(3, ()), share=share)
        num_batches = engine.plan(samples, [True] * len(samples))
        outcomes = (pair for k in range(num_batches) for pair in engine.run(k))
        found[share] = {sample.sample_id: readings for sample, readings in outcomes}
        assert found[share].keys() == {sample.sample_id for sample in samples}
    for sample_id, readings in found["tree"].items():
        for one, other in zip(readings, found["none"][sample_id], strict=True):
            assert one.logits.predicted_ids == other.logits.predicted_ids
            assert one.logits.logprob == pytest.approx(other.logits.logprob, abs=1e-4)
            assert one.generated.token_ids == other.generated.token_ids


def test_default_controls_take_no_pass_of_their_own(world):
    model, grid = DecoderStandIn(build_decoder("qwen2")), Grid.parse("500,1000", "0,0.5,1")
    passes = {}
    for controls in ("none", "default"):
        samples = plan_samples(VisualNeedle(), grid, world[1], None, controls)
        engine = open_engine(model)
        engine.plan(samples, [True] * len(samples))
        passes[controls] = engine.describe()["passes"]
    assert passes["default"] == passes["none"]


# --- controls of one's own -----------------------------------------------------------------------


@pytest.mark.usefixtures("film")
def test_control_and_task_of_the_docs_run_together_from_the_command_line(
    tmp_path, monkeypatch, capsys
):
    for page, name in (("tasks.md", "which_half.py"), ("controls.md", "needle_last.py")):
        text = (DOCS / page).read_text()
        code = re.search(rf"```python\n(# {name}\n.*?)```", text, re.S)
        (tmp_path / name).write_text(code[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    controls = "no-needle,blind,needle_last:NeedleLast"
    words = ["run", "--task", "which_half:WhichHalf", "--controls", controls, "--frames", "8"]
    assert main([*words, "--depths", "0,1", "--output", "halves"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"needle-last: \d+ of 20 right with nothing behind the needle\n", shown)
    results = load_results("halves")
    assert results.is_complete
    assert Counter(row.control for row in results.control_samples) == {
        "no-needle": 20,
        "blind": 20,
        "needle-last": 20,
    }
    # A question has one answer for a model that sees nothing, so half of them are no finding.
    assert "answers without seeing" not in shown


class Mirror:
    name = "mirror"

    def samples(self, samples, needles):
        for sample in samples:
            yield replace(sample, sample_id=f"{sample.sample_id}/mirror", control="mirror")

    def finding(self, tests, own, others):
        return Finding("looked", "mirrors" if len(own) == len(tests) else None)


def test_control_may_be_an_object_and_its_verdict_needs_it_again(measure):
    results = measure(Planted(honest), controls=["blind", Mirror()])
    assert results.manifest["controls"] == ["blind", "mirror"]
    assert verdict(results).text == NOTHING
    assert verdict(results, [Mirror()]).text == "mirrors"


class Stumbling(Mirror):
    def finding(self, tests, own, others):
        return own[99999]


class Talking(Mirror):
    def finding(self, tests, own, others):
        return "all is well"


@pytest.mark.parametrize(
    ("control", "message"),
    [
        (Stumbling(), "finding() of the control mirror failed: IndexError: "),
        (Talking(), "finding() of the control mirror gave 'all is well', not a Finding"),
    ],
)
def test_finding_that_fails_is_said_in_the_verdict(measure, control, message):
    found = verdict(measure(Planted(honest), controls=[control, "blind"]), [control])
    assert found.text.startswith("nothing conspicuous in what was run; ") and message in found.text
    assert "\n" not in found.text


class Counting(Mirror):
    """Counts its own samples in the score."""

    def samples(self, samples, needles):
        return (replace(sample, sample_id=f"{sample.sample_id}/mirror") for sample in samples)


class Unnamed(Mirror):
    """Its ids do not name it, so that a plan would take them for samples of the test."""

    def samples(self, samples, needles):
        return (replace(sample, control="mirror") for sample in samples)


class Raising(Mirror):
    def samples(self, samples, needles):
        raise KeyError("oh")


class Nameless(Mirror):
    name = "two words"


class Blind2(Mirror):
    name = "blind"


@pytest.mark.parametrize(
    ("controls", "error", "message"),
    [
        ("blond", InputError, "no control 'blond'; use none, default, all or no-needle, option-"),
        ("none,blind", InputError, "'none' stands alone, and goes with no other .* 'none,blind'"),
        (["blind", "all"], InputError, "'all' stands alone, and goes with no other control"),
        ("", InputError, "the list of controls '' is empty; .*'none' for no controls"),
        ("blind,", InputError, "the list of controls 'blind,' has an empty name"),
        ("blind, blind", InputError, "the control 'blind' is named twice in 'blind,blind'"),
        ([Unnamed()], TaskError, "'4/0/card-7' of a control must end with its name: '/mirror'"),
        ([Counting()], TaskError, "must give Samples whose control is 'mirror'"),
        ([Raising()], TaskError, r"samples\(\) of the control mirror failed: KeyError: 'oh'"),
        ([Nameless()], TaskError, "must be letters, digits, .* got 'two words'"),
        ([Blind2()], TaskError, "blind is a control of vniah; give yours another name"),
        ([Mirror(), Mirror()], TaskError, "two controls have the name 'mirror'"),
        ("test_controls:GRID_OF_8.of", TaskError, "failed|is not a control"),
        ("test_controls:Finding", TaskError, "failed|is not a control"),
    ],
)
def test_control_that_cannot_be_run_is_one_line(world, controls, error, message):
    with pytest.raises(error, match=message) as caught:
        plan_samples(VisualNeedle(), GRID, world[1], None, controls)
    assert "\n" not in str(caught.value)


def test_all_leaves_out_what_cannot_be_made_for_a_task(world):
    class Places(VisualNeedle):
        """The question depends on the place, so that none stands for all."""

        def samples(self, grid, needles, haystack):
            for sample in super().samples(grid, needles, haystack):
                yield replace(sample, question=f"{sample.question} {sample.num_frames}")

    notes = []
    samples = plan_samples(Places(), GRID, world[1], None, "all", on_note=notes.append)
    assert {sample.control for sample in samples} == {None, "no-needle", "shuffled"}
    assert any(note.startswith("the control blind is left out: the control") for note in notes)
    with pytest.raises(TaskError, match="the control blind cannot name the sample"):
        plan_samples(Places(), GRID, world[1], None, "blind")


# --- runs of earlier versions --------------------------------------------------------------------


@pytest.mark.parametrize("task", ["vniah", "retrieve-all"])
def test_run_that_began_with_one_control_goes_on_with_it(world, tmp_path, caplog, task):
    def sweep(controls):
        return Sweep(Planted(honest), *world, GRID, SweepOptions(task=task, controls=controls))

    earlier = sweep("no-needle").run(tmp_path / "run", progress=False)
    path = tmp_path / "run" / "samples.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:5]))
    again = sweep("default").run(tmp_path / "run", progress=False)
    assert again.is_complete and again.manifest["controls"] == ["no-needle"]
    assert [row.sample_id for row in again.samples] == [row.sample_id for row in earlier.samples]
    assert "this run began with the control no-needle alone" in caplog.text


def test_folder_of_a_run_depends_on_its_controls(world):
    """Version 0.1 named the folder without them, and had no-needle alone."""
    names = {}
    for controls in ("no-needle", "default", "none", "all"):
        sweep = Sweep(Planted(honest), *world, GRID, SweepOptions(controls=controls))
        names[controls] = sweep.default_output
    assert len(set(names.values())) == 4


# --- lines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("control", "changes", "message"),
    [
        ("option-rotation", {"needle_id": "card-dog"}, "needle_id is 'card-dog', and sample_id na"),
        ("option-rotation", {"answer": "A"}, "holds '.' as the question or answer of a needle for"),
        ("other-needle", {"question": "Which?"}, "answer of a needle for which .* has 'Which.'"),
        ("shuffled", {"needle_index": 3}, "needle_index is 3, and the length 4 at depth 0 has 0"),
        ("blind", {"rank": 2, "correct": True}, "correct is True, and rank is 2"),
    ],
)
def test_line_of_a_control_that_contradicts_itself_is_named(
    measure, tmp_path, control, changes, message
):
    measure(Planted(honest))
    path = tmp_path / "run" / "samples.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    place = next(k for k, line in enumerate(lines) if line["control"] == control)
    lines[place] |= changes
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(Exception, match=message):
        load_results(tmp_path / "run")
