"""The prefix tree against brute force."""

from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vniah.forward.prefix_tree import (
    Branch,
    Cost,
    Path,
    build_tree,
    by_themselves,
    cost_of,
)
from vniah.forward.segment_parts import leading
from vniah.protocol import FrameSpan, TextSegment, TokenSequence

LETTERS = "abcd"


def size(segment) -> int:
    """Segments are (name, tokens)."""
    return segment[1]


def segments(text: str, tokens: int = 300) -> tuple[tuple[str, int], ...]:
    return tuple((letter, tokens) for letter in text)


def read(branches) -> dict[int, tuple]:
    """Every sequence as the passes read it, and what lies before each place, checked on the way."""
    found: dict[int, tuple] = {}

    def go(branch: Branch, before: tuple) -> None:
        assert sum(map(size, before)) == branch.start
        whole = (*before, *branch.segments)
        assert sum(map(size, whole)) == branch.stop
        for suffix in branch.suffixes:
            assert branch.start <= suffix.start <= branch.stop
            assert suffix.num_tokens == sum(map(size, suffix.segments)) >= 1
            for index in suffix.sequences:
                assert index not in found
                found[index] = (*cut(whole, suffix.start), *suffix.segments)
        for child in branch.branches:
            assert branch.start < child.start <= branch.stop
            go(child, cut(whole, child.start))
        assert list(branch.suffixes) == sorted(branch.suffixes, key=lambda suffix: suffix.start)

    for branch in branches:
        assert branch.start == 0
        go(branch, ())
    return found


def cut(whole: tuple, num_tokens: int) -> tuple:
    """The leading segments with so many tokens."""
    taken, total = [], 0
    for segment in whole:
        if total == num_tokens:
            break
        taken.append(segment)
        total += size(segment)
    assert total == num_tokens, "a branch or suffix starts inside a segment"
    return tuple(taken)


paths_of = st.lists(
    st.builds(
        Path,
        st.lists(
            st.tuples(st.sampled_from(LETTERS), st.sampled_from([0, 1, 7, 400])), max_size=7
        ).map(tuple),
        st.lists(st.tuples(st.sampled_from("?!"), st.integers(1, 9)), min_size=1, max_size=2).map(
            tuple
        ),
    ),
    min_size=1,
    max_size=12,
)


def body(path: Path) -> tuple:
    return tuple(s for s in path.body if size(s))


@settings(max_examples=150, deadline=None)
@given(paths_of)
def test_every_sequence_is_read_whole_and_once(paths):
    expected = {index: (*body(path), *path.tail) for index, path in enumerate(paths)}
    assert read(build_tree(paths, size)) == expected


@settings(max_examples=150, deadline=None)
@given(paths_of)
def test_counts_equal_brute_force(paths):
    """Every different prefix is one set of rows; with no suffix allowed, nothing is done twice."""
    cost = cost_of(build_tree(paths, size, max_suffix_tokens=0))
    prefixes = {body(path)[: n + 1] for path in paths for n in range(len(body(path)))}
    rows = [(sum(map(size, p[:-1])), size(p[-1])) for p in prefixes]
    rows += [(sum(map(size, b)), sum(map(size, t))) for b, t in {(body(p), p.tail) for p in paths}]
    each = [start + i + 1 for start, n in rows for i in range(n)]
    assert cost == Cost(len(each), sum(each))


@settings(max_examples=200, deadline=None)
@given(paths_of)
def test_sharing_never_costs_more_than_the_suffixes_repeat(paths):
    alone = cost_of(by_themselves(paths, size))
    tree = cost_of(build_tree(paths, size))
    assert tree.num_tokens <= alone.num_tokens
    assert tree.num_pairs <= alone.num_pairs
    each = [i + 1 for p in paths for i in range(sum(map(size, chain(p.body, p.tail))))]
    assert alone == Cost(len(each), sum(each))


