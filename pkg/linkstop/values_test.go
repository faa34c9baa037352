package linkstop

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestThreadStack(t *testing.T) {
	for _, tc := range []struct{ limit, want uint64 }{
		{unix.RLIM_INFINITY, 2 << 20},
		{0, 16384},
		{16383, 16384},
		{16384, 16384},
		{16385, 20480},
		{8 << 20, 8 << 20},
		{0x407b000, 0x407b000}, // the template's: see stackLimits
	} {
		if got := threadStack(tc.limit); got != tc.want {
			t.Errorf("with a limit of %d: %d instead of %d", tc.limit, got, tc.want)
		}
	}
}
