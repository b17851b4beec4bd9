# Promises 2 and 3 for payment deadlines: a deadline and a payment that meet are
# decided by the order's lock, one way or the other and never both; whoever comes
# late is told so; nobody waits for long, and no deadline is forgotten, however
# late it comes.
#
# Bugs that this catches: cancelling by what an older snapshot shows; waiting for
# a payment that is open, with the rest behind it; a deadline that is lost while a
# payment or a table's lock is in the way; a look that begins above a
# deadline which was committed late; doing nothing until the launcher's round.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use OrderIdempotency::Upkeep;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('deadlines');
my $api = 'order_idempotency';

# The seconds between a deadline and the cancellation that came of it, at most.
sub worst_delay
{
	my ($prefix, $within) = @_;

	return $node->safe_psql('postgres', <<~"SQL");
		SELECT COALESCE(ceil(max(extract(epoch FROM changed_at - created_at - interval '$within'))), 0)
		FROM $api.orders WHERE starts_with(key, '$prefix') AND state = 'cancelled'
		SQL
}

# One, in a server that has nothing else to do.
$node->safe_psql('postgres', "SELECT $api.create_order('one', 100, 'EUR', 'alice', pay_within => '1 s')");
$node->poll_query_until('postgres', "SELECT state = 'cancelled' FROM $api.orders WHERE key = 'one'") or die;
no_more_than(worst_delay('one', '1 s'), 15, 'seconds after the deadline');

# While the maintenance process waits for a deadline, or for the time to rotate, it rests: in a
# database of its own nobody else has transactions.
$node->safe_psql('postgres', 'CREATE DATABASE rest');
$node->safe_psql('rest', "CREATE EXTENSION $api; SELECT $api.create_order('now', 100, 'EUR', 'alice', pay_within => '1 ms');"
	  . " SELECT $api.create_order('later', 100, 'EUR', 'alice', pay_within => '4 s')");
$node->poll_query_until('rest', "SELECT state = 'cancelled' FROM $api.orders WHERE key = 'later'") or die;
$node->poll_query_until('postgres', <<~'SQL') or die;
	SELECT xact_commit > 5 FROM pg_stat_database WHERE datname = 'rest'
	AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = 'rest')
	SQL
no_more_than($node->safe_psql('postgres', "SELECT xact_commit FROM pg_stat_database WHERE datname = 'rest'"),
	500, 'transactions until a deadline that is four seconds away');

# Payments that come around the deadline.  Each session creates its orders, whose
# deadlines follow each other, and pays for each about when its time is over, in a
# transaction that stays open for a moment.
my $pool = OrderIdempotency::Sessions->new($node, 6);
my $orders = 150;

$node->safe_psql('postgres', <<~"SQL");
	CREATE TABLE refused (key text);
	CREATE PROCEDURE race(prefix text) LANGUAGE plpgsql AS \$\$
	DECLARE
		due timestamptz;
	BEGIN
		FOR i IN 1 .. $orders LOOP
			PERFORM $api.create_order(prefix || i, 100 + i, 'EUR', 'acct' || i % 7, pay_within => interval '1 ms' * (300 + 10 * i));
		END LOOP;
		COMMIT;
		FOR i IN 1 .. $orders LOOP
			SELECT created_at + interval '1 ms' * (300 + 10 * i) INTO due FROM $api.orders WHERE key = prefix || i;
			PERFORM pg_sleep(extract(epoch FROM due - clock_timestamp() + (random() - 0.7) * interval '30 ms'));
			BEGIN
				PERFORM $api.transition_order(prefix || i, 'paid', 'pay-' || i);
			EXCEPTION WHEN SQLSTATE 'OI003' THEN
				INSERT INTO refused VALUES (prefix || i);
			END;
			PERFORM pg_sleep(random() * 0.004);
			COMMIT;
		END LOOP;
	END
	\$\$;
	SQL
