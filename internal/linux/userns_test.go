package linux

import "testing"

func TestMapsAll(t *testing.T) {
	for ids, want := range map[string]bool{
		"         0          0 4294967295\n":                 true,
		"         0       1000 1\n":                          false,
		"         0       1000 1\n         1     100000 9\n": false,
		"0 0 1000\n1000 1000 4294966295\n":                   true,
		"":                                                   false,
	} {
		if mapsAll(ids) != want {
			t.Errorf("%q: %v", ids, !want)
		}
	}
}

func TestMapsOne(t *testing.T) {
	for ids, want := range map[string]bool{
		"         0          0 4294967295\n":                 false,
		"         0       1000 1\n":                          true,
		"      1000       1000 1\n":                          true,
		"         0       1000 1\n         1     100000 9\n": false,
		"": false,
	} {
		if mapsOne(ids) != want {
			t.Errorf("%q: %v", ids, !want)
		}
	}
}
