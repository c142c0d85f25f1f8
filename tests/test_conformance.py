"""What is said of models with a fault: exactly one line for each; and of good ones: nothing."""

import copy
import re

import numpy as np
import pytest
import torch
from decoder_models import DecoderStandIn
from faulty_models import (
    ANSWERS,
    COMPOSE,
    DECODE,
    FRAMES,
    LOGITS,
    Deep,
    Reader,
    by_place,
    having,
    letters,
    painting,
    without,
)
from test_plug_in_model import import_example
from test_prefill import build_decoder
from test_readme import llava_folder, plug_in  # noqa: F401  # fixtures
from transformers import GPT2Config, GPT2LMHeadModel

from vniah.checks.conformance import examine
from vniah.errors import ModelError
from vniah.models.loading import load_model
from vniah.needles import load_needles
from vniah.protocol import TextSegment, TokenSequence


class Chat:
    """A good chat model."""

    name, revision = "chat", "1"

    def answer(self, frames, question):
        return f"{len(frames)} frames"


@pytest.fixture
def needles(needle_folder):
    return load_needles(needle_folder)


def lines(model, needles):
    return [finding.sentence() for finding in examine(model, needles).findings]


# --- good models ---------------------------------------------------------------------------------

GOOD = {
    "first level": Reader,
    "frames of three dimensions": Deep,
    "decoder": lambda: DecoderStandIn(build_decoder("qwen2")),
    "decoder with three rows of positions": lambda: DecoderStandIn(
        build_decoder("qwen2_vl"), lambda num_tokens: torch.arange(num_tokens).expand(3, -1)
    ),
    "positions from 7": lambda: DecoderStandIn(
        build_decoder("qwen2"), lambda num_tokens: torch.arange(7, 7 + num_tokens)
    ),
    "chat": Chat,
    "embedded": lambda: load_model("reference-long", device="cpu"),
    "embedded in half precision": lambda: load_model(
        "reference-long", device="cpu", dtype="bfloat16"
    ),
    **{
        f"example {name} {dtype}": lambda name=name, dtype=dtype: getattr(import_example(), name)(
            dtype
        )
        for name in ("Plain", "WithDecoder", "Chat")
        for dtype in ("float32", "bfloat16")
    },
}


@pytest.mark.parametrize("name", GOOD)
def test_good_model_has_no_finding(name, needles):
    if "embedded" in name:
        needles = load_needles("cards")
    found = examine(GOOD[name](), needles)
    assert found.findings == () and found.passed
    assert found.lines == (f"conformance: {found.num_examined} things examined, none wrong",)
    assert found.num_examined >= 5


def test_checkpoint_has_no_finding(checkpoint, needles):
    assert lines(load_model(checkpoint, device="cpu"), needles) == []


def test_class_of_the_readme_has_no_finding(plug_in, llava_folder, needles):  # noqa: F811
    assert lines(plug_in(str(llava_folder)), needles) == []


def test_embedded_model_knows_only_its_own_words():
    found = examine(load_model("reference-long", device="cpu"), load_needles("counterfactual"))
    assert found.passed and found.findings
    assert all("answer" in finding.text for finding in found.findings)


# --- faults --------------------------------------------------------------------------------------


def decoding(**members):
    return having(DecoderStandIn, **members)(build_decoder("qwen2"))


def small_decoder():
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=1)).eval()