def test_one_sequence_is_one_branch():
    (branch,) = build_tree([Path(segments("abc"), segments("?", 5))], size)
    assert (branch.start, branch.stop, branch.branches) == (0, 900, ())
    assert [(suffix.start, suffix.num_tokens) for suffix in branch.suffixes] == [(900, 5)]


def test_one_segment_without_a_body_is_a_suffix_of_nothing():
    (branch,) = build_tree([Path((), segments("?", 5))], size)
    assert (branch.num_tokens, branch.suffixes[0].stop) == (0, 5)


def test_equal_sequences_are_computed_once():
    path = Path(segments("ab"), segments("?", 5))
    (branch,) = build_tree([path, path, path], size)
    assert [suffix.sequences for suffix in branch.suffixes] == [(0, 1, 2)]
    assert cost_of([branch]).num_tokens == 605


def test_prefix_of_another_is_a_suffix_on_its_way():
    question = segments("?", 5)
    (branch,) = build_tree(
        [Path(segments("abc", 600), question), Path(segments("ab", 600), question)], size
    )
    assert [(suffix.start, suffix.sequences) for suffix in branch.suffixes] == [
        (1200, (1,)),
        (1800, (0,)),
    ]
    assert branch.branches == ()


def test_needle_in_a_haystack_is_a_trunk_with_branches_and_suffixes():
    """Two needles at two places in three lengths."""
    question = segments("?", 40)
    paths = [
        Path((("open", 10), *segments("h" * 0), *hay(p), (needle, 144), *hay(n, p)), question)
        for n in (4, 8, 12)
        for p in (2, 6)
        if p <= n
        for needle in "xy"
    ]
    (trunk,) = build_tree(paths, size)
    passes = list(trunk.passes())
    assert trunk.keep_until == 10 + 6 * 144
    assert len(passes) == 4, "one pass a needle and place; the last goes on in the trunk's own"
    assert sorted(suffix.start for branch in passes for suffix in branch.suffixes) == sorted(
        10 + (n + 1) * 144 for n in (4, 8, 12) for p in (2, 6) if p <= n for _ in "xy"
    )
    tokens = 10 + 6 * 144 + 2 * (12 - 2 + 1) * 144 + 2 * (12 - 6 + 1) * 144 + len(paths) * 40
    assert cost_of([trunk]).num_tokens == tokens


def hay(stop: int, start: int = 0) -> tuple:
    return tuple((f"frame {index}", 144) for index in range(start, stop))


def test_sequences_with_nothing_in_common_are_branches_of_their_own():
    question = segments("?", 5)
    roots = build_tree([Path(segments("abc"), question), Path(segments("bcd"), question)], size)
    assert [root.sequences for root in roots] == [(0,), (1,)]


def test_variants_of_an_answer_ride_along():
    """Many short endings at one place are suffixes, not passes."""
    paths = [Path((*hay(10), ("question", 20)), ((answer, 2),)) for answer in LETTERS]
    (branch,) = build_tree(paths, size)
    assert branch.branches == ()
    assert len(branch.suffixes) == 4


def test_deep_trunk_needs_no_deep_recursion():
    whole = hay(1500)
    paths = [Path((*whole[:n], (f"needle {n}", 600)), segments("?", 5)) for n in range(1, 1501)]
    (trunk,) = build_tree(paths, size)
    assert len(trunk.sequences) == 1500
    assert max(len(branch.branches) for branch in trunk.branches) == 0


