package linux

import "testing"

func TestBootIDIsStable(t *testing.T) {
	first, err := BootID()
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := BootID(); again != first {
		t.Errorf("BootID: %q, then %q", first, again)
	}
}
