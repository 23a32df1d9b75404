"""The Seed chat template as text, for checkpoints that have none: what engines read from chat_template.jinja.

It is written anew and renders as the released ones do, which a test holds it to; `render` needs no template.
"""

import json
from functools import lru_cache
from pathlib import Path

from seed_oss.chat.control_tokens import join
from seed_oss.chat.seed_template import CLOSED_BLOCK, OPEN_BLOCK, Variant


@lru_cache
def seed_chat_template(variant: Variant = "current") -> str:
    """A Jinja template of the Seed format, to set as `chat_template` of a tokenizer before it is saved.

    Args:
        variant: "current", or "initial" for the first release, which leaves the think block of budget 0 open.
    """
    text = Path(__file__).with_name("seed_template.jinja").read_text(encoding="utf-8").rstrip("\n")
    block = join(CLOSED_BLOCK if variant == "current" else OPEN_BLOCK)
    return text.replace("ZERO", json.dumps(block))
