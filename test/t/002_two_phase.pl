# Promises 1 and 2: savepoints and two-phase commit, across a crash.
#
# A prepared transaction holds its keys while the server is down; after the
# restart COMMIT PREPARED makes them taken, with all that belongs to them, and
# ROLLBACK PREPARED makes them free, without a trace.
#
# Bugs that this catches: keeping anything about a pending claim in the memory
# of a backend or of the server; refusing or forgetting the durability
# hooks at PREPARE; no word of it where there are none at COMMIT PREPARED.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('two_phase');
my $busy = q{SET order_idempotency.in_flight_wait = 0;};

# Everything that one transaction can do, under names that start with a word.
sub work
{
	my ($name) = @_;

	return <<~"SQL";
	SELECT outcome FROM order_idempotency.claim_key('$name-key', '[1]');
	SELECT order_idempotency.complete_key('$name-key', '"$name-done"');
	SELECT outcome FROM order_idempotency.claim_key('$name-leased', lease => '1 hour');
	SELECT outcome FROM order_idempotency.create_order('$name-order', 100, 'EUR', 'alice');
	SELECT outcome FROM order_idempotency.transition_order('$name-order', 'paid', 'r1');
	SELECT outcome FROM order_idempotency.transition_order('$name-old', 'paid', 'r1');
	SELECT outcome FROM order_idempotency.cancel_order('$name-tomb', if_missing => 'tombstone');
	SELECT order_idempotency.emit_event('parcel.sent', '$name-emitted') IS NOT NULL;
	SQL
}

# What of that is there for everybody to see.
sub found
{
	my ($name) = @_;

	return $node->safe_psql('postgres', <<~"SQL");
	SELECT line FROM (
	SELECT 'claim ' || COALESCE(response::text, key)
	FROM order_idempotency.claims
	WHERE key LIKE '$name-%' OR response::text LIKE '"$name-%'
	UNION ALL
	SELECT 'order ' || key || ' ' || state || ' ' || version
	FROM order_idempotency.orders WHERE key LIKE '$name-%'
	UNION ALL
	SELECT 'movement ' || order_key || ' ' || effect
	FROM order_idempotency.ledger WHERE order_key LIKE '$name-%'
	UNION ALL
	SELECT 'event ' || key || ' ' || type
	FROM order_idempotency.outbox WHERE key LIKE '$name-%'
	) found (line) ORDER BY line COLLATE "C"
	SQL
}

# What has to be there where the work was not done, and where it was.
sub before
{
	my ($name) = @_;

	return join "\n", "event $name-old order.created",
	  "movement $name-old hold", "order $name-old created 1";
}

sub after
{
	my ($name) = @_;

	return join "\n", "claim \"$name-done\"", "claim $name-leased",
	  "event $name-emitted parcel.sent",
	  "event $name-old order.created",
	  "event $name-old order.paid",
	  "event $name-order order.created",
	  "event $name-order order.paid",
	  "movement $name-old capture", "movement $name-old hold",
	  "movement $name-order capture", "movement $name-order hold",
	  "order $name-old paid 2", "order $name-order paid 2",
	  "order $name-tomb cancelled 1";
}

my $outcomes = join "\n",
  qw(claimed completed claimed created applied applied tombstoned t);

foreach my $name (qw(keep drop inner outer commit rollback))
{
	$node->safe_psql('postgres',
		"SELECT order_idempotency.create_order('$name-old', 50, 'EUR', 'bob')"
	);
}

# Savepoints, at two depths.
$node->safe_psql('postgres',
	"BEGIN; SAVEPOINT a; SAVEPOINT b;\n"
	  . work('keep')
	  . "RELEASE b; RELEASE a; SAVEPOINT a;\n"
	  . work('drop')
	  . "ROLLBACK TO a;\n"
	  . "SAVEPOINT a; SAVEPOINT b;\n"
	  . work('inner')
	  . "RELEASE b; ROLLBACK TO a; COMMIT;");
is(found('keep'), after('keep'), 'work in released savepoints is all there');
is(found('drop'), before('drop'),
	'of work rolled back to a savepoint nothing is');
is(found('inner'), before('inner'),
	'nor of work released into one that is rolled back');
is($node->safe_psql('postgres', 'BEGIN; ' . work('drop') . 'COMMIT;'),
	$outcomes, 'what was rolled back can be done');
is(found('drop'), after('drop'), 'and then is all there');

# The same again within one transaction, between savepoints.
is( $node->safe_psql('postgres',
		"BEGIN; SAVEPOINT a;\n" . work('outer') . "ROLLBACK TO a;\n"
		  . work('outer')
		  . 'COMMIT;'),
	"$outcomes\n$outcomes",
	'a transaction can do again what it rolled back itself');
is(found('outer'), after('outer'), 'once');

# Two-phase commit.
my @prepared = qw(commit rollback);

foreach my $name (@prepared)
{
	is( $node->safe_psql('postgres',
			"BEGIN; SAVEPOINT a;\n" . work($name)
			  . "RELEASE a; PREPARE TRANSACTION '$name';"),
		$outcomes, "work can be prepared, to $name");
}

