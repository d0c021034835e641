"""What the bundled model can be told: who, what, and the possible values.

A *key* is a pair of subject and attribute ("Mara's favourite colour"); a fact gives a key one value of the attribute's
pool. There are far more facts than a model this small can hold in its weights, and each conversation draws its own, so
an answer can only come from what was said. Of each key, one value in ten (at least one) is *held out*: training never
sees the triple, evaluation sees nothing else.

Knows nothing about tokens, tensors or conversations.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

PEOPLE = (
    "Mara Tom Ana Felix Nora Ivan Lena Omar Ruth Hugo Priya Karl Zoe Emil Aisha Paul Greta Liam Sofia Jonas Dana Victor "
    "Mei Oscar"
).split()  # fmt: skip
REPOSITORIES = "api web core billing".split()


@dataclass(frozen=True, slots=True)
class Attribute:
    """One thing that can be known about a subject.

    Args:
        noun: As in "my {noun} is …".
        values: The pool; one word each, so that a value is about one token.
        says: A second way to state it, with ``{s}`` for the subject and ``{v}`` for the value; verbs as ``first|third``
            person.
        asks: A second way to ask for it, with ``{s}`` for the subject.
    """

    noun: str
    values: tuple[str, ...]
    says: str = ""
    asks: str = ""


def _attribute(noun: str, values: str, says: str = "", asks: str = "") -> Attribute:
    return Attribute(noun, tuple(values.split()), says, asks)


PERSONAL = (
    _attribute(
        "favourite colour",
        "teal red blue green yellow orange purple pink black white brown grey gold silver violet indigo crimson scarlet "
        "beige ivory turquoise magenta maroon navy olive amber coral cyan lilac mauve ochre khaki",
        "{s} like|likes {v} best of all colours.",
        "Which colour {do} {s} like best?",
    ),
    _attribute(
        "favourite food",
        "pizza pasta sushi curry soup salad tacos burgers dumplings noodles lasagne risotto paella pancakes waffles "
        "falafel hummus gnocchi ramen stew omelettes goulash kebab couscous chili pierogi quiche tofu ravioli bagels "
        "porridge fondue",
        "{s} love|loves eating {v}.",
        "What {do} {s} love eating?",
    ),
    _attribute(
        "favourite drink",
        "tea coffee water milk lemonade cider cocoa juice espresso matcha kombucha cola beer wine kefir lassi mocha "
        "punch sherry tonic whisky rum gin vodka brandy latte chai horchata mead ale porter soda",
    ),
    _attribute(
        "home town",
        "Oslo Lima Paris Rome Berlin Madrid Lisbon Vienna Prague Dublin Athens Cairo Delhi Tokyo Seoul Hanoi Quito "
        "Bogota Havana Nairobi Accra Dakar Tunis Riga Tallinn Vilnius Warsaw Zagreb Turin Geneva Milan Kyoto",
        "{s} live|lives in {v}.",
        "Where {do} {s} live?",
    ),
    _attribute(
        "job",
        "nurse teacher baker pilot lawyer farmer painter plumber doctor dentist chemist barber butcher carpenter tailor "
        "gardener librarian architect surgeon translator journalist electrician mechanic waiter cashier judge sailor "
        "potter jeweller florist miner fisher",
        "{s} work|works as {a} {v}.",
        "What {do} {s} work as?",
    ),
    _attribute(
        "dog",
        "Biscuit Pepper Rusty Shadow Ziggy Bruno Daisy Luna Rocky Coco Buster Molly Ginger Scout Nala Rex Toffee "
        "Waffles Pickle Maple Hazel Bandit Cosmo Domino Fudge Jasper Mango Noodle Peanut Rolo Socks Tango",
        "{s} have|has a dog called {v}.",
        "What is {p} dog called?",
    ),
    _attribute(
        "favourite sport",
        "tennis football golf rugby cricket hockey boxing judo karate fencing rowing sailing surfing skiing skating "
        "cycling running swimming diving climbing archery badminton squash volleyball handball basketball baseball "
        "softball wrestling curling polo darts",
    ),
    _attribute(
        "instrument",
        "piano violin cello guitar flute oboe clarinet trumpet trombone tuba drums harp banjo ukulele mandolin "
        "accordion saxophone bassoon viola organ harmonica lute sitar bagpipes xylophone marimba recorder piccolo "
        "tambourine zither fiddle cornet",
        "{s} play|plays the {v}.",
        "Which instrument {do} {s} play?",
    ),
    _attribute(
        "hobby",
        "chess knitting pottery painting gardening fishing hiking camping baking cooking reading writing drawing "
        "dancing singing juggling origami sewing weaving carving photography astronomy birdwatching calligraphy "
        "poetry yoga puzzles magic stamps geocaching beekeeping genealogy",
    ),
    _attribute(
        "favourite animal",
        "otter badger fox wolf bear lynx hare hedgehog squirrel beaver deer moose bison camel llama giraffe zebra "
        "elephant rhino hippo lion tiger leopard panda koala kangaroo penguin owl eagle falcon raven heron",
        "{s} like|likes the {v} more than any other animal.",
        "Which animal {do} {s} like most?",
    ),
    _attribute(
        "favourite fruit",
        "apples pears plums cherries grapes figs dates lemons limes melons peaches apricots bananas kiwis mangoes "
        "papayas guavas lychees berries currants quinces olives oranges tangerines raspberries blueberries "
        "strawberries pineapples coconuts pomegranates nectarines persimmons",
    ),
    _attribute(
        "second language",
        "French German Spanish Italian Dutch Danish Swedish Finnish Polish Czech Greek Turkish Arabic Hebrew Hindi "
        "Tamil Korean Japanese Thai Welsh Irish Latin Swahili Zulu Persian Urdu Basque Catalan Croatian Hungarian "
        "Norwegian Icelandic",
        "{s} also speak|speaks {v}.",
        "Which second language {do} {s} speak?",
    ),
    _attribute(
        "favourite flower",
        "roses tulips lilies daisies orchids irises poppies violets peonies asters dahlias lavender jasmine lotus "
        "marigolds daffodils sunflowers begonias petunias pansies snowdrops bluebells buttercups camellias "
        "carnations freesias geraniums hyacinths magnolias primroses azaleas gardenias",
    ),
    _attribute(
        "desk number",
        "11 12 13 14 15 16 17 18 19 21 22 23 24 25 26 27 28 29 31 32 33 34 35 36 37 38 39 41 42 43 44 45",
        "{s} sit|sits at desk {v}.",
        "At which desk {do} {s} sit?",
    ),
    _attribute(
        "team",
        "Orion Atlas Phoenix Falcon Comet Nova Titan Vega Lyra Draco Hydra Aurora Zenith Quasar Pulsar Nebula Apollo "
        "Gemini Mercury Saturn Neptune Pluto Triton Europa Rhea Dione Ariel Oberon Juno Ceres Vesta Pallas",
        "{s} joined team {v}.",
        "Which team did {s} join?",
    ),
    _attribute(
        "favourite dessert",
        "pudding brownies tiramisu sorbet gelato cheesecake custard trifle macarons cupcakes cookies doughnuts eclairs "
        "meringue baklava strudel crumble shortbread marzipan nougat truffles pavlova profiteroles flan parfait "
        "cannoli churros fudge pralines halva semolina mousse",
    ),
)

_RULES = (
    _attribute(
        "test runner", "pytest unittest nose jest mocha vitest jasmine ava karma cypress playwright robot behave ward"
    ),
    _attribute("formatter", "black ruff yapf prettier gofmt rustfmt clang autopep scalafmt ktlint dprint shfmt stylua"),
    _attribute("linter", "flake8 pylint eslint clippy pyflakes golint sonar rubocop checkstyle tslint biome oxlint"),
    _attribute("indent", "two three four five six eight tabs one seven nine ten twelve"),
    _attribute("line limit", "72 79 80 88 90 96 99 100 110 119 120 140 160 200"),
    _attribute("package manager", "pip poetry uv conda npm yarn pnpm cargo bazel gradle maven nix brew hatch"),
    _attribute("main branch", "main master trunk develop stable release next production staging edge"),
    _attribute("database", "sqlite postgres mysql mariadb oracle redis mongo cassandra duckdb couchdb neo4j dynamo"),
    _attribute("licence", "MIT Apache BSD GPL LGPL MPL ISC Unlicense AGPL EPL Zlib Boost"),
    _attribute("web framework", "flask django fastapi starlette tornado express rails laravel spring phoenix gin echo"),
    _attribute("build tool", "make cmake ninja meson ant scons buck just task webpack rollup vite"),
    _attribute(
        "docs tool", "sphinx mkdocs doxygen docusaurus jekyll hugo javadoc gitbook pdoc asciidoc antora vuepress"
    ),
    _attribute("naming style", "snake camel pascal kebab upper lower title train dotted flat hungarian mixed"),
    _attribute("commit prefix", "feat fix chore docs style perf test build revert wip hotfix refactor"),
    _attribute("log library", "loguru structlog logging winston pino bunyan zap logrus serilog slog tracing glog"),
    _attribute(
        "release day", "Monday Tuesday Wednesday Thursday Friday Saturday Sunday weekly daily monthly yearly never"
    ),
)

REPOSITORY = tuple(
    replace(rule, says=f"In {{r}} the {rule.noun} is {{v}}.", asks=f"Which {rule.noun} does {{r}} use?")
    for rule in _RULES
)


@dataclass(frozen=True, slots=True)
class Fact:
    """A subject ("me", a person or a repository), an attribute and its value."""

    subject: str
    attribute: Attribute
    value: str

    @property
    def key(self) -> tuple[str, str]:
        """Subject and noun, which a question names."""
        return self.subject, self.attribute.noun

    @property
    def held_out(self) -> bool:
        """Whether training must never see this triple."""
        return self.value in _held_out_values(self.subject, self.attribute)

    @property
    def owner(self) -> str:
        """The subject as a possessive: "my", "Mara's", "the api repository's"."""
        if self.subject == "me":
            return "my"
        return f"the {self.subject} repository's" if self.subject in REPOSITORIES else f"{self.subject}'s"

    def statement(self, form: int) -> str:
        """The fact as a sentence without an opening; ``form`` 0 is the plain one, 1 the attribute's own."""
        if form == 0 or not self.attribute.says:
            return f"{self.owner} {self.attribute.noun} is {self.value}."
        return _conjugate(self.attribute.says, self.subject).format(v=self.value, **self._names)

    def question(self, form: int) -> str:
        """The question that this fact answers; ``form`` 0 is the plain one, 1 the attribute's own."""
        if form == 0 or not self.attribute.asks:
            return f"What is {self.owner} {self.attribute.noun}?"
        return self.attribute.asks.format(**self._names)

    def update(self) -> str:
        """The fact as a correction of an earlier one."""
        return f"{self.owner} {self.attribute.noun} is now {self.value}."

    @property
    def _names(self) -> dict[str, str]:
        me = self.subject == "me"
        article = "an" if self.value[:1] in "aeiou" else "a"
        return {
            "s": "I" if me else self.subject,
            "p": self.owner,
            "r": f"the {self.subject} repository",
            "do": "do" if me else "does",
            "a": article,
        }


