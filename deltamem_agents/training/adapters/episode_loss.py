"""The loss of an adapter on a batch of episodes: folds their sessions, asks their questions, compares replies.

Each question is asked in a fresh context that reads its episode's state and does not write it. Gradients flow back
through the writes. Only hidden states at reply tokens are turned into logits; below the first adapted layer nothing
requires gradients, so autograd saves nothing there and gradient checkpointing runs nothing again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import send_to_device
from torch import Tensor, nn

from deltamem_agents.core import Attached, State
from deltamem_agents.core.families import inspect_backbone
from deltamem_agents.training.adapters.collation import EpisodeBatch, Prompts, Writes

ROWS = 256  # reply tokens whose logits over the full vocabulary are held at once where no gradient is needed


@dataclass(frozen=True, slots=True)
class Scored:
    """Replies to the Q questions of a batch.

    Args:
        loss: Mean loss of each question's reply [Q]: cross entropy, or divergence from the bare backbone.
        right: Whether greedy decoding gives exactly the reply; of a reply that should be unchanged, whether each of its
            tokens is as likely to be drawn greedily as by the bare backbone [Q].
    """

    loss: Tensor
    right: Tensor


class EpisodeLoss(nn.Module):
    """Frozen backbone and adapter, as one module whose forward returns the loss.

    Args:
        attached: The adapter on its backbone.
        negatives: Random tokens of the sampled softmax, next to those of the batch; 0 for the whole vocabulary.
        unchanged_weight: Weight of the divergence from the bare backbone, next to cross entropy.
    """

    accepts_loss_kwargs = False  # the loss is a mean over the batch; the trainer divides it by accumulation steps

    def __init__(self, attached: Attached, *, negatives: int = 0, unchanged_weight: float = 1.0) -> None:
        super().__init__()
        self.backbone = attached.model
        self.adapter = attached.adapter
        self.attached = attached
        self.negatives = negatives
        self.sampling = negatives > 0
        self.unchanged_weight = unchanged_weight
        self.decoder = inspect_backbone(attached.model).decoder
        self._head: Any = attached.model.get_output_embeddings()  # type: ignore[operator]
        config: Any = attached.model.config
        text = config.get_text_config()
        self._divisor = float(getattr(text, "logits_scaling", 1.0) or 1.0)
        self._cap = getattr(text, "final_logit_softcapping", None)

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens that the backbone can predict."""
        return int(self._head.weight.shape[0])

    def train(self, mode: bool = True) -> EpisodeLoss:
        """Set the mode of the adapter; the backbone stays in evaluation mode, as it answers.

        Only its adapted layers themselves are set, and those above, without what they hold: layers checkpoint only in
        training mode.
        """
        self.training = mode
        self.adapter.train(mode)
        first = self.adapter.layer_indices[0]
        for index, layer in enumerate(self.decoder.get_submodule("layers").children()):
            layer.training = mode and index >= first
        return self

    def forward(self, **batch: Any) -> dict[str, Tensor]:
        """The loss of an `EpisodeBatch`, given by its keys."""
        given: EpisodeBatch = batch  # type: ignore[assignment]
        hidden = self._hidden(given["prompts"], self.fold(given), given["slots"])
        vocabulary = self._sampled(given) if self.sampling and self.training else None
        return {"loss": self._loss(given, hidden, vocabulary)}

    def placed(self, batch: EpisodeBatch) -> EpisodeBatch:
        """The batch on the adapter's device."""
        placed: EpisodeBatch = send_to_device(batch, self.attached.device)
        return placed

    def fold(self, batch: EpisodeBatch) -> State:
        """States [B, …] after all sessions, segment by segment."""
        state: State = self.attached.zero_state(batch["episodes"])
        for writes in batch["writes"]:
            slots = writes["slots"]
            after = self._write(writes, {key: each[slots] for key, each in state.items()})
            state = {key: each.index_copy(0, slots, after[key]) for key, each in state.items()}
        return state

    @torch.no_grad()
    def score(self, batch: EpisodeBatch, state: State, slots: Tensor | None = None) -> Scored:
        """Compare replies under the full vocabulary.

        Args:
            state: A pool of states.
            slots: [Q] the row of the pool that each question reads, −1 for the zero state; by default its episode's.
        """
        hidden = self._hidden(batch["prompts"], state, batch["slots"] if slots is None else slots)
        unchanged = batch["unchanged"]
        bare = self._hidden(batch["prompts"], None) if bool(unchanged.any()) else None
        losses, hits = [], []
        for start in range(0, len(hidden), ROWS):
            piece = slice(start, start + ROWS)
            logits, targets = self.logits(hidden[piece]), batch["targets"][piece]
            loss = F.cross_entropy(logits, targets, reduction="none")
            if bare is not None:
                before = self.logits(bare[piece])
                loss = torch.where(unchanged[piece], divergence(before, logits), loss)
                targets = torch.where(unchanged[piece], before.argmax(-1), targets)
            losses.append(loss)
            hits.append(logits.argmax(-1) == targets)
        questions = len(batch["slots"])
        lengths = torch.bincount(batch["asked"], minlength=questions)
        totals = torch.zeros(questions, device=hidden.device).index_add_(0, batch["asked"], torch.cat(losses))
        right = torch.zeros(questions, device=hidden.device).index_add_(0, batch["asked"], torch.cat(hits).float())
        return Scored(totals / lengths, right == lengths)

    def logits(self, hidden: Tensor, vocabulary: Tensor | None = None) -> Tensor:
        """Float32 logits [N, V] of hidden states [N, D], as the backbone computes them.

        Args:
            vocabulary: Token ids [V] in ascending order; None for all.
        """
        if vocabulary is None:
            found: Tensor = self._head(hidden)
        else:
            bias = self._head.bias
            found = F.linear(hidden, self._head.weight[vocabulary], None if bias is None else bias[vocabulary])
        found = found.float() if found.dtype in (torch.float16, torch.bfloat16) else found
        found = found / self._divisor
        return found if self._cap is None else torch.tanh(found / self._cap) * self._cap

    def _write(self, writes: Writes, before: State) -> State:
        mask = writes["mask"]
        _, after = self.attached.forward(
            state=before,
            write=True,
            message_ids=writes.get("message_ids"),
            sentence_ids=writes.get("sentence_ids"),
            input_ids=writes["ids"],
            attention_mask=mask,
            use_cache=False,
            logits_to_keep=1,
        )
        return after

    def _hidden(self, prompts: Sequence[Prompts], state: State | None, slots: Tensor | None = None) -> Tensor:
        """Hidden states [N, D] that predict the reply tokens; of the bare backbone if there is no state.

        Args:
            slots: [Q] the row of the state that each question reads.
        """
        found: list[Tensor] = []
        for asked in prompts:
            with ExitStack() as reading:
                if state is not None and slots is not None:
                    writes = self.adapter.config.answer_writes  # in training as in use
                    reading.enter_context(self.attached.bind(state, slots[asked["questions"]], writes))
                output = self.decoder(input_ids=asked["ids"], use_cache=False)
            found.append(output.last_hidden_state[asked["rows"], asked["places"]])
        return torch.cat(found)

    def _sampled(self, batch: EpisodeBatch) -> Tensor:
        """The tokens of the batch and random ones, ascending."""
        device = batch["targets"].device
        drawn = torch.randint(self.vocabulary_size, (self.negatives,)).to(device)
        seen = [
            *(each["ids"].flatten() for each in batch["prompts"]),
            *(each["ids"].flatten() for each in batch["writes"]),
        ]
        vocabulary: Tensor = torch.unique(torch.cat([*seen, drawn]))
        return vocabulary

    def _loss(self, batch: EpisodeBatch, hidden: Tensor, vocabulary: Tensor | None) -> Tensor:
        targets = batch["targets"]
        logits = self.logits(hidden, vocabulary)
        places = targets if vocabulary is None else torch.searchsorted(vocabulary, targets)
        losses = F.cross_entropy(logits, places, reduction="none")
        unchanged = batch["unchanged"]
        if bool(unchanged.any()):
            bare = self._bare(batch, unchanged, vocabulary)
            losses = losses.masked_scatter(unchanged, self.unchanged_weight * divergence(bare, logits[unchanged]))
        return (losses * batch["weights"].to(losses.dtype)).sum()

    @torch.no_grad()
    def _bare(self, batch: EpisodeBatch, unchanged: Tensor, vocabulary: Tensor | None) -> Tensor:
        """The bare backbone's logits at the chosen reply tokens."""
        prompts: list[Prompts] = []
        chosen = torch.split(unchanged, [len(each["rows"]) for each in batch["prompts"]])
        for asked, tokens in zip(batch["prompts"], chosen, strict=True):
            if bool(tokens.any()):
                kept, rows = torch.unique(asked["rows"][tokens], return_inverse=True)
                places, questions = asked["places"][tokens], asked["questions"][kept]
                prompts.append(Prompts(questions=questions, ids=asked["ids"][kept], rows=rows, places=places))
        return self.logits(self._hidden(prompts, None), vocabulary)


def divergence(before: Tensor, after: Tensor) -> Tensor:
    """KL(before ‖ after) of logits [N, V], for each of the N."""
    return F.kl_div(after.log_softmax(-1), before.log_softmax(-1), reduction="none", log_target=True).sum(-1)


@contextmanager
def checkpointed(model: Any) -> Iterator[None]:
    """Inside, a backbone computes its layers again in the backward pass, instead of saving what they computed."""
    options = {"use_reentrant": False}  # the other kind cuts the state off from autograd
    new = hasattr(model, "activation_checkpointing_enable")  # earlier versions of Transformers have another name
    if new:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    model.disable_input_require_grads()  # only the other kind needs these; they would give all layers gradients
    try:
        yield
    finally:
        if new:
            model.activation_checkpointing_disable()
        else:
            model.gradient_checkpointing_disable()
