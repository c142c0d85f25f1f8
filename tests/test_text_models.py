"""Language models without a vision tower: tokens, equality with transformers, refusals."""

import copy
import re

import pytest
import torch
from decoder_models import DecoderStandIn
from test_prefill import build_decoder
from text_models import (
    ALL_KINDS,
    KINDS,
    LANGUAGE_MODELS,
    load_language_model,
    save_language_model,
    tokenizer_of,
)
from tokenizers.processors import TemplateProcessing

from vniah.checks.conformance import examine
from vniah.cli import main
from vniah.embeddings.encode import EncodedFrames
from vniah.engines.base import EngineOptions, trial_text
from vniah.engines.choosing import choose_engine
from vniah.engines.inputs import compose_candidates, decoder_logits, require_encoder
from vniah.engines.planning import make_plan
from vniah.errors import InputError, ModelError
from vniah.haystacks.prose import write_prose
from vniah.models.huggingface.folder import FamilyParts
from vniah.models.loading import load_model
from vniah.needles import load_needles
from vniah.needles.numbers import number_needles
from vniah.protocol import DecoderModel, LanguageModel
from vniah.tasks import Sample

NO_FRAMES = EncodedFrames.none().store
PROMPT = write_prose(700)[:611] + ".\nThe special magic Singapore number is: 1234567.\n Question:"


@pytest.fixture(scope="module", params=KINDS)
def model(request, tmp_path_factory):
    return load_language_model(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def byte_model(tmp_path_factory):
    return load_language_model(tmp_path_factory.mktemp("model"))


def test_it_is_a_language_model_and_reads_no_frames(byte_model):
    assert isinstance(byte_model, LanguageModel)
    assert not isinstance(byte_model, DecoderModel)
    assert byte_model.settings["trained_tokens"] == 2048
    assert repr(byte_model) == "<TextModel tiny-bytes, float32 on cpu>"


def test_tokens_are_those_of_the_whole_prompt(model):
    kind = model.name.removeprefix("tiny-")
    sequence = model.compose_text(PROMPT, "1234567")
    ids = [token for segment in sequence.segments for token in segment.token_ids]
    assert ids == tokenizer_of(kind)(PROMPT)["input_ids"]
    assert len(model.token_ends(PROMPT)) == len(ids)
    assert sequence.num_tokens(0) == len(ids) + len(sequence.answer_ids) - 1
    assert model.token_ends(PROMPT)[-1] == len(PROMPT)
    assert model.decode(sequence.answer_ids) == "1234567"


def test_the_answer_begins_with_the_space_before_it(model):
    spelled = model.spell(model.compose_text(PROMPT, "1234567").answer_ids)
    assert spelled.strip() == "1234567"
    with_space = model.compose_text(PROMPT + " ", "1234567")
    assert model.decode(with_space.answer_ids) == "1234567"


def test_prompts_that_begin_alike_share_segments(model):
    one, other = (model.compose_text(PROMPT + end, "1") for end in (" one", " another thing"))
    common = 0
    while one.segments[common] == other.segments[common]:
        common += 1
    assert common >= len(one.segments) - 2


def plain_logits(model, sequence):
    """Answer logits by transformers, from token ids alone."""
    ids = [token for segment in sequence.inputs for token in segment.token_ids]
    with torch.inference_mode():
        logits = model.decoder(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits[-len(sequence.answer_ids) :]


def test_logits_are_those_of_transformers(model):
    sequence = model.compose_text(PROMPT, "1234567")
    plain, own = plain_logits(model, sequence), decoder_logits(model, sequence, NO_FRAMES)
    assert torch.equal(plain.argmax(-1), own.argmax(-1))
    assert (plain - own).abs().max() < 1e-4


@pytest.mark.parametrize("model_type", LANGUAGE_MODELS)
def test_every_family_of_text_reads_as_transformers_does(tmp_path, model_type):
    folder = save_language_model(tmp_path / "checkpoint", model_type=model_type)
    model = load_model(folder, device="cpu")
    assert model.decoder.config.model_type == model_type
    sequence = model.compose_text(PROMPT, "1234567")
    plain, own = plain_logits(model, sequence), decoder_logits(model, sequence, NO_FRAMES)
    assert torch.equal(plain.argmax(-1), own.argmax(-1))
    assert (plain - own).abs().max() < 1e-4


def test_the_engine_gives_what_transformers_gives(byte_model):
    needles = number_needles(2)
    engine = choose_engine(byte_model, EngineOptions())
    samples = [
        trial_text(needles, needle, length=length, index=2)
        for length in (4, 9)
        for needle in needles
    ]
    engine.prepare(None, needles, 0)
    num_batches = engine.plan(samples, [True] * 4)
    found = engine.check()
    assert {"prefill", "tree", "suffixes"} <= found.keys()
    assert all(way["argmax_equal"] == way["rows"] for way in found.values())
    outcomes = [pair for batch in range(num_batches) for pair in engine.run(batch)]
    assert len(outcomes) == 4
    for sample, readings in outcomes:
        (sequence,) = compose_candidates(byte_model, sample)
        logits = plain_logits(byte_model, sequence).log_softmax(-1)
        right = logits.gather(1, torch.tensor(sequence.answer_ids)[:, None]).sum()
        assert readings[0].logits.logprob == pytest.approx(float(right), abs=1e-3)


def test_equal_beginnings_are_computed_once(byte_model):
    sequences = [byte_model.compose_text(PROMPT + end, "1") for end in (" a", " b", " c")]
    plan = make_plan(byte_model, sequences, max_suffix_tokens=0)
    assert plan.note is None
    assert plan.cost.num_tokens < 0.6 * plan.cost_alone.num_tokens


def test_vniah_check_tries_it_on_texts(byte_model):
    found = choose_engine(byte_model, EngineOptions()).examine(
        number_needles(), cache=None, on_prepared=lambda: None
    )
    assert found.passed
    assert found.lines[-1] == "the forward pass gives what the model gives"


def test_options_for_frames_are_refused(tmp_path):
    folder = save_language_model(tmp_path)
    for option in ({"frame_size": (64, 64)}, {"prompt_template": "qwen2"}):
        (name,) = option
        with pytest.raises(InputError, match=f"{name} is for models that read frames"):
            load_model(folder, **option)


def test_another_rope_base_is_taken_and_given_back(tmp_path, byte_model):
    changed = load_model(save_language_model(tmp_path), rope_theta=1e6)
    sequence = byte_model.compose_text(PROMPT, "1234567")
    usual = decoder_logits(byte_model, sequence, NO_FRAMES)
    assert (decoder_logits(changed, sequence, NO_FRAMES) - usual).abs().max() > 1e-3
    changed.override_rope()
    assert torch.equal(decoder_logits(changed, sequence, NO_FRAMES), usual)


def test_a_tokenizer_without_places_of_its_tokens_is_refused(byte_model, monkeypatch):
    class Slow:
        is_fast = False

    parts = FamilyParts("slow", "1", byte_model.decoder, Slow(), None, "", ())
    with pytest.raises(ModelError, match=r"give it a tokenizer\.json"):
        type(byte_model)(parts)


@pytest.mark.parametrize("template", ["</s> $A", "$A </s>"])
def test_a_token_before_every_prompt_counts_and_one_behind_it_is_refused(template, byte_model):
    tokenizer = copy.deepcopy(tokenizer_of("bytes"))
    mark = ("</s>", tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=[mark]
    )
    parts = FamilyParts("marked", "1", byte_model.decoder, tokenizer, None, "", ())
    if template.startswith("$A"):
        with pytest.raises(ModelError, match="puts a token behind every text"):
            type(byte_model)(parts)
        return
    marked = type(byte_model)(parts)
    sequence, plain = (one.compose_text(PROMPT, "12") for one in (marked, byte_model))
    assert sequence.segments[0].token_ids[0] == mark[1]
    assert sequence.answer_ids == plain.answer_ids
    assert list(marked.token_ends(PROMPT)) == [0, *byte_model.token_ends(PROMPT)]


def test_frames_and_text_are_for_models_that_read_them(byte_model, needle_folder):
    picture = load_needles(needle_folder).needles[0]
    frames = Sample("-/-/x", None, (), picture.question, picture.answers)
    with pytest.raises(InputError, match="tiny-bytes is a language model, which reads text"):
        compose_candidates(byte_model, frames)
    with pytest.raises(InputError, match="measure it with a task of text, --task niah"):
        require_encoder(byte_model)
    seeing = DecoderStandIn(build_decoder("llama"))
    text = Sample("-/-/x", None, (), "Which?", ("1",), text=("A book.",))
    with pytest.raises(InputError, match="stand-in has no decoder that reads text alone"):
        compose_candidates(seeing, text)


# --- conformance ---------------------------------------------------------------------------------


def test_a_model_of_ours_conforms(model):
    found = examine(model, number_needles())
    assert found.lines == ("conformance: 3 things examined, none wrong",)


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("token_ends", lambda own, text: own(text)[:-1], r"tokens, and token_ends counts"),
        ("token_ends", lambda own, text: own(text)[::-1], r"token_ends must ascend and end with"),
        ("compose_text", lambda own, text, a: own(text + a, a), r"tokens, and token_ends counts"),
        (
            "compose_text",
            lambda own, text, a: own(text if len(a) == 7 else text[:-1] + "?", a),
            r"another prompt when the answer is another one",
        ),
        ("compose_text", lambda own, text, a: None, r"gave NoneType, not a TokenSequence"),
    ],
)
def test_what_would_give_wrong_lengths_is_found(byte_model, method, change, message, monkeypatch):
    own = getattr(byte_model, method)
    monkeypatch.setattr(byte_model, method, lambda *given: change(own, *given))
    found = examine(byte_model, number_needles())
    assert not found.passed and re.search(message, found.lines[0])