INTERFACE = {
    "nothing": (
        object,
        [
            "wrong: object has neither answer_logits(sequence, embeds), nor decoder and "
            "position_ids(sequence), nor answer(frames, question); give it one of the three",
            "wrong: object lacks the attribute name",
            "wrong: object lacks the attribute revision",
        ],
    ),
    "several": (
        lambda: without(having(revision=3), "frame_shape", "compose"),
        [
            "wrong: revision is 3; it must be text",
            "wrong: Reader lacks the attribute frame_shape",
            "wrong: Reader lacks the method compose(frames, question, answer)",
        ],
    ),
    "a class": (
        lambda: Reader,
        ["wrong: the factory gave the class Reader itself, not a model; give Reader()"],
    ),
    "no forward pass": (
        lambda: without(Reader, "answer_logits"),
        [
            "wrong: Reader has neither answer_logits(sequence, embeds), nor decoder and "
            "position_ids(sequence), nor answer(frames, question); give it one of the three"
        ],
    ),
    "no name": (having(name=""), ["wrong: name is ''; it must be text"]),
    "shape as a list": (
        having(frame_shape=[2, 8]),
        [
            "wrong: frame_shape is [2, 8]; it must be a tuple of whole numbers from 1, such as "
            "(144, 3584): tokens of a frame, hidden size"
        ],
    ),
    "shape of nothing": (
        having(frame_shape=(0, 8)),
        [
            "wrong: frame_shape is (0, 8); it must be a tuple of whole numbers from 1, such as "
            "(144, 3584): tokens of a frame, hidden size"
        ],
    ),
    "too few parameters": (
        having(compose=lambda self, frames, question: None),
        [
            "wrong: compose(frames, question) cannot be called as compose(frames, question, "
            "answer): too many positional arguments"
        ],
    ),
    "too many parameters": (
        having(answer_logits=lambda self, sequence, embeds, cache: None),
        [
            "wrong: answer_logits(sequence, embeds, cache) cannot be called as "
            "answer_logits(sequence, embeds): missing a required argument: 'cache'"
        ],
    ),
    "no method": (
        having(encode_frames=3),
        ["wrong: encode_frames is 3; it must be a method, called as encode_frames(frames)"],
    ),
    "decode of two": (
        having(decode=lambda self, ids, words: ""),
        [
            "wrong: decode(ids, words) cannot be called as decode(token_ids): missing a required "
            "argument: 'words'"
        ],
    ),
    "settings as a list": (
        having(settings=[1]),
        ["wrong: settings is [1]; it must be a dictionary with names as keys"],
    ),
    "sharing in words": (
        lambda: decoding(shares_prefixes="no"),
        ["wrong: shares_prefixes is 'no'; it must be True or False"],
    ),
    "stop tokens that are no tuple": (
        lambda: having(Reader, stop_ids=2)(),
        ["wrong: stop_ids is 2; it must be a tuple of token ids"],
    ),
    "decoder without positions": (
        lambda: having(Reader, decoder=None)(),
        [
            "note: decoder is not used, as there is no position_ids(sequence); every cell runs by "
            "itself through answer_logits"
        ],
    ),
    "decoder only": (
        lambda: without(having(decoder=None), "answer_logits"),
        ["wrong: Reader lacks the method position_ids(sequence)"],
    ),
    "chat without a revision": (
        lambda: without(Chat, "revision"),
        ["wrong: Chat lacks the attribute revision"],
    ),
}


def num_tokens(sequence):
    return sequence.num_tokens(3)


def stateful_positions(self, sequence):
    self.longest = max(getattr(self, "longest", 0), num_tokens(sequence))
    return torch.arange(num_tokens(sequence)) + self.longest


def text_among_the_frames(self, sequence):
    start = 4 + 3 * len(sequence.frames)
    positions = torch.arange(num_tokens(sequence))
    return torch.where(positions < start, positions, positions - start + 6)


POSITIONS = {
    "a list": (
        lambda self, sequence: [*range(num_tokens(sequence))],
        "wrong: the decoder qwen2 needs one position for each of 50 tokens, position_ids of shape "
        "(50,), got list",
    ),
    "too few": (
        lambda self, sequence: torch.arange(num_tokens(sequence) - 1),
        "wrong: the decoder qwen2 needs one position for each of 50 tokens, position_ids of shape "
        "(50,), got (49,)",
    ),
    "no numbers": (
        lambda self, sequence: torch.full([num_tokens(sequence)], torch.nan),
        "wrong: position_ids gives NaN or infinity",
    ),
    "a typo": (
        lambda self, sequence: torch.arange(sequence.length),
        "wrong: position_ids failed with AttributeError: "
        "'TokenSequence' object has no attribute 'length'",
    ),
    "counted from the end": (
        lambda self, sequence: torch.arange(-num_tokens(sequence), 0),
        "note: position_ids depend on what follows (token 0 of 13 that two sequences begin with: "
        "-50 and -59); nothing is shared, every cell runs by itself",
    ),
    "state": (
        stateful_positions,
        "wrong: position_ids gives other positions for the same sequence after a longer one: the "
        "model keeps something from call to call, such as rope_deltas; set it back first",
    ),
    "among the frames": (
        text_among_the_frames,
        "note: position_ids of 128 frames reach 387, and the text behind them begins at 6: the "
        "question stands among the frames; let it begin at the largest position + 1",
    ),
}


def told(decoder):
    model = DecoderStandIn(build_decoder("qwen2"))
    model.decoder = decoder
    return model


def in_training():
    model = DecoderStandIn(build_decoder("qwen2"))
    model.decoder = copy.deepcopy(model.decoder).train()
    return model


def with_a_planted_window():
    model = DecoderStandIn(build_decoder("qwen2"))
    model.decoder.config.sliding_window = 20
    model.decoder.config.layer_types = ["sliding_attention"] * 3
    return model


def narrow(self, frames):
    return DecoderStandIn.encode_frames(self, frames)[..., :32]


