// Package conf reads resident.conf, which names the programs that are to be resident.
// It is in the spirit of DragonFly BSD's resident.conf(5): one program, wildcard or
// directory a line.
//
//	# a comment
//	/usr/bin/perl layouts 4 enable
//	/usr/bin/git*
//	/usr/lib/git-core
//	!/usr/bin/git-shell
//
// A line has words, which spaces and tabs separate. The first is an absolute path:
//
//   - of a program. It need not be there yet;
//   - a wildcard as in glob(7), which stands for the programs that are there;
//   - of a directory, which stands for the programs in it, not for those in directories
//     below it.
//
// A backslash makes the character after it an ordinary one, as in "/opt/two\ words". A word
// that begins with # begins a comment. The further words are options: "layouts N",
// "enable", "system", "trust-owner", "memory-limit SIZE", "even-if-slower". The options of all
// lines that name a program count together, and of numbers the largest.
//
// A line that begins with ! takes programs out again, whatever the order of lines and files,
// and has no options.
package conf
