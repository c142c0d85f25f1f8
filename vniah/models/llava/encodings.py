"""How many tokens pictures become, by encoding: the table of the paper (Table 4) for a checkpoint.

Only configurations are read: no weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vniah.errors import InputError, ModelError, short_repr
from vniah.models.configs import read_config
from vniah.models.families import LLAVA_TYPES, llava_type
from vniah.models.llava.checkpoint import frame_reader
from vniah.models.llava.grids import GridRule, anyres_rule, read_rule, unires_rule
from vniah.models.llava.towers import build_tower

USUAL_SIZES = (
    (336, 336),
    (640, 480),
    (816, 1056),  # letter, at 96 pixels per inch
    (794, 1123),  # A4
    (1280, 720),
    (1240, 1754),  # A4, at 150
    (1920, 1080),
    (2480, 3508),  # A4, at 300
)


@dataclass(frozen=True)
class Encodings:
    """How a checkpoint's tower can read pictures.

    Attributes:
        frame_tokens: tokens of a picture as a frame of a video, whatever its size.
        rules: UniRes, then AnyRes: by the checkpoint's configuration for the one that it has, as
            published for the other; and a third one if the checkpoint reads images by it.
        own: the rule by which the checkpoint reads images; None if it reads them as one picture.
    """

    frame_tokens: int
    rules: tuple[GridRule, ...]
    own: GridRule | None

    def rows(self, sizes: Sequence[tuple[int, int]]) -> list[tuple[str, ...]]:
        """The table: a heading, a row for each size, and one of the most that there can be.

        Args:
            sizes: width and height of pictures, in pixels.

        Raises:
            InputError: nothing would be left of such a picture.
        """
        heading = ["picture", "frame"]
        for rule in self.rules:
            heading += [rule.encoding, "tokens"]
        rows = [tuple(heading)]
        for size in sizes:
            row = [f"{size[0]} x {size[1]}", f"{self.frame_tokens:,}"]
            for rule in self.rules:
                found = rule.layout(size)
                row += [f"{found.columns} x {found.rows}", f"{found.num_tokens:,}"]
            rows.append(tuple(row))
        last = ["at most", f"{self.frame_tokens:,}"]
        for rule in self.rules:
            # A picture of just this size has no padding.
            most = max(rule.layout(resolution).num_tokens for resolution in rule.resolutions)
            last += [f"{rule.most_grids}", f"{most:,}"]
        return [*rows, tuple(last)]


def read_encodings(folder: Path) -> Encodings:
    """How pictures can be read by the checkpoint in a folder, which needs no weights.

    Raises:
        ModelError: it is no checkpoint in the original LLaVA layout, or its configuration cannot be
            read.
    """
    raw = read_config(folder)
    if llava_type(raw) is None:
        raise ModelError(
            f"{folder}/config.json has model_type {short_repr(raw.get('model_type'))}; encodings "
            f"are those of checkpoints in the original LLaVA layout: {', '.join(LLAVA_TYPES)}"
        )
    tower = build_tower(raw, folder)
    sizes = tower.image_size, tower.side
    try:
        own = read_rule(raw, folder, tower_size=tower.image_size, side=tower.side)
    except InputError:  # it reads an image as one picture
        own = None
    rules = {rule.encoding: rule for rule in (unires_rule(*sizes), anyres_rule(*sizes))}
    if own is not None:
        rules[own.encoding] = own
    return Encodings(frame_reader(raw, folder, tower).num_rows, tuple(rules.values()), own)
