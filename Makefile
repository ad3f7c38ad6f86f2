PYTHON := $(shell bash tools/setup.sh dev)

.PHONY: lint type test smoke
lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(dir $(PYTHON))lint-imports
type:
	$(PYTHON) -m mypy
test:
	bash test.sh
smoke:
	bash test.sh -m "not slow and not ddp"
