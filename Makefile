PYTHON := $(shell bash tools/setup.sh dev)

.PHONY: lint test smoke
lint:
	bash tools/check.sh
test:
	bash test.sh
smoke:
	bash test.sh -m "not slow and not ddp"