DECODERS = {
    "another": (
        lambda: told(small_decoder()),
        "wrong: the decoder, gpt2, has no model.config; give the model a causal language model of "
        "transformers, or an answer_logits method instead",
    ),
    "training": (
        in_training,
        "wrong: the decoder is in training mode, where dropout is on; call its eval()",
    ),
    "width": (
        lambda: decoding(frame_shape=(3, 32), encode_frames=narrow),
        "wrong: frame_shape of stand-in is (3, 32), but its decoder reads rows of 64 numbers",
    ),
    "window": (
        with_a_planted_window,
        "wrong: layer 0 of the decoder qwen2 is stated as 'sliding_attention', and its module "
        "Qwen2Attention is of the kind 'full_attention'; give the model an answer_logits method "
        "instead",
    ),
    "token": (
        lambda: decoding(
            compose=lambda self, frames, question, answer: TokenSequence(
                (*frames, TextSegment((*letters(question), 97))), letters(answer)
            )
        ),
        "wrong: compose of stand-in gave the token id 102; its decoder has embeddings for 0 to 96",
    ),
}


def gone(self, frames, question):
    raise ModelError("the server is gone; start it again")


CHATS = {
    "its own error": (gone, "wrong: the server is gone; start it again"),
    "nothing": (lambda self, frames, question: None, "wrong: answer gives NoneType, not text"),
    "empty": (lambda self, frames, question: " ", "note: answer gives an empty text"),
    "a typo": (
        lambda self, frames, question: question.speak(),
        "wrong: answer failed with AttributeError: 'str' object has no attribute 'speak'",
    ),
}


def cases():
    yield from ((f"interface: {k}", build, found) for k, (build, found) in INTERFACE.items())
    of_reader = (
        ("encode_frames", FRAMES),
        ("compose", COMPOSE),
        ("answer_logits", LOGITS),
        ("decode", DECODE),
    )
    for method, table in of_reader:
        for name, (member, line) in table.items():
            yield f"{method}: {name}", having(**{method: member}), [line]
    for name, (member, line) in ANSWERS.items():
        yield f"answer: {name}", lambda m=member: without(having(compose=m), "decode"), [line]
    for name, (member, line) in POSITIONS.items():
        yield f"position_ids: {name}", lambda m=member: decoding(position_ids=m), [line]
    for name, (build, line) in DECODERS.items():
        yield f"decoder: {name}", build, [line]
    for name, (member, line) in CHATS.items():
        yield f"chat: {name}", having(Chat, answer=member), [line]


@pytest.mark.parametrize(
    ("build", "expected"), [pytest.param(build, found, id=name) for name, build, found in cases()]
)
def test_fault_is_exactly_one_line(build, expected, needles):
    torch.manual_seed(0)
    found = examine(build(), needles)
    sentences = [
        re.sub(
            r"(?<=line )\d+|\d+\.\d+(?=%)|(?<=by )\d+(?=% of the largest\))", "N", line.sentence()
        )
        for line in found.findings
    ]
    assert sentences == expected
    assert found.passed == all(line.startswith("note: ") for line in expected)


def test_dtype_that_is_not_that_of_the_frames_is_noted(needles):
    assert lines(having(dtype=torch.bfloat16)(), needles) == [
        "note: dtype is torch.bfloat16, but encode_frames gives torch.float32: the cache and the "
        "manifest will say the first"
    ]
    assert lines(having(dtype=torch.float32)(), needles) == []
    assert lines(having(dtype="float32")(), needles) == []


def test_chat_model_with_moods_is_noted(needles):
    answers = iter("ab")
    model = having(Chat, answer=lambda self, frames, question: next(answers))()
    assert lines(model, needles) == [
        "note: answer gives 'a' and then 'b' for the same frames and question: a run cannot be "
        "made again; set its temperature to 0"
    ]


def test_faults_of_several_parts_are_all_named(needles):
    model = having(
        encode_frames=by_place, compose=COMPOSE["a frame left out"][0], settings=[], revision=None
    )()
    found = examine(model, needles)
    assert [line.split()[1] for line in found.lines[:-1]] == [
        "revision",
        "settings",
        "encode_frames",
        "compose",
    ]
    assert found.lines[-1] == (
        f"conformance: {found.num_examined} things examined, 4 wrong; what builds on these was not "
        "examined"
    )


def test_notes_are_counted_and_do_no_harm(needles):
    found = examine(having(compose=COMPOSE["the question first"][0])(), needles)
    assert found.passed
    assert found.lines[-1] == (
        f"conformance: {found.num_examined} things examined, none wrong, 1 to note"
    )


def test_logits_that_are_masked_are_none_of_these_faults(needles):
    def masked(self, sequence, embeds):
        logits = Reader.answer_logits(self, sequence, embeds)
        logits[:, :10] = -torch.inf
        return logits

    assert lines(having(answer_logits=masked)(), needles) == []


def test_one_needle_is_enough(needles):
    assert lines(Reader(), needles.select(["a"])) == []


def test_pictures_and_frames_that_are_tried_are_not_changed(needles):
    before = needles.sha256, [np.array(needle.image) for needle in needles]
    examine(having(encode_frames=painting)(), needles)
    assert needles.sha256 == before[0]
    for needle, picture in zip(needles, before[1], strict=True):
        assert np.array_equal(np.array(needle.image), picture)
