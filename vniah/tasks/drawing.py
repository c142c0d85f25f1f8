"""What looks random in tasks is drawn from a hash of names.

So it depends on nothing but these names: not on the order of a loop, on what else a grid holds, or
on the state of a generator.
"""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def draw(below: int, *names: object) -> int:
    """A whole number in ``[0, below)`` that depends on nothing but these names.

    Args:
        below: at least 1.
        names: say what is drawn, for which task and for which sample.
    """
    digest = hashlib.blake2b("\n".join(map(str, names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % below


def shuffled(items: Sequence[T], *names: object) -> tuple[T, ...]:
    """The items in an order that depends on nothing but their number and these names."""
    places = sorted(range(len(items)), key=lambda place: (draw(2**64, *names, place), place))
    return tuple(items[place] for place in places)
