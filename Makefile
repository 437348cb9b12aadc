# Calls things, and decides nothing: how to set up is in packaging/, what to test in tests/.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help venv venv-test demo run stop check test sweep sweep-lxc soak bench rig test-rig rig-shell clean docs

BIN := .venv/bin
# Two at a time; tests/rigs/together.py says what has to stay with one of them.
PYTEST := $(BIN)/pytest -q -n 2 --dist loadfile

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

venv:  ## Make .venv with the scripts xenopsd and xenops
	@packaging/make-venv

venv-test:  ## The same, with what the tests need
	@packaging/make-venv test

demo: venv  ## Show what it does, in seconds, and leave nothing behind
	@$(BIN)/python docs/demo/demo.py $(ARGS)

run: venv  ## Leave a daemon running, in .run/ (ARGS="--backend simulator --debug" go to xenopsd)
	@packaging/run-here start $(ARGS)

stop:  ## End the daemon of make run; its VMs stay as they are
	@packaging/run-here stop

check: venv-test  ## The inner loop: linters, types, import rules, unit tests
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) tests/unit

test: check  ## Everything: check, then the other tests, then integration with one worker
	$(PYTEST) --ignore tests/unit
	XENOPSD_TEST_WORKERS=1 $(PYTEST) tests/integration

docs: export NO_MKDOCS_2_WARNING = 1
docs:  ## Build the documentation into build/site; a dead link fails it
	@packaging/make-venv docs
	$(BIN)/mkdocs build --strict

sweep: venv-test  ## Kill the daemon at every point of every operation
	$(BIN)/python tests/crash/sweep.py

sweep-lxc: venv-test  ## The same with real containers, then 200 random operations (as root; SEED=S)
	$(BIN)/python tests/crash/containers/sweep.py
	$(BIN)/python tests/crash/containers/churn.py $(if $(SEED),--seed $(SEED))

soak: venv-test  ## Random operations, faults and kills for so long, and a look for leaks (MINUTES=2 SEED=S)
	$(BIN)/python tests/soak/run.py --minutes $(or $(MINUTES),2) $(if $(SEED),--seed $(SEED)) \
		$(if $(WRITE_DOCS),--markdown docs/endurance.md)

bench:  ## Measure, and hold to the bars (QUICK=1: seconds; JSON=FILE; WRITE_DOCS=1; ARGS=SCENARIO)
	@packaging/make-venv bench
	@$(BIN)/python -m bench $(if $(QUICK),--quick) $(if $(JSON),--json "$(JSON)") $(ARGS) \
		$(if $(WRITE_DOCS),--write-docs)

rig: venv-test  ## Build the machine with Debian's kernel 6.1 (as root; kept in ~/.cache/xenopsd)
	$(BIN)/python tests/rigs/machine/rig.py build

test-rig: venv-test  ## The tests that need that machine, inside it (ARGS="--maxfail 1 tests/rig")
	$(BIN)/python tests/rigs/machine/rig.py test $(ARGS)

rig-shell: venv-test  ## A shell inside it
	$(BIN)/python tests/rigs/machine/rig.py shell

clean:  ## Remove .venv, .run with its VMs, caches and builds
	@packaging/run-here clean
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
