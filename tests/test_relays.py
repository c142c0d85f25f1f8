"""Where shared haystack states must fail: a decoder that reads a needle only through relays.

The weights are made by hand. In the first layer every relay, each sixteenth frame, copies the value
of the needle that it sees. In the second the question reads relays, and never the needle. So
without a relay among the frames that are computed with the needle in sight nothing is known of it.
"""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from vniah import Grid, run_sweep
from vniah.analysis.statistics.verification import verify
from vniah.analysis.verdict import verdict
from vniah.forward.kv_cache import Span
from vniah.forward.prefill import prefill
from vniah.forward.splices import Seen, SplicedBranch, SplicedRows, SplicedSuffix
from vniah.haystacks.images import RepeatedPictures
from vniah.needles import Needle, NeedleSet
from vniah.protocol import TextSegment, TokenSequence

HIDDEN, NUM_VALUES, DISTANCE = 64, 8, 16
# What a row is, and where in it a value stands: the needle's, a relay's copy, what was read.
START, PLAIN, NEEDLE, RELAY, QUESTION = range(5)
OWN, COPY, READ = 8, 16, 24
LENGTHS = (32, 96, 160)
PLACES = (0, 5, 16, 27, 31)


def set_attention(layer, asks, answers, take, give, *, sharpness, size, rests):
    """Rows of one kind read a value from rows of another kind; without one, from the start."""
    attention = layer.self_attn
    # The last of the numbers that RoPE turns, which it hardly does.
    attention.q_proj.weight.data[15, asks] = sharpness
    attention.k_proj.weight.data[15, answers] = sharpness
    attention.q_proj.weight.data[14, :5] = rests
    attention.k_proj.weight.data[14, START] = rests
    for value in range(NUM_VALUES):
        attention.v_proj.weight.data[value, take + value] = 1.0
        attention.o_proj.weight.data[give + value, value] = size


def build():
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=HIDDEN,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e9},
    )
    decoder = LlamaForCausalLM(config).eval()
    for name, parameter in decoder.named_parameters():
        parameter.data.fill_(1.0 if "norm" in name else 0.0)
    first, second = decoder.model.layers
    set_attention(first, RELAY, NEEDLE, OWN, COPY, sharpness=3.0, size=0.05, rests=1.5)
    set_attention(second, QUESTION, RELAY, COPY, READ, sharpness=1.0, size=10.0, rests=0.0)
    for value in range(NUM_VALUES):
        decoder.lm_head.weight.data[value, READ + value] = 1.0
    return decoder


def row(kind, value=None):
    made = torch.zeros(1, HIDDEN)
    made[0, kind] = 1.0
    if value is not None:
        made[0, OWN + value] = 1.0
    return made


def trunk():
    kinds = [RELAY if frame % DISTANCE == DISTANCE - 1 else PLAIN for frame in range(max(LENGTHS))]
    rows = torch.cat([row(START), *map(row, kinds)])
    noise = torch.randn(len(rows), 32, generator=torch.Generator().manual_seed(0))
    return torch.cat([rows[:, :32], rows[:, 32:] + 0.05 * noise], 1)


def branch(rows, place, value, window):
    """A needle behind so many frames; a question at every length."""
    at, none = 1 + place, (0,)
    free = min(at + window, 1 + max(LENGTHS))
    before = Seen(Span(0, at), none)
    own = torch.cat([row(NEEDLE, value), rows[at:free]])
    piece = SplicedRows(own, torch.arange(at, at + len(own)), (before,))
    suffixes = []
    for length in LENGTHS:
        end = 1 + length
        seen = (before, Seen(Span(free, end), (1,))) if free < end else (before,)
        asked = SplicedRows(row(QUESTION), torch.tensor([end + 1]), seen)
        suffixes.append(SplicedSuffix(asked, 1 + min(free, end) - at, 1))
    return SplicedBranch((piece,), tuple(suffixes))


ASKED = [(place, value) for place in PLACES for value in range(NUM_VALUES)]
ANSWERS = torch.tensor([value for _, value in ASKED for _ in LENGTHS])


def is_right(logits):
    """A decoder that knows nothing of a value gives zeros."""
    return (logits.argmax(-1) == ANSWERS) & (logits.amax(-1) > 1e-3)


