# Two commands do everything on a fresh machine with Python >= 3.11, a C++ compiler and make: `make demo`, `make test`.

# The newest that really runs and can make environments: a shim on the PATH may stand for one that is not there.
PYTHON ?= $(shell for v in python3.13 python3.12 python3.11 python3; do \
  $$v -c 'import ensurepip, venv' 2>/dev/null && echo $$v && break; done)
VENV := .venv
BIN := $(VENV)/bin
LLAMA := $(shell sed -n 's/.*"llama-cpp-python==\(.*\)".*/\1/p' pyproject.toml)

.PHONY: setup demo test check test-parity test-quality test-canaries test-figures test-repair test-clients \
  test-homeassistant test-model test-unit test-deploy test-deploy-arm64 test-power-cuts chaos soak soak-card \
  fuzz fuzz-coverage fuzz-messages bench bench-agent bench-compare bench-overload bench-labels bench-cancel \
  bench-revival bench-grammar bench-instructions thermal wheel-aarch64 wheel-x86_64 wheel-native wheelhouse \
  test-arm clean

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "edge-agent needs Python 3.11 or newer, this is $$($(PYTHON) --version): make PYTHON=python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing; llama.cpp is compiled here, which takes about 5 minutes on 2 cores"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/edge-agent demo

# Three at once even on two cores, for a good part of the time they wait: for a broker, for a will, for an alarm. In order:
# else xdist begins with the files of most tests, and those that wait longest, which have few, come last.
test: setup
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

# The converter against upstream's, tensor by tensor; makes an environment of its own below build/ (PyTorch, 3 GB).
# make test-parity CHECKPOINT=dir [CHECKPOINT_SHARDED=dir]
test-parity: setup
	$(BIN)/python -m rigs.parity $(or $(CHECKPOINT),$(error say which checkpoint: make test-parity CHECKPOINT=dir)) \
	  $(if $(CHECKPOINT_SHARDED),--sharded $(CHECKPOINT_SHARDED))
	$(BIN)/python -m rigs.parity.cost $(CHECKPOINT)
	$(BIN)/python -m rigs.parity.large_checkpoint --layers 4

# Sizes and divergences beside upstream's quantizers: make test-quality CHECKPOINT=dir [EVAL=file]
test-quality: setup
	$(BIN)/python -m rigs.quality $(or $(CHECKPOINT),$(error say which checkpoint: make test-quality CHECKPOINT=dir)) \
	  $(if $(EVAL),--eval $(EVAL))

# What a low-rank repair regains for its bytes and its time: make test-repair CHECKPOINT=dir
test-repair: setup
	$(BIN)/python -m rigs.quality.repair $(or $(CHECKPOINT),$(error say which checkpoint: make test-repair CHECKPOINT=dir))

# What a model's header and the loaded model cost, what that grows by as it answers, and with its BF16 model as REFERENCE what compact packs of predictions
# do: make test-figures MODEL=path-of-a-gguf [REFERENCE=path-of-a-gguf]
test-figures: setup
	$(BIN)/python -m rigs.quality.header $(or $(MODEL),$(error say which model: make test-figures MODEL=path-of-a-gguf))
	$(BIN)/python -m rigs.quality.memory $(MODEL)
	$(BIN)/python -m rigs.quality.growth $(MODEL)
	$(if $(REFERENCE),$(BIN)/python -m rigs.quality.pack_error $(REFERENCE) $(MODEL))

# How canaries hold with other kernels, and fail on damaged models: make test-canaries CHECKPOINT=dir
test-canaries: setup
	$(BIN)/python -m rigs.quality.canaries $(or $(CHECKPOINT),$(error say which checkpoint: make test-canaries CHECKPOINT=dir))

# Clients that we did not write, MQTT.js among them (needs mosquitto-clients, node and npm).
test-clients: setup
	npm install --silent --no-fund --no-audit --prefix build/mqtt_js mqtt@5
	EDGE_AGENT_MQTT_JS=$(CURDIR)/build/mqtt_js $(BIN)/python -m pytest tests/system/test_third_party_clients.py

# What a real Home Assistant makes of a board (needs mosquitto and Python >= 3.13; 1 GB below build/).
test-homeassistant: setup
	test -x build/homeassistant/bin/python || $(PYTHON) -m venv build/homeassistant
	build/homeassistant/bin/python -m pip install --quiet --disable-pip-version-check 'homeassistant>=2025.10' 'paho-mqtt>=2.1'
	$(BIN)/python -m rigs.homeassistant build/homeassistant/bin/python

