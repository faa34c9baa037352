// Package warm knows the runtimes whose programs can be started from a warm image: how
// a template imports modules, waits at the point, and runs a user's program at each
// start.
package warm
