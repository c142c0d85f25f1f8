"""What is said of models with a fault: exactly one line for each; and of good ones: nothing."""

import copy
import random
import re

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import GPT2Config, GPT2LMHeadModel

from tests.decoder_models import DecoderStandIn
from tests.test_plug_in_model import import_example
from tests.test_readme import llava_folder, plug_in  # noqa: F401  # fixtures
from tests.test_walk import build_decoder
from vniah.conformance import examine
from vniah.errors import ModelError
from vniah.models.loading import load_model
from vniah.models.protocol import FrameSegment, TextSegment, TokenSequence
from vniah.needles import load_needles


class Reader:
    """A good model of the first level: letters are tokens, and what was read fades."""

    name, revision, frame_shape = "reader", "1", (2, 8)

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.table = torch.randn(128, 8, generator=generator)
        self.head = torch.randn(8, 128, generator=generator)

    def encode_frames(self, frames):
        small = [np.asarray(Image.fromarray(frame).convert("L").resize((8, 2))) for frame in frames]
        return torch.tensor(np.stack(small) / 255.0, dtype=torch.float32)

    def compose(self, frames, question, answer):
        opening, asked = TextSegment((1, 2)), TextSegment((*letters(question), 3))
        return TokenSequence((opening, *frames, asked), letters(answer))

    def answer_logits(self, sequence, embeds):
        return self.read(sequence, embeds)[-len(sequence.answer_ids) :]

    def decode(self, token_ids):
        return "".join(map(chr, token_ids))

    def read(self, sequence, embeds):
        """Logits at every token that is read, ``[num_tokens, 128]``."""
        frames = iter(embeds)
        rows = torch.cat(
            [
                self.rows(next(frames))
                if isinstance(segment, FrameSegment)
                else self.table[torch.tensor(segment.token_ids)]
                for segment in sequence.inputs
            ]
        )
        state, states = torch.zeros(8), []
        for row in rows:
            state = 0.9 * state + row
            states.append(state.tanh())
        return torch.stack(states) @ self.head

    def rows(self, frame):
        return frame


class Deep(Reader):
    """A frame has rows for three layers, and its rows see each other in both directions."""

    frame_shape = (3, 2, 8)

    def encode_frames(self, frames):
        return torch.stack([super(Deep, self).encode_frames(frames) * k for k in (1, 2, 3)], 1)

    def rows(self, frame):
        return frame.sum(0) + frame.mean((0, 1))


class Chat:
    """A good chat model."""

    name, revision = "chat", "1"

    def answer(self, frames, question):
        return f"{len(frames)} frames"


def letters(text):
    return tuple(map(ord, text))


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
    assert found.findings == () and found.holds
    assert found.lines == (f"conformance: {found.num_examined} things examined, none wrong",)
    assert found.num_examined >= 5


def test_checkpoint_has_no_finding(checkpoint, needles):
    assert lines(load_model(checkpoint, device="cpu"), needles) == []


def test_class_of_the_readme_has_no_finding(plug_in, llava_folder, needles):  # noqa: F811
    assert lines(plug_in(str(llava_folder)), needles) == []


def test_embedded_model_knows_only_its_own_words():
    found = examine(load_model("reference-long", device="cpu"), load_needles("counterfactual"))
    assert found.holds and found.findings
    assert all("answer" in finding.text for finding in found.findings)


# --- faults --------------------------------------------------------------------------------------


def without(base, *names):
    """An instance of a class that lacks some members."""
    members = {
        key: value
        for each in reversed(base.__mro__[:-1])
        for key, value in vars(each).items()
        if key not in (*names, "__dict__", "__weakref__")
    }
    model = type(base.__name__, (), members)
    return model()


def having(base=Reader, **members):
    """A class with some members replaced."""
    return type(base.__name__, (base,), members)


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


def by_batch(self, frames):
    encoded = Reader.encode_frames(self, frames)
    return encoded + (len(frames) - 1) * encoded.mean(0)


def a_little_by_batch(self, frames):
    return Reader.encode_frames(self, frames) * (1 + 0.01 * len(frames))


def by_place(self, frames):
    encoded = Reader.encode_frames(self, frames)
    return encoded + torch.arange(len(frames))[:, None, None]


def stacked(self, frames):
    return Reader.encode_frames(self, list(np.stack(frames)))


def painting(self, frames):
    encoded = Reader.encode_frames(self, frames)
    for frame in frames:
        frame[:] = 0
    return encoded


def by_height(self, frames):
    return Reader.encode_frames(self, frames)[:, : 1 + (frames[0].shape[0] > 30)]


def typo(self, frames):
    return frames[0].size_of_it


