"""The check of the forward pass: what it lets through, and what it stops."""

import pytest
import torch

from tests.decoder_models import DecoderStandIn, RandomFrames, ask, build_half, plain
from tests.test_passes import rope_model
from tests.test_walk import FAMILIES, build_decoder
from vniah import check
from vniah.check import (
    TOLERANCES,
    Difference,
    check_forward,
    check_model,
    require_agreement,
)
from vniah.errors import CheckError, ModelError
from vniah.forward import walk
from vniah.forward.attention import attend
from vniah.grid import Grid
from vniah.haystacks import open_haystack
from vniah.models.loading import load_model
from vniah.models.protocol import TextSegment, TokenSequence
from vniah.needles import load_needles
from vniah.sweep import run_sweep

GRID = Grid.of([1, 7], [0, 1])


def short_sequences(model):
    return [ask(model, num_frames, (name, 2)) for num_frames in (4, 9) for name in ("a", "b")]


def differences(model):
    return check_forward(model, short_sequences(model), RandomFrames())


@pytest.mark.parametrize("build", [build_decoder, build_half])
@pytest.mark.parametrize("family", FAMILIES)
def test_decoder_agrees_with_itself(family, build):
    found = differences(DecoderStandIn(build(family)))
    assert [difference.way for difference in found] == ["walk", "tree"]
    assert all(difference.holds and difference.num_rows == 4 for difference in found)
    require_agreement(found, "stand-in")


def test_agreement_in_fp32_is_far_below_what_is_allowed():
    for difference in differences(DecoderStandIn(build_decoder("qwen2"))):
        assert difference.max_difference < 1e-5 * difference.max_logit
        assert difference.num_equal == 4 and difference.num_ties == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_reference_model_agrees_with_room_to_spare(dtype):
    model = load_model("reference", dtype=dtype, device="cpu")
    report = check_model(model, load_needles("cards"))
    assert report.holds
    assert "tokens of the check were shared" in report.lines[-2]
    assert report.lines[-1] == "the forward pass gives what the model gives"
    for line in report.lines[:2]:
        share = float(line.split("logits ")[1].split()[0])
        largest = float(line.split("largest logit ")[1].split(")")[0])
        assert share < 0.1 * TOLERANCES[getattr(torch, dtype)] * largest


def test_tolerances_grow_with_the_rounding_of_the_dtype():
    for dtype, tolerance in TOLERANCES.items():
        assert 5 * torch.finfo(dtype).eps < tolerance < 0.1
    assert TOLERANCES[torch.float32] < TOLERANCES[torch.float16] < TOLERANCES[torch.bfloat16]


def wrong_scale(q, blocks, *, scale):
    return attend(q, blocks, scale=1.5 * scale)


def forgets_a_token_between_tiles(q, blocks, *, scale):
    shorter = [type(b)(b.k[:, :, :-1], b.v[:, :, :-1]) for b in blocks[1:] if b.k.shape[2] > 1]
    return attend(q, [blocks[0], *shorter], scale=scale)


def sees_its_own_tile_only(q, blocks, *, scale):
    return attend(q, blocks[:1], scale=scale)


WRONG = [wrong_scale, forgets_a_token_between_tiles, sees_its_own_tile_only]


@pytest.mark.parametrize("wrong", WRONG)
def test_forward_pass_that_is_wrong_is_caught(wrong, monkeypatch):
    monkeypatch.setattr(walk, "attend", wrong)
    found = differences(DecoderStandIn(build_decoder("qwen2")))
    assert not any(difference.holds for difference in found)
    with pytest.raises(CheckError, match="does not give what stand-in itself gives: walk: largest"):
        require_agreement(found, "stand-in")


def test_wrong_positions_are_caught_in_bf16():
    class Stretched(DecoderStandIn):
        def position_ids(self, sequence):
            return super().position_ids(sequence) * self.factor

    model = Stretched(build_half("qwen2"))
    model.factor = 1
    sequences = short_sequences(model)
    expected = plain(model, sequences)
    model.factor = 2
    found = plain(model, sequences)
    assert not check._compare("walk", expected, found, torch.bfloat16).holds


