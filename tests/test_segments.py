"""Spans of frames stand for their frames one by one, however they are put together or cut."""

import copy
import importlib
import pickle
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vniah.errors import InputError
from vniah.protocol import (
    Frames,
    FrameSegment,
    FrameSpan,
    TextSegment,
    TokenSequence,
    class_path,
    joined,
)

TEXTS = st.sampled_from([(), (1,), (1, 2)])
SPANS = st.builds(
    lambda source, start, num, before, after: FrameSpan(source, start, start + num, before, after),
    st.sampled_from("hn"),
    st.integers(0, 4),
    st.integers(1, 6),
    TEXTS,
    TEXTS,
)
FRAMES = st.builds(FrameSegment, st.sampled_from("hn"), st.integers(0, 4))
SEGMENTS = st.lists(st.one_of(SPANS, FRAMES, st.builds(TextSegment, TEXTS)), min_size=1).map(tuple)


def one_by_one(segments) -> list[TextSegment | FrameSegment]:
    """Written out by hand."""
    found: list[TextSegment | FrameSegment] = []
    for segment in segments:
        if not isinstance(segment, FrameSpan):
            found.append(segment)
            continue
        for index in range(segment.start, segment.stop):
            found += [TextSegment(segment.before)] if segment.before else []
            found.append(FrameSegment(segment.source, index))
            found += [TextSegment(segment.after)] if segment.after else []
    return found


@given(SEGMENTS)
def test_sequence_is_read_frame_by_frame(segments):
    sequence = TokenSequence(segments, (7, 8))
    expected = one_by_one(segments)
    assert sequence.segments == tuple(expected)
    assert sequence.inputs == (*expected, TextSegment((7,)))
    frames = [segment for segment in expected if isinstance(segment, FrameSegment)]
    assert sequence.frames == frames and tuple(sequence.frames) == tuple(frames)
    assert one_by_one(sequence.input_pieces) == list(sequence.inputs)
    sizes = [3 if isinstance(s, FrameSegment) else len(s.token_ids) for s in sequence.inputs]
    assert sequence.num_tokens(3) == sum(sizes)


@given(SEGMENTS)
def test_sequences_are_equal_however_they_were_put_together(segments):
    one, other = TokenSequence(segments, (7,)), TokenSequence(tuple(one_by_one(segments)), (7,))
    assert one == other and hash(one) == hash(other)
    assert one != TokenSequence(segments, (8,))
    assert one != TokenSequence((*segments, TextSegment((9,))), (7,))
    for again in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert again == one and again.pieces == one.pieces
    assert replace(one) == one and replace(one, answer_ids=(1, 2)) == one.with_answer((1, 2)) != one


@given(SPANS, st.data())
def test_cut_span_has_the_same_parts(span, data):
    parts = one_by_one([span])
    assert span.num_parts() == len(parts)
    assert [one_by_one([span.part(index)]) for index in range(len(parts))] == [[p] for p in parts]
    start = data.draw(st.integers(0, len(parts)))
    stop = data.draw(st.integers(start, len(parts)))
    assert one_by_one(span.cut(start, stop)) == parts[start:stop]


@settings(max_examples=300)
@given(SPANS, SPANS, st.data())
def test_spans_run_along_only_where_all_parts_are_equal(one, other, data):
    index = data.draw(st.integers(0, one.num_parts() - 1))
    other_index = data.draw(st.integers(0, other.num_parts() - 1))
    mine, others = one_by_one([one])[index:], one_by_one([other])[other_index:]
    if one.runs_along(index, other, other_index):
        assert all(a == b for a, b in zip(mine, others, strict=False))
    assert one.runs_along(index, one, index)


@given(st.lists(FRAMES, max_size=12), st.integers(-14, 14), st.integers(-14, 14))
def test_frames_are_a_sequence_like_any_other(segments, start, stop):
    frames = Frames.of(segments)
    assert len(frames) == len(segments) and list(frames) == segments == frames
    assert frames[start:stop] == segments[start:stop] and frames[::-2] == segments[::-2]
    assert isinstance(frames[start:stop], Frames) and bool(frames) == bool(segments)
    assert [frames[index] for index in range(-len(segments), len(segments))] == segments * 2
    with pytest.raises(IndexError, match=f"no frame {len(segments)} among {len(segments)}"):
        frames[len(segments)]


def test_frames_of_one_source_are_one_span():
    haystack = Frames.of([FrameSpan("haystack", 0, 5)])
    needle = FrameSegment("needle", 0)
    shown = Frames.of([*haystack[:2].spans, needle, *haystack[2:].spans])
    expected = (FrameSpan("haystack", 0, 2), FrameSpan("needle", 0, 1), FrameSpan("haystack", 2, 5))
    assert shown.spans == expected == Frames.of([*haystack[:2], needle, *haystack[2:]]).spans
    assert shown[2] == needle and haystack[2:2] == () and not haystack[2:2]
    opening, asked = TextSegment((1,)), TextSegment((2,))
    one = TokenSequence((opening, *shown, asked), (3,))
    assert one.pieces == (opening, *expected, asked)
    assert tuple(joined([*haystack[:2], *haystack[2:].spans])) == haystack.spans


def test_span_without_frames_is_refused():
    with pytest.raises(InputError, match="a span needs at least one frame, got start 3 and stop 3"):
        FrameSpan("haystack", 3, 3)


@pytest.mark.parametrize(
    ("module", "name", "recorded"),
    [
        ("vniah.models.llava.model", "LlavaModel", "vniah.models.llava.LlavaModel"),
        ("vniah.models.server.client", "ServerModel", "vniah.models.server.ServerModel"),
    ],
)
def test_class_that_has_moved_is_recorded_by_the_name_that_it_had(module, name, recorded):
    """So that caches and unfinished runs of version 0.1 are taken up."""
    kind = getattr(importlib.import_module(module), name)
    assert class_path(kind.__new__(kind)) == recorded
