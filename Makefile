# Two commands: make study, make test. The rest are shortcuts.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?=
SEEDS ?=
BENCH ?=
LAB ?=
# An image that is uploaded to the explorer comes in one message; the server's own limit is 10 MB.
ROOM := {"websocket_max_message_size": 67108864}

.PHONY: study test bench lab example lint help

help:
	@echo "make study   install if needed, run the demo study, make its report (WORKERS=2, SEEDS=3)"
	@echo "make test    install if needed, run the tests"
	@echo "make lab     open the notebooks in JupyterLab"
	@echo "make bench   measure how fast it is here, as ratios; nothing else should run meanwhile (an hour)"
	@echo "make example make reports/example again, after make study"
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

# BENCH: further options of tests/bench.
bench: $(VENV)/installed
	$(BIN)/python tests/bench $(BENCH)

# The rendered report in the repository: PNG figures, since GitHub's viewer removes SVG; no path of this machine.
example: export KDLIB_FIGURES := png
example: $(VENV)/installed
	$(BIN)/python -c 'from kdlib.report import report; report("mini", ["report"], out="reports/example")'
	cd notebooks && ../$(BIN)/papermill --no-progress-bar clip_coco.ipynb ../reports/example/clip_coco.ipynb \
		-p study mini -p epochs "5,10"
	rm reports/example/*.html reports/example/ablations.ipynb && sed -i 's#$(CURDIR)/##g' reports/example/*

lint: $(VENV)/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

# The notebooks ask for 'python3': this environment's kernel, even where the user has registered another by that
# name. Terminals in JupyterLab find kdlib and papermill. LAB: further options, as in make lab LAB=--no-browser.
lab: $(VENV)/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" JUPYTER_PREFER_ENV_PATH=1 \
		$(BIN)/jupyter lab $(LAB) --ServerApp.tornado_settings='$(ROOM)' notebooks
