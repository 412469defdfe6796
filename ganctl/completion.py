"""Shell completion: the scripts for bash, zsh and fish, the words before the cursor, and the command `completion`.

A script asks `ganctl` for completions, through click. Unlike click's own scripts, these complete values after `=`
(`--set train.seed=`, `--preset=quick`, `NAME=SOURCE`), names and paths together, and values with spaces. A line of the
answer is `TYPE,VALUE`: `plain`, `part` (more will follow: no space after it), or `file` and `dir`, for which the shell
completes the path after VALUE, a prefix.
"""

import os
from pathlib import PurePath

import click
from click.shell_completion import (
    CompletionItem,
    ShellComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

VARIABLE = "_GANCTL_COMPLETE"
_CURSOR = "\x01"  # stands at the cursor while a line is split
_PATHS = ("file", "dir")

_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' type value quoted paths= command=${1/#\\~\\//"$HOME"/}
    local -a found
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            file|dir) paths=$type; continue ;;
            part) compopt -o nospace ;;
        esac
        COMPREPLY+=("$value")
    done < <(COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORD="$2" %(complete_var)s=bash_complete "$command" 2>/dev/null)
    if [[ $paths && ${#COMPREPLY[@]} -gt 0 ]]; then
        mapfile -t found < <(compgen -f -- "$2")
        COMPREPLY+=("${found[@]}")
        compopt -o filenames
    elif [[ $paths == file ]]; then
        compopt -o default
    elif [[ $paths == dir ]]; then
        compopt -o dirnames
    else
        for type in "${!COMPREPLY[@]}"; do
            printf -v quoted %%q "${COMPREPLY[type]}"
            COMPREPLY[type]=$quoted
        done
    fi
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_ZSH = """\
#compdef %(prog_name)s
%(complete_func)s() {
    local -a plain part described response
    local -x COMP_LINE
    local type value help paths prefix
    COMP_LINE="${(j: :)words[1,CURRENT-1]} $QIPREFIX$PREFIX"
    response=("${(@f)$(%(complete_var)s=zsh_complete ${~words[1]} 2>/dev/null)}")
    for type value help in $response; do
        case $type in
            file|dir) paths=$type prefix=$value ;;
            part) part+=("$value") ;;
            plain) if [[ $help == _ ]]; then plain+=("$value"); else described+=("${value//:/\\\\:}:$help"); fi ;;
        esac
    done
    (( $#described )) && _describe -V unsorted described -U
    (( $#plain )) && compadd -U -V unsorted -a plain
    (( $#part )) && compadd -U -V unsorted -S '' -a part
    [[ -n $prefix ]] && compset -P "${(b)prefix}"
    case $paths in
        file) _files ;;
        dir) _files -/ ;;
    esac
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

_FISH = """\
function %(complete_func)s
    set -l command (string replace -r '^~(?=/)' -- $HOME (commandline -opc)[1])
    set -l line (commandline -cp | string collect)
    for item in (COMP_LINE=$line %(complete_var)s=fish_complete $command 2>/dev/null)
        set -l fields (string split -m 1 , -- $item)
        switch $fields[1]
            case file dir
                set -l prefix (string split -m 1 \\t -- $fields[2])
                set -l path (string replace -r '^~/' -- $HOME/ $prefix[2])
                for found in (__fish_complete_path $path)
                    if test "$path" != "$prefix[2]"
                        set found (string replace -- $HOME/ '~/' $found)
                    end
                    echo $prefix[1]$found
                end
            case '*'
                echo $fields[2]
        end
    end
end
complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


class _Complete(ShellComplete):
    """Reads the line up to the cursor, and answers with whole words."""

    def get_completion_args(self) -> tuple[list[str], str]:
        words = split_arg_string(os.environ.get("COMP_LINE", "") + _CURSOR)
        return words[1:-1], words[-1].removesuffix(_CURSOR)

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        """Returns completions with the whole word as value; of a path, the part of the word before it."""
        items = super().get_completions(args, incomplete)
        flag, equals, _ = incomplete.partition("=")
        option = flag + equals if equals and flag.startswith("-") else ""
        return [
            CompletionItem(option + self._value(item, incomplete.removeprefix(option)), item.type, item.help)
            for item in items
        ]

    def _value(self, item: CompletionItem[str], word: str) -> str:
        return word.removesuffix(item.value) if item.type in _PATHS else item.value

    def format_completion(self, item: CompletionItem[str]) -> str:
        return f"{item.type},{item.value}"


class BashComplete(_Complete):
    """Bash splits words at `=` and `:` as well; it gets the rest of a word after them."""

    name = "bash"
    source_template = _BASH

    def format_completion(self, item: CompletionItem[str]) -> str:
        *_, word = split_arg_string(os.environ.get("COMP_LINE", "") + _CURSOR)
        done = word.removesuffix(_CURSOR).removesuffix(os.environ.get("COMP_WORD", ""))
        return f"{item.type},{item.value.removeprefix(done)}"


class ZshComplete(_Complete):
    """A completion is three lines: type, value, help."""

    name = "zsh"
    source_template = _ZSH

    def format_completion(self, item: CompletionItem[str]) -> str:
        return f"{item.type}\n{item.value}\n{item.help or '_'}"


class FishComplete(_Complete):
    """A completion has its help after a tab; a prefix has the path after it."""

    name = "fish"
    source_template = _FISH

    def format_completion(self, item: CompletionItem[str]) -> str:
        rest = self.get_completion_args()[1].removeprefix(item.value) if item.type in _PATHS else item.help
        return f"{item.type},{item.value}" + (f"\t{rest}" if rest or item.type in _PATHS else "")


SHELLS = tuple(each.name for each in map(add_completion_class, (BashComplete, ZshComplete, FishComplete)))


@click.command()
@click.argument("shell", type=click.Choice(SHELLS), required=False)
@click.pass_context
def completion(context: click.Context, shell: str | None) -> None:
    """Print the script that makes a shell complete commands, options, settings and runs.

    \b
    bash: add  source <(ganctl completion bash)  to ~/.bashrc
    zsh:  add  source <(ganctl completion zsh)   to ~/.zshrc, after compinit
    fish: ganctl completion fish > ~/.config/fish/completions/ganctl.fish

    The default is the shell of the variable SHELL.
    """
    name = shell or PurePath(os.environ.get("SHELL", "")).name
    if (found := get_completion_class(name)) is None or name not in SHELLS:
        raise click.UsageError(f"SHELL: found {name or 'none'}, expected {', '.join(SHELLS)}. Name one of them.")
    click.echo(found(context.find_root().command, {}, "ganctl", VARIABLE).source(), nl=False)
