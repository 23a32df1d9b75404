"""Tries the built wheel the way a user gets it: alone, without extras, in a fresh environment outside the checkout.

`make dist` runs it after building. torch is pinned by constraints.txt so that the CPU build is taken.
"""

import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

from tag_wheel import PURE_REMEDY, has_kernels

ROOT = Path(__file__).resolve().parents[1]
IN_SDIST = ("pyproject.toml", "LICENSE", "NOTICE", "README.md", "Makefile", "constraints.txt", "tests/factory.py")
IN_WHEEL = ("seed_oss/py.typed", "seed_oss/cli/__init__.py", "seed_oss/server/page/index.html")
IMPORT_TEST = """
import importlib.util, pathlib, sys
import seed_oss
assert "torch" not in sys.modules
assert pathlib.Path(seed_oss.__file__).is_relative_to(sys.prefix), seed_oss.__file__
extras = [name for name in ("transformers", "gguf", "pytest", "accelerate") if importlib.util.find_spec(name)]
assert not extras, f"the core install brought {extras}"
for name in seed_oss.__all__:
    getattr(seed_oss, name)
import torch
from seed_oss.ops.native import why_not
assert sys.argv[1] == "pure" or why_not() is None, why_not()
config = seed_oss.SeedOssConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=8,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=64)
model = seed_oss.SeedOssForCausalLM(config).eval()
model.save_pretrained("saved")
again = seed_oss.AutoModelForCausalLM.from_pretrained("saved")
ids = torch.tensor([[5, 6, 7]])
out = again.generate(ids, max_new_tokens=4, do_sample=False)
assert out.shape[0] == 1 and 3 < out.shape[1] <= 7, out.shape
print("seed_oss", seed_oss.__version__, "imports, saves, loads and generates")
"""


def built(pattern: str) -> Path:
    """The one file in dist/ that matches.

    Raises:
        SystemExit: There is none, or more than one.
    """
    found = list((ROOT / "dist").glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"dist/ holds {len(found)} files {pattern}, not one: run make dist")
    return found[0]


def is_pure(wheel: Path) -> bool:
    """Whether a wheel is for every platform, as it is made where there is no compiler."""
    return wheel.name.endswith("-none-any.whl")


def check_contents(sdist: Path, wheel: Path) -> None:
    """Fails where a file that belongs in is missing, or the wheel holds more than the package.

    Raises:
        SystemExit: What is missing or too much.
    """
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    missing = [name for name in IN_SDIST if name not in in_sdist] + [name for name in IN_WHEEL if name not in in_wheel]
    if has_kernels(wheel) == is_pure(wheel):
        raise SystemExit(f"{wheel.name}: kernels belong in the wheel of a platform, and only there; {PURE_REMEDY}")
    if "-linux_" in wheel.name:
        raise SystemExit(f"{wheel.name} was not looked at by auditwheel: run make dist")
    foreign = [name for name in in_wheel if not name.startswith(("seed_oss/", "seed_oss-"))]
    if missing or foreign:
        raise SystemExit(f"missing: {missing}; in the wheel, but not of the package: {foreign}")


def main() -> None:
    """Checks the archives, installs the wheel, runs `seed-oss doctor` and the import test."""
    wheel = built("*.whl")
    check_contents(built("*.tar.gz"), wheel)
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "venv"
        venv.create(fresh, with_pip=True)
        python, work = str(fresh / "bin" / "python"), Path(folder) / "work"
        work.mkdir()
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-qq"]
        subprocess.run([*pip, "--constraint", str(ROOT / "constraints.txt"), str(wheel)], check=True)
        subprocess.run([str(fresh / "bin" / "seed-oss"), "doctor"], check=True, cwd=work)
        kind = "pure" if is_pure(wheel) else "native"
        subprocess.run([python, "-I", "-c", IMPORT_TEST, kind], check=True, cwd=work)
    print(f"{wheel.name} works on its own", file=sys.stderr)


if __name__ == "__main__":
    main()
