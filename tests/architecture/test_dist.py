"""What `make dist` accepts, on made-up archives."""

import io
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

PURE, NATIVE = "seed_oss-0.1.0-py3-none-any.whl", "seed_oss-0.1.0-cp311-abi3-manylinux_2_28_x86_64.whl"
KERNELS = "seed_oss/ops/native/_kernels.abi3.so"


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
    for name in ("check_dist", "tag_wheel"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import check_dist  # pyright: ignore[reportMissingImports]

    return check_dist


def wheel_of(folder: Path, name: str, *names: str) -> Path:
    with zipfile.ZipFile(folder / name, "w") as archive:
        for one in names:
            archive.writestr(one, "")
    return folder / name


def sdist_of(folder: Path, *names: str) -> Path:
    with tarfile.open(folder / "seed_oss-0.1.0.tar.gz", "w:gz") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(f"seed_oss-0.1.0/{name}"), io.BytesIO())
    return folder / "seed_oss-0.1.0.tar.gz"


@pytest.mark.parametrize(("name", "more"), [(PURE, ()), (NATIVE, (KERNELS,))])
def test_good_archives(tools: ModuleType, tmp_path: Path, name: str, more: tuple[str, ...]) -> None:
    """A wheel without kernels is for every platform, as where there is no compiler."""
    tools.check_contents(sdist_of(tmp_path, *tools.IN_SDIST), wheel_of(tmp_path, name, *tools.IN_WHEEL, *more))


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        (PURE, (KERNELS,), "belong in the wheel of a platform"),
        (NATIVE, (), "SEED_OSS_NATIVE=0"),
        ("seed_oss-0.1.0-cp311-abi3-linux_x86_64.whl", (KERNELS,), "auditwheel"),
        (PURE, ("tests/factory.py",), "not of the package: .*factory"),
    ],
)
def test_wheels_that_are_wrong(tools: ModuleType, tmp_path: Path, name: str, more: tuple[str, ...], said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        tools.check_contents(sdist_of(tmp_path, *tools.IN_SDIST), wheel_of(tmp_path, name, *tools.IN_WHEEL, *more))


def test_files_that_are_missing(tools: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"missing: \['LICENSE', 'seed_oss/py.typed'\]"):
        tools.check_contents(
            sdist_of(tmp_path, *(name for name in tools.IN_SDIST if name != "LICENSE")),
            wheel_of(tmp_path, PURE, *tools.IN_WHEEL[1:]),
        )


def test_kernels_that_could_not_be_built_are_said(
    tools: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tag_wheel  # pyright: ignore[reportMissingImports]

    monkeypatch.setattr(tag_wheel, "DIST", tmp_path)
    wheel_of(tmp_path, PURE, *tools.IN_WHEEL)
    tag_wheel.main()
    wheel_of(tmp_path, "seed_oss-0.1.0-cp311-abi3-linux_x86_64.whl", *tools.IN_WHEEL)
    with pytest.raises(SystemExit, match=r"has no kernels, though there is a compiler; .*SEED_OSS_NATIVE=0"):
        tag_wheel.main()
