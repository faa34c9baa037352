package linux

// TSC returns the processor's time stamp counter, as the RDTSC instruction gives
// it. Two readings tell that a third value was taken between them.
func TSC() uint64
