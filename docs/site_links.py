"""MkDocs hook: what lies in the repository but outside the pages is named by its path, as a site cannot link to it."""

import re
from pathlib import Path, PurePosixPath
from typing import Any

FOLDER = Path(__file__).parent
LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Turn ``[text](../path)`` into the text with its path, unless the link leads to a page."""
    here = FOLDER / PurePosixPath(page.file.src_uri).parent

    def named(link: re.Match[str]) -> str:
        target = (here / link[2]).resolve()
        return link[0] if target.is_relative_to(FOLDER) else f"{link[1]} (`{target.relative_to(FOLDER.parent)}`)"

    return LINK.sub(named, markdown)
