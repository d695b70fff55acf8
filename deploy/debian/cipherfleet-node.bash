# Completion of cipherfleet-node in bash.
_cipherfleet_node() {
    local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} words
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="run keygen check-config show-state answer sense doctor health conformance --version --help"
    elif [[ $word == -* ]]; then
        case $command in
        keygen) words="--bits --replace --help" ;;
        check-config | doctor) words="--json --help" ;;
        answer) words="--follow --json --help" ;;
        sense) words="--once --show --every --json --help" ;;
        show-state) words="--estimate --json --help" ;;
        conformance) words="--command --speak --json --help" ;;
        *) words="--help" ;;
        esac
    else
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -d -- "$word")
        return
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}
complete -F _cipherfleet_node cipherfleet-node
