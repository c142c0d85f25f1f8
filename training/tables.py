"""The tables of the model cards, in Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from training.draw_cards import CARDS
from training.world import KINDS, Card
from vniah.analysis.statistics import wilson_interval
from vniah.grid import format_depth
from vniah.results import Results, SampleResult


@dataclass(frozen=True)
class Tables:
    """What a model card shows, each in Markdown."""

    scores: str  # one needle, by the number of frames
    others: str  # with other needles in the video
    tasks: str  # every other task of vniah
    controls: str  # what the controls of the plain task found
    verdicts: str  # the verdict of the controls, for every task


def share(right: Sequence[bool | None]) -> float:
    """The share of right answers."""
    return sum(map(bool, right)) / len(right)


def with_interval(right: Sequence[bool | None]) -> str:
    """The share of right answers with its Wilson interval and how many there are."""
    interval = wilson_interval(sum(map(bool, right)), len(right))
    return f"{share(right):.3f} ({interval.low:.2f}-{interval.high:.2f}, {len(right)})"


def _lowest(samples: Sequence[SampleResult], cards: Mapping[str, Card]) -> str:
    """The lowest score of any key, with the keys that have it where it is not 1."""
    right: dict[str, list[bool | None]] = {}
    for sample in samples:
        card = cards[sample.needle_id]
        right.setdefault(f"{card.kind} {card.key}", []).append(sample.correct)
    shares = {key: share(answers) for key, answers in right.items()}
    low = min(shares.values())
    keys = [key for key, found in shares.items() if found == low]
    named = keys[0] if len(keys) == 1 else f"{len(keys)} of {len(shares)} keys"
    return f"{low:.2f}" if low == 1 else f"{low:.2f} ({named})"


def table(results: Results, cards: Mapping[str, Card], *, tokens_per_frame: int) -> str:
    """A sweep as a Markdown table, one line for each frame count.

    Args:
        results: of the sweep.
        cards: what each needle shows, by its id.
        tokens_per_frame: how many the model makes of a picture.
    """
    depths = sorted({sample.depth for sample in results.samples})
    default = {card.needle_id for card in CARDS}
    first, *others = map(format_depth, depths)
    heads = [
        "frames (visual tokens)",
        f"depth {first}",
        *others,
        "mean (95 %, n)",
        *KINDS,
        "lowest key",
        "default ten (n)",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for num_frames in sorted({sample.num_frames for sample in results.samples}):
        samples = [sample for sample in results.samples if sample.num_frames == num_frames]
        every = [sample.correct for sample in samples]
        ten = [sample.correct for sample in samples if sample.needle_id in default]
        cells = [f"{num_frames} ({tokens_per_frame * num_frames})"]
        for depth in depths:
            cells.append(f"{share([s.correct for s in samples if s.depth == depth]):.2f}")
        cells.append(with_interval(every))
        for kind in KINDS:
            of_kind = [s.correct for s in samples if cards[s.needle_id].kind == kind]
            cells.append(f"{share(of_kind):.2f}" if of_kind else "-")
        cells.append(_lowest(samples, cards))
        cells.append(f"{share(ten):.2f} ({len(ten)})" if ten else "-")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
