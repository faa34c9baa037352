# fish completion for residentctl. Made from the command definitions in cmd/residentctl by
# "make generate".

# Prints the command, if it is complete, and the further words of the line from the first
# argument on. Fails where options have ended.
function __residentctl_words
    set -l tokens (commandline -opc)
    set -l command
    set -l value
    set -l ended
    for i in (seq 2 (count $tokens))
        set -l word $tokens[$i]
        if test -n "$value"
            set value
        else if test -z "$ended"; and string match -q -- '-*' $word
            if test "$word" = --
                set ended yes
            else if contains -- "$command $word" ' --store' ' --format' 'add --layouts' 'add --memory-limit' 'add --jobs' 'add -j' 'add --name' 'add --import' 'add --train' 'add --accept' 'add --store' 'add --format' 'run --engine' 'run --store' 'exec --after' 'exec --store' 'list --library' 'list --store' 'list --format' 'which --store' 'which --format' 'apply --store' 'apply --format' 'refresh --jobs' 'refresh -j' 'refresh --store' 'refresh --format' 'remove --store' 'remove --format' 'enable --memory-limit' 'enable --store' 'enable --format' 'disable --store' 'disable --format' 'status --store' 'status --format' 'env --store' 'inspect --store' 'inspect --format' 'verify --engine' 'verify --jobs' 'verify -j' 'verify --store' 'verify --format' 'gc --store' 'gc --format' 'purge --store' 'purge --format' 'check --store' 'check --format' 'version --format'
                set value yes
            end
        else if test -z "$command"
            set command $word
        else
            printf '%s\n' $command $tokens[$i..]
            return 0
        end
    end
    test -z "$command"; or echo $command
    test -z "$ended"
end

# Reports whether options of one of these commands may follow; "" is before any command.
function __residentctl_options_of
    set -l words (__residentctl_words); or return 1
    contains -- "$words[1]" $argv; or return 1
    test (count $words) -le 1; or not contains -- $words[1] run exec
end

# Reports whether arguments of one of these commands may follow.
function __residentctl_arguments_of
    set -l words (__residentctl_words)
    contains -- "$words[1]" $argv
end

# Completes the command line after run or exec as if it stood alone.
function __residentctl_line
    set -l words (__residentctl_words)
    set -l line (string escape -- $words[2..]) (commandline -ct)
    complete -C "$line"
end

# Prints the resident programs, by path or by their file's name.
function __residentctl_residents
    set -l tokens (commandline -opc)
    set -l store
    if set -l i (contains -i -- --store $tokens); and set -q tokens[(math $i + 1)]
        set store --store $tokens[(math $i + 1)]
    end
    set -l programs ($tokens[1] $store list --format json 2>/dev/null |
        string replace -rf '^    "program": "(.*)",*$' '$1')
    string match -q -- '*/*' (commandline -ct); or set programs (string replace -r '.*/' '' -- $programs)
    test (count $programs) -eq 0; or printf '%s\n' $programs
end

