"""The forward pass against the model's own: does vniah compute what the model computes?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vniah.embeddings.cache import FrameStore
from vniah.embeddings.encode import encode_needles, needle_directory
from vniah.engines.decoder import attention_by, make_ring
from vniah.engines.equivalence import (
    _NUM_FRAMES,
    Difference,
    RoundingLimit,
    check_forward,
    check_sequences,
    compare_logits,
    plain_logits,
)
from vniah.engines.inputs import Material, require_model
from vniah.engines.per_sample import score_chat, score_sequence
from vniah.engines.planning import Plan, make_plan
from vniah.engines.server import NO_USAGE, Pictures, probe
from vniah.errors import ModelError
from vniah.models.server.client import ServerModel
from vniah.needles import NeedleSet
from vniah.protocol import AnyModel, ChatModel, DecoderModel, TokenSequence, VisionLanguageModel
from vniah.scoring import refuse_logits

if TYPE_CHECKING:
    import torch.distributed as dist


# Frames that a server is shown; many drop what comes after the first 32.
_SERVER_LENGTHS = (4, 16, 40)


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
        attention: as `vniah.sweep.run.run_sweep`.
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
    limit = RoundingLimit.of(model, sequences, store, plain)
    return (compare_logits("answer_logits", plain, own, limit),)


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
