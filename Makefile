# make environment   what all others begin with
# make figures   set up an environment and run the main job: figures in results/
# make test      set up an environment and run the tests
# make native    the compiled kernels, where a C++ compiler is found; without them all works
# make docs      the site, docs/_build/html/index.html, with its tutorials run
# make test-slow the tests that take long, or PART=1/3 of them
# make lint      formatting, lint and types
# make browser   installs Chromium, where Debian's packages and root can: the tests of
#                the page of figures run in it, and are skipped without it

PYTHON ?= python3
VENV ?= .venv
# Empty for the newest that pyproject.toml allows of everything.
CONSTRAINTS ?= -c constraints.txt
BIN := $(VENV)/bin
READY := $(VENV)/.ready
INSTALL := python -m pip install --quiet --disable-pip-version-check
PIP := $(BIN)/$(INSTALL)
# Programs compiled for tests are kept: most of a test's time goes into the compiler. What is
# tested is XLA's own form, which defines the compiled kernels; these have tests of their own.
KERNELS := GDSEC_NATIVE=0
# Of this process, which may have fewer than the machine; a test holds a gigabyte at times.
CORES := $(shell (nproc 2>/dev/null || echo 2) | awk '{print $$1 < 8 ? $$1 : 8}')
PYTEST = $(KERNELS) JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.xla_cache \
	JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
	JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1 \
	$(BIN)/python -m pytest -n $(CORES) --dist worksteal -q --durations 15
# Few of them run for long: the compiler optimises less, in one piece; its older emitters, which
# JAX 0.11 has no more, take half the time. The core is tested as users run it.
LESS := --xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1
QUICK = XLA_FLAGS="$(LESS) --xla_cpu_use_fusion_emitters=false" $(PYTEST)

# Where JAX refuses what it would widen, broadcast or compute as NaN, as some users have it;
# what passes so passes without, too.
STRICT := JAX_NUMPY_DTYPE_PROMOTION=strict JAX_NUMPY_RANK_PROMOTION=raise JAX_DEBUG_NANS=1
STRICTLY := tests/algorithms tests/simulation gdsec_jax/algorithms gdsec_jax/simulation

.PHONY: environment figures native test test-core test-newest test-slow test-native test-flower docs lint browser clean

environment: $(READY)

figures: native
	$(BIN)/gdsec figures

native: $(VENV)/.native

# The virtual environment has jaxlib, whose headers it is built with.
$(VENV)/.native: $(READY) $(wildcard native/src/* native/CMakeLists.txt native/pyproject.toml)
	@if command -v $(CXX) > /dev/null; then \
		$(PIP) $(CONSTRAINTS) \
			scikit-build-core cmake ninja \
		&& $(PIP) \
			--no-build-isolation --no-deps ./native \
		|| echo "The compiled kernels could not be built: XLA's own are used, which are slower."; \
	else \
		echo "No C++ compiler is found: XLA's own kernels are used, which are slower."; \
	fi
	touch $@

test: $(READY)
	$(QUICK) -m "not slow" $(STRICTLY:%=--ignore=%)
	$(STRICT) $(QUICK) -m "not slow" $(STRICTLY)

# The numerical core alone, for further versions of Python, as optimised as users run it.
test-core: $(READY)
	$(PYTEST) -m "not slow" tests/worker tests/server tests/wire/test_formats.py \
		tests/federation/test_federate.py tests/federation/test_attendance.py

# What stands nearest to JAX, Flax and NumPy, for versions that are newer than ours.
test-newest: $(READY)
	XLA_FLAGS="$(LESS)" $(PYTEST) -m "not slow" tests/algorithms/test_algorithms.py tests/problems/test_flax.py \
		tests/federation/test_states.py tests/simulation/test_simulate.py

# Clients over Flower, whose pins leave no room for ours: an environment of its own, and about ten
# minutes, for its processes wait for each other.
test-flower: $(VENV)-flower/.ready
	$(KERNELS) $(VENV)-flower/bin/python -m pytest -q --durations 15 tests/flower \
		"tests/test_docs.py::test_the_code_of_a_page_runs[flower]"

$(VENV)-flower/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)-flower
	$(VENV)-flower/bin/$(INSTALL) -e ".[test,flower]"
	touch $@

# The compiled kernels against XLA's own.
test-native: KERNELS := GDSEC_NATIVE=1
test-native: native
	$(PYTEST) native/tests

# PART=K/N, 1/3 say, for a part of them.
test-slow: $(READY)
	$(QUICK) -m slow $(PART:%=--part %)

# Warnings are errors, links that lead nowhere among them.
docs: $(VENV)/.docs
	$(BIN)/sphinx-build -q -W --keep-going -j 2 docs docs/_build/html

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

browser:
	command -v chromium || (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium) || echo "no Chromium: the page's tests are skipped"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11), 'Python 3.11 or newer is needed'"
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(CONSTRAINTS) -e ".[test]"
	touch $@

$(VENV)/.docs: $(READY)
	$(PIP) $(CONSTRAINTS) -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-flower .xla_cache results docs/_build
