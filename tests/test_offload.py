"""Layers that are fetched from host memory: the same numbers, two layers at a time."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from decoder_models import DecoderStandIn, plain, run, sweep_of
from test_prefill import (
    FAMILIES,
    allocated_bytes,
    build_decoder,
    embeddings,
    three_rows,
)
from test_ring import start_ranks, two_passes

from vniah.errors import InputError, ModelError
from vniah.forward import offload
from vniah.forward.costs import DecoderShape
from vniah.forward.kernels import CPU_KERNEL
from vniah.forward.offload import (
    keeps_in_host,
    layer_on_device,
    move_all_but_layers,
    offload_layers,
    offloaded,
    require_host_room,
)
from vniah.forward.prefill import answer_logits
from vniah.forward.ring import Ring
from vniah.grid import Grid
from vniah.haystacks.haystack import open_haystack
from vniah.models.loading import load_model
from vniah.models.weights import load_weights
from vniah.needles import load_needles
from vniah.results import load_results
from vniah.sweep.run import run_sweep
from vniah.sweep.throughput import measure_rates

CPU, META = torch.device("cpu"), torch.device("meta")


def build_offloaded(family, device=CPU, **changes):
    decoder = build_decoder(family, **changes)
    offload_layers(decoder.model, device)
    return decoder


def positions_for(family, num_tokens):
    return three_rows(num_tokens) if family == "qwen2_vl" else torch.arange(num_tokens)


def prefilled(decoder, family, num_tokens=120, chunk_size=32):
    positions = positions_for(family, num_tokens)
    return answer_logits(
        decoder, embeddings(num_tokens), positions, num_rows=3, chunk_size=chunk_size
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_walk_is_the_same_to_the_last_bit(family):
    expected = prefilled(build_decoder(family), family)
    assert torch.equal(prefilled(build_offloaded(family), family), expected)


@pytest.mark.parametrize("num_layers", [1, 2, 3, 4])
def test_every_pass_fetches_every_layer_once(num_layers):
    decoder = build_offloaded("qwen2", num_hidden_layers=num_layers)
    expected = prefilled(build_decoder("qwen2", num_hidden_layers=num_layers), "qwen2")
    layers = offloaded(decoder.model)
    first, second = prefilled(decoder, "qwen2"), prefilled(decoder, "qwen2")
    assert torch.equal(first, expected) and torch.equal(second, expected)
    # a decoder of two layers has both on the device when the second pass begins
    again = 0 if num_layers <= 2 else num_layers
    assert layers.num_fetched == num_layers + again


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("place", ["device", "host", "disk"])
def test_tree_with_kept_keys_and_suffixes_is_the_same_to_the_last_bit(family, place):
    found = []
    for build in (build_decoder, build_offloaded):
        model = DecoderStandIn(build(family))
        found.append(
            run(model, sweep_of(model), kv_location=place, chunk_size=16, max_suffix_tokens=20)
        )
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_decoders_own_forward_is_the_same_to_the_last_bit(family):
    model, other = DecoderStandIn(build_decoder(family)), DecoderStandIn(build_offloaded(family))
    sequences = sweep_of(model)[:4]
    assert all(map(torch.equal, plain(other, sequences), plain(model, sequences)))
    for stand_in in (model, other):
        whole = stand_in.decoder
        stand_in.decoder = SimpleNamespace(model=whole.model, lm_head=whole.lm_head)
    assert all(map(torch.equal, plain(other, sequences), plain(model, sequences)))


def test_what_a_layer_computes_with_are_the_copies():
    decoder = build_offloaded("qwen2", num_hidden_layers=5)
    layers, used = offloaded(decoder.model), []
    in_host = [layer.mlp.up_proj.weight.data_ptr() for layer in decoder.model.layers]
    for slot in (layers._latest, layers._next):
        slot.buffer.view(torch.float32).fill_(torch.nan)
    places = [slot.buffer.data_ptr() for slot in (layers._latest, layers._next)]

    def look(layer, args, output):
        used.append((layer.mlp.up_proj.weight.data_ptr(), layers.held))

    for layer in decoder.model.layers:
        layer.mlp.register_forward_hook(lambda *_, layer=layer: look(layer, *_[1:]))
    logits = prefilled(decoder, "qwen2")
    assert logits.isfinite().all()
    assert not {pointer for pointer, _ in used} & set(in_host)
    size = layers._latest.buffer.nbytes
    assert all(any(p <= pointer < p + size for p in places) for pointer, _ in used)
    assert {pointer for pointer, _ in used} == {used[0][0], used[-1][0]} | {
        pointer for pointer, held in used if 1 in held
    }
    assert [held for _, held in used if len(held) > 2] == []
    assert [*dict.fromkeys(held for _, held in used)] == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 3)]


def test_device_holds_two_layers_and_a_pass_adds_none(tmp_path):
    decoders = [build(("qwen2"), num_hidden_layers=6) for build in (build_decoder, build_offloaded)]
    peaks = []
    for decoder in decoders:
        prefilled(decoder, "qwen2")
        peaks.append(
            allocated_bytes(lambda d=decoder: prefilled(d, "qwen2"), tmp_path / "trace.json")
        )
    assert peaks[0] == peaks[1]
    layers, one = offloaded(decoders[1].model), decoders[0].model.layers[0]
    in_layer = sum(-(-p.nbytes // 256) * 256 for p in one.parameters())
    assert layers.device_bytes == 2 * in_layer and layers.host_bytes == 6 * in_layer


def test_between_two_passes_the_decoder_holds_its_weights_in_the_host():
    decoder, other = build_offloaded("qwen2"), build_decoder("qwen2")
    before = {name: tensor.data_ptr() for name, tensor in decoder.state_dict().items()}
    prefilled(decoder, "qwen2")
    assert {name: tensor.data_ptr() for name, tensor in decoder.state_dict().items()} == before
    for name, tensor in other.state_dict().items():
        assert torch.equal(decoder.state_dict()[name], tensor)
    assert all(isinstance(p, torch.nn.Parameter) for p in decoder.parameters())


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_error_in_the_middle_of_a_layer_suffixes_the_decoder_as_it_was(at, error):
    decoder, expected = build_offloaded("qwen2"), prefilled(build_decoder("qwen2"), "qwen2")
    before = {name: tensor.data_ptr() for name, tensor in decoder.state_dict().items()}

    def fail(*_):
        raise error("in the middle")

    handle = decoder.model.layers[at].mlp.register_forward_hook(fail)
    with pytest.raises(error, match="in the middle"):
        prefilled(decoder, "qwen2")
    handle.remove()
    if error is RuntimeError:  # after Ctrl-C the next call of the layer mends it
        after = {name: tensor.data_ptr() for name, tensor in decoder.state_dict().items()}
        assert after == before
    assert torch.equal(prefilled(decoder, "qwen2"), expected)
    after = {name: tensor.data_ptr() for name, tensor in decoder.state_dict().items()}
    assert after == before


def test_changed_weights_in_the_host_are_those_of_the_next_pass():
    """Only what is fetched anew: so the second pass of three layers or more."""
    decoder, other = build_offloaded("qwen2"), build_decoder("qwen2")
    prefilled(decoder, "qwen2")
    with torch.no_grad():
        for one in (decoder, other):
            for parameter in one.model.layers[0].parameters():
                parameter.mul_(0.5)
    assert torch.equal(prefilled(decoder, "qwen2"), prefilled(other, "qwen2"))


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_but_the_layers_weights_crosses_from_the_host_to_the_device(family):
    """On the meta device, where a tensor of another device is an error."""
    decoder = build_decoder(family)
    offload_layers(decoder.model, META)
    move_all_but_layers(decoder, decoder.model.layers, META)
    assert decoder.model.layers[0].mlp.up_proj.weight.device == CPU
    hidden = embeddings(120).to(META)
    logits = answer_logits(
        decoder, hidden, positions_for(family, 120).to(META), num_rows=3, chunk_size=32
    )
    assert logits.shape == (3, 97) and logits.device == META
    assert offloaded(decoder.model).num_fetched == 3


def in_a_ring(rank, size):
    for family in ("qwen2", "qwen2_vl"):
        resident, fetched = build_decoder(family), build_offloaded(family)
        for lengths in [(97, 61, 50), (5, 2, 3)]:
            expected = two_passes(resident, *lengths, Ring(dist.group.WORLD))
            found = two_passes(fetched, *lengths, Ring(dist.group.WORLD))
            assert all(map(torch.equal, found, expected)), (family, lengths)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("num_tokens", [120, 4000])
def test_copies_beside_the_work_of_a_gpu_change_no_bit(num_tokens):
    """Layers so large beside their work that a copy which came too late would be seen."""
    device = torch.device("cuda", 0)
    wide = {"intermediate_size": 20_000, "num_hidden_layers": 8}
    resident, fetched = (build_decoder("qwen2", **wide) for _ in range(2))
    resident.to(device)
    move_all_but_layers(fetched, fetched.model.layers, device)
    offload_layers(fetched.model, device)
    hidden, positions = embeddings(num_tokens).to(device), torch.arange(num_tokens, device=device)
    for _ in range(3):
        one, other = (
            answer_logits(decoder, hidden.clone(), positions, num_rows=3, chunk_size=512)
            for decoder in (resident, fetched)
        )
        assert torch.equal(one, other)


@pytest.mark.distributed
def test_ring_of_2_is_the_same_to_the_last_bit():
    start_ranks(2, in_a_ring)


def test_parts_of_a_layer_are_on_the_device_where_they_are_called_one_by_one():
    decoder = build_decoder("qwen2")
    with layer_on_device(decoder.model, 1) as layer:
        assert layer is decoder.model.layers[1]
    offload_layers(decoder.model, META)
    with layer_on_device(decoder.model, 1) as layer:
        assert {p.device for p in layer.state_dict().values()} == {META}
    assert {p.device for p in layer.state_dict().values()} == {CPU}


@pytest.mark.usefixtures("short_measurements")
def test_rates_are_measured_with_the_fetching():
    model = DecoderStandIn(build_offloaded("qwen2"))
    rates = measure_rates(model, CPU_KERNEL, num_tokens=64)
    assert rates.linear > 1e5 and 1e5 < rates.fetching < float("inf")
    assert measure_rates(
        DecoderStandIn(build_decoder("qwen2")), CPU_KERNEL, num_tokens=64
    ).fetching == float("inf")


def test_shape_counts_what_lies_where():
    decoder, other = build_decoder("qwen2"), build_offloaded("qwen2")
    resident, fetched = DecoderShape.of(decoder), DecoderShape.of(other)
    besides = [decoder.model.embed_tokens.weight, decoder.model.norm.weight, decoder.lm_head.weight]
    layers = offloaded(other.model)
    assert resident.weight_bytes == sum(p.nbytes for p in decoder.parameters())
    assert fetched.weight_bytes == sum(p.nbytes for p in besides) + layers.device_bytes
    assert (resident.host_weight_bytes, fetched.host_weight_bytes) == (0, layers.host_bytes)
    assert fetched.linear_weights == resident.linear_weights


@pytest.mark.parametrize(
    ("choice", "device", "free", "expected"),
    [
        ("never", "cuda", 1, False),
        ("always", "cpu", 10**12, True),
        ("auto", "cpu", 1, False),  # the same memory
        ("auto", "mps", 1, False),
        ("auto", "cuda", 10_000, False),
        ("auto", "cuda", 2400, True),  # 1,800 bytes would leave too little
        ("auto", "cuda", 2600, False),
    ],
)
def test_layers_stay_in_the_host_where_weights_leave_too_little(
    choice, device, free, expected, monkeypatch
):
    monkeypatch.setattr(offload, "free_bytes", lambda device: free)
    parts = [torch.nn.Linear(20, 30, bias=False, device="meta"), torch.nn.Linear(10, 30, False)]
    found = keeps_in_host(choice, parts, torch.device(device), torch.bfloat16)
    assert found is expected


def test_host_without_room_is_one_line(monkeypatch):
    layers = torch.nn.ModuleList([torch.nn.Linear(1000, 1000, device="meta")])
    monkeypatch.setattr(offload, "free_bytes", lambda device: 2_500_000)
    require_host_room(layers, torch.float16)
    with pytest.raises(ModelError, match=r"layers take 0.0 GB, and 0.0 GB are free in the memory"):
        require_host_room(layers, torch.float32)


def test_weights_that_stay_in_the_host_are_never_on_the_device(checkpoint):
    """On the meta device whatever was there once would have no values any more."""
    others = ("model.vision_tower.", "model.mm_projector.")
    expected = load_model(checkpoint, device="cpu").decoder
    decoder = build_empty(expected)
    load_weights(
        checkpoint,
        {"decoder": decoder},
        rename=lambda name: None if name.startswith(others) else ("decoder", name),
        dtype=torch.float32,
        device=META,
        stays_in_host=lambda part, name: name.startswith("model.layers."),
    )
    for name, tensor in decoder.state_dict().items():
        if name.startswith("model.layers."):
            assert torch.equal(tensor, expected.state_dict()[name])
        else:
            assert tensor.device == META


def build_empty(decoder):
    with META:
        return type(decoder)(decoder.config)


def test_what_is_tied_stays_tied_when_all_but_the_layers_move():
    decoder = build_decoder("qwen2", tie_word_embeddings=True)
    decoder.lm_head.weight = decoder.model.embed_tokens.weight
    move_all_but_layers(decoder, decoder.model.layers, META)
    assert decoder.lm_head.weight is decoder.model.embed_tokens.weight
    assert decoder.lm_head.weight.device == META
    assert decoder.model.rotary_emb.inv_freq.device == META
    assert {p.device for p in decoder.model.layers.parameters()} == {CPU}


@pytest.fixture
def material(image_folder, needle_folder):
    return open_haystack(image_folder), load_needles(needle_folder), Grid.of([1, 7, 20], [0, 0.3])


def test_sweep_with_offloaded_layers_gives_the_same_samples(checkpoint, material, tmp_path, caplog):
    found = {}
    for choice in ("never", "always"):
        caplog.clear()
        with caplog.at_level(logging.INFO, "vniah"):
            model = load_model(checkpoint, device="cpu", offload=choice)
            run_sweep(model, *material, output=tmp_path / choice)
        samples = load_results(tmp_path / choice).samples
        found[choice] = [{**vars(sample), "seconds": None} for sample in samples]
        manifest = json.loads((tmp_path / choice / "manifest.json").read_text())
        record = manifest["environment"]["forward"]
        assert record.get("layer_weights_on") == (None if choice == "never" else "host")
        said = "layers fetched from the host one by one" in caplog.text
        assert said is (choice == "always")
    assert found["never"] == found["always"] != []


def test_run_goes_on_with_its_layers_elsewhere(checkpoint, material, tmp_path):
    run_sweep(load_model(checkpoint, device="cpu"), *material, output=tmp_path / "run")
    whole = load_results(tmp_path / "run").samples
    path = tmp_path / "run" / "samples.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:5]))
    model = load_model(checkpoint, device="cpu", offload="always")
    results = run_sweep(model, *material, output=tmp_path / "run")
    assert [s.logprob for s in results.samples] == [s.logprob for s in whole]


def test_offload_that_cannot_be_meant_is_refused(checkpoint):
    with pytest.raises(InputError, match="offload must be one of auto, always, never, got 'some'"):
        load_model(checkpoint, offload="some")
