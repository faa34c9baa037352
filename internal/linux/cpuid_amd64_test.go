package linux

import (
	"os"
	"strings"
	"testing"
)

func TestCPUIDVendor(t *testing.T) {
	_, b, c, d := CPUID(0, 0)
	var vendor []byte
	for _, r := range []uint32{b, d, c} {
		vendor = append(vendor, byte(r), byte(r>>8), byte(r>>16), byte(r>>24))
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Skip("no /proc/cpuinfo:", err)
	}
	if !strings.Contains(string(info), string(vendor)) {
		t.Errorf("vendor %q is not in /proc/cpuinfo", vendor)
	}
}

// x87 and SSE state are always enabled where XGETBV is.
func TestXCR0(t *testing.T) {
	if x := XCR0(); x != 0 && x&3 != 3 {
		t.Errorf("XCR0 = %#x without x87 and SSE", x)
	}
}
