# Promises 1, 2, 4 and 6 for purge_orders: beside everything else that goes on it
# removes whole orders or none, waits for nobody and holds nobody up for a lock;
# what a subscription has not behind it stays; a key that is used again makes an
# order like any other, and subscribers see the two one after the other.
#
# Bugs that this catches: an order removed while somebody changes it; events of an
# open transaction taken for delivered, a subtransaction's above all; a purge that
# waits, or deadlocks with another; a deadline of the old order that cancels the new
# one; half of a purge kept by a crash; a scan that begins again when it has ended.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use OrderIdempotency::Upkeep;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_drain_node('purge');
my $api = 'order_idempotency';

# Orders that are final.
sub create_final
{
	my ($prefix, $n) = @_;

	$node->safe_psql('postgres', <<~"SQL");
		SELECT count(*) FROM (SELECT $api.create_order('$prefix' || i, 100, 'EUR', 'acct' || i % 7), $api.cancel_order('$prefix' || i)
							  FROM generate_series(1, $n) i) x
		SQL
	return;
}

# What a call of purge_orders says: the number, and its notice.
sub purge
{
	my ($max) = @_;
	my ($status, $out, $err) = $node->psql('postgres', "SELECT $api.purge_orders('infinity', $max)");

	return $err eq '' ? $out : "$out $err";
}

# Stops the workers, or lets them go on.
sub publish
{
	my ($value) = @_;

	$node->append_conf('postgresql.conf', "order_idempotency.publish = $value");
	$node->reload;
	return if $value eq 'on';
	$node->poll_query_until('postgres', "SELECT state = 'off' FROM $api.subscription_status") or die;
	return;
}

# Purges until nothing is left that is final.  The moment that a cursor has behind it
# moves when its worker looks, which events make it do.
sub purge_when_behind
{
	my ($what) = @_;

	drained($node, 'audit');
	ok( $node->poll_query_until('postgres', <<~"SQL"), $what);
		SELECT count(*) = 0 FROM $api.orders WHERE state = 'cancelled'
		  AND ($api.emit_event('test.event', 'x') IS NULL OR $api.purge_orders('infinity', 100000) < 1000000)
		SQL
	return;
}

# A subscription that has not got them yet, and then has.
subscribe($node, 'audit');
publish('off');
create_final('b', 3);
like(purge(1000), qr/^0 .*NOTICE:  no order was purged: subscription "audit" has events before it\n.*DETAIL:  3 orders have/s,
	'what is not delivered is not purged, and it is said who waits for it');
is(states($node, 'b'), 'cancelled 3', 'it is there');
publish('on');
purge_when_behind('delivered, it goes');
is(purge(1000), '0', 'without a word where nothing is left');

# An order whose row was written last by a subtransaction, of a transaction that
# was open when the cursor's moment was taken: its events are not delivered, though
# the subtransaction's xid is in no snapshot.
my $pool = OrderIdempotency::Sessions->new($node, 3);
$pool->run(0, 'BEGIN;' . emit('early'));
$pool->run(0, "SAVEPOINT s; SELECT count($api.create_order('sub', 1, 'EUR', 'alice')), count($api.cancel_order('sub')); RELEASE s;");
$node->safe_psql('postgres', emit('push'));
drained($node, 'audit');
$node->safe_psql('postgres', emit('push'));
drained($node, 'audit');
publish('off');
$pool->run(0, 'COMMIT;');
like(purge(1000), qr/^0 /, 'an order of a subtransaction that committed late is not purged before it is delivered');
is(states($node, 'sub'), 'cancelled 1', 'it is there');
publish('on');
purge_when_behind('and goes after that');
is(scalar(grep { $_->{subject} eq 'sub' } read_events($node, 'audit.jsonl')), 2, 'its events were delivered');
$node->safe_psql('postgres', "SELECT $api.drop_subscription('audit')");

