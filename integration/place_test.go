package integration

import (
	"debug/elf"
	"path/filepath"
	"testing"

	"github.com/residentctl/residentctl/integration/kit"
	"github.com/residentctl/residentctl/pkg/plan"
)

// TestLauncherStandsBesideItsImage: where a page table is that the image needs too.
// With several layouts the launcher file is in the way of none.
func TestLauncherStandsBesideItsImage(t *testing.T) {
	kit.RequireCRIU(t)
	program := filepath.Join(kit.Dir(t), "multicall")
	kit.CopyFile(t, kit.Fixture(t, "multicall"), program)
	s := kit.NewStore(t, kit.Dir(t))
	s.Do(t, "add", "--even-if-slower", "--layouts", "5", program)

	f, err := elf.Open(s.Launcher(program))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const table = 2 << 20
	from, to := f.Progs[0].Vaddr, f.Progs[0].Vaddr+f.Progs[0].Memsz
	first := s.Plan(t, program)
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
		s.RequireResident(t, kit.ByLauncher, kit.Root, program, kit.Command{})
	}
}
