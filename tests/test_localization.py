import math
from dataclasses import replace
from fractions import Fraction

import pytest

from vniah.errors import TaskError
from vniah.grid import Grid
from vniah.needles import load_needles
from vniah.scoring import GeneratedText, LogitsScore, Reading
from vniah.sweep.outcomes import result_of
from vniah.tasks import load_task
from vniah.tasks.controls import plan_samples
from vniah.tasks.details import details_of
from vniah.tasks.localization import Localization
from vniah.tasks.timeline import Parts, Seconds, distribution, expected_error, guessed_error


@pytest.fixture(scope="module")
def needles(needle_folder):
    return load_needles(needle_folder)


def samples_of(task, needles, frames="9", depths="0.5", controls="none"):
    return plan_samples(task, Grid.parse(frames, depths), needles, None, controls)


def read(sample, logprobs, text=None):
    """The readings of a model that gives these log-probabilities to the candidates."""
    return tuple(
        Reading(
            0.1,
            tuple(map(ord, candidate)),
            LogitsScore((1,), False, logprob, 1, 0.0),
            candidate,
            None if text is None else GeneratedText(text, (7,)),
        )
        for candidate, logprob in zip(sample.candidates, logprobs, strict=True)
    )


def written(text):
    return (Reading(0.1, generated=GeneratedText(text)),)


# --- candidates ----------------------------------------------------------------------------------


def test_part_holds_the_middle_of_the_needles_second(needles):
    """Of 10 shown frames the needle is frame 4, on screen from 4 s to 5 s: the fifth tenth."""
    for depth, answer in (("0", "01"), ("0.5", "05"), ("1", "10")):
        sample = samples_of(Localization(), needles, depths=depth)[0]
        assert sample.answer == answer
    assert sample.candidates == tuple(f"{number:02}" for number in range(1, 11))


@pytest.mark.parametrize(
    ("time", "place"), [("0.5", 0), ("4.5", 0), ("5", 1), ("9.5", 1), ("14.5", 2), ("19.5", 3)]
)
def test_border_between_parts_belongs_to_the_later(time, place):
    clock = Parts(4)
    assert clock.place(Fraction(time), clock.timeline(20)) == place


@pytest.mark.parametrize(
    ("seconds", "step", "texts"),
    [
        (4, None, ("0", "1", "2", "3")),
        (20, None, tuple(f"{k:02}" for k in range(20))),
        (21, None, tuple(f"{k:02}" for k in range(0, 21, 2))),
        (101, None, tuple(f"{k:03}" for k in range(0, 101, 10))),
        (9, 4, ("0", "4", "8")),
        (1, None, ("0",)),
    ],
)
def test_candidate_seconds_are_the_multiples_of_a_step(seconds, step, texts):
    assert Seconds(step).timeline(seconds).texts == texts


@pytest.mark.parametrize("clock", [Parts(2), Parts(10), Parts(1000), Seconds(1), Seconds()])
@pytest.mark.parametrize("seconds", [1, 9, 10, 11, 100, 999])
def test_no_candidate_is_the_beginning_of_another(clock, seconds):
    texts = clock.timeline(seconds).texts
    assert len(set(texts)) == len(texts)
    assert len(set(map(len, texts))) == 1


def test_nearest_second_is_the_answer_and_the_earlier_of_two(needles):
    task = Localization(ask="second", step=4)
    answers = [s.answer for s in samples_of(task, needles, "12", "0:1:0.25")[:: len(needles)]]
    assert answers == ["00", "04", "04", "08", "12"]  # the needle is at second 0, 3, 6, 9, 12


def test_question_names_the_needle_by_its_locator_else_by_its_question(needles):
    (first, *_) = samples_of(Localization(), needles)
    asked = first.question
    needle = needles.needles[0]
    assert needle.locator is None
    assert asked == (
        "The video has 10 parts of equal length, numbered 01 to 10. In which part is the answer "
        f'to the question "{needle.question}" shown? Answer with the number of the part.'
    )
    located = [replace(needle, locator="the red card")]
    task = Localization(ask="second", step=5)
    (sample,) = task.samples(Grid.parse("60", "0.5"), located, None)
    assert sample.question == (
        "The video lasts 61 seconds, counted from 00 on. At which second is the red card shown? "
        "Answer with a number of 2 digits, the nearest multiple of 5."
    )
    assert sample.answer == "30"


def test_two_grids_have_the_same_samples_where_they_meet(needles):
    task = Localization(ask="second")
    small = {s.sample_id: s for s in samples_of(task, needles, "30", "0.5", "default")}
    large = {s.sample_id: s for s in samples_of(task, needles, "9,30,50", "0:1:0.25", "default")}
    tests = {key for key, sample in small.items() if sample.control is None}
    assert tests and all(large[key] == small[key] for key in small)


