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
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from vniah.errors import InputError, ModelError, first_line
from vniah.forward.keys import Kept
from vniah.forward.leaves import LeafRows
from vniah.forward.prefix_tree import Branch, Leaf
from vniah.forward.ring import Ring
from vniah.forward.support import refuse_unsupported
from vniah.forward.walk import walk
from vniah.models.protocol import AnyModel, EncodingModel, TextSegment, TokenSequence

Scorer = Literal["argmax", "generate"]
MAX_NEW_TOKENS = 32

Generated = tuple[int, ...] | str
"""Tokens, a stop token at the end included; or why there are none."""


@dataclass(frozen=True)
class Decoding:
    """When greedy decoding ends.

    Attributes:
        max_new_tokens: after as many tokens, or as many as the longest accepted answer has.
        stop_ids: after one of these.
    """

    max_new_tokens: int = MAX_NEW_TOKENS
    stop_ids: tuple[int, ...] = ()

    def has_ended(self, tokens: Sequence[int], num_needed: int) -> bool:
        """Whether nothing follows these tokens.

        Args:
            tokens: what was generated.
            num_needed: tokens of the longest accepted answer.
        """
        if tokens and tokens[-1] in self.stop_ids:
            return True
        return len(tokens) >= self.limit(num_needed)

    def limit(self, num_needed: int) -> int:
        """So many tokens at most; argument as of `has_ended`."""
        return max(self.max_new_tokens, num_needed)

    def without_stop(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """The tokens that are text: without the stop token at their end."""
        ends = bool(tokens) and tokens[-1] in self.stop_ids
        return tuple(tokens[:-1] if ends else tokens)


def choose_decoding(
    model: AnyModel, scorer: Scorer, max_new_tokens: int = MAX_NEW_TOKENS
) -> Decoding | None:
    """How a model's answers are generated; None for a chat model, and where nothing is.

    Args:
        model: an attribute ``stop_ids``, a tuple of token ids, says where its answers end.
        scorer: ``"generate"`` has it generate them.
        max_new_tokens: as `Decoding`.

    Raises:
        InputError: one of the arguments cannot be meant, or the model has no method ``decode``.
        ModelError: its ``stop_ids`` are none.
    """
    if scorer not in get_args(Scorer):
        raise InputError(f"scorer must be argmax or generate, got {scorer!r}")
    if scorer == "argmax" or not isinstance(model, EncodingModel):
        return None
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens must be 1 or more, got {max_new_tokens}")
    if not callable(getattr(model, "decode", None)):
        raise InputError(
            f"--scorer generate reads what a model writes, and {model.name} has no method "
            "decode(token_ids) that puts tokens into words; give it one, or use --scorer argmax"
        )
    stop_ids = getattr(model, "stop_ids", ())
    if not isinstance(stop_ids, tuple) or not all(type(token) is int for token in stop_ids):
        raise ModelError(f"stop_ids of {model.name} must be a tuple of token ids, got {stop_ids!r}")
    return Decoding(max_new_tokens, stop_ids)


def decode_by_passes(
    logits_of: Callable[[TokenSequence], Tensor],
    sequence: TokenSequence,
    decoding: Decoding,
    *,
    num_needed: int,
) -> tuple[int, ...]:
    """Greedy decoding by one whole forward pass for each token.

    Args:
        logits_of: gives ``[len(answer_ids), vocabulary]``, as `VisionLanguageModel.answer_logits`.
        sequence: its segments are the prompt; its answer is not looked at.
        decoding: when it ends.
        num_needed: tokens of the longest accepted answer.

    Raises:
        ModelError: the logits are no numbers.
    """
    tokens: list[int] = []
    never_read = sequence.answer_ids[0]  # a model reads all tokens of an answer but the last
    while not decoding.has_ended(tokens, num_needed):
        rows = logits_of(replace(sequence, answer_ids=(*tokens, never_read)))
        tokens.append(_likeliest(rows[-1]))
    return tuple(tokens)


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

    def as_leaf(self) -> LeafRows:
        """The rows of the next step, the last of which is read."""
        positions = self.position_ids[..., : len(self.rows)]
        return LeafRows(self.start, self.rows, positions, 1, self.deep)


class GreedyDecoder:
    """Decodes behind passes that kept their keys and values.

    Args:
        decoder: a transformers causal language model.
        embed: gives the input embeddings of segments, as `vniah.forward.branches.BranchRunner`.
        deep: gives what is added to them behind each of the first layers, ``[layers, n, H]``.
        positions: called with a sequence's index and a number of tokens, gives position ids of its
            prompt and of as many tokens behind it.
        num_rows: called with a sequence's index, gives the tokens of its answer.
        is_wanted: called with a sequence's index, says whether to decode behind its prompt.
        decoding: when it ends.
        ring: the processes that run every pass together.
    """

    def __init__(
        self,
        decoder: Any,
        *,
        embed: Callable[[Sequence[Any], int, int], Tensor],
        deep: Callable[[Sequence[Any]], Tensor | None] = lambda segments: None,
        positions: Callable[[int, int], Tensor],
        num_rows: Callable[[int], int],
        is_wanted: Callable[[int], bool],
        decoding: Decoding,
        ring: Ring | None = None,
    ) -> None:
        self._decoder = decoder
        self._embed = embed
        self._deep = deep
        self._positions = positions
        self._num_rows = num_rows
        self._is_wanted = is_wanted
        self._decoding = decoding
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
                [text.as_leaf() for text in going_on],
                past=past,
                tile_size=tile_size,
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
        alike: dict[tuple[int, tuple[Any, ...]], list[int]] = {}
        for place, leaf in enumerate(leaves):
            has_answer = self._num_rows(leaf.sequences[0]) > 1  # all tokens of it but the last
            prompt = leaf.segments[:-1] if has_answer else leaf.segments
            alike.setdefault((leaf.start, prompt), []).append(place)
        texts = []
        for (start, prompt), places in alike.items():
            members = [index for place in places for index in leaves[place].sequences]
            if not any(map(self._is_wanted, members)):
                continue
            first = leaves[places[0]]
            num_prompt_rows = first.num_tokens - self._num_rows(members[0]) + 1
            needed = max(map(self._num_rows, members))
            positions = self._positions(members[0], self._decoding.limit(needed))
            rows = self._embed(prompt, 0, num_prompt_rows)
            deep = self._deep(prompt)
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
                chosen.append(_likeliest(logits[-1]))
            except ModelError as error:
                text.error = first_line(error)
                chosen.append(None)
        if self._ring is not None:  # a rank that chose otherwise by rounding would wait for ever
            chosen = self._ring.agree(chosen)
        for text, token in zip(texts, chosen, strict=True):
            if token is not None:
                row = self._embed((TextSegment((token,)),), 0, 1)
                text.rows = torch.cat([text.rows, row])
                text.tokens.append(token)


def _likeliest(logits: Tensor) -> int:
    """The argmax as `vniah.scoring.score_logits` takes it: the first of equal ones, in fp32."""
    logits = logits.detach().float().cpu()
    if not (logits < torch.inf).all() or not torch.isfinite(logits.max()):
        raise ModelError("the model's logits hold NaN or infinity; try --dtype float32 or bfloat16")
    return int(logits.argmax())
