"""The task vniah-d: which distractors are shown, where, and what is refused."""

from fractions import Fraction
from itertools import product

import pytest
from needle_sets import numbered_needles

from vniah.errors import InputError, TaskError
from vniah.grid import Cell, Grid
from vniah.protocol import HAYSTACK, Frames, needle_source
from vniah.tasks import load_task
from vniah.tasks.controls import plan_samples
from vniah.tasks.drawing import draw, shuffled
from vniah.tasks.groups import Spacing, spread_indices


def samples_of(frames, depths, *, needles=None, **options):
    grid = Grid.parse(frames, depths)
    task = load_task("vniah-d", options)
    return list(task.samples(grid, needles or numbered_needles(), None))


def before(sample, source):
    """Haystack frames before the frames of a source, counted in what is shown."""
    frames = list(Frames(sample.shown))
    (place,) = [k for k, frame in enumerate(frames) if frame.source == source]
    return sum(frame.source == HAYSTACK for frame in frames[:place])


def test_every_combination_is_a_sample_of_each_cell_and_none_is_doubled():
    found = samples_of("40", "0,0.5", distractors="0,1,3", distance="5,spread", similarity="near")
    per_needle = ["d0", "d1-5-near", "d1-spread-near", "d3-5-near", "d3-spread-near"]
    assert [one.sample_id for one in found] == [
        f"40/{depth}/n{k}/{end}" for depth in ("0", "0.5") for k in range(4) for end in per_needle
    ]
    assert found[0].fields | {} == {
        "needle_index": 0,
        "needle_id": "n0",
        "num_distractors": 0,
        "distance": None,
        "similarity": None,
        "distractor_ids": [],
        "distractor_indices": [],
    }


@pytest.mark.parametrize("style", ["frame", "blended"])
def test_distractors_are_inserted_where_the_fields_say_and_replace_nothing(style):
    options = {"distractors": "0,2,3", "distance": "3,20%,spread", "needle_style": style}
    for one in samples_of("20,31", "0,0.4,1", needle_frames="2", **options):
        count = one.fields["num_distractors"]
        shown = Frames(one.shown)
        own = [frame.index for frame in shown if frame.source == HAYSTACK]
        assert own == list(range(one.cell.num_frames)), "the haystack is whole and in order"
        assert len(shown) == one.cell.num_frames + 2 * (1 + count)
        assert one.fields["needle_index"] == one.cell.needle_index
        assert len(one.fields["distractor_indices"]) == len(set(one.fields["distractor_ids"]))
        if style == "frame":
            runs = one.fields["distractor_ids"], one.fields["distractor_indices"]
            for name, place in zip(*runs, strict=True):
                at = [k for k, f in enumerate(shown) if f.source == needle_source(name)]
                assert len(at) == 2, "as long as the needle"
                assert sum(f.source == HAYSTACK for f in list(shown)[: at[0]]) == place


@pytest.mark.parametrize("distance", [1, 4, 7])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_distances_are_multiples_and_the_nearest_places_come_first(distance, count):
    for one in samples_of("40,60", "0,0.5,1", distractors=count, distance=distance):
        index, num_frames = one.cell.needle_index, one.cell.num_frames
        steps = [place - index for place in one.fields["distractor_indices"]]
        assert all(step % distance == 0 and step for step in steps)
        free = [
            abs(step)
            for ring in range(1, num_frames + 1)
            for step in (-ring * distance, ring * distance)
            if 0 <= index + step <= num_frames
        ]
        assert [abs(step) for step in steps] == sorted(free)[:count]


def test_both_sides_are_drawn_and_depend_on_needle_and_index_only():
    needles = numbered_needles(30)
    found = samples_of("200,400", "0.5", distractors="1", distance="40", needles=needles)
    sides = [one.fields["distractor_indices"][0] > one.cell.needle_index for one in found]
    assert 5 < sum(sides[:30]) < 25
    again = samples_of("800", "0.25", distractors="1", distance="40", needles=needles)
    same = [one.fields["distractor_indices"] for one in found[30:]]  # 400 at 0.5: index 200
    assert [one.fields["distractor_indices"] for one in again] == same


def test_spread_puts_one_distractor_into_each_part_of_the_haystack():
    places = {0: set(), 1: set(), 2: set()}
    for one in samples_of("29", "0,0.3,1", distractors=3, needles=numbered_needles(20)):
        found = sorted(one.fields["distractor_indices"])
        assert one.cell.needle_index not in found
        for part, place in enumerate(found):
            assert part * 10 - 1 <= place < (part + 1) * 10
            places[part].add(place)
    assert all(len(found) > 5 for found in places.values())


@pytest.mark.parametrize(
    ("similarity", "count", "expected"),
    [
        ("near", 1, ["n1"]),
        ("near", 2, ["n1", "n2"]),
        ("far", 1, ["extra"]),
        ("far", 2, ["n3", "extra"]),
        ("1", 2, ["n1", "n2"]),
        ("3", 2, ["n3", "extra"]),
        (4, 1, ["extra"]),
    ],
)
def test_similarity_chooses_among_the_declared(similarity, count, expected):
    found = samples_of(
        "8", "0", distractors=count, similarity=similarity, needles=numbered_needles(distractors=4)
    )
    assert found[0].fields["distractor_ids"] == expected
    assert found[0].fields["similarity"] == (
        similarity if similarity in ("near", "far") else int(similarity)
    )


