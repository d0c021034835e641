"""Episodes as tokens: segments as the engine folds them, and questions with their replies as it answers them.

Knows tokens, nothing about tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltamem_agents.engine import Rendering, Segment, cut
from deltamem_agents.errors import EpisodeError
from deltamem_agents.training.episodes import Episode, Question


@dataclass(frozen=True, slots=True)
class RenderedQuestion:
    """A question as tokens.

    Args:
        prompt: Everything before the reply.
        reply: The reply's tokens, with the one that ends it.
        unchanged: Whether the reply's distribution should be that of the bare backbone.
        kind: Kind of the question.
        asked: The question itself, which may accept other replies.
    """

    prompt: list[int]
    reply: list[int]
    unchanged: bool
    kind: str
    asked: Question


@dataclass(frozen=True, slots=True)
class RenderedEpisode:
    """An episode as tokens: segments are folded in order, then each question is asked of the state."""

    segments: list[Segment]
    questions: list[RenderedQuestion]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A message of an episode as a journal entry."""

    position: int
    session: str
    role: str
    text: str


class EpisodeRenderer:
    """Renders episodes for one tokenizer.

    Args:
        write_length: Maximum number of tokens in a segment, and in a question with its reply.
    """

    def __init__(self, rendering: Rendering, write_length: int) -> None:
        self.rendering = rendering
        self.write_length = write_length

    def __call__(self, episode: Episode) -> RenderedEpisode:
        """Render an episode.

        Raises:
            EpisodeError: A question with its reply is longer than the write length.
            ChatTemplateError: The template refuses a question.
        """
        return RenderedEpisode(self.segments(episode), [self.question(each) for each in episode.questions])

    def segments(self, episode: Episode) -> list[Segment]:
        """The episode's messages, cut as a journal of them would be."""
        entries = [
            _Entry(position, str(session), message["role"], message["content"])
            for position, (session, message) in enumerate(
                ((number, message) for number, session in enumerate(episode.sessions) for message in session), 1
            )
        ]
        return list(cut(entries, self.rendering, self.write_length))

    def question(self, question: Question) -> RenderedQuestion:
        """Render a question: as recall asks it if there is one right answer, and otherwise as chat does.

        Recall puts the family's instruction before the records, or in their place.

        Raises:
            EpisodeError: It is longer than the write length.
            ChatTemplateError: The template refuses it.
        """
        messages: Sequence[Mapping[str, Any]] = question.messages
        if question.checker is None and question.reference == "answer":
            messages = self._instructed(messages)
        prompt = self.rendering.prompt(messages)
        reply = [*self.rendering.text(question.answer), *self.rendering.end()]
        if len(prompt) + len(reply) > self.write_length:
            raise EpisodeError(
                f"a question of {len(prompt)} tokens with a reply of {len(reply)} is longer than write_length, which "
                f"is {self.write_length}; shorten it, or train with a larger write_length"
            )
        return RenderedQuestion(prompt, reply, question.reference == "backbone", question.kind, question)

    def _instructed(self, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        instruction = self.rendering.format.instruction
        if not instruction:
            return list(messages)
        if messages[0]["role"] != "system":
            return [{"role": "system", "content": instruction}, *messages]
        return [{"role": "system", "content": f"{instruction}\n\n{messages[0]['content']}"}, *messages[1:]]
