"""The loss of a batch is that of a plain loop over its episodes, and what it need not compute it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain, combinations, pairwise

import pytest
import torch
import torch.nn.functional as F
import transformers

from deltamem_agents.core import Attached, DeltaMemConfig, attach, new_adapter
from deltamem_agents.engine import Rendering
from deltamem_agents.training.adapters.collation import EpisodeBatch, EpisodeCollator, similar
from deltamem_agents.training.adapters.episode_loss import EpisodeLoss, checkpointed
from deltamem_agents.training.adapters.memory_plan import plan_memory, saved_bytes
from deltamem_agents.training.adapters.rendered import EpisodeRenderer, RenderedEpisode, RenderedQuestion

WRITE_LENGTH = 40  # several segments per episode


def powerset(numbers: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(numbers, size) for size in range(len(numbers) + 1))


def adapted(model, **options) -> Attached:
    adapter = new_adapter(model, DeltaMemConfig(**({"rank": 4, "couple_lambda": False} | options)), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for each in adapter.parameters():
            each.add_(torch.randn(each.shape, generator=generator) * 0.2)
    return attach(model, adapter)


@pytest.fixture
def rendered(tokenizer, some_episodes) -> list[RenderedEpisode]:
    render = EpisodeRenderer(Rendering(tokenizer), WRITE_LENGTH)
    return [render(each) for each in some_episodes(6, seed=4)]


def loop(attached: Attached, episodes: list[RenderedEpisode], spans: bool) -> torch.Tensor:
    """The loss in float64: one segment and one question at a time, without padding, with all logits."""
    losses = []
    for episode in episodes:
        state = attached.zero_state(1)
        for segment in episode.segments:
            ids = {"message_ids": segment.messages, "sentence_ids": segment.sentences} if spans else {}
            ids = {name: torch.tensor([each]) for name, each in ids.items()}
            _, state = attached.forward(state=state, input_ids=torch.tensor([segment.ids]), **ids)
        for question in episode.questions:
            tokens = torch.tensor([question.prompt + question.reply])
            output, _ = attached.forward(state=state, write=attached.adapter.config.answer_writes, input_ids=tokens)
            predicted = output.logits[0, len(question.prompt) - 1 : -1].double().log_softmax(-1)
            if question.unchanged:
                with torch.no_grad():
                    bare = attached.model(input_ids=tokens).logits[0, len(question.prompt) - 1 : -1].double()
                bare = bare.log_softmax(-1)
                losses.append((bare.exp() * (bare - predicted)).sum(-1).mean())
            else:
                losses.append(F.nll_loss(predicted, torch.tensor(question.reply)))
    return torch.stack(losses).mean()


@pytest.mark.parametrize(
    ("write", "answers"),
    [("token", False), ("message", False), ("sentence", False), ("token", True), ("sentence", True)],
)
def test_the_loss_is_that_of_a_plain_loop(small_backbone, rendered, write, answers) -> None:
    attached = adapted(small_backbone().double(), write=write, answer_writes=answers)
    module = EpisodeLoss(attached)
    batch = EpisodeCollator(0, write, forward=4)(rendered)
    assert max(len(each.segments) for each in rendered) > 1 and bool(batch["unchanged"].any())
    assert len(batch["prompts"]) > 1
    wanted = loop(attached, rendered, write != "token")
    wanted.backward()
    gradients = {name: each.grad.clone() for name, each in attached.adapter.named_parameters()}
    attached.adapter.zero_grad()
    found = module(**batch)["loss"]
    found.backward()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    for name, each in attached.adapter.named_parameters():
        assert (each.grad - gradients[name]).norm() < 2e-4 * gradients[name].norm(), name


def test_sampled_and_whole_vocabulary(small_backbone, rendered) -> None:
    module = EpisodeLoss(adapted(small_backbone()), negatives=50).train()
    batch = EpisodeCollator(0, "token")(rendered)
    with torch.no_grad():
        sampled = module(**batch)["loss"].item()
        module.sampling = False
        whole = module(**batch)["loss"].item()
        module.sampling = True
        assert module.eval()(**batch)["loss"].item() == pytest.approx(whole)
        module.negatives = 200_000  # nearly every token
        assert module.train()(**batch)["loss"].item() == pytest.approx(whole, rel=1e-3)
    assert 0 < sampled < whole


FAMILIES = [
    ("Qwen3Config", {"head_dim": 16}),
    ("Gemma3TextConfig", {"head_dim": 8, "final_logit_softcapping": 5.0}),
    ("GraniteConfig", {"logits_scaling": 4.0}),
    ("Phi3Config", {}),
    ("Olmo2Config", {"tie_word_embeddings": False}),
]


@pytest.mark.parametrize(("name", "extra"), FAMILIES)
def test_logits_are_the_backbones(name, extra) -> None:
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**sizes, **heads, **extra)).eval()
    module = EpisodeLoss(adapted(model))
    ids = torch.randint(3, 97, (2, 7))
    with torch.no_grad():
        wanted = model(input_ids=ids).logits
        hidden = module.decoder(input_ids=ids).last_hidden_state.flatten(0, 1)
        assert torch.allclose(module.logits(hidden), wanted.flatten(0, 1), atol=1e-5)
        few = torch.tensor([3, 8, 90])
        assert torch.allclose(module.logits(hidden, few), wanted.flatten(0, 1)[:, few], atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_layers_below_the_first_adapted_one_run_once_and_save_nothing(small_backbone, rendered, checkpointing) -> None:
    model = small_backbone()
    module = EpisodeLoss(adapted(model, layers=(2,)))
    batch = EpisodeCollator(0, "token")(rendered)
    plain = module.train()(**batch)["loss"]
    runs, saved = [0, 0, 0], [0, 0, 0]
    for index, layer in enumerate(model.model.layers):
        own = layer.mlp.forward

        def counted(x, index=index, own=own):
            runs[index] += 1
            saved[index] += x.requires_grad
            return own(x)

        layer.mlp.forward = counted
    with checkpointed(model) if checkpointing else nullcontext():
        loss = module.train()(**batch)["loss"]
        forwards = runs[0]
        loss.backward()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    assert runs[:2] == [forwards, forwards] and saved[:2] == [0, 0]
    assert (runs[2] > forwards) == checkpointing and saved[2] > 0


def test_the_backbone_stays_in_evaluation_mode(small_backbone, rendered) -> None:
    module = EpisodeLoss(adapted(small_backbone(attention_dropout=0.9))).train()
    batch = EpisodeCollator(0, "token")(rendered)
    with torch.no_grad():
        assert module(**batch)["loss"] == module(**batch)["loss"]


def test_scores_are_those_of_greedy_decoding(small_backbone, rendered) -> None:
    attached = adapted(small_backbone())
    module, collate = EpisodeLoss(attached), EpisodeCollator(0, "token", forward=4)
    state = module.fold(collate(rendered))

    def greedy(slot: int, question: RenderedQuestion) -> RenderedQuestion:
        prompt = torch.tensor([question.prompt])
        with attached.bind(state, [slot]):
            said = attached.model.generate(prompt, max_new_tokens=3, do_sample=False, eos_token_id=-1)
        return replace(question, reply=said[0, prompt.shape[1] :].tolist(), unchanged=False)

    def batch(ask: Callable[[int, RenderedQuestion], RenderedQuestion]) -> EpisodeBatch:
        return collate(
            [replace(one, questions=[ask(slot, each) for each in one.questions]) for slot, one in enumerate(rendered)]
        )

    # What greedy decoding says becomes the expected reply of every question, and is then right.
    wanted = batch(greedy)
    assert len(wanted["prompts"]) > 1 and module.score(wanted, state).right.all()
    wanted["targets"][0] += 1
    wrong = int(wanted["asked"][0])
    assert [n for n, right in enumerate(module.score(wanted, state).right.tolist()) if not right] == [wrong]
    unchanged = batch(lambda slot, question: replace(greedy(slot, question), unchanged=True))
    zero = module.score(unchanged, state, torch.full_like(unchanged["slots"], -1))
    assert zero.right.all() and zero.loss.abs().max() < 1e-5


@pytest.mark.parametrize("lengths", [[], [7], [30] * 9, [5, 300, 6, 290, 7, 8, 150, 155], [*range(0, 1200, 130)]])
def test_rows_of_similar_length_are_padded_together(lengths: list[int]) -> None:
    def cost(groups: Iterable[Sequence[int]]) -> int:
        return sum(max(group) * len(group) + 128 for group in groups)

    found = similar(lengths, lambda length: length, 128)
    assert sorted(chain.from_iterable(found)) == sorted(lengths)
    ordered = sorted(lengths, reverse=True)
    cuts = [*powerset(range(1, len(ordered)))]
    ways = [[ordered[a:b] for a, b in pairwise([0, *cut, len(ordered)])] for cut in cuts] if ordered else [[]]
    assert cost(found) == min(map(cost, ways))


def test_peak_memory_is_planned(small_backbone, rendered) -> None:
    module = EpisodeLoss(adapted(small_backbone(), layers=(1, 2)))
    batch = EpisodeCollator(0, "token")(rendered)
    plan = plan_memory(module, [batch], negatives=0)
    measured = saved_bytes(module, lambda: module(**batch))
    assert plan.activations + plan.logits == pytest.approx(measured, rel=0.5)
    assert plan.backbone == 4 * sum(each.numel() for each in module.backbone.parameters())
    assert plan.fits and f"{plan.peak / 2**20:,.0f} MiB" in str(plan)


def test_a_question_longer_than_the_write_length_is_refused(tokenizer, some_episodes) -> None:
    from deltamem_agents.errors import EpisodeError

    render = EpisodeRenderer(Rendering(tokenizer), 8)
    with pytest.raises(EpisodeError, match=r"a question of \d+ tokens with a reply of \d+ is longer than write_length"):
        render(some_episodes(1)[0])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
