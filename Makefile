# SPDX-License-Identifier: GPL-2.0 OR MIT
# The front door. `make` lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

setup := selftests/setup
in-root := $(setup)/in-root

# The host's cargo where it is new enough, else the lab root's, which then links statically to run on either.
cargo-ok := $(shell cargo --version 2>/dev/null | awk '{split($$2,v,"."); exit !(v[1] > 1 || v[2] >= 85)}' && echo yes)
ifeq ($(cargo-ok),yes)
CARGO := cargo
release := target/release
STRESS-CARGO := cargo
stress-release := target/release
else
CARGO := $(in-root) env RUSTFLAGS=-Ctarget-feature=+crt-static CARGO_BUILD_TARGET=x86_64-unknown-linux-gnu cargo
release := target/x86_64-unknown-linux-gnu/release
# usb4stress opens libibverbs at run time, in guests only, whose C library is the root's: it is not linked statically.
STRESS-CARGO := $(in-root) env CARGO_TARGET_DIR=target/stress cargo
stress-release := target/stress/release
endif

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | awk -F'|' '{printf "  make %-15s %s\n", $$1, $$2}'

setup: ## lab root, lab kernel and the lab's programs, into build/ (root, Debian 12 or 13, about 20 minutes once)
	$(setup)/setup lab
	$(MAKE) --no-print-directory programs

setup-smp: ## the smp kernel: two processors, lockdep, checkers of RCU, object life, DMA mappings and leaks
	$(setup)/setup smp
	$(MAKE) --no-print-directory programs

setup-kasan: ## the kasan kernel: made by clang, reports every access to freed or foreign memory, fails allocations
	$(setup)/setup kasan
	$(MAKE) --no-print-directory programs

setup-stock: ## the distro's kernel, its Rust metadata and QEMU, for the second tier
	$(setup)/setup stock
	$(MAKE) --no-print-directory programs

setup-workloads: ## the lab root with MPI, torch and llama.cpp on top, for guests that run workloads
	$(setup)/setup workloads
	$(MAKE) --no-print-directory programs

setup-kernels: ## the distro's newest kernel of each 7.x series, with Rust metadata, for modules as packages
	$(setup)/setup kernels

setup-packages: ## the lab root with Debian's packaging tools on top
	$(setup)/setup packages

programs: ## usb4lab, fabricd, and the programs that run in guests: usb4rdma, usb4fuzz, usb4stress
	$(CARGO) build --release --quiet -p lab -p fabricd -p fuzz-guest -p usb4rdma
	$(STRESS-CARGO) build --release --quiet -p stress
	@if [ $(release) != target/release ]; then mkdir -p target/release && cp $(release)/usb4lab $(release)/fabricd $(release)/usb4fuzz $(release)/usb4rdma $(stress-release)/usb4stress target/release/; fi

# What is not set up yet is set up first. A prerequisite, as a recipe that did it would have been expanded before.
build/kernel/lab/linux:
	@$(MAKE) --no-print-directory setup

build/kernel/smp/linux:
	@$(MAKE) --no-print-directory setup-smp

build/kernel/kasan/linux:
	@$(MAKE) --no-print-directory setup-kasan

build/stock/vmlinuz:
	@$(MAKE) --no-print-directory setup-stock

build/root-packages:
	@$(MAKE) --no-print-directory setup-packages

build/root-workloads:
	@$(MAKE) --no-print-directory setup-workloads

# A kernel that is set up is named by its directory in the cache, which is /build in the lab root.
cached = $(notdir $(realpath build/$(1)))
gcc := CC=gcc-14 HOSTCC=gcc-14
module-in-root = @mkdir -p build/module/$(1); \
	$(in-root) make --no-print-directory -s -j2 -C /build/$(2) O=/build/$(3) $(or $(5),$(gcc)) \
		M=/project MO=/project/build/module/$(1) $(4) modules; \
	echo "build/module/$(1)/usb4_rdma.ko"

ifndef KDIR
module: | build/kernel/lab/linux
endif
module: ## usb4_rdma.ko for the lab kernel; KDIR=<build directory> for another kernel that ships Rust metadata
ifdef KDIR
	@userspace/packages/module-for --make-metadata build/metadata $(KDIR) build/module/host
else
	$(call module-in-root,lab,$(call cached,kernel/lab-src),$(call cached,kernel/lab)/obj,ARCH=um $(KFLAGS))
endif

module-smp: | build/kernel/smp/linux ## usb4_rdma.ko for the smp kernel
	$(call module-in-root,smp,$(call cached,kernel/smp-src),$(call cached,kernel/smp)/obj,ARCH=um)

