"""Text on its way to the model and back: tokenizer, chat templates, incremental detokenization. No torch."""

from seed_oss.chat.assistant_message import AssistantMessage, BrokenCall, ToolCall
from seed_oss.chat.detokenizer import Detokenizer
from seed_oss.chat.encoding import BatchEncoding
from seed_oss.chat.output_format import OutputFormat
from seed_oss.chat.seed_template import render
from seed_oss.chat.stream_parser import StreamParser, parse
from seed_oss.chat.template_text import seed_chat_template
from seed_oss.chat.tokenizer import SeedOssTokenizer

AutoTokenizer = SeedOssTokenizer

__all__ = [
    "AssistantMessage",
    "AutoTokenizer",
    "BatchEncoding",
    "BrokenCall",
    "Detokenizer",
    "OutputFormat",
    "SeedOssTokenizer",
    "StreamParser",
    "ToolCall",
    "parse",
    "render",
    "seed_chat_template",
]