FRAMES = {
    "a list": (
        lambda self, frames: Reader.encode_frames(self, frames).tolist(),
        "wrong: encode_frames of reader gave list, no tensor",
    ),
    "no frames": (
        lambda self, frames: Reader.encode_frames(self, frames)[0],
        "wrong: encode_frames of reader gave shape (2, 8) for 1 frames; its frame_shape (2, 8) "
        "makes that (1, 2, 8)",
    ),
    "one frame only": (
        lambda self, frames: Reader.encode_frames(self, frames)[:1],
        "wrong: encode_frames of reader gave shape (1, 2, 8) for 3 frames; its frame_shape (2, 8) "
        "makes that (3, 2, 8)",
    ),
    "whole numbers": (
        lambda self, frames: (100 * Reader.encode_frames(self, frames)).long(),
        "wrong: encode_frames gives torch.int64; it must be a floating-point dtype",
    ),
    "no numbers": (
        lambda self, frames: Reader.encode_frames(self, frames) * torch.nan,
        "wrong: encode_frames of reader gave NaN or infinity; try --dtype float32 or bfloat16",
    ),
    "another size": (
        by_height,
        "wrong: encode_frames gives shape (1, 2, 8) for a frame of 32 x 32 pixels, and (1, 1, 8) "
        "for one of 32 x 22; bring every frame to one size",
    ),
    "one size in a call": (
        stacked,
        "wrong: encode_frames cannot take frames of different sizes in one call (32 x 32 and "
        "32 x 22 pixels: encode_frames failed in line N of test_conformance.py with ValueError: "
        "all input arrays must have the same shape); needles differ in size, so bring every frame "
        "to one size by itself",
    ),
    "dropout": (
        lambda self, frames: torch.nn.functional.dropout(Reader.encode_frames(self, frames)),
        "wrong: encode_frames gives another result for the same frame in a second call (changed by "
        "100% of its largest value); if it is in training mode, where dropout is on, call eval()",
    ),
    "the batch": (
        by_batch,
        "wrong: encode_frames gives another result for a frame by itself than together with others "
        "(changed by N% of the largest value): what is cached would depend on how frames were "
        "batched; encode every frame by itself",
    ),
    "half precision in a batch": (
        a_little_by_batch,
        "note: encode_frames gives another result for a frame by itself than together with others "
        "(changed by N% of the largest value): what is cached would depend on how frames were "
        "batched; encode every frame by itself",
    ),
    "the order": (
        by_place,
        "wrong: encode_frames gives another result for a frame in another order (changed by N% of "
        "the largest value): what is cached would depend on how frames were batched; encode every "
        "frame by itself",
    ),
    "painted over": (
        painting,
        "wrong: encode_frames changes the pictures that it is given; let it work on copies",
    ),
    "the same for all": (
        lambda self, frames: torch.ones(len(frames), 2, 8),
        "note: encode_frames gives the same for three different pictures",
    ),
    "a typo": (
        typo,
        "wrong: encode_frames failed in line N of test_conformance.py with AttributeError: "
        "'numpy.ndarray' object has no attribute 'size_of_it'",
    ),
}


def composed(change):
    """`Reader.compose`, with its sequence and what went in handed to a function."""

    def compose(self, frames, question, answer):
        sequence = Reader.compose(self, frames, question, answer)
        return change(sequence, frames, question, answer)

    return compose


def with_segments(change):
    return composed(
        lambda sequence, *given: TokenSequence(
            tuple(change(sequence.segments, *given)), sequence.answer_ids
        )
    )


def with_answer(change):
    return composed(
        lambda sequence, *given: TokenSequence(sequence.segments, change(sequence.answer_ids))
    )


def numbered(number):
    def change(segments, frames, question, answer):
        opening, *_, asked = segments
        shown = [(TextSegment((number(k, frames),)), frame) for k, frame in enumerate(frames)]
        return (opening, *(segment for pair in shown for segment in pair), asked)

    return with_segments(change)