@pytest.mark.parametrize("options", [{}, {"ask": "second"}])
def test_controls_ask_every_question_of_the_task(needles, options):
    """A question that names the length of the video is another one for every length."""
    samples = samples_of(
        Localization(**options), needles, "9,30", "0,1", "blind,shuffled,no-needle"
    )
    blind = {sample.question for sample in samples if sample.control == "blind"}
    assert blind == {sample.question for sample in samples if sample.control is None}


# --- measures ------------------------------------------------------------------------------------


def test_distribution_is_of_the_whole_text_and_adds_up_to_one():
    shares = distribution([math.log(0.1), math.log(0.3), -math.inf])
    assert shares == pytest.approx((0.25, 0.75, 0))
    assert distribution([-2000.0, -2000.0]) == (0.5, 0.5)


def test_expected_error_by_hand():
    """Four parts of 5 s have their middles at 2.5, 7.5, 12.5 and 17.5 s."""
    timeline = Parts(4).timeline(20)
    shares = (0.5, 0.25, 0.25, 0.0)
    assert expected_error(shares, timeline, Fraction("7.5")) == 0.5 * 5 + 0.25 * 5
    assert guessed_error(timeline, Fraction("0.5")) == (2 + 7 + 12 + 17) / 4
    assert expected_error((0.25,) * 4, timeline, Fraction("0.5")) == (2 + 7 + 12 + 17) / 4


def test_measures_of_a_known_distribution(needles):
    """Five parts of 4 s; the needle is frame 10 of 20, in the third, its time is 10.5 s."""
    task = Localization(parts=5, within="0,1")
    sample = plan_samples(task, Grid.parse("19", positions="10"), needles, None, "none")[0]
    assert sample.fields["needle_index"] == 10 and sample.answer == "3"
    shares = (0.1, 0.2, 0.3, 0.4, 0.0)
    score = task.score(sample, read(sample, [math.log(p) if p else -90.0 for p in shares]))
    errors = [8.5, 4.5, 0.5, 3.5, 7.5]  # of 2, 6, 10, 14 and 18 s
    expected = sum(p * e for p, e in zip(shares, errors, strict=True))
    assert score.correct is False and score.prediction == "4" and score.rank == 2
    assert score.measures == {
        "distribution": pytest.approx(shares),
        "candidate_seconds": (2, 6, 10, 14, 18),
        "error_seconds": pytest.approx(expected),
        "answer_error_seconds": 3.5,
        "guess_seconds": pytest.approx(sum(errors) / 5),
        "within_0": False,
        "within_1": True,
        "guess_within_0": 0.2,
        "guess_within_1": 0.6,
    }


def test_measures_of_seconds_are_whole_seconds(needles):
    task = Localization(ask="second", step=5, within=(5, 30))
    sample = samples_of(task, needles, "20", "0.4")[0]  # at second 8, the nearest is 10
    logprobs = [-9.0] * 5
    logprobs[3] = -0.1
    score = task.score(sample, read(sample, logprobs))
    assert score.prediction == "15" and not score.correct
    assert score.measures["answer_error_seconds"] == 7.0
    assert score.measures["guess_seconds"] == (8 + 3 + 2 + 7 + 12) / 5
    assert (score.measures["within_5"], score.measures["within_30"]) == (False, True)
    assert score.measures["guess_within_5"] == 0.4


def test_wide_needle_counts_by_its_middle(needles):
    task = Localization(parts=2, needle_frames=4)
    sample = samples_of(task, needles, "6", "0.5")[0]  # frames 3 to 6 of 10
    assert (sample.answer, task.settings["needle_frames"]) == ("2", 4)
    logprobs = [math.log(0.5)] * 2
    assert task.score(sample, read(sample, logprobs)).measures["error_seconds"] == 2.5


def averages(task, samples, read_sample):
    """Accuracy and the mean of every measure of a model."""
    results = [result_of(task, sample, read_sample(sample)) for sample in samples]
    assert not [result.error for result in results if result.error]
    found = {"correct": sum(bool(result.correct) for result in results) / len(results)}
    for name in task.measures:
        found[name] = sum(result.fields[name] for result in results) / len(results)
    return found


@pytest.mark.parametrize("options", [{}, {"ask": "second"}, {"parts": 4}])
def test_model_that_knows_the_time_and_one_that_does_not(needles, options):
    task = load_task("localization", options)
    samples = samples_of(task, needles, "16,33", "0:1:0.125")

    def knows(sample):
        return read(sample, [0.0 if text == sample.answer else -50.0 for text in sample.candidates])

    def guesses(sample):
        return read(sample, [-3.0] * len(sample.candidates))

    knowing, guessing = (averages(task, samples, model) for model in (knows, guesses))
    assert knowing["correct"] == 1.0
    assert knowing["error_seconds"] == pytest.approx(knowing["answer_error_seconds"], abs=1e-9)
    assert knowing["error_seconds"] < knowing["guess_seconds"] / 3
    assert guessing["error_seconds"] == pytest.approx(guessing["guess_seconds"])
    assert guessing["correct"] < 0.4
    for name, reference in task.references.items():
        if name.startswith("within_"):
            assert knowing[name] == 1.0 > knowing[reference]


