"""Long context transfer in miniature: `python examples/long_context_transfer.py`.

V-NIAH heatmaps after Figure 4 of Zhang et al. 2024 (arXiv:2406.16852). Neighbours differ in one
thing, so that each pair says what that thing does:

- (i) to (ii), the length of the text that the language model read: as many steps over as many
  tokens, with the same RoPE base.
- (ii) to (iii), the RoPE base, with the same text.
- (iii) to (iv), the RoPE base raised without training.
- (i) to (v), how images were encoded in alignment, UniRes or AnyRes. Both find every needle that
  stands alone; (vi) and (vii) are the same two models, asked among distractors of the needle's
  kind.

None of them was ever shown a video, or more than four pictures. The dotted line is the length of
the short text. training/README.md says what of the paper's figure this reproduces, and what not.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import vniah


@dataclass(frozen=True)
class Panel:
    """One heatmap."""

    title: str
    model: str
    rope_theta: float | None = None
    text_tokens: int | None = None  # the length of its training text, where that is on the picture
    distractors: int = 0

    @property
    def folder(self) -> str:
        """Where its run lies, below ``--output``."""
        parts = [self.model]
        if self.rope_theta is not None:
            parts.append(f"theta-{self.rope_theta:g}")
        if self.distractors:
            parts.append(f"distractors-{self.distractors}")
        return "-".join(parts)


SHORT_TEXT = 128  # tokens: 32 sentences of 4 words
DISTRACTORS = 2
PANELS = (
    Panel("(i) long text, base 1e9, UniRes", "reference-long"),
    Panel(
        "(ii) short text, base 1e9:\nas many steps and tokens as (i)",
        "reference-short-large-base",
        text_tokens=SHORT_TEXT,
    ),
    Panel("(iii) short text, base 150", "reference-short", text_tokens=SHORT_TEXT),
    Panel("(iv) as (iii), base raised to 500", "reference-short", 500.0, SHORT_TEXT),
    Panel("(v) as (i), AnyRes", "reference-anyres"),
    Panel(f"(vi) as (i), {DISTRACTORS} distractors", "reference-long", distractors=DISTRACTORS),
    Panel(f"(vii) as (v), {DISTRACTORS} distractors", "reference-anyres", distractors=DISTRACTORS),
)


def main() -> None:
    """Runs what is not there yet, and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("results/long_context_transfer"))
    parser.add_argument("--frames", default="8,16,32,64,128,256,512,1024")
    parser.add_argument("--depths", default="0:1:0.2")
    options = parser.parse_args()
    grid = vniah.Grid.parse(options.frames, options.depths)
    haystack = vniah.generated_haystack(grid.max_frames)
    needles = vniah.load_needles("cards")
    runs = []
    for panel in PANELS:
        print(" ".join(panel.title.split()), flush=True)
        task, task_options = "vniah", {}
        if panel.distractors:
            task, task_options = "vniah-d", {"distractors": str(panel.distractors)}
        runs.append(
            vniah.run_sweep(
                vniah.load_model(panel.model, rope_theta=panel.rope_theta),
                haystack,
                needles,
                grid,
                output=options.output / panel.folder,
                task=task,
                task_options=task_options,
                controls="none",
            )
        )
    picture = vniah.save_heatmaps(
        runs,
        options.output / "heatmaps.png",
        titles=[panel.title for panel in PANELS],
        training_tokens=[panel.text_tokens for panel in PANELS],
    )
    print(picture)


if __name__ == "__main__":
    try:
        main()
    except vniah.VniahError as error:
        raise SystemExit(f"error: {error}") from None
