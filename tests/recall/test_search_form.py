"""The form that texts are searched in: in memory and in the database's index, on both sides, and nowhere else."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltamem_agents.recall import CallableEmbedder, Retriever, query_terms
from deltamem_agents.recall.words import Postings
from deltamem_agents.search_form import embedded_form, folded, search_form
from deltamem_agents.store import Store

FOUND = [  # written, and asked for: each finds the other
    ("ロッカーは４４１７です。", "4417"),
    ("我的柜号是ＡＢ９。", "AB9"),
    ("ﾃﾞｰﾀﾍﾞｰｽは東京です。", "データベース"),
    ("ﾊﾟｽﾜｰﾄﾞ", "パスワード"),
    ("Das Zau\u00adber\u00adwort ist Reiher.", "Zauberwort"),
    ("The pass\u200bphrase is heron.", "passphrase"),
    ("zero\u2060width join\ufefferr", "zerowidth"),
    ("left\u200eright\u200f mark", "leftright"),
    ("\u202ahidden\u202c in \u2066isolates\u2069", "hidden"),
    ("葛\U000e0100飾区", "葛飾区"),
    ("a \ufb01le", "file"),
    ("e\ufb03cient", "efficient"),
    ("The area is 25 m².", "m2"),
    ("H₂O", "H2O"),
    ("chapter Ⅳ", "IV"),
    ("step ①", "1"),
    ("25㎏", "25kg"),
    ("25㎏ of rice", "kg"),
    ("№7", "No7"),
    ("Deltamem™ works", "Deltamem"),
    ("\U0001d407\U0001d41e\U0001d425\U0001d425\U0001d428 there", "Hello"),
    ("ＥＲＲ－４０１２", "ERR-4012"),
    ("Mieszkam w Łodzi.", "Lodzi"),
    ("Ørsted", "orsted"),
    ("Đorđe", "Dorde"),
    ("Straße", "STRASSE"),
    ("Æther", "aether"),
    ("cœur", "coeur"),
    ("Müller", "Muller"),
    ("Mu\u0308ller", "MÜLLER"),
    ("Ελλάδα", "ΕΛΛΑΔΑ"),
    ("λόγος", "ΛΌΓΟΣ"),
    ("Йошкар-Ола", "йошкар"),
    ("می\u200cخواهم", "میخواهم"),
    ("کتاب\u200cها", "کتاب"),
    ("ﻣﺮﺣﺒﺎ", "مرحبا"),
    ("مَرحَبا", "مرحبا"),
    ("क्\u200dष", "क्ष"),
    ("서울\u200b특별시", "서울특별시"),
    ("İstanbul", "istanbul"),
]
EACH = [pytest.param(text, query, id=f"{number}-{query}") for number, (text, query) in enumerate(FOUND)]


@pytest.mark.parametrize(("text", "query"), EACH)
def test_in_memory(text: str, query: str) -> None:
    others = ["We painted the fence.", "Lunch was soup."]
    for said, asked in ((text, query), (query, text)):
        scores = Postings.empty().grown([*others, said]).scores(asked)
        assert scores[2] > 0 and not scores[:2].any()


def test_in_the_databases_index(store: Store) -> None:
    """All at once: one agent a case, in either direction."""
    for number, (text, query) in enumerate(FOUND):
        for way, said in (("a", text), ("b", query)):
            messages = [
                {"role": "user", "content": each} for each in ("We painted the fence.", said, "Lunch was soup.")
            ]
            store.append(f"{way}{number}", messages, "s")
    missed, unasked = [], []
    for number, (text, query) in enumerate(FOUND):
        for way, said, asked in (("a", text, query), ("b", query, text)):
            found = [record.text for record, _ in store.records.search_text(f"{way}{number}", query_terms(asked), 9)]
            if said not in found:  # what is stored is what was written
                missed.append((said, asked))
            unasked += [each for each in found if each != said]
    assert (missed, unasked) == ([], [])


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
def test_the_form_of_a_form_is_itself(text: str) -> None:
    form = search_form(text, both=False)
    assert search_form(form, both=False) == form
    assert folded(folded(form)) == folded(form)
    assert not any(character in form for character in "\u00ad\u200b\u200e\u2066\ufeff\ufe0f")
    assert unicodedata.is_normalized("NFC", embedded_form(text))


def test_embedders_get_it_but_for_joiners_that_spell() -> None:
    assert embedded_form("pass\u200bword ４４ \u200da") == "password 44 a"
    for kept in ("می\u200cخواهم", "क्\u200dष", "👩\u200d💻"):
        assert embedded_form(kept) == kept
    given: list[str] = []

    def embed(texts: list[str]) -> list[list[float]]:
        given.extend(texts)
        return [[1.0, 0.0]] * len(texts)

    with Store.open("sqlite://") as store:
        store.append("a", [{"role": "user", "content": "the ﬁle is ４"}], "s")
        (found,) = Retriever(store.records, CallableEmbedder(embed, name="n")).search("a", "ﬁle ４")
    assert given == ["the file is 4", "file 4"] and found.text == "the ﬁle is ４"