$pool->send_all(sub { my ($i) = @_; return "CALL race('race$i-');"; });
my @got = $pool->collect_all;
is("@got" =~ s/\s//gr, '', 'payments around their deadlines: no error but the one expected');
deadlines_are_over($node, 'all deadlines of the race are over');
my $total = 6 * $orders;
like(states($node, 'race'), qr/^cancelled \d+, paid \d+$/, 'each order is paid or cancelled: ' . states($node, 'race'));
sql_is($node, "SELECT count(*) FROM $api.orders WHERE starts_with(key, 'race') AND version = 2", $total,
	'by one change each');
sql_is($node, <<~"SQL", '', 'a payment was refused if and only if its order is cancelled');
	(SELECT key FROM $api.orders WHERE starts_with(key, 'race') AND state = 'cancelled' EXCEPT SELECT key FROM refused)
	UNION ALL
	(SELECT key FROM refused EXCEPT SELECT key FROM $api.orders WHERE state = 'cancelled')
	SQL
sql_is($node, "SELECT count(*) FROM $api.deadline_failures", '0', 'none of which is a failure');
consistent($node, 'after the race');
$pool->quit;

# A payment that is open when the deadline comes.  Its own order is passed over,
# others are not.
$pool = OrderIdempotency::Sessions->new($node, 3);
$node->safe_psql('postgres', <<~"SQL");
	SELECT $api.create_order('open-' || i, 100, 'EUR', 'alice', pay_within => '1 s') FROM generate_series(1, 3) i;
	SQL
$pool->run(0, "BEGIN; SELECT outcome FROM $api.transition_order('open-1', 'paid');");
$pool->run(1, "BEGIN; SELECT outcome FROM $api.transition_order('open-2', 'paid');");
$node->poll_query_until('postgres', "SELECT state = 'cancelled' FROM $api.orders WHERE key = 'open-3'") or die;
pass('an order beside those that are being paid is cancelled');
$node->poll_query_until('postgres', <<~"SQL") or die;
	SELECT count(*) = 2 FROM $api.payment_deadlines d JOIN $api.orders o ON o.key = d.order_key
	WHERE starts_with(d.order_key, 'open-') AND d.due_at > o.created_at + interval '2.5 s'
	SQL
pass('theirs are put off, again and again');
sql_is($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'order_idempotency maintenance' AND wait_event_type = 'Lock'",
	'0', 'nobody waits for them');
$pool->run(0, 'COMMIT;');
$pool->run(1, 'ROLLBACK;');
deadlines_are_over($node, 'their deadlines are over then');
$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM $api.payment_deadlines") or die;
is(states($node, 'open-'), 'cancelled 2, paid 1', 'the one that was paid stays so, the other is cancelled');

# A payment that comes while the cancellation is open: it waits for that and is
# refused.  A trigger holds the cancellation up.
$node->safe_psql('postgres', <<~"SQL");
	CREATE TABLE hold (id int);
	CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS \$\$
	BEGIN
		PERFORM set_config('lock_timeout', '0', true);
		PERFORM FROM public.hold FOR UPDATE;
		RETURN NULL;
	END
	\$\$;
	INSERT INTO hold VALUES (1);
	CREATE TRIGGER hold AFTER UPDATE ON $api.orders FOR EACH ROW WHEN (new.key = 'held' AND new.state = 'cancelled') EXECUTE FUNCTION hold();
	SQL
$pool->run(0, 'BEGIN; SELECT id FROM hold FOR UPDATE;');
$node->safe_psql('postgres', "SELECT $api.create_order('held', 100, 'EUR', 'alice', pay_within => '1 ms')");
$node->poll_query_until('postgres',
	"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'order_idempotency maintenance' AND wait_event_type = 'Lock'") or die;
$pool->send(1, "\\set VERBOSITY sqlstate\nSELECT outcome, state FROM $api.transition_order('held', 'paid', on_conflict => 'report');");
$pool->wait_blocked(1);
$pool->run(0, 'COMMIT;');
is($pool->collect(1), "illegal|cancelled\n", 'a payment that comes while its order is being cancelled is refused');
$node->safe_psql('postgres', "DROP TRIGGER hold ON $api.orders");

# Tables that are locked: nobody queues for them, and the deadline comes after.
foreach my $table (qw(orders payment_deadlines deadline_failures ledger outbox_0))
{
	my $key = "lock-$table";

	$node->safe_psql('postgres', "SELECT $api.create_order('$key', 100, 'EUR', 'alice', pay_within => '1 s')");
	$pool->run(0, "BEGIN; LOCK TABLE $api.$table IN SHARE MODE;");

	# long after the deadline, with looks at it in between
	$node->poll_query_until('postgres',
		"SELECT clock_timestamp() > created_at + interval '2.5 s' FROM $api.orders WHERE key = '$key'") or die;
	sql_is($node, 'SELECT count(*) FROM pg_locks WHERE NOT granted', '0', "$table is locked: nobody waits for it");
	sql_is($node, "SELECT state FROM $api.orders WHERE key = '$key'", 'created', 'nothing is done meanwhile');
	$pool->run(0, 'COMMIT;');
	$node->poll_query_until('postgres', "SELECT state = 'cancelled' FROM $api.orders WHERE key = '$key'") or die;
	pass('it is when the lock is gone');
}

# A transaction that commits after its deadline, and after looks that saw later
# ones: below the floor.
$pool->run(2, "BEGIN; SELECT outcome FROM $api.create_order('below', 100, 'EUR', 'alice', pay_within => '1 ms');");
$node->safe_psql('postgres', "SELECT $api.create_order('above', 100, 'EUR', 'alice', pay_within => '1 ms')");
$node->poll_query_until('postgres', "SELECT state = 'cancelled' FROM $api.orders WHERE key = 'above'") or die;
my $before = time;
$pool->run(2, 'COMMIT;');
$node->poll_query_until('postgres', "SELECT state = 'cancelled' FROM $api.orders WHERE key = 'below'") or die;
no_more_than(time - $before, 15, 'seconds until a deadline that was committed late is found');

# An earlier deadline than the one that is known.
$node->safe_psql('postgres', "SELECT $api.create_order('far', 100, 'EUR', 'alice', pay_within => '1 day')");
$node->safe_psql('postgres', "SELECT $api.create_order('near', 100, 'EUR', 'alice', pay_within => '1 s')");
$node->poll_query_until('postgres', "SELECT state = 'cancelled' FROM $api.orders WHERE key = 'near'") or die;
no_more_than(worst_delay('near', '1 s'), 15, 'seconds after a deadline that came before the one known');
$pool->quit;

consistent($node, 'at last');
unlike(slurp_file($node->logfile), qr/TRAP|PANIC|terminated by signal|could not cancel/, 'nothing crashed, nothing failed');
done_testing();
