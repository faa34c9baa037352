// Package plural counts things in messages.
package plural

import (
	"fmt"
	"strings"
)

// Count returns a number of things in words: "1 library", "5 libraries".
func Count[N ~int | ~int64 | ~uint16 | ~uint32 | ~uint64](n N, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	if stem, ok := strings.CutSuffix(thing, "y"); ok {
		return fmt.Sprintf("%d %sies", n, stem)
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
