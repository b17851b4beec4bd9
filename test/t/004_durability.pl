# Promise 2: what commits is durable, also where the session runs with
# synchronous_commit = off, wherever that was said.
#
# First without luck: the WAL writer sleeps for ten seconds and writes nothing
# by itself, so after an acknowledged commit the WAL is flushed up to that
# commit only if the commit itself did it.  Then by force: sessions at
# work, every process of the server killed at once, and every acknowledged
# answer looked for after the restart.
#
# Bugs that this catches: not raising synchronous_commit; raising it when the
# function is called, which a later SET in the transaction undoes; raising it for
# one function and not another; leaving it raised for the session.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

# Nothing but commits may flush: no checkpoint, no full WAL buffers, and not the WAL writer, which 0 for
# wal_writer_flush_after has every commit wake since 17.
my $node = new_node('durability', conf => <<~'CONF');
	wal_writer_delay = '10s'
	wal_writer_flush_after = '1GB'
	wal_buffers = '64MB'
	checkpoint_timeout = '1h'
	max_wal_size = '4GB'
	bgwriter_lru_maxpages = 0
	CONF
my $api = 'order_idempotency';

$node->safe_psql('postgres', <<~"SQL");
	CREATE TABLE plain (i int);
	CREATE FUNCTION relaxed(key text) RETURNS text LANGUAGE sql
	SET synchronous_commit = off
	AS 'SELECT outcome FROM $api.claim_key(key)';
	SELECT $api.create_order('old-' || i, 1, 'EUR', 'alice')
	FROM generate_series(1, 20) i;
	SELECT $api.claim_key('leased-' || i, lease => '1 hour')
	FROM generate_series(1, 20) i;
	SQL
my $session = OrderIdempotency::Sessions->new($node, 1,
	setup => 'SET synchronous_commit = off;');

# Whether a commit of that script flushed the WAL up to its own record.  Some
# background process may write a record of its own just behind it, so one look
# that shows everything flushed decides.
sub flushed
{
	my ($script) = @_;

	foreach my $try (1 .. 4)
	{
		my $run = $script =~ s/:n\b/$try/gr;
		my $got = $session->run(0, <<~"SQL");
			SELECT pg_current_wal_insert_lsn() AS before \\gset
			$run
			SELECT :'before'::pg_lsn < lsn.inserted AS wrote,
				   pg_current_wal_flush_lsn() >= lsn.inserted AS flushed
			FROM pg_current_wal_insert_lsn() AS lsn (inserted) \\gset
			\\echo state :wrote :flushed :SQLSTATE
			SQL

		return 'wrote nothing' if $got !~ /^state t [tf] 00000$/m;
		return 'flushed' if $got =~ /^state t t 00000$/m;
	}
	return 'not flushed';
}

# The same for what is not to be flushed: a background process may flush everything just
# then, so one such look of some decides.
sub flushed_at_all
{
	my ($script) = @_;
	my $got;

	foreach my $try (1 .. 5)
	{
		$got = flushed($script);
		last if $got ne 'flushed';
	}
	return $got;
}

is(flushed_at_all('INSERT INTO plain VALUES (1);'),
	'not flushed', 'a plain table shows what the setting does');

my @durable = (
	[ 'claim_key', "SELECT $api.claim_key('k-:n');" ],
	[ 'a leased claim', "SELECT $api.claim_key('l-:n', lease => '1 hour');" ],
	[
		'complete_key',
		"SELECT $api.complete_key('leased-:n', '1', attempt => 1);"
	],
	[
		'extend_key',
		"SELECT $api.extend_key('leased-1:n', '2 hours', 'default', 1);"
	],
	[ 'release_key', "SELECT $api.release_key('leased-1:n', attempt => 1);" ],
	[ 'create_order', "SELECT $api.create_order('o-:n', 1, 'EUR', 'alice');" ],
	[ 'transition_order', "SELECT $api.transition_order('old-:n', 'paid');" ],
	[ 'cancel_order', "SELECT $api.cancel_order('old-1:n');" ],
	[
		'a tombstone',
		"SELECT $api.cancel_order('t-:n', if_missing => 'tombstone');"
	],
	[ 'emit_event', "SELECT $api.emit_event('parcel.sent', 'p');" ],
	[
		'the owner\'s UPDATE',
		"UPDATE $api.orders SET state = 'completed' WHERE key = 'old-:n';"
	],
	[
		'SET LOCAL after the call',
		"BEGIN; SELECT $api.claim_key('sl-:n'); SET LOCAL synchronous_commit = off; COMMIT;"
	],
	[
		'SET after the call',
		"BEGIN; SELECT $api.create_order('s-:n', 1, 'EUR'); SET synchronous_commit = off; COMMIT;"
	],
	[ 'a function with a SET clause', "SELECT relaxed('r-:n');" ],
	[
		'a call in a released savepoint',
		"BEGIN; SAVEPOINT a; SELECT $api.claim_key('rs-:n'); RELEASE a; COMMIT;"
	],
	[
		'a call, then a savepoint rolled back',
		"BEGIN; SELECT $api.claim_key('ss-:n'); SAVEPOINT a; SELECT $api.claim_key('st-:n'); ROLLBACK TO a; COMMIT;"
	],
	[
		'other work first',
		"BEGIN; INSERT INTO plain VALUES (:n); SELECT $api.claim_key('of-:n'); INSERT INTO plain VALUES (:n); COMMIT;"
	],
	[
		'a DO block',
		"DO \$\$ BEGIN PERFORM $api.create_order('d-:n', 1, 'EUR'); PERFORM set_config('synchronous_commit', 'off', true); END \$\$;"
	],
	[
		'a procedure that commits',
		"DO \$\$ BEGIN PERFORM $api.claim_key('p-:n'); COMMIT; END \$\$;"
	]);

