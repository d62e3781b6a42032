# `make demo` and `make test` need Python >= 3.11, a C++ compiler and make, and nothing else.
# Long or privileged checks are rigs: `python -m rigs.NAME`; CONTRIBUTING.md lists them.

# The newest Python that runs and can make environments, because a shim on the PATH may stand for one that is not there.
PYTHON ?= $(shell for v in python3.13 python3.12 python3.11 python3; do \
  $$v -c 'import ensurepip, venv' 2>/dev/null && echo $$v && break; done)
VENV := .venv
BIN := $(VENV)/bin
SOURCE_VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' edge_agent/__init__.py)
RELEASE := dist/release/$(SOURCE_VERSION)
COMMIT_TIME = $(shell git log -1 --format=%ct 2>/dev/null)
LLAMA := $(shell sed -n 's/.*"llama-cpp-python==\(.*\)".*/\1/p' pyproject.toml)

.PHONY: setup demo demo-train pool-demo test test-rigs check docs wheelhouse lock image release release-check clean

setup: $(VENV)/ready

# The demonstration needs none of the developer's tools.
$(VENV)/ready: EXTRA := dev
$(VENV)/demo-ready: EXTRA := demo
$(VENV)/train-ready: EXTRA := demo,train
$(VENV)/ready $(VENV)/demo-ready $(VENV)/train-ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "edge-agent needs Python 3.11 or newer, this is $$($(PYTHON) --version): make PYTHON=python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing; llama.cpp is compiled once, which takes about 5 minutes on 2 cores"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRA)]'
	@touch $@

demo: $(VENV)/demo-ready
	$(BIN)/edge-agent demo $(if $(WORK),--work $(WORK))

# Goes from labelled rows to right answers. PyTorch, which it installs, takes 3 GB.
demo-train: $(VENV)/train-ready
	$(BIN)/python -m rigs.demo_train

# A board and a node die while a pool of four boards on three RabbitMQ nodes answers (Debian's rabbitmq-server).
pool-demo: setup
	$(BIN)/python -m rigs.pool demo

# Six processes even on two cores, because the tests wait for brokers, wills and alarms a good part of their time. They
# run in order, because xdist would start the files with few but slow tests last. They start hundreds of processes, each
# of which would compile the source again where no bytecode may be kept.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 6 --dist loadfile --no-loadscope-reorder
test: setup
	$(PYTEST) --ignore tests/rigs --ignore tests/test_playbooks.py

# Checks that the rigs start, count right and find what they look for.
test-rigs: setup
	$(PYTEST) tests/rigs

# Checks style, types, the layers of ARCHITECTURE.md, the unit, the playbooks and the links of the documentation.
check: setup build/ansible/ready docs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --quiet tests/test_systemd_unit.py tests/test_playbooks.py
	cd ansible && PATH="$(CURDIR)/build/ansible/bin:$$PATH" ansible-lint -q

# Pinned, because newer versions have other rules. rigs.deploy uses this environment, too.
build/ansible/ready: Makefile
	test -x build/ansible/bin/python || $(PYTHON) -m venv build/ansible
	build/ansible/bin/python -m pip install --quiet --disable-pip-version-check ansible-core==2.19.14 ansible-lint==26.10.1
	@touch $@

# The documentation as a site, build/site/index.html. A link or an anchor that leads nowhere ends it. The pages are links to
# the files, in the same folders, so that links between them hold in both.
PAGES := README.md ARCHITECTURE.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE ansible/wheels/README.md docs examples \
  ansible/roles/edge_agent/meta/argument_specs.yml ansible/files/mosquitto systemd/edge-agent-web.service
docs: build/mkdocs/ready
	rm -rf build/pages
	for page in $(PAGES); do mkdir -p build/pages/$$(dirname $$page); ln -s "$(CURDIR)/$$page" build/pages/$$page; done
	SOURCE_DATE_EPOCH=$(COMMIT_TIME) NO_MKDOCS_2_WARNING=1 build/mkdocs/bin/mkdocs build --strict

build/mkdocs/ready: ansible/wheels/site.txt
	test -x build/mkdocs/bin/python || $(PYTHON) -m venv build/mkdocs
	build/mkdocs/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

# Everything that a board installs, with hashes: make wheelhouse ARCH=aarch64, or x86_64 (ansible/wheels/README.md).
# The wheel of llama-cpp-python is built unless dist/ has it.
wheelhouse: setup
	$(if $(ARCH),,$(error name the boards' architecture: make wheelhouse ARCH=aarch64, or x86_64))
	$(if $(wildcard dist/llama_cpp_python-$(LLAMA)-*_$(ARCH).whl),,PYTHON=$(PYTHON) ansible/wheels/build_llama.sh $(ARCH))
	$(BIN)/python ansible/wheels/wheelhouse.py $(ARCH)

# An OCI image from the wheelhouse, which is made unless dist/ has it: make image ARCH=aarch64, or x86_64 (docs/container.md).
image: setup
	$(if $(ARCH),,$(error name the boards' architecture: make image ARCH=aarch64, or x86_64))
	$(if $(wildcard dist/wheelhouse/$(ARCH)),,$(MAKE) wheelhouse ARCH=$(ARCH))
	$(BIN)/python ansible/wheels/image.py $(ARCH)

# Makes the newest versions that all boards can install those of both wheelhouses from now on.
lock: setup
	$(BIN)/python ansible/wheels/wheelhouse.py lock

# Everything that a release holds, signed, in dist/release/<version>: make release KEY=release.pem (docs/release.md). Needs root
# for the images. VERSION=… ends it if the source has another one.
ARCHS ?= x86_64 aarch64
BUILDER ?= urn:edge-agent:make-release
release: setup
	$(if $(KEY),,$(error name the key that signs: make release KEY=release.pem))
	$(if $(filter-out $(SOURCE_VERSION),$(VERSION)),$(error edge_agent/__init__.py says $(SOURCE_VERSION), not $(VERSION)))
	@changes=$$(git status --porcelain) && test -z "$$changes" || \
	  { echo "$$changes"; echo "commit first: a release is made from a commit"; exit 1; } >&2
	@grep -q '^## $(SOURCE_VERSION) – unreleased' CHANGELOG.md && echo "warning: CHANGELOG.md says unreleased" >&2 || true
	@openssl pkey -in $(KEY) -noout -passin pass:
	for arch in $(ARCHS); do $(MAKE) wheelhouse ARCH=$$arch && $(MAKE) image ARCH=$$arch || exit; done
	$(MAKE) docs
	$(BIN)/python ansible/wheels/release.py $(ARCHS) --key $(KEY) --builder $(BUILDER)

# Makes the release once more from a fresh clone, and compares: make release-check KEY=release.pem. llama.cpp is not compiled
# again.
AGAIN := build/release-check
release-check:
	$(if $(KEY),,$(error name the key that signed: make release-check KEY=release.pem))
	test -d $(RELEASE)
	rm -rf $(AGAIN) && git clone --quiet . $(AGAIN) && mkdir $(AGAIN)/dist
	touch --reference $(VENV)/ready $(AGAIN)/pyproject.toml
	cp dist/llama_cpp_python-*.whl $(AGAIN)/dist
	$(MAKE) -C $(AGAIN) release KEY=$(abspath $(KEY)) VENV=$(abspath $(VENV))
	diff $(RELEASE)/SHA256SUMS $(AGAIN)/$(RELEASE)/SHA256SUMS && echo "equal: $(RELEASE)/SHA256SUMS"

clean:
	rm -rf $(VENV) build dist *.egg-info
