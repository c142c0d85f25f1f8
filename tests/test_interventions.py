"""Functions of the user that change a model: what they may do, what is undone, what is refused."""

from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from decoder_models import DecoderStandIn, RandomFrames, ask, three_rows
from layer_kinds import build_kind, positions_of
from test_prefill import build_decoder, embeddings

from vniah.embeddings.cache import FrameStore
from vniah.embeddings.encode import EncodedFrames
from vniah.engines.equivalence import check_forward
from vniah.engines.inputs import DecoderInputs, decoder_logits
from vniah.engines.interventions import Changes, Intervention, settings_of
from vniah.errors import InputError, ModelError
from vniah.forward.hooks import as_attended
from vniah.forward.prefill import answer_logits
from vniah.interventions import every_second_token, int8_keys_values, nothing
from vniah.protocol import FrameSegment


class Stored:
    """In place of an `EmbeddingCache`."""

    def read(self, start, stop, *, part=None):
        frames = [FrameSegment("haystack", index) for index in range(start, stop)]
        return torch.cat(list(RandomFrames().read_runs(frames)))


@pytest.fixture(scope="module")
def model():
    return DecoderStandIn(build_decoder("qwen2"))


@pytest.fixture(scope="module")
def frames():
    return EncodedFrames(FrameStore({"haystack": (Stored(), 0)}), 8)


@pytest.fixture(scope="module")
def trial(model):
    return ask(model, 6, None)


def logits_with(function, model, frames, trial):
    with Intervention.of(function).applied_to(model) as changes:
        seen, store = changes.seen_by(frames, trial)
        return decoder_logits(seen, trial, store.store)


# --- functions that tests apply; a name and a file say what was applied ---


def scaled_values(changes):
    changes.keys_values(lambda layer, keys, values: (keys, 0.5 * values))


def every_second_value(changes):
    def kept(values):
        return values * (torch.arange(values.shape[-1]) % 2).to(values)

    changes.keys_values(lambda layer, keys, values: (keys, kept(values)))


def swaps_tokens(changes):
    changes.frames(lambda frames: frames.flip(1))


def doubles_tokens(changes):
    changes.frames(lambda frames: torch.cat([frames, frames], 1))


def window_of_nine(changes):
    changes.window(9)


def window_of_8_bits(changes):
    changes.window(9)
    int8_keys_values(changes)


def windows_of_none(changes):
    changes.window(0)


def scale_of_all_rows(changes):
    def rounded(rows):
        scale = rows.abs().max() / 127
        return (rows / scale).round() * scale

    changes.keys_values(lambda layer, keys, values: (rounded(keys), values))


def spares_the_first_rows(changes):
    """As if a piece began where the sequence does; 8 bits for all other rows."""

    def rounded(rows):
        scale = rows.abs().amax(-1, keepdim=True) / 127
        rows = rows.clone()
        rows[:, :, 2:] = ((rows / scale).round() * scale)[:, :, 2:]
        return rows

    changes.keys_values(lambda layer, keys, values: (rounded(keys), values))


def scale_of_two_rows(changes):
    """Rows 0 and 1 have a scale, rows 2 and 3, and so on: halves of even size do not show it."""

    def rounded(rows):
        scale = rows.abs().amax(-1, keepdim=True) / 127
        num_pairs = rows.shape[2] // 2
        for pair in range(num_pairs):
            both = slice(2 * pair, 2 * pair + 2)
            scale[:, :, both] = scale[:, :, both].amax(2, keepdim=True)
        return (rows / scale).round() * scale

    changes.keys_values(lambda layer, keys, values: (rounded(keys), values))


def rotates_first(changes):
    """A rotation before 8 bits, whose sums are rounded otherwise for other numbers of rows."""
    generator = torch.Generator().manual_seed(0)

    def rounded(rows):
        size = rows.shape[-1]
        rotation = torch.linalg.qr(torch.randn(size, size, generator=generator.manual_seed(0)))[0]
        turned = rows @ rotation
        scale = turned.abs().amax(-1, keepdim=True) / 127
        return (turned / scale).round() * scale @ rotation.T

    changes.keys_values(lambda layer, keys, values: (rounded(keys), rounded(values)))


