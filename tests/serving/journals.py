"""Journals with something of everything, for the inspector's tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from deltamem_agents import DeltaMem

START = datetime(2026, 11, 28, 9, 0, tzinfo=UTC)

SCRIPT = "<script>window.hacked = 1</script>"
HOSTILE = (
    SCRIPT,
    "<img src=x onerror='window.hacked = 2'>",
    "</p></article></script><script>window.hacked = 3</script>",
    '"><svg onload="window.hacked = 4"><a href="javascript:window.hacked=5">click</a>',
    "{{ 7 * 7 }} {% include '/etc/passwd' %} ${7*7} <div hx-get='/logout' hx-trigger='load'>x</div>",
    "user \u202etxt.exe\u202c and \u2066isolated\u2069 text",
    "<style>body { display: none }</style><base href='https://evil.example/'><meta http-equiv=refresh content=0>",
    "שלום עולם and العربية, in both directions",
    "a" * 3000,
)
HOSTILE_AGENT = "<img src=x onerror=window.hacked=6>/../%2e%2e\"'"
HOSTILE_SESSION = "</a><script>window.hacked = 7</script>"


def fill(mem: DeltaMem) -> None:
    """Write agents "alice", with every kind of event, and `HOSTILE_AGENT`."""
    alice = mem.agent("alice")
    said = [
        ("onboarding", "user", "My name is Alice, and we indent Python with four spaces.", "name"),
        ("onboarding", "assistant", "Noted: four spaces.", "noted"),
        ("onboarding", "user", "Always run make check before a commit.", "rule"),
        ("planning", "user", "The release is on Friday.", "release"),
        ("planning", "tool", "calendar: Friday is free", "calendar"),
        ("secret", "user", "My password hint is my first school.", "hint"),
        ("planning", "assistant", "Friday it is.", "friday"),
    ]
    for number, (session, role, text, name) in enumerate(said):
        message = {"role": role, "content": text, "id": name, "created_at": START + timedelta(minutes=number)}
        alice.write([message], session)
    alice.write([{"role": "user", "content": "Always run make check and make types.", "id": "rule"}], "onboarding")
    alice.erase(session="secret")
    alice.write([{"role": "user", "content": "The release is cancelled.", "id": "cancelled"}], "planning")
    alice.rollback(8)
    alice.fork("alice-2")
    handed = {"positions": [4, 1, 6], "mode": "vector", "state": None, "tokens": 23}
    alice.write(
        [
            {"role": "user", "content": "When is the release?", "id": "question"},
            {
                "role": "assistant",
                "content": "On Friday.",
                "id": "answer",
                "metadata": {"handed": handed, "model": "m"},
            },
        ],
        "planning",
    )
    mallory = mem.agent(HOSTILE_AGENT)
    for number, text in enumerate(HOSTILE):
        metadata = {SCRIPT: text[:500], "handed": {"positions": [1, SCRIPT], "mode": SCRIPT}}
        mallory.write(
            [{"role": "user", "content": text, "id": f"{SCRIPT}{number}", "metadata": metadata}], HOSTILE_SESSION
        )