@cache
def _held_out_values(subject: str, attribute: Attribute) -> frozenset[str]:
    def order(value: str) -> bytes:
        return hashlib.sha256(f"{subject}|{attribute.noun}|{value}".encode()).digest()

    return frozenset(sorted(attribute.values, key=order)[: max(1, len(attribute.values) // 10)])


def _conjugate(template: str, subject: str) -> str:
    words = (word.split("|") for word in template.split(" "))
    return " ".join(pair[0] if subject == "me" else pair[-1] for pair in words)


KEYS: tuple[tuple[str, Attribute], ...] = tuple(
    [(subject, attribute) for subject in ("me", *PEOPLE) for attribute in PERSONAL]
    + [(subject, attribute) for subject in REPOSITORIES for attribute in REPOSITORY]
)


def draw_keys(
    rng: random.Random, count: int, *, attributes: int | None = None, subjects: int | None = None
) -> list[tuple[str, Attribute]]:
    """Keys to draw facts from, at least ``count``: all, or only those of a number of attributes or subjects."""
    if attributes is not None:
        chosen = rng.sample(PERSONAL, attributes)
        return [key for key in KEYS if key[1] in chosen]
    if subjects is not None:
        # People and repositories are not mixed, as they are never confused; each is drawn half of the time.
        pool = REPOSITORIES if rng.random() < 0.5 else ["me", *PEOPLE]
        named = rng.sample(pool, min(len(pool), max(subjects, -(-count // len(PERSONAL)))))
        return [key for key in KEYS if key[0] in named]
    return list(KEYS)


def draw_facts(
    rng: random.Random, count: int, *, held_out: bool, keys: Sequence[tuple[str, Attribute]] = ()
) -> list[Fact]:
    """Facts with different keys, all held out or none; ``count`` of them, or as many as there are keys."""
    keys = keys or KEYS
    chosen = rng.sample(keys, min(count, len(keys)))
    return [draw_value(rng, subject, attribute, held_out=held_out) for subject, attribute in chosen]


def draw_value(rng: random.Random, subject: str, attribute: Attribute, *, held_out: bool, unlike: str = "") -> Fact:
    """A fact for one key, held out or not, with a value other than ``unlike``."""
    hidden = _held_out_values(subject, attribute)
    values = [value for value in attribute.values if (value in hidden) == held_out and value != unlike]
    return Fact(subject, attribute, rng.choice(values))
