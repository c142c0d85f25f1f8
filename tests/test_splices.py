"""Rows that are spliced into a trunk, against the decoder's own forward with a mask."""

from dataclasses import dataclass, replace
from itertools import product

import pytest
import torch
from test_prefill import build_decoder, embeddings, store_for

from vniah.errors import ModelError
from vniah.forward.key_blocks import plan_calls
from vniah.forward.kv_cache import Span
from vniah.forward.prefill import prefill
from vniah.forward.splices import Seen, SplicedBranch, SplicedRows, SplicedSuffix
from vniah.forward.suffixes import SuffixRows

NUM_TRUNK = 61
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "rope_theta": 1e4,
    "original_max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
DECODERS = {
    "llama": ("llama", {}),
    "llama3": ("llama", {"rope_parameters": LLAMA3}),
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {}),
    "yarn": ("qwen2", {"rope_parameters": YARN}),
    "qwen3": ("qwen3", {}),
    "qwen2_vl": ("qwen2_vl", {}),
}


@dataclass(frozen=True)
class Splice:
    """Something that stands before a token of the trunk, in place of some of its tokens."""

    at: int
    num_new: int
    num_replaced: int = 0


@dataclass(frozen=True)
class Case:
    """A branch, as it is asked about: what is spliced in, and where questions stand."""

    splices: tuple[Splice, ...]
    ends: tuple[int, ...]
    window: int


