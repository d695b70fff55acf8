#compdef cipherfleet-node
# Completion of cipherfleet-node in zsh.
if (( CURRENT == 2 )); then
    compadd -- run keygen check-config show-state answer sense doctor health conformance --version --help
elif [[ $PREFIX == -* ]]; then
    case $words[2] in
    keygen) compadd -- --bits --replace --help ;;
    check-config | doctor) compadd -- --json --help ;;
    answer) compadd -- --follow --json --help ;;
    sense) compadd -- --once --show --every --json --help ;;
    show-state) compadd -- --estimate --json --help ;;
    conformance) compadd -- --command --speak --json --help ;;
    *) compadd -- --help ;;
    esac
else
    _files -/
fi
