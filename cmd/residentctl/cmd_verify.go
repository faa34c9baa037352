package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/residentctl/residentctl/internal/ordered"
	"github.com/residentctl/residentctl/pkg/resident"
)

func newVerifyCommand(g *globals) *cli.Command {
	reference := referenceText(resident.ReferenceLink)
	trust, jobs := false, 0
	return &cli.Command{
		Name:      "verify",
		Before:    outside,
		Usage:     "compare images with freshly linked programs",
		ArgsUsage: "[ID|PROGRAM…]",
		Description: `Checks each image in three steps:
 - it hashes every file that the image depends on
 - it makes the plan again, from the record, CRIU's files and this machine, and checks
   that the stored plan asks for and does the same
 - it starts the program from its image up to its first instruction, and compares its
   memory, word by word, with that of the same program linked again
Every word that differs must be of a known kind. Without arguments, every program in
the store is verified. Like add, verify executes parts of the program, for root by the
same rule.

A warm image is of a start-up that does not give the same memory twice, so it is
compared with CRIU's files.

With --engine criu, CRIU restores the image too, and the two processes are compared:
registers, mappings and memory. This needs root or the capabilities that CRIU
requires, and the process id of the dumped process must be free.`,
		Flags: []cli.Flag{
			&cli.GenericFlag{Name: "engine", Value: &reference, DefaultText: string(resident.ReferenceLink),
				Usage: "compare with `link|criu`: the program linked again, or restored by CRIU"},
			trustOwnerFlag(&trust), jobsFlag(&jobs),
			g.storeFlag(), g.formatFlag(),
		},
		CustomHelpTemplate: cli.CommandHelpTemplate +
			exitStatusPart(exitDone, exitFailed, exitUsage, exitStore, exitSystem, exitInterrupted),
		Action: func(c *cli.Context) error {
			queries, err := arguments(c)
			if err != nil {
				return err
			}
			if err := checkJobs("verify", jobs); err != nil {
				return err
			}
			if jobs > 1 && resident.Reference(reference) == resident.ReferenceCRIU {
				return usagef("verify", "--engine criu and --jobs exclude each other: a restored process could take the id that the next one needs")
			}
			stores, err := g.entryStores()
			if err != nil {
				return err
			}
			ctx, stop := interruptible(c)
			defer stop()
			return runVerify(ctx, g, stores, queries, resident.Reference(reference), trust, jobs)
		},
	}
}

// referenceText is the value of --engine.
type referenceText resident.Reference

func (r *referenceText) String() string { return string(*r) }

// Set is called by the flag parser.
func (r *referenceText) Set(s string) error {
	switch resident.Reference(s) {
	case resident.ReferenceLink, resident.ReferenceCRIU:
		*r = referenceText(s)
		return nil
	}
	return fmt.Errorf("must be %s or %s", resident.ReferenceLink, resident.ReferenceCRIU)
}

// verifyResult is what became of one entry: it was verified, with whatever
// outcome, or could not be.
type verifyResult struct {
	*resident.Verified
	Failure *report `json:"failure,omitempty"`
}

// runVerify verifies entries, so many jobs at a time. It goes on after one that is not as
// it should be. With trust the owners of all are trusted.
func runVerify(ctx context.Context, g *globals, stores []entryStore, queries []string, ref resident.Reference, trust bool, jobs int) error {
	records, missed, err := locate(g, stores, queries)
	if err != nil {
		missed.rest = nil // err says it
	}
	if err != nil || len(queries) > 0 {
		missed.warn(g)
	}
	if err != nil {
		return err
	}
	if len(records) == 0 && g.format == formatTable {
		g.printf("%s\n", nothingResident(dirsOf(stores)...))
	}
	results := make([]verifyResult, len(records))
	errs := make([]error, len(records))
	var failures []*report
	var fatal error // told at the end, by exit.go
	shown := g.newProgress()
	isFatal := func(err error) bool { return err != nil && (len(records) == 1 || hopeless(err)) }
	begun := ordered.Do(jobs, len(records), func(i int) (goOn bool) {
		rec := records[i]
		shown.step(rec.Program, i+1, len(records), "verify")
		rec.TrustOwner = rec.TrustOwner || trust
		results[i], errs[i] = verifyOne(ctx, rec, ref, len(stores) > 1)
		return !isFatal(errs[i])
	}, func(i int) {
		if isFatal(errs[i]) {
			fatal = cmp.Or(fatal, fmt.Errorf("%s: %w", records[i].Program, errs[i]))
			return
		}
		if results[i].Failure != nil {
			failures = append(failures, results[i].Failure)
		}
		shown.aside(func() { printVerified(g, results[i]) })
	})
	shown.aside(func() {})
	if g.format == formatJSON {
		if err := g.printJSON(results[:begun]); err != nil {
			return err
		}
	}
	if fatal == nil && len(queries) == 0 {
		return missed.end(g, failures, len(records))
	}
	return ended(fatal, failures, len(records))
}

// verifyOne verifies one entry; with several stores a failure names its own.
func verifyOne(ctx context.Context, rec located, ref resident.Reference, several bool) (verifyResult, error) {
	v, err := rec.store.Verify(ctx, rec.Record, ref)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	r := verifyResult{Verified: v}
	switch {
	case err != nil:
		r.Verified = &resident.Verified{ID: rec.ID, Program: rec.Program, Reference: ref}
		r.Failure = newReport(fmt.Errorf("%s: %w", rec.Program, err))
	case !v.OK:
		where := ""
		if several {
			where = " in " + rec.store.Dir()
		}
		r.Failure = &report{Error: fmt.Sprintf("%s: not verified%s: %s", rec.Program, where, strings.Join(v.Failures, "; ")),
			Hint: fmt.Sprintf("run `residentctl refresh` if it is stale; otherwise run `residentctl remove %s` and add it again", shortID(rec.ID)), Code: exitFailed}
	}
	return r, err
}

// printVerified reports on one entry as soon as its outcome is known.
func printVerified(g *globals, r verifyResult) {
	if g.format == formatJSON {
		return
	}
	if r.Failure != nil {
		r.Failure.print(g.err, g.format)
		return
	}
	with := "a fresh link"
	switch {
	case r.Reference == resident.ReferenceCRIU:
		with = "CRIU's restore"
	case r.Warm:
		with = "CRIU's files"
	}
	g.printf("%s: the same as %s (id %s, %s hashed, %s compared)\n", printable(r.Program), with, shortID(r.ID),
		count(r.Files, "file"), count(r.Pages, "page"))
	for _, d := range r.Differences {
		if !d.Fixup {
			g.printf("  %s: %s\n", count(d.Words, "word"), d.Class)
		}
	}
}
