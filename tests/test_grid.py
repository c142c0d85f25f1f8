from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vniah.errors import InputError
from vniah.grid import (
    MAX_FRAMES,
    Cell,
    Grid,
    as_depth,
    format_depth,
    needle_index,
    parse_range,
    read_depth,
)


@given(st.integers(1, 10**7), st.integers(0, 8), st.data())
def test_needle_index_equals_rational_arithmetic(num_frames, digits, data):
    numerator = data.draw(st.integers(0, 10**digits))
    text = str(Decimal(numerator).scaleb(-digits))
    index = needle_index(num_frames, as_depth(text))
    assert index == numerator * num_frames // 10**digits
    assert 0 <= index <= num_frames
    assert index == Cell(num_frames, as_depth(float(text))).needle_index


@pytest.mark.parametrize(
    ("num_frames", "depth", "index"),
    [
        (1, 0, 0),
        (1, 0.999, 0),
        (1, 1, 1),
        (3000, 1, 3000),
        (10, 0.3, 3),
        (100, 0.29, 29),  # floor(0.29 * 100) is 28 in floats
        (100, 0.57, 57),
        (1000, 0.1, 100),
        (3, Fraction(1, 3), 1),
    ],
)
def test_needle_index_at_places_where_floats_go_wrong(num_frames, depth, index):
    assert needle_index(num_frames, as_depth(depth)) == index


@pytest.mark.parametrize(
    ("value", "depth"),
    [
        (0.3, Fraction(3, 10)),
        ("0.30", Fraction(3, 10)),
        (Decimal("0.05"), Fraction(1, 20)),
        (1, Fraction(1)),
        (Fraction(1, 3), Fraction(1, 3)),
        ("1e-05", Fraction(1, 100_000)),
    ],
)
def test_as_depth_is_the_decimal_that_was_written(value, depth):
    assert as_depth(value) == depth


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (25, r"between 0 and 1, got 25. Depth is a fraction: write 0.25, not 25"),
        (-0.1, r"between 0 and 1, got -0.1"),
        ("101", "between 0 and 1, got 101"),
        ("half", "must be numbers, got 'half'"),
        ("", "must be numbers, got ''"),
        ("nan", "must be numbers, got 'nan'"),
        (float("inf"), "must be numbers, got inf"),
        ("1e999999999", "must be numbers, got '1e999999999'"),
        (True, "must be numbers, got True"),
    ],
)
def test_as_depth_when_it_is_not_one(value, message):
    with pytest.raises(InputError, match=message):
        as_depth(value)


@pytest.mark.parametrize(
    ("depth", "text"),
    [
        (Fraction(0), "0"),
        (Fraction(1), "1"),
        (Fraction(1, 4), "0.25"),
        (Fraction(1, 8), "0.125"),
        (Fraction(1, 20), "0.05"),
        (Fraction(1, 10**7), "0.0000001"),
        (Fraction(1, 3), "1/3"),
        (Fraction(100), "100"),
    ],
)
def test_format_depth_is_the_shortest_decimal(depth, text):
    assert format_depth(depth) == text


@given(st.integers(0, 10**12))
def test_format_depth_reads_back(numerator):
    depth = Fraction(numerator, 10**12)
    assert as_depth(format_depth(depth)) == depth


