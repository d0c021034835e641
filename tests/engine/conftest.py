"""A tokenizer of any family, small enough to make here, and messages as a journal holds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Said:
    """What a segment needs of a journal entry."""

    position: int
    text: str
    role: str = "user"
    session: str = "s1"


MakeTokenizer = Callable[[str, list[str]], PreTrainedTokenizerFast]


@pytest.fixture(scope="module", autouse=True)
def _small_model(small_instead_of_tiny: None) -> None:
    pass


@pytest.fixture(scope="session")
def make_tokenizer() -> MakeTokenizer:
    """A byte-level tokenizer without merges, with a chat template and the special tokens it uses."""

    def make(template: str, special: list[str]) -> PreTrainedTokenizerFast:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
        fast.chat_template = template
        return fast

    return make


@pytest.fixture(scope="session")
def said() -> type[Said]:
    return Said
