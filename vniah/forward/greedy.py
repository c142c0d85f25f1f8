"""Greedy decoding after the prompts of a pass, to confirm what the argmax of the logits says.

The keys and values that a pass stored of its main rows are the KV cache. Each step is a prefill
without main rows: its suffixes are the last tokens of the prompts, after the stored ones, and the
tokens generated so far. All prompts of a pass take a step together, and those whose text has ended
drop out.

So the few rows of a suffix are computed again in every step instead of being cached as well. They
are tens among hundreds of thousands, and the cost of a step is reading the cache once, whether for
one row or for fifty. In return no memory grows, and every token is computed by the code by which
the answers are scored.

Where no keys and values can be stored (a model that runs its own forward pass, RoPE that depends on
the length, positions that depend on what follows), each token takes a whole forward pass:
`vniah.engines.base.decode_by_passes`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vniah.errors import ModelError, first_line
from vniah.forward.attention import Kernel
from vniah.forward.inputs import SequenceInputs, deepstack_rows
from vniah.forward.kv_cache import KeyValueCache, Span
from vniah.forward.layer_inputs import joined_ids
from vniah.forward.prefill import prefill
from vniah.forward.prefix_tree import Branch, Suffix
from vniah.forward.ring import Ring
from vniah.forward.suffixes import SuffixRows
from vniah.options import Decoding
from vniah.protocol import TextSegment

Generated = tuple[int, ...] | str
"""The generated tokens, with the stop token if there is one; or why there are none."""


@dataclass
class _Text:
    """The text that is generated after one prompt.

    Attributes:
        start: number of the prompt's tokens whose keys and values are stored.
        rows: embeddings ``[n, H]`` of its other tokens and of the tokens generated so far.
        position_ids: of these tokens and of all that may follow, ``[m]`` or ``[3, m]``.
        num_needed: tokens of the longest accepted answer.
        suffixes: numbers of the branch's suffixes that have this prompt.
        deepstack: what is added to the rows of the prompt after each of the first layers,
            ``[layers, n, H]``.
        images: where images begin and end among the rows of the prompt.
        token_ids: of the rows, where layers get something of them.
        tokens: the tokens generated so far.
        error: why no more are generated.
    """

    start: int
    rows: Tensor
    position_ids: Tensor
    num_needed: int
    suffixes: list[int]
    deepstack: Tensor | None = None
    images: tuple[Span, ...] = ()
    token_ids: Tensor | None = None
    tokens: list[int] = field(default_factory=list)
    error: str | None = None

    def as_suffix(self) -> SuffixRows:
        """The rows of the next step, of which the last is read."""
        positions = self.position_ids[..., : len(self.rows)]
        seen = (Span(0, self.start),)
        more = self.deepstack, self.images, self.token_ids
        return SuffixRows(seen, self.rows, positions, 1, *more)


class GreedyDecoder:
    """Generates answers after the prompts of passes that stored their keys and values.

    Args:
        decoder: a transformers causal language model.
        inputs: the input of the sequences that the branches name by their indices.
        is_wanted: called with a sequence's index; False if its answer is not generated.
        decoding: when a text ends.
        kernel: computes the attention; by default the fastest that is right on the device.
        ring: the processes that run every pass together, if there are several.
    """

    def __init__(
        self,
        decoder: Any,
        inputs: SequenceInputs,
        *,
        is_wanted: Callable[[int], bool],
        decoding: Decoding,
        kernel: Kernel | None = None,
        ring: Ring | None = None,
    ) -> None:
        self._decoder = decoder
        self._inputs = inputs
        self._is_wanted = is_wanted
        self._decoding = decoding
        self._kernel = kernel
        self._ring = ring

    def decode(
        self, branch: Branch, past: Sequence[KeyValueCache], *, chunk_size: int
    ) -> tuple[Generated | None, ...]:
        """What the model generates after the prompt of each suffix of a branch.

        Args:
            branch: the branch that was run.
            past: keys and values of everything before it, and its own.
            chunk_size: rows that go through a layer at once.

        Returns:
            For each suffix the text, or None if it is not wanted.
        """
        texts = self._begin(branch.suffixes)
        unfinished = self._unfinished(texts)
        while unfinished:
            read = prefill(
                self._decoder,
                unfinished[0].rows[:0],
                unfinished[0].position_ids[..., :0],
                [text.as_suffix() for text in unfinished],
                token_ids=None if (ids := unfinished[0].token_ids) is None else ids[:0],
                past=past,
                chunk_size=chunk_size,
                kernel=self._kernel,
                ring=self._ring,
            )
            self._take(unfinished, read)
            ended = self._decoding.has_ended
            unfinished = self._unfinished(
                [text for text in unfinished if not ended(text.tokens, text.num_needed)]
            )
        found: dict[int, Generated] = {}
        for text in texts:
            found |= dict.fromkeys(text.suffixes, text.error or tuple(text.tokens))
        return tuple(found.get(number) for number in range(len(branch.suffixes)))

    def _begin(self, suffixes: Sequence[Suffix]) -> list[_Text]:
        """One text for all suffixes that have one prompt and differ in their answers."""
        inputs, texts = self._inputs, []
        alike: dict[tuple[int, tuple[Any, ...]], list[int]] = {}
        for number, suffix in enumerate(suffixes):
            # What a model reads of an answer is all of its tokens but the last.
            has_answer = inputs.num_answer_rows(suffix.sequences[0]) > 1
            prompt = suffix.segments[:-1] if has_answer else suffix.segments
            alike.setdefault((suffix.start, prompt), []).append(number)
        for (start, prompt), numbers in alike.items():
            members = [index for number in numbers for index in suffixes[number].sequences]
            if not any(map(self._is_wanted, members)):
                continue
            first = suffixes[numbers[0]]
            num_prompt_rows = first.num_tokens - inputs.num_answer_rows(members[0]) + 1
            needed = max(map(inputs.num_answer_rows, members))
            positions = inputs.positions_ahead(members[0], self._decoding.limit(needed))
            rows = inputs.embed(prompt, 0, num_prompt_rows)
            deepstack = deepstack_rows(inputs, prompt, rows)
            images = tuple(inputs.images(prompt))
            token_ids = inputs.token_ids(prompt, 0, num_prompt_rows)
            more = deepstack, images, token_ids
            texts.append(_Text(start, rows, positions[..., start:], needed, numbers, *more))
        return texts

    @staticmethod
    def _unfinished(texts: Sequence[_Text]) -> list[_Text]:
        """The texts that continue; all others have failed."""
        return [text for text in texts if text.error is None]

    def _take(self, texts: Sequence[_Text], read: Sequence[Tensor]) -> None:
        """Appends the likeliest token to each text."""
        chosen: list[int | None] = []
        for text, logits in zip(texts, read, strict=True):
            try:
                chosen.append(likeliest_token(logits[-1]))
            except ModelError as error:
                text.error = first_line(error)
                chosen.append(None)
        if self._ring is not None:  # ranks that chose differently, by rounding, would deadlock
            chosen = self._ring.agree(chosen)
        for text, token in zip(texts, chosen, strict=True):
            if token is not None:
                segments = (TextSegment((token,)),)
                text.rows = torch.cat([text.rows, self._inputs.embed(segments, 0, 1)])
                text.token_ids = joined_ids(
                    [text.token_ids, self._inputs.token_ids(segments, 0, 1)]
                )
                text.tokens.append(token)


def likeliest_token(logits: Tensor) -> int:
    """The argmax as `vniah.scoring.score_logits` takes it: the first of equal ones, in fp32."""
    logits = logits.detach().float().cpu()
    if not (logits < torch.inf).all() or not torch.isfinite(logits.max()):
        raise ModelError("the model's logits hold NaN or infinity; try --dtype float32 or bfloat16")
    return int(logits.argmax())
