package linux_test

import (
	"testing"

	"github.com/residentctl/residentctl/internal/fixture"
	"github.com/residentctl/residentctl/internal/linux"
)

func TestParseStackDamaged(t *testing.T) {
	sp, block := fixture.Stack(0x7ffd00002000, 1)
	whole, _, err := linux.ParseStack(sp, block)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole.Random - sp + 16 {
		// Whatever is missing, no panic; without AT_RANDOM, an error.
		if _, _, err := linux.ParseStack(sp, block[:n&^7]); err == nil {
			t.Errorf("the first %d bytes were accepted", n&^7)
		}
	}
}
