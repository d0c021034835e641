"""Loading a backbone draws nothing on an application's stderr."""

from __future__ import annotations

import pytest


def test_no_bar_is_drawn_and_bars_are_as_before(capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    from deltamem_agents.engine import load

    shown = logging.is_progress_bar_enabled()
    logging.enable_progress_bar()
    try:
        load("tiny")
        assert capfd.readouterr().err == ""
        assert list(logging.tqdm([1], desc="Others"))
        assert "Others" in capfd.readouterr().err
    finally:
        if not shown:
            logging.disable_progress_bar()
