# SPDX-License-Identifier: Apache-2.0
# Completion of ferry for bash. Commands, options and what they take come from the program itself: ferry --list-options.

_ferry_rows() { ferry --list-options 2>/dev/null | awk -F '\t' "$@"; }

# The argument that an option of a command takes: "PID", "[LEVEL]", "-" for none.
_ferry_argument() {
	_ferry_rows -v word="$1" -v command="$2" '$1 == "option" && ("--" $2 == word || "-" $3 == word) {
		if (!found++ || index("," $5 ",", "," command ",")) argument = $4 } END { if (found) print argument }'
}

# What compgen finds, a line each: names may have blanks.
_ferry_offer() {
	local found
	found=$(compgen "$@") && mapfile -t COMPREPLY <<<"$found"
}

_ferry_files() {
	compopt -o filenames 2>/dev/null
	_ferry_offer "$@"
}

_ferry() {
	local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command= i
	COMPREPLY=()
	for ((i = 1; i < COMP_CWORD; i++)); do
		[[ ${COMP_WORDS[i]} == -* ]] || { command=${COMP_WORDS[i]}; break; }
	done

	if [[ $before == -* ]]; then
		case $(_ferry_argument "$before" "$command") in
		PID) _ferry_offer -W "$(ps -eo pid=)" -- "$word"; return ;;
		DIR) _ferry_files -d -- "$word"; return ;;
		FILE | PATH) _ferry_files -f -- "$word"; return ;;
		NAME) _ferry_offer -W "$(ferry check --feature list)" -- "$word"; return ;;
		- | \[*) ;;
		?*) return ;;
		esac
	fi

	if [[ -z $command && $word != -* ]]; then
		_ferry_offer -W "$(_ferry_rows '$1 == "command" { print $2 }')" -- "$word"
	elif [[ $word == -* ]]; then
		_ferry_offer -W "$(_ferry_rows -v command="$command" \
			'$1 == "option" && $6 == "taken" && (command == "" || index("," $5 ",", "," command ",")) { print "--" $2 }')" -- "$word"
	elif [[ $command == show || $command == unpack ]]; then
		_ferry_files -f -- "$word"
	elif [[ $command == verify || $command == pack ]]; then
		_ferry_files -d -- "$word"
	fi
}

complete -F _ferry ferry