def doubles_in_place(changes):
    changes.keys_values(lambda layer, keys, values: (keys, values.mul_(2)))


def doubles(changes):
    changes.keys_values(lambda layer, keys, values: (keys, values * 2))


def mean_over_frames(changes):
    changes.frames(lambda frames: frames - frames.mean(0))


def gives_one(changes):
    changes.keys_values(lambda layer, keys, values: keys)


def gives_fewer_rows(changes):
    changes.keys_values(lambda layer, keys, values: (keys[:, :, 1:], values))


def gives_half(changes):
    changes.keys_values(lambda layer, keys, values: (keys.half(), values))


def gives_nan(changes):
    changes.keys_values(lambda layer, keys, values: (keys * torch.nan, values))


def doubles_frames_in_place(changes):
    changes.frames(lambda frames: frames.mul_(2))


def doubles_frames(changes):
    changes.frames(lambda frames: frames * 2)


def drops_all(changes):
    changes.frames(lambda frames: frames[:, :0])


def drops_frames(changes):
    changes.frames(lambda frames: frames[1:])


def fails_in_layer(changes):
    changes.keys_values(lambda layer, keys, values: keys.no_such_thing)


def fails(changes):
    raise KeyError("nothing")


def twice(changes):
    for _ in range(2):
        changes.frames(lambda frames: frames)


def yields(changes):
    yield


def gives_a_number(changes):
    return 3


@contextmanager
def fails_at_its_end(changes):
    yield
    raise OSError("gone")


@contextmanager
def other_weights(changes):
    weight = changes.decoder.lm_head.weight
    earlier = weight.data.clone()
    weight.data *= 2
    yield
    weight.data.copy_(earlier)


# --- what a function changes, and what it does not ---


def test_a_function_that_does_nothing_changes_no_bit(model, frames, trial):
    plain = decoder_logits(model, trial, frames.store)
    assert torch.equal(logits_with(nothing, model, frames, trial), plain)


def test_keys_and_values_are_changed_for_all_rows_and_only_inside(model, frames, trial):
    plain = decoder_logits(model, trial, frames.store)
    found = logits_with(scaled_values, model, frames, trial)
    assert (found - plain).abs().max() > 1e-2
    assert torch.equal(decoder_logits(model, trial, frames.store), plain)
    # The same as a projection of values that is half as large.
    projections = [layer.self_attn.v_proj for layer in model.decoder.model.layers]
    for one in projections:
        for parameter in one.parameters():
            parameter.data *= 0.5
    halved = decoder_logits(model, trial, frames.store)
    for one in projections:
        for parameter in one.parameters():
            parameter.data *= 2
    assert torch.allclose(found, halved, atol=1e-5)


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100])
def test_int8_is_the_same_in_chunks_of_any_size(model, frames, trial, chunk_size):
    inputs = DecoderInputs(model, [trial], frames.store)
    positions = inputs.positions(0)

    def logits(size):
        hidden = inputs.embed(trial.input_pieces, 0, positions.shape[-1])
        num_rows = inputs.num_answer_rows(0)
        return answer_logits(model.decoder, hidden, positions, num_rows=num_rows, chunk_size=size)

    plain = logits(100)
    with Intervention.of(int8_keys_values).applied_to(model):
        found, whole = logits(chunk_size), logits(100)
    assert torch.allclose(found, whole, atol=1e-3)
    assert 1e-4 < (found - plain).abs().max() < 0.2


def test_rows_may_be_rotated_and_changed_in_place(model, frames, trial):
    plain = decoder_logits(model, trial, frames.store)
    rotated = logits_with(rotates_first, model, frames, trial)
    assert 1e-4 < (rotated - plain).abs().max() < 0.2
    in_place = logits_with(doubles_in_place, model, frames, trial)
    assert torch.equal(in_place, logits_with(doubles, model, frames, trial))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_few_rows_that_are_treated_otherwise_are_found_among_many(model, dtype):
    keys, values = torch.randn(2, 1, 2, 4000, 64, dtype=dtype)
    for function, is_refused in ((int8_keys_values, False), (spares_the_first_rows, True)):
        with Intervention.of(function).applied_to(model):
            module = model.decoder.model.layers[0].self_attn
            if not is_refused:
                assert as_attended(module, keys, values)[0].dtype == dtype
                continue
            with pytest.raises(ModelError, match="something else for several rows together"):
                as_attended(module, keys, values)