module-kasan: | build/kernel/kasan/linux ## usb4_rdma.ko for the kasan kernel
	$(call module-in-root,kasan,$(call cached,kernel/lab-src),$(call cached,kernel/kasan)/obj,ARCH=um,LLVM=-19)

module-stock: | build/stock/vmlinuz ## usb4_rdma.ko for the distro's kernel
	$(call module-in-root,stock,$(call cached,stock)/common,$(call cached,stock)/sdk,KBUILD_OUTPUT=/build/$(call cached,stock)/sdk)

# Of each kernel that `make setup-kernels` has set up: stocks/ABI here is the cache's directory of the same name there.
module-kernels: ## usb4_rdma.ko for the distro's newest kernel of each 7.x series
	@test -e build/kernels || $(MAKE) --no-print-directory setup-kernels
	@for stock in build/stocks/*; do abi=$$(basename $$stock); there=/build/$$(basename $$(realpath $$stock)); \
		mkdir -p build/module/$$abi; \
		$(in-root) make --no-print-directory -s -j2 -C $$there/common O=$$there/sdk KBUILD_OUTPUT=$$there/sdk $(gcc) \
			M=/project MO=/project/build/module/$$abi modules; \
		echo build/module/$$abi/usb4_rdma.ko; \
	done

module-lint: | build/kernel/lab/linux ## clippy over the module as Kbuild builds it
	@rm -rf build/module/lint
	$(call module-in-root,lint,$(call cached,kernel/lab-src),$(call cached,kernel/lab)/obj,ARCH=um CLIPPY=1)

# Where things are installed. DESTDIR is put before every path, for packages.
PREFIX ?= /usr
bindir := $(PREFIX)/bin
man := $(PREFIX)/share/man/man1
bash-completions := $(PREFIX)/share/bash-completion/completions
zsh-completions := $(PREFIX)/share/zsh/site-functions
fish-completions := $(PREFIX)/share/fish/vendor_completions.d
# Of these the distributions have one place each, whatever the prefix.
lib := /usr/lib
dist := userspace/dist
installed = $(bindir)/usb4rdma $(bash-completions)/usb4rdma $(zsh-completions)/_usb4rdma \
	$(fish-completions)/usb4rdma.fish $(lib)/systemd/system/usb4rdma.service $(lib)/udev/rules.d/90-usb4rdma.rules \
	$(lib)/systemd/network/10-usb4rdma.network $(lib)/NetworkManager/conf.d/10-usb4rdma.conf \
	$(lib)/modprobe.d/usb4-rdma.conf $(PREFIX)/share/doc/usb4rdma/usb4rdma.toml

install: ## usb4rdma with its man pages, completions, unit, udev and modprobe rules; KDIR=<build directory>: the module too; DESTDIR=
	$(CARGO) build --release --quiet -p usb4rdma
	install -D -m 755 $(release)/usb4rdma $(DESTDIR)$(bindir)/usb4rdma
	mkdir -p $(addprefix $(DESTDIR),$(man) $(bash-completions) $(zsh-completions) $(fish-completions))
	$(release)/usb4rdma man $(DESTDIR)$(man)
	$(release)/usb4rdma completions bash > $(DESTDIR)$(bash-completions)/usb4rdma
	$(release)/usb4rdma completions zsh > $(DESTDIR)$(zsh-completions)/_usb4rdma
	$(release)/usb4rdma completions fish > $(DESTDIR)$(fish-completions)/usb4rdma.fish
	install -d $(DESTDIR)$(lib)/systemd/system
	sed 's|@bindir@|$(bindir)|' $(dist)/usb4rdma.service > $(DESTDIR)$(lib)/systemd/system/usb4rdma.service
	install -D -m 644 $(dist)/90-usb4rdma.rules $(DESTDIR)$(lib)/udev/rules.d/90-usb4rdma.rules
	install -D -m 644 $(dist)/usb4rdma.network $(DESTDIR)$(lib)/systemd/network/10-usb4rdma.network
	install -D -m 644 $(dist)/NetworkManager.conf $(DESTDIR)$(lib)/NetworkManager/conf.d/10-usb4rdma.conf
	install -D -m 644 net/modprobe.d/usb4-rdma.conf $(DESTDIR)$(lib)/modprobe.d/usb4-rdma.conf
	install -D -m 644 $(dist)/usb4rdma.toml $(DESTDIR)$(PREFIX)/share/doc/usb4rdma/usb4rdma.toml
ifdef KDIR
	$(MAKE) --no-print-directory module
	install -D -m 644 build/module/host/usb4_rdma.ko \
		$(DESTDIR)/lib/modules/$$($(MAKE) -s --no-print-directory -C $(KDIR) kernelrelease)/updates/usb4_rdma.ko
	[ -n "$(DESTDIR)" ] || depmod $$($(MAKE) -s --no-print-directory -C $(KDIR) kernelrelease)
endif

# For packages, which are given what is built and say their version.
VERSION ?= $(shell userspace/packages/version | head -n 1)
dkms = $(DESTDIR)/usr/src/usb4-rdma-$(VERSION)
lab = $(DESTDIR)$(PREFIX)/lib/usb4lab

install-dkms: ## the module's source for DKMS; DESTDIR=, VERSION=
	mkdir -p $(dkms)
	find Kbuild net rdma \( -name '*.rs' -o -name '*.[ch]' -o -name Kbuild -o -name bindgen_parameters \) \
		! -path '*/tests/*' ! -name tests.rs | cpio --quiet -pdm $(dkms)
	install -m 755 userspace/packages/module-for $(dkms)/
	sed 's/#MODULE_VERSION#/$(VERSION)/' userspace/packages/dkms.conf > $(dkms)/dkms.conf

install-lab: ## usb4lab with what sets it up; what that makes lies in /var/lib/usb4lab; DESTDIR=
	$(CARGO) build --release --quiet -p lab -p fabricd -p fuzz-guest
	$(STRESS-CARGO) build --release --quiet -p stress
	mkdir -p $(lab)/selftests $(DESTDIR)$(bindir) $(DESTDIR)$(man) $(DESTDIR)/var/lib/usb4lab
	install -m 755 $(addprefix $(release)/,usb4lab fabricd usb4fuzz) $(stress-release)/usb4stress $(lab)
	cp -r $(setup) $(lab)/selftests/
	ln -sfn /var/lib/usb4lab $(lab)/build
	ln -sfn ../lib/usb4lab/usb4lab $(DESTDIR)$(bindir)/usb4lab
	$(release)/usb4lab man $(DESTDIR)$(man)

uninstall: ## remove what `make install` installed, the module from all kernels
	rm -f $(addprefix $(DESTDIR),$(installed)) $(DESTDIR)$(man)/usb4rdma.1 $(DESTDIR)$(man)/usb4rdma-*.1
	rm -f $(DESTDIR)/lib/modules/*/updates/usb4_rdma.ko
	[ -n "$(DESTDIR)" ] || depmod

