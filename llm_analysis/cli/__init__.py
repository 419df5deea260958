"""The command line: flags in, an answer out.

main       entry point, dispatch with Fire, exit statuses
flags      declaration of flags, check of their names, parsing of their values
help       help text
terminal   width and colours of the terminal
completion completion scripts for bash, zsh and fish
pictures   pictures among the files of a command
progress   progress bar, orderly stop on Ctrl-C
output     the Output of a command, error lines, the log
writing    files of a command: all written, or none
commands   one file per group of commands
"""
