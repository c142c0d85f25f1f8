"""How much attention each sample pays to its needle, per layer and head: ``attention.jsonl``.

A run with ``--trace-attention`` has such a file beside ``samples.jsonl``. It has a line for each
sample that shows a needle, written before the line of the sample, so that every sample with a score
has its attention, however the run ended. Of several lines for one sample the last one holds.

The numbers are 16-bit floats in base64: a layer and head takes 8 characters.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypedDict, get_args

from msgspec import Meta

from vniah.errors import ResultsError
from vniah.files import atomic_path, to_json
from vniah.results.samples import MOST_LINE_BYTES
from vniah.schema import parse_json
from vniah.scoring import NeedleAttention

if TYPE_CHECKING:  # results are read without it
    import numpy as np
    from numpy.typing import NDArray

ATTENTION_NAME = "attention.jsonl"
_RANK_GLOB = "attention.rank-*.jsonl"

MassName = Literal["reached", "any", "answer", "first"]
"""Which tokens get the attention, and of which rows it is. ``any``: on the needle, the largest of
all rows of the question and the answer; ``answer``: on the needle, the mean of the rows that
predict the answer; ``first``: on the needle, of the row that predicts its first token; ``reached``:
as ``any``, on the needle and on the token right behind each of its pictures or sentences."""

MASS_NAMES: tuple[MassName, ...] = get_args(MassName)

_Count = Annotated[int, Meta(ge=1, le=2**31)]
_Base64 = Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]*={0,2}$")]


class AttentionLine(TypedDict):
    """A line; the masses are little-endian float16 in base64, ``[layers, heads]`` each."""

    sample_id: Annotated[str, Meta(min_length=1)]
    layers: _Count
    heads: _Count
    rows: _Count
    needle_tokens: _Count
    tokens_behind: Annotated[int, Meta(ge=0, le=2**31)]
    tokens: _Count
    reached: _Base64
    any: _Base64
    answer: _Base64
    first: _Base64


@dataclass(frozen=True)
class AttentionTrace:
    """The attention of one sample to its needle.

    Attributes:
        sample_id: of the sample.
        masses: for each of `MassName` the share of attention that each layer and head pays, in
            [0, 1], fp32 ``[layers, heads]``; NaN in layers without attention.
        num_rows: how many rows the question and the answer have.
        num_needle_tokens: tokens of the needle.
        num_tokens_behind: tokens right behind its pictures or sentences.
        num_tokens: tokens of the prompt.
    """

    sample_id: str
    masses: "Mapping[MassName, NDArray[np.float32]]"
    num_rows: int
    num_needle_tokens: int
    num_tokens_behind: int
    num_tokens: int

    @classmethod
    def of(cls, sample_id: str, attention: NeedleAttention) -> "AttentionTrace":
        """What is kept of an engine's finding."""
        import numpy as np

        mass = attention.mass
        answer = mass[..., -attention.num_answer_rows :]
        return cls(
            sample_id,
            {
                "reached": np.minimum((mass + attention.behind).max(-1), 1),  # rounding
                "any": mass.max(-1),
                "answer": answer.mean(-1),
                "first": answer[..., 0],
            },
            mass.shape[-1],
            attention.num_needle_tokens,
            attention.num_tokens_behind,
            attention.num_tokens,
        )

    @property
    def largest(self) -> float:
        """The largest mass of any layer, head and row of the question and the answer.

        It is that on the needle and on the token right behind it, from which heads may read what a
        head before them has copied there.
        """
        import numpy as np

        return float(np.nanmax(self.masses["reached"]))

    @property
    def is_seen(self) -> bool:
        """Whether a head pays more attention to the needle than to all other tokens together.

        More exactly: whether the largest mass is more than halfway between what equal attention to
        all tokens gives these and 1. In a long prompt that is a half; in one of two frames,
        equal attention alone gives a half.
        """
        equal = (self.num_needle_tokens + self.num_tokens_behind) / self.num_tokens
        return self.largest > (1 + equal) / 2

    def to_json(self) -> bytes:
        """The line, without the newline."""
        num_layers, num_heads = self.masses["any"].shape
        return to_json(
            {
                "sample_id": self.sample_id,
                "layers": num_layers,
                "heads": num_heads,
                "rows": self.num_rows,
                "needle_tokens": self.num_needle_tokens,
                "tokens_behind": self.num_tokens_behind,
                "tokens": self.num_tokens,
                **{
                    name: base64.b64encode(mass.astype("<f2").tobytes()).decode()
                    for name, mass in self.masses.items()
                },
            }
        )

    @classmethod
    def from_json(cls, line: bytes, where: str = "the line") -> "AttentionTrace":
        """What a line holds; masses are rounded to 11 significant bits.

        Raises:
            ResultsError: the line is cut, or not the attention of a sample.
        """
        import numpy as np

        found = parse_json(line, AttentionLine, ResultsError, where)
        shape = (found["layers"], found["heads"])
        masses: dict[MassName, NDArray[np.float32]] = {}
        for name in MASS_NAMES:
            content = base64.b64decode(found[name])
            if len(content) != 2 * shape[0] * shape[1]:
                raise ResultsError(
                    f"{where}: {name!r} holds {len(content)} bytes, and {shape[0]} layers of "
                    f"{shape[1]} heads have {2 * shape[0] * shape[1]}"
                )
            mass = np.frombuffer(content, "<f2").reshape(shape).astype(np.float32)
            if not ((mass >= 0) & (mass <= 1) | np.isnan(mass)).all():
                raise ResultsError(f"{where}: {name!r} holds a mass that is not between 0 and 1")
            masses[name] = mass
        return cls(
            found["sample_id"],
            masses,
            found["rows"],
            found["needle_tokens"],
            found["tokens_behind"],
            found["tokens"],
        )