packages: | build/root-packages build/stock/vmlinuz ## Debian packages of the last commit, lintian-clean, into build/packages/debs; MODULE_KEY= MODULE_CERT= sign modules
	userspace/packages/build

packages-rpm: | build/root-packages ## the tool and the DKMS package for Fedora, as far as Debian's rpmbuild goes
	userspace/packages/foreign rpm

packages-arch: | build/root-packages ## the same for Arch, by makepkg
	userspace/packages/foreign arch

check-packages: | build/root-packages build/stock/vmlinuz ## those packages installed, loaded by the stock kernel, upgraded and removed on a clean Debian (20 minutes)
	@$(MAKE) --no-print-directory programs
	userspace/packages/check

licences: ## the crates' licences and where they come from, by cargo-deny
	@$(CARGO) deny --version >/dev/null 2>&1 || \
		{ echo "error: there is no cargo-deny: 'cargo install --locked cargo-deny' gets it" >&2; exit 1; }
	$(CARGO) deny --offline --config userspace/packages/deny.toml --target x86_64-unknown-linux-gnu check licenses bans sources

demo: | build/kernel/lab/linux ## two hosts, a USB4 cable, unmodified verbs programs: our device beside stock rxe, in one table
	@$(MAKE) --no-print-directory programs module
	target/release/usb4lab demo

check: | build/kernel/lab/linux build/kernel/smp/linux ## all that must pass: format, lints, unit, property and simulation tests, module, lab cases, a choice of them on smp
	selftests/check

check-kasan: | build/kernel/kasan/linux ## a choice of the lab cases on the kasan kernel
	@$(MAKE) --no-print-directory programs module-kasan
	target/release/usb4lab test --kernel kasan --chosen

check-smp: | build/kernel/smp/linux ## a choice of the lab cases on the smp kernel: two processors, lockdep, kmemleak; part of check
	@$(MAKE) --no-print-directory programs module-smp
	target/release/usb4lab test --kernel smp --chosen

check-deep: | build/kernel/lab/linux build/kernel/smp/linux build/kernel/kasan/linux build/stock/vmlinuz ## every case on every kernel, the record into docs/tiers.md (hours)
	@$(MAKE) --no-print-directory programs module module-smp module-kasan module-stock
	target/release/usb4lab deep --write

check-stock: | build/stock/vmlinuz ## smoke, and load on two processors, on the distro's unmodified kernel under QEMU
	@$(MAKE) --no-print-directory programs module-stock
	target/release/usb4lab test --tier stock

