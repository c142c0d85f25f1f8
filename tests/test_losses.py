"""Losses of all tokens in one pass, against transformers' own forward pass."""

import pytest
import torch
from test_prefill import build_decoder
from torch.nn.functional import cross_entropy

from vniah.forward import losses
from vniah.forward.losses import token_losses


def random_ids(length: int) -> torch.Tensor:
    return torch.randint(97, (length,), generator=torch.Generator().manual_seed(length))


def own_losses(decoder, ids, *, num=None, **options):
    hidden = decoder.model.embed_tokens(ids).detach()
    targets = ids[1:] if num is None else ids[-num:]
    return token_losses(decoder, hidden, torch.arange(len(ids)), targets, **options)


@torch.inference_mode()
def plain_losses(decoder, ids):
    """By the decoder's own forward pass, all logits at once."""
    logits = decoder(input_ids=ids[None], use_cache=False).logits[0]
    return cross_entropy(logits[:-1].float(), ids[1:], reduction="none")


@pytest.mark.parametrize(
    ("length", "chunk_size", "head_rows"),
    [(2, 2048, None), (2, 1, 1), (37, 10, 7), (40, 10, 13), (41, 41, 40), (130, 64, 129)],
)
def test_losses_are_those_of_transformers_with_any_chunks(length, chunk_size, head_rows):
    decoder, ids = build_decoder("llama"), random_ids(length)
    found = own_losses(decoder, ids, chunk_size=chunk_size, head_rows=head_rows)
    assert found.shape == (length - 1,) and found.dtype == torch.float32
    torch.testing.assert_close(found, plain_losses(decoder, ids), atol=2e-5, rtol=1e-5)
    with torch.inference_mode():
        loss = decoder(input_ids=ids[None], labels=ids[None], use_cache=False).loss
    torch.testing.assert_close(found.mean(), loss, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num", [1, 5, 36])
def test_only_the_last_tokens_are_read(num):
    decoder, ids = build_decoder("llama"), random_ids(37)
    found = own_losses(decoder, ids, num=num, chunk_size=8, head_rows=4)
    torch.testing.assert_close(found, plain_losses(decoder, ids)[-num:], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["qwen2", "mistral", "qwen3"])
def test_losses_of_other_decoders(family):
    decoder, ids = build_decoder(family), random_ids(45)
    found = own_losses(decoder, ids, chunk_size=16, head_rows=11)
    torch.testing.assert_close(found, plain_losses(decoder, ids), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [20, 90])
def test_a_rope_that_depends_on_the_length_is_that_of_the_whole_sequence(length):
    scaling = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    decoder = build_decoder("llama", rope_parameters=scaling, max_position_embeddings=32)
    ids = random_ids(length)
    own_losses(decoder, random_ids(120))  # a longer sequence before must not change it
    found = own_losses(decoder, ids, chunk_size=16)
    torch.testing.assert_close(found, plain_losses(build_again(decoder), ids), atol=2e-5, rtol=1e-5)


def build_again(decoder):
    """The same weights in a decoder that has read nothing yet."""
    fresh = type(decoder)(decoder.config).eval()
    fresh.load_state_dict(decoder.state_dict())
    return fresh


def test_the_logits_of_all_tokens_are_never_held_at_once(monkeypatch):
    decoder, ids = build_decoder("llama"), random_ids(100)
    monkeypatch.setattr(losses, "_LOGIT_BYTES", 97 * 4 * 9)
    sizes = []
    decoder.lm_head.register_forward_hook(lambda _, inputs, output: sizes.append(len(output)))
    own_losses(decoder, ids)
    assert sizes == [9] * 11
