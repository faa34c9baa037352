package resident

import (
	"fmt"
	"os"
	"testing"
	"time"
)

func TestKeepLarge(t *testing.T) {
	if os.Getenv("KEEP") == "" {
		t.SkipNow()
	}
	s := newLargeStore(t, 10000)
	os.WriteFile("/tmp/lg/dir", []byte(s.m.Dir()), 0o600)
	os.WriteFile("/tmp/lg/lib", []byte(s.libraries[7]), 0o600)
	for {
		if _, err := os.Stat("/tmp/lg/stop"); err == nil {
			return
		}
		time.Sleep(time.Second)
	}
}

func BenchmarkKept(b *testing.B) {
	raw, err := os.ReadFile("/tmp/lg/dir")
	if err != nil {
		b.SkipNow()
	}
	lib, _ := os.ReadFile("/tmp/lg/lib")
	dir := string(raw)
	for _, c := range []struct {
		name string
		f    func() error
	}{
		{"list", func() error {
			m, err := OpenToRead(dir)
			if err != nil {
				return err
			}
			e, err := m.List(b.Context())
			if len(e) != 10000 || e[0].State != StateCurrent {
				return fmt.Errorf("%d %v %v", len(e), err, e[0])
			}
			return err
		}},
		{"refresh", func() error {
			m, err := Open(dir, false)
			if err != nil {
				return err
			}
			return m.Refresh(b.Context(), RefreshOptions{Changed: &[]string{string(lib)}}, func(r Refreshed) {
				if !r.Current {
					b.Fatal(r.Err)
				}
			})
		}},
		{"gc", func() error {
			m, err := Open(dir, false)
			if err != nil {
				return err
			}
			p, err := m.PlanGC(b.Context())
			if err == nil && len(p.Items) > 0 {
				return fmt.Errorf("%+v", p.Items[0])
			}
			return err
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			defer reportProcessorTime(b)()
			for b.Loop() {
				if err := c.f(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
