PYTHON := $(shell bash tools/setup.sh dev)

.PHONY: lint test smoke campaign
lint:
	bash tools/check.sh
test:
	bash test.sh
smoke:
	bash test.sh -m "not slow and not ddp"
campaign:  # 10,000 inputs of every kind; docs/reliability.md
	CAMPAIGN=10000 bash test.sh tests/campaign