# Kills, cuts and freezes over real processes, and what became of each request (needs mosquitto; ten minutes):
# make test-power-cuts [CUTS=200]
test-power-cuts: setup
	EDGE_AGENT_POWER_CUTS=$(or $(CUTS),200) $(BIN)/python -m pytest -s tests/system/test_power_cuts.py

# make chaos [ARGUMENTS='--requests 1000 --faults 11 --seed 1 --protocol 3.1.1']
chaos: setup
	$(BIN)/python -m rigs.chaos $(ARGUMENTS)

# A factory's load for minutes or hours, watched from outside; a page of it in build/soak (needs mosquitto):
# make soak [MINUTES=480] [ARGUMENTS='--requests 50000 --engine echo']
soak: setup
	$(BIN)/python -m rigs.soak $(if $(MINUTES),--minutes $(MINUTES)) $(ARGUMENTS)

# What a request writes to a memory card, by rate (needs mosquitto, and root for a block device of its own; six minutes):
# make soak-card [ARGUMENTS='--rates 0.1,1,10 --seconds 600']
soak-card: setup
	$(BIN)/python -m rigs.soak.card $(ARGUMENTS)

# Malformed messages, each answered once in the right place and form (needs mosquitto): make fuzz-messages [COUNT=100000]
fuzz-messages: setup
	$(BIN)/python -m rigs.fuzz.messages $(if $(COUNT),--count $(COUNT)) $(ARGUMENTS)

# 200 requests at once against a queue of 16, on a model of your own: make test-model MODEL=path-of-a-bundle-or-gguf
test-model: setup
	EDGE_AGENT_MODEL=$(abspath $(or $(MODEL),$(error say which model: make test-model MODEL=path))) \
	  $(BIN)/python -m pytest tests/contract/test_requests.py -k at_once

# Style and types; `ruff format` decides how a line looks, ansible-lint how playbooks do.
check: setup build/ansible/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/test_systemd_unit.py
	cd ansible && PATH=$(CURDIR)/build/ansible/bin:$$PATH ansible-lint -q

# The unit on booted systems with systemd 249, 252 and 257, in containers (needs root; Debian's mmdebstrap,
# systemd-container, ubuntu-keyring).
test-unit: setup
	test -d dist/wheelhouse/x86_64 || $(MAKE) wheelhouse ARCH=x86_64
	$(BIN)/python -m pytest rigs/deploy/unit.py

# As pinned as llama.cpp: a newer one has other rules.
build/ansible/ready: Makefile
	test -x build/ansible/bin/python || $(PYTHON) -m venv build/ansible
	build/ansible/bin/python -m pip install --quiet --disable-pip-version-check ansible-core==2.19.14 ansible-lint==26.10.1
	@touch $@

# Boards in containers, from nothing to an answer and back to nothing, with the README's commands (needs root, and Debian's
# mmdebstrap and systemd-container): make test-deploy [RELEASE=trixie|bookworm|jammy]
test-deploy: setup build/ansible/ready
	$(MAKE) wheelhouse ARCH=x86_64
	RELEASE=$(RELEASE) $(BIN)/python -m pytest rigs/deploy/provisioning.py --exitfirst

# One arm64 board that is emulated whole, kernel and all, from nothing to an answer and back to nothing (needs root, and
# Debian's mmdebstrap, qemu-user-static and qemu-system-arm; an hour).
test-deploy-arm64: setup build/ansible/ready
	$(MAKE) wheelhouse ARCH=aarch64
	$(BIN)/python -m pytest rigs/deploy/arm64.py --exitfirst

# What this board can do: make bench MODEL=path-of-a-bundle-or-gguf
bench: setup
	$(BIN)/edge-agent bench --model $(or $(MODEL),$(error say which model: make bench MODEL=path))

# Requests per second through the whole agent and a broker: make bench-agent MODEL=path-of-a-bundle-or-gguf
bench-agent: setup
	$(BIN)/python -m rigs.bench $(or $(MODEL),$(error say which model: make bench-agent MODEL=path))

# Who is answered at ten times what the board can do: make bench-overload MODEL=path-of-a-bundle-or-gguf
bench-overload: setup
	$(BIN)/python -m rigs.bench.overload $(or $(MODEL),$(error say which model: make bench-overload MODEL=path))

# How far label scores are from how often the labels are right: make bench-labels MODEL=path-of-a-gguf
bench-labels: setup
	$(BIN)/python -m rigs.bench.calibration_error $(or $(MODEL),$(error say which model: make bench-labels MODEL=path))