@pytest.mark.parametrize("wrong", WRONG)
def test_sweep_writes_nothing_where_the_forward_pass_is_wrong(
    wrong, monkeypatch, checkpoint, image_folder, needle_folder, tmp_path
):
    model = load_model(checkpoint, device="cpu")
    material = open_haystack(image_folder), load_needles(needle_folder)
    with monkeypatch.context() as patched:
        patched.setattr(walk, "attend", wrong)
        report = check_model(model, material[1])
        assert not report.holds and "does NOT give what the model gives" in report.lines[-1]
        with pytest.raises(CheckError, match=r"Nothing was measured; give the model an answer_log"):
            run_sweep(model, *material, GRID, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert run_sweep(model, *material, GRID, output=tmp_path / "run").is_complete


def test_check_of_dynamic_rope_does_not_depend_on_what_ran_before():
    model = rope_model("dynamic")
    before = plain(model, short_sequences(model))
    plain(model, [ask(model, 60, None)])
    assert all(map(torch.equal, plain(model, short_sequences(model)), before))


def test_decoder_that_cannot_be_run_is_no_disagreement():
    model = DecoderStandIn(build_decoder("mistral", sliding_window=20))
    with pytest.raises(ModelError, match="sliding window of 20 tokens") as caught:
        differences(model)
    assert not isinstance(caught.value, CheckError)


def test_sharing_is_reported_where_there_is_none(needle_folder):
    class SaysNo(DecoderStandIn):
        shares_prefixes = False

    class CountsFirst(DecoderStandIn):
        def compose(self, frames, question, answer):
            inner = super().compose(frames, question, answer)
            return TokenSequence((TextSegment((len(frames),)), *inner.segments), inner.answer_ids)

    needles = load_needles(needle_folder)
    lines = check_model(SaysNo(build_decoder("qwen2")), needles).lines
    assert "every cell runs by itself, because stand-in says that its prefixes" in lines[-2]
    lines = check_model(CountsFirst(build_decoder("qwen2")), needles).lines
    assert "tokens of the check were shared" in lines[-2], "two needles of one length"


def compare(plain_rows, found_rows, dtype=torch.float32) -> Difference:
    one, other = torch.tensor(plain_rows), torch.tensor(found_rows)
    return check._compare("walk", list(one.split(1)), list(other.split(1)), dtype)


def test_two_best_tokens_nearer_than_the_difference_are_a_tie():
    found = compare([[1.0, 1.0001, 9.0], [5.0, 0.0, 0.0]], [[1.0, 1.0, 9.0], [5.0, 0.0, 0.0]])
    assert (found.num_equal, found.num_ties, found.holds) == (2, 0, True)
    found = compare([[9.0, 9.0001], [5.0, 0.0]], [[9.0002, 9.0], [5.0, 0.0]])
    assert (found.num_equal, found.num_ties, found.holds) == (1, 1, True)
    assert "argmax equal in 1 of 2 rows, 1 ties" in found.sentence()


def test_difference_beyond_rounding_does_not_hold_though_the_argmax_is_equal():
    rows = [[9.0, 1.0]], [[9.0, 1.5]]
    assert not compare(*rows).holds
    assert compare(*rows, torch.bfloat16).holds, "that is rounding in bf16"
    assert not compare([[9.0, 1.0]], [[9.0, 1.8]], torch.bfloat16).holds


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_nan_and_infinity_are_no_agreement(bad, dtype):
    good, spoilt = [[1.0, 2.0]], [[1.0, bad]]
    assert not compare(good, spoilt, dtype).holds
    assert not compare(spoilt, good, dtype).holds
    assert not compare(spoilt, spoilt, dtype).holds
    with pytest.raises(CheckError, match="largest difference of logits inf"):
        require_agreement([compare(spoilt, spoilt)], "stand-in")


def test_record_of_a_difference_is_short():
    found = compare([[9.0, 9.0001]], [[9.0002, 9.0]])
    assert found.record() == {
        "max_difference": pytest.approx(0.0002, rel=0.02),
        "max_logit": 9.0,
        "argmax_equal": 0,
        "argmax_ties": 1,
        "rows": 1,
    }
