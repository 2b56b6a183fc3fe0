# Two commands for a bare clone: `make demo` and `make test`. An interrupted installation is resumed by calling again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check clean

demo: $(VENV)/.demo
	$(BIN)/edgeseg demo

test: $(VENV)/.test
	scripts/check $(BIN)

check: test

# A stamp is written only after pip has finished, so a broken installation never looks complete.
$(VENV)/.demo: pyproject.toml | $(VENV)/.base
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]'
	@touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/.base
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.base:
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 12) else "edgeseg needs Python 3.11 or 3.12, this is " + sys.version.split()[0] + ". Call: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache
