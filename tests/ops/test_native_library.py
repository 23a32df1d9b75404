"""The native library as such: where it comes from, what it says when it is missing, forks, threads, sanitizers."""

import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import seed_oss.ops.native as native
from seed_oss.cli.machine import cpu_flags
from seed_oss.ops.grouped_weight import QuantFormat
from seed_oss.ops.native import structs
from seed_oss.ops.packing import pack
from seed_oss.ops.quantized import quantized_linear
from tests.ops.test_packing import random_weight

NATIVE = Path(native.__file__).parent
PLACES = os.pathsep.join((str(Path(__file__).parents[2]), str(NATIVE.parents[2])))  # of the tests, and of the package
FORMAT = QuantFormat(4, 32)
needs_library = pytest.mark.skipif(native.library() is None, reason=f"no native kernels: {native.why_not()}")
OF_X86 = {"immintrin.h", "cpuid.h"}
WARNINGS_ARE_ERRORS = ["-Wall", "-Wextra", "-Werror"]


def product() -> torch.Tensor:
    x = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    return quantized_linear(x, pack(random_weight(FORMAT, 96, 64)), FORMAT, (96, 64))


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, check=False
    )


def test_it_is_built_where_a_compiler_is() -> None:
    if shutil.which("c++") is None or sys.platform == "win32" or os.environ.get("SEED_OSS_NATIVE") == "0":
        pytest.skip("no C++ compiler here")
    assert native.why_not() is None


@pytest.mark.parametrize(
    ("wanted", "said"),
    [("reference", "None SEED_OSS_OPS=reference is set"), ("portable", "portable None"), ("avx9", "InputError")],
)
def test_the_environment_chooses(wanted: str, said: str) -> None:
    code = "from seed_oss.ops.native import instruction_set as i, why_not as w\nprint(i(), w())"
    done = run_python(code, SEED_OSS_OPS=wanted)
    assert said in done.stdout + done.stderr


@needs_library
@pytest.mark.skipif("SEED_OSS_OPS" in os.environ, reason="SEED_OSS_OPS forces an instruction set")
def test_products_in_bfloat16_are_used_where_the_processor_has_them() -> None:
    flags = cpu_flags()
    if not {"avx512_vnni", "avx512vl", "avx512dq", "avx512bw"} <= flags:
        pytest.skip("no AVX-512, or a system that does not say so")
    assert (native.instruction_set() != "avx512") == ("avx512_bf16" in flags)


@needs_library
def test_a_fork_starts_threads_of_its_own() -> None:
    code = (
        "import os, torch\nfrom tests.ops.test_native_library import product\ntorch.set_num_threads(3)\n"
        "first = product()\nchild = os.fork()\n"
        "if child == 0:\n    os._exit(0 if torch.equal(product(), first) else 1)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert run_python(code, PYTHONPATH=PLACES).returncode == 0


@needs_library
@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on address space, and /proc")
def test_fewer_threads_do_where_no_more_can_be_started() -> None:
    """Whatever keeps a thread from starting: here there is no room for its stack."""
    code = (
        "import resource, threading, torch\nfrom tests.ops.test_native_library import product\n"
        "torch.set_num_threads(1)\nfirst = product()\ntorch.set_num_threads(3)\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "threading.stack_size(64 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 20), resource.RLIM_INFINITY))\n"
        "try:\n    threading.Thread(target=print).start()\nexcept RuntimeError:\n    print('no threads')\n"
        "raise SystemExit(0 if torch.equal(product(), first) else 1)"
    )
    done = run_python(code, PYTHONPATH=PLACES)
    assert (done.returncode, done.stdout) == (0, "no threads\n"), done.stderr


@needs_library
def test_calls_from_several_threads_wait_for_each_other() -> None:
    wanted, wrong = product(), []

    def work() -> None:
        for _ in range(20):
            if not torch.equal(product(), wanted):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_no_byte_too_far(tmp_path: Path) -> None:
    """Built with the address and undefined-behaviour sanitizers, and with every warning an error."""
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout
    if not Path(runtime.strip()).is_absolute():
        pytest.skip("g++ has no address sanitizer")
    library = tmp_path / "kernels.so"
    sources = [str(path) for path in sorted((NATIVE / "csrc").glob("*.cpp"))]
    flags = ["-O0", "-std=c++17", "-fPIC", "-shared", "-pthread", "-ffp-contract=off"]
    # g++ warns of its own headers' undefined registers, and of vectors as arguments, which never leave a file here
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wno-uninitialized", "-Wno-psabi"]
    command = ["g++", *flags, *WARNINGS_ARE_ERRORS, *checks, *sources, "-o", str(library)]
    subprocess.run(command, check=True)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("sanitized_run.py")), str(library), str(structs.__file__)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"LD_PRELOAD": runtime.strip(), "ASAN_OPTIONS": "detect_leaks=0"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "clean" in done.stdout


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_the_sources_are_valid_for_other_processors(tmp_path: Path) -> None:
    """As a compiler for arm64 sees them: the headers of this system first, and then no sign of x86."""
    sources = {path: path.read_text() for path in sorted((NATIVE / "csrc").iterdir())}
    headers = {name for text in sources.values() for name in re.findall(r"^ *#include <(.+)>", text, re.MULTILINE)}
    lines = [f"#include <{name}>" for name in sorted(headers - OF_X86)]
    (tmp_path / "elsewhere.h").write_text("\n".join([*lines, "#undef __x86_64__", ""]))
    flags = ["-std=c++17", "-fsyntax-only", "-Wno-psabi", *WARNINGS_ARE_ERRORS, "-include", "elsewhere.h"]
    files = [str(path) for path in sources if path.suffix == ".cpp"]
    done = subprocess.run(["g++", *flags, *files], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
