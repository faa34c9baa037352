# bash completion for residentctl. Made from the command definitions in cmd/residentctl by
# "make generate".
# shellcheck shell=bash

# Sets kind and words, which say what a command's arguments are, and options.
_residentctl_command() {
    case $1 in
        add) kind=program words='' options='--follow --even-if-slower --trust-owner --layouts --memory-limit --jobs -j --warm --name --import --train --accept --store --format --help -h' ;;
        run) kind=command-line words='' options='--strict --explain --engine --store --help -h' ;;
        exec) kind=command-line words='' options='--strict --auto --after --quiet -q --no-background --store --help -h' ;;
        list) kind=resident words='' options='--library --quiet -q --check --store --format --help -h' ;;
        which) kind=resident words='' options='--follow --trust-owner --quiet -q --store --format --help -h' ;;
        apply) kind=file words='' options='--dry-run -n --store --format --help -h' ;;
        refresh) kind=resident words='' options='--all --changed --background --trust-owner --jobs -j --store --format --help -h' ;;
        remove) kind=resident words='' options='--all --store --format --help -h' ;;
        enable) kind=program words='' options='--shim --system --follow --even-if-slower --trust-owner --memory-limit --store --format --help -h' ;;
        disable) kind=resident words='' options='--shim --system --all --store --format --help -h' ;;
        status) kind=nothing words='' options='--check --store --format --help -h' ;;
        env) kind=word words='bash zsh sh dash ksh mksh fish csh tcsh bsd-csh' options='--store --help -h' ;;
        inspect) kind=resident words='' options='--store --format --help -h' ;;
        verify) kind=resident words='' options='--engine --trust-owner --jobs -j --store --format --help -h' ;;
        gc) kind=nothing words='' options='--dry-run --store --format --help -h' ;;
        purge) kind=nothing words='' options='--yes --store --format --help -h' ;;
        check) kind=nothing words='' options='--store --format --no-trial --help -h' ;;
        version) kind=nothing words='' options='--format --help -h' ;;
        help) kind=command words='' options='--help -h' ;;
        *) kind=command words='' options='--store --format --help -h --version -v' ;;
    esac
}

# Sets kind and words, which say what the value of a command's option is. Fails if it takes none.
_residentctl_value() {
    case "$1 $2" in
        ' --store') kind=directory words='' ;;
        ' --format') kind=word words='table json' ;;
        'add --layouts') kind=nothing words='' ;;
        'add --memory-limit') kind=nothing words='' ;;
        'add --jobs') kind=nothing words='' ;;
        'add -j') kind=nothing words='' ;;
        'add --name') kind=nothing words='' ;;
        'add --import') kind=nothing words='' ;;
        'add --train') kind=nothing words='' ;;
        'add --accept') kind=nothing words='' ;;
        'add --store') kind=directory words='' ;;
        'add --format') kind=word words='table json' ;;
        'run --engine') kind=word words='auto direct criu exec' ;;
        'run --store') kind=directory words='' ;;
        'exec --after') kind=nothing words='' ;;
        'exec --store') kind=directory words='' ;;
        'list --library') kind=file words='' ;;
        'list --store') kind=directory words='' ;;
        'list --format') kind=word words='table json' ;;
        'which --store') kind=directory words='' ;;
        'which --format') kind=word words='table json' ;;
        'apply --store') kind=directory words='' ;;
        'apply --format') kind=word words='table json' ;;
        'refresh --jobs') kind=nothing words='' ;;
        'refresh -j') kind=nothing words='' ;;
        'refresh --store') kind=directory words='' ;;
        'refresh --format') kind=word words='table json' ;;
        'remove --store') kind=directory words='' ;;
        'remove --format') kind=word words='table json' ;;
        'enable --memory-limit') kind=nothing words='' ;;
        'enable --store') kind=directory words='' ;;
        'enable --format') kind=word words='table json' ;;
        'disable --store') kind=directory words='' ;;
        'disable --format') kind=word words='table json' ;;
        'status --store') kind=directory words='' ;;
        'status --format') kind=word words='table json' ;;
        'env --store') kind=directory words='' ;;
        'inspect --store') kind=directory words='' ;;
        'inspect --format') kind=word words='table json' ;;
        'verify --engine') kind=word words='link criu' ;;
        'verify --jobs') kind=nothing words='' ;;
        'verify -j') kind=nothing words='' ;;
        'verify --store') kind=directory words='' ;;
        'verify --format') kind=word words='table json' ;;
        'gc --store') kind=directory words='' ;;
        'gc --format') kind=word words='table json' ;;
        'purge --store') kind=directory words='' ;;
        'purge --format') kind=word words='table json' ;;
        'check --store') kind=directory words='' ;;
        'check --format') kind=word words='table json' ;;
        'version --format') kind=word words='table json' ;;
        *) return 1 ;;
    esac
}

# Completes the command line that begins at a word as if it stood alone.
_residentctl_line() {
    if declare -F _comp_command_offset >/dev/null; then
        _comp_command_offset "$1"
    elif declare -F _command_offset >/dev/null; then
        _command_offset "$1"
    elif ((COMP_CWORD == $1)); then
        _residentctl_programs
    else
        compopt -o default
    fi
}

# Offers programs in PATH, or files.
_residentctl_programs() {
    compopt -o default
    [[ $cur == */* ]] || mapfile -t COMPREPLY < <(compgen -c -- "$cur")
}

# Offers the resident programs that a command lists, by path or by their file's name.
_residentctl_residents() {
    local program
    while IFS= read -r program; do
        [[ $cur == */* ]] || program=${program##*/}
        [[ $program != "$cur"* ]] || COMPREPLY+=("$(printf %q "$program")")
    done < <("$@" list --format json 2>/dev/null | sed -n 's/^    "program": "\(.*\)",*$/\1/p')
}

_residentctl() {
    local cur=${COMP_WORDS[COMP_CWORD]} command='' option='' ended='' i word kind words options
    local -a store=()
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $option ]]; then
            [[ $word != = ]] || continue # in --option=value, as COMP_WORDBREAKS splits it
            [[ $option != --store ]] || store=(--store "$word")
            option=''
        elif [[ $word == -- ]]; then
            ended=yes
        elif [[ $word == -* && ! $ended ]]; then
            ! _residentctl_value "$command" "$word" || option=$word
        elif [[ ! $command ]]; then
            command=$word
        else
            _residentctl_command "$command"
            [[ $kind != command-line ]] || { _residentctl_line "$i" && return; }
        fi
    done
    [[ $cur != = ]] || cur=''
    _residentctl_command "$command"
    if [[ $option ]]; then
        _residentctl_value "$command" "$option"
    elif [[ $cur == -* && ! $ended ]]; then
        kind=word words=$options
    fi
    case $kind in
        word) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur") ;;
        command) mapfile -t COMPREPLY < <(compgen -W 'add run exec list which apply refresh remove enable disable status env inspect verify gc purge check version help' -- "$cur") ;;
        command-line) _residentctl_line "$COMP_CWORD" ;;
        resident) _residentctl_residents "$1" "${store[@]}" ;;
        program) _residentctl_programs ;;
        file) compopt -o default ;;
        directory) compopt -o dirnames ;;
    esac
}

complete -F _residentctl residentctl