foreach my $case (@durable)
{
	is(flushed($case->[1]), 'flushed', "$case->[0] is durable at its commit");
}
is($session->run(0, 'SHOW synchronous_commit'),
	'off', 'the session keeps its setting');
is(flushed_at_all('INSERT INTO plain VALUES (1);'),
	'not flushed', 'and its other transactions what they asked for');

# What is stricter than "on" stays.
is( $session->run(0, <<~"SQL"), 'remote_apply',
	BEGIN;
	SET LOCAL synchronous_commit = remote_apply;
	SELECT FROM $api.claim_key('strict');
	SHOW synchronous_commit;
	COMMIT;
	SQL
	'a stricter setting is left alone');
$session->quit;

# By force.
my $rounds = 4;
my $pool = OrderIdempotency::Sessions->new($node, 4,
	setup => 'SET synchronous_commit = off;');
my $dir = PostgreSQL::Test::Utils::tempdir();

# A file with what one session does in one round, each line an answer that is
# printed once it is committed.
sub script_file
{
	my ($round, $i) = @_;
	my $file = "$dir/$round-$i.sql";
	my $script = '';

	foreach my $n (1 .. 3000)
	{
		my $name = "kill-$round-$i-$n";

		$script .= <<~"SQL";
			SELECT 'order', order_key FROM $api.create_order('$name', $n, 'EUR', 'alice');
			SELECT 'claim', '$name' FROM $api.claim_key('$name');
			BEGIN;
			SELECT order_key FROM $api.transition_order('$name', 'paid') \\gset
			SET LOCAL synchronous_commit = off;
			COMMIT;
			SELECT 'paid', '$name';
			UPDATE $api.orders SET state = 'completed' WHERE key = '$name' RETURNING 'completed', key;
			SQL
	}
	append_to_file($file, $script);
	return $file;
}

foreach my $round (1 .. $rounds)
{
	my $enough = 50 * $round;

	$pool->send($_, '\i ' . script_file($round, $_))
	  foreach 0 .. $pool->count - 1;
	$pool->wait_for_output($_, qr/^completed\|kill-$round-$_-$enough$/m)
	  foreach 0 .. $pool->count - 1;
	kill_server($node);
	my @answers = grep { /^(order|claim|paid|completed)\|kill-[0-9-]+$/ }
	  map { split /\n/ } $pool->collect_all;
	$node->start;
	$pool->revive;

	cmp_ok(scalar @answers, '>=', $enough * 4 * 4,
		"round $round: sessions were at work");
	my $values = join ', ', map { "('" . s/\|/', '/r . "')" } @answers;
	sql_is($node, <<~"SQL", '', "round $round: no acknowledged answer is lost");
		SELECT a.what, a.key
		FROM (VALUES $values) a (what, key)
			LEFT JOIN $api.orders o USING (key)
		WHERE CASE a.what
			WHEN 'order' THEN o.key IS NULL
			WHEN 'claim' THEN (SELECT c.outcome <> 'replayed' FROM $api.claim_key(a.key) c)
			WHEN 'paid' THEN o.version IS NULL OR o.version < 2
			ELSE o.state IS DISTINCT FROM 'completed' END
		LIMIT 5
		SQL
}
$pool->quit;
consistent($node, 'after the kills');
done_testing();
