"""A random backbone with the bundled tokenizer, and episodes that mean something to neither."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, SmolLM3Config, SmolLM3ForCausalLM

from deltamem_agents import tiny
from deltamem_agents.training.episodes import Episode, Question

WORDS = "red blue green seven eleven Monday Friday cello piano Rex Bruno Lisbon Oslo tea coffee".split()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny.FOLDER)


@pytest.fixture
def small_backbone(tokenizer: PreTrainedTokenizerBase) -> Callable[..., PreTrainedModel]:
    """A random SmolLM3 of 0.1 million parameters, the same at each call."""

    def make(**changes: Any) -> PreTrainedModel:
        torch.manual_seed(0)
        options: dict[str, Any] = {
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "initializer_range": 0.3,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": None,
        }
        return SmolLM3ForCausalLM(SmolLM3Config(**(options | changes))).eval()

    return make


def told(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


@pytest.fixture(scope="session")
def some_episodes() -> Callable[..., list[Episode]]:
    """Episodes of one to three sessions and one to three questions, some of which should be answered as before."""

    def make(count: int, *, seed: int = 0, held_out: bool = False) -> list[Episode]:
        rng = random.Random(seed)
        made = []
        for _ in range(count):
            facts = rng.sample(WORDS, rng.randint(1, 3))
            sessions = tuple((told(f"Mine is {word}."), told("How nice it is.")) for word in facts)
            questions = [
                Question(messages=(told(f"Which one is {n}?"),), answer=word, kind="stated", held_out=held_out)
                for n, word in enumerate(facts)
            ]
            if rng.random() < 0.5:
                questions.append(
                    Question(
                        messages=(told("Say something."),),
                        answer=f"It is {rng.choice(WORDS)}.",
                        kind="unrelated",
                        reference="backbone",
                        held_out=held_out,
                    )
                )
            made.append(Episode(sessions=sessions, questions=tuple(questions)))
        return made

    return make
