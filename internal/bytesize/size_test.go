package bytesize

import "testing"

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		value string
		want  uint64 // 0: refused
		text  string
	}{
		{"1M", 1 << 20, "1M"},
		{"1048576", 1 << 20, "1M"},
		{"2048K", 2 << 20, "2M"},
		{"512M", 512 << 20, "512M"},
		{"3G", 3 << 30, "3G"},
		{"1048577", 1<<20 + 1, "1048577"},
		{"1048576G", 1 << 50, "1048576G"},
		{"1048577G", 0, ""},
		{"99999999999999999999", 0, ""},
		{"1023K", 0, ""},
		{"0", 0, ""},
		{"-5M", 0, ""},
		{"", 0, ""},
		{"M", 0, ""},
		{"1MB", 0, ""},
		{"1.5G", 0, ""},
		{"1m", 0, ""},
	} {
		s, err := Parse(tc.value)
		if (err == nil) != (tc.want != 0) || s != tc.want {
			t.Errorf("%q: %d, %v; want %d", tc.value, s, err, tc.want)
		}
		if tc.want != 0 && Format(s) != tc.text {
			t.Errorf("%q is shown as %q, want %q", tc.value, Format(s), tc.text)
		}
	}
}