# Orders that somebody has locked, for any reason, are passed over; another purge too.
create_final('d', 10);
$node->safe_psql('postgres', "CREATE TABLE parcel (order_key text COLLATE \"C\" REFERENCES $api.orders)");
$pool->run(0, "BEGIN; SELECT key FROM $api.orders WHERE key = 'd1' FOR SHARE;");
$pool->run(1, "BEGIN; INSERT INTO parcel VALUES ('d2');");
is($pool->run(2, "SET lock_timeout = '5 s'; BEGIN; SELECT $api.purge_orders('infinity', 5);"), '5', 'locked orders are passed over');
is($node->safe_psql('postgres', "SET lock_timeout = '5 s'; SELECT $api.purge_orders('infinity', 1000)"), '3',
	'and those that another purge is at');
$pool->run($_, 'ROLLBACK;') foreach 0 .. 2;
is(purge(1000), '7', 'they go when they are free');
$node->safe_psql('postgres', 'DROP TABLE parcel');

# A deadline that somebody is at keeps its order.
create_final('e', 2);
$node->safe_psql('postgres', "INSERT INTO $api.payment_deadlines VALUES ('e1', now() + interval '1 day'), ('e2', now() + interval '1 day')");
$pool->run(0, "BEGIN; UPDATE $api.payment_deadlines SET due_at = due_at + interval '1 day' WHERE order_key = 'e1';");
is(purge(1000), '1', 'an order whose deadline is being put off stays');
$pool->run(0, 'COMMIT;');
is(purge(1000), '1', 'and goes after that');
sql_is($node, "SELECT count(*) FROM $api.payment_deadlines", '0', 'with the deadline that was put off');

# Calls beside a purge that is open.
create_final('f', 1);
is($pool->run(0, "BEGIN; SELECT $api.purge_orders('infinity', 10);"), '1', 'a purge that is open');
is($pool->run(1, "SELECT outcome, state, version FROM $api.create_order('f1', 100, 'EUR', 'acct1');"), 'replayed|cancelled|2',
	'a repeat is answered from what is committed');
$pool->send(1, "SELECT outcome FROM $api.transition_order('f1', 'paid', 'r', on_conflict => 'report');");
$pool->wait_blocked(1);
$pool->run(0, 'COMMIT;');
is($pool->collect(1), "missing\n", 'a change waits, and finds nothing');
is($pool->run(1, "SELECT outcome, version FROM $api.create_order('f1', 1, 'USD');"), 'created|1', 'the key is new');
$pool->quit;

# Storm: keys are created, finished, purged and created again, by many at once, with
# deadlines; whatever the interleaving, each order is whole.
$pool = OrderIdempotency::Sessions->new($node, 6);
subscribe($node, 'storm', options => q('{"batch_size": 50}'));
$node->safe_psql('postgres', <<~"SQL");
	CREATE PROCEDURE storm(n int) LANGUAGE plpgsql AS \$\$
	DECLARE
		k text;
	BEGIN
		FOR i IN 1 .. n LOOP
			k := 's' || floor(random() * 12);
			BEGIN
				CASE floor(random() * 5)
					WHEN 0 THEN PERFORM $api.create_order(k, 100, 'EUR', 'alice', pay_within => interval '1 ms' * floor(random() * 30 + 1), on_conflict => 'report');
					WHEN 1 THEN PERFORM $api.transition_order(k, 'paid', 'r' || i, on_conflict => 'report');
					WHEN 2 THEN PERFORM $api.transition_order(k, 'completed', on_conflict => 'report');
					WHEN 3 THEN PERFORM $api.cancel_order(k, on_conflict => 'report');
					ELSE PERFORM $api.purge_orders('infinity', 3);
				END CASE;
			EXCEPTION WHEN OTHERS THEN
				RAISE WARNING 'storm: % %', SQLSTATE, SQLERRM;
			END;
			COMMIT;
		END LOOP;
	END
	\$\$;
	SQL
