"""The concepts that rules of software projects are about, and the words for each. English.

A question and its rule often share no word: "Which quotes do strings take?" is answered by "Single-quoted literals only".
A text is about a concept if it has one of its words: stems with ``*``, or phrases.
"""

from __future__ import annotations

import re
from functools import lru_cache

_WORDS = """
test: test* | spec | specs | pytest | jest | vitest | mocha | unittest | junit | rspec | nextest | playwright | cypress | suite | tox | nox | ctest | surefire | phpunit | go test | cargo test | tdd | verif*
unit: unit | isolated
coverage: coverage | covered | codecov | untested | % of lines | percent
e2e: e2e | end-to-end | end to end | playwright | cypress | selenium | integration | browser test* | acceptance
mock: mock* | stub* | fake* | double | doubles | monkeypatch* | msw | wiremock | testcontainers
fixture: fixture* | factory | factories | sample data | seed data | test data | conftest
snapshot: snapshot* | golden | approval test* | insta
flaky: flaky | flake | intermittent* | unreliable | nondeterministic | retry test* | sleep
build: build* | compil* | bundl* | artifact* | assemble | webpack | rollup | vite | tsc | package the | make all | mvn | gradle | bazel | binary | binaries
install: install* | set up | setup | bootstrap* | get started | getting started | onboard* | fresh clone | first time | sync deps | npm ci | prerequisite* | checkout | clone | new machine | new contributor*
run: start the | start up | serve | server locally | dev server | run dev | npm start | runserver | launch* | localhost | boot | locally | watch mode | run the app | development server
lint: lint* | eslint | ruff | flake8 | pylint | clippy | golangci* | checkstyle | biome | static analysis | warnings | stylelint | rubocop | vet | shellcheck | detekt | pmd | spotbugs
format: format* | prettier | black | gofmt | goimports | rustfmt | cargo fmt | spotless | gofumpt | pretty | beautif* | layout of code | reformat* | autoformat*
typecheck: typecheck* | type check* | type-check* | typing | typed | mypy | pyright | tsc | type hint* | annotation* | annotate* | type annotation* | strict mode | static types | type-safe
anytype: any type | any | unknown | ts-ignore | type: ignore | as any | cast | casts | casting | ts-expect-error | escape hatch
indent: indent* | tab | tabs | spaces | two-space | four-space | tab width | tab size | tabwidth | whitespace per level | nesting level
linelength: line length | line-length | line width | max-len | print width | printwidth | characters wide | columns | column limit | long lines | characters per line | wide | wrap at | long can a line | long may a line | line be | chars
quotes: quote* | quotes | quotation* | single-quote* | double-quote* | apostrophe* | backtick* | string literal*
semicolon: semicolon* | statement terminator* | asi
trailingcomma: trailing comma* | dangling comma* | last element
eol: line ending* | eol | crlf | lf | end-of-line | end of line | newline* | carriage return* | line feed | final newline
whitespace: trailing whitespace | trailing space* | whitespace | blank line*
charset: charset | utf-8 | utf8 | encoding | encoded | ascii
naming: nam* | casing | snake_case | camelcase | camel case | pascalcase | kebab-case | prefix* | suffix* | identifier* | capitali* | uppercase | lowercase | what to call | called | spelled
filelocation: where do | where should | live* | belong* | place* | put | lives in | location | locat* | directory | folder | next to | beside | alongside | colocate* | co-locate* | stored | kept in | goes in | go in | layout | structure* | sits | reside*
imports: import* | absolute import* | relative import* | barrel | require statement* | module order | sorted imports | isort | re-export* | path alias* | star import* | wildcard
exports: export* | default export* | named export* | public surface | index file
comments: comment* | docstring* | javadoc | rustdoc | jsdoc | tsdoc | godoc | doc comment* | documented | inline documentation | explain why
docs: docs | documentation | readme | mkdocs | sphinx | docusaurus | manual | guide page* | doc pages | user guide | written up | how-to
changelog: changelog | change log | release note* | news fragment* | towncrier | changeset* | changes.md | history file | whats new
commitmsg: commit message* | commit title* | commit subject* | conventional commit* | commits follow | commit log | subject line | commit headline* | semantic commit* | commit format* | word a commit | commit messages | imperative mood | git message | commit* | history entr*
signoff: sign-off | sign off | signed-off* | dco | gpg* | signed commit* | signature | cla | verified commit* | -s flag
branch: branch* | trunk | main branch | feature branch* | release branch | fork | worktree | topic branch*
pr: pull request* | pr | prs | merge request* | mr | submit* | contribut* | propos* | patch | send change* | hand in | upstream* | open a change | request review
review: review* | approv* | codeowner* | code owner* | sign-off from | second pair | lgtm | reviewer* | maintainer*
merge: merge* | squash* | rebase* | fast-forward | linear history | land* | integrat* change* | merge commit* | force-push* | force push*
push: push* | pre-push | before pushing | force-push* | share your work
precommit: pre-commit | before commit* | before you commit | before committing | prior to commit* | git hook* | husky | lefthook | lint-staged | hook* | before push* | before every commit | before opening | before you open | before submitting | before finish* | done | complete | finished | ready | pre-push
release: releas* | publish* | ship* | version bump | bump the version | semver | semantic version* | tag | tags | tagged | cut a | rollout | deploy to prod* | versioning | version number*
deploy: deploy* | production | staging | rollout | roll out | helm | kubernetes | terraform | environment promot* | go live | rollback
dependency: dependenc* | dep | deps | third-party | third party | librar* | package* | crate | crates | npm module* | new package* | external code | add a lib* | vendor* | supply chain | requirements | module
pkgmanager: package manager | pnpm | yarn | npm | bun | uv | poetry | pip | pipenv | cargo add | go get | installer | add a package | install packages | dependency manager
lockfile: lockfile* | lock file* | package-lock | pnpm-lock | uv.lock | cargo.lock | poetry.lock | frozen | pinned versions | pin* | yarn.lock | go.sum
version: python version | node version | minimum version | supported version* | python 3* | node 1* | node 2* | node | msrv | rust version | go version | jdk | java 1* | java 2* | runtime version | engine* | interpreter | requires-python | toolchain | minimum | oldest | language version | es20* | target version | which version | release of python
ci: ci | continuous integration | pipeline* | workflow* | github actions | github action* | build server | jenkins | checks run | circleci | gitlab ci
secret: secret* | credential* | password* | token* | api key* | apikey* | private key* | .env | vault | sensitive | leak* | hard-code* | hardcod* | keys | env var*
security: security | secure* | vulnerab* | cve | exploit* | audit | sanitiz* | sanitis* | injection | xss | csrf | escape* | untrusted | attack* | threat* | hole | disclos* | report privately | user input | malicious
auth: auth | authenticat* | authoriz* | login | log in | sign in | session* | jwt | oauth | permission* | role* | rbac | access control
pii: pii | personal data | personal information | gdpr | email address* | privacy | customer data | anonymi* | mask* | redact* | user data
logging: log | logs | logging | logger | structlog | slog | tracing | log level* | print | println | console.log | printf | pino | winston | debug output | diagnostic* | stdout | log line*
errors: error* | exception* | raise* | throw* | catch* | failure* | fail | try/except | result type | thiserror | anyhow | wrap errors | propagat* | error handling | swallow* | bare except | recover | go wrong | goes wrong | failing call*
panic: panic* | unwrap | unwrap() | expect() | abort | crash* | todo!
unsafe: unsafe | raw pointer* | memory safety | transmute | ffi | undefined behavio*
null: null | nil | none | undefined | optional | nullable | missing value* | option type | absence
async: async* | await | asyncio | coroutine* | promise* | event loop | non-blocking | blocking call* | tokio | future*
concurrency: concurren* | goroutine* | thread* | lock | mutex | race | parallel* | channel* | deadlock | synchroni* | executor*
context: context.context | ctx | context | cancellation | deadline
timeout: timeout* | retry | retries | backoff | deadline | time limit | give up | hang | slow upstream | network call*
database: database* | db | postgres* | mysql | sqlite | schema | table* | orm | sqlalchemy | prisma | query | queries | sql | transaction* | repository layer | persistence | storage | index*
migration: migration* | migrate* | alembic | flyway | liquibase | schema change* | alter table | new column | backfill | evolve the schema | ddl
sql: sql | raw sql | query | queries | parameteri* | prepared statement* | string concatenation | bind | placeholders
api: api | apis | endpoint* | route* | rest | http | graphql | grpc | handler* | openapi | swagger | controller* | request* | response* | status code* | rpc | resource path*
compat: backward* | compatib* | breaking change* | deprecat* | semver | public api | stable api | stabilit* | removal | retire* | old client* | existing callers | public function* | break*
generated: generated | codegen | code generation | auto-generated | autogenerated | generate* | protobuf | proto | protoc | regenerate* | do not edit | by hand | hand-edit* | machine-written | buf | openapi client | manually edit*
component: component* | react | vue | svelte | jsx | tsx | ui | widget* | view | views | button* | screen* | frontend | front end | front-end
state: state management | redux | zustand | store | stores | pinia | hook* | usestate | react query | global state | client state | tanstack
styling: css | tailwind | style sheet* | stylesheet* | styled | scss | sass | css modules | design token* | theme* | colour | color* | inline style* | look of | class names
a11y: accessib* | a11y | aria | screen reader* | keyboard nav* | alt text | contrast | wcag | blind | disabled users
i18n: i18n | translat* | locale* | locali* | internationali* | user-facing string* | message catalog* | other languages | copy text | visible text | hard-coded strings
performance: performance | perf | benchmark* | speed | latency | profil* | fast | slow* | allocation* | hot path | optimi* | throughput | n+1
cache: cache* | caching | memoiz* | redis | ttl | invalidat*
datetime: date | dates | time | timestamp* | timezone* | time zone* | utc | datetime | clock | iso 8601 | now() | naive | temporal | wall clock
money: money | currency | price* | decimal* | cents | amount* | float* | monetary | rounding | minor units | sums
ids: uuid | ulid | identifiers | primary key* | ids | id | surrogate key
license: license* | licence* | copyright | spdx | header | headers | file header* | legal notice
todo: todo | todos | fixme | ticket number | issue number | issue reference | follow-up | unfinished work
debug: debug* | console.log | breakpoint | pdb | print statement* | dbg! | debugger | leftover
deadcode: dead code | commented-out | commented out | unused | unreachable | remove code | leftover code
complexity: complex* | function length | long function* | short function* | small function* | lines per function | lines long | file size | cyclomatic | nested* | nesting | big file* | god class | how long | how big | maximum length
globalstate: global* | singleton* | mutable state | module-level | static mutable | shared state
immutability: immutab* | readonly | frozen | const | final | mutat* | pure function* | side effect*
di: dependency injection | inject* | constructor injection | autowire* | @autowired | field injection | container | wire* | service locator
interface: interface* | trait* | protocol* | abstract* | generic* | inherit* | composition | subclass* | base class
enum: enum* | union type* | literal type* | constant* | magic number* | magic value* | discriminated
featureflag: feature flag* | flag* | toggle* | launchdarkly | experiment* | gated | rollout switch | kill switch
env: environment variable* | env var* | env vars | .env | dotenv | configuration value* | config value* | settings | settings class | os.environ | process.env | configuration
docker: docker* | container* | compose | image | images | podman | dockerfile
hardware: gpu | cuda | device
analytics: analytics | telemetry | metric* | tracking | instrument* | opentelemetry | prometheus | span | spans | monitoring | observab* | trace*
monorepo: monorepo | workspace* | turbo | nx | lerna | packages/ | cross-package | single package | one package | affected | filter | sub-package
ask: ask | asking | permission | confirm* | approval | unsure | clarif* | doubt | stop and | not sure | consult | check with | uncertain
forbidden: never | must not | do not | don't | forbid* | prohibit* | not allowed | banned | off limits | off-limits | avoid | disallow* | may not | no-go | refrain | touch | leave alone
edit: edit | edits | modify | modif* | touch | change by hand | alter | hands off | rewrite
ownership: owner* | owns | team | responsible | contact | who maintains | slack | channel | escalate* | on-call | reach | get help | help | question*
agent: agent* | assistant* | llm | ai | model-written | copilot | claude | bot | bots | generated by ai | co-authored-by
plan: plan* | design doc* | rfc | adr | proposal | architecture decision* | spec first | decision record*
scope: small change* | minimal | focused | unrelated | one thing | scope | refactor* | drive-by | size of | big diff | large diff | diff size | as small
example: example* | demo | demos | sample | samples | snippet* | cookbook | tutorial
screenshot: screenshot* | visual | screen recording | image diff | before and after | storybook | picture*
issue: issue* | ticket* | bug report* | jira | linear | tracker | report a bug | file a bug | bug*
regression: regression* | reproduc* | bug fix* | bugfix* | fix a bug | failing test first | fixing a defect | defect
validation: validat* | zod | pydantic | parse input | schema check | boundary | boundaries | untrusted input | incoming data | payload* | sanit* | joi | bean validation
serialization: json | yaml | serializ* | deserializ* | serde | marshal* | pickle | encode | wire format
http: http client | requests library | httpx | fetch | axios | outbound call* | network request* | aiohttp | reqwest | ky
pathlib: path | paths | pathlib | os.path | file path* | filesystem | file names
strings: f-string* | string format* | interpolat* | concatenat* | template literal* | sprintf
language: english | spelling | british | american | grammar | tone | wording | voice | prose | en-us | en-gb | plain language
platform: windows | macos | linux | cross-platform | operating system* | posix | os support | browsers | browser support
queue: queue* | celery | kafka | job* | background job* | worker* | idempoten* | cron | message broker | event* | consumer*
files: upload* | s3 | blob | file storage | attachments | bucket
email: mail | smtp | notification* | notify
large: large file* | binary file* | binaries | git lfs | lfs | assets | media
notebooks: notebook* | jupyter | ipynb | cell output*
deps_update: upgrade* | renovate | dependabot | update dependenc* | bump* | outdated | stale version*
clean: clean | clean up | reset | wipe | start over | from scratch | purge
order: alphabetical* | sort* | order* | arrange* | sequence
test: check that | exercis* | harness | assert* | runner
coverage: exercised | line coverage | branch coverage | how much of the code | fail_under | threshold
e2e: browser | containers | docker | live services | system test*
single: single test | one test | test file | test module | individual test | subset | one file | specific test | particular test
assertion: assert* | expect | matcher* | assertj | hamcrest | assertion library
determinism: reproduc* | seed | seeds | random | deterministic | determinism | repeatab* | same result
evaluation: evaluat* | test split | held-out | hold-out | holdout | validation set | test set | metric* | baseline | benchmark* | figures
experiment: experiment* | run | runs | mlflow | trial* | repetition* | repeat* | wandb | hyperparameter* | seeds
pii: e-mail | personal | customers | names of | addresses | identif* person* | data protection
large: big | huge | larger | mb | megabyte* | binaries | dvc | bytes
memory: memory | ownership | unique_ptr | shared_ptr | free | frees | leak* | raii | allocat* | smart pointer* | malloc | new
help: help | forum | question* | ask | discuss* | chat | stuck | support channel | discord | get in touch
contribution: contribution* | patch* | small | topic | big | scope of a change | focused | atomic | self-contained
globalstate: package-level | global variable* | mutable value* | mutable default* | module state
sql: injection | escap* | raw queries
changelog: announce* | tell users | what changed | notable change* | user-visible | unreleased
datetime: day | days | calendar | hour* | zone | zones | aware
history: history | rewrite history | force-push | force push | rebase* | published | amend | shared branch
null: nothing is found | not found | absent | missing | give back | no result | empty
api: url | urls | uri | resource* | plural noun* | client* | call* a minute | rate limit* | http verb*
ratelimit: rate limit* | throttl* | calls | requests a minute | quota | per minute | each minute
docs: description* | describe* | openapi | spec page
a11y: mouse | keyboard | control has a label | labels | focus | tab order
component: control* | page | pages | screen*
interface: delegate* | subclass* | inheritance | extend a class
complexity: too big | too long | exceed* | split | shorter than | longer than | at most lines | maximum size
featureflag: toggles | toggle | switches | rollout | experiment flag*
queue: background | run twice | safe to run | duplicate delivery | at least once | consumer* | retry safe
ask: on my own | alone | without asking | talk to | first ask | before you change | stop and ask
infra: infra | infrastructure | terraform | cloud | pulumi | ansible | provision*
version: compiler | release must | still work | minimum supported | msrv | at least version | or later | runtime | edition
dependency: pull in | add a | new library | dependencies | extra package | import a new
regression: slowdown | slower | regress*
performance: slower | slowdown | speed | cargo bench | measure
std: standard library | std | no_std | stdlib | core only | alloc
pointer: raw pointer* | unsafe | soundness | safety comment | safety
export: main export | anonymous export | default export* | named export*
styling: hex | #fff | #ff0000 | colour | palette | hard-code a colo* | rgb
data_fetch: fetch* | server state | load data | remote data | query client | tanstack | swr | useeffect | retrieve*
findelement: find element* | query the page | by role | test id | testid | getbyrole | selector* | locate element*
approval: approv* | review* | agree | sign off | reviewer* | accept | consent | maintainers approve
signoff: certify | origin | developer certificate | git commit -s | dco
branch: branch called | branch name* | name of the branch | name of my branch
commitmsg: headline | subject | title | worded | phrase a commit | describe a commit
money: price | prices | cost | amounts | numeric type | decimal
stdout: stdout | print | console | println | diagnostics | output
pii: credit card* | card number* | pan
retry: retry | retries | try again | attempt* | backoff | tries | repeated
idempotency: idempoten* | twice | duplicate* | once only | exactly once | same request
provider: provider* | external service* | upstream | third-party api | payment
wiring: inject* | wire* | wired | constructor injection | field injection | @autowired | provided to
timestamp: timestamp* | java.time | instant | localdate | date class | utc
naming: called | named | name | titled | label | upper_case | prefixed | convention for names | spelled | kebab* | snake* | pascal*
headerguard: pragma | include guard* | double inclusion | header* | #pragma
errors: signal | report* failure* | problem detail* | went wrong | expected | return code | disabled | widgeterror
order: before | first step | order | sequence | prior
readonly: read-only | readonly | modify the original | raw data | immutable | never change | source data
notebook: cell* | output* | clear | strip | nbstripout
location: directory | folder | belongs | lives | contain* | where | located | kept
legal: copyright | notice | spdx | licence | license header
skill: skill | skills
generated: bindings | mocks | pb.go | protobuf code
envsetup: environment | set up | setup | virtualenv | venv | conda | poetry install | create the environment
pinning: exact version* | version range* | pin* | caret | tilde | loose
subtask: scope | as scope | package as
migration: schema | column* | ddl | script* | flyway | already merged | already landed | in place | alter
db: queries | repository class* | data access | dao
"""

