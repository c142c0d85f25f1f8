"""The check of the forward pass: what it lets through, and what it stops."""

import re
from types import SimpleNamespace

import pytest
import torch
from decoder_models import DecoderStandIn, RandomFrames, ask, build_half, plain
from test_jobs import FirstLevel
from test_planning import rope_model
from test_prefill import FAMILIES, SIZES, build_decoder
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel

from vniah.checks.model import check_model
from vniah.engines import agreement
from vniah.engines.agreement import TOLERANCES, Agreement, RoundingLimit, compare_logits
from vniah.engines.equivalence import check_forward, require_agreement
from vniah.errors import CheckError, ModelError, VniahError
from vniah.forward import suffixes
from vniah.forward.attention import attend
from vniah.forward.kinds import full
from vniah.grid import Grid
from vniah.haystacks.haystack import open_haystack
from vniah.models.loading import load_model
from vniah.needles import load_needles
from vniah.protocol import FrameSegment, TextSegment, TokenSequence
from vniah.sweep.run import run_sweep

GRID = Grid.of([1, 7], [0, 1])


def short_sequences(model):
    return [ask(model, num_frames, (name, 2)) for num_frames in (4, 9) for name in ("a", "b")]


def differences(model):
    return check_forward(model, short_sequences(model), RandomFrames())


@pytest.mark.parametrize("build", [build_decoder, build_half])
@pytest.mark.parametrize("family", FAMILIES)
def test_decoder_agrees_with_itself(family, build):
    found = differences(DecoderStandIn(build(family)))
    assert [difference.way for difference in found] == ["prefill", "tree", "suffixes"]
    assert all(difference.passed and difference.num_rows == 4 for difference in found)
    require_agreement(found, "stand-in")


def test_agreement_in_fp32_is_far_below_what_is_allowed():
    for difference in differences(DecoderStandIn(build_decoder("qwen2"))):
        assert difference.max_difference < 1e-5 * difference.max_logit
        assert difference.num_equal == 4 and difference.num_ties == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_reference_model_agrees_with_room_to_spare(dtype):
    model = load_model("reference-long", dtype=dtype, device="cpu")
    report = check_model(model, load_needles("cards"))
    assert report.passed
    assert "tokens of the check were shared" in report.lines[-2]
    assert report.lines[-1] == "the forward pass gives what the model gives"
    assert [line.split(":")[0] for line in report.lines[:-2]] == ["prefill", "tree", "suffixes"]
    for line in report.lines[:-2]:
        found, allowed, largest, most = map(float, re.findall(r"\d\.\de[+-]\d\d", line))
        assert found < 0.5 * allowed and largest < 0.1 * most


def test_tolerances_grow_with_the_rounding_of_the_dtype():
    for dtype, tolerance in TOLERANCES.items():
        assert 5 * torch.finfo(dtype).eps < tolerance < 0.1
    assert TOLERANCES[torch.float32] < TOLERANCES[torch.float16] < TOLERANCES[torch.bfloat16]


def wrong_scale(q, blocks, *, kernel, scale):
    return attend(q, blocks, kernel=kernel, scale=1.5 * scale)


def forgets_a_token_between_chunks(q, blocks, *, kernel, scale):
    shorter = [type(b)(b.k[:, :, :-1], b.v[:, :, :-1]) for b in blocks[1:] if b.k.shape[2] > 1]
    return attend(q, [blocks[0], *shorter], kernel=kernel, scale=scale)


def sees_its_own_chunk_only(q, blocks, *, kernel, scale):
    return attend(q, blocks[:1], kernel=kernel, scale=scale)


WRONG = [wrong_scale, forgets_a_token_between_chunks, sees_its_own_chunk_only]


@pytest.mark.parametrize("wrong", WRONG)
def test_forward_pass_that_is_wrong_is_caught(wrong, monkeypatch):
    monkeypatch.setattr(full, "attend", wrong)
    found = differences(DecoderStandIn(build_decoder("qwen2")))
    assert not any(difference.passed for difference in found)
    with pytest.raises(
        CheckError, match="does not give what stand-in itself gives: prefill: logits "
    ):
        require_agreement(found, "stand-in")


