#!/bin/bash
# The scenario of examples/clients.md.  DATABASE_URL says where the database is;
# POOLED=1, that PgBouncer in transaction mode is before it.
# shellcheck disable=SC1091
set -uo pipefail
cd "$(dirname "$0")" || exit 1
. ./retry.sh
. ./orders.sh

prefix=psql-$(</proc/sys/kernel/random/uuid)	# each run has keys of its own
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
charges=$work/charges
touch "$charges" "$work/waiting"
. ./provider.sh

# check GOT WANTED: fail, and say why, unless one is as the other, which is a pattern
check()
{
	# shellcheck disable=SC2053
	[[ $1 == $2 ]] || { echo "got \"$1\", wanted \"$2\""; return 1; }
}

# column N ROW: one column of a row
column()
{
	cut -d'|' -f"$1" <<<"$2"
}

# check_states KEY STATES: was the order in these states, one after the other?
check_states()
{
	check "$(order_history "$1" | cut -d'|' -f2 | paste -sd' ')" "$2"
}

# The create commits, its answer is lost with the connection, and the same script gets it.
create_with_retry()
{
	local key=$prefix-create order created

	order=$(
		run -v key="$key" 2>"$work/retries" <<-'SQL'
			:create_order (:'key', 4990, 'EUR', 'alice', NULL, NULL, NULL, 'error');
			SELECT :tried = 1 AS first \gset
			\if :first
			SELECT pg_terminate_backend(pg_backend_pid());
			\endif
		SQL
	) || return
	created=$(order_history "$key" | cut -d'|' -f4)
	check "$(wc -l <"$work/retries")" 1 &&
		check "$(column 2 "$order")" replayed &&
		check "$(column 5 "$order")" "$created"
}

# A rival commits after the snapshot was taken; the transaction is run again.
retry_on_40001()
{
	local order

	export RIVAL_KEY=$prefix-rival
	export RIVAL=$work/rival
	order=$(
		run -v key="$RIVAL_KEY" 2>"$work/retries" <<-'SQL'
			SELECT :tried = 1 AS first \gset
			BEGIN ISOLATION LEVEL REPEATABLE READ;
			:get_order (:'key') \g /dev/null
			\if :first
			\! bash -c '. ./retry.sh; . ./orders.sh; create_order "$RIVAL_KEY" 100 alice' >"$RIVAL"
			\endif
			:create_order (:'key', 100, 'EUR', 'alice', NULL, NULL, NULL, 'error');
			COMMIT;
		SQL
	) || return
	check "$(<"$work/retries")" '*ERROR:  40001: *' &&
		check "$(column 2 "$(<"$RIVAL")")" created &&
		check "$(column 2 "$order")" replayed &&
		check "$(column 5 "$order")" "$(column 5 "$(<"$RIVAL")")"
}

# check_conflict SQLSTATE OUTCOME DETAIL HINT COMMAND...: a command that cannot be done,
# for an error and for an outcome
check_conflict()
{
	local state=$1 outcome=$2 detail=$3 hint=$4 errors=$work/errors order

	shift 4
	! "$@" error 2>"$errors" || { echo "no error $state"; return 1; }
	order=$("$@" report) || return
	check "$(sqlstate "$errors")" "$state" &&
		check "$(sed -n 's/^DETAIL:  //p' "$errors")" "$detail" &&
		check "$(sed -n 's/^HINT:  //p' "$errors")" "$hint" &&
		check "$(column 2 "$order")" "$outcome" &&
		check "$(column 7 "$order")" "$detail"
}

# What cannot be done is an error with a SQLSTATE, or an outcome.  A shell finds the SQLSTATE
# in what psql writes, a script of psql in a variable.
outcome_and_sqlstate()
{
	local key=$prefix-conflict state

	create_order "$key" 4990 alice >/dev/null || return
	check_conflict OI001 mismatch '*amount*' '*' create_order "$key" 9990 alice &&
		check_conflict OI003 illegal '*"created"*' '*"paid"*' transition_order "$key" completed &&
		check_conflict OI004 missing '*' '*' transition_order "$prefix-none" paid || return

	state=$(
		run -v key="$key" 2>/dev/null <<-'SQL'
			\set ON_ERROR_STOP off
			:transition_order (:'key', 'completed', NULL, NULL, NULL, 'error');
			\if :ERROR
			\echo :LAST_ERROR_SQLSTATE
			\endif
		SQL
	) || return
	check "$state" OI003
}

# Charges, but the worker that asked is no more.
charge_and_crash()
{
	charge "$@" >/dev/null
	kill -KILL "$worker"
}

