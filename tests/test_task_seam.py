"""What a task may say besides its samples: options, details, measures, controls of one's own."""

from types import SimpleNamespace

import pytest

from vniah.errors import InputError, ResultsError, TaskError
from vniah.grid import Cell, Grid
from vniah.needles import load_needles
from vniah.protocol import HAYSTACK, Frames, FrameSpan, blended_source, needle_source
from vniah.results.manifests import require_manifest
from vniah.scoring import LogitsScore, Reading, Score
from vniah.sweep.outcomes import result_of
from vniah.tasks import Sample, insert, load_task, needle_spans
from vniah.tasks.controls import CONTROLS, Finding, choose_controls, plan_samples
from vniah.tasks.details import details_of
from vniah.tasks.parsing import one_of, whole_number, whole_numbers
from vniah.tasks.placement import NeedleLook
from vniah.tasks.vniah import VisualNeedle


@pytest.fixture(scope="module")
def needles(needle_folder):
    return load_needles(needle_folder)


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [("3,1", (3, 1)), ("0:6:3", (0, 3, 6)), (5, (5,)), ([2, 4], (2, 4)), ("2e1", (20,))],
)
def test_whole_numbers_come_as_text_or_numbers(value, expected):
    assert whole_numbers(value, "k") == expected


@pytest.mark.parametrize("value", ["", "x", "1.5", "-1", "1,1", "1e99", None, True, [], "0:1:0"])
def test_what_is_no_list_of_whole_numbers_is_refused(value):
    with pytest.raises(TaskError, match="the option k"):
        whole_numbers(value, "k")


def test_one_number_and_one_word():
    assert whole_number("7", "k") == 7
    for value in ("1,2", "x", "", "3.5", "0", "601", "\u0663", True, None):
        with pytest.raises(TaskError, match="the option k must be one whole number from 1 to 600"):
            whole_number(value, "k", at_least=1, at_most=600)
    assert one_of("b", "k", ("a", "b")) == "b"
    with pytest.raises(TaskError, match="the option k must be one of a, b, got 'c'"):
        one_of("c", "k", ("a", "b"))


def test_options_reach_the_task_and_its_settings():
    task = load_task("vniah", {"needle_frames": "3"})
    assert details_of(task) == {"settings": {"needle_frames": 3}, "asks_needles": True}
    assert details_of(load_task("vniah")) == {"asks_needles": True}


def test_options_that_a_task_does_not_take_are_refused():
    with pytest.raises(InputError, match="the task vniah has no option 'distance'; it has needle"):
        load_task("vniah", {"distance": "3"})
    with pytest.raises(TaskError, match="needle_frames must be one whole number from 1 to"):
        load_task("vniah", {"needle_frames": "0"})
    with pytest.raises(InputError, match="task options go with the name of a task"):
        load_task(VisualNeedle(), {"needle_frames": "3"})


# --- placement -----------------------------------------------------------------------------------


def test_several_insertions_keep_the_haystack_and_their_order():
    one, other = (FrameSpan(needle_source(k), 0, 1) for k in "ab")
    shown = list(Frames(insert(4, [(4, [one]), (2, [other]), (2, [one])])))
    assert [(frame.source, frame.index) for frame in shown] == [
        (HAYSTACK, 0),
        (HAYSTACK, 1),
        (other.source, 0),
        (one.source, 0),
        (HAYSTACK, 2),
        (HAYSTACK, 3),
        (one.source, 0),
    ]
    with pytest.raises(TaskError, match="between 0 and the number of frames, 4, got 5"):
        insert(4, [(5, [one])])


@pytest.mark.parametrize(("index", "frame"), [(0, 0), (1, 0), (8, 7)])
def test_blended_needle_is_in_a_copy_of_the_frame_before_it(needles, index, frame):
    needle = needles.needles[0]
    (span,) = needle_spans(needle, index, NeedleLook.parse(None, "blended"))
    assert (span.source, span.start) == (blended_source(needle.needle_id), frame)


def test_needle_of_several_frames_is_shown_that_long(needles):
    task = load_task("vniah", {"needle_frames": 3})
    samples = plan_samples(task, Grid.parse("8", "0.5"), needles, None, "none")
    assert [len(Frames.of(sample.shown)) for sample in samples] == [11] * 3


# --- details and measures ------------------------------------------------------------------------


def named(**attributes):
    return SimpleNamespace(name="odd", **attributes)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"facets": "kind"}, "facets of the task odd must be a tuple of names, got 'kind'"),
        ({"labels": {"depth": 3}}, "labels of the task odd must be a mapping of names to texts"),
        ({"settings": {"k": float("nan")}}, "settings of the task odd must be"),
        ({"all_of": ("group",)}, "all_of of the task odd must be the name of a field"),
        ({"measures": ("a",), "references": {"a": "b"}}, "name 'b', which is none of its measures"),
    ],
)
def test_details_of_another_form_are_refused(attributes, message):
    with pytest.raises(TaskError, match=message):
        details_of(named(**attributes))


def test_details_are_lists_and_texts():
    found = details_of(named(facets=("kind",), labels={"depth": "Middle"}, measures=()))
    assert found == {"facets": ["kind"], "labels": {"depth": "Middle"}}


def test_details_of_another_type_in_a_manifest_are_refused():
    manifest = {
        "format_version": 2,
        "task": "odd",
        "sample_ids": "8/0/a",
        "model": {"name": "m"},
        "haystack": {},
        "needles": {"ids": ["a"]},
        "grid": {"frames": [8], "depths": [0]},
        "protocol": {},
    }
    assert require_manifest({**manifest, "task_details": {"facets": ["kind"]}}, "m")
    with pytest.raises(ResultsError, match="facets"):
        require_manifest({**manifest, "task_details": {"facets": "kind"}}, "m")


READING = Reading(0.1, (1,), LogitsScore((1,), True, -0.1, 1, 2.0), "x")


@pytest.mark.parametrize(
    ("measures", "expected"),
    [
        ({"error_seconds": 2.5, "chances": [0.25, 0.75]}, None),
        ({"rank": 2.5}, "gave the measure 'rank' = 2.5; its name must be free"),
        ({"needle_id": "b"}, "gave the measure 'needle_id'"),
        ({"error_seconds": float("inf")}, "must be text, a finite number"),
    ],
)
def test_measures_become_values_of_the_line(measures, expected):
    cell = Cell(8, 0)
    sample = Sample("8/0/a", cell, (), "?", ("x",), fields={"needle_id": "a"})
    score = Score("x", (1,), True, -0.1, 1, 2.0, 0.1, measures=measures)
    task = named(axes=("num_frames", "depth"), score=lambda sample, readings: score)
    result = result_of(task, sample, (READING,))
    if expected is None:
        assert dict(result.fields) == {"needle_id": "a", **measures}
        assert result.correct is True
    else:
        assert expected in result.error


# --- controls of one's own -----------------------------------------------------------------------


class Twice:
    """Asks everything once more."""

    name = "twice"

    def samples(self, samples, needles):
        return iter(())

    def finding(self, tests, own):
        return Finding("none")


def test_controls_are_chosen_by_word_name_and_factory():
    names = [c.name for c in choose_controls(VisualNeedle(), "no-needle,test_task_seam:Twice")]
    assert names == ["no-needle", "twice"]
    assert [c.name for c in choose_controls(VisualNeedle(), "all")] == list(CONTROLS)
    with pytest.raises(TaskError, match="is not a control"):
        choose_controls(VisualNeedle(), "test_task_seam:named")
