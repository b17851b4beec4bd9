# Databases with something of everything in them, and whether a copy of one has
# all of it, answers as the original would, and publishes what is left.

package OrderIdempotency::Copy;

use strict;
use warnings;

use Exporter 'import';
use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(fill_database make_subscriptions leave_batch_open set_publish
  set_environment burn_xids contents same_contents goes_on redirect_sink is_disarmed resume
  sent_ids positions_grow publishes_the_rest);

my $api = 'order_idempotency';

# One event of a key, with a number that grows.
my $numbers = 0;

sub numbered
{
	my ($key, $type) = @_;
	my $n = ++$numbers;

	$type //= 'test.numbered';
	return "SELECT $api.emit_event('$type', '$key', '{\"n\": $n}');";
}

# Lets so many transactions begin and end, so that the server's transaction
# numbers are above those of another one.
sub burn_xids
{
	my ($node, $count) = @_;

	$node->safe_psql('postgres', <<~"SQL");
		DO \$\$ BEGIN
			FOR i IN 1 .. $count LOOP
				PERFORM pg_current_xact_id();
				COMMIT;
			END LOOP;
		END \$\$
		SQL
	return;
}

# Changes a setting of a server that runs.
sub _set
{
	my ($node, $setting, $value) = @_;

	$node->safe_psql('postgres', "ALTER SYSTEM SET $setting = '$value'");
	$node->reload;
	$node->poll_query_until('postgres', "SHOW $setting", $value) or die;
	return;
}

# Switches all workers of a server on or off.
sub set_publish
{
	my ($node, $value) = @_;

	return _set($node, 'order_idempotency.publish', $value);
}

# Has a server be in another environment.
sub set_environment
{
	my ($node, $value) = @_;

	return _set($node, 'order_idempotency.environment', $value);
}

# A database with the extension, server "files", claims in every condition and
# in two generations, orders in every state, deadlines, and subscriptions, all
# drained.  Options: lifecycle, true for one of its own.
sub fill_database
{
	my ($node, $db, %opt) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	create_extension($node, $db);
	create_sink($node, $db);
	$node->safe_psql($db, <<~"SQL") if $opt{lifecycle};
		SELECT $api.copy_default_lifecycle();
		INSERT INTO $api.lifecycle VALUES ('paid', 'cancelled', 'order.refunded', 'refund');
		SQL
	$node->safe_psql($db, <<~"SQL");
		BEGIN;
		SELECT FROM $api.claim_key('done', '{"a": 1}');
		SELECT $api.complete_key('done', '{"answer": 42}');
		COMMIT;
		SELECT FROM $api.claim_key('0192f0c1-77d1-7c3a-8a3e-c91d54b07f26');
		SELECT FROM $api.claim_key('leased', lease => '1 hour');
		SELECT FROM $api.claim_key('over', lease => '1 ms');
		SELECT FROM $api.claim_key('released', lease => '1 hour');
		SELECT $api.release_key('released', attempt => 1);
		INSERT INTO $api.generations VALUES
			('claims', 0, 1, now() - interval '2 hours', now() - interval '1 hour'),
			('claims', 1, 2, now() - interval '1 hour', NULL),
			('outbox', 0, 1, now(), NULL);
		SELECT FROM $api.claim_key('second generation', scope => 'inbox');
		SELECT FROM $api.create_order('new', 100, 'EUR', 'alice', '{"item": 1}');
		SELECT FROM $api.create_order('paid', 200, 'EUR', 'alice', pay_within => '1 hour');
		SELECT FROM $api.transition_order('paid', 'paid', 'payment-1');
		SELECT FROM $api.create_order('completed', 300, 'USD');
		SELECT FROM $api.transition_order('completed', 'paid');
		SELECT FROM $api.transition_order('completed', 'completed');
		SELECT FROM $api.create_order('cancelled', 400, 'EUR', 'bob');
		SELECT FROM $api.cancel_order('cancelled', 'no stock');
		SELECT FROM $api.cancel_order('tombstone', if_missing => 'tombstone');
		SQL
	$node->poll_query_until($db, "SELECT count(*) = 1 FROM $api.abandoned_claims") or die;
	make_subscriptions($node, $db, 'start');
	drained($node, $_, $db) foreach qw(whole pairs orders);
	return;
}

