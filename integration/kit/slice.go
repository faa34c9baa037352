package kit

import (
	"hash/fnv"
	"os"
	"strconv"
	"testing"
	"time"
)

// Tests of many combinations, of programs with ways with users, try a part of them, another
// one each day. AllEnv, set to anything, has them try all, which takes several times as
// long. DayEnv, the number of a day since 1970, has them try that day's part.
const (
	AllEnv = "RESIDENTCTL_TEST_ALL"
	DayEnv = "RESIDENTCTL_TEST_DAY"
)

// A Slice is the part of a test's combinations that is tried on a day.
type Slice struct{ of, first int }

// Today is one in so many of a test's combinations, each of which is tried within as many
// days. Which they are also depends on the test's name: tests of one combination with each
// way do not all have the same ways on a day. It logs the day, which a test that fails
// prints. A value of DayEnv that is no number fails the test.
func Today(t testing.TB, of int) Slice {
	t.Helper()
	day := dayOf(time.Now())
	if given := os.Getenv(DayEnv); given != "" {
		var err error
		if day, err = strconv.Atoi(given); err != nil {
			t.Fatalf("%s: %v", DayEnv, err)
		}
	}
	if All() || of == 1 {
		return Slice{of: 1}
	}
	t.Logf("one in %d combinations of this test: %s=%d, or %s=1 for all", of, DayEnv, day, AllEnv)
	name := fnv.New32a()
	name.Write([]byte(t.Name())) // never fails (hash.Hash)
	return Slice{of, day + int(name.Sum32()>>1)}
}

// dayOf counts the days since 1970. With those of a year parts would be left out at its end.
func dayOf(now time.Time) int { return int(now.Unix() / (24 * 60 * 60)) }

// All reports whether tests are to try all of their combinations.
func All() bool { return os.Getenv(AllEnv) != "" }

// Has reports whether a combination is in the slice. It is named by its number in each list
// that it combines, as way 2, user 0, command 5: with enough of one list each entry of the
// others is met every day.
func (s Slice) Has(numbers ...int) bool {
	sum := s.first
	for _, n := range numbers {
		sum += n
	}
	return sum%s.of == 0
}