check-kernels: ## the same on the distro's newest kernel of each 7.x series
	@$(MAKE) --no-print-directory programs module-kernels
	@for stock in build/stocks/*; do abi=$$(basename $$stock); echo "$$abi"; \
		USB4_STOCK=$$stock USB4_MODULE=build/module/$$abi/usb4_rdma.ko target/release/usb4lab test --tier stock; \
	done

bench: ## the rdma benchmark suite, side by side with stock rxe, into build/bench.json
	@$(MAKE) --no-print-directory programs module
	target/release/usb4lab bench --suite rdma --json build/bench.json

bench-ours: ## the same over our netdev, and beside TCP over it, into build/bench-ours.json and docs/benchmarks.md (15 minutes)
	@$(MAKE) --no-print-directory programs module
	target/release/usb4lab bench --suite rdma --net ours --json build/bench-ours.json --write

bench-apps: | build/root-workloads ## all_reduce of Open MPI, torch, llama.cpp over our RDMA, our TCP and rxe, into build/bench-apps.json and docs/benchmarks.md
	@$(MAKE) --no-print-directory programs module
	target/release/usb4lab bench --suite apps --json build/bench-apps.json --write

bench-bond: | build/kernel/lab/linux ## one queue pair over several cables beside one, into build/bench-bond.json and docs/benchmarks.md
	@$(MAKE) --no-print-directory programs module
	target/release/usb4lab bench --suite bond --json build/bench-bond.json --write

# mdBook, of this version, in the cache that all checkouts share.
mdbook-version := 0.5.4
mdbook := $${XDG_CACHE_HOME:-$$HOME/.cache}/usb4-rdma/mdbook-$(mdbook-version)

setup-docs: ## mdBook, which makes the book of docs/ (Rust 1.88 or later, 5 minutes on two cores once)
	@test -x "$(mdbook)/bin/mdbook" || $(CARGO) install --quiet --locked --no-default-features --features search \
		--root "$(mdbook)" --version $(mdbook-version) mdbook
	@mkdir -p build && ln -sfn "$(mdbook)" build/mdbook

docs: ## the book, into build/book; checks its pages (part of check too), and every link of what was made
	@$(MAKE) --no-print-directory setup-docs
	$(CARGO) test --quiet -p structure
	$(CARGO) build --quiet -p structure
	@rm -rf build/book
	build/mdbook/bin/mdbook build docs
	$(CARGO) run --quiet -p structure --bin book check build/book

fuzz: ## search for inputs that break the packet and request parsers, the engine, the cable protocols and the way between, an hour each
	for target in wire wqe tbip native; do selftests/fuzz/run $$target; done

benchmarks: ## perftest in all its variants, and at every size, ours beside rxe, into docs/benchmarks.md (about 30 minutes)
	@$(MAKE) --no-print-directory programs module
	target/release/usb4lab yardstick --write
	target/release/usb4lab matrix --write
	target/release/usb4lab sweep --write

pyverbs: ## rdma-core's own test suite over ours and over rxe, into docs/verbs.md (3 minutes)
	@$(MAKE) --no-print-directory programs module
	target/release/usb4lab pyverbs --write

bench-net: ## the network driver side by side with thunderbolt_net, into build/bench-net.json and docs/benchmarks-net.md
	@$(MAKE) --no-print-directory programs module
	target/release/usb4lab bench --suite net --json build/bench-net.json --doc docs/benchmarks-net.md

check-long: ## the lab cases that take minutes, and 15 minutes of soak in real time and an hour of it in virtual time
	@$(MAKE) --no-print-directory programs module
	target/release/usb4lab test --long
	target/release/usb4lab soak --minutes 15
	target/release/usb4lab soak --minutes 60 --virtual

fmt: ## format all Rust
	$(CARGO) fmt --all
	$(in-root) rustfmt --edition 2021 --config-path .rustfmt.toml $$(git ls-files 'rdma/*.rs' 'net/*.rs')

print-cargo:
	@echo '$(CARGO)'

clean: ## remove build/ and target/ (the cache stays)
	rm -rf build target

clean-cache: ## empty the cache of lab roots and kernels that all checkouts share
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/usb4-rdma"

.PHONY: help packages packages-rpm packages-arch check-packages licences setup-kernels setup-packages docs setup-docs install install-dkms install-lab uninstall print-cargo module-lint setup setup-smp setup-kasan setup-stock setup-workloads programs module module-smp module-kasan module-stock module-kernels check-kernels demo check check-smp check-kasan check-deep check-long check-stock bench bench-ours bench-apps bench-bond bench-net benchmarks pyverbs fuzz fmt clean clean-cache
