"""Weights in huge pages: a pass over all of them then reads up to two fifths faster.

They get there a little with each step of decoding, so that nobody waits for it, and within the steps, since weights
must not be written to meanwhile. What is mapped from a file is copied, where there is memory for that; the rest the
system puts together by itself. `SEED_OSS_HUGE_PAGES=0` in the environment leaves all as it is.
"""

import os
import re
from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from seed_oss.ops.memory import memory_bytes, read_text
from seed_oss.ops.native.library import library

HUGE_PAGE = 2 << 20
_STEPS = 64  # after which all is done
_MOST_FAILURES = 4  # in a row: then the system has no more
_OWN_MEMORY = -1


class _Mapping(NamedTuple):
    """A range of addresses: whose it is, and what may be done there, as mmap has it."""

    first: int
    end: int
    protection: int
    is_private: bool
    is_file: bool


class HugePages:
    """Moves memory into huge pages.

    Args:
        tensors: whose memory it is; each is kept until that is done.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._kept = {one.untyped_storage().data_ptr(): one for one in tensors if one.device.type == "cpu"}
        self._left: list[tuple[int, int]] | None = None  # addresses and protections; None before the first step
        self._share, self._failures = 1, 0

    @property
    def are_done(self) -> bool:
        """Whether nothing is left to be moved."""
        return self._left is not None and not self._left

    def go_on(self, also: Iterable[Tensor] = (), num_steps: int = 1) -> None:
        """Move some more. To be called with each step, by one thread at a time, while nobody writes to the tensors.

        Args:
            also: more tensors; only the first call looks at them.
            num_steps: that the call stands for.
        """
        if self._left is None:
            self._kept |= HugePages(also)._kept
            self._left = _pages_of(self._kept.values()) if _is_wanted() else []
            self._share = -(-len(self._left) // _STEPS)
        if self._left and self._left[-1][1] != _OWN_MEMORY and not _is_room_for(len(self._left)):
            self._left = [one for one in self._left if one[1] == _OWN_MEMORY]
        native = library()
        for _ in range(min(self._share * num_steps, len(self._left))):
            address, protection = self._left.pop()
            is_done = native is not None and native.so_huge_pages(address, HUGE_PAGE, protection) == HUGE_PAGE
            self._failures = 0 if is_done else self._failures + 1
            if self._failures == _MOST_FAILURES:
                self._left.clear()
                break
        if not self._left:
            self._kept.clear()


def _is_wanted() -> bool:
    modes = read_text("/sys/kernel/mm/transparent_hugepage/enabled")
    return os.environ.get("SEED_OSS_HUGE_PAGES") != "0" and "[" in modes and "[never]" not in modes


def _is_room_for(num_pages: int) -> bool:
    """Whether so many pages of files may be copied: memory, and mappings, of which each copied page is one."""
    _, available = memory_bytes()
    most = read_text("/proc/sys/vm/max_map_count").strip()
    has_mappings = most.isdecimal() and 2 * (num_pages + len(_mappings())) <= int(most)
    return has_mappings and available is not None and 2 * HUGE_PAGE * num_pages <= available


def _pages_of(tensors: Iterable[Tensor]) -> list[tuple[int, int]]:
    """Addresses of the huge pages that hold tensors, and how each is made; files' come last, and are moved first."""
    found = dict[int, int]()
    mappings = _mappings()
    starts = [one.first for one in mappings]
    for tensor in tensors:
        storage = tensor.untyped_storage()
        first, end = storage.data_ptr(), storage.data_ptr() + storage.nbytes()
        if storage.nbytes() < HUGE_PAGE:
            continue
        for page in range(first // HUGE_PAGE * HUGE_PAGE, end, HUGE_PAGE):
            mapping = mappings[max(bisect_right(starts, page) - 1, 0)]
            if not (mapping.first <= page and page + HUGE_PAGE <= mapping.end and mapping.is_private):
                continue
            if not mapping.is_file:  # with what lies around it: it moves without anybody's notice
                found[page] = _OWN_MEMORY
            elif first <= page and page + HUGE_PAGE <= end:
                found[page] = mapping.protection
    return sorted(found.items(), key=lambda one: (one[1] != _OWN_MEMORY, -one[0]))


def _mappings() -> list[_Mapping]:
    """Of this process."""
    lines = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ (\d+)", read_text("/proc/self/maps"), re.MULTILINE)
    return [
        _Mapping(
            int(first, 16),
            int(end, 16),
            sum(bit for letter, bit in zip("rwx", (1, 2, 4), strict=True) if letter in allowed),
            "p" in allowed,
            inode != "0",
        )
        for first, end, allowed, inode in lines
    ]
