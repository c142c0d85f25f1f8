"""RoPE bases and scalings as text: what is read, what is refused, and how they are named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vniah.errors import InputError
from vniah.options.rope import (
    RopeChoice,
    read_scaling,
    read_scalings,
    rope_choices,
    scaling_label,
    scaling_text,
    theta_label,
)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("none", {"rope_type": "default"}),
        ("default", {"rope_type": "default"}),
        ("yarn:4", {"rope_type": "yarn", "factor": 4.0}),
        ("linear:2.5", {"rope_type": "linear", "factor": 2.5}),
        ("dynamic:1e1", {"rope_type": "dynamic", "factor": 10.0}),
        ('{"type": "linear", "factor": 2}', {"rope_type": "linear", "factor": 2.0}),
        (
            {
                "type": "mrope",
                "rope_type": "yarn",
                "factor": 4,
                "original_max_position_embeddings": 64.0,
                "attention_factor": None,
                "truncate": False,
            },
            {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 64,
                "truncate": False,
            },
        ),
        (
            {"rope_type": "longrope", "short_factor": [1, 2], "long_factor": (3.0, 4.0)},
            {"rope_type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [3.0, 4.0]},
        ),
    ],
)
def test_scaling_is_read(written, expected):
    found = read_scaling(written)
    assert found == expected
    assert read_scaling(found) == found
    assert scaling_text(read_scaling(scaling_text(found))) == scaling_text(found)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "must be of a kind default, linear, dynamic, yarn, llama3, longrope, got ''"),
        ("su:4", "got 'su'"),
        ({"factor": 4}, "got None"),
        ("yarn:", "must be a kind and its factor such as yarn:4"),
        ("yarn:four", "got 'yarn:four'"),
        ('{"rope_type": "yarn"', "cannot be read as JSON"),
        ("yarn:0.5", "the factor of rope_scaling must be at least 1, got 0.5"),
        ("yarn:0", "factor of rope_scaling must be a number above 0, got 0.0"),
        ("yarn:nan", "must be a number above 0, got nan"),
        ("yarn:1e999", "must be a number above 0, got inf"),
        ({"rope_type": "yarn", "factor": 10**400}, "factor of rope_scaling must be a number"),
        ('{"rope_type":' * 1000 + "1" + "}" * 1000, "nested"),
        ('{"rope_type": "yarn", "factor": 2, "factor": 4}', "the key 'factor' is given twice"),
        ("yarn:inf", "must be a number above 0, got inf"),
        ({"rope_type": "yarn", "factor": True}, "must be a number above 0, got True"),
        ({"rope_type": "yarn", "factor": "4"}, "must be a number above 0, got '4'"),
        ({"rope_type": "yarn", "beta_slow": 0}, "beta_slow of rope_scaling must be a number above"),
        ({"rope_type": "yarn", "truncate": 1}, "truncate of rope_scaling must be true or false"),
        (
            {"rope_type": "yarn", "original_max_position_embeddings": 1.5},
            "original_max_position_embeddings of rope_scaling must be a whole number, got 1.5",
        ),
        ({"rope_type": "longrope", "short_factor": 2}, "short_factor .* must be a list of numbers"),
        ({"rope_type": "longrope", "long_factor": [0]}, "long_factor .* must be a number above 0"),
        ({"rope_type": "linear", "rope_theta": 5}, "give the base by itself, as rope_theta"),
    ],
)
def test_scaling_that_cannot_be_meant_is_one_line(written, message):
    with pytest.raises(InputError, match=message) as caught:
        read_scaling(written)
    assert "\n" not in str(caught.value)


def test_several_scalings_may_hold_json_with_commas():
    text = (
        'none,{"rope_type": "yarn", "factor": 4},linear:2, {"type":"longrope","short_factor":[1]}'
    )
    assert [scaling["rope_type"] for scaling in read_scalings(text)] == [
        "default",
        "yarn",
        "linear",
        "longrope",
    ]


@pytest.mark.parametrize(
    ("theta", "label"),
    [
        (1.5, "1.5"),
        (150.0, "150"),
        (9999.0, "9999"),
        (10000.0, "1e4"),
        (12345.0, "12345"),
        (99999.5, "99999.5"),
        (500000.0, "5e5"),
        (3e6, "3e6"),
        (28e6, "2.8e7"),
        (1e9, "1e9"),
        (1234567.0, "1234567"),
        (1234567.5, "1234567.5"),
        (1e22, "1e22"),
        (1.25e300, "1.25e300"),
    ],
)
def test_base_is_written_in_few_letters(theta, label):
    assert theta_label(theta) == label


@given(st.floats(min_value=1, max_value=1e300, exclude_min=True))
def test_label_of_a_base_is_exact(theta):
    assert float(theta_label(theta)) == theta


def test_label_of_a_scaling_has_all_or_the_most():
    scaling = read_scaling({"rope_type": "yarn", "factor": 4, "beta_fast": 16, "truncate": True})
    assert scaling_label(scaling) == "yarn:4, beta_fast 16.0, truncate True"
    assert scaling_label(scaling, is_short=True) == "yarn:4"
    assert scaling_label(read_scaling("none")) == "no scaling"
    assert scaling_label({"rope_type": "longrope"}) == "longrope"


def test_choices_are_all_pairs():
    choices = rope_choices([500.0, 1e9], [read_scaling("none"), read_scaling("yarn:4")])
    assert [choice.label for choice in choices] == [
        "RoPE base 500, no scaling",
        "RoPE base 500, yarn:4",
        "RoPE base 1e9, no scaling",
        "RoPE base 1e9, yarn:4",
    ]
    assert [choice.folder_name for choice in choices] == [
        "rope-theta-500_rope-scaling-none",
        "rope-theta-500_rope-scaling-yarn-4",
        "rope-theta-1e9_rope-scaling-none",
        "rope-theta-1e9_rope-scaling-yarn-4",
    ]


@pytest.mark.parametrize(("theta", "name"), [(10000.0, "10000"), (50000.0, "50000"), (1e5, "1e5")])
def test_folders_keep_the_names_that_earlier_versions_gave_them(theta, name):
    assert RopeChoice(theta).folder_name == f"rope-theta-{name}"


def test_without_values_there_is_one_choice_that_changes_nothing():
    assert rope_choices() == (RopeChoice(),)
    assert RopeChoice().label == "RoPE of the checkpoint"


def test_scalings_of_one_factor_have_folders_of_their_own():
    lengths = [
        {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": n} for n in (8, 16)
    ]
    names = {c.folder_name for c in rope_choices((), [read_scaling(s) for s in lengths])}
    assert len(names) == 2
    assert all(name.startswith("rope-scaling-yarn-4-") for name in names)


@pytest.mark.parametrize(
    ("thetas", "scalings"), [([1e6, 1e6], []), ([], ["none", "default"]), ([5.0], ["yarn:4"] * 2)]
)
def test_a_rope_that_is_given_twice_is_refused(thetas, scalings):
    with pytest.raises(InputError, match="is given twice; name every RoPE once"):
        rope_choices(thetas, [read_scaling(scaling) for scaling in scalings])
