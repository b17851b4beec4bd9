# Promises 1, 2, 3 and 6 under load: sixteen sessions walk at random over two
# hundred orders, once by the built-in lifecycle and once by one with a cycle and
# a refund.  They create, pay, pack, unpack, complete and cancel, with and without
# request keys, right and wrong, by our functions and by the owner's own UPDATE,
# at all isolation levels, in transactions that commit, roll back, and roll back
# in part.  Afterwards every history is legal and without gaps, every order's
# movements are right, and state, history, ledger and events tell the same story;
# and that is the story which the sessions were told.
#
# The walks come from a seed (OI_SEED chooses another one); how the sessions
# interleave does not.
#
# Bugs that this catches: looking at the state before the row's lock is there;
# an event or movement written beside the change or not at all; the guard's
# verification left out; a position drawn before the lock; a request key
# forgotten.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

my $sessions = 16;
my $orders = 200;
my $steps = 600;
my $seed = $ENV{OI_SEED} // 20240229;
my $api = 'order_idempotency';
my $dir = PostgreSQL::Test::Utils::tempdir();

# One of the arguments, at random.
sub any
{
	return $_[ int rand @_ ];
}

# True in that many of a hundred cases.
sub percent
{
	return rand 100 < $_[0];
}

# A text as an SQL literal, or NULL.
sub literal
{
	my ($text) = @_;

	return defined $text ? "'$text'" : 'NULL';
}

# One call on one order, as a statement that also writes down what it was told.
sub call
{
	my ($session, $number, @states) = @_;
	# all sessions are at about the same place, so that they meet
	my $order =
	  percent(90) ? ($number / 3 + rand 4) % $orders : int rand $orders;
	my $key = "order-$order";
	my $request = percent(50) ? 'r' . int rand 6 : undef;
	my $conflict = percent(80) ? 'report' : 'error';
	my $amount = 100 + $order + percent(10);
	my $account = $order % 3 ? "'acc-" . $order % 7 . "'" : 'NULL';
	my $target = any(@states);
	my $kind = any(qw(create transition transition transition transition transition cancel));
	my %sql = (
		create =>
		  "create_order('$key', $amount, 'EUR', $account, on_conflict => '$conflict')",
		transition => "transition_order('$key', '$target', "
		  . literal($request)
		  . ", on_conflict => '$conflict')",
		cancel => "cancel_order('$key', 'why not', "
		  . literal($request) . ", "
		  . "if_missing => '@{[percent(10) ? 'tombstone' : 'error']}', on_conflict => '$conflict')"
	);

	# now and then the owner's own statement, past our functions
	return <<~"SQL" if percent(5);
		WITH changed AS (
			UPDATE $api.orders SET state = '$target' WHERE key = '$key' AND state <> '$target'
			RETURNING key, state, version, (history[version]).event_id, changed_at)
		INSERT INTO told SELECT $session, $number, 'update', NULL, NULL, key, 'applied',
			state, version, event_id, changed_at FROM changed;
		SQL
	$amount = 'NULL' if $kind ne 'create';
	$request = undef if $kind eq 'create';
	return "INSERT INTO told SELECT $session, $number, '$kind', $amount, "
	  . literal($request)
	  . ", r.* FROM $api.$sql{$kind} r;\n";
}

# A session's walk.
sub walk
{
	my ($session, @states) = @_;
	my $script = "SELECT pg_advisory_lock_shared(1) \\gset\n"
	  . "SELECT pg_advisory_unlock_shared(1) \\gset\n";
	my $number = 0;

	while ($number < $steps)
	{
		my $level =
		  any(('READ COMMITTED') x 3, 'REPEATABLE READ', 'SERIALIZABLE');
		my $next = sub { call($session, $number++, @states) };

		$script .= 'SET order_idempotency.in_flight_wait = '
		  . any(0, 5000, 5000, 5000) . ";\n"
		  if percent(10);
		if (percent(60))
		{
			$script .= "SET default_transaction_isolation = '$level';\n"
			  if percent(20);
			$script .= $next->();
			next;
		}
		$script .= "BEGIN ISOLATION LEVEL $level;\n";
		$script .= $next->() for 0 .. int rand 3;
		$script .=
		  "SAVEPOINT a;\n" . $next->() . any("ROLLBACK TO a;\n", "RELEASE a;\n")
		  if percent(30);
		$script .= any('COMMIT', 'COMMIT', 'COMMIT', 'ROLLBACK') . ";\n";
	}
	return $script;
}

