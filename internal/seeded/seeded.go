// Package seeded gives tests random numbers that can be repeated.
package seeded

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// Variable names the environment variable with the seed to take, a number of 64 bits.
const Variable = "RESIDENTCTL_TEST_SEED"

// Rand returns a generator for one goroutine of the test, and logs its seed, which a
// test that fails prints. A value of Variable that is no number fails the test.
func Rand(t testing.TB) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if given := os.Getenv(Variable); given != "" {
		var err error
		if seed, err = strconv.ParseUint(given, 10, 64); err != nil {
			t.Fatalf("%s: %v", Variable, err)
		}
	}
	t.Logf("random numbers of this test: %s=%d", Variable, seed)
	return rand.New(rand.NewPCG(seed, 0))
}
