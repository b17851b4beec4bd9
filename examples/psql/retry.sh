# retry.sh: psql scripts that are run again until there is an answer; to be sourced.
# shellcheck shell=bash
#
# A call that carries an idempotency key may be made again when nobody knows what
# became of it: the repeat gets the first one's answer.  So one rule does for lost
# connections, serialization failures and deadlocks alike: once more, a little later.

# Connection trouble, serialization failure, deadlock, too many connections,
# lock_timeout, server going down or coming up, key held by another transaction.
again='^(08...|40001|40P01|53300|55P03|57P0[123]|OI002)$'

# sqlstate FILE: that of the last error in what psql wrote there, if there is one
sqlstate()
{
	sed -nE 's/^(psql:[^ ]+ )?[A-Z]+:  ([0-9A-Z]{5}): .*/\2/p' "$1" | tail -n 1
}

# may_retry STATUS FILE: is that the end of a psql which another try may cure?
# Status 2 is a lost connection, 3 an error in the script.
may_retry()
{
	[ "$1" = 2 ] || { [ "$1" = 3 ] && [[ $(sqlstate "$2") =~ $again ]]; }
}

# pause TRIED: wait, at random so that rivals part, and longer with each try
pause()
{
	local longest=$((20 * 2 ** $1))

	[ "$longest" -le 1000 ] || longest=1000
	sleep "$(printf '0.%03d' $((RANDOM % longest)))"
}

# retry [OPTION...]: run the psql script on standard input until it ends well,
# and print what it printed then.  OPTIONs are psql's, such as -v name=value; the
# script finds in :tried which try this is.  Else print the last try's errors.
# A wrong password is tried again too: psql does not tell it from a lost connection.
retry()
{
	local script output errors status tried

	script=$(cat)
	errors=$(mktemp)
	for tried in {1..10}; do
		status=0
		output=$(psql "$DATABASE_URL" -XAtq -v ON_ERROR_STOP=1 -v VERBOSITY=verbose \
			-v tried="$tried" "$@" -f - <<<"$script" 2>"$errors") || status=$?
		[ $status != 0 ] || break
		may_retry $status "$errors" || break
		echo "retry: $(head -n 1 "$errors")" >&2
		pause "$tried"
	done
	if [ $status = 0 ]; then
		printf '%s\n' "$output"
	else
		cat "$errors" >&2
	fi
	rm -f "$errors"
	return $status
}
