"""Greedy decoding behind the leaves of a pass, to confirm what the argmax of its logits says.

The keys and values that a pass kept of its main rows are the KV cache. One step is a walk without
main rows: its leaves are what the pass had read behind them, the question's last tokens, and then
the tokens generated so far. All leaves of the pass take the step together, and those that are done
drop out.

So a leaf's few rows are computed again in every step instead of being cached as well. They are tens
among hundreds of thousands, and what a step costs is to go once through the cache, which is the
same for one row and for fifty; in return nothing grows, and each token is computed by the code that
the answers are scored with.

Where nothing can be kept (a model that runs its own forward pass, RoPE that depends on the length,
positions that depend on what follows), each token takes a whole forward pass: `decode_by_passes`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vniah.errors import ModelError, first_line
from vniah.forward.attention import Kernel
from vniah.forward.decoders import refuse_unsupported
from vniah.forward.inputs import SequenceInputs, deepstack_rows
from vniah.forward.kv_cache import Kept, Span
from vniah.forward.prefill import walk
from vniah.forward.prefix_tree import Branch, Leaf
from vniah.forward.ring import Ring
from vniah.forward.suffixes import SuffixRows
from vniah.options import Decoding
from vniah.protocol import TextSegment

Generated = tuple[int, ...] | str
"""Tokens, a stop token at the end included; or why there are none."""


@dataclass
class _Text:
    """What is being generated behind one prompt.

    Attributes:
        start: tokens of the prompt that the pass has kept.
        rows: embeddings of the other tokens, and of those generated, ``[n, H]``.
        position_ids: of these and of all that may follow.
        num_needed: tokens of the longest accepted answer.
        leaves: places of the leaves that it is for.
        deep: what is added to the rows of the prompt behind each of the first layers,
            ``[layers, n, H]``.
        tokens: what was generated.
        error: why it does not go on.
    """

    start: int
    rows: Tensor
    position_ids: Tensor
    num_needed: int
    leaves: list[int]
    deep: Tensor | None = None
    tokens: list[int] = field(default_factory=list)
    error: str | None = None

    def as_suffix(self) -> SuffixRows:
        """The rows of the next step, the last of which is read."""
        positions = self.position_ids[..., : len(self.rows)]
        return SuffixRows((Span(0, self.start),), self.rows, positions, 1, self.deep)


class GreedyDecoder:
    """Decodes behind passes that kept their keys and values.

    Args:
        decoder: a transformers causal language model.
        inputs: what the decoder reads.
        is_wanted: called with a sequence's index, says whether to decode behind its prompt.
        decoding: when it ends.
        kernel: computes the attention; by default the fastest that is right on the device.
        ring: the processes that run every pass together.
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
        self, branch: Branch, past: Sequence[Kept], *, tile_size: int
    ) -> tuple[Generated | None, ...]:
        """What follows the prompt of each leaf of a branch, or None where nobody wants that.

        Args:
            branch: a pass that was run.
            past: what it went on from, and what it kept.
            tile_size: rows that go through a layer at once.
        """
        texts = self._begin(branch.leaves)
        going_on = self._refuse(texts)
        while going_on:
            read = walk(
                self._decoder,
                going_on[0].rows[:0],
                going_on[0].position_ids[..., :0],
                [text.as_suffix() for text in going_on],
                past=past,
                tile_size=tile_size,
                kernel=self._kernel,
                ring=self._ring,
            )
            self._take(going_on, read)
            ended = self._decoding.has_ended
            going_on = self._refuse(
                [text for text in going_on if not ended(text.tokens, text.num_needed)]
            )
        found: dict[int, Generated] = {}
        for text in texts:
            found |= dict.fromkeys(text.leaves, text.error or tuple(text.tokens))
        return tuple(found.get(place) for place in range(len(branch.leaves)))

    def _begin(self, leaves: Sequence[Leaf]) -> list[_Text]:
        """One text for all leaves that differ in their answers only."""
        inputs, texts = self._inputs, []
        alike: dict[tuple[int, tuple[Any, ...]], list[int]] = {}
        for place, leaf in enumerate(leaves):
            # What a model reads of an answer is all of its tokens but the last.
            has_answer = inputs.num_answer_rows(leaf.sequences[0]) > 1
            prompt = leaf.segments[:-1] if has_answer else leaf.segments
            alike.setdefault((leaf.start, prompt), []).append(place)
        for (start, prompt), places in alike.items():
            members = [index for place in places for index in leaves[place].sequences]
            if not any(map(self._is_wanted, members)):
                continue
            first = leaves[places[0]]
            num_prompt_rows = first.num_tokens - inputs.num_answer_rows(members[0]) + 1
            needed = max(map(inputs.num_answer_rows, members))
            positions = inputs.positions_ahead(members[0], self._decoding.limit(needed))
            rows = inputs.embed(prompt, 0, num_prompt_rows)
            deep = deepstack_rows(inputs, prompt, rows)
            texts.append(_Text(start, rows, positions[..., start:], needed, places, deep))
        return texts

    def _refuse(self, texts: Sequence[_Text]) -> list[_Text]:
        """The texts that go on; the others are too long for the decoder, or failed."""
        for text in texts:
            try:
                refuse_unsupported(self._decoder, text.start + len(text.rows))
            except ModelError as error:
                text.error = first_line(error)
        return [text for text in texts if text.error is None]

    def _take(self, texts: Sequence[_Text], read: Sequence[Tensor]) -> None:
        """Adds the likeliest token to each text."""
        chosen: list[int | None] = []
        for text, logits in zip(texts, read, strict=True):
            try:
                chosen.append(likeliest_token(logits[-1]))
            except ModelError as error:
                text.error = first_line(error)
                chosen.append(None)
        if self._ring is not None:  # a rank that chose otherwise by rounding would wait for ever
            chosen = self._ring.agree(chosen)
        for text, token in zip(texts, chosen, strict=True):
            if token is not None:
                row = self._inputs.embed((TextSegment((token,)),), 0, 1)
                text.rows = torch.cat([text.rows, row])
                text.tokens.append(token)


def likeliest_token(logits: Tensor) -> int:
    """The argmax as `vniah.scoring.score_logits` takes it: the first of equal ones, in fp32."""
    logits = logits.detach().float().cpu()
    if not (logits < torch.inf).all() or not torch.isfinite(logits.max()):
        raise ModelError("the model's logits hold NaN or infinity; try --dtype float32 or bfloat16")
    return int(logits.argmax())
