"""One version, written in one place."""

import re
import tomllib
from importlib.metadata import version

import seed_oss
from tests.architecture.source import PACKAGE, ROOT, name_of, python_files


def test_package_and_metadata_agree() -> None:
    assert version("seed-oss") == seed_oss.__version__


def test_pyproject_takes_it_from_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "seed_oss._version.__version__"}


def test_no_second_place_writes_it() -> None:
    written = re.compile(rf"['\"]{re.escape(seed_oss.__version__)}['\"]")
    places = [
        name_of(path)
        for path in python_files("src", "tools")
        if written.search(path.read_text(encoding="utf-8")) and path != PACKAGE / "_version.py"
    ]
    assert not places, f"take it from seed_oss._version: {places}"


def test_changelog_names_it() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{seed_oss.__version__}]" in changelog or "## [Unreleased]" in changelog
