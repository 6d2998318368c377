# SPDX-License-Identifier: Apache-2.0
# A thin front for Meson. `make demo` and `make test` do all set-up on a fresh Debian 12, as root.

# One or two jobs: what is tested runs beside what tests it.
JOBS ?= 2
PYTHON := /usr/bin/python3
INIT := build/tests/lib/init
PYTEST := $(INIT) $(PYTHON) -m pytest
MESON_TEST := meson test --print-errorlogs --timeout-multiplier 4 --num-processes $(JOBS)

.PHONY: build asan fuzz demo test test-unit test-asan test-programs test-vm bench install format lint clean deps-build deps-test deps-vm deps-lint
.NOTPARALLEL:

build: deps-build build/build.ninja
	@ninja -C build -j $(JOBS)

build/build.ninja:
	meson setup build

# The same program with the address and undefined behaviour sanitizers: broken input is tried on it.
asan: deps-build build-asan/build.ninja
	@ninja -C build-asan -j $(JOBS)

build-asan/build.ninja:
	meson setup build-asan -Db_sanitize=address,undefined -Db_lundef=false

# Targets of libFuzzer, which is clang's, with the same sanitizers.
fuzz: deps-test build-fuzz/build.ninja
	@ninja -C build-fuzz -j $(JOBS) fuzz

build-fuzz/build.ninja:
	CC=clang meson setup build-fuzz -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false

demo: deps-test build
	@$(INIT) $(PYTHON) scripts/demo

test: test-unit test-asan test-programs test-vm

test-unit: deps-test build
	$(MESON_TEST) -C build

test-asan: deps-test asan
	$(MESON_TEST) -C build-asan

test-programs: deps-test build asan fuzz
	@scripts/peer.sh
	$(PYTEST)

# In guests of other kernels.
test-vm: deps-test deps-vm build
	@scripts/vm.sh setup
	$(PYTEST) tests/vm

bench: deps-test build
	@scripts/peer.sh
	@$(INIT) $(PYTHON) tests/bench/bench.py

install: build
	meson install -C build --no-rebuild

# Formats the lines that are not committed yet: tables that were laid out by hand stay.
format: deps-lint
	git clang-format --force --extensions c,h

# One program at a time knows its own variadic functions only: with several, clang-tidy 14 mistakes them.
lint: deps-lint build
	@git ls-files 'src/*.c' | xargs -P $(JOBS) -n 1 clang-tidy -p build --quiet 2>build/lint.log || { cat build/lint.log; exit 1; }

# The peer and the guests' kernels stay: they come over the network.
clean:
	rm -rf build-asan build-fuzz
	[ ! -d build ] || find build -mindepth 1 -maxdepth 1 ! -name peer ! -name vm -exec rm -rf {} +

deps-build:
	@scripts/deps.sh build

deps-test:
	@scripts/deps.sh build test

deps-vm:
	@scripts/deps.sh vm

deps-lint:
	@scripts/deps.sh build lint
