// Package problem holds the one type of error that says more than its text: what kind of
// trouble it is, and what can be done about it. A package makes one where it knows either.
// Callers that branch on an error use its sentinel or type instead.
package problem

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Kind is the class of a Problem: what it is about. The exit status follows from it.
type Kind int

// The kinds, from the least to the most particular. When a problem wraps another one, the
// more particular of the two counts.
const (
	Other       Kind = iota // it is for the error of the kernel that it wraps to say
	Store                   // the store or its registry
	CRIU                    // CRIU's own failure, which may be about one program only
	System                  // CRIU or the kernel lacks something that every program needs
	Refused                 // a program that runs well, and cannot have an image
	Untrusted               // a file that root does not execute, since another user may change it
	Program                 // a program that is unknown, has changed, or does not run without us either
	Output                  // the result cannot be written
	Usage                   // the command line
	Run                     // run and exec: residentctl itself
	CannotRun               // run and exec: the program was found but cannot be executed
	NotFound                // run and exec: there is no such program
	Interrupted             // the user ended it
)

// A Problem is an error with its kind and a hint.
type Problem struct {
	Kind Kind
	Err  error  // what was attempted, what it was about, and why it failed
	Hint string // what can be done about it, beginning with a verb; "" if nothing is known
}

// Newf makes a Problem without a hint. It takes what fmt.Errorf takes.
func Newf(kind Kind, format string, args ...any) *Problem {
	return &Problem{Kind: kind, Err: fmt.Errorf(format, args...)}
}

// Errorf is Newf for what is of no kind.
func Errorf(format string, args ...any) *Problem { return Newf(Other, format, args...) }

// Refusef is Newf for a program that runs well, and cannot have an image.
func Refusef(format string, args ...any) *Problem { return Newf(Refused, format, args...) }

// WithHint sets the hint of a new Problem.
func (p *Problem) WithHint(format string, args ...any) *Problem {
	p.Hint = fmt.Sprintf(format, args...)
	return p
}

func (p *Problem) Error() string { return p.Err.Error() }
func (p *Problem) Unwrap() error { return p.Err }

// AsProblem makes every type that embeds a Problem one for Of. A type that is a problem
// and embeds none has this method of its own, and only Kind and Hint of the result count.
func (p *Problem) AsProblem() *Problem { return p }

// Of returns the problem that counts of those that err is and wraps: one of the most
// particular kind, and of several the outermost that has a hint. It is nil if there is none.
func Of(err error) (counts *Problem) {
	if is, ok := err.(interface{ AsProblem() *Problem }); ok {
		counts = is.AsProblem()
	}
	switch wraps := err.(type) {
	case interface{ Unwrap() error }:
		counts = better(counts, Of(wraps.Unwrap()))
	case interface{ Unwrap() []error }:
		for _, wrapped := range wraps.Unwrap() {
			counts = better(counts, Of(wrapped))
		}
	}
	return counts
}

// better returns the one of two problems that counts. Either may be nil.
func better(outer, inner *Problem) *Problem {
	switch {
	case outer == nil:
		return inner
	case inner == nil, inner.Kind < outer.Kind, inner.Kind == outer.Kind && outer.Hint != "":
		return outer
	}
	return inner
}

// KindOf returns the kind of the problem that counts, Other if there is none.
func KindOf(err error) Kind {
	if p := Of(err); p != nil {
		return p.Kind
	}
	return Other
}

// HintOf returns the hint of the problem that counts, or "".
func HintOf(err error) string {
	if p := Of(err); p != nil {
		return p.Hint
	}
	return ""
}

// Text returns what an error says, in one line: errors that errors.Join has put into lines
// are separated by semicolons, and each is said once.
func Text(err error) string {
	switch wraps := err.(type) {
	case interface{ Unwrap() error }:
		return withText(err.Error(), wraps.Unwrap())
	case interface{ Unwrap() []error }:
		joined := wraps.Unwrap()
		if err.Error() != errors.Join(joined...).Error() {
			return withText(err.Error(), joined...)
		}
		var said []string
		for _, one := range joined {
			if text := Text(one); !slices.Contains(said, text) {
				said = append(said, text)
			}
		}
		return strings.Join(said, "; ")
	}
	return err.Error()
}

// withText is the text of an error with the Texts of those that it wraps.
func withText(text string, wrapped ...error) string {
	for _, inner := range wrapped {
		if inner != nil {
			text = strings.Replace(text, inner.Error(), Text(inner), 1)
		}
	}
	return text
}

// Hints say what can be done about errors of which others are made.
type Hints []struct {
	About error
	Hint  string
}

// For returns the hint of the first of the errors that err is or wraps, or "".
func (h Hints) For(err error) string {
	for _, one := range h {
		if errors.Is(err, one.About) {
			return one.Hint
		}
	}
	return ""
}
