"""Long context transfer in miniature: `python examples/long_context_transfer.py`.

V-NIAH heatmaps after Figure 4 of Zhang et al. 2024 (arXiv:2406.16852). Neighbours differ in one
thing, so that each pair says what this thing does:

- (i) and (ii), the length of the text that the language model read: as many steps over as many
  tokens, with the same RoPE base.
- (ii) and (iii), the RoPE base, with the same text.
- (iii) and (iv), the RoPE base, raised without training.

The paper's panel of AnyRes is left out: `reference-anyres` and the model of (i) are right and wrong
together wherever this figure looks, so it would be (i) again. training/README.md has the figures,
and says what else of the paper's figure this reproduces, and what not.

None of the models was ever shown a video, or more than four pictures. The dotted line is the length
of the short text.
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

    @property
    def folder(self) -> str:
        """Where its run lies, below ``--output``."""
        return self.model if self.rope_theta is None else f"{self.model}-theta-{self.rope_theta:g}"


SHORT_TEXT = 128  # tokens: 32 sentences of 4 words
PANELS = (
    Panel("(i) long text, base 1e9", "reference-long"),
    Panel("(ii) short text, base 1e9", "reference-short-large-base", text_tokens=SHORT_TEXT),
    Panel("(iii) short text, base 150", "reference-short", text_tokens=SHORT_TEXT),
    Panel("(iv) as (iii), base raised to 500", "reference-short", 500.0, SHORT_TEXT),
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
        print(panel.title, flush=True)
        runs.append(
            vniah.run_sweep(
                vniah.load_model(panel.model, rope_theta=panel.rope_theta),
                haystack,
                needles,
                grid,
                output=options.output / panel.folder,
                controls="none",
            )
        )
    picture = vniah.save_heatmaps(
        runs,
        options.output / "heatmaps.png",
        titles=[panel.title for panel in PANELS],
        training_tokens=[panel.text_tokens for panel in PANELS],
        width=17 / 2.54,  # inches
        columns=2,
        caption=False,
    )
    print(picture)


if __name__ == "__main__":
    try:
        main()
    except vniah.VniahError as error:
        raise SystemExit(f"error: {error}") from None
