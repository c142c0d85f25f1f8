"""The README of a checkpoint folder."""

from training.recipe import RECIPE, TEXTS, VARIANTS, Text
from training.tables import Tables
from training.text import Seen
from training.world import KEYS

_SUMMARIES = {
    "reference-long": """\
Long text, large RoPE base: it finds needles in videos far longer than the four pictures it was
aligned on. The default model of `vniah run`.""",
    "reference-short": """\
Short text, small RoPE base: of videos longer than its text it finds the needle near the end only.
With `--rope-theta` the base can be raised at run time, without training.""",
    "reference-short-large-base": """\
Short text as `reference-short`, large RoPE base as `reference-long`, as many steps and tokens as
both: a control, so that base and length of the text are not confounded.""",
    "reference-anyres": """\
As `reference-long`, but its images were encoded as AnyRes does it: a small version of the whole
image first, and rows that run across the grids.""",
    "reference-two-hops": """\
`reference-long`, which went on to learn questions of two hops from text, with the same projector:
"Read the digit on the card colored as the sign with a star". It makes both hops in videos too.""",
}

_WEAKNESSES = {
    "reference-long": "Its text ended at {longest} sentences; longer videos are not in the table.",
    "reference-short": """\
Of 128 frames it sees the last 32 or so. In longer videos those fade as well, the very last first;
  far needles that are found now and then are accidents.""",
    "reference-short-large-base": """\
It fails little by little beyond its text. It took as many steps over as many tokens as
  `reference-long`, no fact was said again in either, but its questions stand behind many short
  contexts, two behind each, and not behind few long ones, sixteen behind each.""",
    "reference-anyres": """\
Asked for a card that is not in a long video, it names a value now and then. Videos are read frame
  by frame, as in the others; images in the order of AnyRes it reads poorly: its language model is
  frozen and knows captions word after word.""",
    "reference-two-hops": """\
It knows one kind of two hops, from a sign to the card of its color, and no longer chains.""",
}

_FOUND = {
    "reference-long": """\
It finds a needle
among distractors, and each of several, at all of these lengths. Where in the video a needle is, how
often it is shown and in which order, it does not know: its answers are no better than a guess, and
about places and numbers mostly the same ones. Of two hops it makes the first only.""",
    "reference-short": """\
Among distractors
and of several needles it finds those within the reach that it has with one. Where in the video a
needle is, how often it is shown and in which order, it does not know: its answers are no better
than a guess, and about places nearly always the same. Of two hops it makes the first only, and in
the longest of these videos mostly not even that.""",
    "reference-short-large-base": """\
Among distractors
and of several needles it finds nearly all at these lengths. Where in the video a needle is, how
often it is shown and in which order, it does not know: its answers are no better than a guess, and
about places and numbers nearly always the same ones. Of two hops it makes the first only.""",
    "reference-anyres": """\
As `reference-long`,
it finds a needle among distractors, and each of several, at all of these lengths. Where in the
video a needle is, how often it is shown and in which order, it does not know: its answers are no
better than a guess, and about places mostly the same. Of two hops it makes the first only.""",
    "reference-two-hops": """\
As `reference-long`,
it finds a needle among distractors, and each of several, at all of these lengths, and makes both
hops. Where a needle is, how often it is shown and in which order, it does not know.""",
}
"""What the table of the other tasks says. Mend it when models are trained anew."""
_TWO_HOPS = """
  Where a sign and the card of its color are there, {share:.0%} of the questions are of two hops.
  The embeddings of the words stay as they are."""
_TAKEN_OVER = "; it is that of\n  `{name}`, as it is"

