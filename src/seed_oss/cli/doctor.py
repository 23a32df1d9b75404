"""`seed-oss doctor`: what this machine has, what is installed, what is fast and why not."""

import json
import platform
from types import ModuleType
from typing import Annotated

import typer

from seed_oss._version import __version__
from seed_oss.cli import machine
from seed_oss.cli.devices import describe_accelerator, device_names, why_no_cuda
from seed_oss.cli.terminal import show_error
from seed_oss.errors import InputError

Section = dict[str, str]

_ACCELERATORS = ("cuda", "xpu", "mps")
_WRONG = "wrong: "


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Write it as one JSON object, for a bug report.")] = False,
) -> None:
    """Show what is installed and what is fast here.

    Versions, devices, memory, and which fast parts are active and why others are not. Exits with 1 if something that
    every command needs is missing.
    """
    torch = machine.import_torch()
    problems = _problems(torch)
    report: dict[str, Section] = {
        "seed-oss": {"version": __version__, "python": platform.python_version(), "system": platform.platform()},
        "packages": _packages(),
        "extras": _extras(torch),
        "machine": _machine(torch),
        "devices": _devices(torch),
        "fast parts": _fast_parts(torch),
        "environment": machine.set_variables(),
    }
    if as_json:
        typer.echo(json.dumps({**report, "problems": problems}, indent=2))
    else:
        _print(report)
        for problem in problems:
            show_error(problem)
    if problems:
        raise typer.Exit(1)


def _print(report: dict[str, Section]) -> None:
    width = max(len(name) for section in report.values() for name in section)
    for title, section in report.items():
        if section:
            typer.echo(title)
            for name, value in section.items():
                typer.echo(f"  {name:<{width}}  {value}")


def _problems(torch: ModuleType | str) -> list[str]:
    found: list[str] = []
    for package, lowest in machine.required_packages().items():
        version = machine.version_of(package)
        if version is None:
            found.append(f"{package} is not installed; run: pip install '{package}>={lowest}'")
        elif machine.is_older(version, lowest):
            found.append(f"{package} {version} is too old; run: pip install '{package}>={lowest}'")
    if isinstance(torch, str):
        found.append(f"torch cannot be imported ({torch}); install it again")
    elif _native().startswith(_WRONG):
        found.append(_native().removeprefix(_WRONG))
    return found


def _packages() -> Section:
    return {name: machine.version_of(name) or "not installed" for name in machine.required_packages()}


def _extras(torch: ModuleType | str) -> Section:
    section: Section = {}
    for extra, packages in machine.EXTRAS.items():
        missing = [name for name in packages if machine.version_of(name) is None]
        installed = ", ".join(f"{name} {machine.version_of(name)}" for name in packages)
        section[extra] = f"not installed; run: pip install 'seed-oss[{extra}]'" if missing else installed
    return section if isinstance(torch, str) else {**section, "demo": _demo()}


def _demo() -> str:
    from seed_oss.weights.demo import INSTALL_COMMAND, PACKAGE

    if machine.has_module(PACKAGE):
        return f"weights installed ({PACKAGE} {machine.version_of(PACKAGE.replace('_', '-')) or ''})"
    return f"weights not installed; run: {INSTALL_COMMAND}"


def _machine(torch: ModuleType | str) -> Section:
    total, available = machine.memory_bytes()
    section = {
        "processor": machine.cpu_name(),
        "cores": f"{machine.num_usable_cpus()} usable",
        "memory": f"{machine.gib(total)}, {machine.gib(available)} available",
    }
    if not isinstance(torch, str):
        section["threads"] = f"{torch.get_num_threads()} (change with --threads)"
    return section


def _devices(torch: ModuleType | str) -> Section:
    if isinstance(torch, str):
        return {}
    section: Section = {"--device": ", ".join(["auto", *device_names(torch)])}
    for kind in _ACCELERATORS:
        for line in describe_accelerator(torch, kind):
            name, _, description = line.partition(" ")
            section[name] = description or "available"
    if not torch.cuda.is_available():
        section["cuda"] = f"no: {why_no_cuda(torch)}"
    return section


def _fast_parts(torch: ModuleType | str) -> Section:
    if isinstance(torch, str):
        return {}
    return {
        "native kernels": _native(),
        "kernels on CUDA": _triton(),
        "attention": "on: torch's fused kernels (SDPA); attn_implementation='eager' switches them off",
        "vector instructions": _vector(torch),
        "oneDNN": "on" if torch.backends.mkldnn.is_available() else "off: this torch is built without it",
        "bfloat16 on the CPU": _bfloat16(),
        "torch.compile": _compile(torch),
    }


def _native() -> str:
    from seed_oss.ops.native import instruction_set, why_not

    try:
        reason = why_not()
    except InputError as error:  # SEED_OSS_OPS wants what is not there
        return f"{_WRONG}{error}"
    return f"on: {instruction_set()}, for weights in 4 and 8 bits" if reason is None else f"off: {reason}"


def _triton() -> str:
    from seed_oss.ops.triton import why_not

    reason = why_not()
    return "on: built by Triton beside the first steps" if reason is None else f"off: {reason}"


def _vector(torch: ModuleType) -> str:
    name = torch.backends.cpu.get_cpu_capability()
    return f"on: {name}" if name != "DEFAULT" else "off: torch found none that it knows on this processor"


def _bfloat16() -> str:
    flags = machine.cpu_flags()
    if not flags:
        return "unknown on this system"
    native = sorted(flags & {"amx_bf16", "avx512_bf16", "bf16"})
    if native:
        return "on: the processor computes in it (" + ", ".join(native) + ")"
    return "off: the processor has neither avx512_bf16 nor amx_bf16; it saves memory, not arithmetic"


def _compile(torch: ModuleType) -> str:
    name = machine.compiler()
    if name is None:
        return "off: no C++ compiler found; install g++ or clang"
    return f"ready: {name}; nothing compiles unless you call torch.compile"