def test_pictures_are_not_for_a_language_model(byte_model, needle_folder):
    with pytest.raises(InputError, match="are pictures; give --needles numbers"):
        examine(byte_model, load_needles(needle_folder))


def test_a_language_model_is_checked_with_text_by_default(tmp_path, capsys):
    folder = save_language_model(tmp_path)
    assert main(["check", "--model", str(folder)]) == 0
    printed = capsys.readouterr()
    assert "are pictures" not in printed.out + printed.err
    assert main(["check", "--model", str(folder), "--needles", "cards"]) == 2
    assert "are pictures; give --needles numbers" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_the_tokens_of_an_answer_are_those_of_the_number(kind, tmp_path):
    """Also where a tokenizer puts a mark for a space before every text."""
    model = load_language_model(tmp_path, kind)
    for prompt in ("It was so. The number is:", "The number is: "):
        sequence = model.compose_text(prompt, "1234567")
        assert model.decode(sequence.answer_ids) == "1234567"
        read = [token for piece in sequence.pieces for token in piece.token_ids]
        whole = model.decode([*read, *sequence.answer_ids]).split()
        assert whole[-1] == "1234567" and whole[-2] == "is:"


def test_an_answer_that_the_tokenizer_cannot_spell_is_refused(model):
    if model.name == "tiny-bytes":
        assert model.compose_text("The word is:", "\u4eba\u9593").answer_ids
    else:
        message = "has no tokens for all of the answer .* as <unk>; give other needles"
        with pytest.raises(ModelError, match=message):
            model.compose_text("The word is:", "\u4eba\u9593")
