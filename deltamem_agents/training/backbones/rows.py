"""What a backbone reads in training: rows of tokens from episodes, conversations and random tokens, in batches.

A row is what was told followed by questions and their answers, or one question with its records, or a question alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from transformers import PreTrainedTokenizerFast

from deltamem_agents.training.adapters.phases import Curriculum
from deltamem_agents.training.backbones.config import BackboneTrainingConfig
from deltamem_agents.training.backbones.vocabulary import WordEncoder
from deltamem_agents.training.batches import Batch, Row, extend, recalled_message, records_message, repeated_tokens
from deltamem_agents.training.conversations import UNKNOWN, Shape, converse, crowded
from deltamem_agents.training.episodes import Episode, Message, Question, draw_episode
from deltamem_agents.training.tokenizer import END, PAD

POOL = 12  # batches that are drawn together and then cut by length, so that little is padding
LONG = 8  # tokens up to which each token of an answer has the weight 1; those of a longer answer share it
COPY_WEIGHT = 0.5
ALONE = 0.4  # share of unrelated questions that are asked with nothing before them


@dataclass(frozen=True, slots=True)
class Place:
    """The position in the data: a pool, and a batch of it."""

    pool: int = 0
    batch: int = 0


class Rows:
    """Makes rows of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, finer: float = 0.0, text_weight: float = 0.1) -> None:
        self._encoder = WordEncoder(tokenizer, finer=finer)
        self._usual = WordEncoder(tokenizer)
        self._tokenizer = tokenizer
        self._text_weight = text_weight
        self.pad = self._id(PAD)
        self.end = self._id(END)
        self.vocabulary = len(tokenizer)

    def of_episode(self, rng: random.Random, episode: Episode, *, bare: float = 0.0, plain: bool = True) -> list[Row]:
        """The rows of an episode: its messages with the questions that bring none, and a row for each that does."""
        encoder = self._usual if plain else self._encoder
        encoder.begin(rng)
        rows = []
        asked = []
        for question in episode.questions:
            if len(question.messages) > 1 or (question.reference == "backbone" and rng.random() < ALONE):
                rows.append(self._exchange(encoder, question))
            else:
                asked.append(question)
                if question.kind in ("stated", "changed", "unknown") and rng.random() < bare:
                    rows.append(self._exchange(encoder, replace(question, answer=UNKNOWN)))
        if asked:
            rng.shuffle(asked)
            row = self.messages(encoder, episode.messages, self._text_weight)
            for question in asked:
                extend(row, self._exchange(encoder, question))
            rows.append(row)
        return rows

    def each_question(self, episode: Episode) -> list[Row]:
        """A row for each question, with what was told before it unless it brings messages of its own."""
        rows = []
        for question in episode.questions:
            own = len(question.messages) > 1
            row = Row([], []) if own else self.messages(self._usual, episode.messages, 0.0)
            extend(row, self._exchange(self._usual, question))
            rows.append(row)
        return rows

    def of_conversation(self, rng: random.Random) -> list[Row]:
        """The rows of a conversation about the closed vocabulary."""
        if rng.random() < 0.35:
            return self._recalled(rng)
        facts = rng.randint(1, 12)
        shape = Shape(
            facts=facts,
            changed=rng.randint(0, facts) // 3,
            filler=rng.choice((0, 0, 0, 1, 2, 4)),
            unknown=1 + facts // 4,
            acknowledged=rng.choice((0.0, 0.5, 1.0)),
            invented=rng.choice((0.0, 0.0, 0.0, 1.0)),
            mixed=float(rng.random() < 0.5),
        )
        conversation = converse(rng, crowded(rng, shape, 0.4))
        messages = [records_message(rng, conversation)] if rng.random() < 0.35 else conversation.messages
        row = self.messages(self._usual, _dicts(messages), self._text_weight)
        questions = list(conversation.questions)
        rng.shuffle(questions)
        for question in questions:
            extend(row, self._asked(question.text, question.answer))
        return [row]

    def messages(self, encoder: WordEncoder, messages: Sequence[Message], weight: float) -> Row:
        """Messages one after another; ``weight`` counts for all but the roles."""
        row = Row([], [])
        for message in messages:
            ids = [self._id(f"<|{message['role']}|>"), *encoder.encode(message["content"]), self.end]
            extend(row, Row(ids, [0.0] + [weight] * (len(ids) - 1)))
        return row

    def batch(self, rows: Sequence[Row]) -> Batch:
        """Rows padded on the right to the longest one."""
        length = max(len(row) for row in rows)
        ids = torch.full((len(rows), length), self.pad)
        weights = torch.zeros(len(rows), length)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row.ids)
            weights[number, : len(row)] = torch.tensor(row.weights)
        return Batch(ids, ids != self.pad, weights)

    def _exchange(self, encoder: WordEncoder, question: Question) -> Row:
        row = self.messages(encoder, question.messages, 0.0)
        answer = self.messages(encoder, [{"role": "assistant", "content": question.answer or ""}], 1.0)
        if len(answer) - 1 > LONG:
            answer.weights = [weight * LONG / (len(answer) - 1) for weight in answer.weights]
        extend(row, answer)
        return row

    def _asked(self, text: str, answer: str) -> Row:
        row = self.messages(self._usual, [{"role": "user", "content": text}], 0.0)
        extend(row, self.messages(self._usual, [{"role": "assistant", "content": answer}], 1.0))
        return row

    def _recalled(self, rng: random.Random) -> list[Row]:
        """Questions after up to ten records about the same subject or attribute, of which one answers, or none."""
        shape = Shape(
            facts=rng.randint(8, 40),
            changed=rng.choice((0, 4, 8)),
            filler=4,
            unknown=3,
            acknowledged=0.0,
            mixed=float(rng.random() < 0.5),
        )
        conversation = converse(rng, crowded(rng, shape, 0.7))
        rows = []
        for question in rng.sample(conversation.questions, 4):
            found = rng.random() < 0.85
            recalled = recalled_message(rng, conversation, question, keep=rng.randint(1, 10), found=found)
            row = self.messages(self._usual, _dicts([recalled]), self._text_weight)
            extend(row, self._asked(question.text, question.answer if found else UNKNOWN))
            rows.append(row)
        return rows

    def _id(self, token: str) -> int:
        found = self._tokenizer.convert_tokens_to_ids(token)
        assert isinstance(found, int)
        return found


