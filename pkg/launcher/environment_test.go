package launcher

import "testing"

func TestKeepsNormal(t *testing.T) {
	for variable, want := range map[string]bool{
		"LD_PRELOAD=x": true, "LD_": true, "LD=1": false, "GLIBC_TUNABLES=": true, "GLIBC_TUNABLE=1": false, "MALLOC_CHECK_=3": true,
		"MALLOC=1": false, "RESIDENTCTL_OFF=1": true, "RESIDENTCTL_OFF=": false, "RESIDENTCTL_OFF=0": false, "": false, "PATH=LD_X": false,
	} {
		if got := KeepsNormal(variable); got != want {
			t.Errorf("%q: %v", variable, got)
		}
	}
}
