package rules

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestInstalled: `make install` installs each man page, in its section, and each header, and
// `make uninstall` removes them. The packages are made by `make install`.
func TestInstalled(t *testing.T) {
	files := map[string]string{} // by their path in the repository, that below PREFIX
	for pattern, place := range map[string]string{"docs/man/*": "share/man/man", "include/*": "include/"} {
		found, err := filepath.Glob("../../" + pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %q, %v", pattern, found, err)
		}
		for _, file := range found {
			at := place + filepath.Base(file)
			if place != "include/" {
				at = place + filepath.Ext(file)[1:] + "/" + filepath.Base(file)
			}
			files[strings.TrimPrefix(file, "../../")] = at
		}
	}
	made := func(target string) string {
		out, err := exec.Command("make", "-n", "-C", "../..", "-o", "bin/residentctl", target, "DESTDIR=/d", "PREFIX=/p").CombinedOutput()
		if err != nil {
			t.Fatalf("make %s: %v\n%s", target, err, out)
		}
		return string(out)
	}
	install, uninstall := made("install"), made("uninstall")
	for file, at := range files {
		if line := "-t /d/p/" + filepath.Dir(at) + " " + file + "\n"; !strings.Contains(install, line) {
			t.Errorf("make install does not install %s in %s", file, filepath.Dir(at))
		}
		if !strings.Contains(" "+strings.Join(strings.Fields(uninstall), " ")+" ", " "+at+" ") {
			t.Errorf("make uninstall does not remove %s", at)
		}
	}
}
