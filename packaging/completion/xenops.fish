# fish completion of xenops; `xenops completion fish` prints it.
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
