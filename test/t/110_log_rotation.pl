# Promises 4, 8 and 10: events are kept for outbox_retention, and until every subscription
# has delivered them, and then go by TRUNCATE of a generation.  What a generation waits
# for and what not: a paused subscription, one that does not want the events, prepared
# transactions here and in another database, across a crash; a dump of several
# generations; a standby.  Then under load, with a crash in the midst: every event arrives at
# two subscriptions of different speed, once and in the order of its key, and everything
# that a seek found in the log comes again.
#
# Bugs that this is to catch: emptying what is old without asking who needs it; asking
# before the table is locked, not after (the seeks); holding a table for a transaction that
# wrote nothing there; a cursor that passes over events and is never recorded.  What the
# locks and the cursors decide is taken apart in rotate-outbox.spec and
# pgtap/rotation_outbox.sql.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use IPC::Run;
use OrderIdempotency::Copy;
use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

my $api = 'order_idempotency';
my $rotate = "CALL $api.rotate_outbox('0')";
my $node = new_drain_node('log_rotation',
	streaming => 1,
	conf => "order_idempotency.environment = 'test'\nlog_statement = none\n");
my $pool = OrderIdempotency::Sessions->new($node, 3);

# Sets a setting of the server's.
sub set
{
	my ($name, $value) = @_;

	$node->safe_psql('postgres', "ALTER SYSTEM SET order_idempotency.$name = '$value'");
	$node->reload;
	$node->poll_query_until('postgres', "SHOW order_idempotency.$name", $value) or die;
	return;
}

# The keys of what is in the log.
sub logged
{
	my ($db) = @_;

	return $node->safe_psql($db // 'postgres',
		"SELECT coalesce(string_agg(key, ' ' ORDER BY position), '') FROM $api.outbox");
}

