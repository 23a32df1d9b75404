"""From hidden states to logits and loss, without holding all logits where nobody asked for them."""

from typing import Any

import torch
from torch import Tensor, nn

from seed_oss.errors import InputError, StateError
from seed_oss.nn.loss import check_class_labels, next_token_labels
from seed_oss.nn.outputs import Deferred
from seed_oss.ops.loss import chunked_cross_entropy, cross_entropy


def select_positions(hidden_states: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """The positions that logits are wanted for.

    Args:
        hidden_states: `[batch, length, hidden_size]`.
        logits_to_keep: see SeedOssForCausalLM.forward.

    Returns:
        `[batch, kept, hidden_size]`, or `[num_true, hidden_size]` for a boolean mask.

    Raises:
        InputError: a negative number, a tensor of another shape or type, or positions outside the sequence (looked at
            on the CPU, in eager mode).
    """
    if isinstance(logits_to_keep, int) and not isinstance(logits_to_keep, bool):
        if logits_to_keep < 0:
            raise InputError(f"logits_to_keep is {logits_to_keep}; it must be >= 0 (0 keeps all positions)")
        return hidden_states if logits_to_keep == 0 else hidden_states[:, -logits_to_keep:]
    if not isinstance(logits_to_keep, Tensor) or logits_to_keep.is_floating_point():
        raise InputError(f"logits_to_keep is {logits_to_keep!r}; it must be an integer, or a tensor of positions")
    _check_positions(logits_to_keep, hidden_states)
    if logits_to_keep.dim() == 2:
        if logits_to_keep.dtype == torch.bool:
            return hidden_states[logits_to_keep]
        return torch.take_along_dim(hidden_states, logits_to_keep[..., None], dim=1)
    return hidden_states[:, logits_to_keep]


def _check_positions(positions: Tensor, hidden_states: Tensor) -> None:
    batch, length = hidden_states.shape[:2]
    is_mask = positions.dtype == torch.bool
    fits = positions.dim() == 1 or (
        positions.dim() == 2 and positions.shape[0] in ((batch,) if is_mask else (1, batch))
    )
    if positions.is_complex() or not fits or (is_mask and positions.shape[-1] != length):
        raise InputError(
            f"logits_to_keep is {positions.dtype} {list(positions.shape)}; it must be integers [n] or [{batch}, n], or "
            f"booleans [{length}] or [{batch}, {length}]"
        )
    if is_mask or torch.compiler.is_compiling() or positions.device.type != "cpu":
        return
    wrong = positions[(positions < -length) | (positions >= length)]
    if wrong.numel():
        raise InputError(
            f"logits_to_keep has position {int(wrong[0])}; the sequence has {length}, allowed are {-length} to "
            f"{length - 1}"
        )


def causal_lm_loss(
    head: nn.Module,
    hidden_states: Tensor,
    labels: Tensor | None,
    *,
    shift_labels: Tensor | None,
    num_items: Tensor | int | None,
    vocab_size: int,
    return_logits: bool | None,
) -> tuple[Tensor | None, Any]:
    """Loss and logits of the language-model head.

    Args:
        head: `[..., hidden_size]` to `[..., vocab_size]`.
        hidden_states: `[batch, length, hidden_size]` or `[tokens, hidden_size]`.
        labels: as many as there are positions, to be shifted; or None.
        shift_labels: the same, shifted already; or None.
        num_items: divisor of the summed loss, or None for the mean.
        vocab_size: number of words.
        return_logits: True now, False never, None as `may_defer` says.

    Returns:
        `(loss, logits)`; each may be None, logits may be Deferred.

    Raises:
        InputError: labels of a wrong shape, type or range.
    """
    if return_logits is not None and not isinstance(return_logits, bool):
        raise InputError(f"return_logits is {return_logits!r}; it must be True, False or None")
    targets = _targets(labels, shift_labels, hidden_states, vocab_size)
    if targets is None:
        return None, None if return_logits is False else head(hidden_states)
    if return_logits is True or (return_logits is None and not may_defer(head)):
        logits = head(hidden_states)
        return cross_entropy(logits.reshape(-1, logits.shape[-1]), targets, num_items), logits
    tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
    loss = chunked_cross_entropy(tokens, head, targets, vocab_size, num_items)
    return loss, None if return_logits is False else Deferred(LogitsLater(head, hidden_states))


def _targets(
    labels: Tensor | None, shift_labels: Tensor | None, hidden_states: Tensor, vocab_size: int
) -> Tensor | None:
    """Labels per position, shifted and flat `[tokens]`."""
    if labels is None and shift_labels is None:
        return None
    given, name = (labels, "labels") if shift_labels is None else (shift_labels, "shift_labels")
    num_positions = hidden_states.shape[:-1].numel()
    if not isinstance(given, Tensor) or given.numel() != num_positions:
        shape = list(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise InputError(
            f"{name} is {shape}; it must have one label for each of the {list(hidden_states.shape[:-1])} positions "
            "that logits are computed for (see logits_to_keep)"
        )
    check_class_labels(given, vocab_size, name)
    return (next_token_labels(given) if shift_labels is None else given).reshape(-1).long()


def may_defer(head: nn.Module) -> bool:
    """Whether logits may wait for whoever looks: eager mode, one process, a head that would say the same again."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed or torch.compiler.is_compiling():
        return False
    return not (head.training and any(isinstance(module, nn.Dropout) and module.p > 0 for module in head.modules()))


class LogitsLater:
    """The logits of a forward, computed when asked for, in the forward's own grad mode and autocast.

    Args:
        head: the language-model head.
        hidden_states: its input; kept alive with its graph.

    Raises:
        StateError: (when called) the head's parameters were replaced or changed since.
    """

    def __init__(self, head: nn.Module, hidden_states: Tensor) -> None:
        self.head, self.hidden_states = head, hidden_states
        self.seen = _parameter_versions(head)
        self.grad, device = torch.is_grad_enabled(), hidden_states.device.type
        self.autocast = torch.autocast(
            device, dtype=torch.get_autocast_dtype(device), enabled=torch.is_autocast_enabled(device)
        )

    def __call__(self) -> Tensor:
        """The logits."""
        if _parameter_versions(self.head) != self.seen:
            raise StateError(
                "logits were not computed in the forward, and the head's parameters have changed since; read "
                "output.logits before the optimizer step, or call the model with return_logits=True"
            )
        with torch.set_grad_enabled(self.grad), self.autocast:
            return self.head(self.hidden_states)


def _parameter_versions(head: nn.Module) -> list[tuple[int, int]]:
    """Identity and version counter of each parameter (inference tensors have no counter)."""
    return [(id(p), -1 if p.is_inference() else p._version) for p in head.parameters()]
