package plural

import "testing"

func TestCount(t *testing.T) {
	for _, tc := range []struct {
		n     int
		thing string
		want  string
	}{
		{0, "image", "0 images"},
		{1, "image", "1 image"},
		{2, "image", "2 images"},
		{1, "library", "1 library"},
		{5, "library", "5 libraries"},
	} {
		if got := Count(tc.n, tc.thing); got != tc.want {
			t.Errorf("%q, want %q", got, tc.want)
		}
	}
}
