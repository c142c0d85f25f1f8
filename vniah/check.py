"""The forward pass against the model's own: does vniah compute what the model computes?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vniah.asking import Material, make_ring
from vniah.embeddings import FrameStore, encode_needles
from vniah.errors import CheckError, ModelError
from vniah.forward.branches import BranchRunner
from vniah.forward.ring import Ring
from vniah.forward.support import forget_longer_sequences
from vniah.grid import Cell
from vniah.models.loading import require_protocol
from vniah.models.protocol import (
    AnyModel,
    ChatModel,
    DecoderModel,
    EncodingModel,
    TokenSequence,
)
from vniah.needles import NeedleSet
from vniah.passes import Embedder, Plan, make_plan, positions_of, segment_size, size_of_frame
from vniah.scoring import score_chat, score_sequence
from vniah.tasks.visual import Question

if TYPE_CHECKING:
    import torch.distributed as dist

# Largest difference of logits that rounding explains, as a share of the largest logit.
# Random decoders of 24 layers reach 0.006 in fp16 and 0.06 in bf16; positions that are all doubled
# change the embedded reference model's logits by 0.1.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 0.015, torch.bfloat16: 0.08}

# Haystack frames of the two cells of the check, and the needle's place in both.
_NUM_FRAMES = (4, 9)
_NEEDLE_INDEX = 2

# Tiles of the check are so small that even its shortest sequence has so many.
_NUM_TILES = 4


@dataclass(frozen=True)
class Difference:
    """One way of computing against the plain forward pass.

    Attributes:
        way: ``"walk"``, ``"tree"`` or ``"ring of 2"``.
        max_difference: largest difference of two logits.
        max_logit: the largest logit of the plain forward pass, by magnitude.
        num_rows: answer positions compared.
        num_equal: how many of them have the same argmax.
        num_ties: how many others have two best tokens nearer than the difference.
        tolerance: the largest difference allowed, as a share of ``max_logit``.
    """

    way: str
    max_difference: float
    max_logit: float
    num_rows: int
    num_equal: int
    num_ties: int
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether rounding explains all of it."""
        if not isfinite(self.max_difference):
            return False
        is_near = self.max_difference <= self.tolerance * self.max_logit
        return is_near and self.num_equal + self.num_ties == self.num_rows

    def sentence(self) -> str:
        """What was found, for a person."""
        return (
            f"{self.way}: largest difference of logits {self.max_difference:.2g} "
            f"(largest logit {self.max_logit:.3g}), argmax equal in {self.num_equal} of "
            f"{self.num_rows} rows" + (f", {self.num_ties} ties" if self.num_ties else "")
        )

    def record(self) -> Mapping[str, Any]:
        """For the manifest."""
        return {
            "max_difference": float(f"{self.max_difference:.3g}"),
            "max_logit": float(f"{self.max_logit:.3g}"),
            "argmax_equal": self.num_equal,
            "argmax_ties": self.num_ties,
            "rows": self.num_rows,
        }


def check_forward(
    model: DecoderModel,
    sequences: Sequence[TokenSequence],
    store: FrameStore,
    *,
    ring: Ring | None = None,
) -> tuple[Difference, ...]:
    """Runs short sequences by the plain forward pass, and by all ways that a sweep may go.

    Args:
        model: whose decoder is run.
        sequences: short ones; some with a common prefix, so that there is something to share.
        store: where their frames lie.
        ring: the processes that run a pass together, if there are several.

    Raises:
        ModelError: the decoder cannot be run at all.
    """
    plain = [plain_logits(model, sequence, store) for sequence in sequences]
    ways: dict[str, tuple[bool, Ring | None]] = {"walk": (False, None), "tree": (True, None)}
    if ring is not None:
        ways |= {f"ring of {ring.size}": (True, ring)}
    found = []
    for way, (share, among) in ways.items():
        logits = _run(model, sequences, store, share=share, ring=among)
        found.append(_compare(way, plain, logits, model.decoder.lm_head.weight.dtype))
    return tuple(found)


@dataclass(frozen=True)
class CheckReport:
    """What `check_model` found.

    Attributes:
        lines: for a person.
        holds: whether vniah may run the model.
    """

    lines: tuple[str, ...]
    holds: bool


def check_model(
    model: AnyModel,
    needles: NeedleSet,
    *,
    group: "dist.ProcessGroup | None" = None,
    on_encoded: Callable[[], None] = lambda: None,
) -> CheckReport:
    """Tries a model on short questions about a needle set's own pictures.

    Args:
        model: of any level.
        needles: pictures, questions and answers.
        group: processes that run each pass together, if there are several.
        on_encoded: called when the pictures are encoded.

    Raises:
        ModelError: the model cannot be run.
    """
    require_protocol(model)
    first = next(iter(needles))
    if isinstance(model, ChatModel):
        score = score_chat(model, [np.asarray(first.image)], first.question, first.answer)
        return CheckReport((f"{model.name} answers in words, e.g. {score.prediction!r}",), True)
    cache = encode_needles(model, needles)
    on_encoded()
    material = Material.of_needles(needles, cache)
    sequences = check_sequences(model, material, needles)
    if not isinstance(model, DecoderModel):
        score = score_sequence(model, sequences[0], material.store)
        return CheckReport(
            (
                f"{model.name} runs its own forward pass, every cell by itself; there is nothing "
                f"to compare. Its answer_logits gave {len(score.predicted_ids)} rows for "
                f"{len(sequences[0].answer_ids)} answer tokens, as it must",
            ),
            True,
        )
    ring = None if group is None else make_ring(group, model.decoder.lm_head.weight)
    differences = check_forward(model, sequences, material.store, ring=ring)
    lines = [difference.sentence() for difference in differences]
    plan = make_plan(model, sequences, max_leaf_tokens=0)
    holds = all(difference.holds for difference in differences)
    return CheckReport((*lines, _about_sharing(plan), _verdict(holds)), holds)


