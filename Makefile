# Every command a person types. What a command needs, it installs itself into .tools/, pinned by tests/tools/.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

HOST := $(patsubst aarch64,arm64,$(shell uname -m))
# The functions' processor: x86_64 or arm64. Locally they run as they ship, so there it must be this machine's.
ARCH ?= $(HOST)
STACK ?= gatehouse
REGION ?= us-east-1

TOOLS := .tools
AWS := $(TOOLS)/aws/bin/aws
# cargo-lambda finds zig, which links the functions against an old enough glibc, as the first python3's module.
# aws-lc, if it is built at all, must not gather entropy in every cold start (docs/decisions/0001-tls-provider.md).
BUILD_ENV := PATH="$(CURDIR)/$(TOOLS)/build/bin:$$PATH" AWS_LC_SYS_NO_JITTER_ENTROPY=1
CARGO_LAMBDA := $(BUILD_ENV) cargo lambda
# cargo-lambda would compile for Haswell; with it, `telemetry` takes a quarter more CPU time on AMD EPYC.
BUILD_FUNCTIONS := cargo lambda build --release --output-format zip --$(subst _,-,$(ARCH)) \
	--config 'target.x86_64-unknown-linux-gnu.rustflags="-Ctarget-cpu=x86-64-v2"'
# Selected from the whole workspace, so that programs and tests share one set of compiled crates: cargo compiles a crate
# again for each combination of features, and `--package` selects the features of that package only.
PROGRAMS := cargo build --workspace --bin local --bin replay
OPERATOR := --bin gatehouse
DEBUG := $(or $(CARGO_TARGET_DIR),target)/debug
PROGRESS := $(TOOLS)/build/bin/python tests/tools/progress

# Only these reach an account. Everything else runs without anything that could name or open one.
ifeq ($(filter deploy destroy ca-register ca-publish-crl ca-deactivate,$(MAKECMDGOALS)),)
unexport $(filter AWS_%,$(.VARIABLES))
export AWS_CONFIG_FILE := /dev/null
export AWS_SHARED_CREDENTIALS_FILE := /dev/null
export AWS_EC2_METADATA_DISABLED := true
endif

# To stderr: stdout is for what was asked for.
say = @printf '%s\n' '==> $(1)' >&2

.PHONY: help
help: ## list these commands
	@echo 'Gatehouse: the serverless backend for AWS IoT. Commands:'
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)$$/\1\t\2/' | expand -t 16 | sed 's/^/  make /'

.PHONY: check
check:
	@tests/tools/check

# --- tools: a virtual environment each, for they pin each other's dependencies differently

$(TOOLS)/%/.installed: tests/tools/%.txt | check
	$(call say,installing $* ($(shell grep -c . $<) packages) into $(TOOLS)/$*)
	@rm -rf $(TOOLS)/$*
	@python3 -m venv $(TOOLS)/$*
	@$(TOOLS)/$*/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

$(TOOLS)/guard/.installed: tests/tools/guard.version | check
	$(call say,compiling cfn-guard $(shell cat $<); this takes about a minute)
	@CARGO_PROFILE_DEV_DEBUG=false cargo install --quiet --locked --debug --root $(TOOLS)/guard --version $$(cat $<) cfn-guard
	@touch $@

# What lint and test need: with `--jobs`, the downloads wait for each other no more.
.PHONY: tools
tools: $(foreach tool,aws browser build checkov cloud device-sdk guard lint schema,$(TOOLS)/$(tool)/.installed)

local_tools := $(foreach tool,cloud aws build,$(TOOLS)/$(tool)/.installed)

# --- the main things

# Together: while the functions' last links occupy one core, the local cloud compiles on the other.
.PHONY: replay
replay: | check ## play the sample events on the local cloud (EVENTS=file.json for your own, HTML=report.html)
	@$(MAKE) --silent --jobs=3 $(local_tools)
	$(call say,building the functions for $(ARCH) and the local cloud)
	@$(BUILD_ENV) $(PROGRESS) crates $(BUILD_FUNCTIONS) + $(PROGRAMS)
	@$(DEBUG)/replay $(if $(JSON),--json) $(if $(HTML),--html '$(HTML)') $(EVENTS)

