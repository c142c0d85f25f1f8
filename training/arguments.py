"""What the commands of the stages share."""

import argparse
from collections.abc import Callable, Iterable


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """An argparse type for one of ``names``; ``choices`` do not go with ``nargs="*"``."""
    known = list(names)

    def check(name: str) -> str:
        if name not in known:
            raise argparse.ArgumentTypeError(f"no {name!r}; there are {', '.join(known)}")
        return name

    return check
