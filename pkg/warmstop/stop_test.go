package warmstop

import (
	"context"
	"testing"
)

func TestTry(t *testing.T) {
	tmpl, err := Stop(context.Background(), Options{Path: "/tmp/w/p", Argv: []string{"/tmp/w/p"}, Env: []string{"HOME=/x"}, Dir: "/"})
	if err != nil {
		t.Fatal(err)
	}
	defer tmpl.Kill()
	t.Logf("%+v", tmpl.Fixups)
	t.Logf("%+v", tmpl.Signals)
	t.Logf("%+v", tmpl.Probes)
	t.Logf("%#x %v", tmpl.Regs.Rip, tmpl.OldStack())
	if err := tmpl.Detach(); err != nil {
		t.Fatal(err)
	}
}
