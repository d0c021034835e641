"""URLs fit for printing."""

from __future__ import annotations

import re

from sqlalchemy import URL


def masked(url: URL | str) -> str:
    """A database URL fit for printing: without its password, and without secrets among its query parameters."""
    text = url if isinstance(url, str) else url.render_as_string(hide_password=True)
    text = re.sub(r"(://[^:/@\s]*):\S*@", r"\1:***@", text)
    return re.sub(r"(?i)([?&][^=&]*(?:pass|secret|token|key)[^=&]*=)[^&]*", r"\1***", text)
