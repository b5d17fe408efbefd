# make demo   set up, then watch plain averaging fall and geminiguard stand under one attack
# make test   set up, then run the tests
# make soak   200 rounds on a network that loses, spoils and doubles replies
# make fuzz   encryption's parsers and its clients against hostile bytes and servers, for longer
# make compose-test  builds the image and runs the Compose federation, where an engine can run
# make schema writes configs/schema.json anew, after a part or a field was added
# make lint   ruff and mypy --strict
# make docs   the documentation site into site/; a warning is an error
# make notebooks    runs every notebook of docs/notebooks
# make package      wheel and sdist into dist/, checked, installed and run in a fresh environment
# make sbom         what .venv holds as a CycloneDX bill of materials, dist/fedguard.cdx.json
# make leaderboard  the leaderboard at its quick size into leaderboard/v1-quick.html
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Two processes share the files of tests; threads inside them would only get in each other's way.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: demo test test-all compose-test soak fuzz schema docs notebooks package sbom leaderboard \
	lint format clean

demo: $(READY)
	@$(BIN)/python simulations/demo.py

test: $(READY)
	$(PYTEST) -m "not slow"

test-all: $(READY) .venv/.docs
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

docs: $(READY) .venv/.docs
	$(BIN)/python -m mkdocs build --strict --quiet

notebooks: $(READY) .venv/.docs
	$(BIN)/python -m pytest -m "slow or not slow" tests/documentation/test_notebooks.py

package: $(READY) .venv/.docs
	$(BIN)/python tests/package/fresh.py

sbom: $(READY) .venv/.docs
	@mkdir -p dist
	$(BIN)/cyclonedx-py environment --of JSON --pyproject pyproject.toml \
		-o dist/fedguard.cdx.json $(BIN)/python

leaderboard: $(READY)
	$(BIN)/python -m fedguard.simulate leaderboard

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

# What the site, the notebooks and the package need beside the tests; not part of `make test`.
.venv/.docs: $(READY)
	@$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[docs,notebooks,package]'
	@touch $@

clean:
	rm -rf .venv build dist site *.egg-info