def test_the_published_placement_is_one_distractor_200_frames_away():
    task = load_task("vniah-d", {"preset": "published"})
    assert task.settings == {"distractors": [1], "distance": [200], "similarity": ["near"]}
    for one in task.samples(Grid.parse("400:1000:200", "0:1:0.2"), numbered_needles(), None):
        (place,) = one.fields["distractor_indices"]
        assert abs(place - one.cell.needle_index) == 200
        assert before(one, needle_source(one.fields["needle_id"])) == one.cell.needle_index


@pytest.mark.parametrize(
    ("frames", "depth", "options", "message"),
    [
        (
            "100,600",
            "0.4",
            {"preset": "published"},
            "the cell 100/0.4 cannot hold 1 distractor 200 frames away from the needle and from "
            "one another: there are 40 haystack frames before the needle and 60 after it, room for "
            "0. Give at least 400 frames, or a smaller distance",
        ),
        ("10", "0", {"distractors": "3", "distance": "4"}, "10/0 cannot hold 3 .* room for 2"),
        ("2", "0", {"distractors": "3"}, "2 haystack frames have no room for 3 more pictures at"),
        ("8", "0", {"distractors": "4"}, "n0 declares 3 distractors, and distractors=4 .* needs 4"),
        ("8", "0", {"similarity": "3", "distractors": "2"}, "similarity=3 needs 4; list more"),
    ],
)
def test_cell_without_its_distractors_is_one_line(frames, depth, options, message):
    with pytest.raises(TaskError, match=message):
        samples_of(frames, depth, **options)


@pytest.mark.parametrize("frames", range(1, 40))
def test_frames_that_the_message_asks_for_are_enough(frames):
    """Wherever a cell has no room for its distractors, the length in the message has it."""
    for count, depth in product((1, 2, 3), (Fraction(0), Fraction(1, 3), Fraction(1))):
        options = {"distractors": count, "distance": 5}
        task = load_task("vniah-d", options)
        needles = numbered_needles()
        try:
            list(task.samples(Grid.of([frames], [depth]), needles, None))
        except TaskError as error:
            assert f"Give at least {(count + 1) * 5} frames" in str(error)
            assert frames < (count + 1) * 5
    enough = Grid.of([(3 + 1) * 5], [0, 0.33, 0.5, 1])
    assert list(
        load_task("vniah-d", {"distractors": 3, "distance": 5}).samples(enough, needles, None)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "paper"}, "option preset must be one of published, got 'paper'"),
        (
            {"preset": "published", "distance": "10"},
            "preset=published says what distance are; leave out the preset or these options",
        ),
        ({"distance": "0"}, "option distance must be a whole number of haystack frames from 1"),
        ({"distance": "-3"}, "option distance must be a whole number of haystack frames from 1"),
        ({"distance": "101%"}, "or percent from 1% to 100%, or spread; got .101%."),
        ({"distance": "far"}, "option distance must be"),
        ({"distance": "5,5"}, "option distance must name each value once"),
        ({"distance": ""}, "option distance must name each value once"),
        ({"distractors": "1.5"}, "option distractors must be whole numbers"),
        ({"similarity": "same"}, "option similarity must be near, far or a rank from 1"),
        ({"similarity": "0"}, "option similarity must be one whole number from 1"),
    ],
)
def test_invalid_option_is_one_line(options, message):
    with pytest.raises((TaskError, InputError), match=message):
        load_task("vniah-d", options)


def test_no_needle_control_shows_neither_needle_nor_distractors():
    task = load_task("vniah-d", {"distractors": "0,1"})
    planned = plan_samples(task, Grid.parse("8", "0,1"), numbered_needles(), None, "no-needle")
    controls = [one for one in planned if one.control == "no-needle"]
    assert controls
    for one in controls:
        assert {span.source for span in one.shown} == {HAYSTACK}


# --- what is drawn by hash -----------------------------------------------------------------------


def test_what_is_drawn_depends_on_the_names_alone():
    assert draw(1000, "a", 1) == draw(1000, "a", 1) == 529
    assert draw(1, "anything") == 0
    counts = [0] * 5
    for number in range(1000):
        counts[draw(5, "evenly", number)] += 1
    assert all(150 < count < 250 for count in counts)
    assert sorted(shuffled("abcdef", "x")) == list("abcdef")
    assert len({shuffled("abc", number) for number in range(100)}) == 6


def test_spread_avoids_what_is_taken():
    for taken in range(4):
        found = spread_indices(3, 3, (taken,), "x")
        assert sorted((*found, taken)) == [0, 1, 2, 3]
    with pytest.raises(TaskError, match="give at least 2 frames, or fewer pictures"):
        spread_indices(1, 2, (0,), "x")
    assert sorted(spread_indices(2, 2, (0,), "x")) == [1, 2]


@pytest.mark.parametrize(
    ("text", "frames", "expected"), [("7", 100, 7), ("10%", 99, 9), ("10%", 5, 1), ("100%", 8, 8)]
)
def test_spacing_is_frames_or_percent(text, frames, expected):
    spacing = Spacing.parse(text, "spacing")
    assert spacing.in_frames(frames) == expected
    assert str(spacing.value) == text


def test_a_single_cell_gives_the_same_places_as_a_whole_grid():
    whole = {one.sample_id: one for one in samples_of("40,80", "0:1:0.25", distractors="0,2")}
    cell = Cell(80, Fraction(3, 4))
    own = samples_of("80", "0.75", distractors="2")
    assert own and all(one.cell == cell and whole[one.sample_id] == one for one in own)
