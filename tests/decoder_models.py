"""Models of the second level on random decoders, with frames that are drawn when they are read."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from test_prefill import build_decoder, three_rows

from vniah.embeddings.encode import EncodedFrames
from vniah.engines.agreement import plain_logits
from vniah.engines.base import EngineOptions
from vniah.engines.decoder import DecoderEngine
from vniah.engines.inputs import DecoderInputs
from vniah.engines.planning import Plan, make_plan
from vniah.forward.runner import BranchRunner
from vniah.protocol import FrameSegment, TextSegment, TokenSequence
from vniah.tasks.base import Sample
from vniah.tasks.placement import insert_needle

TOKENS_PER_FRAME = 3
HIDDEN_SIZE = 64


class DecoderStandIn:
    """Reads an opening, frames and a question; its position ids may be any function."""

    name, revision = "stand-in", "1"
    frame_shape: tuple[int, ...] = (TOKENS_PER_FRAME, HIDDEN_SIZE)

    def __init__(
        self, decoder: Any, place_tokens: Callable[[int], torch.Tensor] | None = None
    ) -> None:
        self.decoder = decoder
        has_three = "vl" in decoder.model.config.model_type
        self._place_tokens = place_tokens or (three_rows if has_three else torch.arange)

    def encode_frames(self, frames: Sequence[Any]) -> torch.Tensor:
        return torch.stack([rows_of(frame.tobytes(), self.frame_shape[0]) for frame in frames])

    def compose(self, frames: Sequence[FrameSegment], question: str, answer: str) -> TokenSequence:
        return TokenSequence(
            (TextSegment((1, 2, 3, 4)), *frames, TextSegment((5, *ids(question), 6))), ids(answer)
        )

    def position_ids(self, sequence: TokenSequence) -> torch.Tensor:
        return self._place_tokens(sequence.num_tokens(self.frame_shape[0]))


class RandomFrames:
    """In place of a `FrameStore`: the same frame is the same every time."""

    def read_runs(self, frames: Sequence[FrameSegment], **_: object) -> Iterator[torch.Tensor]:
        for frame in frames:
            yield rows_of(f"{frame.source} {frame.index}".encode())[None]


def ids(text: str) -> tuple[int, ...]:
    return tuple(ord(letter) % 97 for letter in text)


def rows_of(content: bytes, num_rows: int = TOKENS_PER_FRAME) -> torch.Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(content))
    return torch.randn(num_rows, HIDDEN_SIZE, generator=generator)


def build_half(family: str, **changes: Any) -> Any:
    """A decoder in bf16 whose RoPE stays in fp32."""
    decoder = build_decoder(family, **changes)
    body = decoder.model
    for module in (body.embed_tokens, body.layers, body.norm, decoder.lm_head):
        module.to(torch.bfloat16)
    return decoder


def ask(model: Any, num_frames: int, needle: tuple[str, int] | None, **words: str) -> TokenSequence:
    """A haystack with a needle, given as its name and its place."""
    frames = [FrameSegment("haystack", index) for index in range(num_frames)]
    if needle is not None:
        frames.insert(needle[1], FrameSegment(f"needles/{needle[0]}", 0))
    question, answer = words.get("question", "what is it?"), words.get("answer", "7")
    return model.compose(frames, question, answer)


def sweep_of(model: Any) -> list[TokenSequence]:
    """Three lengths, three depths, two needles, controls, equal sequences, two answers to one."""
    sequences = [
        ask(model, num_frames, (needle, index))
        for num_frames in (4, 9, 14)
        for index in (0, 2, num_frames)
        for needle in ("a", "b")
    ]
    sequences += [ask(model, num_frames, None) for num_frames in (4, 9, 14)]
    sequences += [ask(model, 9, ("a", 2)), ask(model, 14, None)]
    sequences += [ask(model, 9, ("a", 2), answer=answer) for answer in ("yes", "no", "8")]
    sequences += [ask(model, 9, ("b", 9), question="and what is this, please?")]
    return sequences


def run(
    model: Any, sequences: Sequence[TokenSequence], plan: Plan | None = None, **options: Any
) -> list[torch.Tensor | str]:
    """Logits of every sequence, or why there are none; options of the plan and of the runner."""
    if plan is None:
        asked = {key: options.pop(key) for key in ("share", "max_suffix_tokens") if key in options}
        plan = make_plan(model, sequences, **asked)
    found: dict[int, torch.Tensor | str] = dict(plan.refused)
    runner = make_runner(model, sequences, **options)
    for root in plan.branches:
        for reading in runner.run_all(root):
            outcome = reading.error if reading.logits is None else reading.logits
            assert outcome is not None and not found.keys() & set(reading.sequences)
            found |= dict.fromkeys(reading.sequences, outcome)
    return [found[index] for index in range(len(sequences))]


def make_runner(model: Any, sequences: Sequence[TokenSequence], **options: Any) -> BranchRunner:
    return BranchRunner(model.decoder, DecoderInputs(model, sequences, RandomFrames()), **options)


def plain(model: Any, sequences: Sequence[TokenSequence]) -> list[torch.Tensor]:
    """By the decoder's own forward pass."""
    return [plain_logits(model, sequence, RandomFrames()) for sequence in sequences]


@cache
def plain_sweep(family: str) -> list[torch.Tensor]:
    """What a decoder of `build_decoder` gives for `sweep_of`, by its own forward pass."""
    model = DecoderStandIn(build_decoder(family))
    return plain(model, sweep_of(model))


def largest_difference(
    found: Sequence[torch.Tensor | str], expected: Sequence[torch.Tensor]
) -> float:
    """Of all logits; the argmax must be the same everywhere."""
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, torch.Tensor), one
        assert torch.equal(one.argmax(-1), other.argmax(-1))
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))


def open_engine(model, *, decoding=None, ring=None, **options) -> DecoderEngine:
    """An engine whose frames are drawn when they are read; ready to plan."""
    engine = DecoderEngine(model, EngineOptions(**options), decoding)
    engine._ring = ring
    engine._frames = EncodedFrames(RandomFrames(), num_frames=10_000)
    return engine


def make_samples(*asked) -> list[Sample]:
    """A sample for each (number of frames, needle, candidates), with the needle as frame 1."""
    return [
        Sample(
            sample_id=f"-/-/{number}",
            cell=None,
            shown=insert_needle(num_frames, 1, needle),
            question="what?",
            candidates=candidates,
        )
        for number, (num_frames, needle, candidates) in enumerate(asked)
    ]
