"""The forward pass against the model's own: does vniah compute what the model computes?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vniah.asking import attention_by, make_ring
from vniah.embeddings import FrameStore, encode_needles, needle_directory
from vniah.errors import CheckError, ModelError
from vniah.forward.branches import BranchRunner
from vniah.forward.keys import Place
from vniah.forward.ring import Ring
from vniah.forward.support import attention_set_to
from vniah.grid import Cell
from vniah.material import Material
from vniah.models.protocol import (
    AnyModel,
    ChatModel,
    DecoderModel,
    EncodingModel,
    TokenSequence,
    VisionLanguageModel,
)
from vniah.models.quantization import rounds_rows
from vniah.models.server import ServerModel
from vniah.needles import Needle, NeedleSet
from vniah.passes import (
    Embedder,
    Plan,
    make_plan,
    positions_of,
    refuse_sequence,
    require_model,
    segment_size,
    size_of_frame,
)
from vniah.scoring import plain_logits, refuse_logits, score_chat, score_sequence
from vniah.serving import NO_USAGE, Pictures, probe
from vniah.tasks.visual import Question

if TYPE_CHECKING:
    import torch.distributed as dist

# Largest difference of a logit that rounding may explain, as a share of the largest logit: random
# decoders of 24 layers reach 0.006 in fp16 and 0.06 in bf16.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 0.015, torch.bfloat16: 0.08}

# The root mean square of all differences tells more. It may be so many times what the model's own
# forward changes by when another kernel attends, and this share of the tolerance in any case.
_NOISE_FACTOR = 4
_LEAST_SHARE = 1 / 64
# Rounded to 8 bits, a row depends on the rows of its call (`vniah.models.quantization`). Another
# kernel leaves these calls alone and tiles do not, so that share is larger: tiny random families
# reach 0.1.
_LEAST_SHARE_IN_8_BITS = 1 / 4
# In half precision rounding sends a row to another expert where two are nearly as good, and its
# logits change by any amount. So what all rows change by together has to tell.
_MOST_OF_EXPERTS = 1.0
_LEAST_SHARE_OF_EXPERTS = 1 / 2
_TINY = torch.finfo(torch.float32).tiny

# Haystack frames of the two cells of the check, and the needle's place in both.
_NUM_FRAMES = (4, 9)
_NEEDLE_INDEX = 2

# Frames that a server is shown; many drop what comes after the first 32.
_SERVER_LENGTHS = (4, 16, 40)

# Tiles of the check are so small that even its shortest sequence has so many.
_NUM_TILES = 4


@dataclass(frozen=True)
class Difference:
    """One way of computing against the plain forward pass.

    Attributes:
        way: e.g. ``"walk"``, ``"tree"``, ``"leaves"`` or ``"ring of 2"``.
        max_difference: largest difference of two logits.
        rms_difference: root mean square of all of them.
        max_logit: the largest logit of the plain forward pass, by magnitude.
        num_rows: answer positions compared.
        num_equal: how many of them have the same argmax.
        num_ties: how many others have two best tokens nearer than the difference.
        max_allowed: what ``max_difference`` may be.
        rms_allowed: what ``rms_difference`` may be.
    """

    way: str
    max_difference: float
    rms_difference: float
    max_logit: float
    num_rows: int
    num_equal: int
    num_ties: int
    max_allowed: float
    rms_allowed: float

    @property
    def holds(self) -> bool:
        """Whether rounding explains all of it."""
        return (
            isfinite(self.max_difference)
            and self.max_difference <= self.max_allowed
            and self.rms_difference <= self.rms_allowed
            and self.num_equal + self.num_ties == self.num_rows
        )

    def sentence(self) -> str:
        """What was found, for a person."""
        return (
            f"{self.way}: logits differ by {self.rms_difference:.1e} "
            f"({self.rms_allowed:.1e} allowed), at most by {self.max_difference:.1e} "
            f"({self.max_allowed:.1e} allowed); argmax equal in {self.num_equal} of "
            f"{self.num_rows} rows" + (f", {self.num_ties} ties" if self.num_ties else "")
        )

    def record(self) -> Mapping[str, Any]:
        """For the manifest."""
        return {
            "max_difference": _short(self.max_difference),
            "max_allowed": _short(self.max_allowed),
            "rms_difference": _short(self.rms_difference),
            "rms_allowed": _short(self.rms_allowed),
            "max_logit": _short(self.max_logit),
            "argmax_equal": self.num_equal,
            "argmax_ties": self.num_ties,
            "rows": self.num_rows,
        }


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def check_forward(
    model: DecoderModel,
    sequences: Sequence[TokenSequence],
    store: FrameStore,
    *,
    place: Place | None = None,
    ring: Ring | None = None,
) -> tuple[Difference, ...]:
    """Runs short sequences by the plain forward pass, and by all ways that a sweep may go.

    Args:
        model: whose decoder is run.
        sequences: short ones; some with a common prefix, so that there is something to share.
        store: where their frames lie.
        place: where the sweep keeps keys and values.
        ring: the processes that run a pass together, if there are several.

    Raises:
        ModelError: the decoder cannot be run at all.
    """
    for sequence in sequences:
        refuse_sequence(model, sequence)
    plain = [plain_logits(model, sequence, store) for sequence in sequences]
    if not all(logits.isfinite().any(-1).all() and not logits.isnan().any() for logits in plain):
        raise ModelError(
            f"the logits of {model.name} hold NaN, in its own forward pass as well; try --dtype "
            "float32 or bfloat16"
        )
    limit = _Limit.of(model, sequences, store, plain)
    ways = {
        "walk": _Way(share=False),
        "tree": _Way(place=place),
        "leaves": _Way(has_leaves=True, place=place),
    }
    if ring is not None:
        ways[f"ring of {ring.size}"] = _Way(place=place, ring=ring)
        ways[f"leaves in a ring of {ring.size}"] = _Way(has_leaves=True, place=place, ring=ring)
    return tuple(
        _compare(name, plain, _run(model, sequences, store, way), limit)
        for name, way in ways.items()
    )


@dataclass(frozen=True)
class _Way:
    """One of the ways in which a sweep may run a sequence."""

    share: bool = True
    has_leaves: bool = False
    place: Place | None = None
    ring: Ring | None = None

    def max_leaf_tokens(self, lengths: Sequence[int]) -> int:
        """So few that leaves hang from several places of a common trunk."""
        return max(lengths) // 2 if self.has_leaves else 0

    def tile_size(self, lengths: Sequence[int]) -> int:
        """So small that a pass has several tiles; but leaves, which go together, in one."""
        return sum(lengths) if self.has_leaves else max(1, min(lengths) // _NUM_TILES)


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
    attention: str = "auto",
    cache: Path | None = None,
    on_encoded: Callable[[], None] = lambda: None,
) -> CheckReport:
    """Tries a model on short questions about a needle set's own pictures.

    Args:
        model: of any level.
        needles: pictures, questions and answers.
        group: processes that run each pass together, if there are several.
        attention: as `vniah.sweep.run_sweep`.
        cache: folder for the pictures' embeddings; by default under the user's cache.
        on_encoded: called when the pictures are encoded.

    Raises:
        ModelError: the model cannot be run.
        InputError: the attention kernel does not run here.
    """
    require_model(model)
    with attention_by(attention, model):
        return _check_model(model, needles, group, cache, on_encoded)


def _check_model(
    model: AnyModel,
    needles: NeedleSet,
    group: "dist.ProcessGroup | None",
    cache: Path | None,
    on_encoded: Callable[[], None],
) -> CheckReport:
    first = next(iter(needles))
    if isinstance(model, ServerModel):
        return _check_server(model, needles)
    if isinstance(model, ChatModel):
        score = score_chat(model, [np.array(first.image)], first)
        return CheckReport((f"{model.name} answers in words, e.g. {score.prediction!r}",), True)
    encoded = encode_needles(model, needles, directory=needle_directory(cache, needles))
    on_encoded()
    material = Material.of_needles(needles, encoded)
    sequences = check_sequences(model, material, needles)
    if not isinstance(model, DecoderModel):
        score = score_sequence(model, sequences[0], material.store)
        return CheckReport(
            (
                f"{model.name} runs its own forward pass, every cell by itself; there is nothing "
                "to compare. Its answer_logits gave a row for each answer token "
                f"({len(score.predicted_ids)}), as it must",
            ),
            True,
        )
    ring = None if group is None else make_ring(group, model.decoder.lm_head.weight)
    differences = check_forward(model, sequences, material.store, ring=ring)
    differences += _check_own_logits(model, sequences, material.store)
    lines = [difference.sentence() for difference in differences]
    plan = make_plan(model, sequences, max_leaf_tokens=0)
    holds = all(difference.holds for difference in differences)
    return CheckReport((*lines, _about_sharing(plan), _verdict(holds)), holds)


def _check_own_logits(
    model: DecoderModel, sequences: Sequence[TokenSequence], store: FrameStore
) -> tuple[Difference, ...]:
    """A model with `answer_logits` as well says what its decoder and its positions should give."""
    if not isinstance(model, VisionLanguageModel):
        return ()
    plain = [plain_logits(model, sequence, store) for sequence in sequences]
    own = [model.answer_logits(sequence, store.read(sequence.frames)) for sequence in sequences]
    for sequence, one, other in zip(sequences, plain, own, strict=True):
        refuse_logits(model, sequence, other)
        if one.shape != other.shape:
            raise ModelError(
                f"answer_logits of {model.name} gave {other.shape[1]} logits for each token, its "
                f"decoder {one.shape[1]}"
            )
    own = [logits.detach().float().cpu() for logits in own]
    limit = _Limit.of(model, sequences, store, plain)
    return (_compare("answer_logits", plain, own, limit),)


def _check_server(model: ServerModel, needles: NeedleSet) -> CheckReport:
    """One question at several numbers of frames, and what the tokens of the prompts did."""
    pictures = Pictures.of_needles(model, needles, max(_SERVER_LENGTHS))
    found = probe(model, pictures, needles, _SERVER_LENGTHS)
    lines = [f"{model.name} answers in words, e.g. {found.words!r}"]
    lines += [f"refused at {n} frames: {why}" for n, why in sorted(found.refused.items())]
    if found.growth is None:
        return CheckReport((*lines, NO_USAGE), not model.options.needs_usage)
    counts = found.record()["prompt_tokens"].items()
    lines.append("prompt_tokens: " + ", ".join(f"{n:,} for {k} frames" for k, n in counts))
    complaint = found.growth.complaint()
    lines.append(
        complaint or f"every frame counts: {found.growth.tokens_per_frame:,.1f} tokens each"
    )
    return CheckReport(tuple(lines), complaint is None)


def _about_sharing(plan: Plan) -> str:
    if plan.note is not None:
        return f"sharing: every cell runs by itself, because {plan.note}"
    saved = plan.cost_alone.num_tokens - plan.cost.num_tokens
    if not saved:
        lengths = " and for ".join(map(str, _NUM_FRAMES))
        return (
            f"sharing: possible, but its prompts for {lengths} frames have no beginning in common, "
            "so that nothing will be shared"
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
    """Two needles in two short cells, at the same place, and both questions without a needle.

    So there is something to share, and leaves of several lengths hang from one place. The needles
    are those with the longest answers, so that several rows are read where any answer has several.
    """
    cells = []
    for num_frames in _NUM_FRAMES:
        num_frames = min(num_frames, len(material.frames))
        cells.append(Cell(num_frames, Fraction(min(_NEEDLE_INDEX, num_frames), num_frames)))
    cells = list(dict.fromkeys(cells))

    def num_rows(needle: Needle) -> int:
        return len(material.compose(model, Question(cells[0], needle)).answer_ids)

    some = sorted(needles, key=num_rows, reverse=True)[:2]
    shown = [material.compose(model, Question(cell, needle)) for cell in cells for needle in some]
    plain = [
        model.compose(material.frames[: cell.num_frames], needle.question, needle.answer)
        for cell in cells
        for needle in some
    ]
    return [*shown, *plain]


def require_agreement(differences: Sequence[Difference], name: str) -> None:
    """Raises `CheckError` if one of the ways gives other numbers than the model's own."""
    for difference in differences:
        if not difference.holds:
            raise CheckError(
                f"the forward pass does not give what {name} itself gives: "
                f"{difference.sentence()}. Nothing was measured; give the model an answer_logits "
                "method in place of decoder, and it runs its own"
            )


