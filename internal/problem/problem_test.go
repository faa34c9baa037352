package problem

import (
	"errors"
	"fmt"
	"io"
	"testing"
)

// typed is a problem on which a caller branches.
type typed struct {
	Problem
	more int
}

// produced is one that is no Problem and says which it is.
type produced struct{}

func (produced) Error() string       { return "odd" }
func (produced) AsProblem() *Problem { return &Problem{Kind: CRIU, Hint: "look"} }

func TestOf(t *testing.T) {
	store := Newf(Store, "open store /s: %w", io.EOF).WithHint("try %s", "again")
	refused := Newf(Refused, "it is odd")
	for _, tc := range []struct {
		name string
		err  error
		kind Kind
		hint string
	}{
		{"nil", nil, Other, ""},
		{"no problem", io.EOF, Other, ""},
		{"a problem", store, Store, "try again"},
		{"wrapped", fmt.Errorf("add: %w", store), Store, "try again"},
		{"embedded", fmt.Errorf("add: %w", &typed{*store, 1}), Store, "try again"},
		{"produced", fmt.Errorf("add: %w", produced{}), CRIU, "look"},
		{"the inner one is more particular", Newf(Store, "%w", refused).WithHint("no"), Refused, ""},
		{"the outer one is more particular", Newf(Program, "%w", store), Program, ""},
		{"only the inner one of a kind has a hint", Newf(Store, "%w", store), Store, "try again"},
		{"both of a kind have a hint", Newf(Store, "%w", store).WithHint("this"), Store, "this"},
		{"one of several", errors.Join(io.EOF, store, refused), Refused, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if kind, hint := KindOf(tc.err), HintOf(tc.err); kind != tc.kind || hint != tc.hint {
				t.Errorf("kind %d, hint %q; want %d, %q", kind, hint, tc.kind, tc.hint)
			}
		})
	}
}

// A line break of errors.Join must not get to a person, to whom it is no printable
// character.
func TestTextIsOneLine(t *testing.T) {
	a, b := errors.New("a"), errors.New("b")
	for _, tc := range []struct {
		err  error
		want string
	}{
		{a, "a"},
		{errors.Join(a, b), "a; b"},
		{errors.Join(a, errors.Join(b, a)), "a; b; a"},
		{errors.Join(a, b, a), "a; b"},
		{fmt.Errorf("add: %w", errors.Join(a, b)), "add: a; b"},
		{fmt.Errorf("add: %w, %w", a, errors.Join(a, b)), "add: a, a; b"},
		{Newf(Store, "open: %w", errors.Join(a, b)), "open: a; b"},
		{errors.New("a\nfile's name"), "a\nfile's name"},
	} {
		if got := Text(tc.err); got != tc.want {
			t.Errorf("%q, want %q", got, tc.want)
		}
	}
}

func TestProblemIsItsError(t *testing.T) {
	err := error(&typed{*Newf(Store, "open store /s: %w", io.EOF), 7})
	var as *typed
	if err.Error() != "open store /s: EOF" || !errors.Is(err, io.EOF) || !errors.As(err, &as) || as.more != 7 {
		t.Errorf("got %v", err)
	}
}

func TestHints(t *testing.T) {
	h := Hints{{io.ErrUnexpectedEOF, "more"}, {io.EOF, "again"}}
	if got := h.For(fmt.Errorf("read: %w", io.EOF)); got != "again" {
		t.Errorf("got %q", got)
	}
	if got := h.For(io.ErrClosedPipe); got != "" {
		t.Errorf("got %q", got)
	}
}
