package main

import (
	"fmt"
	"math"
	"strings"
)

const (
	slowerThan  = 1.05
	slowerTimes = 2 // repetitions
	// certain is how many standard errors a ratio must be above 1: noise does so in
	// one of two hundred repetitions.
	certain = 2.6
)

// isSlower reports whether the new build's starts are slower: by more than 5 % and not by
// chance, in two repetitions. What disturbs the machine during one is no reason.
func (c comparison) isSlower() bool {
	times := 0
	for _, s := range c.Repetitions {
		if s.Median > slowerThan && s.Median-certain*s.standardError(c.Rounds) > 1 {
			times++
		}
	}
	return times >= slowerTimes
}

// standardError is that of the median of n values, as the notches of box plots show it
// (McGill, Tukey, Larsen: Variations of Box Plots, 1978).
func (s spread) standardError(n int) float64 {
	return (s.P75 - s.P25) / math.Sqrt(float64(n))
}

func slower(all []comparison) error {
	var names []string
	for _, c := range all {
		if c.Slower {
			names = append(names, c.Command+" as "+c.Way)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("starts are more than 5 %% slower in at least %d repetitions: %s", slowerTimes, strings.Join(names, ", "))
}