def read_attention(directory: Path) -> dict[str, AttentionTrace]:
    """The attention of all samples of a run, by their ids; none if it was not traced.

    The run may still be going on, or have been killed.

    Args:
        directory: of the run.

    Raises:
        ResultsError: a line cannot be read.
    """
    return {
        trace.sample_id: trace
        for line, where in _lines(attention_paths(directory))
        for trace in [AttentionTrace.from_json(line, where)]
    }


def attention_paths(directory: Path) -> list[Path]:
    """All files of attention in a folder, those with the oldest lines first."""
    path = directory / ATTENTION_NAME
    return ([path] if path.exists() else []) + sorted(directory.glob(_RANK_GLOB))


def attention_path(directory: Path, rank: int, num_ranks: int) -> Path:
    """The file that a process appends to."""
    name = ATTENTION_NAME if num_ranks == 1 else _RANK_GLOB.replace("*", f"{rank:04d}")
    return directory / name


def merge_attention(directory: Path, order: Iterable[str]) -> None:
    """Makes one file of those of all ranks, with one line for each sample.

    A kill at any moment leaves every sample in at least one file.

    Args:
        directory: of the run.
        order: the ids of samples; others are left out.
    """
    paths = attention_paths(directory)
    if not paths:
        return
    lines = {
        parse_json(line, AttentionLine, ResultsError, where)["sample_id"]: line
        for line, where in _lines(paths)
    }
    with atomic_path(directory / ATTENTION_NAME, is_locked=True) as path, path.open("wb") as file:
        file.writelines(lines[name] for name in order if name in lines)
    for path in paths:
        if path.name != ATTENTION_NAME:
            path.unlink()


def _lines(paths: Iterable[Path]) -> Iterator[tuple[bytes, str]]:
    """All complete lines, each with what names it in a message."""
    for path in paths:
        with path.open("rb") as file:
            number = 0
            while (line := file.readline(MOST_LINE_BYTES)).endswith(b"\n"):
                number += 1
                yield line, f"{path}, line {number}"
            if len(line) == MOST_LINE_BYTES:
                raise ResultsError(
                    f"{path}, line {number + 1}, has more than {MOST_LINE_BYTES:,} bytes, so it is "
                    "not the attention of a sample; remove the line"
                )
