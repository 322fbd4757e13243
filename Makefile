# A fresh machine needs Python 3.11 or newer, make and nothing else: every target sets up what it needs in .venv.
PYTHON ?= python3
STUDY ?= digits
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup sweep report transfer serve cost bench test storm clusters audit lint docs notebooks wheels clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/run: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "roadmap needs Python 3.11 or newer; make PYTHON=python3.12 ... names another one")'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch .venv/run

.venv/dev: .venv/run
	.venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch .venv/dev

setup: .venv/dev  ## set up .venv with everything, the tools for development too

sweep: .venv/run  ## train a study and write its table and figure: make sweep [STUDY=digits] [ARGS='--dry-run']
	.venv/bin/python -m roadmap.sweep study=$(STUDY) $(ARGS)

report: .venv/run  ## write a study's table and figure again from its records: make report [STUDY=digits]
	.venv/bin/python -m roadmap.report experiments/$(STUDY)

transfer: .venv/run  ## digits, then scenes from their weights, and what a step is worth in each task: make transfer [ARGS='study.seeds=[0]']
	.venv/bin/python -m roadmap.sweep study=digits output=transfer runtime.keep_weights=true $(ARGS)
	.venv/bin/python -m roadmap.sweep study=scenes_detection output=transfer study.start=transfer/digits $(ARGS)
	.venv/bin/python -m roadmap.sweep study=scenes_segmentation output=transfer study.start=transfer/digits $(ARGS)
	.venv/bin/python -m roadmap.report.transfer transfer/digits transfer/scenes_detection transfer/scenes_segmentation --to transfer/report

serve: .venv/run  ## a study's page in the browser, which follows its runs: make serve [STUDY=digits] [ARGS='--port 8000']
	.venv/bin/python -m roadmap.serve experiments/$(STUDY) $(ARGS)

cost: .venv/run  ## the roadmap's costs, nothing trained: make cost [ARGS='--scale base --format md']
	.venv/bin/python -m roadmap.cost $(ARGS)

bench: .venv/run  ## how fast every step is, beside timm's loop: make bench [ARGS='--scale atto --image-size 32']
	.venv/bin/python -m roadmap.bench $(ARGS)

test: .venv/dev  ## run the tests (a quarter of an hour on two cores)
	.venv/bin/python -m pytest -n 2 --dist worksteal $(ARGS)

storm: .venv/dev  ## the long storms on runs, sweeps and checkpoints, with their figures (a quarter of an hour)
	.venv/bin/python -m pytest tests/faults tests/test_statistics.py --storm $(ARGS)

clusters: .venv/dev  ## the engines on a real Slurm (Debian's slurmctld, slurmd, slurm-client) and a real Ray
	.venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[slurm,ray]'
	.venv/bin/python -m pytest tests/faults/test_slurm.py tests/faults/test_ray.py tests/faults/test_own_on_clusters.py --clusters $(ARGS)

audit: .venv/dev  ## known vulnerabilities of the pinned versions, where the network tells
	@.venv/bin/pip-audit -r constraints.txt --no-deps --disable-pip --progress-spinner off --timeout 5 > .venv/audit.log 2>&1 || \
		! grep '^Found' .venv/audit.log || { cat .venv/audit.log; exit 1; }
	@echo "audited: $$(grep -c . constraints.txt) versions, of which $$(grep -c 'could not be audited' .venv/audit.log) could not be looked up here"

lint: .venv/dev  ## ruff, mypy, and the direction of imports (import-linter)
	.venv/bin/ruff format --check roadmap tests docs
	.venv/bin/ruff check roadmap tests docs
	.venv/bin/mypy
	.venv/bin/lint-imports

docs: .venv/dev  ## build the documentation into build/docs/index.html; a broken link or reference is an error
	.venv/bin/python -m sphinx -q -E -W --keep-going -c docs -d build/doctrees . build/docs

notebooks: .venv/dev  ## execute the notebooks
	.venv/bin/python -m pytest tests/test_notebooks.py

GPU_PYTHON ?= 3.12

wheels:  ## wheels/ for a GPU machine without a network (experiments/imagenette/attempt.sh)
	$(PYTHON) -m pip wheel --quiet --no-deps -c constraints.txt -w wheels hydra-core omegaconf antlr4-python3-runtime fvcore iopath yacs termcolor timm
	$(PYTHON) -m pip download --quiet --no-deps --only-binary=:all: --python-version $(GPU_PYTHON) -c constraints.txt -d wheels/dense faster-coco-eval

clean:  ## remove .venv and caches; runs under experiments/ stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