def test_rows_in_groups_are_found_by_a_cut_at_an_odd_row(model):
    keys, values = torch.randn(2, 1, 2, 40, 64)
    with (
        Intervention.of(scale_of_two_rows).applied_to(model),
        pytest.raises(ModelError, match="something else for several rows together"),
    ):
        as_attended(model.decoder.model.layers[0].self_attn, keys, values)


def test_int8_is_what_rounding_by_hand_gives():
    rows = torch.randn(1, 2, 5, 8)
    module = torch.nn.Module()
    calls = []

    class Changes:
        def keys_values(self, change):
            calls.append(change)

    int8_keys_values(Changes())
    keys, values = calls[0](0, rows, rows)
    assert torch.equal(keys, values)
    for head in range(2):
        for row in range(5):
            one = rows[0, head, row]
            scale = one.abs().max() / 127
            by_hand = torch.tensor([round(float(x / scale)) for x in one]) * scale
            assert torch.allclose(keys[0, head, row], by_hand, atol=1e-6)
    assert as_attended(module, rows, rows) == (rows, rows)


def test_fewer_tokens_shorten_the_sequence(model, frames, trial):
    with Intervention.of(every_second_token).applied_to(model) as changes:
        seen, store = changes.seen_by(frames, trial)
        assert seen.frame_shape == (2, 64) and model.frame_shape == (3, 64)
        assert trial.num_tokens(3) - trial.num_tokens(2) == 6
        assert seen.position_ids(trial).tolist() == list(range(trial.num_tokens(2)))
        inputs = DecoderInputs(seen, [trial], store.store)
        rows = inputs.embed(trial.input_pieces, 0, trial.num_tokens(2))
        whole = DecoderInputs(model, [trial], frames.store)
        all_rows = whole.embed(trial.input_pieces, 0, trial.num_tokens(3))
        kept = [row for row in range(len(all_rows)) if not 4 <= row < 22 or (row - 4) % 3 != 1]
        assert torch.equal(rows, all_rows[kept])
        found = decoder_logits(seen, trial, store.store)
    positions = torch.arange(len(rows))
    num_rows = len(trial.answer_ids)
    assert torch.allclose(
        found, answer_logits(model.decoder, rows, positions, num_rows=num_rows), atol=1e-5
    )


@pytest.mark.parametrize("function", [swaps_tokens, doubles_tokens])
def test_frames_may_keep_or_gain_tokens(model, frames, trial, function):
    plain = decoder_logits(model, trial, frames.store)
    assert (logits_with(function, model, frames, trial) - plain).abs().max() > 1e-3


def test_a_function_that_writes_into_frames_gets_a_copy(model, trial):
    """A cache may give its file itself, which other samples read as well."""

    class Held:
        rows = Stored().read(0, 8)

        def read(self, start, stop, *, part=None):
            return self.rows[start:stop]

    frames, before = EncodedFrames(FrameStore({"haystack": (Held(), 0)}), 8), Held.rows.clone()
    found = logits_with(doubles_frames_in_place, model, frames, trial)
    assert torch.equal(Held.rows, before)
    assert torch.equal(found, logits_with(doubles_frames, model, frames, trial))


def test_frames_keep_their_tokens_where_a_long_sequence_has_other_positions(frames, trial):
    """Those of a short one are 0, 1, 2 and so on; beyond 60 tokens they are not."""
    model = DecoderStandIn(
        build_decoder("qwen2"), lambda n: torch.arange(n) if n <= 60 else torch.arange(n) // 2
    )
    with Intervention.of(every_second_token).applied_to(model) as changes:
        assert changes.seen_by(frames, trial)[0].frame_shape == (2, 64)
        assert changes.seen_by(frames, trial, trial)[0].frame_shape == (2, 64)
    long = ask(model, 30, None)
    with (
        Intervention.of(every_second_token).applied_to(model) as changes,
        pytest.raises(ModelError, match=r"does not number those of \d+ tokens one by one"),
    ):
        changes.seen_by(frames, trial, long)


