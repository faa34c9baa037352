// Package fingerprint says what a process image depends on and whether that is
// still true.
//
// The nouns. A Probe is one path that the dynamic linker looked at while the
// template started. A File is a file that the image maps, with its content's
// hash. A Checked is a file that was looked at without being mapped, or that
// must not exist. A Directory is one in which files were looked for in vain: while
// its times are unchanged they are still not there. Dependencies are all of
// them, and what the image needs of the CPU and the kernel; they stand in the
// registry's record.
//
// The flow. FromProbes sorts the probes, Hash reads the files, Machine asks
// the kernel and the CPU, Settle makes sure that a change from now on would be
// noticed; Record does all of this. Afterwards Stale compares what can be
// compared without reading files, and Verify reads them too.
//
// Nothing here knows of plans beyond the table of CPUID answers, which has the
// plan's own format, or of the registry.
package fingerprint
