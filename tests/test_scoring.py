"""Scores from logits that are written out by hand."""

import math

import pytest
import torch
from decoder_models import make_samples

from vniah.embeddings.encode import EncodedFrames
from vniah.engines.per_sample import PerSampleEngine
from vniah.errors import ModelError, TaskError
from vniah.protocol import TextSegment, TokenSequence
from vniah.scoring import GeneratedText, Reading, score_accepted, score_logits, score_options


def rows(*values):
    return torch.tensor(values, dtype=torch.float32)


def test_correct_needs_every_position():
    right = score_logits(rows([0, 3, 1], [2, 0, 1]), (1, 0))
    wrong = score_logits(rows([0, 3, 1], [2, 0, 5]), (1, 0))
    assert right.correct and right.predicted_ids == (1, 0)
    assert not wrong.correct and wrong.predicted_ids == (1, 2)


def test_logprob_is_summed_over_the_answer():
    score = score_logits(rows([0, math.log(3)], [0, 0]), (1, 0))
    assert score.logprob == pytest.approx(math.log(3 / 4) + math.log(1 / 2))


def test_logprob_is_never_above_0_by_rounding():
    """The log-sum-exp is the largest logit and the logarithm of a sum of at least 1."""
    torch.manual_seed(0)
    logits = torch.randn(2000, 8) * 8
    logits[:, 0] += 30
    assert max(score_logits(row[None], (0,)).logprob for row in logits) == 0.0


@pytest.mark.parametrize(
    ("logits", "answer", "rank", "margin"),
    [
        (rows([5, 1, 2]), (0,), 1, 3.0),
        (rows([5, 1, 2]), (2,), 2, -3.0),
        (rows([5, 1, 2], [0, 7, 1]), (0, 1), 1, 3.0),
        (rows([5, 1, 2], [0, 7, 1]), (0, 0), 3, -7.0),
    ],
)
def test_rank_and_margin_are_those_of_the_worst_position(logits, answer, rank, margin):
    score = score_logits(logits, answer)
    assert (score.rank, score.margin) == (rank, margin)


@pytest.mark.parametrize(
    "bad", [[0, float("nan")], [0, float("inf")], [float("-inf"), 0], [float("nan"), 0]]
)
def test_logits_that_are_no_numbers_are_refused(bad):
    with pytest.raises(ModelError, match="NaN or infinity"):
        score_logits(rows(bad), (0,))


def test_tokens_that_the_model_masks_are_no_fault():
    score = score_logits(rows([2, float("-inf"), 1]), (0,))
    assert (score.correct, score.rank, score.margin) == (True, 1, 1.0)


def test_tie_is_rank_1_only_for_the_argmax():
    first = score_logits(rows([1, 1]), (0,))
    second = score_logits(rows([1, 1]), (1,))
    assert sorted((score.correct, score.rank) for score in (first, second)) == [
        (False, 2),
        (True, 1),
    ]


def test_answer_outside_of_the_vocabulary_is_refused():
    with pytest.raises(ModelError, match="token 7, the logits only 3"):
        score_logits(rows([0, 1, 2]), (7,))


class OneShapeModel:
    """Gives logits of whatever shape it is told."""

    name, revision, frame_shape = "shape", "0", (1, 2)

    def __init__(self, shape):
        self.shape = shape

    def encode_frames(self, frames):
        return torch.zeros(len(frames), 1, 2)

    def compose(self, frames, question, answer):
        return TokenSequence((TextSegment((0,)), *frames), (1, 2))

    def answer_logits(self, sequence, embeds):
        assert embeds.shape == (2, 1, 2)
        return torch.zeros(self.shape)


class ZeroStore:
    def read(self, frames):
        return torch.zeros(len(frames), 1, 2)


@pytest.mark.parametrize("shape", [(1, 5), (3, 5), (5,), (1, 2, 5)])
def test_wrong_number_of_rows_is_refused(shape):
    (sample,) = make_samples((1, "a", ("7",)))

    def outcome(model):
        engine = PerSampleEngine(model)
        engine._frames = EncodedFrames(ZeroStore(), num_frames=2)
        engine.plan([sample], [True])
        ((_, found),) = engine.run(0)
        return found

    assert "one row for each answer token" in outcome(OneShapeModel(shape))
    assert outcome(OneShapeModel((2, 5)))[0].logits.predicted_ids == (0, 0)


def test_options_that_no_text_can_tell_apart_are_an_error_and_not_wrong():
    said = Reading(0.1, generated=GeneratedText("Cat"))
    assert score_options(["Cat", "Dog"], [said], "Cat").correct
    for options in (["Cat", "cat"], ["Cat", "the cat", "Dog"], ["B", "Cat"], ["7", "７"]):
        with pytest.raises(TaskError, match=r"cannot be told apart in generated text: .* may mean"):
            score_options(options, [said], options[0])
        with pytest.raises(TaskError, match="cannot be told apart"):
            score_accepted(["A"], [said], options)


def test_options_are_judged_by_the_logits_however_alike_they_are():
    readings = [Reading(0.1, (1,), score_logits(rows([0, value]), (1,))) for value in (3.0, 1.0)]
    assert score_options(["Cat", "cat"], readings, "Cat").correct
