"""A model of the first level that is good, and what can be wrong with its methods, line by line."""

import random

import numpy as np
import torch
from PIL import Image

from vniah.protocol import FrameSegment, TextSegment, TokenSequence


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


def letters(text):
    return tuple(map(ord, text))


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
        "32 x 22 pixels: encode_frames failed in line N of faulty_models.py with ValueError: "
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
        "wrong: encode_frames failed in line N of faulty_models.py with AttributeError: "
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
        "wrong: compose failed in line N of faulty_models.py with InputError: the segments of a "
        "TokenSequence must be a tuple, got list",
    ),
    "no answer": (
        with_answer(lambda ids: ()),
        "wrong: compose failed in line N of faulty_models.py with InputError: a token sequence "
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
        "wrong: answer_logits failed in line N of faulty_models.py with RuntimeError: The size "
        "of tensor a (6) must match the size of tensor b (3) at non-singleton dimension 0",
    ),
}
