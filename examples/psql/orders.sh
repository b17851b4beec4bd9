# orders.sh: what this program does with orders, each by one psql script; to be sourced.
# shellcheck shell=bash
#
# Values go in as variables of psql and are quoted by it (:'key'), never by the shell.
# What comes out are rows as the functions return them, with | between the columns.

# run [OPTION...]: run the script on standard input, with the statements it calls
run()
{
	retry -v pooled="${POOLED:-0}" -f statements.sql "$@"
}

# create_order KEY AMOUNT ACCOUNT [ON_CONFLICT]; the same key again gives the same answer
create_order()
{
	run -v key="$1" -v amount="$2" -v account="$3" -v on_conflict="${4-error}" <<-'SQL'
		:create_order (:'key', :'amount', 'EUR', :'account', NULL, NULL, NULL, :'on_conflict');
	SQL
}

# transition_order KEY STATE [ON_CONFLICT]: take an order to a state
transition_order()
{
	run -v key="$1" -v state="$2" -v on_conflict="${3-error}" <<-'SQL'
		:transition_order (:'key', :'state', NULL, NULL, NULL, :'on_conflict');
	SQL
}

# order_history KEY: the changes of an order, oldest first
order_history()
{
	run -v key="$1" <<-'SQL'
		:order_history (:'key');
	SQL
}

# claim_payment KEY AMOUNT LEASE: claim the payment of an order
claim_payment()
{
	run -v key="$1" -v amount="$2" -v lease="$3" <<-'SQL'
		SELECT jsonb_build_object('amount', :'amount') AS request \gset
		:claim_key (:'key', :'request', 'payments', :'lease');
	SQL
}

# finish_payment KEY ATTEMPT CHARGE: complete the claim and let the order be paid, in
# one transaction; prints what came of both, or stale where it is another worker's now
finish_payment()
{
	run -v key="$1" -v attempt="$2" -v charge="$3" <<-'SQL'
		SELECT jsonb_build_object('id', :'charge') AS response \gset
		BEGIN;
		:complete_key (:'key', :'response', 'payments', :'attempt') \gset
		SELECT :'complete_key' = 'stale' AS stale \gset
		\if :stale
		ROLLBACK;
		\echo :complete_key
		\else
		:transition_order (:'key', 'paid', :'charge', NULL, NULL, 'report') \gset
		\i try_again.sql
		COMMIT;
		\echo :complete_key|:outcome|:state
		\endif
	SQL
}

# pay KEY AMOUNT LEASE CHARGE: pay for an order by a provider outside of the database;
# CHARGE is the command that asks it, with key and amount, and prints the charge's id.
#
# The claim is committed first, with a lease.  A worker that dies leaves it to the next
# one, which asks the provider under the same key, so that the customer is charged once.
# Prints the claim, and on a second line what finish_payment does.
#
# A claim whose answer was lost is in_progress for its own worker too, until its lease is
# over.  Where the order was cancelled meanwhile, the outcome is illegal: refund.
pay()
{
	local claim outcome attempt charge

	claim=$(claim_payment "$1" "$2" "$3") || return
	echo "$claim"
	IFS='|' read -r outcome _ attempt _ <<<"$claim"
	[ "$outcome" = claimed ] || return 0
	charge=$("$4" "$1" "$2") || return
	finish_payment "$1" "$attempt" "$charge"
}

# complete_payment KEY ATTEMPT: what a worker says that finished without finish_payment
complete_payment()
{
	run -v key="$1" -v attempt="$2" <<-'SQL'
		:complete_key (:'key', NULL, 'payments', :'attempt');
	SQL
}

# receive ID KEY STATE: take in a webhook; the inbox claim and its effect commit together.
# Prints the claim's outcome and the response.  An event that the order cannot follow is
# recorded as that; raising would have it sent for ever.  One that overtook its order fails,
# and is to be sent again.
receive()
{
	run -v id="$1" -v key="$2" -v state="$3" <<-'SQL'
		SELECT jsonb_build_object('key', :'key', 'state', :'state') AS request \gset
		BEGIN;
		SET LOCAL order_idempotency.in_flight_wait = '1s';
		:claim_key (:'id', :'request', 'webhooks', NULL) \gset claim_
		SELECT :'claim_outcome' = 'claimed' AS mine \gset
		\if :mine
		:transition_order (:'key', :'state', :'id', NULL, NULL, 'report') \gset
		\i try_again.sql
		SELECT :'outcome' = 'missing' AS missing \gset
		\if :missing
		DO $$ BEGIN RAISE 'there is no such order' USING ERRCODE = 'OI004'; END $$;
		\endif
		SELECT jsonb_build_object('outcome', :'outcome') AS claim_response \gset
		:complete_key (:'id', :'claim_response', 'webhooks', NULL) \gset
		\endif
		COMMIT;
		\if :{?claim_response}
		\echo :claim_outcome :claim_response
		\else
		\echo :claim_outcome
		\endif
	SQL
}
