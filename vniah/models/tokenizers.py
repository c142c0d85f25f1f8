"""The tokenizer of a model that lies elsewhere: it counts the tokens of a text, and nothing else.

A server says how many tokens a prompt had, but not where they end, and only after it was asked. So
texts of a given length are made with the model's tokenizer, which is a few files
(``--tokenizer``); what the server counts is held against that (`vniah.engines.prompt_text`).
"""

import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vniah.errors import ModelError
from vniah.models.contents import hash_files
from vniah.models.hub import download
from vniah.models.packaged import PACKAGED, require_fetched
from vniah.models.vocabulary import load_tokenizer, require_counting, token_ends
from vniah.paths import user_path

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json"),
)


class TokenCounter:
    """Counts the tokens of texts; several threads may use it at the same time.

    Args:
        folder: holds the files of a tokenizer.
        name: as the user gave it.

    Attributes:
        name: for the manifest and for messages.
        sha256: a short hash over the files of the tokenizer.

    Raises:
        ModelError: the folder has no tokenizer that can be used.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._tokenizer: Any = load_tokenizer(folder)
        require_counting(self._tokenizer, name)
        self.sha256 = hash_files(folder, [folder / n for n in _FILES if (folder / n).is_file()])
        self._lock = threading.Lock()

    def token_ends(self, text: str) -> Sequence[int]:
        """As `vniah.protocol.LanguageModel.token_ends`."""
        with self._lock:
            return token_ends(self._tokenizer, text)


def open_counter(source: str) -> TokenCounter:
    """The tokenizer that a text names: a folder, a hub id, or a model of `PACKAGED`.

    Raises:
        ModelError: there is none.
        InputError: the text can be no path.
    """
    folder = user_path(source, "a tokenizer")
    if source in PACKAGED:
        return TokenCounter(require_fetched(source), source)
    if folder.is_dir():
        return TokenCounter(folder, folder.resolve().name)
    if _HUB_ID.fullmatch(source):
        return TokenCounter(download(source, has_weights=False)[0], source)
    raise ModelError(
        f"there is no tokenizer {source!r}: give a folder with its tokenizer.json, a hub id "
        f"(owner/name), or one of {', '.join(PACKAGED)}"
    )
