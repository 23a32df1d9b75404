"""Builds the native kernels where a C++ compiler is found; without one, the package is pure Python.

The library is loaded with ctypes, so it needs neither Python's headers nor torch's, and one file serves every Python.
"""

import os
import shlex
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup

CSRC = Path("src/seed_oss/ops/native/csrc")
FLAGS = [
    *("-O3", "-g0", "-std=c++17", "-fvisibility=hidden", "-pthread"),
    "-ffp-contract=off",  # which sums are fused is written in the code: equal bits must not depend on the compiler
    *("-fno-math-errno", "-Wno-psabi", "-Wno-maybe-uninitialized"),
]


def has_compiler() -> bool:
    """Whether there is a compiler that takes these flags."""
    if os.environ.get("SEED_OSS_NATIVE") == "0" or sys.platform == "win32":
        return False
    return shutil.which(shlex.split(os.environ.get("CXX") or os.environ.get("CC") or "c++")[0]) is not None


def kernels() -> Extension:
    """The library; if it cannot be built, the installation goes on without it."""
    return Extension(
        "seed_oss.ops.native._kernels",
        sources=sorted(str(path) for path in CSRC.glob("*.cpp")),
        depends=sorted(str(path) for pattern in ("*.h", "*.inl") for path in CSRC.glob(pattern)),
        extra_compile_args=FLAGS,
        extra_link_args=["-pthread"],
        language="c++",
        optional=True,
        py_limited_api=True,
    )


is_native = has_compiler()
setup(
    ext_modules=[kernels()] if is_native else [],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if is_native else {},
)