def test_keys_and_values_can_be_left_out_while_all_else_stays(model, frames, trial):
    plain = decoder_logits(model, trial, frames.store)
    with Intervention.of(window_of_8_bits).applied_to(model) as changes:
        both = decoder_logits(model, trial, frames.store)
        with changes.without_keys_values():
            window = decoder_logits(model, trial, frames.store)
        assert torch.equal(decoder_logits(model, trial, frames.store), both)
    assert torch.equal(window, logits_with(window_of_nine, model, frames, trial))
    assert not torch.equal(window, both) and not torch.equal(window, plain)


def test_frames_of_positions_in_three_rows_keep_their_number_of_tokens(frames):
    model = DecoderStandIn(build_decoder("qwen2_vl"), three_rows)
    trial = ask(model, 4, None)
    with pytest.raises(ModelError, match="places its tokens by the tokens of its frames"):
        logits_with(every_second_token, model, frames, trial)
    assert logits_with(swaps_tokens, model, frames, trial).isfinite().all()


def test_a_context_manager_undoes_what_it_changed_also_after_an_error(model, frames, trial):
    plain = decoder_logits(model, trial, frames.store)
    found = logits_with(other_weights, model, frames, trial)
    assert torch.allclose(found, 2 * plain, rtol=1e-4)
    with pytest.raises(ZeroDivisionError), Intervention.of(other_weights).applied_to(model):
        raise ZeroDivisionError
    assert torch.equal(decoder_logits(model, trial, frames.store), plain)


@pytest.mark.parametrize("family", ["qwen2", "qwen2_vl", "llama", "mistral"])
@pytest.mark.parametrize("num_tokens", [1, 2, 5, 16, 100])
def test_a_forced_window_is_that_of_the_plain_formula(frames, family, num_tokens):
    """The decoder's own forward with a mask, tokens in chunks, and the tree of all sequences."""
    model = DecoderStandIn(build_decoder(family))
    sequences = [ask(model, 6, None), ask(model, 8, None), ask(model, 8, None, question="else")]
    before = settings_of(model.decoder)
    free = [decoder_logits(model, one, frames.store) for one in sequences]

    @contextmanager
    def windowed():
        changes = Changes(model, Intervention.of(nothing))
        changes.window(num_tokens)
        with changes.in_effect():
            yield

    with windowed():
        found = check_forward(model, sequences, frames.store)
        assert all(one.passed for one in found), [one.sentence() for one in found]
        assert {one.way for one in found} == {"prefill", "tree", "suffixes"}
        windowed_logits = [decoder_logits(model, one, frames.store) for one in sequences]
    is_short = num_tokens < min(one.num_tokens(3) for one in sequences)
    for one, other in zip(free, windowed_logits, strict=True):
        assert ((one - other).abs().max() > 1e-4) == is_short
    assert settings_of(model.decoder) == before
    again = [decoder_logits(model, one, frames.store) for one in sequences]
    assert all(torch.equal(one, other) for one, other in zip(free, again, strict=True))


def test_a_window_with_keys_and_values_of_8_bits_is_both(model, frames, trial):
    both = logits_with(window_of_8_bits, model, frames, trial)
    one = logits_with(window_of_nine, model, frames, trial)
    assert 1e-5 < (both - one).abs().max() < 0.2
    assert (one - decoder_logits(model, trial, frames.store)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["gemma3", "gpt_oss", "llama4", "qwen3_5", "nemotron_h"])
