# The targets with a ## text are the ones to use; `make help` lists them.
SHELL := /bin/bash
GO ?= go
export GOTOOLCHAIN ?= local
export CGO_ENABLED ?= 0

RUNC_VERSION := v1.5.2
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT := $(shell git rev-parse HEAD 2>/dev/null)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
EMBED := engine/local/embed
LINT := .tools/golangci-lint
FUMPT := .tools/gofumpt

# Debian packages: to build, and what the tests need beside.
BUILD_PACKAGES := gcc libc6-dev pkg-config libseccomp-dev git ca-certificates
TEST_PACKAGES := busybox-static qemu-user-static iproute2 openssl openssh-client

.PHONY: help run demo test check build bench test-long lint fmt clean packages test-packages node programs

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

run: build ## build, serve on 127.0.0.1:8080, run the demo and stay up (data in ./.run)
	bin/slipway serve --data-dir .run --listen 127.0.0.1:8080 --ingress-http 127.0.0.1:8081 --ingress-https 127.0.0.1:8444 --log-level warn --demo

demo: build ## the same on free ports in a temporary folder, checked, then everything stopped
	bin/slipway demo --own

build: packages programs ## leave bin/slipway
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/slipway .

# runc, the monitor of containers and the example's server; they are embedded.
programs: $(EMBED)/runc $(EMBED)/child example/bin/hello

$(EMBED)/runc: engine/local/build-runc.sh
	RUNC_VERSION=$(RUNC_VERSION) engine/local/build-runc.sh $@

$(EMBED)/child: $(wildcard child/*.go engine/local/wire/*.go logs/segment/*.go) go.mod
	$(GO) build -trimpath -ldflags '-s -w' -o $@ ./child

example/bin/hello: $(wildcard example/hello/*)
	$(GO) build -trimpath -buildvcs=false -ldflags '-s -w -buildid=' -o $@ ./example/hello

test: test-packages node programs ## install what the tests need and run all of them (race detector, real containers)
	$(GO) vet ./...
	CGO_ENABLED=1 $(GO) test -race -timeout 30m $$($(GO) list ./... | grep -v '/e2e$$')
	CGO_ENABLED=1 $(GO) test -race -timeout 30m ./e2e

check: programs lint ## the quick part: format, vet, lint, tests of the tree and of the small rooms
	CGO_ENABLED=1 $(GO) test -race -short -timeout 10m $$($(GO) list ./... | grep -vE '/(engine/local|e2e|bench)$$')

lint: $(LINT) $(FUMPT)
	@out=$$($(FUMPT) -l $$(git ls-files '*.go')); test -z "$$out" || { echo "not formatted (make fmt):"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(LINT) run ./...

fmt: $(FUMPT) ## format the Go files
	$(FUMPT) -w $$(git ls-files '*.go')

$(LINT) $(FUMPT): tools/go.mod
	cd tools && $(GO) build -o ../.tools/ github.com/golangci/golangci-lint/v2/cmd/golangci-lint mvdan.cc/gofumpt
	@touch $(LINT) $(FUMPT)

bench: test-packages build ## measure beside the real peers and print the table
	bench/run

# The crash runs are of the program as it is shipped; make test does one round of
# them under the race detector.
test-long: test-packages build ## the long random and crash runs
	SLIPWAY_LONG=1 CGO_ENABLED=1 $(GO) test -race -timeout 60m -run 'Long|Crash' $$($(GO) list ./... | grep -v '/e2e$$')
	SLIPWAY_LONG=1 SLIPWAY_BINARY=$(CURDIR)/bin/slipway CGO_ENABLED=1 $(GO) test -race -timeout 170m -v -run 'Long|Crash' ./e2e

packages:
	@tools/packages $(BUILD_PACKAGES)

test-packages:
	@tools/packages $(BUILD_PACKAGES) $(TEST_PACKAGES)

# One test runs a client of npm's; who has npm keeps theirs.
node:
	@command -v npm >/dev/null && command -v node >/dev/null || tools/packages nodejs npm

clean: ## remove what was built
	rm -rf bin .tools example/bin/hello $(EMBED)/runc $(EMBED)/child
