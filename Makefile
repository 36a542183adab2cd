# Each of these alone does all set-up: a machine with Python 3.10 to 3.12 (venv, pip) is enough, no root, no GPU.
#
#   make install     everything into .venv; then: . .venv/bin/activate
#   make demo        the whole chain in a quarter of an hour on two cores that are free: report in runs/demo/report.html
#   make demo-full   the same in about two hours, with the figures that README quotes
#   make test        lint, types and tests
#   make lint        the first two
#   make notebook    execute notebooks/read_a_run.ipynb on runs/demo, plots and all
#
# Running one again reuses what is there and continues what was interrupted.

PY := .venv/bin/python
INSTALLED := .venv/installed

.PHONY: install demo demo-full test lint notebook
.DELETE_ON_ERROR:

install: $(INSTALLED)

demo: $(INSTALLED)
	@$(PY) -m benchmarks.demo.run --quick

demo-full: $(INSTALLED)
	@$(PY) -m benchmarks.demo.run --full

# One thread per worker: two workers of two threads each are slower on two cores, and numbers must not depend on it.
test: lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadgroup

lint: $(INSTALLED)
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

notebook: $(INSTALLED)
	$(PY) notebooks/execute.py notebooks/read_a_run.ipynb

$(INSTALLED): pyproject.toml
	@.ci/install .venv
	@touch $@
