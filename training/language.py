"""Stage 3: trains projector and language model on short videos: `python -m training.language`.

From scratch, on videos of 2 to 32 frames, as cached features of the frozen tower. A context shows
one to twenty cards among haystack frames and is asked about up to eight of them; only the answers
are learned.
"""

import argparse
from collections import deque

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm
from transformers import Qwen2ForCausalLM

from training.contexts import Batch, Features, sample_context, stack
from training.network import make_language_model, make_projector, project, read
from training.optimization import Checkpoint, learning_rate, make_optimizer, take_step
from training.recipe import RECIPE, WORK_DIR, Phase
from training.tokens import OPENING, encode

CHECKPOINT = WORK_DIR / "language.pt"
_TOKENS_PER_TURN = 17


def answer_rows(
    model: Qwen2ForCausalLM, projector: nn.Module, batch: Batch
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of answer tokens [rows, vocabulary], those tokens [rows], and the context of each."""
    opening = torch.tensor(encode(OPENING))
    hidden = read(model, opening, project(projector, batch.frames), batch.token_ids)
    wanted = batch.labels[:, 1:]
    answered = wanted != -100
    context = answered.nonzero()[:, 0]
    return model.lm_head(hidden[:, :-1][answered]), wanted[answered], context


def alignment_loss(model: Qwen2ForCausalLM, projector: nn.Module, batch: Batch) -> Tensor:
    """Pulls the mean token of a card to the embedding of the word for its key, as CLIP does."""
    shown = batch.key_words != -100
    means = functional.normalize(project(projector, batch.frames[shown]).mean(1), dim=-1)
    words = functional.normalize(model.model.embed_tokens.weight, dim=-1)
    return functional.cross_entropy(
        RECIPE.alignment_scale * means @ words.T, batch.key_words[shown]
    )


@torch.no_grad()
def score(
    model: Qwen2ForCausalLM,
    projector: nn.Module,
    features: Features,
    *,
    num_frames: int,
    num_cards: int = 1,
    same_kind: bool = False,
    trials: int = 100,
) -> float:
    """Share of contexts whose one question is answered right at every position of the answer."""
    rng = np.random.default_rng(9)
    right = 0
    size = max(1, min(25, 4096 // (4 * num_frames)))
    for _ in range(trials // size):
        contexts = [
            sample_context(
                features, rng, num_frames=num_frames, num_cards=num_cards, same_kind=same_kind
            )
            for _ in range(size)
        ]
        logits, wanted, context = answer_rows(model, projector, stack(contexts))
        wrong = context[logits.argmax(-1) != wanted]
        right += size - len(wrong.unique())
    return right / (trials // size * size)


def _find_phase(step: int) -> tuple[Phase, int]:
    """The phase that ``step`` falls into, and the step within it."""
    for phase in RECIPE.phases:
        if step < phase.steps:
            return phase, step
        step -= phase.steps
    raise ValueError(f"step is {step} past the last phase")


def _sample_batch(
    features: Features, rng: np.random.Generator, *, phase: Phase, progress: float
) -> Batch:
    """Short contexts first; later all lengths."""
    counts = RECIPE.frame_counts
    reached = 1 + int(min(0.999, progress / RECIPE.growing_share) * len(counts))
    num_frames = counts[rng.integers(0, reached)]
    questions = min(RECIPE.max_questions, num_frames)
    tokens = 4 * num_frames + questions * _TOKENS_PER_TURN
    most = min(num_frames, phase.max_cards)
    contexts = [
        sample_context(
            features,
            rng,
            num_frames=num_frames,
            num_cards=int(rng.integers(1, most + 1)),
            same_kind=bool(rng.random() < phase.same_kind_share),
            num_questions=questions,
        )
        for _ in range(max(2, RECIPE.tokens_per_step // tokens))
    ]
    return stack(contexts)


def train() -> None:
    """Trains to the end, from the last checkpoint on."""
    torch.manual_seed(RECIPE.language_seed)
    features, heldout = Features.load("train"), Features.load("heldout")
    model, projector = make_language_model(), make_projector()
    steps = sum(phase.steps for phase in RECIPE.phases)
    optimizer = make_optimizer([model, projector], learning_rate=RECIPE.phases[0].learning_rate)
    checkpoint = Checkpoint(CHECKPOINT, {"model": model, "projector": projector}, optimizer)
    start = checkpoint.restore()
    rng = np.random.default_rng([RECIPE.language_seed, start])
    recent: deque[float] = deque(maxlen=50)
    progress = tqdm(range(start, steps), initial=start, total=steps, desc="language model")
    for step in progress:
        phase, within = _find_phase(step)
        batch = _sample_batch(features, rng, phase=phase, progress=within / phase.steps)
        logits, wanted, _ = answer_rows(model, projector, batch)
        loss = functional.cross_entropy(logits, wanted)
        if phase.alignment_weight:
            loss = loss + phase.alignment_weight * alignment_loss(model, projector, batch)
        rate = learning_rate(within, steps=phase.steps, peak=phase.learning_rate)
        take_step(optimizer, loss, rate=rate)
        recent.append(float((logits.argmax(-1) == wanted).float().mean()))
        progress.set_postfix(right=f"{sum(recent) / len(recent):.3f}", refresh=False)
        checkpoint.save_when_due(step + 1)
        if (step + 1) % 250 == 0:
            tqdm.write(_line(step + 1, model, projector, heldout, sum(recent) / len(recent)))
    checkpoint.save(steps)


def _line(
    step: int, model: Qwen2ForCausalLM, projector: nn.Module, heldout: Features, recent: float
) -> str:
    alone = score(model, projector, heldout, num_frames=32, trials=50)
    among = score(model, projector, heldout, num_frames=32, num_cards=4, same_kind=True, trials=50)
    heldout_scores = f"held-out at 32 frames {alone:.2f}, with 4 cards of a kind {among:.2f}"
    return f"step {step}: training {recent:.3f}, {heldout_scores}"


def main() -> None:
    """Trains projector and language model."""
    torch.set_num_threads(RECIPE.num_threads)
    train()


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