_TOKEN = re.compile(r"[^\s]+")
_EDGE = ' \t.,;:!?"“”‘()[]<>*'
_SHORTEST_STEM = 3


def _word_parts(token: str) -> list[str]:
    """The words of a token between spaces: the token without marks at its edges, and its parts."""
    bare = token.strip(_EDGE + "`'")
    parts = [each for each in re.split(r"[^\w'.#+-]+|(?<=\w)[-.](?=\w)", bare) if each]
    return list(dict.fromkeys([bare.removesuffix("'s"), *(each.removesuffix("'s") for each in parts)]))


class _Lexicon:
    """Maps words, stems and phrases to concepts."""

    def __init__(self, table: str) -> None:
        self.words: dict[str, set[str]] = {}
        self.stems: dict[str, set[str]] = {}
        self.phrases: dict[str, list[tuple[str, str]]] = {}  # first word to the rest and the concept
        for line in table.strip().splitlines():
            name, _, words = line.partition(":")
            for each in filter(None, map(str.strip, words.split("|"))):
                if " " in each:
                    first, rest = each.split(" ", 1)
                    self.phrases.setdefault(first, []).append((rest, name))
                elif each.endswith("*"):
                    self.stems.setdefault(each[:-1], set()).add(name)
                else:
                    self.words.setdefault(each, set()).add(name)

    def of_word(self, word: str) -> set[str]:
        """The concepts of one word."""
        found = set(self.words.get(word, ()))
        if word.endswith("s"):
            found |= self.words.get(word[:-1], set())
        for length in range(_SHORTEST_STEM, len(word) + 1):
            found |= self.stems.get(word[:length], set())
        return found

    def spans(self, text: str) -> list[tuple[str, int, int]]:
        """Each concept with the place of its word or phrase."""
        low = text.casefold().replace("’", "'")
        found = []
        for token in _TOKEN.finditer(low):
            for word in _word_parts(token[0]):
                found += [(name, token.start(), token.end()) for name in self.of_word(word)]
                for rest, name in self.phrases.get(word, ()):
                    end = _phrase_end(low, token.end(), rest)
                    if end:
                        found.append((name, token.start(), end))
        return found


def _phrase_end(low: str, place: int, rest: str) -> int:
    """Where a phrase ends whose first word ends at ``place``; 0 if the text continues differently."""
    stem = rest.endswith("*")
    follows = " ".join(low[place : place + 2 * len(rest) + 8].split()).lstrip("`'\" ")
    rest = rest.rstrip("*")
    if not follows.startswith(rest):
        return 0
    after = follows[len(rest) : len(rest) + 1]
    return place + len(rest) + 1 if stem or not after.isalnum() else 0


_lexicon = _Lexicon(_WORDS)


@lru_cache(16384)
def concepts_of(text: str) -> frozenset[str]:
    """The concepts that a text is about.

    >>> sorted(concepts_of("Single-quoted literals only"))
    ['quotes']
    """
    return frozenset(name for name, _, _ in _lexicon.spans(text))


def spans_of(text: str) -> list[tuple[str, int, int]]:
    """Each concept of a text with the place of its word or phrase."""
    return _lexicon.spans(text)
