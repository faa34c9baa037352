package integration

import (
	"debug/elf"
	"path/filepath"
	"testing"

	"github.com/residentctl/residentctl/pkg/plan"
)

// TestLauncherStandsBesideItsImage: where a page table is that the image needs too.
// With several layouts the launcher file is in the way of none.
func TestLauncherStandsBesideItsImage(t *testing.T) {
	requireCRIU(t)
	program := filepath.Join(folder(t), "multicall")
	copyFile(t, fixture(t, "multicall"), program)
	s := newStore(t, folder(t))
	s.do(t, "add", "--even-if-slower", "--layouts", "5", program)

	f, err := elf.Open(s.launcher(program))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const table = 2 << 20
	from, to := f.Progs[0].Vaddr, f.Progs[0].Vaddr+f.Progs[0].Memsz
	first := s.plan(t, program)
	layouts, err := filepath.Glob(filepath.Join(filepath.Dir(first), "*", "plan"))
	if err != nil || len(layouts) != 4 {
		t.Fatalf("further layouts: %q, %v", layouts, err)
	}
	for i, path := range append([]string{first}, layouts...) {
		p, err := plan.Read(path)
		if err != nil {
			t.Fatal(err)
		}
		beside := false
		maps := p.Anon
		for _, file := range p.Files {
			maps = append(maps, file.Maps...)
		}
		for _, m := range maps {
			beside = beside || m.Addr/table <= from/table && from/table <= (m.Addr+m.Len-1)/table
			if m.Addr < to && from < m.Addr+m.Len {
				t.Errorf("layout %d: the launcher file at %#x is in the way of %+v", i, from, m)
			}
		}
		if beside != (i == 0) {
			t.Errorf("layout %d: beside the launcher file at %#x: %v", i, from, beside)
		}
	}
	for range 20 { // by the launcher file, of one layout or another
		s.requireResident(t, byLauncher, root, program, command{})
	}
}
