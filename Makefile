# Two commands take a bare machine (Python 3.11 or 3.12, make) to a result: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
RUN    ?= runs/demo
INPUT  ?=
STAMP  := $(VENV)/.installed

.PHONY: demo test lint docs install browser system bench faults audit licences clean

demo: install                ## run the whole chain on rendered clips, or on INPUT=folder
	$(BIN)/dualforce demo --run-dir "$(RUN)" $(if $(INPUT),--input "$(INPUT)")

test: install browser system lint docs  ## everything that CI checks; two files at a time
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install                ## the documentation's site in build/docs; a warning is an error
	$(BIN)/python -m mkdocs build --strict --quiet

bench: install               ## seconds of video per second of stages 2-5 on INPUT=folder
	$(BIN)/dualforce bench data --input "$(INPUT)" --json

faults: install              ## kill, hang, fill, spoil; KILLS=100 SEED=… OUTAGE_S=120 for the long form
	KILLS=$(KILLS) SEED=$(SEED) OUTAGE_S=$(OUTAGE_S) $(BIN)/python -m pytest -s tests/faults

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13) and "Python 3.11 or 3.12 is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -c 'import cv2' || { apt-get update -qq && apt-get install -y -qq libgl1 libglib2.0-0; }
	$(BIN)/python -c 'import cv2, mediapipe'
	touch $@

browser:                     ## for the tests of the page; the shell alone installs in a third of the time of chromium
	for name in chromium-headless-shell chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium-headless-shell

system:                      ## for the tests of a team's server and of the systemd units
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && command -v systemd-analyze >/dev/null || \
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql systemd; }

audit:                       ## known vulnerabilities of the pinned versions; asks PyPI's vulnerability service
	test -x .cache/audit/bin/pip-audit || { $(PYTHON) -m venv .cache/audit && .cache/audit/bin/pip install --quiet pip-audit; }
	.cache/audit/bin/pip-audit --disable-pip --no-deps -r constraints.txt

licences: install            ## write docs/licences.md anew
	sh infra/licences.sh $(BIN)/pip-licenses > docs/licences.md

clean:                       ## remove the environment; runs stay
	rm -rf $(VENV) build *.egg-info