def test_keys_and_values_are_changed_in_layers_of_all_kinds_that_have_them(name):
    """In windows, chunks, beside sinks and recurrent layers: as with zeros in the projections."""
    decoder = build_kind(name)
    rows = embeddings(90)[:, : decoder.config.hidden_size]
    positions = positions_of(name, 90)

    def logits(chunk_size):
        how = {"num_rows": 5, "chunk_size": chunk_size}
        return answer_logits(decoder, rows.clone(), positions, **how)

    plain = logits(1000)
    with Intervention.of(every_second_value).applied_to(DecoderStandIn(decoder)):
        found = [logits(chunk_size) for chunk_size in (1000, 7)]
    for path, parameter in decoder.named_parameters():
        if ".v_proj." in path:
            parameter.data[::2] = 0
    expected = logits(1000)
    assert (expected - plain).abs().max() > 1e-2
    for one in found:
        assert torch.allclose(one, expected, atol=1e-4 * float(expected.abs().max()))


def test_latents_are_not_changed_as_keys_and_values_are():
    model = DecoderStandIn(build_kind("deepseek_v3"))
    for function, reason in (
        (scaled_values, "layer 0 of the decoder deepseek_v3 has latent attention.* be changed"),
        (window_of_nine, "has latent attention .* all layers have full attention"),
    ):
        with (
            pytest.raises(ModelError, match=reason),
            Intervention.of(function).applied_to(model),
        ):
            pass


def test_a_window_is_for_decoders_with_full_attention():
    model = DecoderStandIn(build_decoder("mistral", sliding_window=4))
    with (
        pytest.raises(ModelError, match="a sliding window is for decoders of which all layers"),
        Intervention.of(window_of_nine).applied_to(model),
    ):
        pass


# --- what is refused, in one line that names the function ---


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (fails, "test_interventions:fails failed in .*, line .*: KeyError: .*nothing"),
        (fails_in_layer, "fails_in_layer failed in .*: AttributeError: .*no_such_thing"),
        (fails_at_its_end, "failed when its changes were undone in .*: OSError: gone"),
        (yields, "yields yields, but is no context manager"),
        (gives_a_number, "gives_a_number gave 3; it must give nothing"),
        (gives_one, "of keys and values in test_interventions:gives_one gave .*give a pair"),
        (gives_fewer_rows, r"of keys in .* gave shape \(.*\); expected"),
        (gives_half, "of keys in .*gives_half gave torch.float16 on cpu; expected torch.float32"),
        (gives_nan, "gave numbers that are not finite"),
        (scale_of_all_rows, "something else for several rows together than .* treat each row"),
        (spares_the_first_rows, "something else for several rows together .* treat each row"),
        (mean_over_frames, "something else for several frames together than .* treat each frame"),
        (drops_all, r"of frames in .* gave shape \(6, 0, 64\); expected"),
        (drops_frames, r"of frames in .* gave shape \(5, 3, 64\); expected"),
        (twice, "changes frames twice"),
        (windows_of_none, "windows_of_none must be a whole number of tokens from 1, got 0"),
    ],
)
def test_what_cannot_be_applied_is_one_line(model, frames, trial, function, reason):
    plain = decoder_logits(model, trial, frames.store)
    with pytest.raises((ModelError, InputError), match=reason) as caught:
        logits_with(function, model, frames, trial)
    assert "\n" not in str(caught.value)
    assert torch.equal(decoder_logits(model, trial, frames.store), plain)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("no colon", "--apply must be package.module:function"),
        ("vniah.interventions:nosuch", "has no 'nosuch'"),
        ("no_such_module:f", "'no_such_module' cannot be imported"),
        (lambda changes: None, "at the top of a module"),
        ("builtins:print", "its source cannot be read"),
    ],
)
def test_what_is_no_function_of_a_file_is_refused(source, reason):
    with pytest.raises(InputError, match=reason):
        Intervention.of(source)


def test_a_name_and_a_function_are_recorded_alike():
    by_name = Intervention.of("vniah.interventions:int8_keys_values").record()
    assert by_name == Intervention.of(int8_keys_values).record()
    assert by_name["function"] == "vniah.interventions:int8_keys_values"
    other = Intervention.of(other_weights)
    assert other.short_name == "other_weights" and other.sha256 != by_name["sha256"]


def test_examples_are_short():
    import inspect

    for function in (int8_keys_values, every_second_token):
        assert len(inspect.getsource(function).splitlines()) <= 15
    assert Path(inspect.getfile(int8_keys_values)).name == "interventions.py"