def decimals(*texts):
    return tuple(Fraction(text) for text in texts)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0:1:0.25", decimals("0", "0.25", "0.5", "0.75", "1")),
        ("0:1:0.3", decimals("0", "0.3", "0.6", "0.9", "1")),
        ("0:1:0.05", tuple(Fraction(k, 20) for k in range(21))),
        ("0:1:2", decimals("0", "1")),
        ("0.5:0.5:1", decimals("0.5")),
        (" 0 : 1 : 0.5 ", decimals("0", "0.5", "1")),
        ("200:3000:200", tuple(Fraction(k) for k in range(200, 3001, 200))),
        ("1", decimals("1")),
        ("0.5,0.1, 0.9", decimals("0.5", "0.1", "0.9")),
    ],
)
def test_parse_range_includes_both_ends(text, values):
    assert parse_range(text, "depths") == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "depths must be numbers, got ''"),
        ("a", "depths must be numbers, got 'a'"),
        ("0,,1", "depths must be numbers, got ''"),
        ("0:1", "start:stop:step or a comma list, got '0:1'"),
        ("0:1:0.1:2", "start:stop:step or a comma list"),
        ("0:1:0", "step above 0"),
        ("0:1:-0.5", "step above 0"),
        ("1:0:0.5", "stop not below start, got '1:0:0.5'"),
        ("0:1:x", "depths must be numbers, got 'x'"),
        ("0:1:0.000001", "more than 100,000 values"),
    ],
)
def test_parse_range_when_it_cannot_be_meant(text, message):
    with pytest.raises(InputError, match=message):
        parse_range(text, "depths")


def test_grid_of_sorts_and_drops_repeats():
    grid = Grid.of([400, 200, 400], [1, 0.5, "0.5", 0])
    assert grid.frames == (200, 400)
    assert grid.depths == decimals("0", "0.5", "1")
    assert grid.max_frames == 400


def test_grid_cells_come_short_sequences_first():
    grid = Grid.parse("8,16", "0,1")
    assert grid.cells == (
        Cell(8, Fraction(0)),
        Cell(8, Fraction(1)),
        Cell(16, Fraction(0)),
        Cell(16, Fraction(1)),
    )
    assert list(grid.cells) == sorted(grid.cells)


def test_grid_of_the_paper_has_90_cells():
    assert len(Grid.parse("200:3000:200", "0:1:0.2").cells) == 90


@pytest.mark.parametrize(
    ("frames", "depths", "message"),
    [
        ("0", "0", "frames must be whole numbers of at least 1, got 0"),
        ("-5", "0", "at least 1, got -5"),
        ("1.5", "0", "frames must be whole numbers"),
        ("8", "50", "write 0.5, not 50"),
        ("8", "0:100:25", "depth must be between 0 and 1"),
        ("many", "0", "frames must be numbers, got 'many'"),
    ],
)
def test_grid_parse_when_it_cannot_be_meant(frames, depths, message):
    with pytest.raises(InputError, match=message):
        Grid.parse(frames, depths)


@pytest.mark.parametrize(
    ("frames", "depths", "message"),
    [
        ((), (Fraction(0),), "frames must name at least one value, got none"),
        ((8,), (), "depths must name at least one value, got none"),
        ((16, 8), (Fraction(0),), "frames must be ascending and without repeats, got 16, 8"),
        ((8, 8), (Fraction(0),), "frames must be ascending and without repeats"),
        ((0,), (Fraction(0),), "frames must be at least 1, got 0"),
        ((8,), (Fraction(2),), "depths must be between 0 and 1, got 2"),
    ],
)
def test_grid_when_its_values_are_wrong(frames, depths, message):
    with pytest.raises(InputError, match=message):
        Grid(frames, depths)


def test_positions_are_the_needle_indices_exactly():
    cells = Grid.of(range(1, 301), positions=range(301)).cells
    assert [(cell.num_frames, cell.needle_index) for cell in cells] == [
        (n, p) for n in range(1, 301) for p in range(n + 1)
    ]
    assert all(cell.depth == Fraction(cell.needle_index, cell.num_frames) for cell in cells)


@given(st.integers(1, MAX_FRAMES), st.data())
def test_depth_of_a_position_reads_back_as_it_was_written(num_frames, data):
    position = data.draw(st.integers(0, num_frames))
    (cell,) = Grid.of([num_frames], positions=[position]).cells
    written = format_depth(cell.depth)
    assert needle_index(num_frames, as_depth(Fraction(written))) == position


