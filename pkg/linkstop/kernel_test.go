package linkstop

import (
	"context"
	"os"
	"testing"
)

// What the tests of this package do anyway must be found to work.
func TestProbeKernel(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{self, "/bin/sh"} {
		features := ProbeKernel(t.Context(), program)
		if len(features) != len(kernelTests) {
			t.Errorf("%d of %d features were tried", len(features), len(kernelTests))
		}
		for _, f := range features {
			t.Logf("%s: %s %v", f.Name, f.Detail, f.Err)
			if f.Err != nil && !f.Optional {
				t.Errorf("%s: %v", f.Name, f.Err)
			}
		}
	}
}

func TestProbeKernelCannotStart(t *testing.T) {
	features := ProbeKernel(t.Context(), "/no/such/program")
	if len(features) != 1 || features[0].Err == nil {
		t.Errorf("got %v", features)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if features := ProbeKernel(ctx, "/bin/sh"); features[0].Err == nil {
		t.Errorf("cancelled: got %v", features)
	}
}
