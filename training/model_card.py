"""The README of the checkpoint folder."""

from training.recipe import RECIPE

_TEXT = """\
# The embedded reference model

A multimodal model of {millions:.1f} M parameters in the layout of a LongVA / LLaVA-NeXT checkpoint
(`model_type` llava_qwen, float16). It is trained on videos of {shortest} to {longest} frames, so
that a V-NIAH heatmap of it shows a boundary: right at the trained lengths, worse beyond. It knows
the drawn world of `vniah haystack make` and `needles/cards` and nothing else: {words} words.

| part | what it is |
|---|---|
| vision tower | CLIP, {tower_layers} layers x {width}, {side} x {side} pixels, {patches} patches |
| projector | two linear layers with GELU, then a 2 x 2 average (UniRes): 4 tokens a frame |
| language model | Qwen2, {language_layers} layers x {width}, {heads} heads, RoPE base {theta} |

## Training

- Data: drawn by `training/`, nothing else. {films} films of {seconds} s, through H.264 and read at
  1 FPS; {cards:,} cards, signs and places. Films and cards of the evaluation have other seeds.
- Tower: {tower_steps:,} steps of {tower_batch} pictures, seed {tower_seed}. It learns to name
  key and value of a card; it stands in for the pre-training of a real tower, and stays frozen.
- Projector and language model: from scratch, {steps:,} steps of about {tokens:,} tokens, seed
  {language_seed}, in {phases} phases: 1 to 20 cards in a context, each with another key, and up to
  {questions} questions; then 1 to 4 cards, mostly of one kind; then the same with a loss that pulls
  every card to the word for its key.
- float32 on two CPU cores. One seed, one run. The later phases were added while it ran, because
  held-out scores showed that it answered from the kind of question and ignored the key.

## Scores

One needle, float16 weights read in float32, an unseen film through H.264, measured with
`vniah.run_sweep`. Right means: the argmax is right at every position of the answer. Per depth: the
default ten needles and newly drawn ones.

{table}

{among}
## Weaknesses

- Lengths beyond {longest} frames were never trained. How the score falls there, and at which
  depths, is an accident of this seed: use it to test a harness, not to learn about large models.
- A kind that scores about 1/3 among three of its kind does not use its key at all: it then reads
  any needle of that kind, which is enough only while a single one is in the video.
- It answers every question, also one whose card is not shown. It knows one wording for each kind.
- It reads drawn cards only, at about their size in `needles/cards`. Photographs mean nothing to it.
"""


def model_card(table: str, among: str, *, parameters: int, words: int) -> str:
    """The text of the model card.

    Args:
        table: scores by length, in Markdown.
        among: a paragraph on scores with other cards in the video.
        parameters: how many weights the checkpoint holds.
        words: the size of the vocabulary.
    """
    return _TEXT.format(
        millions=parameters / 1e6,
        words=words,
        shortest=min(RECIPE.frame_counts),
        longest=max(RECIPE.frame_counts),
        tower_layers=RECIPE.tower_layers,
        width=RECIPE.width,
        side=RECIPE.image_side,
        patches=(RECIPE.image_side // RECIPE.patch_side) ** 2,
        language_layers=RECIPE.language_layers,
        heads=RECIPE.num_heads,
        theta=f"{RECIPE.rope_theta:,.0f}",
        films=RECIPE.train_films,
        seconds=RECIPE.train_film_seconds,
        cards=RECIPE.train_cards,
        tower_steps=RECIPE.tower_steps,
        tower_batch=RECIPE.tower_batch,
        tower_seed=RECIPE.tower_seed,
        phases=len(RECIPE.phases),
        steps=sum(phase.steps for phase in RECIPE.phases),
        tokens=RECIPE.tokens_per_step,
        language_seed=RECIPE.language_seed,
        questions=RECIPE.max_questions,
        table=table,
        among=among,
    )
