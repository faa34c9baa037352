package resident

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestVersionManager(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"pyenv", `#!/usr/bin/env bash
set -e
[ -n "$PYENV_DEBUG" ] && set -x

program="${0##*/}"

export PYENV_ROOT="/home/me/.pyenv"
exec "/home/me/.pyenv/libexec/pyenv" exec "$program" "$@"
`, "pyenv"},
		{"rbenv", `#!/usr/bin/env bash
set -e
[ -n "$RBENV_DEBUG" ] && set -x

program="${0##*/}"
if [ "$program" = "ruby" ]; then
  for arg; do
    case "$arg" in
    -e* | -- ) break ;;
    */* )
      if [ -f "$arg" ]; then
        export RBENV_DIR="${arg%/*}"
        break
      fi
      ;;
    esac
  done
fi

export RBENV_ROOT="/home/me/.rbenv"
exec "/usr/bin/rbenv" exec "$program" "$@"
`, "rbenv"},
		{"nodenv in a directory with a space", "#!/usr/bin/env bash\nexec \"/home/my dir/nodenv\" exec \"$program\" \"$@\"\n", "nodenv"},
		{"asdf", `#!/usr/bin/env bash
# asdf-plugin: nodejs 16.5.0
# asdf-plugin: nodejs 18.0.0
exec /home/me/.asdf/bin/asdf exec "node" "$@" # asdf_allow: ' asdf '
`, "asdf"},
		{"asdf in Go", "#!/usr/bin/env bash\n# asdf-plugin: nodejs 18.0.0\nexec asdf exec \"node\" \"$@\"\n", "asdf"},
		{"many versions", "#!/usr/bin/env bash\n" + strings.Repeat("# asdf-plugin: nodejs 18.0.0\n", 1000) + "exec asdf exec \"node\" \"$@\"\n", "asdf"},

		{"a wrapper", "#!/bin/sh\nexec /usr/lib/foo/foo.real \"$@\"\n", ""},
		{"env(1)", "#!/bin/sh\nexec /usr/bin/env python3 \"$@\"\n", ""},
		{"docker", "#!/bin/sh\nexec docker exec \"$@\"\n", ""},
		{"no script", `exec "/home/me/.pyenv/libexec/pyenv" exec "$program" "$@"`, ""},
		{"nothing", "", ""},
		{"a word", "#", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "python3")
			if err := os.WriteFile(path, []byte(tc.text), 0o755); err != nil {
				t.Fatal(err)
			}
			if got := VersionManager(path); got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, t.TempDir(), "/nonexistent"} {
		if got := VersionManager(path); got != "" {
			t.Errorf("%s: %q", path, got)
		}
	}
}
