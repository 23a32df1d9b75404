"""`seed-oss plan`."""

import json

from tests.cli.conftest import Run


def test_json_has_the_bytes(run: Run):
    done = run("plan", "36b", "--json", "--no-speed", "--quantization", "none", "--device", "cpu", "--memory", "100GiB")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert found["best"]["form"] == "bfloat16"
    assert found["placements"][0]["weights"]["total"] == 72_302_209_024
    assert found["placements"][0]["cache"]["per_token"] == 262_144
    assert found["devices"][0]["free_bytes"] == 100 * 2**30


def test_the_table(run: Run):
    done = run("plan", "36b", "--no-speed", "--device", "cpu", "--memory", "48GiB", "--context", "8192", "--batch", "2")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "36b: 36.15 billion parameters, a context of 8,192 tokens, 2 at once"
    assert [line.split()[0] for line in lines if " cpu " in line and "GiB" in line][:2] == ["bfloat16", "int8"]
    assert "67.3 GiB" in done.out
    parts = next(line.split() for line in lines if "KiB in" in line)
    assert parts == ["bfloat16", "1.5", "GiB", "64.4", "GiB", "1.5", "GiB", "256.0", "KiB", "in", "bfloat16"]
    assert "Use int8 on cpu" in lines[-1]


def test_nothing_fits(run: Run):
    done = run("plan", "36b", "--no-speed", "--device", "cpu", "--memory", "1GiB")
    assert done.code == 1
    assert "Nothing fits." in done.out


def test_wrong_arguments_are_one_line(run: Run):
    for arguments, message in (
        (("--quantization", "int3"), "int3"),
        (("--context", "-1"), "context is -1"),
        (("--batch", "0"), "batch is 0"),
        (("--device", "tpu"), "tpu"),
    ):
        done = run("plan", "36b", "--no-speed", *arguments)
        assert (done.code, done.out) == (1, "")
        assert message in done.err
        assert done.err.count("\n") == 1


def test_memory_that_is_no_size(run: Run):
    done = run("plan", "36b", "--no-speed", "--memory", "much")
    assert done.code == 2
    assert "80GiB" in done.err
