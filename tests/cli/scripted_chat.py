"""`seed-oss` with a model that says given texts, one for each time it is asked.

python -m tests.cli.scripted_chat '["first answer<seed:eos>", ...]' chat --tools ...
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

from seed_oss.cli.loading import Loaded
from tests.scripted_model import ScriptedModel
from tests.seed_tokenizer import seed_tokenizer


class Scripts(ScriptedModel):
    """Says a text after each prompt, and the last one ever after.

    Args:
        texts: markers in them are control tokens.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        tokenizer = seed_tokenizer()
        self._waiting = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        self.prompts: list[str] = []
        super().__init__(self._waiting[0], len(tokenizer))

    def __call__(self, input_ids: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        """See CausalModel; a prompt is longer than one token."""
        if input_ids.shape[1] > 1:
            self.prompts.append(seed_tokenizer().decode(input_ids[0]))
            self.script = self._waiting.pop(0) if len(self._waiting) > 1 else self._waiting[0]
            self._position, self._is_prompt = 0, True
        return super().__call__(input_ids[:, -1:], past_key_values, **kwargs)


def scripted(texts: Sequence[str]) -> Any:
    """What `load` gives, with such a model."""
    model: Any = Scripts(texts)
    return Loaded(model, seed_tokenizer())


if __name__ == "__main__":
    from seed_oss.cli import chat, main

    loaded: Any = scripted(json.loads(sys.argv.pop(1)))
    chat.load = lambda *_, **__: loaded
    main()
