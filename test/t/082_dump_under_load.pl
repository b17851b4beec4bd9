# Promises 1, 2, 4 and 10: a dump that is taken while eight clients write and
# workers deliver is one moment of the database.  What was acknowledged before
# the dump began is in it, what began after it had ended is not, and
# every order in it has its history, its money and its event.  Of each event, of
# the original's and of the copy's log, what the copy had behind it and what it sends
# makes one.
#
# Bugs that this catches, each of which was planted: a batch in progress that begins
# anew in the copy; late rows of the old log that are not looked for.

use strict;
use warnings;

use FindBin;
use IPC::Run;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Copy;
use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;

my $api = 'order_idempotency';
my $db = 'shop';
my $conf = "order_idempotency.environment = 'test'\n";
my $source = new_drain_node('source', conf => $conf);
my $target = new_drain_node('target', conf => $conf);
my $script = $source->basedir . '/load.sql';

$_->safe_psql('postgres', "CREATE ROLE publisher LOGIN; CREATE DATABASE $db")
  foreach $source, $target;
create_extension($source, $db);
create_sink($source, $db);
make_subscriptions($source, $db, 'start');

# Orders of a few keys, created, paid or cancelled, some claims, and now and
# then a rollback; "done" has a row for each one that was acknowledged.
$source->safe_psql($db, <<~SQL);
	CREATE TABLE acknowledged (key text, at timestamptz);
	SQL
append_to_file($script, <<~"SQL");
	\\set n random(1, 1000000000)
	\\set what random(1, 10)
	\\set ms random_exponential(0, 20, 8)
	BEGIN;
	SELECT FROM $api.claim_key('k-' || :n, scope => 'load');
	SELECT FROM $api.create_order('o-' || :n, 100, 'EUR', 'a-' || :what);
	\\if :what > 3
	SELECT FROM $api.transition_order('o-' || :n, 'paid');
	\\elif :what > 1
	SELECT FROM $api.cancel_order('o-' || :n);
	\\endif
	SELECT pg_sleep(:ms / 1000.0);
	\\if :what = 10
	ROLLBACK;
	\\else
	COMMIT;
	INSERT INTO acknowledged VALUES ('o-' || :n, clock_timestamp());
	\\endif
	SQL

my $load = IPC::Run::start(
	[
		$source->installed_command('pgbench'), '--no-vacuum',
		'--client=8', '--time=6', '--rate=300', "--file=$script",
		$source->connstr($db)
	],
	'>', \my $out, '2>', \my $err);

# the workers are at work, and one of them has more to do than it can
$source->safe_psql($db, <<~SQL);
	SELECT $api.emit_event('test.backlog', 'b-' || i) FROM generate_series(1, 5000) i
	SQL
$source->poll_query_until($db, <<~SQL) or die;
	SELECT bool_and(delivered > 50) FROM $api.subscription_status
	SQL
my $dump = $target->basedir . '/dump';
my $began = $source->safe_psql($db, 'SELECT clock_timestamp()');
$source->command_ok(
	[ 'pg_dump', '--format=directory', '--jobs=2', "--file=$dump", $db ],
	'dumped under load');
my $ended = $source->safe_psql($db, 'SELECT clock_timestamp()');
$source->poll_query_until($db, <<~SQL) or die;
	SELECT count(*) > 50 FROM acknowledged WHERE at > '$ended'
	SQL
$load->finish;
is($load->result(0), 0, 'the load has not noticed') or diag($err);

$target->command_ok(
	[ 'pg_restore', '--exit-on-error', '--jobs=2', '--dbname', $db, $dump ], 'restored');
redirect_sink($target, $db);

# What was acknowledged, and what came later.
my $keys = join ', ', map { "('$_')" } split /\n/,
  $source->safe_psql($db, "SELECT key FROM acknowledged WHERE at < '$began'");
my $later = join ', ', map { "('$_')" } split /\n/,
  $source->safe_psql($db, "SELECT key FROM $api.orders WHERE created_at > '$ended'");

sql_is($target, <<~SQL, 't|0', 'all that was acknowledged before it is in it', $db);
	SELECT count(*) > 50, count(*) FILTER (WHERE o.key IS NULL)
	FROM (VALUES $keys) AS a(key) LEFT JOIN $api.orders o USING (key)
	SQL
sql_is($target, "SELECT count(*) FROM $api.orders WHERE key IN ($later)",
	'0', 'and nothing that began after it', $db);
consistent($target, 'the dump', $db);
sql_is($target, <<~SQL, 't|0', 'an order is there if and only if its claim is', $db);
	SELECT count(*) > 100, count(*) FILTER (WHERE (o.key IS NOT NULL) <> (c.outcome = 'replayed'))
	FROM (SELECT key FROM $api.orders UNION VALUES $keys, $later) AS a(key)
		LEFT JOIN $api.orders o USING (key)
		CROSS JOIN LATERAL $api.claim_key('k-' || substr(a.key, 3), scope => 'load') c
	SQL

# What the copy has behind it is what the original had recorded: so many of
# the events in its files, from the first.
my %before;

foreach my $name (qw(whole pairs orders))
{
	my $count = $target->safe_psql($db,
		"SELECT delivered FROM $api.subscription_status WHERE name = '$name'");
	my @sent = @{ sent_ids($source, $db)->{$name} };

	cmp_ok($count, '>', 50, "$name had sent some");
	cmp_ok($count, '<', scalar @sent, 'and not all');
	$before{$name} = [ @sent[ 0 .. $count - 1 ] ];
}
is_disarmed($target, $db, 'dump', 'the dump');
resume($target, $db);
$target->safe_psql($db, "SELECT FROM $api.create_order('last', 1, 'EUR')");
publishes_the_rest($target, $db, \%before, 'the copy');

drained($source, $_, $db) foreach qw(whole pairs orders);
foreach my $name (qw(whole pairs))
{
	all_once($source, "$db-$name.jsonl", "the original, $name", $db);
	positions_grow($source, "$db-$name.jsonl", "the original, $name");
}
consistent($source, 'the original', $db);
unlike(slurp_file($_->logfile), qr/TRAP|PANIC|terminated by signal/, 'nothing crashed')
  foreach $source, $target;
done_testing();
