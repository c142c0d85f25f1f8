from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from videos import expected_numbers

from vniah.errors import InputError
from vniah.haystacks.video.sampling import clock_schedule, longva_schedule, show_at

TIME_BASES = [
    Fraction(1, 90000),
    Fraction(1, 1000),
    Fraction(1001, 24000),
    Fraction(1, 3),
    Fraction(2),
]


@given(
    gaps=st.lists(st.integers(0, 2500), max_size=30),
    first=st.integers(-5000, 5000),
    duration=st.integers(1, 4000),
    time_base=st.sampled_from([Fraction(1, 1000), Fraction(7, 3000), Fraction(1001, 240000)]),
)
def test_clock_schedule_is_the_definition(gaps, first, duration, time_base):
    pts = [first]
    for gap in gaps:
        pts.append(pts[-1] + gap)
    times = [time * time_base for time in pts]
    expected = expected_numbers(times, last_seconds=duration * time_base)
    assert clock_schedule(pts, end=pts[-1] + duration, time_base=time_base) == expected


@pytest.mark.parametrize("time_base", TIME_BASES)
def test_clock_schedule_has_one_frame_of_one_picture_without_duration(time_base):
    assert clock_schedule([17], end=17, time_base=time_base) == [0]


def test_clock_schedule_does_not_drift_in_two_hours_of_ntsc_film():
    pts = [1001 * i for i in range(24 * 7300)]
    schedule = clock_schedule(pts, end=pts[-1] + 1001, time_base=Fraction(1, 24000))
    assert [schedule[k] for k in (0, 1, 1001, 3600, 7200)] == [0, 23, 24000, 86313, 172627]


def test_clock_schedule_shows_a_picture_at_its_very_time():
    pts = [0, 90000, 180000]
    assert clock_schedule(pts, end=270000, time_base=Fraction(1, 90000)) == [0, 1, 2]
    assert clock_schedule([0, 90001, 180000], end=180001, time_base=Fraction(1, 90000)) == [0, 0, 2]


def test_clock_schedule_takes_the_last_of_equal_times():
    assert clock_schedule([0, 0, 10, 10], end=20, time_base=Fraction(1, 10)) == [1, 3]


@pytest.mark.parametrize(
    ("rate", "stride"),
    [(Fraction(24000, 1001), 24), (Fraction(25), 25), (Fraction(51, 100), 1), (Fraction(5, 2), 2)],
)
def test_longva_schedule_strides_by_the_rounded_rate(rate, stride):
    assert longva_schedule(100, average_rate=rate) == range(0, 100, stride)


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (Fraction(1, 2), "0.5 fps rounds to 0"),
        (None, "does not say"),
        (Fraction(0), "does not say"),
    ],
)
def test_longva_schedule_refuses_a_stride_of_nothing(rate, message):
    with pytest.raises(InputError, match=message):
        longva_schedule(100, average_rate=rate)


@given(
    pts=st.lists(st.integers(0, 40), min_size=1, max_size=20).map(sorted),
    times=st.lists(st.integers(-5, 50), max_size=20).map(sorted),
)
def test_show_at_shows_the_last_picture_that_is_not_later(pts, times):
    shown = list(show_at(((time, number) for number, time in enumerate(pts)), times))
    on_screen = [[n for n, t in enumerate(pts) if t <= time] for time in times]
    expected = [numbers[-1] if numbers else 0 for numbers in on_screen]
    assert [position for position, _, _ in shown] == list(range(len(times)))
    assert [number for _, _, number in shown] == expected
    assert [time for _, time, _ in shown] == [pts[number] for number in expected]


def test_show_at_reads_one_picture_ahead_and_stops():
    read = []
    pictures = ((time, read.append(time)) for time in range(100))
    stream = show_at(pictures, [3, 10])
    next(stream)
    assert read == list(range(5))
    assert len(list(stream)) == 1
    assert read == list(range(12))


def test_show_at_passes_over_a_picture_that_comes_too_late():
    assert [n for _, _, n in show_at([(0, "a"), (5, "b"), (3, "c")], [0, 3, 6])] == ["a", "a", "b"]


def test_show_at_gives_nothing_without_pictures():
    assert list(show_at([], [0, 1])) == []
