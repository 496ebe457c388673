"""What families remember of prompts between generations: tokenizers and text features."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoTokenizer

_tokenizers: dict[Path, Any] = {}


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer of a `pipeline` artifact, read once per process (UMT5's vocabulary of 256,384 takes seconds)."""
    if directory not in _tokenizers:
        _tokenizers[directory] = AutoTokenizer.from_pretrained(directory / "tokenizer")
    return _tokenizers[directory]


class PromptCache:
    """Text features of the prompts used last, so that a repeated prompt (above all a negative one) is encoded once."""

    def __init__(self, size: int = 32):
        self._size = size
        self._features: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def features(self, prompt: str, encode: Callable[[str], Tensor]) -> Tensor:
        """What `encode` gives for a prompt."""
        with self._lock:
            if prompt in self._features:
                self._features.move_to_end(prompt)
                return self._features[prompt]
        features = encode(prompt)
        with self._lock:
            self._features[prompt] = features
            while len(self._features) > self._size:
                self._features.popitem(last=False)
        return features