def _about_sharing(plan: Plan) -> str:
    if plan.note is not None:
        return f"sharing: every cell runs by itself, because {plan.note}"
    saved = plan.cost_alone.num_tokens - plan.cost.num_tokens
    if not saved:
        return (
            "sharing: possible, but its prompts for 4 and for 9 frames have no beginning in common,"
            " so that nothing will be shared"
        )
    return f"sharing: {saved:,} of {plan.cost_alone.num_tokens:,} tokens of the check were shared"


def _verdict(holds: bool) -> str:
    return (
        "the forward pass gives what the model gives"
        if holds
        else (
            "the forward pass does NOT give what the model gives: give the model an answer_logits "
            "method in place of decoder, and it runs its own"
        )
    )


def check_sequences(
    model: EncodingModel, material: Material, needles: NeedleSet
) -> list[TokenSequence]:
    """Two needles in two short cells, at the same place, so that there is something to share."""
    cells = []
    for num_frames in _NUM_FRAMES:
        num_frames = min(num_frames, len(material.frames))
        cells.append(Cell(num_frames, Fraction(min(_NEEDLE_INDEX, num_frames), num_frames)))
    return [
        material.compose(model, Question(cell, needle))
        for cell in dict.fromkeys(cells)
        for needle in list(needles)[:2]
    ]


def require_agreement(differences: Sequence[Difference], name: str) -> None:
    """Raises `CheckError` if one of the ways gives other numbers than the model's own."""
    for difference in differences:
        if not difference.holds:
            raise CheckError(
                f"the forward pass does not give what {name} itself gives: "
                f"{difference.sentence()}. Nothing was measured; give the model an answer_logits "
                "method in place of decoder, and it runs its own"
            )


@torch.inference_mode()
def plain_logits(model: DecoderModel, sequence: TokenSequence, store: FrameStore) -> Tensor:
    """Answer logits by the decoder's own forward, ``[len(answer_ids), vocabulary]`` fp32 on CPU."""
    positions = positions_of(model, sequence)
    forget_longer_sequences(model.decoder.model)
    num_tokens = positions.shape[-1]
    hidden = Embedder(model, store)(sequence.inputs, 0, num_tokens)
    shaped = positions[None] if positions.ndim == 1 else positions[:, None]
    rows = model.decoder.model(
        inputs_embeds=hidden[None],
        position_ids=shaped,
        # without it transformers takes gaps in the positions for packed sequences
        attention_mask=torch.ones(1, num_tokens, device=hidden.device, dtype=torch.long),
        use_cache=False,
    ).last_hidden_state[0, -len(sequence.answer_ids) :]
    logits: Tensor = model.decoder.lm_head(rows).float().cpu()
    return logits


def _run(
    model: DecoderModel,
    sequences: Sequence[TokenSequence],
    store: FrameStore,
    *,
    share: bool,
    ring: Ring | None,
) -> list[Tensor]:
    plan = make_plan(model, sequences, share=share, max_leaf_tokens=0)
    for reason in plan.refused.values():
        raise ModelError(reason)
    shortest = min(sequence.num_tokens(size_of_frame(model)) for sequence in sequences)
    runner = BranchRunner(
        model.decoder,
        embed=Embedder(model, store),
        size=segment_size(model),
        positions=lambda index: positions_of(model, sequences[index]),
        num_rows=lambda index: len(sequences[index].answer_ids),
        ring=ring,
        tile_size=max(1, shortest // _NUM_TILES),
    )
    logits: dict[int, Tensor] = {}
    for root in plan.branches:
        for reading in runner.run_all(root):
            if reading.logits is None:
                raise ModelError(reading.error or "no logits")
            logits |= dict.fromkeys(reading.sequences, reading.logits)
    return [logits[index] for index in range(len(sequences))]


def _compare(
    way: str, plain: Sequence[Tensor], found: Sequence[Tensor], dtype: torch.dtype
) -> Difference:
    one, other = torch.cat(list(plain)), torch.cat(list(found))
    difference = float((one - other).abs().max())
    is_equal = one.argmax(-1) == other.argmax(-1)
    best = one.topk(min(2, one.shape[1])).values
    is_tie = ~is_equal & (best[:, 0] - best[:, -1] <= 2 * difference)
    return Difference(
        way=way,
        max_difference=difference if difference == difference else float("inf"),
        max_logit=float(one.abs().max()),
        num_rows=len(one),
        num_equal=int(is_equal.sum()),
        num_ties=int(is_tie.sum()),
        tolerance=TOLERANCES.get(dtype, TOLERANCES[torch.float32]),
    )