def test_positions_beyond_the_haystack_are_no_cells():
    grid = Grid.parse("32,64,128", positions="0:128:16")
    assert grid.positions == tuple(range(0, 129, 16))
    assert grid.depths == ()
    assert [sum(cell.num_frames == n for cell in grid.cells) for n in grid.frames] == [3, 5, 9]
    assert list(grid.cells) == sorted(grid.cells)
    assert grid.cells[1] == Cell(32, Fraction(1, 2))


def test_positions_are_sorted_without_repeats_and_both_ends_are_included():
    assert Grid.of([8], positions=[8, 0, "4", 4.0]).positions == (0, 4, 8)
    assert Grid.parse("10", positions="0:10:4").positions == (0, 4, 8, 10)


@pytest.mark.parametrize(
    ("frames", "positions", "message"),
    [
        ("8", "1.5", "positions must be whole numbers of at least 0, got 1.5"),
        ("8", "-1", "positions must be whole numbers of at least 0, got -1"),
        ("8", "0:1:0.5", "positions must be whole numbers of at least 0, got 0.5"),
        ("8", "", "positions must be numbers, got ''"),
        ("8", "0:8", "positions must be start:stop:step or a comma list"),
        ("8,16", "9,16", "no position lies within 8 frames, got positions from 9 on: add a lower"),
        ("200", "1000:3000:200", "within 200 frames, got positions from 1,000 on"),
    ],
)
def test_grid_parse_when_positions_cannot_be_meant(frames, positions, message):
    with pytest.raises(InputError, match=message) as caught:
        Grid.parse(frames, positions=positions)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ((4, 0), "positions must be ascending and without repeats, got 4, 0"),
        ((4, 4), "positions must be ascending and without repeats"),
        ((-1, 4), "positions must be at least 0, got -1"),
    ],
)
def test_grid_when_its_positions_are_wrong(positions, message):
    with pytest.raises(InputError, match=message):
        Grid((8,), positions=positions)


def test_grid_when_there_are_depths_and_positions():
    with pytest.raises(
        InputError,
        match=r"got both: depths 0, 0\.5, 1 and positions 0, 2, \.\.\., 8; leave one of them out",
    ):
        Grid.parse("8", "0:1:0.5", positions="0:8:2")


@pytest.mark.parametrize("make", [lambda: Grid.of([8]), lambda: Grid.parse("8")])
def test_grid_when_there_are_neither_depths_nor_positions(make):
    with pytest.raises(InputError, match="depths must name at least one value, got none"):
        make()


def test_two_spellings_of_a_number_are_one_and_a_note_says_so(caplog):
    with caplog.at_level("INFO", "vniah"):
        assert Grid.parse("1000,1e3,2000", "0.5,0.50,1").frames == (1000, 2000)
    assert caplog.messages == [
        "frames: 1000 and 1e3 are the same number, which counts once",
        "depths: 0.5 and 0.50 are the same number, which counts once",
    ]
    caplog.clear()
    Grid.parse("8,16", "0:1:0.5")
    assert caplog.messages == []


@pytest.mark.parametrize(
    "depth",
    ["1e999999999", "1e-999999999", "9" * 500, 10**6000, Fraction(1, 2**400), float("nan")],
    ids=range(6),
)
def test_depth_that_would_cost_endless_work_is_refused_at_once(depth):
    with pytest.raises(InputError, match="depth must be numbers, got"):
        as_depth(depth)


@pytest.mark.parametrize(
    "text",
    ["1/0", pytest.param("1/" + "9" * 5000, id="digits"), "1e999999999", "2/1", "-1/2", "1/2/3"],
)
def test_read_depth_refuses_what_no_run_writes(text):
    with pytest.raises(InputError, match="depth must be"):
        read_depth(text)


def test_depth_with_many_digits_is_written_exactly():
    depth = Fraction("0.1234567890123456789012345678901234567")
    assert read_depth(format_depth(depth)) == depth


def test_grid_of_too_many_cells_is_refused():
    with pytest.raises(InputError, match="are more than 1,000,000 cells; use larger steps"):
        Grid.parse("1:20000:1", "0:1:0.001")
