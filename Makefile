# Two commands: make study, make test. The rest are shortcuts.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?=
SEEDS ?=
DATA ?=
LAB ?=
# An image that is uploaded to the explorer comes in one message; the server's own limit is 10 MB.
ROOM := {"websocket_max_message_size": 67108864}

.PHONY: study test faults bench rehearsal lint lab explore help

help:
	@echo "make study   install if needed, run the embedded study, build its report"
	@echo "make test    install if needed, run the tests"
	@echo "make faults  kill it, cut its power, feed it bad input, and print what was lost (an hour)"
	@echo "make bench   measure how fast it is here, as ratios (DATA=folder with real images)"
	@echo "make rehearsal   the paper's study from an empty cache, with all downloads on a loopback address"
	@echo "make lab     open the notebooks in JupyterLab"
	@echo "make explore open the explorer of finished runs as a page"
	@echo "make lint    check style"

# The stamp is newer than pyproject.toml once everything it names is installed.
$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("kdlib needs Python 3.11 or newer; choose one with make PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	@touch $@

study: $(VENV)/installed
	$(BIN)/kdlib run notebooks/studies/mini.yaml $(if $(WORKERS),--workers $(WORKERS)) $(if $(SEEDS),--seeds $(SEEDS))

test: $(VENV)/installed
	$(BIN)/python -m pytest -n auto --dist loadfile

faults: $(VENV)/installed
	$(BIN)/python tests/faults $(FAULTS)

bench: $(VENV)/installed
	$(BIN)/kdlib bench --whole-grid $(if $(DATA),--data-root $(DATA))

# From an empty cache to the report, with the hub and the sites on loopback addresses: 40 minutes, 15 GB of disk.
rehearsal: $(VENV)/installed
	PYTHONPATH=tests $(BIN)/python -m rehearsal

lint: $(VENV)/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

# The notebooks ask for 'python3': this environment's kernel, even where the user has registered another by that
# name. Terminals in JupyterLab find kdlib and papermill. LAB: further options, as in make lab LAB=--no-browser.
lab: $(VENV)/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" JUPYTER_PREFER_ENV_PATH=1 \
		$(BIN)/jupyter lab $(LAB) --ServerApp.tornado_settings='$(ROOM)' notebooks

# notebooks/jupyter: a template without the fonts that voila's own asks another host for. notebooks/voila.json: uploads of up to 64 MB, a policy by which the browser fetches nothing from other hosts, and an
# end for the kernels of pages that were closed.
explore: $(VENV)/installed
	JUPYTER_PATH=$(CURDIR)/notebooks/jupyter $(BIN)/voila notebooks/explore.ipynb --Voila.config_file_paths=notebooks
