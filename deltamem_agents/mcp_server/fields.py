"""The arguments that tools share, with their limits. A client sees the limits in the tools' schemas."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

TEXT = 20_000  # characters of what is remembered at a time
QUERY = 4_000
NAME = 255  # characters of an id or a session, as the store has it
IDS = 100
RECORDS = 50
ENTRIES = 200
PATH = 4_096

Text = Annotated[
    str, Field(min_length=1, max_length=TEXT, description="One fact, rule or decision, understood by itself.")
]
Query = Annotated[str, Field(min_length=1, max_length=QUERY, description="A question, or any text to look for.")]
Session = Annotated[str, Field(min_length=1, max_length=NAME, description="The conversation that it belongs to.")]
OneSession = Annotated[
    Annotated[str, Field(min_length=1, max_length=NAME)] | None, Field(description="Only this conversation.")
]
Count = Annotated[int, Field(ge=1, le=RECORDS, description="At most this many.")]
Page = Annotated[int, Field(ge=1, le=ENTRIES, description="At most this many, the newest.")]
Ids = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=NAME)]],
    Field(max_length=IDS, description="Ids of messages, as recall and memory_log give them."),
]
Since = Annotated[datetime | None, Field(description="Only what was written at this time or later, ISO 8601.")]
Until = Annotated[datetime | None, Field(description="Only what was written before this time, ISO 8601.")]
Position = Annotated[
    Annotated[int, Field(ge=1)] | None, Field(description="Only messages before this position; for the page before.")
]
Confirm = Annotated[
    bool, Field(description="False only shows what would be erased. True erases it for good; ask the user first.")
]

Task = Annotated[str, Field(max_length=QUERY, description="What is to be done.")]
File = Annotated[str, Field(min_length=1, max_length=PATH, description="A file or folder of the repository.")]
Repo = Annotated[
    Annotated[str, Field(min_length=1, max_length=PATH)] | None,
    Field(description="A folder of the repository; by default the server's own."),
]
Budget = Annotated[int, Field(ge=1, le=TEXT, description="At most this many tokens.")]
Kind = Annotated[Literal["note", "decision", "intent"] | None, Field(description="By default what the words suggest.")]