# Subscriptions "whole", "pairs" (batches of two) and "orders" (one type), owned
# by role publisher, which is there.
sub make_subscriptions
{
	my ($node, $db, $from) = @_;

	$node->safe_psql($db, <<~"SQL");
		SELECT $api.grant_operator('publisher');
		GRANT USAGE ON FOREIGN SERVER files TO publisher;
		SET ROLE publisher;
		SELECT $api.create_subscription('whole', 'files', topic => '$db-whole.jsonl',
			options => '{"from": "$from"}');
		SELECT $api.create_subscription('pairs', 'files', topic => '$db-pairs.jsonl',
			options => '{"from": "$from", "batch_size": 2}');
		SELECT $api.create_subscription('orders', 'files', ARRAY['order.created'],
			'$db-orders.jsonl', '{"from": "$from"}');
		SQL
	return;
}

# Leaves subscription "pairs" in the middle of a batch, among late rows; the
# workers are off then.  Events that nobody has are left for the others, too,
# some of which will be late rows of the next batch.
sub leave_batch_open
{
	my ($node, $db) = @_;
	my $pool = OrderIdempotency::Sessions->new($node, 3, db => $db);
	my $dir = sink_dir($node);

	$node->safe_psql($db, <<~"SQL");
		DO \$\$ BEGIN
			-- 1.0 has not got it, and parks nothing
			IF to_regproc('$api.alter_subscription') IS NOT NULL THEN
				PERFORM $api.alter_subscription('pairs', options => '{"max_parked_keys": 0}');
			END IF;
		END \$\$
		SQL
	$pool->run(1, 'BEGIN;' . join '', map { numbered('late') } 1 .. 3);
	$node->safe_psql($db, numbered('quick'));
	drained($node, $_, $db) foreach qw(whole pairs orders);

	# the worker is held up when it has delivered two of them, and cannot
	# deliver any more when it goes on
	$pool->run(0, "BEGIN; SELECT FROM $api.subscription_cursors FOR UPDATE;");
	$pool->run(2, 'BEGIN;' . join '', map { numbered('held') } 1 .. 2);
	$pool->run(1, join '', 'COMMIT;', map { numbered('after') } 1 .. 3);
	$node->poll_query_until('postgres', <<~"SQL") or die;
		SELECT count(*) = 2 FROM pg_stat_activity
		WHERE backend_type = 'order_idempotency worker' AND datname = '$db'
		  AND wait_event_type = 'Lock'
		SQL
	rename $dir, "$dir.away" or die;
	$pool->run(0, 'COMMIT;');
	$node->poll_query_until($db, <<~"SQL") or die 'no batch is left open';
		SELECT state = 'retrying' AND EXISTS
			(SELECT FROM $api.subscription_cursors c JOIN $api.subscriptions s ON s.id = c.subscription
			 WHERE s.name = 'pairs' AND c.batch IS NOT NULL AND c.progress > 0
			   AND c.progress < c.behind_position)
		FROM $api.subscription_status WHERE name = 'pairs'
		SQL
	set_publish($node, 'off');
	$node->poll_query_until($db, <<~"SQL") or die;
		SELECT bool_and(state = 'off') FROM $api.subscription_status
		SQL
	rename "$dir.away", $dir or die;
	$pool->run(2, 'COMMIT;');
	$node->safe_psql($db, join('', map { numbered('unsent') } 1 .. 3)
		  . "SELECT FROM $api.create_order('unsent $numbers', 500, 'EUR', 'alice');");
	$pool->quit;
	return;
}

