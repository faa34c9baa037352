# The scripts do the work; this file is how they are called. Targets:
#
#   build            bin/residentctl
#   test             set-up, all checks, all tests (root)
#   test-short       the tests that need neither root nor much time
#   lint             gofmt, vet, staticcheck, shellcheck, actionlint, charts
#   generate         what is generated: the launcher and its plan.h, man page and completions
#   check-generated  is what is generated that of the sources?
#   fuzz             every fuzz target for ten seconds
#   bench            how long starts take
#   measure          bench again for the documents: docs/bench.json, then chart
#   chart            the charts and tables of docs/bench.json in the documents
#   install          DESTDIR, PREFIX=/usr/local; uninstall removes the same files
#   dist             an archive of the source, the packages, and their checksums

PREFIX = /usr/local
SHARE = $(DESTDIR)$(PREFIX)/share

.PHONY: build test test-short lint generate check-generated fuzz bench measure chart install uninstall dist

build:
	scripts/build

test:
	scripts/test

test-short:
	go test -short ./...

lint:
	scripts/lint

generate:
	go generate ./...

check-generated:
	go test -count=1 -run '^Test(HeaderIsCurrent|SumIsOfTheseSources|CodeIsWhatTheSourcesGive|FrontHoldsTheSameCode)$$' ./pkg/plan/planheader ./pkg/launcher
	go test -count=1 -run '^TestDocumentsAreCurrent$$' ./cmd/residentctl

fuzz:
	scripts/fuzz

bench:
	scripts/bench

measure:
	scripts/bench --json >docs/bench.json.new
	mv docs/bench.json.new docs/bench.json
	scripts/chart

chart:
	scripts/chart

# Not built again: root installs what a user has built.
bin/residentctl:
	scripts/build

install: bin/residentctl
	install -D -m 755 bin/residentctl $(DESTDIR)$(PREFIX)/bin/residentctl
	ln -sf residentctl $(DESTDIR)$(PREFIX)/bin/resident
	install -D -m 644 -t $(SHARE)/man/man1 docs/man/residentctl.1
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/include include/residentctl.h
	install -D -m 644 -t $(SHARE)/man/man3 docs/man/residentctl_point.3
	install -D -m 644 -t $(SHARE)/man/man5 docs/man/resident.conf.5
	install -D -m 644 -t $(SHARE)/man/man8 docs/man/resident.8
	install -D -m 644 docs/completions/residentctl.bash $(SHARE)/bash-completion/completions/residentctl
	install -D -m 644 -t $(SHARE)/zsh/site-functions docs/completions/_residentctl
	install -D -m 644 -t $(SHARE)/fish/vendor_completions.d docs/completions/residentctl.fish

uninstall:
	cd $(DESTDIR)$(PREFIX) && rm -f bin/resident bin/residentctl include/residentctl.h share/man/man1/residentctl.1 \
		share/man/man3/residentctl_point.3 share/man/man5/resident.conf.5 share/man/man8/resident.8 \
		share/bash-completion/completions/residentctl share/zsh/site-functions/_residentctl \
		share/fish/vendor_completions.d/residentctl.fish

dist:
	scripts/dist
