"""The tokenizer of a checkpoint folder, its stop tokens, and further rows of embeddings."""

import warnings
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import torch
import transformers
from torch import Tensor, nn

from vniah.errors import ModelError, first_line
from vniah.models.checkpoints import reported
from vniah.models.configs import AddedToken

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def load_tokenizer(folder: Path, *, config: Any = None) -> Any:
    """The tokenizer in a checkpoint folder.

    Args:
        folder: where its files lie.
        config: used by transformers instead of the folder's config.json.

    Raises:
        ModelError: the folder has no tokenizer, or it cannot be read.
    """
    if not any((folder / name).is_file() for name in _FILES):
        raise ModelError(f"{folder} has no tokenizer files (tokenizer.json and the like)")
    _require_added_tokens(folder / "tokenizer.json")
    options = {} if config is None else {"config": config}
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # it warns of an unknown model_type
    try:
        with reported(folder, "the tokenizer in"), warnings.catch_warnings():
            # a tokenizer does not need config.json's rope_scaling, of which transformers 5 warns
            warnings.filterwarnings("ignore", ".*rope_scaling", FutureWarning)
            return transformers.AutoTokenizer.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True, **options
            )
    finally:
        transformers.logging.set_verbosity(verbosity)


def require_counting(tokenizer: Any, name: str) -> None:
    """Raises `ModelError` unless a tokenizer says where the tokens of a whole prompt end.

    Args:
        tokenizer: of transformers.
        name: of its model, for the message.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer of {name} does not say which characters its tokens are of; give it a "
            "tokenizer.json"
        )
    if token_ends(tokenizer, "a")[-1] == 0:
        raise ModelError(
            f"the tokenizer of {name} puts a token behind every text, and the answer follows the "
            "prompt; let its tokenizer.json add none there"
        )


def token_ends(tokenizer: Any, text: str) -> Sequence[int]:
    """As `vniah.protocol.LanguageModel.token_ends`, by a tokenizer of transformers."""
    # "verbose" warns of texts longer than the model was trained on; here they are measured.
    found = tokenizer(text, verbose=False, return_offsets_mapping=True)["offset_mapping"]
    return [stop for _, stop in found]


def spell(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """The text of some tokens as it stands in a prompt: special tokens and white space too.

    Ids that the tokenizer does not have, as rows that were appended to a decoder's embeddings have,
    are written ``<row 152064>``.
    """
    size = len(tokenizer)
    parts = []
    for is_known, ids in groupby(token_ids, lambda token: token < size):
        if is_known:
            parts.append(str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)))
        else:
            parts += [f"<row {token}>" for token in ids]
    return "".join(parts)


class _TokenizerFile(msgspec.Struct):
    """A tokenizer.json, which the tokenizers library checks, but for the fields of its tokens."""

    added_tokens: list[AddedToken] = []


def _require_added_tokens(path: Path) -> None:
    """Raises `ModelError` for fields that the tokenizers library would only print and pass over."""
    if path.is_file():
        try:
            msgspec.json.decode(path.read_bytes(), type=_TokenizerFile)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ModelError(f"{path} cannot be read: {first_line(error)}") from error


def find_stop_ids(tokenizer: Any, *configs: Mapping[str, Any]) -> tuple[int, ...]:
    """The tokens that end an answer: those that configurations name, and the tokenizer's.

    Args:
        tokenizer: of transformers.
        configs: each may have an ``eos_token_id``, a number or a list of numbers.
    """
    found = [tokenizer.eos_token_id]
    for config in configs:
        ids = config.get("eos_token_id")
        found += ids if isinstance(ids, list | tuple) else [ids]
    return tuple(sorted({token for token in found if token is not None}))


def append_rows(embed_tokens: nn.Embedding, rows: Tensor) -> nn.Embedding:
    """A copy of an embedding table with further rows at its end.

    The row ``i`` of ``rows`` gets the token id ``embed_tokens.num_embeddings + i``. The given table
    does not change: a head that shares its weights still gives logits for the vocabulary only.

    Args:
        embed_tokens: ``[vocabulary, hidden size]``.
        rows: ``[num_rows, hidden size]``; converted to the table's dtype and device.
    """
    table = embed_tokens.weight
    assert rows.ndim == 2 and rows.shape[1] == table.shape[1], f"rows of shape {tuple(rows.shape)}"
    weight = torch.cat([table.detach(), rows.detach().to(table.device, table.dtype)])
    num_rows, width = weight.shape
    padding = embed_tokens.padding_idx
    return nn.Embedding(num_rows, width, padding_idx=padding, _weight=weight, _freeze=True)
