package criuwrap

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/residentctl/residentctl/internal/problem"
)

func TestFileCapabilities(t *testing.T) {
	for _, tc := range []struct {
		name string
		data []byte
		want uint64
	}{
		{"none", nil, 0},
		// As setcap writes them: revision 2, with the effective bit or without.
		{"cap_checkpoint_restore+ep", []byte{1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, capCheckpointRestore},
		{"cap_checkpoint_restore+p", []byte{0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, 0},
		{"cap_sys_admin+ep", []byte{1, 0, 0, 2, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, capSysAdmin},
		{"cap_net_raw+ep", []byte{1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 1 << 13},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "criu")
			if err := os.WriteFile(path, nil, 0o755); err != nil {
				t.Fatal(err)
			}
			if tc.data != nil {
				if err := syscall.Setxattr(path, "security.capability", tc.data, 0); err != nil {
					t.Skip("capabilities cannot be set here:", err)
				}
			}
			link := path + "-link"
			if err := os.Symlink(path, link); err != nil {
				t.Fatal(err)
			}
			if got := fileCapabilities(link); got != tc.want {
				t.Errorf("%#x, want %#x", got, tc.want)
			}
		})
	}
}

func TestNoCapability(t *testing.T) {
	err := noCapability("/opt/criu")
	if !strings.Contains(err.Error(), "/opt/criu") || problem.KindOf(err) != problem.System || !strings.Contains(problem.HintOf(err), "setcap cap_checkpoint_restore+ep /opt/criu") {
		t.Errorf("%v; %s", err, problem.HintOf(err))
	}
}
