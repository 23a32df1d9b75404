"""What the pages' programs find: a hub cache that holds tiny checkpoints under the names that readers use."""

import json
import shutil
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as T
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from seed_oss import SeedOssForCausalLM
from tests.chat.tokenizer_factory import CONTROL_TOKENS
from tests.docs.pages import pages
from tests.factory import tiny_checkpoint
from tests.quant.gguf_factory import Recipe, file_name_of, random_weights, write_gguf
from tests.seed_tokenizer import SEED_TEMPLATE

HUB_NAMES = ("ByteDance-Seed/Seed-OSS-36B-Instruct", "ByteDance-Seed/Seed-OSS-36B-Base")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_tokenizer(directory: Path) -> int:
    """Trains a small byte-level BPE on the pages themselves, saves it, and returns its vocabulary's size."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([page.read_text(encoding="utf-8") for page in pages()], trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = dict(zip(("bos_token", "pad_token", "eos_token"), CONTROL_TOKENS[:3], strict=True))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (directory / "chat_template.jinja").write_text(SEED_TEMPLATE, encoding="utf-8")
    return tokenizer.get_vocab_size()


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny causal checkpoint with a tokenizer and a chat template."""
    directory = tmp_path_factory.mktemp("tiny")
    size = write_tokenizer(directory)
    tiny_checkpoint(directory, SeedOssForCausalLM, vocab_size=size, max_position_embeddings=4096)
    return directory


@pytest.fixture(scope="session")
def hub_folder(tmp_path_factory: pytest.TempPathFactory, tiny_directory: Path) -> Path:
    """A hub cache in huggingface_hub's layout, in which every name of `HUB_NAMES` is the tiny checkpoint."""
    cache = tmp_path_factory.mktemp("hub")
    for name in HUB_NAMES:
        repository = cache / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
        snapshot = repository / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        for file in tiny_directory.iterdir():
            (snapshot / file.name).write_bytes(file.read_bytes())
    return cache


@pytest.fixture(scope="session")
def gguf_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GGUF file in Q4_K."""
    weights = random_weights()
    types = {file_name_of(name, "seed_oss"): T.Q4_K for name, values in weights.items() if values.ndim == 2}
    return write_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf", Recipe(weights=weights, types=types))


@pytest.fixture
def reader(hub_folder: Path, gguf_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in with a model.gguf and nothing else, the hub cache in place, the network off."""
    shutil.copy(gguf_model, tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub_folder))
    monkeypatch.setenv("HF_HUB_CACHE", str(hub_folder))
    monkeypatch.chdir(tmp_path)
    return tmp_path