# Keys of a prepared transaction are held, and nothing of it shows.
sub held
{
	my ($when) = @_;

	foreach my $name (@prepared)
	{
		is(found($name), before($name), "$when: nothing of $name shows");
		is( $node->safe_psql('postgres', <<~"SQL"),
			$busy
			SELECT outcome FROM order_idempotency.claim_key('$name-key', '[1]');
			SELECT outcome FROM order_idempotency.claim_key('$name-leased');
			SELECT outcome FROM order_idempotency.create_order('$name-order', 100, 'EUR', 'alice', on_conflict => 'report');
			SELECT outcome FROM order_idempotency.transition_order('$name-old', 'paid', 'r1', on_conflict => 'report');
			SELECT outcome FROM order_idempotency.create_order('$name-tomb', 1, 'EUR', on_conflict => 'report');
			SQL
			join("\n", ('in_progress') x 5),
			"$when: keys of $name are in progress");
	}
	return;
}

held('prepared');
$node->stop('immediate');
$node->start;
held('after an immediate stop');
kill_server($node);
$node->start;
held('after kill -9 of everything');

# A session that waits for a prepared transaction is freed by its end.
my $waiters = OrderIdempotency::Sessions->new($node, 2,
	setup => 'SET order_idempotency.in_flight_wait = -1;');
foreach my $i (0, 1)
{
	$waiters->send($i,
		"SELECT outcome, response FROM order_idempotency.claim_key('$prepared[$i]-key', '[1]');"
	);
}
$waiters->wait_blocked(2);
$node->safe_psql('postgres', "COMMIT PREPARED 'commit'");
is($waiters->collect(0), "replayed|\"commit-done\"\n",
	'COMMIT PREPARED gives the waiter the result');
$node->safe_psql('postgres', "ROLLBACK PREPARED 'rollback'");
is($waiters->collect(1), "claimed|\n",
	'ROLLBACK PREPARED gives the waiter the key');
$waiters->quit;

is(found('commit'), after('commit'), 'what was committed is all there');
is(found('rollback'), before('rollback'),
	'of what was rolled back nothing is');
is( $node->safe_psql('postgres', <<~'SQL'),
	SELECT outcome FROM order_idempotency.claim_key('commit-key', '[1]');
	SELECT outcome FROM order_idempotency.claim_key('commit-leased');
	SELECT outcome FROM order_idempotency.create_order('commit-order', 100, 'EUR', 'alice');
	SELECT outcome FROM order_idempotency.transition_order('commit-old', 'paid', 'r1');
	SELECT outcome FROM order_idempotency.create_order('commit-tomb', 1, 'EUR', on_conflict => 'report');
	SQL
	join("\n", qw(replayed in_progress replayed replayed refused)),
	'keys of the committed one are taken');
is( $node->safe_psql('postgres', <<~'SQL'),
	SELECT outcome FROM order_idempotency.claim_key('rollback-key');
	SELECT outcome FROM order_idempotency.claim_key('rollback-leased');
	SELECT outcome FROM order_idempotency.create_order('rollback-order', 100, 'EUR', 'alice');
	SELECT outcome FROM order_idempotency.transition_order('rollback-old', 'paid', 'r1');
	SELECT outcome FROM order_idempotency.create_order('rollback-tomb', 1, 'EUR', on_conflict => 'report');
	SQL
	join("\n", qw(replayed claimed created applied created)),
	'keys of the one rolled back are free, but for what the waiter did');

# Committed by another session, and then lost power: it stays.
$node->safe_psql('postgres',
	"BEGIN;\nSELECT order_idempotency.create_order('late-order', 1, 'EUR');\n"
	  . "PREPARE TRANSACTION 'late';");
$node->safe_psql('postgres',
	"SET synchronous_commit = off; COMMIT PREPARED 'late'");
kill_server($node);
$node->start;
sql_is($node,
	q{SELECT state FROM order_idempotency.get_order('late-order')},
	'created', 'a transaction committed in its second phase survives a crash');
consistent($node, 'two-phase commit');

# Where the library is not preloaded nobody can raise synchronous_commit for a session
# that only commits.  PREPARE says so, once a session, if there are standbys to wait for.
my $bare = new_node('bare', conf => "shared_preload_libraries = ''\n");
my $prepare = join('', map { <<~"SQL" } 1, 2);
	BEGIN;
	SELECT order_idempotency.create_order('bare-$_', 1, 'EUR');
	PREPARE TRANSACTION 'bare-$_';
	COMMIT PREPARED 'bare-$_';
	SQL
my $warning = qr/WARNING: +COMMIT PREPARED may not wait for synchronous standbys/;

foreach my $names ('', 'elsewhere')
{
	$bare->append_conf('postgresql.conf', "synchronous_standby_names = '$names'\n");
	$bare->reload;
	poll($bare, 'postgres', "SELECT current_setting('synchronous_standby_names') = '$names'");

	my ($status, $out, $err) = $bare->psql('postgres', $prepare =~ s/bare/bare$names/gr);
	my @warnings = $err =~ /$warning/g;
	is("$status " . @warnings, $names ? '0 1' : '0 0', "not preloaded, standbys '$names'");
}
done_testing();
