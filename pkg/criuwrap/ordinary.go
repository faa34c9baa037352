package criuwrap

// AnybodyMayDump is MayDump for a user who has no capabilities.
func AnybodyMayDump(path string) error {
	if fileCapabilities(path)&(capCheckpointRestore|capSysAdmin) == 0 {
		return noCapability(path)
	}
	return nil
}