class Batches:
    """The batches of a run, which can begin at any place; each pool of them is drawn from seed and number alone."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, config: BackboneTrainingConfig) -> None:
        self._rows = Rows(tokenizer, finer=config.finer, text_weight=config.text_weight)
        self._config = config
        self._curriculum = Curriculum(config.mixture)

    def begin(self, place: Place, step: int) -> Iterator[tuple[Place, Batch]]:
        """Batches from a place on, each with the place that follows it; ``step`` says how far the run is."""
        while True:
            batches = self._pool(place.pool, step - place.batch)
            for number in range(place.batch, len(batches)):
                last = number + 1 == len(batches)
                place = Place(place.pool + 1, 0) if last else Place(place.pool, number + 1)
                step += 1
                yield place, self._rows.batch(batches[number])

    def _pool(self, number: int, step: int) -> list[list[Row]]:
        config = self._config
        mixture = self._curriculum.at(step / config.steps)
        copying, closed = config.shares(step)
        rng = random.Random(f"pool {config.seed} {number}")
        rows: list[Row] = []
        total = count = 0
        while total < POOL * config.tokens:
            kind = rng.random()
            if kind < copying:
                drawn = [repeated_tokens(rng, rng.randint(48, 256), self._rows.vocabulary, weight=COPY_WEIGHT)]
            elif kind < copying + closed:
                drawn = self._rows.of_conversation(rng)
            else:
                episode = draw_episode(config.seed, number * 10_000 + count, mixture)
                drawn = self._rows.of_episode(rng, episode, bare=config.bare, plain=rng.random() < config.plain)
                count += 1
            rows += drawn
            total += sum(map(len, drawn))
        return _cut(rng, rows, config.tokens)


def _cut(rng: random.Random, rows: list[Row], tokens: int) -> list[list[Row]]:
    """Rows of similar length, in batches of at most so many tokens, or of one row."""
    batches: list[list[Row]] = []
    for row in sorted(rows, key=lambda each: (len(each), rng.random())):
        if batches and (len(batches[-1]) + 1) * len(row) <= tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    rng.shuffle(batches)
    return batches


def _dicts(messages: Sequence[tuple[str, str]]) -> list[Message]:
    return [cast(Message, {"role": role, "content": text}) for role, text in messages]