# --- models that answer in words -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "correct", "error"),
    [("5", True, 0.0), ("Part 04.", False, 1.0), ("the last part", False, 5.0)],
)
def test_text_names_a_part(needles, text, correct, error):
    score = Localization().score(samples_of(Localization(), needles)[0], written(text))
    assert (score.correct, score.prediction) == (correct, text)
    assert score.measures["error_seconds"] == score.measures["answer_error_seconds"] == error
    assert "distribution" not in score.measures


@pytest.mark.parametrize("text", ["", "I cannot tell", "3 or 4", "11"])
def test_text_that_names_no_time_is_wrong_and_has_no_error(needles, text):
    score = Localization().score(samples_of(Localization(), needles)[0], written(text))
    assert score.correct is False and score.measures["within_1"] is False
    assert "error_seconds" not in score.measures
    assert score.measures["guess_seconds"] == 2.5


@pytest.mark.parametrize(
    ("text", "correct", "error"),
    [("0:31", True, 1.0), ("29 seconds", True, 1.0), ("33", False, 3.0), ("61", False, None)],
)
def test_text_names_a_second_of_this_video(needles, text, correct, error):
    task = Localization(ask="second", step=5)
    score = task.score(samples_of(task, needles, "60", "0.5")[0], written(text))
    assert score.correct is correct
    assert score.measures.get("error_seconds") == error


def test_generated_text_counts_and_the_distribution_stands_beside_it(needles):
    task = Localization()
    sample = samples_of(task, needles)[0]
    readings = read(sample, [0.0] + [-60.0] * 9, text="5")
    score = task.score(sample, readings)
    assert (score.correct, score.prediction, score.predicted_ids) == (True, "5", (7,))
    assert score.measures["answer_error_seconds"] == 0.0
    assert score.measures["error_seconds"] == pytest.approx(4.0)
    assert score.rank == 2


# --- controls, and what is refused ---------------------------------------------------------------


def test_control_without_a_needle_has_a_distribution_and_no_error(needles):
    for options in ({}, {"ask": "second"}):
        task = Localization(**options)
        controls = [s for s in samples_of(task, needles, controls="default") if s.control]
        assert controls
        for sample in (controls[0], replace(controls[0], shown=())):
            logprobs = [-1.0] * len(sample.candidates)
            score = task.score(sample, read(sample, logprobs))
            assert set(score.measures) == {"distribution", "candidate_seconds"}
            assert task.score(sample, written(sample.answer)).correct is True


def test_tokenizer_that_gives_one_candidate_the_beginning_of_another_is_refused(needles):
    task = Localization()
    sample = samples_of(task, needles)[0]
    readings = list(read(sample, [-1.0] * 10))
    readings[3] = replace(readings[3], answer_ids=readings[7].answer_ids[:1])
    with pytest.raises(TaskError, match=r"candidate '04' are the beginning of those of '0\d'"):
        task.score(sample, readings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ask": "when"}, "the option ask must be one of part, second, got 'when'"),
        ({"ask": "second", "parts": "5"}, "the option parts does not go with ask=second"),
        ({"step": "5"}, "the option step does not go with ask=part"),
        ({"parts": "1"}, "the option parts must be one whole number from 2 to 1,000"),
        ({"within": "1,x"}, "the option within"),
        ({"ask": "second", "step": "0"}, "the option step must be one whole number from 1"),
        ({"needle_style": "big"}, "needle_style must be one of"),
    ],
)
def test_options_that_cannot_be_meant(options, message):
    with pytest.raises(TaskError, match=message):
        load_task("localization", options)


def test_too_many_candidates_are_refused(needles):
    task = Localization(ask="second", step=1)
    with pytest.raises(TaskError, match="step=1 gives 1,001 candidate seconds in a video of 1,001"):
        samples_of(task, needles, "1000", "0")


def test_details_for_the_manifest():
    details = details_of(load_task("localization", {"ask": "second", "within": "10"}))
    assert details["settings"] == {"ask": "second", "within": [10]}
    assert details["measures"] == [
        "error_seconds",
        "answer_error_seconds",
        "within_10",
        "guess_seconds",
        "guess_within_10",
    ]
    assert details["labels"]["within_10"] == "Within 10 s"
    assert set(details["labels"]) == set(details["measures"])