def measure(decoder, rows, window):
    branches = [branch(rows, place, value, window) for place, value in ASKED]
    return is_right(
        torch.cat(prefill(decoder, rows.clone(), torch.arange(len(rows)), [], spliced=branches))
    )


@pytest.fixture(scope="module")
def exact():
    decoder, rows = build(), trunk()
    found = []
    with torch.inference_mode():
        for place, value in ASKED:
            for length in LENGTHS:
                parts = [rows[: 1 + place], row(NEEDLE, value), rows[1 + place : 1 + length]]
                whole = torch.cat([*parts, row(QUESTION)])[None]
                found.append(decoder(inputs_embeds=whole, use_cache=False).logits[0, -1])
    return is_right(torch.stack(found))


def test_the_decoder_reads_relays(exact):
    assert exact.float().mean() > 0.9


@pytest.mark.parametrize(
    ("window", "low", "high"), [(0, 0.0, 0.1), (4, 0.1, 0.5), (DISTANCE, 1.0, 1.0), (999, 1.0, 1.0)]
)
def test_outcomes_agree_as_far_as_the_window_reaches_a_relay(exact, window, low, high):
    found = measure(build(), trunk(), window)
    agreement = float((found == exact).float().mean())
    assert low <= agreement <= high


START_ID, QUESTION_ID, UNKNOWN_ID = 8, 9, 10  # tokens; those before are answers


class RelayReader:
    """A model that reads the kind of a frame, and its value, from the colour of its pictures."""

    name, revision = "relays", "1"
    frame_shape = (1, HIDDEN)

    def __init__(self):
        self.decoder = build()
        weight = self.decoder.model.embed_tokens.weight
        weight.data[START_ID], weight.data[QUESTION_ID] = row(START)[0], row(QUESTION)[0]
        self.decoder.lm_head.weight.data[UNKNOWN_ID, QUESTION] = 0.01

    def encode_frames(self, frames):
        colors = [frame[0, 0].tolist() for frame in frames]
        values = [value if kind == NEEDLE else None for kind, value, _ in colors]
        return torch.stack(
            [row(color[0], value) for color, value in zip(colors, values, strict=True)]
        )

    def compose(self, frames, question, answer):
        whole = (TextSegment((START_ID,)), *frames, TextSegment((QUESTION_ID,)))
        return TokenSequence(whole, (int(answer),))

    def position_ids(self, sequence):
        return torch.arange(sequence.num_tokens(1))


def picture(kind, value=0):
    return np.full((4, 4, 3), (kind, value, 0), np.uint8)


FILM = RepeatedPictures("film", (*[picture(PLAIN)] * (DISTANCE - 1), picture(RELAY)), "aa" * 32)
NEEDLES = NeedleSet(
    "values",
    "values",
    tuple(
        Needle(
            f"v{value}", "Which value?", str(value), None, Image.fromarray(picture(NEEDLE, value))
        )
        for value in range(1, NUM_VALUES)
    ),
)


FRAMES = "32,96"


def sweep(output, **options):
    return run_sweep(
        *(RelayReader(), FILM, NEEDLES, Grid.parse(FRAMES, depths="0,0.2,0.4")),
        output=output,
        controls="none",
        progress=False,
        **options,
    )


def test_a_run_finds_out_that_its_window_reaches_no_relay_and_which_does(tmp_path):
    blind = sweep(tmp_path / "blind", share="one-pass", window=0)
    assert verify(blind).all.num_equal == 0
    (said,) = verdict(blind).conspicuous
    assert said.endswith(
        f"the window is too small: a window of {DISTANCE} frames agrees in 1.00 of these samples; "
        f"run again with --window {DISTANCE}"
    )
    tried = blind.manifest["verification"]["tried_windows"]
    assert [one["window"] for one in tried] == [1, 2, 4, 8, 16]
    exact = sweep(tmp_path / "exact")
    assert blind.average == 0.0 and exact.average == 1.0
    interval = verify(blind).corrected.these
    assert interval.low <= exact.average <= interval.high
    found = sweep(tmp_path / "found", share="one-pass", window=DISTANCE)
    assert verify(found).all.share == 1.0 and found.average == exact.average
    assert "tried_windows" not in found.manifest["verification"]
