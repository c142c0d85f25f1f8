"""Tokens of prompts: which servers read every frame."""

import math

import pytest

from vniah.engines.prompt_tokens import Growth, TokenCount, before_end, short_lengths
from vniah.errors import InputError

GRIDS = [
    (4, 8),
    (8, 16, 32),
    (8, 32, 33),
    (13, 35),
    (32, 64, 128, 256, 512, 1024),
    (20, 35, 50),
    (40,),
    (100,),
    (200, 1000, 3000),
    (768,),
]


def grow(server, lengths):
    """What a server with ``server(number of pictures) -> tokens`` shows for a grid."""

    def read(num_frames):
        return TokenCount(num_frames, server(num_frames + 1))

    first, second = short_lengths(lengths)
    longest = max(lengths)
    end = (read(before_end(longest, short=second)), read(longest)) if longest > second else ()
    return Growth((read(first), read(second)), end, slack_tokens=50)


HONEST = {
    "each by itself": lambda count: 40 + 144 * count,
    "few tokens": lambda count: 40 + 4 * count,
    "pairs": lambda count: 40 + 128 * math.ceil(count / 2),
    "with times": lambda count: 40 + sum(64 + len(str(k)) for k in range(count)),
}
# With the most pictures that each reads whole.
DROPPING = {
    "the first 32": (32, lambda count: 40 + 144 * min(count, 32)),
    "the first 8": (8, lambda count: 40 + 144 * min(count, 8)),
    "the first 32 as pairs": (32, lambda count: 40 + 288 * math.ceil(min(count, 32) / 2)),
    "shrunk to a budget": (33, lambda count: 40 + min(144, 144 * 33 // count) * count),
    "nothing": (0, lambda count: 40),
}


@pytest.mark.parametrize("server", HONEST)
def test_server_that_reads_all_is_not_complained_of(server):
    for lengths in GRIDS:
        growth = grow(HONEST[server], lengths)
        assert growth.complaint() is None, lengths
        for num_frames in {*lengths, 5, 9, max(lengths) - 1}:
            reading = TokenCount(num_frames, HONEST[server](num_frames + 1))
            assert growth.complaint_about(reading) is None, (lengths, num_frames)


@pytest.mark.parametrize("server", DROPPING)
def test_server_that_drops_frames_is_found_if_the_grid_has_so_many(server):
    most, tokens = DROPPING[server]
    for lengths in GRIDS:
        drops = max(lengths) + 1 > most
        assert (grow(tokens, lengths).complaint() is not None) == drops, lengths


def test_one_dropped_frame_is_found_where_the_grid_ends():
    """A cell of 32 shows 33, and the last of them is the needle at depth 1."""
    growth = grow(lambda count: 40 + 144 * min(count, 32), (8, 16, 32))
    assert "drops frames" in growth.complaint()
    assert "4,648 for 32 frames" in growth.complaint()


def test_frames_that_are_lost_on_the_way_are_found_though_the_last_ones_count():
    growth = grow(lambda count: 40 + 144 * (count - 20 * (count > 40)), (8, 100, 400))
    assert "54,904 for 400 frames" in growth.complaint()


def test_groups_of_four_are_no_drops_on_grids_of_multiples():
    growth = grow(lambda count: 40 + 256 * math.ceil(count / 4), (16, 32, 64, 128))
    assert growth.complaint() is None and growth.tokens_per_frame == 64


def test_complaint_says_what_was_counted():
    growth = grow(lambda count: 500, (8, 64))
    assert growth.complaint() == (
        "prompt_tokens is 500 for 4 frames and 500 for 8: the server does not read frames, or does "
        "not count them"
    )


@pytest.mark.parametrize(("num_frames", "kept"), [(64, 32), (1024, 900), (16, 8)])
def test_prompt_of_the_sweep_with_too_few_tokens_is_complained_of(num_frames, kept):
    growth = grow(HONEST["each by itself"], (8, 1024))
    reading = TokenCount(num_frames, 40 + 144 * kept)
    assert f"for {num_frames:,} frames, about" in growth.complaint_about(reading)


def test_question_with_fewer_tokens_is_not_complained_of():
    growth = grow(HONEST["each by itself"], (8, 1024))
    assert growth.complaint_about(TokenCount(512, 1 + 144 * 513)) is None


def test_short_lengths_lie_within_the_grid():
    for lengths in [*((n,) for n in range(1, 40)), *GRIDS]:
        first, second = short_lengths(lengths)
        assert 0 <= first < second <= max(lengths), lengths
        if max(lengths) >= 16:
            assert first % 4 == second % 4 == 0 or second < 8, lengths


def test_no_length_is_refused():
    with pytest.raises(InputError, match="at least one number of frames is needed"):
        short_lengths(())