# pay_and_crash KEY AMOUNT LEASE: pay with a worker that is killed right after the charge
pay_and_crash()
{
	local worker

	( worker=$BASHPID; pay "$@" charge_and_crash ) >/dev/null 2>&1
	check $? 137
}

# pay_after_lease KEY AMOUNT LEASE: pay once the lease of whoever has the claim is over;
# the file waiting gets those claims
pay_after_lease()
{
	local result

	while result=$(pay "$@" charge) && [[ $result == in_progress* ]]; do
		echo "$result" >>"$work/waiting"
		sleep 0.1
	done
	echo "$result"
}

# check_lease CLAIM: did it begin when the leases of those before were over?
check_lease()
{
	local waiting

	while read -r waiting; do
		check "$waiting" 'in_progress||1|*' &&
			check "$(
				run -v claimed_at="$(column 4 "$1")" -v lease_until="$(column 5 "$waiting")" <<-'SQL'
					SELECT :'claimed_at'::timestamptz >= :'lease_until';
				SQL
			)" t || return
	done < <(sort -u "$work/waiting")
}

# A worker dies between charge and commit; the next one finishes, with one charge.
pay_with_a_lease()
{
	local payment=("$prefix-pay" 2500 '2 seconds') claim completed

	create_order "${payment[0]}" 2500 bob >/dev/null || return
	pay_and_crash "${payment[@]}" 2>/dev/null || return
	{ read -r claim; read -r completed; } < <(pay_after_lease "${payment[@]}")
	check "$claim" 'claimed||2|*' &&
		check_lease "$claim" &&
		check "$completed" 'completed|applied|paid' &&
		check "$(<"$charges")" "${payment[0]} 2500" &&
		check "$(complete_payment "${payment[0]}" 1)" stale &&
		check "$(pay "${payment[@]}" charge)" "replayed|{\"id\": \"ch-${payment[0]}\"}|2|*" &&
		check_states "${payment[0]}" 'created paid'
}

# Every delivery comes twice; its effect and its answer are the first one's.  The first of all
# comes too early, and leaves nothing.
webhook_inbox()
{
	local key=$prefix-webhook

	! receive "$key-1" "$key" paid 2>"$work/errors" || return
	check "$(sqlstate "$work/errors")" OI004 || return
	create_order "$key" 700 carol >/dev/null || return
	check "$(receive "$key-1" "$key" paid)" 'claimed {"outcome": "applied"}' &&
		check "$(receive "$key-1" "$key" paid)" 'replayed {"outcome": "applied"}' &&
		check "$(receive "$key-2" "$key" cancelled)" 'claimed {"outcome": "illegal"}' &&
		check "$(receive "$key-2" "$key" cancelled)" 'replayed {"outcome": "illegal"}' &&
		check "$(receive "$key-1" "$key" completed)" mismatch &&
		check_states "$key" 'created paid'
}

# Columns go into variables by \gset, and JSON, arrays and times are taken apart by SQL.
read_the_order()
{
	local key=$prefix-read seen

	seen=$(
		run -v key="$key" -v payload='{"sku": "bø👟k", "lines": [{"n": 1}, null]}' <<-'SQL'
			:create_order (:'key', 9007199254740993, 'EUR', 'dave', :'payload', '15 minutes', NULL, 'error') \gset created_
			:transition_order (:'key', 'paid', 'charge', NULL, NULL, 'error') \gset paid_
			:get_order (:'key') \gset
			\echo :amount :allowed_transitions :tombstone
			SELECT :'payload'::jsonb ->> 'sku', :'payload'::jsonb #>> '{lines,0,n}',
				   :'changed_at'::timestamptz = :'paid_changed_at', :'created_at' <= :'changed_at';
			\echo 1|created|:created_changed_at|:created_event_id||
			\echo 2|paid|:paid_changed_at|:paid_event_id|charge|
		SQL
	) || return
	check "$(head -n 2 <<<"$seen" | paste -sd' ')" '9007199254740993 {completed} f bø👟k|1|t|t' &&
		check "$(order_history "$key")" "$(tail -n 2 <<<"$seen")"
}

# step NAME FUNCTION: run one step and tell how it went
step()
{
	local why

	steps=$((steps + 1))
	if why=$("$2"); then
		echo "ok - $1"
	else
		echo "not ok - $1: $(paste -sd' ' <<<"$why")"
		bad=$((bad + 1))
	fi
}

steps=0
bad=0
step 'create with retry' create_with_retry
step 'retry on 40001' retry_on_40001
step 'outcome and SQLSTATE' outcome_and_sqlstate
step 'pay with a lease' pay_with_a_lease
step 'webhook inbox' webhook_inbox
step 'read the order' read_the_order
echo "1..$steps"
[ $bad = 0 ]
