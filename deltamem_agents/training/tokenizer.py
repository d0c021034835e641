"""The bundled model's tokenizer: byte-level BPE over generated conversations, one special token per role.

A word is the same token at the start of a message as in the middle (``add_prefix_space``), and most words of the domain
are one token; other text falls back to smaller pieces, down to bytes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import PreTokenizer
from transformers import PreTrainedTokenizerFast

from deltamem_agents.training.conversations import Shape, converse, invented_word
from deltamem_agents.training.domain import KEYS, Fact

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("system", "user", "assistant", "tool")
SPECIAL_TOKENS = (PAD, END, *(f"<|{role}|>" for role in ROLES))  # ids 0 to 5
CHAT_TEMPLATE = (
    "{#- deltamem-tiny -#}"
    "{%- if tools %}<|system|>Tools:\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|end|>{% endif -%}"
    "{%- for message in messages %}<|{{ message.role }}|>{{ message.content }}"
    "{%- if message.tool_calls %}{% for call in message.tool_calls %}"
    "<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}{% endif %}<|end|>{% endfor -%}"
    "{%- if add_generation_prompt %}<|assistant|>{% endif -%}"
)


def train_tokenizer(*, vocabulary: int = 3072, conversations: int = 6000, seed: int = 0) -> PreTrainedTokenizerFast:
    """Train on generated text; the same arguments give the same tokenizer."""
    return trained(pre_tokenizers.ByteLevel(add_prefix_space=True), _corpus(conversations, seed), vocabulary)


def trained(before: PreTokenizer, texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train byte-level BPE on texts; it has the special tokens and the chat template.

    Args:
        before: What cuts a text before it is cut into pieces.
        vocabulary: Number of tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = before
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, clean_up_tokenization_spaces=False
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _corpus(conversations: int, seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(20):  # covers every word of every pool in its usual context
        for subject, attribute in KEYS:
            for value in attribute.values:
                yield Fact(subject, attribute, value).statement(rng.randint(0, 1))
    for _ in range(conversations):
        conversation = converse(rng, Shape(facts=4, changed=1, filler=4, unknown=1))
        yield from (text for _, text in conversation.messages)
        yield from (text for question in conversation.questions for text in (question.text, question.answer))
        yield "Relevant memory:\n- user: \n- assistant: "
        yield invented_word(rng)
