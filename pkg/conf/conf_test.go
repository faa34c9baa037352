package conf

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/residentctl/residentctl/internal/problem"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		text string
		want []Line
		err  string
	}{
		{text: ""},
		{text: "\n \t\n# a comment\n\t# another\n"},
		{text: "/bin/a", want: []Line{{Number: 1, Pattern: "/bin/a"}}},
		{text: "\n  /bin/a \t enable # why\r\n", want: []Line{{Number: 2, Pattern: "/bin/a", Options: Options{Shim: true}}}},
		{text: "/bin/a#b", want: []Line{{Number: 1, Pattern: "/bin/a#b"}}},
		{text: `/opt/two\ words system`, want: []Line{{Number: 1, Pattern: `/opt/two\ words`, Options: Options{System: true}}}},
		{text: `/opt/\#x`, want: []Line{{Number: 1, Pattern: `/opt/\#x`}}},
		{
			text: "/bin/* layouts 4 memory-limit 512M trust-owner even-if-slower\n!/bin/x?",
			want: []Line{
				{Number: 1, Pattern: "/bin/*", Options: Options{Layouts: 4, MemoryLimit: 512 << 20, TrustOwner: true, EvenIfSlower: true}},
				{Number: 2, Pattern: "/bin/x?", Never: true},
			},
		},
		{text: "/bin/a\nperl", err: `line 2: "perl" is not an absolute path`},
		{text: "!", err: `line 1: "" is not an absolute path`},
		{text: "! /bin/a", err: `"" is not an absolute path`},
		{text: "/bin/[a", err: `"/bin/[a" is not a valid wildcard`},
		{text: `/bin/a\`, err: "is not a valid wildcard"},
		{text: "/bin/a enabled", err: `unknown option "enabled"`},
		{text: "/bin/a /bin/b", err: `unknown option "/bin/b"`},
		{text: "/bin/a layouts", err: `no value after "layouts"`},
		{text: "/bin/a layouts 0", err: `layouts "0": it must be a number from 1 to 64`},
		{text: "/bin/a layouts 65", err: `from 1 to 64`},
		{text: "/bin/a memory-limit 1K", err: `memory-limit "1K": it must be 1M or more`},
		{text: "!/bin/a enable", err: `"enable" after a path with !`},
		{text: "/bin/\xff", err: "not UTF-8"},
		{text: "/bin/a\x00", err: "not UTF-8"},
		{text: "/" + strings.Repeat("x", maxLine), err: "longer than"},
	} {
		lines, err := Parse("f", tc.text)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) || !strings.HasPrefix(err.Error(), "read f: line ") ||
				problem.KindOf(err) != problem.Usage || problem.HintOf(err) == "" {
				t.Errorf("%q: error %v, want %q", tc.text, err, tc.err)
			}
			continue
		}
		for i := range tc.want {
			tc.want[i].File = "f"
		}
		if err != nil || !reflect.DeepEqual(lines, tc.want) {
			t.Errorf("%q: %+v, %v; want %+v", tc.text, lines, err, tc.want)
		}
	}
}

// tree makes programs and other files, and returns its directory.
func tree(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{
		"bin/a": 0o755, "bin/b": 0o755, "bin/two words": 0o755, "bin/README": 0o644, "bin/sub/c": 0o755, "lib/d": 0o755,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("bin", filepath.Join(dir, "merged")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a", filepath.Join(dir, "bin/link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestPrograms(t *testing.T) {
	dir := tree(t)
	for _, tc := range []struct{ text, want string }{
		{"DIR/bin/a", "bin/a literally"},
		{"DIR/bin/gone", "bin/gone literally absent"},
		{"DIR/bin/gone*", ""},
		{"DIR/bin/README", "bin/README literally"},
		{"DIR/bin", "bin/a, bin/b, bin/link, bin/two words"},
		{"DIR/bin/", "bin/a, bin/b, bin/link, bin/two words"},
		{"DIR/bin/[ab]", "bin/a, bin/b"},
		{"DIR/*/*", "bin/a, bin/b, bin/link, bin/two words, lib/d, merged/a, merged/b, merged/link, merged/two words"},
		{`DIR/bin/two\ words`, "bin/two words literally"},
		{"DIR/bin/? layouts 2\nDIR/bin/a enable\nDIR/bin/a layouts 1", "bin/a literally [layouts 2 enable], bin/b [layouts 2]"},
		{"!DIR/bin/a\nDIR/bin", "bin/b, bin/two words"},
		{"DIR/bin\n!DIR/bin/link", "bin/a, bin/b, bin/two words"},
		{"DIR/bin/a\n!DIR/merged/a", ""},
		{"DIR/merged/b\n!DIR/bin/b", ""},
		{"DIR/bin/?\nDIR/lib/d\n!DIR/bin", "lib/d literally"},
		{"DIR/bin/?\n!DIR/*/b", "bin/a"},
	} {
		lines, err := Parse("f", strings.ReplaceAll(tc.text, "DIR", dir))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range (&Config{Lines: lines}).Programs() {
			s, _ := filepath.Rel(dir, p.Path)
			if p.Literal {
				s += " literally"
			}
			if p.Absent {
				s += " absent"
			}
			if words := p.Options.String(); words != "" {
				s += " [" + words + "]"
			}
			got = append(got, s)
		}
		if all := strings.Join(got, ", "); all != tc.want {
			t.Errorf("%q names\n%s, want\n%s", tc.text, all, tc.want)
		}
	}
}

func TestFilesAreReadInOrder(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"resident.conf": "/bin/a\n", "resident.conf.d/20.conf": "/bin/c\n", "resident.conf.d/10.conf": "/bin/b\n",
		"resident.conf.d/10.conf~": "nonsense", "resident.conf.d/.hidden.conf": "nonsense",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := &Config{}
	if err := c.readDir(dir); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range c.Lines {
		got = append(got, l.Pattern)
	}
	if !reflect.DeepEqual(got, []string{"/bin/a", "/bin/b", "/bin/c"}) {
		t.Errorf("read %q", got)
	}
}

func TestReadRefusesWhatOthersMayChange(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("for root")
	}
	name := filepath.Join(t.TempDir(), "resident.conf")
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(name); problem.KindOf(err) != problem.Untrusted || !strings.Contains(err.Error(), "can be written by") {
		t.Errorf("error %v", err)
	}
}

// The example is right as it is, and with every line in use.
func TestExample(t *testing.T) {
	raw, err := os.ReadFile("../../docs/resident.conf")
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for _, uncommented := range []string{text, strings.ReplaceAll(strings.ReplaceAll(text, "\n#/", "\n/"), "\n#!", "\n!")} {
		if lines, err := Parse("resident.conf", uncommented); err != nil || len(lines) == 0 {
			t.Errorf("%+v, %v", lines, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("/bin/a layouts 4 enable # x\n!/bin/*\n")
	f.Add("/opt/two\\ words memory-limit 2G system trust-owner even-if-slower\r\n")
	f.Add("/bin/[a-\n")
	f.Fuzz(func(t *testing.T, text string) {
		lines, err := Parse("f", text)
		if err != nil {
			return
		}
		for _, l := range lines {
			if l.Never {
				continue
			}
			again, err := Parse("f", l.Pattern+" "+l.Options.String())
			was := l.Options
			if was.Layouts == 1 {
				was.Layouts = 0 // the default is not named
			}
			if err != nil || len(again) != 1 || again[0].Pattern != l.Pattern || again[0].Options != was {
				t.Errorf("%+v is read again as %+v, %v", l, again, err)
			}
		}
		(&Config{Lines: lines}).Never("/bin/true")
	})
}
