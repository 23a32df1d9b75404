"""Log-probabilities of new tokens and of the most probable ones, a step at a time."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from seed_oss.ops.logits import log_sum_exp_rows, top_k_rows


def token_log_probs(logits: Tensor, tokens: Tensor, num_top: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of one token per row, and the highest ones.

    Args:
        logits: float32 `[batch, vocab]`, as the model gave them.
        tokens: int64 `[batch]`; what is no token counts as token 0.
        num_top: how many of the most probable tokens; no more than there are.

    Returns:
        Of the tokens, float32 `[batch]`; of the most probable ones, float32 `[batch, num_top]`, and their ids, int64.
    """
    total = log_sum_exp_rows(logits)[:, None]
    best, ids = top_k_rows(logits, min(num_top, logits.shape[1]))
    own = logits.gather(1, tokens.clamp(min=0)[:, None]) - total
    return own.squeeze(1), best - total, ids


@dataclass
class LogProbRecord:
    """Log-probabilities of every step, without the scores they come from.

    Args:
        num_top: how many of the most probable tokens are kept beside the one that came.
    """

    num_top: int
    _steps: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def add(self, logits: Tensor, tokens: Tensor) -> None:
        """Take `[batch, vocab]` logits and the tokens `[batch]` that came."""
        self._steps.append(token_log_probs(logits, tokens, self.num_top))

    def fields(self, is_token: Tensor, device: torch.device) -> dict[str, Tensor]:
        """The result's fields; `is_token` is bool `[batch, new]`, False after the end of a row."""
        if not self._steps:
            none = torch.zeros(*is_token.shape, self.num_top, device=device)
            return {"logprobs": none.sum(-1)} | self._top(none, none.long())
        own, top, ids = (torch.stack(kind, dim=1).to(device) for kind in zip(*self._steps, strict=True))
        outside = ~is_token.to(device)
        top, ids = top.masked_fill(outside[..., None], 0.0), ids.masked_fill(outside[..., None], 0)
        return {"logprobs": own.masked_fill(outside, 0.0)} | self._top(top, ids)

    def _top(self, top: Tensor, ids: Tensor) -> dict[str, Tensor]:
        return {"top_logprobs": top, "top_logprob_ids": ids} if self.num_top else {}