# What was told must be what the histories say; one row for each lie.
my $lies = <<~"SQL";
	WITH step AS (
		SELECT o.key, h.version, h.event_id, h.request_key
		FROM $api.orders o, unnest(o.history) h
	), done AS (
		SELECT order_key, version, event_id, request FROM told
		WHERE outcome IN ('created', 'applied', 'cancelled', 'tombstoned')
	)
	SELECT 'done and not in a history: ' || d::text
	FROM (SELECT * FROM done EXCEPT ALL SELECT * FROM step) d
	UNION ALL
	SELECT 'in a history and nobody was told: ' || s::text
	FROM (SELECT * FROM step EXCEPT ALL SELECT * FROM done) s
	UNION ALL
	SELECT 'replayed what never was: ' || t::text
	FROM told t
	WHERE outcome = 'replayed' AND NOT EXISTS (
		SELECT FROM step s
		WHERE s.key = t.order_key AND s.event_id IS NOT DISTINCT FROM t.event_id
		  AND (t.request IS NULL OR s.request_key = t.request)
		  AND (t.kind <> 'create' OR s.version = 1))
	UNION ALL
	SELECT 'compared wrongly: ' || t::text
	FROM told t JOIN $api.orders o ON o.key = t.order_key
	WHERE t.kind = 'create'
	  AND CASE t.outcome WHEN 'replayed' THEN t.amount <> o.amount
		  WHEN 'mismatch' THEN t.amount = o.amount
		  WHEN 'refused' THEN NOT o.tombstone ELSE false END
	UNION ALL
	SELECT 'missing and yet there: ' || t::text
	FROM told t JOIN told d USING (order_key, session)
	WHERE t.outcome = 'missing' AND d.number < t.number AND d.version > 0
	LIMIT 20
	SQL

my $node = new_node('walks', conf => "deadlock_timeout = '20ms'\n");

# Lets all sessions walk in a database, and judges where they came to.
sub walks
{
	my ($db, $what, @states) = @_;
	my $pool =
	  OrderIdempotency::Sessions->new($node, $sessions, db => $db);

	$node->safe_psql($db, <<~"SQL");
		CREATE TABLE told (session int, number int, kind text, amount bigint,
			request text, LIKE $api.order_result)
		SQL
	my $start = OrderIdempotency::Sessions->new($node, 1, db => $db);
	$start->run(0, 'SELECT pg_advisory_lock(1) \gset');
	$pool->send_all(
		sub {
			my ($i) = @_;
			my $file = "$dir/$db-$i.sql";

			append_to_file($file, walk($i, @states));
			return "\\i $file";
		});
	$pool->wait_blocked($sessions);
	$start->quit;
	my %errors;
	$errors{$_}++ foreach map { /ERROR:\s+(\S+)/g } $pool->collect_all;
	$pool->quit;

	# 25P02 and 3B001 are what follows in a transaction that has failed
	my @unexpected =
	  grep { !/^(OI00[1-5]|40001|40P01|25P02|3B001)$/ } keys %errors;
	is_deeply([ sort @unexpected ], [], "$what: no other errors");
	note "$what, errors: ",
	  join ', ', map { "$_: $errors{$_}" } sort keys %errors;
	note "$what, outcomes: ", $node->safe_psql($db,
		q{SELECT string_agg(outcome || ': ' || n, ', ' ORDER BY outcome)
		FROM (SELECT outcome, count(*) AS n FROM told GROUP BY outcome) t});

	consistent($node, $what, $db);
	is($node->safe_psql($db, $lies), '', "$what: sessions were told the truth");
	sql_is($node, <<~'SQL', '', "$what: every outcome came up", $db);
		SELECT o.outcome
		FROM unnest('{created,replayed,mismatch,refused,applied,illegal,missing,cancelled,ignored,tombstoned}'::text[]) o (outcome)
		WHERE NOT EXISTS (SELECT FROM told t WHERE t.outcome = o.outcome)
		SQL
	return;
}

srand $seed;
note "seed $seed";
walks('postgres', 'built-in lifecycle', qw(created paid completed cancelled));
sql_is($node, 'SELECT bool_and(built_in) FROM order_idempotency.current_lifecycle',
	't', 'that was the built-in lifecycle');

$node->safe_psql('postgres', 'CREATE DATABASE custom');
create_extension($node, 'custom');
$node->safe_psql('custom', <<~"SQL");
	SELECT $api.copy_default_lifecycle();
	DELETE FROM $api.lifecycle WHERE to_state = 'completed';
	INSERT INTO $api.lifecycle VALUES
		('paid', 'packed', 'order.packed', NULL),
		('packed', 'paid', 'order.unpacked', NULL),
		('packed', 'completed', 'order.completed', NULL),
		('paid', 'cancelled', 'order.refunded', 'refund');
	SQL
walks('custom', 'lifecycle with a cycle and a refund',
	qw(created completed cancelled), (qw(paid packed)) x 6);
sql_is($node, <<~"SQL", 't', 'orders went round the cycle, and were refunded', 'custom');
	SELECT max(version) > 6 AND EXISTS (SELECT FROM $api.ledger WHERE effect = 'refund')
	FROM $api.orders
	SQL
done_testing();
