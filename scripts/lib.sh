# shellcheck shell=bash
# What the scripts share; they source it after set -euo pipefail.
# Sourcing it changes to the repository's root.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

script=${0##*/}

say() { printf '%s: %s\n' "$script" "$*"; }

die() {
	printf '%s: error: %s\n' "$script" "$*" >&2
	exit 1
}

# at_least HAVE WANT: is version HAVE the same as WANT or newer?
at_least() { printf '%s\n' "$2" "$1" | sort -VC; }

# find_go prints the path of a go command that is new enough for go.mod, or that
# fetches one which is (since 1.21, go.dev/doc/toolchain), or fails. GOTOOLCHAIN=local:
# what is installed is asked first, which costs no download.
GO_MINIMUM=1.26
GO_FETCHES=1.21
find_go() {
	local go version
	for go in "$(type -P go)" /usr/local/go/bin/go; do
		[[ -x $go ]] || continue
		version=$(GOTOOLCHAIN=local "$go" env GOVERSION 2>/dev/null) || continue
		if ! at_least "${version#go}" "$GO_MINIMUM" && at_least "${version#go}" "$GO_FETCHES"; then
			version=$("$go" env GOVERSION 2>/dev/null) || continue
		fi
		if at_least "${version#go}" "$GO_MINIMUM"; then
			printf '%s\n' "$go"
			return
		fi
	done
	return 1
}

# debian_mirror prints the address from which this machine gets Debian's packages,
# or nothing. Debian's own archive is the one whose Origin says so; the suites
# besides the release itself (updates, security, backports) have a hyphen in their
# name.
debian_mirror() {
	# shellcheck disable=SC2016 # the $(...) are apt's
	apt-get indextargets --format '$(CREATED_BY)|$(ORIGIN)|$(COMPONENT)|$(CODENAME)|$(REPO_URI)' |
		awk -F '|' '$1 == "Packages" && $2 == "Debian" && $3 == "main" && $4 !~ /-/ && !found++ { print $5 }'
}

# source_lists DIRECTORY MIRROR SUITE sets source_options, with which apt-get reads
# that suite's sources through lists of its own in DIRECTORY, so that apt's view of
# the system stays as it is. `apt-get update` with them comes first; apt verifies
# the release's signature and with it the hash of what it downloads.
source_lists() {
	local directory=$1
	mkdir -p "$directory"/{lists/partial,cache/archives/partial,parts}
	chmod 755 "$(dirname "$directory")" "$directory" # apt downloads as the user _apt
	printf 'deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' \
		"$2" "$3" >"$directory/sources.list"
	# shellcheck disable=SC2034 # its callers use it
	source_options=(
		-o "Dir::Etc::sourcelist=$directory/sources.list"
		-o "Dir::Etc::sourceparts=$directory/parts"
		-o "Dir::State::lists=$directory/lists"
		-o "Dir::Cache=$directory/cache"
		-o APT::Update::Error-Mode=any
	)
}

in_directory() { (cd "$1" && "${@:2}"); }
