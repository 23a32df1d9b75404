"""Tiny checkpoints to talk to, and the command line run inside this process."""

import io
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from seed_oss import SeedOssForCausalLM
from seed_oss.cli import main
from tests.chat.tokenizer_factory import CHATML_TEMPLATE, VOCAB_SIZE, write_tiny_tokenizer
from tests.factory import tiny_checkpoint


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


class _TerminalInput(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def make_checkpoint(folder: Path, *, chat_template: bool = True, **config: Any) -> Path:
    """A tiny model that never ends by itself, with a byte-level tokenizer."""
    fields = {"vocab_size": VOCAB_SIZE, "eos_token_id": None, "max_position_embeddings": 1_000_000, **config}
    tiny_checkpoint(folder, SeedOssForCausalLM, **fields)
    write_tiny_tokenizer(folder, chat_template=CHATML_TEMPLATE if chat_template else None)
    file = folder / "tokenizer.json"
    text = file.read_text(encoding="utf-8")  # a model that does not think: the demo has no such markers either
    file.write_text(text.replace("seed:think>", "none:think>").replace("seed:cot_", "none:cot_"), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a chat template."""
    return make_checkpoint(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="session")
def plain_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint without a chat template."""
    return make_checkpoint(tmp_path_factory.mktemp("plain"), chat_template=False)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run `seed-oss` with these arguments and this stdin, through the same entry as the installed command."""

    def call(*arguments: str | Path, stdin: str | bytes = "", stdin_is_terminal: bool = False) -> Outcome:
        data = stdin if isinstance(stdin, bytes) else stdin.encode()
        wrapper = _TerminalInput if stdin_is_terminal else io.TextIOWrapper
        monkeypatch.setattr(sys, "stdin", wrapper(io.BytesIO(data), encoding="utf-8"))
        monkeypatch.setattr(sys, "argv", ["seed-oss", *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return Outcome(int(caught.value.code or 0), captured.out, captured.err)

    num_threads = torch.get_num_threads()
    yield call
    torch.set_num_threads(num_threads)
