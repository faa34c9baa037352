package linux

import (
	"os"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseMaps(t *testing.T) {
	const rw = unix.PROT_READ | unix.PROT_WRITE
	tests := []struct {
		name, line string
		want       Mapping
	}{
		{"file", "55f1c9a00000-55f1c9a2f000 r-xp 00001000 fe:01 1234                       /usr/bin/perl",
			Mapping{Start: 0x55f1c9a00000, End: 0x55f1c9a2f000, Prot: unix.PROT_READ | unix.PROT_EXEC, Offset: 0x1000,
				Dev: unix.Mkdev(0xfe, 1), Ino: 1234, Path: "/usr/bin/perl"}},
		{"anonymous", "7f0000000000-7f0000001000 rw-p 00000000 00:00 0 ",
			Mapping{Start: 0x7f0000000000, End: 0x7f0000001000, Prot: rw}},
		{"name in brackets", "7ffd1000-7ffd3000 rw-p 00000000 00:00 0                          [stack]",
			Mapping{Start: 0x7ffd1000, End: 0x7ffd3000, Prot: rw, Path: "[stack]"}},
		{"shared and deleted", "1000-2000 rw-s 00000000 00:01 5                   /memfd:x y (deleted)",
			Mapping{Start: 0x1000, End: 0x2000, Prot: rw, Shared: true, Dev: 1, Ino: 5, Path: "/memfd:x y", Deleted: true}},
		{"newline in the name", `1000-2000 ---p 00000000 08:02 7 /a\012b`,
			Mapping{Start: 0x1000, End: 0x2000, Dev: unix.Mkdev(8, 2), Ino: 7, Path: "/a\nb"}},
		{"vsyscall", "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]",
			Mapping{Start: 0xffffffffff600000, End: 0xffffffffff601000, Prot: unix.PROT_EXEC, Path: "[vsyscall]"}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ParseMaps([]byte(tc.line + "\n"))
			if err != nil || !reflect.DeepEqual(got, []Mapping{tc.want}) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	for _, bad := range []string{"\n", "x", "1000 rw-p 0 0:0 0", "2000-1000 rw-p 0 0:0 0", "1000-2000 rwzp 0 0:0 0",
		"1000-2000 rw-q 0 0:0 0", "1000-2000 rw-p 0 0:0", "1000-2000 rw-p 0 00 0", "1000-2000 rw 0 0:0 0"} {
		if got, err := ParseMaps([]byte(bad)); err == nil {
			t.Errorf("%q gave %+v", bad, got)
		}
	}
}

func TestReadMaps(t *testing.T) {
	maps, err := ReadMaps(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, m := range maps {
		seen[m.Path] = true
		if m.Kernel() != (m.Path == "[vdso]" || m.Path == "[vvar]" || m.Path == "[vvar_vclock]" || m.Path == "[vsyscall]") {
			t.Errorf("%s: Kernel() is %v", m, m.Kernel())
		}
	}
	if exe, _ := os.Executable(); !seen["[stack]"] || !seen[exe] {
		t.Errorf("no stack or no %s in %v", exe, maps)
	}
}

func FuzzParseMaps(f *testing.F) {
	f.Add([]byte("1000-2000 rw-s 00000000 00:01 5                   /memfd:x y (deleted)\n"))
	f.Add([]byte("7ffd1000-7ffd3000 rw-p 00000000 00:00 0                          [stack]\n"))
	f.Add([]byte("-\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		maps, err := ParseMaps(text)
		if err != nil {
			return
		}
		for _, m := range maps {
			if m.End <= m.Start {
				t.Errorf("%+v is empty", m)
			}
		}
	})
}
