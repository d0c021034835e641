"""Checkers accept what follows a rule and refuse what does not, however it is dressed up."""

from __future__ import annotations

import pytest

from deltamem_agents.training.episodes.checkers import (
    AllOf,
    BeginsWith,
    Case,
    Checker,
    Contains,
    EndsWith,
    Exactly,
    Lacks,
    LacksCharacters,
    MaxSentences,
    MaxWords,
)
from deltamem_agents.training.episodes.formats import (
    Annotated,
    DateStyle,
    Documented,
    Indentation,
    ListStyle,
    Naming,
    NumberStyle,
    Quotes,
    TimeStyle,
    UnitStyle,
)

TWO = "def add_all(first, second):\n  return first + second"
FOUR = TWO.replace("  return", "    return")
TAB = TWO.replace("  return", "\treturn")
NESTED = "def f(a_b):\n    if a_b:\n        return 'x'\n    return 'y'"

CASES: list[tuple[Checker, list[str], list[str]]] = [
    (Exactly("Hi"), ["Hi", " Hi\n"], ["hi", "Hi there", ""]),
    (Contains("Dr Voss"), ["Yes, dr voss.", "Dr Voss"], ["Dr Vossen", "Dr  Voss", ""]),
    (Contains("Dr Voss", case=True), ["Yes, Dr Voss."], ["Yes, dr voss."]),
    (Lacks(("pear", "fig")), ["apple, pearl"], ["Pear", "a fig.", ""]),
    (LacksCharacters("!"), ["Hello."], ["Hello!", ""]),
    (BeginsWith("Captain"), ["Captain, yes.", "Captain: yes"], ["Captains say yes", "Yes, Captain", "Captain", ""]),
    (EndsWith("Cheers, Bo"), ["Yes. Cheers, Bo", "Yes.\nCheers, Bo "], ["Cheers, Bo", "Yes. Cheers, Bob", ""]),
    (Case("lower"), ["the shop", "at 9!", "9"], ["The shop", ""]),
    (Case("upper"), ["THE SHOP"], ["THE shop", ""]),
    (MaxWords(2), ["at nine", "nine"], ["it is nine", ""]),
    (MaxSentences(1), ["Hello, Ana!", "It is 3.5 m", "No"], ["Hello. Welcome!", ""]),
    (AllOf((MaxWords(3), Contains("x"))), ["x y"], ["y", "x y z w"]),
    (DateStyle("iso"), ["On 2031-05-03."], ["On 3 May 2031.", "2031-05-03, that is 3 May 2031", "soon", ""]),
    (DateStyle("day first"), ["On 3 May 2031."], ["On May 3, 2031.", "03.05.2031", "3 Mai 2031"]),
    (DateStyle("month first"), ["May 3, 2031"], ["3 May 2031", "2031-05-03"]),
    (DateStyle("dots"), ["03.05.2031"], ["3.5.2031", "03/05/2031"]),
    (DateStyle("slashes"), ["05/03/2031"], ["05.03.2031"]),
    (NumberStyle("plain"), ["12500 seats"], ["12,500", "12.500", "12 500", "12'500", "125 seats"]),
    (NumberStyle("comma"), ["12,500 seats", "1,250,000"], ["12500", "12.500"]),
    (NumberStyle("dot"), ["12.500 seats"], ["12,500", "12500", "12.5"]),
    (NumberStyle("space"), ["12 500 seats"], ["12500", "12,500"]),
    (NumberStyle("apostrophe"), ["12'500 seats"], ["12500", "12,500"]),
    (TimeStyle("24 hours"), ["at 15:40", "07:05"], ["3:40 pm", "at noon", "15:40 (3:40 pm)"]),
    (TimeStyle("12 hours"), ["at 3:40 pm", "7 am"], ["15:40", "13:40 pm"]),
    (UnitStyle("metric"), ["8 km", "21 °C", "5kg"], ["5 miles", "8 km (5 miles)", "8"]),
    (UnitStyle("imperial"), ["5 miles", "70 °F"], ["8 km", "five miles"]),
    (ListStyle("dashes"), ["- a\n- b"], ["a, b", "* a\n* b", "- a", "- a\nand b"]),
    (ListStyle("stars"), ["* a\n* b"], ["- a\n- b"]),
    (ListStyle("numbers"), ["1. a\n2. b"], ["- a\n- b", "1 a\n2 b"]),
    (ListStyle("inline"), ["a, b"], ["- a, b", "a\nb", "1. a, b"]),
    (Indentation("2"), [TWO, f"```python\n{TWO}\n```", f"{TWO}\n\nRun make check."], [FOUR, TAB, "two", ""]),
    (Indentation("4"), [FOUR, NESTED, f"Here:\n{FOUR}"], [TWO, TAB, "    return", "def f(:\n    pass"]),
    (Indentation("tab"), [TAB], [TWO, FOUR]),
    (Naming("snake"), [FOUR], ["def addAll(first, second):\n    return 1", "def add():\n    return 1"]),
    (Naming("camel"), ["def addAll(theFirst):\n    return 1"], [FOUR, "def AddAll(first):\n    return 1"]),
    (Naming("pascal"), ["def AddAll(first):\n    return 1"], [FOUR, "def addAll(first):\n    return 1"]),
    (Quotes("single"), [NESTED], ['def f():\n    return "x"', FOUR, 'def f():\n    return "x" + \'y\'']),
    (Quotes("double"), ['def f():\n    return "x"'], [NESTED]),
    (Documented(), ['def f():\n    """Give x."""\n    return 1'], [FOUR, "no code"]),
    (Annotated(), ["def f(a: int) -> int:\n    return a"], [FOUR, "def f(a: int):\n    return a"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("checker", "reply", "follows"),
    [
        pytest.param(checker, reply, follows, id=f"{checker.name}-{follows}-{reply!r}")
        for checker, good, bad in CASES
        for follows, replies in ((True, good), (False, bad))
        for reply in replies
    ],
)
def test_a_reply_is_judged(checker: Checker, reply: str, follows: bool) -> None:
    assert checker.accepts(reply) is follows


@pytest.mark.parametrize("checker", [case[0] for case in CASES], ids=lambda checker: checker.name)
@pytest.mark.parametrize("reply", ["x" * 200_000, "def f(" * 800, "(" * 4000, "\n".join(["def f():"] * 400), "\0"])
def test_no_reply_is_too_long_or_too_odd_to_judge(checker: Checker, reply: str) -> None:
    assert checker.accepts(reply) in (True, False)
