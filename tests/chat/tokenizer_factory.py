"""Small tokenizers for tests: trained here, so that nothing is downloaded and every part is known."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CONTROL_TOKENS = (
    "<seed:bos>",
    "<seed:pad>",
    "<seed:eos>",
    "<seed:think>",
    "</seed:think>",
    "<seed:cot_budget_reflect>",
    "</seed:cot_budget_reflect>",
    "<seed:tool_call>",
    "</seed:tool_call>",
)
# As in the released checkpoints: bos, pad and eos are flagged special, the markers are not.
FLAGGED_SPECIAL = CONTROL_TOKENS[:3]
VOCAB_SIZE = 448

CORPUS = (
    "The current thinking budget is 512 tokens, so I will directly start answering the question.",
    "What is the capital of France? The capital of France is Paris. I've used 128 tokens, and they're all left.",
    "system user assistant tool function parameter name location Barcelona, Spain",
    "def f(a: int, b: str):\n    return a + b  # comment\n\n\n    \t",
    "Größe naïve façade Ελληνικά русский язык עברית العربية हिन्दी 日本語 工具调用请遵循如下格式 한국어 🙂👩‍👩‍👧‍👦🏳️‍🌈",
    "0123456789 3.14159 1,000,000 == != <= >= && || :: -> => {} [] () <> /* */ // \\ | @ # $ % ^ & * ~ ` ' \"",
)

CHATML_TEMPLATE = (
    "{%- for message in messages %}\n"
    "    {{- '<seed:bos>' + message['role'] + '\\n' + message['content'] + '<seed:eos>' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "    {{- '<seed:bos>assistant\\n' }}\n"
    "{%- endif %}"
)


def tiny_backend(vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """A byte-level BPE tokenizer with the control tokens first, as ids 0, 1, 2, ...

    Args:
        vocab_size: Number of tokens, control tokens and the 256 bytes included; at least 265.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(CONTROL_TOKENS),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    state = json.loads(tokenizer.to_str())  # the trainer flags all of them special
    for token in state["added_tokens"]:
        token["special"] = token["content"] in FLAGGED_SPECIAL
    return Tokenizer.from_str(json.dumps(state))


def write_tokenizer(folder: Path, tokenizer: Tokenizer, config: dict[str, Any]) -> Path:
    """Write a tokenizer and its tokenizer_config.json into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def write_tiny_tokenizer(
    folder: Path,
    *,
    vocab_size: int = VOCAB_SIZE,
    chat_template: str | None = CHATML_TEMPLATE,
    **config: Any,
) -> Path:
    """Write a tiny byte-level tokenizer with the control tokens of Seed-OSS into a folder.

    Ids: bos 0, pad 1, eos 2, the other control tokens 3 to 8, then bytes and merges.

    Args:
        folder: Made if needed; other files in it stay.
        vocab_size: Number of tokens, at most what the model's embedding holds.
        chat_template: Written as chat_template.jinja; None for no template.
        **config: Goes into tokenizer_config.json.

    Returns:
        The folder.
    """
    names = {"bos_token": "<seed:bos>", "pad_token": "<seed:pad>", "eos_token": "<seed:eos>"}
    write_tokenizer(folder, tiny_backend(vocab_size), {"tokenizer_class": "PreTrainedTokenizerFast", **names, **config})
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    return folder


def metaspace_backend() -> Tokenizer:
    """A sentencepiece-like BPE tokenizer: metaspace, byte fallback, unknown token, bos added by a template."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=700, show_progress=False, special_tokens=["<unk>", "<s>", "</s>", *byte_tokens]
    )
    tokenizer.train_from_iterator([line.replace(" ", "▁") for line in CORPUS[:4]], trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = state["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def wordpiece_backend() -> Tokenizer:
    """A BERT-like WordPiece tokenizer with [CLS] and [SEP] around texts."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=400, show_progress=False, special_tokens=specials)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def unigram_backend() -> Tokenizer:
    """A Unigram tokenizer with the Metaspace pre-tokenizer and decoder."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, show_progress=False, unk_token="<unk>", special_tokens=["<pad>", "<unk>", "</s>"]
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer
