// Package integration tests residentctl whole: real programs and the C programs
// in fixtures, started plainly and resident, must do the same. Package conformance has
// the other half, and kit what both need.
//
// The tests need root and CRIU; without them they are skipped, or fail where
// RESIDENTCTL_TEST_REQUIRE=criu says that both are there. They build
// bin/residentctl; RESIDENTCTL_TEST_BINARY names another one to test. They end in one
// line when the machine's libraries change meanwhile (internal/unchanged).
package integration

import (
	"os"
	"testing"

	"github.com/residentctl/residentctl/integration/kit"
)

func TestMain(m *testing.M) {
	os.Exit(kit.Run(m))
}