def rows_of_other_suffixes(viewers, firsts, device):
    """Takes the number of suffixes for that of their rows."""
    return slice(viewers[0], firsts[-1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_suffixes_that_are_mixed_up_are_caught(dtype, monkeypatch):
    """The prefill and the tree of the check have no two suffixes in a call."""
    monkeypatch.setattr(suffixes, "_rows_of", rows_of_other_suffixes)
    report = check_model(
        load_model("reference-long", dtype=dtype, device="cpu"), load_needles("cards")
    )
    assert not report.passed


def test_scale_that_is_wrong_by_half_is_caught_in_bf16(monkeypatch):
    """Not with a reference model: its attention is so peaked that this scale hardly matters."""
    model = DecoderStandIn(build_half("qwen2"))
    assert all(difference.passed for difference in differences(model))
    monkeypatch.setattr(full, "attend", wrong_scale)
    assert not all(difference.passed for difference in differences(model))


@pytest.mark.parametrize("build", [build_decoder, build_half])
def test_decoder_whose_own_forward_does_more_is_caught(build):
    """Its body and its head are run; what comes after them would be lost."""
    model = DecoderStandIn(build("qwen2"))
    plain_forward = model.decoder.forward

    def forward(**inputs):
        return SimpleNamespace(logits=1.3 * plain_forward(**inputs).logits)

    model.decoder.forward = forward
    assert not any(difference.passed for difference in differences(model))


def test_decoder_of_two_parts_is_compared_by_its_parts():
    whole = build_decoder("qwen2")
    parts = SimpleNamespace(model=whole.model, lm_head=whole.lm_head)
    assert not callable(parts)
    assert all(difference.passed for difference in differences(DecoderStandIn(parts)))
    one, other = (plain(m, short_sequences(m)) for m in map(DecoderStandIn, (parts, whole)))
    assert all(map(torch.equal, one, other))


def test_noise_is_what_another_kernel_changes_within_bounds(monkeypatch):
    model = DecoderStandIn(build_decoder("qwen2"))
    assert differences(model)[0].rms_allowed < 0.02 * differences(model)[0].max_allowed
    monkeypatch.setattr(agreement, "attention_set_to", raises_for_any)
    for difference in differences(model):
        assert difference.rms_allowed == difference.max_allowed, "where there is no other"
        assert difference.passed


def raises_for_any(body, name):
    raise ValueError(f"no attention called {name}")


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
    assert not compare_logits("prefill", expected, found, limit(torch.bfloat16)).passed


class BothLevels(DecoderStandIn):
    """Has a forward pass of its own as well, with positions of its own."""

    step = 1

    @torch.inference_mode()
    def answer_logits(self, sequence, embeds):
        frames, table = iter(embeds), self.decoder.model.embed_tokens
        rows = [
            next(frames)
            if isinstance(segment, FrameSegment)
            else table(torch.tensor(segment.token_ids))
            for segment in sequence.inputs
        ]
        hidden = torch.cat(rows)[None]
        positions = self.step * torch.arange(hidden.shape[1])[None]
        logits = self.decoder(inputs_embeds=hidden, position_ids=positions).logits[0]
        return logits[-len(sequence.answer_ids) :]


def test_logits_of_a_model_of_both_levels_are_compared(needle_folder):
    model, needles = BothLevels(build_decoder("qwen2")), load_needles(needle_folder)
    report = check_model(model, needles)
    assert report.passed and report.lines[3].startswith("answer_logits: logits differ by ")
    model.step = 2
    report = check_model(model, needles)
    assert not report.passed and "does NOT give what the model gives" in report.lines[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits: logits.tolist(), "answer_logits of stand-in gave list, no tensor"),
        (lambda logits: logits[:, :50], "gave 50 logits for each token, its decoder 97"),
    ],
)
def test_logits_that_cannot_be_those_of_the_decoder_are_refused(change, message, needle_folder):
    class Other(BothLevels):
        def answer_logits(self, sequence, embeds):
            return change(super().answer_logits(sequence, embeds))

    with pytest.raises(ModelError, match=message):
        check_model(Other(build_decoder("qwen2")), load_needles(needle_folder))