@dataclass(frozen=True)
class _Limit:
    """What rounding may change, as shares of the largest logit."""

    of_max: float
    of_rms: float

    @classmethod
    def of(
        cls,
        model: DecoderModel,
        sequences: Sequence[TokenSequence],
        store: FrameStore,
        plain: Sequence[Tensor],
    ) -> "_Limit":
        """From what changes when another attention kernel computes ``plain``."""
        body = model.decoder.model
        dtype = model.decoder.lm_head.weight.dtype
        tolerance = TOLERANCES.get(dtype, TOLERANCES[torch.float32])
        least = _LEAST_SHARE
        if rounds_rows(body.layers):  # to 8 bits, as many as bfloat16 has
            tolerance = max(tolerance, TOLERANCES[torch.bfloat16])
            least = _LEAST_SHARE_IN_8_BITS
        of_max = tolerance
        if dtype != torch.float32 and getattr(body.config, "num_experts_per_tok", None):
            of_max, least = _MOST_OF_EXPERTS, _LEAST_SHARE_OF_EXPERTS
        other = "sdpa" if body.config._attn_implementation == "eager" else "eager"
        try:
            with attention_set_to(body, other):
                again = [plain_logits(model, sequence, store) for sequence in sequences]
        except (RuntimeError, ValueError, LookupError, ImportError, NotImplementedError):
            return cls(of_max, tolerance)
        one = torch.cat(list(plain))
        noise = _rms(one - torch.cat(again)) / max(float(one.abs().max()), _TINY)
        return cls(of_max, min(tolerance, max(least * tolerance, _NOISE_FACTOR * noise)))


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _run(
    model: DecoderModel, sequences: Sequence[TokenSequence], store: FrameStore, way: _Way
) -> list[Tensor]:
    lengths = [sequence.num_tokens(size_of_frame(model)) for sequence in sequences]
    most = way.max_leaf_tokens(lengths)
    plan = make_plan(model, sequences, share=way.share, max_leaf_tokens=most)
    for reason in plan.refused.values():
        raise ModelError(reason)
    runner = BranchRunner(
        model.decoder,
        embed=Embedder(model, store),
        size=segment_size(model),
        positions=lambda index: positions_of(model, sequences[index]),
        num_rows=lambda index: len(sequences[index].answer_ids),
        ring=way.ring,
        tile_size=way.tile_size(lengths),
        place=way.place,
    )
    logits: dict[int, Tensor] = {}
    for root in plan.branches:
        for reading in runner.run_all(root):
            if reading.logits is None:
                raise ModelError(reading.error or "no logits")
            logits |= dict.fromkeys(reading.sequences, reading.logits)
    return [logits[index] for index in range(len(sequences))]


def _compare(
    way: str, plain: Sequence[Tensor], found: Sequence[Tensor], limit: _Limit
) -> Difference:
    one, other = torch.cat(list(plain)), torch.cat(list(found))
    difference = float((one - other).abs().max())
    largest = float(one.abs().max())
    is_equal = one.argmax(-1) == other.argmax(-1)
    best = one.topk(min(2, one.shape[1])).values
    is_tie = ~is_equal & (best[:, 0] - best[:, -1] <= 2 * difference)
    return Difference(
        way=way,
        max_difference=difference if difference == difference else float("inf"),
        rms_difference=_rms(one - other),
        max_logit=largest,
        num_rows=len(one),
        num_equal=int(is_equal.sum()),
        num_ties=int(is_tie.sum()),
        max_allowed=limit.of_max * largest,
        rms_allowed=limit.of_rms * largest,
    )
