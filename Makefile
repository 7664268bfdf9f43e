# The commands of this project. Each installs the Debian packages it needs (root or sudo), so a fresh Debian 12 with Rust
# is enough. What runs, runs in namespaces (tests/bed/enter.sh): this machine's users, /etc and mail set-up stay as they are.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help build run test check bench bench-peer

SUDO  := $(shell [ "$$(id -u)" = 0 ] || echo sudo --preserve-env=DEMO,ROUNDS,SECONDS_EACH,ONLY,TESTS)
BED   := target/bed
LAYER := $(BED)/layer

# For building: a C compiler, libpam and the bindings to it. For the bed: Python, TLS tools, curl.
BUILD_PACKAGES := build-essential libpam0g-dev libclang-dev
BED_PACKAGES   := python3 openssl curl ca-certificates
# Never installed: unpacked, and laid over /usr inside the bed only.
MAIL_PACKAGES  := postfix sasl2-bin libsasl2-modules swaks libio-socket-ssl-perl libnet-ssleay-perl msmtp
# A machine that boots; together, because they must be of one version.
BOOT_PACKAGES  := systemd systemd-sysv systemd-container dbus

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: packages ## both programs, development profile (libraries optimised): target/debug
	@mkdir -p $(BED) # ours, before root makes anything in it
	cargo build --workspace

run: build ## the real relay in the foreground on 127.0.0.1:2587 and :2465, with a demo user; DEMO=1 also sends one message
	@$(SUDO) tests/bed/enter.sh /usr/bin/python3 tests/bed/run.py

test: build ## every test: cargo test, system tests, back ends of PAM; TESTS=word runs only those of the last two named so
	@tests/bed/test.sh "$(SUDO)" "$(LAYER)" "$(MAIL_PACKAGES) $(BOOT_PACKAGES)"

check: packages ## formatting and lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

bench: release ## rates and memory of the release build; ROUNDS=3 SECONDS_EACH=5 ONLY=word
	@tests/bed/bench.sh "$(SUDO)" none

bench-peer: release layer ## the same, and the same for Postfix with saslauthd, as ratios
	@tests/bed/bench.sh "$(SUDO)" too "$(LAYER)"

.PHONY: packages layer release
packages:
	@tests/bed/packages.sh host $(BUILD_PACKAGES) $(BED_PACKAGES)

layer: packages
	@$(SUDO) tests/bed/packages.sh layer $(LAYER) $(MAIL_PACKAGES) $(BOOT_PACKAGES)

release: packages ## both programs, release profile: target/release
	@mkdir -p $(BED) # ours, before root makes anything in it
	cargo build --workspace --release