.PHONY: test
ifdef FN
test: $(local_tools) ## run every test: units, properties, journeys on the local cloud (FN=alarm for one function's)
	$(call say,building $(FN))
	@$(BUILD_ENV) $(PROGRESS) crates $(BUILD_FUNCTIONS) --package $(FN)
	$(call say,testing $(FN))
	@$(PROGRESS) crates cargo test --package $(FN)
	@$(PROGRESS) crates $(PROGRAMS) $(OPERATOR)
	@$(PROGRESS) crates cargo test --workspace --test journeys -- $(FN)
else
test: $(TOOLS)/device-sdk/.installed $(TOOLS)/browser/.installed
# Not `--tests`: it would link each program once more, with a harness for tests that it does not have.
test: build $(local_tools)
	$(call say,compiling all tests and running them: first those of the functions, then those on the local cloud)
	@$(PROGRESS) crates cargo test --workspace --lib --test '*' -- --include-ignored
	$(call say,running the commands in the documentation)
	@tests/tools/run-docs
endif

.PHONY: local
local: build $(local_tools) ## leave the local cloud running, and print how to publish to it and the address of its console
	$(call say,compiling the local cloud)
	@$(PROGRESS) crates $(PROGRAMS) $(OPERATOR)
	@$(DEBUG)/local

.PHONY: console
console: build $(local_tools) ## leave the local cloud running, and print the address of its console only
	$(call say,compiling the local cloud)
	@$(PROGRESS) crates $(PROGRAMS) $(OPERATOR)
	@$(DEBUG)/local --console-only

.PHONY: screenshots
screenshots: build $(local_tools) $(TOOLS)/browser/.installed ## take screenshots of the console into target/screenshots; needs Chromium
	@$(PROGRESS) crates $(PROGRAMS) $(OPERATOR)
	@cargo test --quiet --workspace --test journeys -- console::every_panel
	@echo $(CURDIR)/target/screenshots

.PHONY: watch
watch: build $(local_tools) ## run the functions under cargo-lambda's emulator, on a local cloud; rebuilds on change
	$(call say,compiling the local cloud and the functions for the emulator)
	@$(PROGRESS) crates $(PROGRAMS) $(OPERATOR)
	@$(PROGRESS) crates cargo build
	@$(DEBUG)/local --watch

.PHONY: invoke
invoke: $(TOOLS)/build/.installed ## send an event to a function under `make watch`: FN=button EVENT=events/button/single.json
	@$(CARGO_LAMBDA) invoke $(or $(FN),$(error FN is missing: make invoke FN=button EVENT=events/button/single.json)) \
		--invoke-address 127.0.0.1 --data-file $(or $(EVENT),$(error EVENT is missing: make invoke FN=button EVENT=events/button/single.json))

.PHONY: build
build: $(TOOLS)/build/.installed ## build the zips that ship (ARCH=x86_64 or arm64, TLS=ring or aws-lc)
	$(call say,building the functions for $(ARCH))
	@$(BUILD_ENV) $(PROGRESS) crates $(BUILD_FUNCTIONS) $(if $(filter aws-lc,$(TLS)),--features gatehouse/tls-aws-lc)

# Compiled as in development, which takes a fraction of the time: it waits for AWS.
.PHONY: operator
operator: operator-program ## build the operator tool, gatehouse, and print where it is
	@echo $(abspath $(DEBUG))/gatehouse

.PHONY: operator-program
operator-program: | check
	$(call say,compiling the operator tool)
	@cargo build --quiet --workspace $(OPERATOR)