@pytest.mark.parametrize("wrong", WRONG)
def test_sweep_writes_nothing_where_the_forward_pass_is_wrong(
    wrong, monkeypatch, checkpoint, image_folder, needle_folder, tmp_path
):
    model = load_model(checkpoint, device="cpu")
    material = open_haystack(image_folder), load_needles(needle_folder)
    with monkeypatch.context() as patched:
        patched.setattr(full, "attend", wrong)
        report = check_model(model, material[1])
        assert not report.passed and "does NOT give what the model gives" in report.lines[-1]
        with pytest.raises(
            CheckError, match=r"Nothing was measured; give the model a method answer_log"
        ):
            run_sweep(model, *material, GRID, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert run_sweep(model, *material, GRID, output=tmp_path / "run").is_complete


def test_check_of_dynamic_rope_does_not_depend_on_what_ran_before():
    model = rope_model("dynamic")
    before = plain(model, short_sequences(model))
    plain(model, [ask(model, 60, None)])
    assert all(map(torch.equal, plain(model, short_sequences(model)), before))


def test_decoder_that_cannot_be_run_is_no_disagreement():
    model = DecoderStandIn(build_decoder("qwen2"))
    model.decoder.config.layer_types = ["full_attention", "lightning_attention", "full_attention"]
    with pytest.raises(ModelError, match="of the kind 'lightning_attention'") as caught:
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


def compare(plain_rows, found_rows, dtype=torch.float32) -> Agreement:
    one, other = torch.tensor(plain_rows), torch.tensor(found_rows)
    return compare_logits("prefill", list(one.split(1)), list(other.split(1)), limit(dtype))


def limit(dtype):
    """Where the model's own forward has no noise to speak of."""
    return RoundingLimit(TOLERANCES[dtype], TOLERANCES[dtype])


def test_two_best_tokens_nearer_than_the_difference_are_a_tie():
    found = compare([[1.0, 1.0001, 9.0], [5.0, 0.0, 0.0]], [[1.0, 1.0, 9.0], [5.0, 0.0, 0.0]])
    assert (found.num_equal, found.num_ties, found.passed) == (2, 0, True)
    found = compare([[9.0, 9.0001], [5.0, 0.0]], [[9.0002, 9.0], [5.0, 0.0]])
    assert (found.num_equal, found.num_ties, found.passed) == (1, 1, True)
    assert "argmax equal in 1 of 2 rows, 1 ties" in found.sentence()


def test_many_small_differences_do_not_hold_where_one_would():
    plain_rows, limit = [torch.tensor([[9.0] + 99 * [1.0]])], RoundingLimit(0.08, 0.001)
    one, all_of_them = plain_rows[0].clone(), plain_rows[0] + 0.05
    one[0, 5] += 0.05
    assert compare_logits("prefill", plain_rows, [one], limit).passed
    assert not compare_logits("prefill", plain_rows, [all_of_them], limit).passed


def test_difference_beyond_rounding_does_not_hold_though_the_argmax_is_equal():
    rows = [[9.0, 1.0]], [[9.0, 1.5]]
    assert not compare(*rows).passed
    assert compare(*rows, torch.bfloat16).passed, "that is rounding in bf16"
    assert not compare([[9.0, 1.0]], [[9.0, 1.8]], torch.bfloat16).passed


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_nan_and_infinity_are_no_agreement(bad, dtype):
    good, spoilt = [[1.0, 2.0]], [[1.0, bad]]
    assert not compare(good, spoilt, dtype).passed
    assert not compare(spoilt, good, dtype).passed
    assert not compare(spoilt, spoilt, dtype).passed
    with pytest.raises(CheckError, match=r"prefill: logits differ by (nan|inf) "):
        require_agreement([compare(spoilt, spoilt)], "stand-in")


def test_record_of_a_difference_is_short():
    found = compare([[9.0, 9.0001]], [[9.0002, 9.0]])
    assert found.record() == {
        "max_difference": pytest.approx(0.0002, rel=0.02),
        "max_allowed": pytest.approx(0.009, rel=0.02),
        "rms_difference": pytest.approx(0.000158, rel=0.02),
        "rms_allowed": pytest.approx(0.009, rel=0.02),
        "max_logit": 9.0,
        "argmax_equal": 0,
        "argmax_ties": 1,
        "rows": 1,
    }


# --- plug-ins with a fault: one line, before anything is measured --------------------------------


def broken(**members):
    """A stand-in with some members replaced."""
    return type("Broken", (DecoderStandIn,), members)(build_decoder("qwen2"))


def with_decoder(decoder):
    model = DecoderStandIn(build_decoder("qwen2"))
    model.decoder = decoder
    return model


def with_weights(fill):
    decoder = build_decoder("qwen2")
    with torch.no_grad():
        decoder.lm_head.weight.fill_(fill)
    return DecoderStandIn(decoder)


class ListedLogits(FirstLevel):
    def answer_logits(self, sequence, embeds):
        return super().answer_logits(sequence, embeds).tolist()


class Lists(DecoderStandIn):
    def compose(self, frames, question, answer):
        return TokenSequence([*super().compose(frames, question, answer).segments], (1,))


def token(number):
    def compose(self, frames, question, answer):
        return TokenSequence((TextSegment((1, number)), *frames), (1,))

    return compose


GPT2 = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=1)).eval()
FAULTS = {
    "frames as a list": (
        lambda: broken(encode_frames=lambda self, frames: [1] * len(frames)),
        "encode_frames of stand-in gave list, no tensor",
    ),
    "frames of another width": (
        lambda: broken(frame_shape=(3, 32)),
        r"frame_shape of stand-in is \(3, 32\), but its decoder reads rows of 64 numbers",
    ),
    "frames that would be broadcast": (
        lambda: broken(frame_shape=(3, 1)),
        "but its decoder reads rows of 64 numbers",
    ),
    "no tokens": (
        lambda: broken(frame_shape=(0, 64)),
        r"frame_shape of stand-in must be a tuple of whole numbers from 1, got \(0, 64\)",
    ),
    "no shape": (
        lambda: broken(frame_shape=()),
        r"must be a tuple of whole numbers from 1, got \(\)",
    ),
    "positions as a list": (
        lambda: broken(position_ids=lambda self, sequence: [0, 1]),
        r"position_ids of shape \(\d+,\), got list",
    ),
    "no sequence": (
        lambda: broken(compose=lambda self, frames, question, answer: None),
        "compose of stand-in gave NoneType, not a TokenSequence",
    ),
    "lists": (
        lambda: Lists(build_decoder("qwen2")),
        "the segments of a TokenSequence must be a tuple, got list",
    ),
    "token beyond the table": (
        lambda: broken(compose=token(97)),
        "compose of stand-in gave the token id 97; its decoder has embeddings for 0 to 96",
    ),
    "negative token": (lambda: broken(compose=token(-1)), "gave the token id -1; its decoder"),
    "no decoder": (
        lambda: with_decoder(None),
        "the decoder, NoneType, has no model.config; give the model a causal language model",
    ),
    "body only": (
        lambda: with_decoder(build_decoder("qwen2").model),
        "the decoder, qwen2, has no model.config",
    ),
    "no body": (lambda: with_decoder(GPT2), "the decoder, gpt2, has no model.config"),
    "another architecture": (
        lambda: with_decoder(
            Gemma2ForCausalLM(
                Gemma2Config(**SIZES, head_dim=16, attn_implementation="eager", pad_token_id=0)
            ).eval()
        ),
        "the forward pass knows the decoders .*, got model_type 'gemma2'; give the model",
    ),
    "not a number": (
        lambda: with_weights(torch.nan),
        "the logits of stand-in hold NaN even in its own forward pass",
    ),
    "logits as a list": (ListedLogits, "answer_logits of first gave list, no tensor"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_plug_in_with_a_fault_is_told_so(fault, needle_folder):
    build, message = FAULTS[fault]
    with pytest.raises(VniahError, match=message) as caught:
        check_model(build(), load_needles(needle_folder))
    assert not isinstance(caught.value, CheckError)


@pytest.mark.parametrize("fault", ["frames that would be broadcast", "no decoder", "no tokens"])
def test_sweep_with_a_plug_in_with_a_fault_writes_nothing(
    fault, image_folder, needle_folder, tmp_path
):
    build, message = FAULTS[fault]
    material = open_haystack(image_folder), load_needles(needle_folder)
    with pytest.raises(ModelError, match=message):
        run_sweep(build(), *material, GRID, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_logits_that_are_all_zero_agree(needle_folder):
    assert check_model(with_weights(0.0), load_needles(needle_folder)).passed


def test_answers_of_several_tokens_are_checked(needle_folder):
    """The longest answers of the set are asked for, not those of the first needles."""
    needles = load_needles(needle_folder)
    rows = [len(needle.answer) for needle in needles]
    report = check_model(DecoderStandIn(build_decoder("qwen2")), needles)
    assert f"argmax equal in {4 * sum(sorted(rows)[-2:])} of " in report.lines[0]