# Everything that a dump has to bring along, as text.
sub contents
{
	my ($node, $db) = @_;
	my $text = '';

	foreach my $line (
		split /\n/,
		$node->safe_psql($db, <<~"SQL"))
		SELECT c.relkind, c.relname FROM pg_extension e
			CROSS JOIN unnest(e.extconfig) AS t(relid) JOIN pg_class c ON c.oid = t.relid
		WHERE e.extname = 'order_idempotency' ORDER BY 2
		SQL
	{
		my ($kind, $name) = split /\|/, $line;

		$text .= "$name\n"
		  . $node->safe_psql($db,
			$kind eq 'S'
			? "SELECT last_value, is_called FROM $api.$name"
			: "SELECT t::text FROM $api.$name t ORDER BY 1")
		  . "\n";
	}
	return $text;
}

# Checks that a copy has what its original had.
sub same_contents
{
	my ($got, $expected, $what) = @_;
	my @got = split /\n/, $got;
	my @expected = split /\n/, $expected;

	is_deeply(\@got, \@expected, "$what: the same rows and sequences");
	cmp_ok(scalar @got, '>', 60, "$what: and those are many");
	return;
}

# Checks that a copy of what fill_database() made answers as the original
# would.  Once for each copy, since it goes on with what is in progress.
sub goes_on
{
	my ($node, $db, $what, %opt) = @_;
	my $refund = $opt{lifecycle} ? 'cancelled' : 'ignored';

	# some build on others
	foreach my $case (
		[ 'a claim that is done', q(outcome, response FROM claim_key('done', '{"a": 1}')),
			'replayed|{"answer": 42}' ],
		[ 'a UUIDv7', q(outcome FROM claim_key('0192f0c1-77d1-7c3a-8a3e-c91d54b07f26')),
			'replayed' ],
		[ 'another request', q(outcome FROM claim_key('done', '{"a": 2}')), 'mismatch' ],
		[ 'the second generation',
			q(outcome FROM claim_key('second generation', scope => 'inbox')), 'replayed' ],
		[ 'a lease', q(outcome, attempt FROM claim_key('leased', lease => '1 hour')),
			'in_progress|1' ],
		[ 'its holder', q(complete_key('leased', '1', attempt => 1)), 'completed' ],
		[ 'after a lease', q(outcome, attempt FROM claim_key('over', lease => '1 hour')),
			'claimed|2' ],
		[ 'fencing', q(complete_key('over', attempt => 1)), 'stale' ],
		[ 'after a release', q(outcome, attempt FROM claim_key('released', lease => '1 hour')),
			'claimed|2' ],
		[ 'a new claim', q(outcome FROM claim_key('fresh')), 'claimed' ],
		[ 'an order again',
			q(outcome, version FROM create_order('new', 100, 'EUR', 'alice', '{"item": 1}')),
			'replayed|1' ],
		[ 'another order',
			q(outcome FROM create_order('new', 101, 'EUR', on_conflict => 'report')),
			'mismatch' ],
		[ 'a payment again',
			q(outcome, version FROM transition_order('paid', 'paid', 'payment-1')),
			'replayed|2' ],
		[ 'a second payment',
			q(outcome FROM transition_order('paid', 'paid', 'payment-2', on_conflict => 'report')),
			'illegal' ],
		[ 'the next state', q(outcome, version FROM transition_order('new', 'paid')),
			'applied|2' ],
		[ 'a refund', q(outcome FROM cancel_order('paid')), $refund ],
		[ 'a tombstone',
			q(outcome FROM create_order('tombstone', 1, 'EUR', on_conflict => 'report')),
			'refused' ],
		[ 'a new order', q(outcome FROM create_order('fresh', 600, 'EUR', 'bob')), 'created' ])
	{
		my ($name, $query, $expected) = @$case;

		sql_is($node, "SET search_path = $api; SELECT $query", $expected,
			"$what: $name", $db);
	}
	consistent($node, $what, $db);
	return;
}

