"""The losses of the heads (reference: `loss/loss_utils.py` of transformers)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from seed_oss.config import SeedOssConfig
from seed_oss.errors import InputError
from seed_oss.ops.loss import cross_entropy

IGNORE_INDEX = -100
ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]


def next_token_labels(labels: Tensor) -> Tensor:
    """Labels for the position before: shifted left, the last position ignored. `[..., length]` to the same shape."""
    return F.pad(labels, (0, 1), value=IGNORE_INDEX)[..., 1:].contiguous()


def check_class_labels(labels: Tensor, num_classes: int, name: str = "labels") -> None:
    """Refuse labels that are neither a class nor -100. Only on CPU in eager mode, where looking costs nothing.

    Raises:
        InputError: names the worst label and the allowed range.
    """
    if labels.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        raise InputError(f"{name} have dtype {labels.dtype}; they must be integers (torch.long)")
    if torch.compiler.is_compiling() or labels.device.type != "cpu" or labels.numel() == 0:
        return
    wrong = (labels != IGNORE_INDEX) & ((labels < 0) | (labels >= num_classes))
    if wrong.any():
        raise InputError(
            f"{name} contain {int(labels[wrong][0])}; allowed are 0 to {num_classes - 1}, and {IGNORE_INDEX} to ignore"
        )


def sequence_classification_loss(logits: Tensor, labels: Tensor, config: SeedOssConfig) -> Tensor:
    """Regression, single-label or multi-label loss; which one is decided at first use and kept in the config.

    Args:
        logits: `[batch, num_labels]`.
        labels: `[batch]` (single label, or regression with one label) or `[batch, num_labels]`.
        config: `problem_type` and `num_labels`.

    Returns:
        0-dim loss.

    Raises:
        InputError: labels of a wrong shape, dtype or range.
    """
    labels = labels.to(logits.device)
    if config.problem_type is None:
        config.problem_type = _problem_type(labels, config.num_labels)
    if config.problem_type == "single_label_classification":
        check_class_labels(labels, config.num_labels)
        _check_numel(labels, logits.shape[0], "[batch]")
        return F.cross_entropy(logits, labels.view(-1).long(), ignore_index=IGNORE_INDEX)
    _check_numel(labels, logits.numel(), "[batch, num_labels]")
    if config.problem_type == "regression":
        labels = labels if labels.is_floating_point() else labels.to(logits.dtype)
        return F.mse_loss(logits.flatten(), labels.flatten())
    if not labels.is_floating_point():
        raise InputError(
            f"labels have dtype {labels.dtype}; multi_label_classification needs floats of 0 and 1 per label"
        )
    return F.binary_cross_entropy_with_logits(logits, labels.view_as(logits))


def _problem_type(labels: Tensor, num_labels: int) -> ProblemType:
    if num_labels == 1:
        return "regression"
    is_integer = labels.dtype in (torch.int64, torch.int32)
    return "single_label_classification" if is_integer else "multi_label_classification"


def _check_numel(labels: Tensor, numel: int, wanted: str) -> None:
    if labels.numel() != numel:
        raise InputError(f"labels are {list(labels.shape)}; this problem_type needs {wanted}, {numel} values in all")


def token_classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy over tokens in fp32.

    Args:
        logits: `[batch, length, num_labels]`.
        labels: integer `[batch, length]`, -100 to ignore.

    Raises:
        InputError: labels of a wrong shape, dtype or range.
    """
    if labels.shape != logits.shape[:2]:
        raise InputError(f"labels are {list(labels.shape)}; they must be [batch, length] = {list(logits.shape[:2])}")
    check_class_labels(labels, logits.shape[-1])
    return cross_entropy(logits.flatten(0, 1), labels.reshape(-1).long())


def question_answering_loss(
    start_logits: Tensor,
    end_logits: Tensor,
    start_positions: Tensor,
    end_positions: Tensor,
    num_items: Tensor | int | None = None,
) -> Tensor:
    """Mean of the start's and the end's cross entropy; positions outside the text are ignored.

    Args:
        start_logits: `[batch, length]`.
        end_logits: `[batch, length]`.
        start_positions: integer `[batch]` or `[batch, 1]`.
        end_positions: integer `[batch]` or `[batch, 1]`.
        num_items: divide the sums by this instead of by the number of positions that count.

    Raises:
        InputError: positions of a wrong shape or dtype.
    """
    length = start_logits.shape[1]
    losses = []
    for logits, positions, name in (
        (start_logits, start_positions, "start_positions"),
        (end_logits, end_positions, "end_positions"),
    ):
        if positions.numel() != logits.shape[0] or positions.is_floating_point():
            raise InputError(
                f"{name} is {positions.dtype} {list(positions.shape)}; it must be integers [batch={logits.shape[0]}]"
            )
        target = positions.reshape(-1).long().clamp(0, length)
        losses.append(_position_loss(logits, target.to(logits.device), num_items, length))
    return (losses[0] + losses[1]) / 2


def _position_loss(logits: Tensor, target: Tensor, num_items: Tensor | int | None, ignore_index: int) -> Tensor:
    if num_items is None:
        return F.cross_entropy(logits, target, ignore_index=ignore_index)
    total = F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="sum")
    return total / (num_items.to(total.device) if isinstance(num_items, Tensor) else num_items)