# Instructions per row of a step on emulated ARM cores, which is exact (needs what test-deploy-arm64 needs; ten minutes a core):
# make bench-instructions MODEL=path-of-a-gguf [ARGUMENTS='--cores cortex-a72 cortex-a76']
bench-instructions: setup
	$(BIN)/python -m rigs.arm.instructions $(or $(MODEL),$(error say which model: make bench-instructions MODEL=path)) $(ARGUMENTS)

# How soon a cancelled request costs nothing any more: make bench-cancel MODEL=path-of-a-gguf
bench-cancel: setup
	$(BIN)/python -m rigs.bench.cancel $(or $(MODEL),$(error say which model: make bench-cancel MODEL=path))

# How soon there is an answer again after the worker was killed, 20 times (25 minutes):
# make bench-revival [ARGUMENTS='MODEL --kills 5']
bench-revival: setup
	$(BIN)/python -m rigs.bench.revival $(ARGUMENTS)

# What holding a free token to its schema costs: make bench-grammar MODEL=path-of-a-gguf
bench-grammar: setup
	$(BIN)/python -m rigs.bench.grammar_cost $(or $(MODEL),$(error say which model: make bench-grammar MODEL=path))

# The same workload on llama-server, built below build/ from the binding's own sources: make bench-compare MODEL=path
bench-compare: setup
	$(BIN)/python -m rigs.bench.compare $(or $(MODEL),$(error say which model: make bench-compare MODEL=path))

# The governor on a simulated Raspberry Pi 5, with a fan and without; no board is measured.
thermal: setup
	$(BIN)/python -m rigs.thermal

# What a stranger may have made, by the thousand: refused in words, or good: make fuzz [COUNT=1000] [MODEL=path-of-a-gguf]
fuzz: setup $(if $(MODEL),,build/fuzz/demo/model.gguf)
	$(BIN)/python -m rigs.fuzz.gguf $(FUZZED) --count $(or $(COUNT),1000)
	$(BIN)/python -m rigs.fuzz.safetensors --count $(or $(COUNT),1000)
	$(BIN)/python -m rigs.fuzz.manifests --count $(or $(COUNT),1000)
	$(BIN)/python -m rigs.fuzz.schemas $(FUZZED) --count $(or $(COUNT),1000)
	$(BIN)/python -m rigs.fuzz.prompts $(FUZZED) --count $(or $(COUNT),1000)
	$(BIN)/python -m rigs.fuzz.configurations --count $(or $(COUNT),1000)
	$(BIN)/python -m rigs.fuzz.templates --count $(or $(COUNT),1000)

FUZZED = $(or $(MODEL),build/fuzz/demo/model.gguf)

build/fuzz/demo/model.gguf: $(VENV)/ready
	$(BIN)/edge-convert edge_agent/tools/demo/checkpoint --out build/fuzz/demo --type q4_0 --name pump-demo --no-canaries --force

# The parsers under libFuzzer (x86-64 Linux; 40 MB below build/): make fuzz-coverage [SECONDS=60] [TARGETS='gguf schema']
# ARGUMENTS=--keep adds to rigs/fuzz/corpus what reaches lines that nothing there does.
fuzz-coverage: setup
	test -d build/fuzz/atheris || $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --target build/fuzz/atheris atheris==3.1.0
	PYTHONPATH=build/fuzz/atheris $(BIN)/python -m rigs.fuzz.coverage --seconds $(or $(SECONDS),60) $(ARGUMENTS) $(TARGETS)

# One llama-cpp-python for all boards of an architecture, into dist/; ansible/wheels/README.md.
wheel-aarch64 wheel-x86_64: wheel-%:
	PYTHON=$(PYTHON) ansible/wheels/build_llama.sh $*

# On a board, for the cores of this very one; CMAKE_ARGS adds what ansible/wheels/README.md names.
wheel-native:
	$(PYTHON) -m pip wheel --no-deps --no-cache-dir --no-binary llama-cpp-python --wheel-dir dist/native llama-cpp-python==$(LLAMA)

# Everything that a board installs, with hashes: make wheelhouse ARCH=aarch64, or x86_64
# (with the llama-cpp-python of dist/, if it has been made).
wheelhouse: setup $(if $(ARCH),$(if $(wildcard dist/llama_cpp_python-$(LLAMA)-*_$(ARCH).whl),,wheel-$(ARCH)))
	$(BIN)/python ansible/wheels/wheelhouse.py $(or $(ARCH),$(error for which boards: make wheelhouse ARCH=aarch64, or x86_64))

# The aarch64 wheelhouse on emulated cores; needs root (Debian: mmdebstrap, qemu-user-static).
test-arm: setup
	$(BIN)/python -m rigs.arm

clean:
	rm -rf $(VENV) build dist *.egg-info
