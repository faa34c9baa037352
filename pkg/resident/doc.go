// Package resident holds the verbs: make a program resident, list, remove. Each is one
// straight list of steps over the packages that know how to do a step (linkstop,
// criuwrap, plan, launcher, fingerprint, registry, store).
package resident