def test_paper_grid_shares_as_computed_by_hand():
    """15 lengths x 6 depths x 5 needles of the paper (Zhang et al. 2024): 3.30x fewer rows."""
    lengths, places = range(200, 3001, 200), range(6)
    paths = [
        Path(
            (("open", 14), *hay(n * d // 5), (f"needle {k}", 144), *hay(n, n * d // 5)),
            ((f"question {k}", 34),),
        )
        for n in lengths
        for d in places
        for k in range(5)
    ]
    shared = cost_of(build_tree(paths, size))
    alone = cost_of(by_themselves(paths, size))
    assert alone.num_tokens / shared.num_tokens == pytest.approx(3.30, abs=0.01)
    assert alone.num_pairs / shared.num_pairs == pytest.approx(2.20, abs=0.01)


# --- segments that can be divided ----------------------------------------------------------------

TEXTS = st.sampled_from([(), (1,), (1, 2), (3,) * 130])
SPANS = st.builds(
    lambda source, start, num, before, after: FrameSpan(source, start, start + num, before, after),
    st.sampled_from("hn"),
    st.integers(0, 4),
    st.integers(1, 6),
    TEXTS,
    TEXTS,
)
BODIES = st.lists(st.one_of(SPANS, st.builds(TextSegment, TEXTS)), max_size=5).map(tuple)
TAILS = st.lists(
    st.sampled_from([(7,), (8, 8), (9,) * 20]).map(TextSegment), min_size=1, max_size=2
).map(tuple)


def one_by_one(segments) -> tuple:
    """The same, each frame a segment that cannot be divided."""
    return TokenSequence((*segments, TextSegment((0,))), (0,)).segments[:-1]


@st.composite
def span_paths(draw) -> list[Path]:
    """Bodies of which many begin as others do, cut at other places."""
    paths: list[Path] = []
    for _ in range(draw(st.integers(1, 12))):
        body = draw(BODIES)
        if paths and draw(st.booleans()):
            whole = one_by_one(draw(st.sampled_from(paths)).body)
            begin = whole[: draw(st.integers(0, len(whole)))]
            body = (*TokenSequence((*begin, TextSegment((0,))), (0,)).pieces[:-1], *body)
        paths.append(Path(body, draw(TAILS)))
    return paths


def tokens(segment) -> int:
    return segment.num_tokens(3)


def written_out(branch: Branch) -> tuple:
    """Everything that a branch says, with segments one by one."""
    suffixes = [
        (x.start, one_by_one(x.segments), x.num_tokens, x.sequences) for x in branch.suffixes
    ]
    behind = [written_out(child) for child in branch.branches]
    return branch.start, one_by_one(branch.segments), branch.num_tokens, suffixes, behind


@settings(max_examples=200, deadline=None)
@given(span_paths(), st.sampled_from([0, 10, 512]))
def test_tree_of_spans_is_the_tree_of_their_frames(paths, max_suffix_tokens):
    single = [Path(one_by_one(path.body), path.tail) for path in paths]
    found = build_tree(paths, tokens, max_suffix_tokens=max_suffix_tokens)
    expected = build_tree(single, tokens, max_suffix_tokens=max_suffix_tokens)
    assert [*map(written_out, found)] == [*map(written_out, expected)]
    alone = by_themselves(paths, tokens)
    assert [*map(written_out, alone)] == [*map(written_out, by_themselves(single, tokens))]


@settings(max_examples=100, deadline=None)
@given(st.lists(SPANS, min_size=1, max_size=4))
def test_leading_segments_end_at_any_part(spans):
    whole, found = one_by_one(spans), 0
    for number, segment in enumerate(whole):
        assert one_by_one(leading(spans, found, tokens)) == whole[:number]
        found += tokens(segment)
    assert leading(spans, found, tokens) == tuple(spans)


def test_each_pass_has_few_segments_whatever_the_length():
    """Lengths x places x needles: 24 million frames in 1,200 sequences."""
    question = (TextSegment((5,) * 40),)
    paths = [
        Path(
            (
                TextSegment((1,) * 10),
                *([FrameSpan("h", 0, place)] if place else []),
                FrameSpan(f"needle {needle}", 0, 1),
                *([FrameSpan("h", place, length)] if place < length else []),
            ),
            question,
        )
        for length in range(1000, 40_001, 1000)
        for place in range(0, length + 1, length // 10)
        for needle in range(3)
    ]
    passes = [branch for root in build_tree(paths, tokens) for branch in root.passes()]
    assert max(len(branch.segments) for branch in passes) <= 6
    assert sum(len(branch.segments) for branch in passes) <= 3 * len(passes)