def place(positions, at, has_three):
    """Position ids of a real sequence, of tokens that stand at ``at``."""
    return torch.stack([at, at // 2 + 1, 2 * at]) if has_three else positions[at]


def branch_of(case, trunk, has_three, seed):
    """The rows of a case; questions have 2 to 4 rows, of which the last one or two are read."""
    draw = torch.Generator().manual_seed(seed)

    def rows(num):
        return torch.randn(num, trunk.shape[1], generator=draw)

    def positions(first, num):
        at = torch.arange(first, first + num)
        return torch.stack([at, 2 * at, 3 * at]) if has_three else at

    def shift_of(added):
        return (added, 2 * added, 3 * added) if has_three else (added,)

    longest = max(case.ends)
    pieces, owned, added = [], [], 0  # owned: for each piece its rows up to each end
    gaps = []  # what lies between the pieces: first token, last token, and how far it was pushed
    free = 0
    for number, splice in enumerate(case.splices):
        gaps.append((free, splice.at, added))
        behind = splice.at + splice.num_replaced
        free = min(behind + case.window, longest)
        free = min([free, *(following.at for following in case.splices[number + 1 :])])
        seen = tuple(Seen(Span(a, b), shift_of(s)) for a, b, s in gaps if a < b)
        own = torch.cat([rows(splice.num_new), trunk[behind:free]])
        pieces.append(SplicedRows(own, positions(splice.at + added, len(own)), seen))
        owned.append((splice.at, behind, splice.num_new, free))
        added += splice.num_new - splice.num_replaced
    suffixes = []
    for number, end in enumerate(case.ends):
        assert all(end >= behind for _, behind, _, _ in owned)
        num_own = sum(new + min(last, end) - behind for _, behind, new, last in owned)
        seen = [Seen(Span(a, b), shift_of(s)) for a, b, s in gaps if a < b]
        if free < end:
            seen.append(Seen(Span(free, end), shift_of(added)))
        size = 2 + number % 3
        block = SplicedRows(rows(size), positions(end + added, size), tuple(seen))
        suffixes.append(SplicedSuffix(block, num_own, 1 + number % 2))
    return SplicedBranch(tuple(pieces), tuple(suffixes))


def masked(decoder, trunk, positions, branch, suffix):
    """One suffix's logits by a mask alone: the trunk stands there once for each shift.

    Every copy of it sees itself only, at the positions to which it is pushed.
    """
    shifts = sorted({seen.shift for block in branch.blocks for seen in block.seen})
    hidden, ids, first = [], [], {}
    for shift in shifts:
        first[shift] = sum(map(len, hidden))
        by = torch.tensor(shift if positions.ndim == 2 else shift[0])
        hidden.append(trunk)
        ids.append(positions + (by[:, None] if positions.ndim == 2 else by))
    num_copies = sum(map(len, hidden))
    own = num_copies
    blocks = [*branch.pieces, suffix.rows]
    hidden += [block.hidden for block in blocks]
    ids += [block.position_ids for block in blocks]
    num_tokens = sum(map(len, hidden))
    mask = torch.zeros(num_tokens, num_tokens, dtype=torch.bool)
    for shift in shifts:
        part = slice(first[shift], first[shift] + len(trunk))
        mask[part, part] = torch.ones(len(trunk), len(trunk)).tril().bool()
    row = own
    for block in blocks:
        size = len(block.hidden)
        last = suffix.num_own if block is suffix.rows else row - own
        mask[row : row + size, own : own + last] = True
        mask[row : row + size, row : row + size] = torch.ones(size, size).tril().bool()
        for seen in block.seen:
            keys = slice(first[seen.shift] + seen.span.start, first[seen.shift] + seen.span.stop)
            mask[row : row + size, keys] = True
        row += size
    bias = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    all_ids = torch.cat(ids, -1)
    with torch.inference_mode():
        return decoder(
            inputs_embeds=torch.cat(hidden)[None],
            position_ids=all_ids[None] if all_ids.ndim == 1 else all_ids[:, None],
            attention_mask=bias[None, None],
            use_cache=False,
        ).logits[0, -suffix.num_rows :]


def plain(decoder, trunk, case, branch, suffix, end):
    """One suffix's logits by the decoder's own forward over the real sequence."""
    rows, ids, free = [], [], 0
    trunk_ids = torch.arange(len(trunk))
    has_three = suffix.rows.position_ids.ndim == 2
    added = 0
    for splice, piece in zip(case.splices, branch.pieces, strict=True):
        rows += [trunk[free : splice.at], piece.hidden[: splice.num_new]]
        ids += [
            trunk_ids[free : splice.at] + added,
            torch.arange(splice.num_new) + splice.at + added,
        ]
        free = splice.at + splice.num_replaced
        added += splice.num_new - splice.num_replaced
    rows += [trunk[free:end], suffix.rows.hidden]
    ids += [trunk_ids[free:end] + added, torch.arange(len(suffix.rows.hidden)) + end + added]
    at = torch.cat(ids)
    at = torch.stack([at, 2 * at, 3 * at])[:, None] if has_three else at[None]
    with torch.inference_mode():
        return decoder(
            inputs_embeds=torch.cat(rows)[None], position_ids=at, use_cache=False
        ).logits[0, -suffix.num_rows :]


def cases(window):
    """One needle at many places; distractors before and behind; tokens that change at the seam."""
    found = [
        Case((Splice(at, size),), tuple(sorted({at, (at + NUM_TRUNK) // 2, NUM_TRUNK})), window)
        for at, size in product((0, 1, 17, 60, 61), (1, 5))
    ]
    found.append(Case((Splice(3, 4), Splice(20, 2), Splice(40, 7)), (40, 41, 61, 55), window))
    found.append(Case((Splice(3, 4, 2), Splice(20, 2, 2), Splice(22, 3, 1)), (61, 23), window))
    found.append(Case((Splice(30, 3, 5),), (35, 61), window))
    found.append(Case((Splice(10, 2), Splice(10, 3)), (10, 50), window))
    return found


def build(kind):
    family, changes = DECODERS[kind]
    decoder = build_decoder(family, **changes)
    has_three = family == "qwen2_vl"
    at = torch.arange(NUM_TRUNK)
    return decoder, torch.stack([at, 2 * at, 3 * at]) if has_three else at, has_three


def run(decoder, trunk, positions, branches, **words):
    found = iter(prefill(decoder, trunk.clone(), positions, [], spliced=branches, **words))
    return [[next(found) for _ in branch.suffixes] for branch in branches]


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize(("window", "chunk_size"), [(0, 2048), (1, 7), (9, 60)])
def test_spliced_rows_see_what_the_mask_says(kind, window, chunk_size):
    decoder, positions, has_three = build(kind)
    trunk = embeddings(NUM_TRUNK)
    branches = [branch_of(case, trunk, has_three, seed) for seed, case in enumerate(cases(window))]
    found = run(decoder, trunk, positions, branches, chunk_size=chunk_size)
    for branch, logits in zip(branches, found, strict=True):
        for suffix, row in zip(branch.suffixes, logits, strict=True):
            expected = masked(decoder, trunk, positions, branch, suffix)
            assert row.shape == (suffix.num_rows, 97) and row.dtype == torch.float32
            assert (row - expected).abs().max() < 1e-4


@pytest.mark.parametrize("kind", DECODERS)
def test_a_window_that_reaches_the_question_is_exact(kind):
    decoder, positions, has_three = build(kind)
    trunk = embeddings(NUM_TRUNK)
    asked = cases(NUM_TRUNK)
    branches = [branch_of(case, trunk, has_three, seed) for seed, case in enumerate(asked)]
    found = run(decoder, trunk, positions, branches, chunk_size=50)
    for case, branch, logits in zip(asked, branches, found, strict=True):
        for end, suffix, row in zip(case.ends, branch.suffixes, logits, strict=True):
            assert (row - plain(decoder, trunk, case, branch, suffix, end)).abs().max() < 1e-4


def test_behind_nothing_is_exact_without_a_window_and_an_approximation_elsewhere():
    decoder, positions, _ = build("qwen3")
    trunk = embeddings(NUM_TRUNK)
    case = Case((Splice(20, 5),), (20, 50), 0)
    branch = branch_of(case, trunk, False, 0)
    ((exact, other),) = run(decoder, trunk, positions, [branch])
    at_once, behind = branch.suffixes
    assert (exact - plain(decoder, trunk, case, branch, at_once, 20)).abs().max() < 1e-4
    assert (other - plain(decoder, trunk, case, branch, behind, 50)).abs().max() > 0.01


def test_branches_read_a_stored_trunk_and_follow_the_suffixes_of_a_pass():
    decoder, positions, _ = build("llama")
    trunk = embeddings(NUM_TRUNK)
    branches = [branch_of(case, trunk, False, seed) for seed, case in enumerate(cases(4))]
    expected = run(decoder, trunk, positions, branches)
    suffix = SuffixRows((Span(0, 50),), embeddings(3), torch.arange(50, 53), 2)
    store = store_for(decoder, NUM_TRUNK)
    first, *rest = prefill(
        decoder, trunk.clone(), positions, [suffix], spliced=branches, cache=store
    )
    (alone,) = prefill(decoder, trunk.clone(), positions, [suffix])
    assert torch.allclose(first, alone, atol=1e-5)
    flat = [row for rows in expected for row in rows]
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(rest, flat, strict=True))
    none = torch.arange(NUM_TRUNK, NUM_TRUNK)
    again = prefill(decoder, trunk[:0].clone(), none, [], spliced=branches, past=[store])
    assert all(
        torch.allclose(one, other, atol=1e-5) for one, other in zip(again, flat, strict=True)
    )


def test_deepstack_is_added_to_spliced_rows():
    decoder, positions, _ = build("qwen2")
    trunk = embeddings(NUM_TRUNK)
    branch = branch_of(Case((Splice(20, 5),), (20, 50), 2), trunk, False, 0)
    (piece,) = branch.pieces
    added = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(9))
    changed = replace(branch, pieces=(replace(piece, deepstack=added),))
    hooks = []

    def add(layer, module, arguments, output):
        """To the rows of the needle, of the only call with as many rows as branch and suffixes."""
        rows = output[0] if isinstance(output, tuple) else output
        if rows.shape[1] == branch.num_tokens:
            rows[:, :5] += added[layer]

    for layer in range(2):
        hooks.append(
            decoder.model.layers[layer].register_forward_hook(
                lambda *words, layer=layer: add(layer, *words)
            )
        )
    ((expected, _),) = run(decoder, trunk, positions, [branch])
    for hook in hooks:
        hook.remove()
    ((found, _),) = run(decoder, trunk, positions, [changed])
    ((without, _),) = run(decoder, trunk, positions, [branch])
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, without, atol=1e-2)


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_rope_that_depends_on_the_length_is_refused(rope_type):
    rope = {"rope_type": rope_type, "rope_theta": 1e4, "factor": 4.0}
    if rope_type == "longrope":
        rope |= {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
        rope |= {"original_max_position_embeddings": 64}
    decoder = build_decoder("llama", rope_parameters=rope)
    trunk = embeddings(NUM_TRUNK)
    branch = branch_of(Case((Splice(20, 5),), (50,), 0), trunk, False, 0)
    with pytest.raises(ModelError, match=f"{rope_type}.* depends on the length"):
        run(decoder, trunk, torch.arange(NUM_TRUNK), [branch])


def test_rope_of_another_form_is_refused():
    decoder, positions, _ = build("qwen2_vl")
    decoder.model.config.model_type = "glm4v_text"
    trunk = embeddings(NUM_TRUNK)
    branch = branch_of(Case((Splice(20, 5),), (50,), 0), trunk, True, 0)
    with pytest.raises(ModelError, match="not for glm4v_text; share the tree"):
        run(decoder, trunk, positions, [branch])


@pytest.mark.parametrize("num_intervals", [0, 1, 2, 40, 300])
def test_calls_give_each_interval_its_keys_once(num_intervals):
    draw = torch.Generator().manual_seed(num_intervals)
    low, high = torch.randint(0, 300, (2, num_intervals), generator=draw)
    count = torch.zeros(num_intervals, 301, dtype=torch.long)
    num_calls = 0
    for span, numbers in plan_calls(low, high):
        num_calls += 1
        assert len(numbers) and len(numbers.unique()) == len(numbers)
        count[numbers[:, None], torch.arange(*span)] += 1
    columns = torch.arange(301)
    seen = (columns >= low[:, None]) & (columns < high[:, None])
    assert torch.equal(count, seen.long())
    assert num_calls <= 4 * num_intervals
