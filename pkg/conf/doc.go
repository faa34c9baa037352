// Package conf reads resident.conf, which names the programs that are to be resident.
// It follows DragonFly BSD's resident.conf(5): one program, wildcard or directory a
// line.
//
//	# a comment
//	/usr/bin/perl layouts 4 enable
//	/usr/bin/git*
//	/usr/lib/git-core
//	!/usr/bin/git-shell
//
// A line consists of words that are separated by spaces and tabs. The first word is an
// absolute path:
//
//   - of a program, which need not exist yet;
//   - a wildcard as in glob(7), which stands for the programs that match it;
//   - of a directory, which stands for the programs in it, but not in directories
//     below it.
//
// A backslash makes the next character an ordinary one, as in "/opt/two\ words". A word
// that begins with # begins a comment. The other words are options: "layouts N",
// "enable", "system", "trust-owner", "memory-limit SIZE", "even-if-slower". If several
// lines name a program, the options of all of them apply, and the largest of several
// numbers.
//
// A line that begins with ! excludes programs, whatever the order of lines and files,
// and has no options.
package conf
