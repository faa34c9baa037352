package main

import (
	"os"
	"testing"
)

func TestHeaderIsCurrent(t *testing.T) {
	const path = "../../launcher/src/plan.h"
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != header() {
		t.Errorf("%s is not what planheader writes: run go generate ./pkg/plan and scripts/build-launcher", path)
	}
}

func TestSnake(t *testing.T) {
	for in, want := range map[string]string{
		"Addr": "addr", "FirstMap": "first_map", "R12": "r12", "HWCap2": "hw_cap2", "XCR0": "xcr0",
		"RIP": "rip", "FSBase": "fs_base", "CPUID": "cpuid", "BootID": "boot_id", "FileID": "file_id", "CPUs": "cpus", "CPUsLen": "cpus_len",
	} {
		if got := snake(in); got != want {
			t.Errorf("snake(%q) = %q, want %q", in, got, want)
		}
	}
}
