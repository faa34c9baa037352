package kit

import (
	"strconv"
	"testing"
	"time"
)

// TestSlice: in as many days as a slice is a part of, each combination is tried once, and
// each day each entry of either list is met.
func TestSlice(t *testing.T) {
	const of, ways, commands = 3, 6, 4
	t.Setenv(AllEnv, "")
	var met [ways][commands]int
	lastOfYear := time.Date(2026, time.December, 31, 12, 0, 0, 0, time.UTC)
	for n := range of {
		day := strconv.Itoa(dayOf(lastOfYear.AddDate(0, 0, n)))
		t.Setenv(DayEnv, day)
		slice := Today(t, of)
		var byWay [ways]int
		var byCommand [commands]int
		for way := range ways {
			for command := range commands {
				if slice.Has(way, command) {
					met[way][command]++
					byWay[way]++
					byCommand[command]++
				}
			}
		}
		for way, n := range byWay {
			if n == 0 {
				t.Errorf("day %s leaves out way %d", day, way)
			}
		}
		for command, n := range byCommand {
			if n == 0 {
				t.Errorf("day %s leaves out command %d", day, command)
			}
		}
	}
	for way := range met {
		for command, n := range met[way] {
			if n != 1 {
				t.Errorf("way %d with command %d is tried %d times in %d days", way, command, n, of)
			}
		}
	}
	t.Setenv(AllEnv, "1")
	for n := range ways {
		if !Today(t, of).Has(n) {
			t.Errorf("number %d of all is left out", n)
		}
	}
}