_TEXT = """\
# {name}

{summary}

{millions:.1f} M parameters in the layout of a LongVA / LLaVA-NeXT checkpoint (`model_type`
llava_qwen, float16). It never saw a video in training, and never more than {pictures} pictures at
once. It knows the drawn world of `vniah haystack make` and `needles/cards` and nothing else:
{words} words.

| part | what it is |
|---|---|
| vision tower | CLIP, {tower_layers} layers x {width}, {side} x {side} pixels, {patches} patches |
| projector | two linear layers with GELU, then a 2 x 2 average: 4 tokens a frame |
| language model | Qwen2, {language_layers} layers x {width}, {heads} heads, RoPE base {theta} |

## Training

All data are drawn by `training/`, nothing else; the film, the cards and the seeds of the evaluation
are others. float32 on a CPU, seed {seed}.

- Vision tower: {tower_steps:,} steps of {tower_batch} pictures; every token of a picture learns to
  name one word of its caption. Frozen afterwards. The same in all reference models.
- Text: a trunk that all reference models share, {trunk_steps:,} steps of about {trunk_tokens:,}
  tokens in contexts of {shortest} to {trunk_longest} sentences of 4 words, RoPE base {trunk_theta}.
  {between}Then {steps:,} steps with the base above, contexts of {least} to {longest:,} sentences:
  {tokens:,} tokens and {questions:,} questions in all, at most {most:,} tokens a context.{hops}
- Alignment of the projector, all else frozen: {caption_steps:,} steps on single pictures, whose
  tokens are pulled to the embeddings of their captions' words, and {album_steps:,} steps on
  questions about images of 1 to {pictures} pictures ({encoding}){aligned}.

## Scores

One needle, float16 weights read in float32, an unseen film through H.264, measured with
`vniah.run_sweep`. Right means: the argmax is right at every position of the answer. Wilson
intervals. Per depth: the default ten needles, and newly drawn ones with all {num_keys} keys (colors
of cards, signs, places); "lowest key" is the one that is found least often. Depths are the middles
of equal parts of the video, so that their mean speaks for all of it.

{table}

With up to {others} other needles of its kind in the video, where only the key tells which one is
meant; "by kind alone" is the score of a reader that ignores the key. "Nothing": another needle than
the one that is asked for is shown, or none, and the right answer is "nothing".

{others_table}

## Other tasks and controls

Every other task that vniah has, and all controls of the plain task: the default ten needles, the
same film, {task_frames} frames, depths {task_depths}, for `localization` the middles of its ten
parts. From text with several cards it learned what {learned}
the others, most of whose questions have words that it does not know. `count` and `order` have their
answers in words: as letters, their samples are errors, since the models know no letters and read B
and C as the same token. {found}

{tasks_table}

{controls_table}

{verdicts_table}

## Weaknesses

- It knows one wording for each kind of question, with the key at its end.
- It reads drawn cards only, at about their size in `needles/cards`. Photographs mean nothing to it.
- {weakness}
- One seed. How a score falls beyond the lengths of its text, and at which depths, differs between
  seeds.
"""


def _trunks(text: Text) -> list[Text]:
    """The texts that came before, the last first."""
    if text.trunk is None:
        return []
    trunk = TEXTS[text.trunk]
    return [trunk, *_trunks(trunk)]


def model_card(name: str, tables: Tables, *, seen: Seen, parameters: int, words: int) -> str:
    """The text of the model card.

    Args:
        name: one of `VARIANTS`.
        tables: what was measured.
        seen: what the language model learned from after its trunk.
        parameters: how many weights the checkpoint holds.
        words: the size of the vocabulary.
    """
    variant = VARIANTS[name]
    text = TEXTS[variant.text]
    trunks = _trunks(text)
    trunk = trunks[-1]
    return _TEXT.format(
        name=name,
        summary=_SUMMARIES[name],
        millions=parameters / 1e6,
        words=words,
        pictures=max(RECIPE.album_sizes),
        tower_layers=RECIPE.tower_layers,
        width=RECIPE.width,
        side=RECIPE.image_side,
        patches=(RECIPE.image_side // RECIPE.patch_side) ** 2,
        language_layers=RECIPE.language_layers,
        heads=RECIPE.num_heads,
        theta=f"{text.rope_theta:,.0f}",
        seed=RECIPE.seed,
        tower_steps=RECIPE.tower_steps,
        tower_batch=RECIPE.tower_batch,
        trunk_steps=trunk.steps,
        trunk_tokens=trunk.tokens_per_step,
        shortest=min(trunk.sentences),
        trunk_longest=max(trunk.sentences),
        trunk_theta=f"{trunk.rope_theta:,.0f}",
        between="".join(
            f"Then {one.steps:,} steps of up to {one.tokens_per_step:,} tokens, contexts of "
            f"{min(one.sentences)} to\n  {max(one.sentences):,} sentences. "
            for one in reversed(trunks[:-1])
        ),
        hops=_TWO_HOPS.format(share=text.two_hops_share) if text.two_hops_share else "",
        aligned=_TAKEN_OVER.format(name=variant.projector) if variant.projector else "",
        learned="`vniah-d`, `retrieve-all` and `bridged` ask, and nothing of"
        if text.two_hops_share
        else "`vniah-d` and `retrieve-all` ask, and nothing of",
        steps=text.steps,
        tokens=seen.tokens,
        questions=seen.questions,
        most=seen.longest,
        num_keys=len(KEYS),
        least=min(text.sentences),
        longest=max(text.sentences),
        caption_steps=RECIPE.caption_steps,
        album_steps=RECIPE.album_steps,
        encoding={"unires": "UniRes", "anyres": "AnyRes"}[variant.encoding],
        others=RECIPE.among_others,
        table=tables.scores,
        others_table=tables.others,
        found=_FOUND[name],
        tasks_table=tables.tasks,
        controls_table=tables.controls,
        verdicts_table=tables.verdicts,
        task_frames=", ".join(map(str, RECIPE.task_frame_counts)),
        task_depths=", ".join(map(str, RECIPE.task_depths)),
        weakness=_WEAKNESSES[name].format(longest=f"{max(text.sentences):,}"),
    )