complete -c residentctl -f
complete -c residentctl -n '__residentctl_arguments_of "" help' -a add -d 'make programs resident'
complete -c residentctl -n '__residentctl_arguments_of "" help' -a run -d 'run a program, from its image if it is resident'
complete -c residentctl -n '__residentctl_arguments_of "" help' -a exec -d 'run a command; whatever it executes starts from its image if it is resident'
complete -c residentctl -n '__residentctl_arguments_of "" help' -a list -d 'show the resident programs'
complete -c residentctl -n '__residentctl_arguments_of "" help' -a which -d 'print the launcher file of a program, the fastest way to start it'
complete -c residentctl -n '__residentctl_arguments_of "" help' -a apply -d 'make resident what resident.conf names'
complete -c residentctl -n '__residentctl_arguments_of "" help' -a refresh -d 'make stale and missing images again'
complete -c residentctl -n '__residentctl_arguments_of "" help' -a remove -d 'make programs no longer resident'
complete -c residentctl -n '__residentctl_arguments_of "" help' -a enable -d 'make programs start from their images when they are called'
complete -c residentctl -n '__residentctl_arguments_of "" help' -a disable -d 'undo enable'
complete -c residentctl -n '__residentctl_arguments_of "" help' -a status -d 'show which programs are enabled, and what a call of each does'
complete -c residentctl -n '__residentctl_arguments_of "" help' -a env -d 'print the line that puts the shims first in PATH'
complete -c residentctl -n '__residentctl_arguments_of "" help' -a inspect -d 'show everything about one resident program'
complete -c residentctl -n '__residentctl_arguments_of "" help' -a verify -d 'compare images with freshly linked programs'
complete -c residentctl -n '__residentctl_arguments_of "" help' -a gc -d 'remove images and leftovers that no start uses'
complete -c residentctl -n '__residentctl_arguments_of "" help' -a purge -d 'remove a whole store'
complete -c residentctl -n '__residentctl_arguments_of "" help' -a check -d 'examine the machine and the store, and say what to do'
complete -c residentctl -n '__residentctl_arguments_of "" help' -a version -d 'show the versions of residentctl, CRIU and the kernel'
complete -c residentctl -n '__residentctl_arguments_of "" help' -a help -d 'show help for residentctl or for one command'
complete -c residentctl -n '__residentctl_options_of ""' -l store -x -a '(__fish_complete_directories)' -d 'work on the store in DIR'
complete -c residentctl -n '__residentctl_options_of ""' -l format -x -a 'table json' -d 'print results as table|json'
complete -c residentctl -n '__residentctl_options_of ""' -l help -s h -d 'show help'
complete -c residentctl -n '__residentctl_options_of ""' -l version -s v -d 'print the version'
complete -c residentctl -n '__residentctl_options_of "add"' -l follow -d 'make resident the program that a wrapper or script executes'
complete -c residentctl -n '__residentctl_options_of "add"' -l even-if-slower -d 'make it resident even if it does not start faster'
complete -c residentctl -n '__residentctl_options_of "add"' -l trust-owner -d 'as root, also execute files that other users own or can change'
complete -c residentctl -n '__residentctl_options_of "add"' -l layouts -x -d 'make N images at different addresses, of which each start picks one at random (at most 64)'
complete -c residentctl -n '__residentctl_options_of "add"' -l memory-limit -x -d 'refuse a program if linking it takes more than SIZE (512M, 2G) of its own memory, or if its image is larger'
complete -c residentctl -n '__residentctl_options_of "add"' -l jobs -s j -x -d 'work on N programs at a time'
complete -c residentctl -n '__residentctl_options_of "add"' -l warm -d 'take the image after the program\'s own start-up: of a python script, or of a program that calls residentctl_point'
complete -c residentctl -n '__residentctl_options_of "add"' -l name -x -d 'with --warm: make the interpreter PROGRAM resident as the new program python3-NAME'
complete -c residentctl -n '__residentctl_options_of "add"' -l import -x -d 'with --name: import these MODULES (comma-separated; may be repeated)'
complete -c residentctl -n '__residentctl_options_of "add"' -l train -x -d 'with --warm: run the script with these ARGUMENTS, to learn what it imports (may be repeated)'
complete -c residentctl -n '__residentctl_options_of "add"' -l accept -x -d 'with --warm: make the image although the program does WHAT when it starts: exec, write, network, cwd, environ, output, random, terminal (may be repeated)'
complete -c residentctl -n '__residentctl_options_of "add"' -l store -x -a '(__fish_complete_directories)' -d 'work on the store in DIR'
complete -c residentctl -n '__residentctl_options_of "add"' -l format -x -a 'table json' -d 'print results as table|json'
complete -c residentctl -n '__residentctl_options_of "add"' -l help -s h -d 'show help'
complete -c residentctl -n '__residentctl_arguments_of add' -F -a '(__fish_complete_command)'
complete -c residentctl -n '__residentctl_options_of "run"' -l strict -d 'fail with status 125 and the reason instead of executing the program normally'
complete -c residentctl -n '__residentctl_options_of "run"' -l explain -d 'print on standard error how the program was started and why, as RESIDENTCTL_EXPLAIN=1 does'
complete -c residentctl -n '__residentctl_options_of "run"' -l engine -x -a 'auto direct criu exec' -d 'choose how to start it: auto|direct|criu|exec'
complete -c residentctl -n '__residentctl_options_of "run"' -l store -x -a '(__fish_complete_directories)' -d 'work on the store in DIR'
complete -c residentctl -n '__residentctl_options_of "run"' -l help -s h -d 'show help'
complete -c residentctl -n '__residentctl_arguments_of run' -x -a '(__residentctl_line)'
complete -c residentctl -n '__residentctl_options_of "exec"' -l strict -d 'fail with status 125 and the reason instead of executing the command normally'
complete -c residentctl -n '__residentctl_options_of "exec"' -l auto -d 'make resident what the command executes often'
complete -c residentctl -n '__residentctl_options_of "exec"' -l after -x -d 'with --auto: make a program resident after N normal starts'
complete -c residentctl -n '__residentctl_options_of "exec"' -l quiet -s q -d 'do not print what differs in a user namespace, nor the lines of --auto at the end'
complete -c residentctl -n '__residentctl_options_of "exec"' -l no-background -d 'with --auto: make nothing resident after the command has ended'
complete -c residentctl -n '__residentctl_options_of "exec"' -l store -x -a '(__fish_complete_directories)' -d 'work on the store in DIR'
complete -c residentctl -n '__residentctl_options_of "exec"' -l help -s h -d 'show help'
complete -c residentctl -n '__residentctl_arguments_of exec' -x -a '(__residentctl_line)'
complete -c residentctl -n '__residentctl_options_of "list"' -l library -r -F -d 'show only programs that use the library PATH; a name without a slash is a file name'
complete -c residentctl -n '__residentctl_options_of "list"' -l quiet -s q -d 'print only the ids of images'
complete -c residentctl -n '__residentctl_options_of "list"' -l check -d 'exit with status 1 if a program has no current image'
complete -c residentctl -n '__residentctl_options_of "list"' -l store -x -a '(__fish_complete_directories)' -d 'work on the store in DIR'
complete -c residentctl -n '__residentctl_options_of "list"' -l format -x -a 'table json' -d 'print results as table|json'
complete -c residentctl -n '__residentctl_options_of "list"' -l help -s h -d 'show help'
complete -c residentctl -n '__residentctl_arguments_of list' -a '(__residentctl_residents)'
complete -c residentctl -n '__residentctl_options_of "which"' -l follow -d 'print the launcher file of the program that a wrapper or script executes'
complete -c residentctl -n '__residentctl_options_of "which"' -l trust-owner -d 'as root, also execute files that other users own or can change'
complete -c residentctl -n '__residentctl_options_of "which"' -l quiet -s q -d 'do not print what a call does'
complete -c residentctl -n '__residentctl_options_of "which"' -l store -x -a '(__fish_complete_directories)' -d 'work on the store in DIR'
complete -c residentctl -n '__residentctl_options_of "which"' -l format -x -a 'table json' -d 'print results as table|json'
complete -c residentctl -n '__residentctl_options_of "which"' -l help -s h -d 'show help'
complete -c residentctl -n '__residentctl_arguments_of which' -a '(__residentctl_residents)'
complete -c residentctl -n '__residentctl_options_of "apply"' -l dry-run -s n -d 'only show what would be done'
complete -c residentctl -n '__residentctl_options_of "apply"' -l store -x -a '(__fish_complete_directories)' -d 'work on the store in DIR'
complete -c residentctl -n '__residentctl_options_of "apply"' -l format -x -a 'table json' -d 'print results as table|json'
complete -c residentctl -n '__residentctl_options_of "apply"' -l help -s h -d 'show help'
complete -c residentctl -n '__residentctl_arguments_of apply' -F
complete -c residentctl -n '__residentctl_options_of "refresh"' -l all -d 'also make current images again'
complete -c residentctl -n '__residentctl_options_of "refresh"' -l changed -d 'only programs that use the files PATH…, given as arguments'
complete -c residentctl -n '__residentctl_options_of "refresh"' -l background -d 'use idle time only (SCHED_IDLE, and the idle class of ionice)'
complete -c residentctl -n '__residentctl_options_of "refresh"' -l trust-owner -d 'as root, also execute files that other users own or can change'
complete -c residentctl -n '__residentctl_options_of "refresh"' -l jobs -s j -x -d 'work on N programs at a time'
complete -c residentctl -n '__residentctl_options_of "refresh"' -l store -x -a '(__fish_complete_directories)' -d 'work on the store in DIR'
complete -c residentctl -n '__residentctl_options_of "refresh"' -l format -x -a 'table json' -d 'print results as table|json'
complete -c residentctl -n '__residentctl_options_of "refresh"' -l help -s h -d 'show help'
complete -c residentctl -n '__residentctl_arguments_of refresh' -a '(__residentctl_residents)'
complete -c residentctl -n '__residentctl_options_of "remove"' -l all -d 'remove every program in the store'
complete -c residentctl -n '__residentctl_options_of "remove"' -l store -x -a '(__fish_complete_directories)' -d 'work on the store in DIR'
complete -c residentctl -n '__residentctl_options_of "remove"' -l format -x -a 'table json' -d 'print results as table|json'
complete -c residentctl -n '__residentctl_options_of "remove"' -l help -s h -d 'show help'
complete -c residentctl -n '__residentctl_arguments_of remove' -a '(__residentctl_residents)'
complete -c residentctl -n '__residentctl_options_of "enable"' -l shim -d 'use a link in a directory of PATH (the default)'
complete -c residentctl -n '__residentctl_options_of "enable"' -l system -d 'for the whole system, with binfmt_misc (root only)'
complete -c residentctl -n '__residentctl_options_of "enable"' -l follow -d 'enable the program that a wrapper or script executes'
complete -c residentctl -n '__residentctl_options_of "enable"' -l even-if-slower -d 'make it resident even if it does not start faster'
complete -c residentctl -n '__residentctl_options_of "enable"' -l trust-owner -d 'as root, also execute files that other users own or can change'
complete -c residentctl -n '__residentctl_options_of "enable"' -l memory-limit -x -d 'refuse a program if linking it takes more than SIZE (512M, 2G) of its own memory, or if its image is larger'
complete -c residentctl -n '__residentctl_options_of "enable"' -l store -x -a '(__fish_complete_directories)' -d 'work on the store in DIR'
complete -c residentctl -n '__residentctl_options_of "enable"' -l format -x -a 'table json' -d 'print results as table|json'
complete -c residentctl -n '__residentctl_options_of "enable"' -l help -s h -d 'show help'
complete -c residentctl -n '__residentctl_arguments_of enable' -F -a '(__fish_complete_command)'
complete -c residentctl -n '__residentctl_options_of "disable"' -l shim -d 'remove only the link in the directory for PATH'
complete -c residentctl -n '__residentctl_options_of "disable"' -l system -d 'remove only the registration for the whole system'
complete -c residentctl -n '__residentctl_options_of "disable"' -l all -d 'disable every program in the store'
complete -c residentctl -n '__residentctl_options_of "disable"' -l store -x -a '(__fish_complete_directories)' -d 'work on the store in DIR'
complete -c residentctl -n '__residentctl_options_of "disable"' -l format -x -a 'table json' -d 'print results as table|json'
complete -c residentctl -n '__residentctl_options_of "disable"' -l help -s h -d 'show help'
complete -c residentctl -n '__residentctl_arguments_of disable' -a '(__residentctl_residents)'
complete -c residentctl -n '__residentctl_options_of "status"' -l check -d 'exit with status 1 if an enabled program does not start from a current image'
complete -c residentctl -n '__residentctl_options_of "status"' -l store -x -a '(__fish_complete_directories)' -d 'work on the store in DIR'
complete -c residentctl -n '__residentctl_options_of "status"' -l format -x -a 'table json' -d 'print results as table|json'
complete -c residentctl -n '__residentctl_options_of "status"' -l help -s h -d 'show help'
complete -c residentctl -n '__residentctl_options_of "env"' -l store -x -a '(__fish_complete_directories)' -d 'work on the store in DIR'
complete -c residentctl -n '__residentctl_options_of "env"' -l help -s h -d 'show help'
complete -c residentctl -n '__residentctl_arguments_of env' -a 'bash zsh sh dash ksh mksh fish csh tcsh bsd-csh'
complete -c residentctl -n '__residentctl_options_of "inspect"' -l store -x -a '(__fish_complete_directories)' -d 'work on the store in DIR'
complete -c residentctl -n '__residentctl_options_of "inspect"' -l format -x -a 'table json' -d 'print results as table|json'
complete -c residentctl -n '__residentctl_options_of "inspect"' -l help -s h -d 'show help'
complete -c residentctl -n '__residentctl_arguments_of inspect' -a '(__residentctl_residents)'
complete -c residentctl -n '__residentctl_options_of "verify"' -l engine -x -a 'link criu' -d 'compare with link|criu: the program linked again, or restored by CRIU'
complete -c residentctl -n '__residentctl_options_of "verify"' -l trust-owner -d 'as root, also execute files that other users own or can change'
complete -c residentctl -n '__residentctl_options_of "verify"' -l jobs -s j -x -d 'work on N programs at a time'
complete -c residentctl -n '__residentctl_options_of "verify"' -l store -x -a '(__fish_complete_directories)' -d 'work on the store in DIR'
complete -c residentctl -n '__residentctl_options_of "verify"' -l format -x -a 'table json' -d 'print results as table|json'
complete -c residentctl -n '__residentctl_options_of "verify"' -l help -s h -d 'show help'
complete -c residentctl -n '__residentctl_arguments_of verify' -a '(__residentctl_residents)'
complete -c residentctl -n '__residentctl_options_of "gc"' -l dry-run -d 'show what would be removed, and remove nothing'
complete -c residentctl -n '__residentctl_options_of "gc"' -l store -x -a '(__fish_complete_directories)' -d 'work on the store in DIR'
complete -c residentctl -n '__residentctl_options_of "gc"' -l format -x -a 'table json' -d 'print results as table|json'
complete -c residentctl -n '__residentctl_options_of "gc"' -l help -s h -d 'show help'
complete -c residentctl -n '__residentctl_options_of "purge"' -l yes -d 'do not ask'
complete -c residentctl -n '__residentctl_options_of "purge"' -l store -x -a '(__fish_complete_directories)' -d 'work on the store in DIR'
complete -c residentctl -n '__residentctl_options_of "purge"' -l format -x -a 'table json' -d 'print results as table|json'
complete -c residentctl -n '__residentctl_options_of "purge"' -l help -s h -d 'show help'
complete -c residentctl -n '__residentctl_options_of "check"' -l store -x -a '(__fish_complete_directories)' -d 'work on the store in DIR'
complete -c residentctl -n '__residentctl_options_of "check"' -l format -x -a 'table json' -d 'print results as table|json'
complete -c residentctl -n '__residentctl_options_of "check"' -l no-trial -d 'look at the store only, and do not try out the machine'
complete -c residentctl -n '__residentctl_options_of "check"' -l help -s h -d 'show help'
complete -c residentctl -n '__residentctl_options_of "version"' -l format -x -a 'table json' -d 'print results as table|json'
complete -c residentctl -n '__residentctl_options_of "version"' -l help -s h -d 'show help'
complete -c residentctl -n '__residentctl_options_of "help"' -l help -s h -d 'show help'