# Leads server "files" of a database to its own server's directory, or to one
# below that.
sub redirect_sink
{
	my ($node, $db, $below) = @_;
	my $dir = sink_dir($node) . (defined $below ? "/$below" : '');

	mkdir $dir if !-d $dir;
	$node->safe_psql($db, "ALTER SERVER files OPTIONS (SET path '$dir')");
	return;
}

# Checks that no subscription of a database but those named has a worker, or
# would get one: the launcher has looked at it.
sub is_disarmed
{
	my ($node, $db, $reason, $what) = @_;

	# started anew, it looks at all databases, and then at this one
	$node->restart;
	subscribe($node, "probe_$db", topic => "'probe_$db.jsonl'");
	$node->safe_psql('postgres', numbered('probe'));
	drained($node, "probe_$db");
	$node->safe_psql('postgres', "SELECT $api.drop_subscription('probe_$db')");
	$node->poll_query_until('postgres', <<~"SQL") or die;
		SELECT count(*) = 0 FROM pg_stat_activity
		WHERE backend_type = 'order_idempotency worker' AND datname = 'postgres'
		SQL
	is( $node->safe_psql($db, <<~"SQL"), "disarmed|t|0\n" x 2 . 'disarmed|t|0', "$what: disarmed");
		SELECT state, detail LIKE '%$reason%' AND detail LIKE '%resume_subscription%',
			(SELECT count(*) FROM $api.subscription_workers()) FROM $api.subscription_status
		SQL
	return;
}

# Resumes all subscriptions of a database, as their owner, and waits until they
# have nothing left to deliver.
sub resume
{
	my ($node, $db) = @_;

	foreach my $name (qw(whole pairs orders))
	{
		$node->safe_psql($db,
			"SET ROLE publisher; SELECT $api.resume_subscription('$name')");
		wait_for_worker($node, $name, $db);
	}
	return;
}

# The ids of the events in the files of a database's subscriptions, by
# subscription.  The files are named after the database that they were made in.
sub sent_ids
{
	my ($node, $files) = @_;
	my %sent;

	foreach my $name (qw(whole pairs orders))
	{
		$sent{$name} = [ map { $_->{id} } read_events($node, "$files-$name.jsonl") ];
	}
	return \%sent;
}

# Checks that the events of each key have growing positions.
sub positions_grow
{
	my ($node, $file, $what) = @_;
	my (%last, @wrong);

	foreach my $event (read_events($node, $file))
	{
		my $key = $event->{subject};

		push @wrong, $key if ($last{$key} // 0) >= $event->{sequence};
		$last{$key} = $event->{sequence};
	}
	is("@wrong", '', "$what: each key's positions grow");
	return;
}

# Checks that a copy's subscriptions sent what they want of the copy's log and
# the original had not sent, once each, and each key's in order.  Options: files,
# what their names begin with where that is not the database.
sub publishes_the_rest
{
	my ($node, $db, $before, $what, %opt) = @_;
	my $files = $opt{files} // $db;

	foreach my $name (qw(whole pairs orders))
	{
		my $wanted = $name eq 'orders' ? q(WHERE type = 'order.created') : '';

		drained($node, $name, $db);
		my @logged = split /\n/,
		  $node->safe_psql($db, "SELECT event_id FROM $api.outbox $wanted");
		my @sent = @{ sent_ids($node, $files)->{$name} };
		my %count = map { $_ => 0 } @logged;

		$count{$_}++ foreach @{ $before->{$name} }, @sent;
		my @lost = grep { $count{$_} == 0 } keys %count;
		my @again = grep { $count{$_} > 1 } keys %count;

		is( scalar(@lost) . ' lost, ' . scalar(@again) . ' again, '
			  . (scalar(keys %count) - @logged) . ' ghosts',
			'0 lost, 0 again, 0 ghosts',
			"$what: $name sent the " . scalar(@sent) . ' events that were left');
		cmp_ok(scalar @sent, '>', 0, "$what: which are some");
		in_key_order($node, "$files-$name.jsonl", "$what: $name");
		positions_grow($node, "$files-$name.jsonl", "$what: $name");
	}
	return;
}

1;