COMPOSE = {
    "nothing": (lambda *_: None, "wrong: compose gives NoneType, not a TokenSequence"),
    "lists": (
        composed(lambda s, *_: TokenSequence([*s.segments], s.answer_ids)),
        "wrong: compose failed in line N of test_conformance.py with InputError: the segments of a "
        "TokenSequence must be a tuple, got list",
    ),
    "no answer": (
        with_answer(lambda ids: ()),
        "wrong: compose failed in line N of test_conformance.py with InputError: a token sequence "
        "needs at least one answer token, got none",
    ),
    "words": (
        with_segments(lambda segments, *_: ("USER:", *segments)),
        "wrong: compose gives str as segment 0; it must be a TextSegment or a FrameSegment",
    ),
    "letters": (
        with_answer(lambda ids: tuple(map(chr, ids))),
        "wrong: compose gives the token id '7' in the answer; token ids are whole numbers from 0",
    ),
    "negative": (
        with_segments(lambda segments, *_: (TextSegment((-200,)), *segments)),
        "wrong: compose gives the token id -200 in the prompt; token ids are whole numbers from 0",
    ),
    "a frame left out": (
        with_segments(lambda segments, frames, *_: [s for s in segments if s != frames[1]]),
        "wrong: compose shows no frame 1 (given 3, shown [0, 2]); give the frame segments as they "
        "come, each once",
    ),
    "a frame twice": (
        with_segments(lambda segments, frames, *_: (frames[0], *segments)),
        "wrong: compose shows a frame more than once (given 3, shown [0, 0, 1, 2]); give the frame "
        "segments as they come, each once",
    ),
    "turned round": (
        with_segments(lambda segments, frames, *_: (segments[0], *frames[::-1], segments[-1])),
        "wrong: compose shows the frames in another order (given 3, shown [2, 1, 0]); give the "
        "frame segments as they come, each once",
    ),
    "frames of its own": (
        with_segments(lambda segments, *_: (FrameSegment("mine", 0), *segments)),
        "wrong: compose shows frames that it was not given (given 3, shown [None, 0, 1, 2]); give "
        "the frame segments as they come, each once",
    ),
    "by chance": (
        with_segments(lambda segments, *_: (TextSegment((random.randrange(10**9),)), *segments)),
        "wrong: compose gives another sequence in a second call with the same frames and words; it "
        "must depend on nothing else, such as the time",
    ),
    "the answer in it": (
        with_segments(lambda segments, _, __, answer: (*segments, TextSegment(letters(answer)))),
        "wrong: compose gives other segments before the answer when the answer is another (segment "
        "5 of 6): the prompt would give it away; put the answer into answer_ids only",
    ),
    "the index of the frame": (
        numbered(lambda k, frames: frames[k].index),
        "wrong: compose writes other text around a frame of another source (segment 3): the prompt "
        "would give the needle away; take a frame's number from its place in the list, not from "
        "its index",
    ),
    "the number of frames": (
        with_segments(lambda segments, frames, *_: (TextSegment((len(frames),)), *segments)),
        "note: the prompt changes before frame 0 (segment 0) when there are more frames, 6 instead "
        "of 3: it seems to state their number; a decoder's work is shared only among cells with "
        "equal numbers of frames",
    ),
    "a clock that counts down": (
        numbered(lambda k, frames: 10 * (k and len(frames) - k)),
        "note: the prompt changes before frame 1 (segment 3) when there are more frames, 6 instead "
        "of 3: what follows has a part in it; a decoder's work is shared only among cells with "
        "equal numbers of frames",
    ),
    "the question first": (
        with_segments(lambda segments, *_: (segments[-1], *segments[:-1], TextSegment((5,)))),
        "note: the prompt changes before frame 0 (segment 0) when the question is another: it "
        "seems to stand before the frames; a decoder's work is shared only among equal questions",
    ),
    "no question": (
        with_segments(lambda segments, *_: (*segments[:-1], TextSegment((5,)))),
        "note: compose gives the same prompt for the questions 'find the red card . what is on it "
        "?' and 'find the red card . what is on it ? f...'; is the question in it?",
    ),
}
ANSWERS = {
    "the same tokens": (
        with_answer(lambda ids: (0,)),
        "note: compose gives the same tokens (0,) for the answers '7' and 'yes'; does the "
        "tokenizer know these words?",
    ),
    "a special token first": (
        with_answer(lambda ids: (1, *ids)),
        "note: the tokens of all answers begin with 1: if that is a special token, the model is "
        "asked to predict it; encode answers with add_special_tokens=False",
    ),
    "a special token last": (
        with_answer(lambda ids: (*ids, 2)),
        "note: the tokens of all answers end with 2: if that is a special token, the model is "
        "asked to predict it; encode answers with add_special_tokens=False",
    ),
}


def decodes_badly(self, token_ids):
    return "<unk>" * len(token_ids)


DECODE = {
    "unknown": (
        decodes_badly,
        "note: decode gives '<unk>' for the tokens of the answer '7': unknown or special tokens "
        "are among them, or white space",
    ),
    "no text": (lambda self, ids: list(ids), "wrong: decode gives list, not text"),
}


