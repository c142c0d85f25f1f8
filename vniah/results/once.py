"""What is computed from results is computed once and kept with them."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from vniah.results.records import Results

_Value = TypeVar("_Value")
_Options = ParamSpec("_Options")


def once(
    function: Callable[Concatenate[Results, _Options], _Value],
) -> Callable[Concatenate[Results, _Options], _Value]:
    """A function of results that keeps what it gives, as the properties of `Results` do.

    It is kept with the results and for the other arguments, which can be hashed. Results do not
    change, and those that `dataclasses.replace` makes of others begin without. All who ask share
    the value, so they do not change it.
    """
    name = f"_once {function.__module__}.{function.__qualname__}"

    @wraps(function)
    def kept(results: Results, /, *args: _Options.args, **kwargs: _Options.kwargs) -> _Value:
        values: dict[object, _Value] = vars(results).setdefault(name, {})
        key = args, tuple(sorted(kwargs.items()))
        if key not in values:
            values[key] = function(results, *args, **kwargs)
        return values[key]

    return kept