# Rotates until the log is as it should be: a worker that reads it keeps it from
# being emptied for a moment.
sub rotate_until
{
	my ($condition, $what, $db) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	my $met = '';

	while ($met ne 't' && time < $deadline)
	{
		$node->safe_psql($db // 'postgres', $rotate);
		$met = $node->safe_psql($db // 'postgres', "SELECT $condition");
	}
	is($met, 't', $what);
	return;
}

my $empty = "NOT EXISTS (SELECT FROM $api.outbox)";

#----------------------------------------------------------------------------
# The maintenance process does it by itself.

subscribe($node, 'all');
$node->safe_psql('postgres', emit("old-$_")) foreach 1 .. 3;
drained($node, 'all');
is(logged(), 'old-1 old-2 old-3', 'what is delivered is kept');
set('outbox_retention', '1s');
$node->poll_query_until('postgres', "SELECT $empty") or die;
pass('for as long as outbox_retention says');
set('outbox_retention', '1d');

#----------------------------------------------------------------------------
# A subscription that is paused keeps what it has not delivered.

subscribe($node, 'slow', options => q('{"batch_size": 3}'));
$node->safe_psql('postgres', "SELECT $api.pause_subscription('slow')");
foreach my $i (1 .. 6)
{
	$node->safe_psql('postgres', emit("kept-$i"));
	drained($node, 'all');
	$node->safe_psql('postgres', $rotate);
}
is(logged(), 'kept-1 kept-2 kept-3 kept-4 kept-5 kept-6', 'a paused subscription keeps events');
is($node->safe_psql('postgres', "SELECT string_agg(held_by::text, ' ' ORDER BY generation) FROM $api.outbox_store"),
	'{slow} {slow} {slow} {slow}', 'in all four slots, of which each has some');
is($node->safe_psql('postgres', "SELECT count(*) FROM $api.generations WHERE ended_at IS NOT NULL AND store = 'outbox'"),
	'3', 'the last one grows');
$node->safe_psql('postgres', "SELECT $api.resume_subscription('slow')");
wait_for_worker($node, 'slow');
drained($node, 'slow');
is(events_of($node, 'slow.jsonl'), 'kept-1 kept-2 kept-3 kept-4 kept-5 kept-6', 'it gets them when it is resumed');
rotate_until($empty, 'then they go');

#----------------------------------------------------------------------------
# One that does not want them passes over them, and says so in the end: after 100000, or a
# minute.

$node->safe_psql('postgres', 'CREATE DATABASE shop');
create_extension($node, 'shop');
create_sink($node, 'shop');
subscribe($node, 'picky', db => 'shop', event_types => q(ARRAY['test.wanted']));
$node->safe_psql('shop', "SELECT count($api.emit_event('test.event', 'unwanted')) FROM generate_series(1, 100001)");
$node->poll_query_until('shop', "SELECT bool_and(held_by IS NULL) FROM $api.outbox_store")
  or die 'unwanted events are held';
rotate_until($empty, 'who does not want events does not hold them', 'shop');
cmp_ok($node->safe_psql('shop', "SELECT sum(bytes) FROM $api.outbox_store"), '<', 200000, 'nothing is left of their space');
$node->safe_psql('shop', "SELECT $api.drop_subscription('picky')");

#----------------------------------------------------------------------------
# Prepared transactions: one in another database keeps nothing, one here its
# generation, through a crash.

$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', "BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'elsewhere'");
$node->safe_psql('postgres', emit('beside'));
drained($node, $_) foreach qw(all slow);
rotate_until($empty, 'a prepared transaction of another database keeps nothing');

$node->safe_psql('postgres', 'BEGIN;' . emit('prepared') . "PREPARE TRANSACTION 'here'");
my $slot = $node->safe_psql('postgres', "SELECT slot FROM $api.outbox_store ORDER BY generation DESC LIMIT 1");
$node->safe_psql('postgres', $rotate);
foreach my $i (1 .. 5)
{
	$node->safe_psql('postgres', emit("after-$i"));
	drained($node, $_) foreach qw(all slow);
	rotate_until($empty, "generation $i after that of a prepared transaction goes");
}
kill_server($node);
$node->start;
$pool->reconnect;
wait_for_worker($node, $_) foreach qw(all slow);
$node->safe_psql('postgres', $rotate) foreach 1 .. 3;
is($node->safe_psql('postgres', "SELECT count(*) FROM $api.outbox_store WHERE slot = $slot AND ended_at IS NULL"), '1',
	'its own one stays, not even ended, through a crash');
$node->safe_psql('postgres', "COMMIT PREPARED 'here'");
drained($node, $_) foreach qw(all slow);
is((split / /, events_of($node, "$_.jsonl"))[-1], 'prepared', "and its event reaches $_") foreach qw(all slow);
rotate_until($empty, 'then it goes, too');
$node->safe_psql('other', "ROLLBACK PREPARED 'elsewhere'");

#----------------------------------------------------------------------------
# A dump of several generations.

subscribe($node, 'shop', db => 'shop');
$node->safe_psql('shop', "SELECT $api.pause_subscription('shop')");
$node->safe_psql('shop', emit("shop-$_") . $rotate) foreach 1 .. 3;
is($node->safe_psql('shop', "SELECT count(*) FROM $api.outbox_store WHERE held_by = '{shop}'"), '3', 'three generations with events');
$node->command_ok([ 'pg_dump', '-Fc', '-f', $node->basedir . '/dump', 'shop' ], 'dumped');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', 'copy', $node->basedir . '/dump' ], 'restored');
redirect_sink($node, 'copy', 'copied');
$node->safe_psql('copy', emit('of the copy') . $rotate) foreach 1 .. 2;
is(logged('copy'), 'shop-1 shop-2 shop-3 of the copy of the copy', 'a copy keeps all until its subscription is resumed');
$node->safe_psql('copy', "SELECT $api.resume_subscription('shop')");
wait_for_worker($node, 'shop', 'copy');
drained($node, 'shop', 'copy');
is(events_of($node, 'copied/shop.jsonl'), 'shop-1 shop-2 shop-3 of the copy of the copy', 'then all is delivered');
rotate_until($empty, 'and goes', 'copy');
is(logged('shop'), 'shop-1 shop-2 shop-3', 'the original has its own');
$node->safe_psql('shop', "SELECT $api.drop_subscription('shop')");
rotate_until($empty, 'until nobody needs it', 'shop');

#----------------------------------------------------------------------------
# Under load: ten rotations a second, three kinds of writers, two subscriptions,
# and when the crash is over one that is taken back to the start again and again.
# (Before, the sink would know the last events of its file when it is started anew, and
# not write them again.)

$node->safe_psql('postgres', <<~"SQL");
	CREATE TABLE keys AS SELECT i AS key, 0 AS n FROM generate_series(1, 20) i;
	ALTER TABLE keys ADD PRIMARY KEY (key);
	CREATE TABLE emitted (event_id uuid);
	CREATE FUNCTION write(k int) RETURNS void LANGUAGE sql AS \$\$
		WITH u AS (UPDATE keys SET n = n + 1 WHERE key = k RETURNING n)
		INSERT INTO emitted SELECT $api.emit_event('test.numbered', k::text, jsonb_build_object('n', n)) FROM u;
	\$\$;
	SQL

# A file with a script of pgbench's.
sub script
{
	my ($name, $text) = @_;

	append_to_file($node->basedir . "/$name.sql", $text);
	return ('-f', $node->basedir . "/$name.sql");
}

# Starts pgbench.
sub bench
{
	my ($seconds, @options) = @_;
	my $bench = { out => '', err => '' };

	$bench->{handle} = IPC::Run::start(
		[ $node->installed_command('pgbench'), '-n', '-T', $seconds, @options, $node->connstr('postgres') ],
		'>', \$bench->{out}, '2>', \$bench->{err});
	return $bench;
}

my $k = '\set k random(1, 20)' . "\n" . '\set ms random(1, 40)' . "\n";
my @writers = (
	script('quick', $k . "SELECT write(:k);\n"),
	script('late', $k . "BEGIN;\nSELECT write(:k);\n\\sleep :ms ms\nCOMMIT;\n"),
	script('undone', $k . "BEGIN;\nSELECT write(:k);\nSAVEPOINT a;\nSELECT write(:k);\nROLLBACK TO a;\nSELECT write(:k);\nCOMMIT;\n"));
my @rotations = script('rotate', "\\sleep 90 ms\nCALL $api.rotate_outbox('0');\n");

# What seeks found in the log, and from where on in the file it has to come again.
my @sought;

sub seek_back
{
	my $from = () = read_events($node, 'again.jsonl');
	my $ids = $pool->run(0, <<~"SQL");
		BEGIN;
		SELECT $api.seek_to_position('again', 0) IS NULL;
		SELECT event_id FROM $api.outbox;
		COMMIT;
		SQL

	push @sought, { from => $from, ids => [ $ids =~ /^([0-9a-f-]{36})$/mg ] };
	return;
}

my $writers = bench(30, '-c', 6, '-j', 2, @writers);
my $rotations = bench(30, '-c', 2, @rotations);

$node->poll_query_until('postgres', <<~"SQL") or die 'nothing is rotated';
	SELECT max(generation) > 20 FROM $api.generations WHERE store = 'outbox'
	SQL
kill_server($node);
$_->{handle}->finish foreach $writers, $rotations;
$node->start;
$pool->reconnect;
wait_for_worker($node, $_) foreach qw(all slow);
subscribe($node, 'again');
$writers = bench(5, '-c', 6, '-j', 2, @writers);
$rotations = bench(6, '-c', 2, @rotations);
seek_back() foreach 1 .. 50;
ok($writers->{handle}->finish, 'writers came to their end') or diag($writers->{err});
ok($rotations->{handle}->finish, 'rotations as well') or diag($rotations->{err});
drained($node, $_) foreach qw(all slow again);

my %emitted = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', 'SELECT event_id FROM emitted');
cmp_ok(scalar keys %emitted, '>', 500, keys(%emitted) . ' events were written');
foreach my $name (qw(all slow))
{
	my %count;

	$count{ $_->{id} }++ foreach grep { $_->{type} eq 'test.numbered' } read_events($node, "$name.jsonl");
	my @lost = grep { !$count{$_} } keys %emitted;
	my @ghosts = grep { !$emitted{$_} } keys %count;
	my @repeated = grep { $count{$_} > 1 } keys %count;

	is(scalar(@lost) . ' lost, ' . scalar(@ghosts) . ' ghosts, ' . scalar(@repeated) . ' repeated',
		'0 lost, 0 ghosts, 0 repeated', "$name: each event once");
	in_key_order($node, "$name.jsonl", $name);
}

my @again = map { $_->{id} } read_events($node, 'again.jsonl');
my ($found, @missing) = (0);
foreach my $seek (@sought)
{
	my %came = map { $_ => 1 } @again[ $seek->{from} .. $#again ];

	push @missing, grep { !$came{$_} } @{ $seek->{ids} };
	$found += @{ $seek->{ids} };
}
is(scalar @missing, 0, "what a seek found in the log came again ($found events in " . @sought . ' seeks)');
rotate_until($empty, 'all goes in the end');
cmp_ok($node->safe_psql('postgres', "SELECT max(generation) FROM $api.generations WHERE store = 'outbox'"), '>', 20,
	'after generations enough');

#----------------------------------------------------------------------------
# A standby takes over with what the log has.

$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('log_standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
symlink sink_dir($node), sink_dir($standby) or die;
$standby->start;
$node->safe_psql('postgres', "SELECT $api.pause_subscription('slow')");
foreach my $i (1 .. 3)
{
	$node->safe_psql('postgres', emit("failover-$i"));
	$node->safe_psql('postgres', $rotate);
}
drained($node, $_) foreach qw(all again);
is($node->safe_psql('postgres', "SELECT count(*) FROM $api.outbox_store WHERE held_by = '{slow}'"), '3', 'in three generations');
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', "SELECT count(*) FROM $api.outbox_store WHERE held_by = '{slow}'"), '3', 'a standby shows the same');
my ($ret, $out, $err) = $standby->psql('postgres', "\\set VERBOSITY sqlstate\n$rotate");
like($err, qr/25006/, 'it does not rotate');
$pool->quit;
$node->stop('immediate');
$standby->promote;
$standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die;
$standby->safe_psql('postgres', "SELECT $api.resume_subscription('slow')");
wait_for_worker($standby, 'slow');
drained($standby, $_) foreach qw(all slow again);
like(events_of($standby, 'slow.jsonl'), qr/ failover-1 failover-2 failover-3$/, 'promoted, it has all that is to be delivered');
$node = $standby;
rotate_until($empty, 'and rotates');
$standby->stop;
done_testing();