def rows_at(start, stop):
    """All answer tokens are read, also the last one, and other rows are given."""

    def answer_logits(self, sequence, embeds):
        whole = TokenSequence((*sequence.segments, TextSegment(sequence.answer_ids)), (0,))
        rows, count = self.read(whole, embeds), len(sequence.answer_ids)
        return rows[len(rows) - count + start :][:count] if stop else rows[-1:]

    return answer_logits


def both_ways(self, sequence, embeds):
    whole = TokenSequence((*sequence.segments, TextSegment(sequence.answer_ids)), (0,))
    return Reader.answer_logits(self, sequence, embeds) + self.read(whole, embeds)[-1:]


def blind_to_the_answer(self, sequence, embeds):
    prompt = TokenSequence(sequence.segments, (0,))
    return self.read(prompt, embeds)[-1:].repeat(len(sequence.answer_ids), 1)


def keeps_state(self, sequence, embeds):
    self.longest = max(getattr(self, "longest", 0), len(embeds))
    return Reader.answer_logits(self, sequence, embeds) + self.longest


def forgets_the_first(self, sequence, embeds):
    embeds = embeds.clone()
    embeds[0] = 0
    return Reader.answer_logits(self, sequence, embeds)


def takes_three(self, sequence, embeds):
    return Reader.answer_logits(self, sequence, embeds + torch.zeros(3, 2, 8))


def own(change):
    return lambda self, *given: change(Reader.answer_logits(self, *given))


LOGITS = {
    "a list": (own(torch.Tensor.tolist), "wrong: answer_logits of reader gave list, no tensor"),
    "one row": (
        rows_at(0, None),
        "wrong: answer_logits of reader gave shape (1, 128); expected (3, vocabulary), one row for "
        "each answer token",
    ),
    "a batch": (
        own(lambda logits: logits[None]),
        "wrong: answer_logits of reader gave shape (1, 1, 128); expected (1, vocabulary), one row "
        "for each answer token",
    ),
    "no numbers": (
        own(lambda logits: logits * torch.nan),
        "wrong: the model's logits hold NaN or infinity; try --dtype float32 or bfloat16",
    ),
    "whole numbers": (
        own(torch.Tensor.long),
        "wrong: answer_logits gives torch.int64; it must be a floating-point dtype",
    ),
    "few words": (
        own(lambda logits: logits[:, :50]),
        "wrong: the answer holds token 55, the logits only 50 tokens",
    ),
    "dropout": (
        own(torch.nn.functional.dropout),
        "wrong: answer_logits gives other logits for the same sequence in a second call (changed "
        "by N% of the largest); if it is in training mode, where dropout is on, call eval()",
    ),
    "too late": (
        rows_at(0, 3),
        "wrong: answer_logits: row 0 changes when answer token 0 changes, which it is to predict: "
        "the rows are one too late; give the row before each answer token, whose logits predict it",
    ),
    "too early": (
        rows_at(-2, 3),
        "wrong: answer_logits: row 1 does not change when answer token 0 changes, but row 2 does: "
        "the rows are one too early; the last row is that of the last token of sequence.inputs",
    ),
    "both directions": (
        both_ways,
        "wrong: answer_logits: row 0 changes when answer token 1 changes, which comes later: a row "
        "must see only what is before the token that it predicts",
    ),
    "without the answer": (
        blind_to_the_answer,
        "wrong: answer_logits: row 1 does not change when answer token 0 changes: a row must be "
        "predicted from the right answer tokens before it, which are in sequence.inputs",
    ),
    "without the frames": (
        lambda self, sequence, embeds: Reader.answer_logits(self, sequence, 0 * embeds),
        "note: the logits do not depend on the frames",
    ),
    "without a frame": (
        forgets_the_first,
        "note: the logits do not depend on frame 0 of 3",
    ),
    "state": (
        keeps_state,
        "wrong: answer_logits gives other logits for the same sequence after a longer one: the "
        "model keeps something from call to call, such as rope_deltas; set it back first",
    ),
    "three frames only": (
        takes_three,
        "wrong: answer_logits failed in line N of test_conformance.py with RuntimeError: The size "
        "of tensor a (6) must match the size of tensor b (3) at non-singleton dimension 0",
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
        "wrong: position_ids failed in line N of test_conformance.py with AttributeError: "
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
        lambda: DecoderStandIn(build_decoder("mistral", sliding_window=20)),
        "wrong: the decoder has a sliding window of 20 tokens, the sequence has 50: it cannot see "
        "the whole haystack; set sliding_window to null in its config.json if it was trained "
        "without one",
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
        "wrong: answer failed in line N of test_conformance.py with AttributeError: 'str' object "
        "has no attribute 'speak'",
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
    assert found.holds == all(line.startswith("note: ") for line in expected)


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
    assert found.holds
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