$pool->send_all("SET client_min_messages = warning;\nCALL storm(400);");
is(join('', $pool->collect_all), '', 'a storm of creates, changes and purges');
deadlines_are_over($node, 'all deadlines of the storm are over');
sql_is($node, "SELECT count(*) FROM $api.deadline_failures", '0', 'none failed');
sql_is($node, <<~"SQL", '', 'each order there is has the events of its history');
	WITH o AS (SELECT o.key, h.version, h.event_id FROM $api.orders o CROSS JOIN unnest(o.history) h WHERE o.key ~ '^s[0-9]')
	SELECT * FROM o WHERE NOT EXISTS (SELECT FROM $api.outbox e WHERE e.event_id = o.event_id AND e.key = o.key AND e.version = o.version)
	SQL
sql_is($node, <<~"SQL", '', 'versions of a key follow each other, and each order of it begins at 1');
	WITH e AS (SELECT key, version, position, lag(version) OVER (PARTITION BY key ORDER BY position) AS before
			   FROM $api.outbox WHERE key ~ '^s[0-9]')
	SELECT * FROM e WHERE version <> 1 AND version IS DISTINCT FROM before + 1
	SQL
sql_is($node, <<~"SQL", 't', 'the ledger has what the events say, of orders that are gone as well');
	SELECT (SELECT count(*) FROM $api.outbox WHERE key ~ '^s[0-9]' AND type IN ('order.created', 'order.paid', 'order.cancelled'))
		 = (SELECT count(*) FROM $api.ledger WHERE order_key ~ '^s[0-9]')
	SQL
sql_is($node, <<~"SQL", 't', 'money that is held is that of open orders');
	SELECT COALESCE((SELECT balance FROM $api.account_balance WHERE account = 'escrow' AND currency = 'EUR'), 0)
		 = (SELECT COALESCE(sum(amount), 0) FROM $api.orders WHERE money_status = 'held' AND account IS NOT NULL)
	SQL
sql_is($node, "SELECT count(*) > 24 FROM $api.outbox WHERE key ~ '^s[0-9]' AND version = 1", 't', 'keys were used again and again');
$node->safe_psql('postgres', emit('end-of-storm'));
drained($node, 'storm');
my (%last, @wrong);
foreach my $event (grep { $_->{subject} =~ /^s\d/ } read_events($node, 'storm.jsonl'))
{
	my ($key, $version) = ($event->{subject}, $event->{data}{version});

	push @wrong, "$key: $version after " . ($last{$key} // 0)
	  if $version != 1 && $version != ($last{$key} // 0) + 1;
	$last{$key} = $version;
}
is("@wrong", '', 'subscribers see the orders of a key one after the other');
$node->safe_psql('postgres', "SELECT $api.drop_subscription('storm')");
$pool->quit;

# Twenty-five thousand, more than are collected at once, while orders come in; ended
# in the middle, all of it is undone; then done in two calls.
$node->poll_query_until('postgres', "SELECT $api.purge_orders('infinity', 1000) = 0") or die;
create_final('g', 25000);
$pool = OrderIdempotency::Sessions->new($node, 2);
$pool->send(0, "BEGIN; SELECT $api.purge_orders('infinity', 1000000); SELECT pg_sleep(1000);");
$node->poll_query_until('postgres', "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = " . $pool->pid(0)) or die;
$pool->run(1, "SELECT count($api.create_order('new' || i, 1, 'EUR')) FROM generate_series(1, 100) i;");
$node->safe_psql('postgres', 'SELECT pg_terminate_backend(' . $pool->pid(0) . ')');
$pool->collect(0);
is(states($node, 'g'), 'cancelled 25000', 'a purge that was ended has removed nothing');
is(purge(20000), '20000', 'as many as it may');
is(purge(1000000), '5000', 'and the rest');
is(states($node, 'g'), '', 'they are gone');
is(states($node, 'new'), 'created 100', 'what came in meanwhile is there');
$pool->quit;

unlike(slurp_file($node->logfile), qr/TRAP|PANIC|terminated by signal|deadlock/, 'nothing crashed, no deadlock');
done_testing();
