"""Bridges: questions of two hops, where the answer of one picture is the key of another."""

from dataclasses import dataclass

from vniah.errors import NeedleError, short_repr
from vniah.needles.texts import require_id, require_texts


@dataclass(frozen=True)
class Bridge:
    """A question that only two pictures together answer.

    The needle that has the bridge shows which other picture is meant, and that one shows the
    answer: beside a sign with a blue star, "the card colored as the sign with a star" is the blue
    card.

    Args:
        to: id of the other picture, in the same set.
        question: names the other picture by what the needle shows, verbatim.
        answer: what the other picture shows, as `vniah.needles.Needle.answer`.
        choices: the options of a multiple-choice question, else None.
        accepted: further correct answers.

    Raises:
        NeedleError: a text breaks the rules of `vniah.needles.Needle`.
    """

    to: str
    question: str
    answer: str
    choices: tuple[str, ...] | None = None
    accepted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_id(self.to)
        require_texts(self.question, self.answer, self.choices, self.accepted)

    @property
    def answers(self) -> tuple[str, ...]:
        """All correct answers, `answer` first."""
        return (self.answer, *self.accepted)


def require_bridge(needle_id: str, bridge: Bridge | None) -> None:
    """Raises `NeedleError` for a bridge that leads from a picture to itself."""
    if bridge is not None and bridge.to == needle_id:
        raise NeedleError(
            f"the bridge of the needle {needle_id!r} leads to {short_repr(bridge.to)} itself; name "
            "the other picture."
        )
