// Package fingerprint records what a process image depends on, and reports whether that
// has changed.
//
// The nouns. A Probe is one path that the dynamic linker looked at while the template
// started. A File is a file that the image maps, with the hash of its content. A Checked
// is a file that was looked at without being mapped, or that must not exist. A Directory
// is one in which files were looked for and not found: while its times are unchanged,
// they still do not exist. Dependencies are all of these, and what the image needs of
// the CPU and the kernel; they are part of the registry's record.
//
// The flow. FromProbes sorts the probes, Hash reads the files, Machine asks the kernel
// and the CPU, and Settle makes sure that any later change would be noticed. Record does
// all of this. Afterwards Stale compares what can be compared without reading files, and
// Verify reads them too.
//
// This package knows nothing of the registry, and nothing of plans but the table of
// CPUID answers, which has the plan's own format.
package fingerprint
