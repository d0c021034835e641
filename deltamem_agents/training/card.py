"""The bundled model's card, made from the record of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deltamem_agents.training.conversations import OPENINGS
from deltamem_agents.training.domain import KEYS, PEOPLE, PERSONAL, REPOSITORIES, REPOSITORY, Attribute, Fact

_LIMITS = (
    "## Limits\n\n"
    "Other subjects, attributes and phrasings than these are out of its reach in state mode; retrieval still finds "
    "them and hands them over word for word. Where something near to a question was said, of the same subject or of "
    "the same kind, it sometimes answers with that instead of not knowing. It does not converse, reason or follow "
    "instructions. Its adapter fits this one checkpoint and no other."
)


def model_card(facts: Mapping[str, Any]) -> str:
    """The text of MODEL_CARD.md; ``facts`` is the content of ``training.json``."""
    return (
        "\n\n".join(
            [
                _head(facts),
                _table(facts["scores"]),
                *([_everyday(facts["everyday"])] if facts.get("everyday") else []),
                _training(facts),
                _domain(),
                _LIMITS,
            ]
        )
        + "\n"
    )


def _head(facts: Mapping[str, Any]) -> str:
    count = facts["parameters"]
    backbone, adapter = facts["backbone"], facts["adapter"]
    state = len(adapter["layers"]) * adapter["rank"] ** 2 * 4
    return (
        "# tiny: the bundled model\n\n"
        f"A SmolLM3 causal LM of {count['backbone']:,} parameters ({backbone['layers']} layers of width "
        f"{backbone['width']}), its tokenizer, and a δ-mem adapter of {count['adapter']:,} parameters (rank "
        f"{adapter['rank']}, layers {', '.join(map(str, adapter['layers']))}, corrections of q and o, a write for "
        f"each token, λ of its own). An agent's state is {state:,} bytes. It answers with writes off. Trained by this "
        "project from generated conversations alone; Apache-2.0 like the rest.\n\n"
        "It is here so that everything runs, and can be tested, on a machine without a GPU or a model hub. It talks "
        "about the facts listed below and little else: use a real backbone for real work."
    )


def _table(scores: list[Mapping[str, Any]]) -> str:
    if not scores:
        return "## Recall\n\nNot measured."
    counts = sorted({score["facts"] for score in scores})
    measures = list(dict.fromkeys(score["measure"] for score in scores))
    found = {(score["measure"], score["facts"]): score["right"] for score in scores}
    rows = [f"| facts | {' | '.join(map(str, counts))} |", f"| --- |{' --- |' * len(counts)}"]
    for measure in measures:
        cells = (found.get((measure, count)) for count in counts)
        rows.append(f"| {measure} | {' | '.join('–' if cell is None else f'{cell:.3f}' for cell in cells)} |")
    asked = max(score["questions"] for score in scores)
    return (
        "## Recall\n\n"
        "Share of questions whose greedy answer is exactly right. All facts are held out: the triple of who, what and "
        f"value never occurred in training. {min(s['questions'] for s in scores)} to {asked} questions a figure, "
        "each asked as a session of its own.\n\n" + "\n".join(rows)
    )


def _everyday(scores: Sequence[Mapping[str, Any]]) -> str:
    shares = ("right", "wrong", "invented")
    rows = [
        f"| {each['facts']} | {' | '.join(f'{each[name]:.3f}' for name in shares)} | {each['questions']} |"
        for each in scores
    ]
    return (
        "## Everyday English\n\n"
        "Facts of daily life in words that training never sees: other attributes, names and phrasings than those below "
        "(`training/everyday.toml`). Each agent is told some, and is asked about five of them and five others, in mode "
        f"{scores[0]['mode']} with five records. The rest of what was told is not answered.\n\n"
        "| told | right | wrong | answered though never told | questions of each kind |\n"
        "| --- | --- | --- | --- | --- |\n" + "\n".join(rows)
    )


def _training(facts: Mapping[str, Any]) -> str:
    machine, seconds = facts["machine"], facts["seconds"]
    backbone, adapter = facts["backbone"], facts["adapter"]
    minutes = ", ".join(f"{name} {value / 60:.0f} min" for name, value in seconds.items())
    return (
        "## Training\n\n"
        f"`deltamem train tiny --out FOLDER` (or `examples/train_tiny.py`) repeats it: seed {adapter['seed']}, "
        f"backbone {backbone['steps']} steps of about {backbone['tokens']} tokens, adapter {adapter['steps']} "
        f"steps of about {adapter['tokens']}. Took {minutes} on {machine['threads']} threads ({machine['processor']}, "
        f"Python {machine['python']}, torch {machine['torch']}, transformers {machine['transformers']}).\n\n"
        "The data is generated as it is used: facts of the user, of other people and of repositories, corrections, "
        "small talk, questions that cannot be answered, and repeated random tokens for the backbone. `training.json` "
        "holds the recipes and the figures as data. `adapter/deltamem_calibration.json` says what a gain in "
        "probability is worth; it was fitted to answers about other conversations of held-out facts."
    )


def _domain() -> str:
    user, person = Fact("me", PERSONAL[0], PERSONAL[0].values[0]), Fact(PEOPLE[0], PERSONAL[7], PERSONAL[7].values[4])
    rule = Fact(REPOSITORIES[0], REPOSITORY[0], REPOSITORY[0].values[0])
    openings = ", ".join(f"“{opening.strip()}”" for opening in dict.fromkeys(OPENINGS) if opening)
    examples = "\n".join(
        f"| {_sentence(fact.statement(form))} | {_sentence(fact.question(form))} | {fact.value} |"
        for fact in (user, person, rule)
        for form in (0, 1)
    )
    return (
        f"## What it can be told\n\n{len(KEYS)} keys of who and what. Who: the user, {', '.join(PEOPLE)}, and the "
        f"{', '.join(REPOSITORIES)} repositories.\n\n| told | asked | answer |\n| --- | --- | --- |\n{examples}\n\n"
        f"Statements may open with {openings}. A correction reads “My favourite colour is now red.”. Where nothing was "
        "said it answers “I don't know.”\n\n"
        "| people's | one of |\n| --- | --- |\n" + "\n".join(map(_row, PERSONAL)) + "\n\n"
        "| repositories' | one of |\n| --- | --- |\n" + "\n".join(map(_row, REPOSITORY))
    )


def _row(attribute: Attribute) -> str:
    return f"| {attribute.noun} | {', '.join(attribute.values)} |"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
