// Package conformance holds the integration tests of what programs see: whatever a
// program can look at or be put into must be in a resident start as in a plain one.
// They need what those of package integration need.
package conformance

import (
	"os"
	"testing"

	"github.com/residentctl/residentctl/integration/kit"
)

func TestMain(m *testing.M) {
	os.Exit(kit.Run(m))
}