# The Node peers, each with its own modules, so that the size of one is not the other's. Not below .tools/peers: that
# directory is made anew whenever its Python packages change.
node_peers := $(patsubst tests/bench/peers/node/%/package-lock.json,$(TOOLS)/peers-node/%/.installed,\
	$(wildcard tests/bench/peers/node/*/package-lock.json))

$(TOOLS)/peers-node/%/.installed: tests/bench/peers/node/%/package-lock.json | check
	@mkdir -p $(@D) && cp tests/bench/peers/node/$*/package*.json $(@D)/
	@if command -v npm >/dev/null; then \
		cd $(@D) && npm ci --ignore-scripts --no-audit --no-fund --silent && touch .installed; \
	else echo 'npm is missing: the Node peer of $* is skipped'; fi

# Whether `button` is measured.
bench_button := $(if $(findstring --only,$(BENCH)),$(findstring button,$(BENCH)),button)

.PHONY: bench
bench: build $(TOOLS)/peers/.installed $(node_peers) ## measure cold start, speed and size beside Node and Python
	$(call say,building the empty function and the benchmark)
	@cd tests/bench/peers/empty && CARGO_TARGET_DIR=$(CURDIR)/target/peers \
		$(BUILD_ENV) $(BUILD_FUNCTIONS)
	$(if $(bench_button),$(call say,building button with aws-lc for comparison))
	$(if $(bench_button),@$(BUILD_ENV) $(BUILD_FUNCTIONS) \
		--lambda-dir target/peers/aws-lc --bin button --features gatehouse/tls-aws-lc)
	@cargo bench --package bench --bench bench --profile harness -- $(BENCH)

.PHONY: prove-permissions
prove-permissions: build $(local_tools) ## show for each permission that a test fails without it (FN=alarm for one function's)
	@$(PROGRESS) crates $(PROGRAMS) $(OPERATOR)
	@$(PROGRESS) crates cargo build --workspace --test journeys
	@cargo test --quiet --workspace --test journeys -- prove-permissions $(FN)

.PHONY: fuzz
fuzz: ## fuzz what parses certificates, lists and alarm rules, ten minutes each; needs nightly Rust and cargo-fuzz
	@for target in certificate crl rules; do \
		RUST_BACKTRACE=0 cargo +nightly fuzz run $$target --fuzz-dir tests/fuzz -- \
			-max_total_time=600 -max_len=8192 -malloc_limit_mb=4; \
	done

# --- checks

scripts := infra/bridge/configure tests/tools/check tests/tools/check-shipped .ci/run

# In three parts, for `--jobs`: most of the first waits for compilers, and the others for nothing that it makes.
.PHONY: lint lint-code lint-docs lint-infra
lint: lint-code lint-docs lint-infra ## check the code, the documentation and the templates
	$(call say,all is well)

lint-code: | check
	$(call say,rustfmt)
	@cargo fmt --all --check
	$(call say,clippy)
	@cargo clippy --workspace --all-targets --quiet -- --deny warnings
	$(call say,what ships: no crate and no feature in it that must not be)
	@tests/tools/check-shipped
	$(call say,API documentation)
	@RUSTDOCFLAGS='--deny warnings' cargo doc --workspace --lib --no-deps --quiet

lint-docs: $(foreach tool,lint schema,$(TOOLS)/$(tool)/.installed)
	$(call say,shellcheck)
	@$(TOOLS)/lint/bin/shellcheck --external-sources --shell=bash $(scripts)
	$(call say,documentation)
	@tests/tools/style-docs
	$(call say,wording)
	@tests/tools/style-words
	$(call say,documents that operators write)
	@for schema in infra/*.schema.json; do \
		$(TOOLS)/schema/bin/check-jsonschema --check-metaschema $$schema; \
		$(TOOLS)/schema/bin/check-jsonschema --schemafile $$schema $${schema%.schema.json}.json; \
	done

lint-infra: $(foreach tool,lint checkov guard,$(TOOLS)/$(tool)/.installed)
	$(call say,cfn-lint)
	@mkdir -p target
	@infra/bridge/configure --policy --thing sample --out telemetry/sample --in commands/sample > target/bridge.yaml
	@$(TOOLS)/lint/bin/cfn-lint
	@$(TOOLS)/lint/bin/cfn-lint -t target/bridge.yaml
	$(call say,alarms and dashboard)
	@$(TOOLS)/lint/bin/python tests/tools/check-observability
	$(call say,checkov)
	@$(TOOLS)/checkov/bin/checkov --config-file .checkov.yaml
	$(call say,cfn-guard)
	@$(TOOLS)/guard/bin/cfn-guard test --dir infra/guard > target/guard-test.log || { cat target/guard-test.log; exit 1; }
	@$(TOOLS)/guard/bin/cfn-guard validate --show-summary fail --rules infra/guard/gatehouse.guard \
		$(foreach template,$(wildcard infra/*.yaml),--data $(template)) --data target/bridge.yaml
	@for template in function-support queue-policy; do \
		$(TOOLS)/guard/bin/cfn-guard validate --show-summary fail --rules infra/guard/$$template.guard \
			--data infra/$$template.yaml; \
	done

# --- a real account

# As they were typed: make would expand a `$`, and end a recipe's line at a line break.
override PARAMETERS := $(value PARAMETERS)
override TAGS := $(value TAGS)
export PARAMETERS TAGS CONFIRM DETACH

# The options of infra/stack: only what was typed, since the stage's file says the rest.
typed = $(if $(filter command environment,$(firstword $(origin $(1)))),--$(2) '$($(1))')
stack_options = $(call typed,STAGE,stage) $(call typed,STACK,stack) $(call typed,REGION,region) \
	$(call typed,ARCH,arch) $(call typed,BUCKET,bucket)
STACK_TOOL := PATH="$(CURDIR)/$(TOOLS)/aws/bin:$$PATH" $(TOOLS)/aws/bin/python infra/stack

.PHONY: deploy
deploy: $(TOOLS)/aws/.installed ## put the stack into an AWS account: STAGE=… or STACK=… REGION=… ARCH=… BUCKET=… PARAMETERS='…'
	@$(STACK_TOOL) deploy $(stack_options)

.PHONY: destroy
destroy: $(TOOLS)/aws/.installed ## remove the stack from an AWS account: STAGE=… or STACK=… REGION=…
	@$(STACK_TOOL) destroy $(stack_options)

# --- the CA that signs devices' certificates; against AWS, or where AWS_ENDPOINT_URL points

CA ?= sample
# The operator tool, if it is in the PATH; else it is compiled first.
installed_operator := $(shell command -v gatehouse)
ca_tool := $(if $(installed_operator),check,operator-program)
CA_TOOL := $(or $(installed_operator),$(DEBUG)/gatehouse) ca
CA_AWS = --name $(CA) --region $(REGION) --prefix $(STACK)

.PHONY: ca-create
ca-create: | $(ca_tool) ## make a sample CA for devices: CA=sample ALGORITHM=p256 or rsa
	@$(CA_TOOL) create --name $(CA) $(if $(ALGORITHM),--algorithm $(ALGORITHM))

.PHONY: ca-register
ca-register: | $(ca_tool) ## register a CA with AWS IoT: CA=… STACK=… REGION=…
	@$(CA_TOOL) register $(CA_AWS)

.PHONY: ca-issue
ca-issue: | $(ca_tool) ## issue a device's certificate: THING=… CA=… ALGORITHM=…
	@$(CA_TOOL) issue --name $(CA) --thing $(or $(THING),$(error THING is missing: make ca-issue THING=front-gate)) \
		$(if $(ALGORITHM),--algorithm $(ALGORITHM))

.PHONY: ca-publish-crl
ca-publish-crl: | $(ca_tool) ## publish a CA's revocation list: REVOKE='thing …' or CRL=file, CA=…
	@$(CA_TOOL) publish-crl $(CA_AWS) $(if $(CRL),--crl $(CRL)) $(if $(REVOKE),--revoke $(REVOKE))

.PHONY: ca-deactivate
ca-deactivate: | $(ca_tool) ## set a CA inactive: CA=… STACK=… REGION=…
	@$(CA_TOOL) deactivate $(CA_AWS)

.PHONY: clean
clean: ## remove everything that was built or installed here
	rm -rf target $(TOOLS)
