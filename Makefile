# make demo   set up, then watch plain averaging fall and geminiguard stand under one attack
# make test   set up, then run the tests
# make soak   200 rounds on a network that loses, spoils and doubles replies
# make fuzz   encryption's parsers and its clients against hostile bytes and servers, for longer
# make compose-test  builds the image and runs the Compose federation, where an engine can run
# make schema writes configs/schema.json anew, after a part or a field was added
# make lint   ruff and mypy --strict
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Two processes share the files of tests; threads inside them would only get in each other's way.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: demo test test-all compose-test soak fuzz schema lint format clean

demo: $(READY)
	@$(BIN)/python simulations/demo.py

test: $(READY)
	$(PYTEST) -m "not slow"

test-all: $(READY)
	$(PYTEST)

# Needs no virtual environment of its own: the image holds what runs, Debian's PyYAML reads.
compose-test:
	docker/ci.sh

soak: $(READY)
	$(BIN)/python simulations/soak.py

fuzz: $(READY)
	$(BIN)/python -m pytest -m slow tests/encryption/test_fuzzed_parsers.py \
		tests/encryption/test_malicious_server.py

schema: $(READY)
	$(BIN)/python -m fedguard.simulate --schema > configs/schema.json

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# uv installs in seconds what pip takes minutes for.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "fedguard needs Python 3.11 or newer; try: make PYTHON=python3.12"; exit 1; }
	@echo "setting up .venv (once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q -c constraints.txt uv
	@$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[encryption,vertical,test]'
	@touch $(READY)

clean:
	rm -rf .venv build dist *.egg-info
