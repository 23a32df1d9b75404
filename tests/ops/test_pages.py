"""Memory in huge pages: the same numbers at the same addresses, from files and from the process's own memory."""

import gc
import mmap
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from seed_oss import AutoModelForCausalLM, SeedOssForCausalLM, quantize_
from seed_oss.nn.fused import fuse_
from seed_oss.ops.native import library, pages, why_not
from seed_oss.ops.native.pages import HUGE_PAGE, HugePages
from tests.factory import random_ids, tiny_model

pytestmark = pytest.mark.skipif(library() is None, reason=f"no native kernels: {why_not()}")
NUM_PAGES = 5


def mapped(path: Path) -> Tensor:
    """A file's bytes, as a checkpoint's are mapped."""
    path.write_bytes(torch.arange(NUM_PAGES * HUGE_PAGE // 4, dtype=torch.int32).numpy().tobytes())
    with path.open("rb") as file:
        return torch.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=torch.uint8)


def own() -> Tensor:
    return torch.arange(NUM_PAGES * HUGE_PAGE // 4, dtype=torch.int32).view(torch.uint8)


def huge_bytes(address: int) -> int:
    """Of the mapping at an address, how much is in huge pages."""
    is_here = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            is_here = int(found[1], 16) <= address < int(found[2], 16)
        elif is_here and line.startswith("AnonHugePages:"):
            return int(line.split()[1]) * 1024
    return 0


def moved(tensor: Tensor) -> HugePages:
    found, most = HugePages([tensor]), 0
    while not found.are_done and most < 1000:
        found.go_on()
        most += 1
    assert most <= 65
    return found


def system_can() -> bool:
    tensor = own()
    moved(tensor)
    return huge_bytes(tensor.data_ptr() + 2 * HUGE_PAGE) > 0


@pytest.mark.parametrize("kind", ["file", "own"])
def test_memory_moves_and_nothing_in_it_changes(tmp_path: Path, kind: str) -> None:
    if not system_can():
        pytest.skip("this system gives no huge pages")
    tensor = mapped(tmp_path / "file") if kind == "file" else own()
    before, address = tensor.clone(), tensor.data_ptr()
    moved(tensor)
    assert tensor.data_ptr() == address
    assert torch.equal(tensor, before)
    inside = -(-address // HUGE_PAGE) * HUGE_PAGE
    assert huge_bytes(inside) >= HUGE_PAGE
    tensor[: 3 * HUGE_PAGE] = 7  # as it could be written to before
    assert int(tensor[2 * HUGE_PAGE]) == 7
    if kind == "file":
        assert (tmp_path / "file").read_bytes() == before.numpy().tobytes()
        del tensor
        gc.collect()
        assert not any(one.first <= inside < one.end for one in pages._mappings()), "all of it is given back"


def test_a_file_is_not_copied_where_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = mapped(tmp_path / "file")
    monkeypatch.setattr(pages, "memory_bytes", lambda: (None, NUM_PAGES * HUGE_PAGE))
    found = HugePages([tensor])
    found.go_on()
    assert found.are_done
    assert huge_bytes(tensor.data_ptr() + 2 * HUGE_PAGE) == 0


def test_a_file_is_copied_no_further_once_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor, asked = mapped(tmp_path / "file"), list[int]()
    monkeypatch.setattr(
        pages, "library", lambda: SimpleNamespace(so_huge_pages=lambda *_: asked.append(1) or HUGE_PAGE)
    )
    monkeypatch.setattr(pages, "_is_wanted", lambda: True)
    monkeypatch.setattr(pages, "memory_bytes", lambda: (None, (100 if len(asked) < 2 else 1) * HUGE_PAGE))
    found = HugePages([tensor])
    for _ in range(5):
        found.go_on()
    assert found.are_done
    assert len(asked) == 2


def test_a_file_is_not_copied_where_mappings_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each copied page is a mapping; without any left a process could start no thread."""
    tensor = mapped(tmp_path / "file")
    most = len(pages._mappings()) + 10
    read = pages.read_text
    monkeypatch.setattr(pages, "read_text", lambda path: str(most) if path.endswith("max_map_count") else read(path))
    found = HugePages([tensor])
    found.go_on()
    assert found.are_done
    assert huge_bytes(tensor.data_ptr() + 2 * HUGE_PAGE) == 0


def test_who_begins_anew_finds_what_is_left(tmp_path: Path) -> None:
    if not system_can():
        pytest.skip("this system gives no huge pages")
    tensor = mapped(tmp_path / "file")
    found = HugePages([tensor])
    found.go_on()
    assert not found.are_done
    wanted = {page for page, _ in found._left or ()}
    assert wanted <= {page for page, _ in pages._pages_of([tensor])}


@pytest.mark.parametrize("what", ["variable", "system", "nothing is known"])
def test_where_it_is_not_wanted(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if what == "variable":
        monkeypatch.setenv("SEED_OSS_HUGE_PAGES", "0")
    else:
        said = {"system": "always madvise [never]\n", "nothing is known": ""}[what]
        monkeypatch.setattr(pages, "read_text", lambda _: said)
    found = HugePages([own()])
    found.go_on()
    assert found.are_done


def test_a_system_that_has_no_more_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(pages, "library", lambda: SimpleNamespace(so_huge_pages=lambda *_: asked.append(1) or 0))
    monkeypatch.setattr(pages, "_is_wanted", lambda: True)
    found = HugePages([torch.empty(40 * HUGE_PAGE, dtype=torch.uint8)])
    for _ in range(60):
        found.go_on()
    assert found.are_done
    assert len(asked) == 4


def knows_collapse() -> bool:
    release = re.match(r"(\d+)\.(\d+)", platform.release())
    return platform.system() == "Linux" and release is not None and (int(release[1]), int(release[2])) >= (6, 1)


@pytest.mark.skipif(not knows_collapse(), reason="only Linux from 6.1 on says whether memory is in huge pages")
def test_a_process_that_may_have_none_copies_nothing(tmp_path: Path) -> None:
    program = f"""
import ctypes
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE
from pathlib import Path
from tests.ops.test_pages import HUGE_PAGE, mapped
from seed_oss.ops.native import library
tensor = mapped(Path({str(tmp_path / "file")!r}))
before = len(Path("/proc/self/maps").read_text().splitlines())
assert library().so_huge_pages(tensor.data_ptr(), tensor.numel(), 3) == 0
assert len(Path("/proc/self/maps").read_text().splitlines()) == before
"""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(root), str(root / "src")))}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_weights_that_are_gone_are_not_kept() -> None:
    model = fuse_(quantize_(large_model(), "int8"))
    model.generate(random_ids(1, 9), max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert model.model.layers._pages._kept
    model.to(torch.float64)
    assert not model.model.layers._pages._kept


def large_model() -> Any:
    shape = {"hidden_size": 512, "intermediate_size": 2048, "head_dim": 64, "vocab_size": 8192}
    return tiny_model(SeedOssForCausalLM, **shape, max_position_embeddings=256)


@pytest.mark.parametrize("kind", ["mapped", "own", "bfloat16"])
def test_answers_are_the_same_while_weights_move(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = large_model()
    if kind != "bfloat16":
        quantize_(model, "int8")
    if kind == "mapped":
        model.save_pretrained(tmp_path)
        model = AutoModelForCausalLM.from_pretrained(tmp_path)
    model = fuse_(model.to(torch.bfloat16) if kind == "bfloat16" else model)
    ids, tried = random_ids(1, 9), list[int]()

    def said() -> list[list[int]]:
        return model.generate(ids, max_new_tokens=80, do_sample=False, eos_token_id=None).tolist()

    monkeypatch.setenv("SEED_OSS_HUGE_PAGES", "0")
    plain = said()
    monkeypatch.delenv("SEED_OSS_HUGE_PAGES")
    model.model.layers._forget()
    native: Any = library()
    monkeypatch.setattr(
        pages,
        "library",
        lambda: SimpleNamespace(so_huge_pages=lambda *a: tried.append(a[0]) or native.so_huge_pages(*a)),
    )
    assert said() == plain
    assert len(set(tried)) == len(tried)
    assert tried or os.environ.get("SEED_OSS_HUGE_PAGES") or not pages._is_wanted()
    assert said() == plain


def test_a_step_of_several_tokens_moves_as_much_as_several_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    moved_at: list[int] = []

    def move(address: int, size: int, protection: int) -> int:
        moved_at.append(address)
        return size

    monkeypatch.setattr(pages, "library", lambda: SimpleNamespace(so_huge_pages=move))
    monkeypatch.setattr(pages, "_is_wanted", lambda: True)
    monkeypatch.setattr(pages, "_pages_of", lambda tensors: [(address, -1) for address in range(640)])
    found = HugePages([torch.zeros(1)])
    found.go_on()
    found.go_on(num_steps=3)
    assert moved_at == list(range(639, 599, -1))
