"""The options with which a model is loaded: one definition for every place that takes them."""

import argparse
import inspect
from dataclasses import fields
from typing import get_args

import pytest

from vniah.cli.arguments import build_parser
from vniah.errors import InputError
from vniah.models.loading import load_model
from vniah.options import LoadIn, LoadOptions, Offload

NAMES = [option.name for option in fields(LoadOptions)]


def test_load_model_takes_every_option_with_its_default():
    parameters = dict(inspect.signature(load_model).parameters)
    assert list(parameters) == ["source", *NAMES, "server"]
    for option in fields(LoadOptions):
        assert parameters[option.name].default == option.default
        assert parameters[option.name].annotation == option.type


@pytest.mark.parametrize("command", ["run", "check", "estimate", "encode"])
def test_commands_take_every_option_with_its_choices_and_help(command):
    (verbs,) = (
        action
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    found = {action.dest: action for action in verbs.choices[command]._actions}
    for option in fields(LoadOptions):
        action = found[option.name]
        assert action.option_strings == [f"--{option.name.replace('_', '-')}"]
        assert action.choices == option.metadata["choices"]
        assert action.help == option.metadata["help"]


def test_given_are_the_options_that_differ_from_their_defaults():
    assert LoadOptions().given() == {}
    assert LoadOptions(offload="auto", device=None).given() == {}
    options = LoadOptions(dtype="float16", rope_theta=500, rope_scaling="yarn:4", frame_size=[8, 6])
    assert options.given() == {
        "dtype": "float16",
        "rope_theta": 500.0,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0},
        "frame_size": (8, 6),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int4"}, "dtype must be one of float32, bfloat16, float16, got 'int4'"),
        ({"offload": "some"}, f"offload must be one of {', '.join(get_args(Offload))}, got 'some'"),
        ({"offload": None}, "offload must be one of auto, always, never, got None"),
        ({"load_in": "3bit"}, f"load_in must be one of {', '.join(get_args(LoadIn))}, got '3bit'"),
        (
            {"load_in": "4bit", "offload": "always"},
            "offload always and load_in 4bit cannot be combined: layers in 4bit stay on the "
            "device; remove one",
        ),
        ({"rope_theta": -1}, "rope_theta must be a number above 1, got -1"),
        ({"rope_scaling": "su:4"}, "rope_scaling must be of a kind default, linear"),
        ({"frame_size": (0, 5)}, r"a width and a height in pixels, .*, got \(0, 5\)"),
        ({"frame_size": 392}, "a width and a height in pixels, .*, got 392"),
        ({"frame_size": "392x392"}, "a width and a height in pixels, .*, got '392x392'"),
    ],
)
def test_invalid_option_is_named(options, message):
    with pytest.raises(InputError, match=message):
        LoadOptions(**options)
