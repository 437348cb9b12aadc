"""Completion: a script for each shell, all of which ask one hidden command.

The command answers a line a word, `plain WORD HELP`, `file` or `dir`, with tabs between; that
is all the scripts know, so they need not change with the libraries.
"""
# click reads the escape in docstrings.
# ruff: noqa: D301

import click

_BASH = r"""# bash completion of xenops; `xenops completion bash` prints it.
_xenops() {
    local kind value help
    COMPREPLY=()
    while IFS=$'\t' read -r kind value help; do
        case $kind in
            plain)
                COMPREPLY+=("$value")
                [[ $value != *= ]] || compopt -o nospace
                ;;
            file) compopt -o default ;;
            dir) compopt -o dirnames ;;
        esac
    done < <("${COMP_WORDS[0]/#\~\//$HOME/}" _complete "$((COMP_CWORD - 1))" -- \
        "${COMP_WORDS[@]:1}" 2>/dev/null)
}
complete -F _xenops xenops
"""

_ZSH = r"""#compdef xenops
# zsh completion of xenops; `xenops completion zsh` prints it.
_xenops() {
    local kind value help
    local -a found
    while IFS=$'\t' read -r kind value help; do
        case $kind in
            plain) found+=("${value//:/\\:}${help:+:$help}") ;;
            file) _files; return ;;
            dir) _files -/; return ;;
        esac
    done < <("${words[1]/#\~\//$HOME/}" _complete "$((CURRENT - 2))" -- \
        "${(@)words[2,-1]}" 2>/dev/null)
    (( $#found )) && _describe -V xenops found
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _xenops "$@"
else
    compdef _xenops xenops
fi
"""

_FISH = r"""# fish completion of xenops; `xenops completion fish` prints it.
function __xenops_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l program (string replace -r '^~/' "$HOME/" -- $words[1])
    set -e words[1]
    for line in ($program _complete (count $words) -- $words "$current" 2>/dev/null)
        set -l parts (string split -m 2 \t -- $line)
        switch $parts[1]
            case plain
                string join \t -- $parts[2..-1]
            case file
                __fish_complete_path $current
            case dir
                __fish_complete_directories $current
        end
    end
end
complete -c xenops -f -a '(__xenops_complete)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


@click.command()
@click.argument("shell", type=click.Choice(tuple(SCRIPTS)))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    Packages install it; by hand, put it where the shell looks. It knows the names of VMs,
    devices and tasks, asks the daemon for 0.3 s at most, and offers nothing where that fails.

    \b
    Examples:
      xenops completion bash > ~/.local/share/bash-completion/completions/xenops
      xenops completion zsh > "${fpath[1]}/_xenops"
      xenops completion fish > ~/.config/fish/completions/xenops.fish
    """
    click.echo(SCRIPTS[shell], nl=False)


@click.command("_complete", hidden=True)
@click.argument("place", type=int)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def complete(ctx: click.Context, /, *, place: int, words: tuple[str, ...]) -> None:
    """Answer what may stand at a place of a command line."""
    from click.shell_completion import ShellComplete

    # bash takes `--output=json` apart into three words.
    before = [word for word in words[:place] if word != "="]
    begun = "".join(words[place : place + 1]).removeprefix("=")
    program = ctx.find_root().command
    for item in ShellComplete(program, {}, "xenops", "").get_completions(before, begun):
        about = " ".join((item.help or "").split())
        click.echo(f"{item.type}\t{item.value}\t{about}")


COMMANDS = (completion, complete)
