# Promise 10: commands that want a database for themselves get it although workers
# are busy there, without a word of who has no right to them; and when they are over,
# done or not, the workers are back, and go on where they were.
#
# Bugs that this catches: a worker in the way of RENAME, SET TABLESPACE, TEMPLATE or
# DROP; one that comes back while the database is locked, or does not come back when
# the command failed, was rolled back or killed; a copy that sends the original's events;
# slots that stay behind for databases that are gone; workers that anybody can stop.  Tried
# with these planted: a launcher that does not look at the lock, an end that counts as
# a failure, slots that are not freed.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# four slots are enough for all that is there at a time
my $node = new_drain_node('commands', conf => <<~'CONF');
	order_idempotency.max_subscriptions = 4
	allow_in_place_tablespaces = on
	CONF
my $api = 'order_idempotency';

# how long a command may take; five seconds, but the machine may be busy
my $at_once = 15;

# Has a lot of events written in a database, and waits until its worker is at them.
my $backlog = 0;
sub keep_busy
{
	my ($db) = @_;

	wait_for_worker($node, 'audit', $db);
	$backlog++;
	$node->safe_psql($db, <<~"SQL");
		SELECT count($api.emit_event('test.event', 'key-' || i % 7, jsonb_build_object('n', $backlog * 10000 + i)))
		FROM generate_series(1, 500) i
		SQL
	poll($node, $db, <<~"SQL") or die "the worker in $db does nothing";
		SELECT delivered > ($backlog - 1) * 500 FROM $api.subscription_status WHERE name = 'audit'
		SQL
	return;
}

# Runs a command, and says how long it took.
sub command
{
	my ($what, $sql) = @_;
	my $began = time;
	my ($ret, $out, $err) = $node->psql('postgres', $sql);
	my $took = time - $began;

	is("$err", '', $what);
	cmp_ok($took, '<', $at_once, sprintf '%s: at once', $what);
	note sprintf '%s: %.2f s', $what, $took;
	return;
}

# Checks that a command is refused, and that the worker in "shop" has not ended.
sub refused
{
	my ($what, $pattern, $sql) = @_;
	my $pid = wait_for_worker($node, 'audit', 'shop');
	my (undef, undef, $err) = $node->psql('postgres', $sql);

	like($err, $pattern, "$what: refused");
	is(worker_pid($node, 'audit', 'shop'), $pid, "$what: the worker goes on");
	return;
}

# The workers that are connected to a database, or about to.
sub workers_in
{
	my ($db) = @_;

	return $node->safe_psql('postgres', <<~"SQL");
		SELECT count(*) FROM pg_stat_activity a JOIN pg_database d ON d.oid = a.datid
		WHERE d.datname = '$db' AND backend_type LIKE 'order_idempotency%'
		SQL
}

# Checks that all events of "shop" are in its file, each once, in order.
sub whole
{
	my ($what) = @_;

	drained($node, 'audit', 'shop');
	all_once($node, 'shop.jsonl', $what, 'shop');
	in_key_order($node, 'shop.jsonl', $what);
	return;
}

# Two databases at work: clients of the first write all the time.
subscribe($node, 'main', options => q('{"batch_size": 5}'));
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('postgres', "CREATE TABLESPACE elsewhere LOCATION ''");
create_extension($node, 'shop');
create_sink($node, 'shop');
subscribe($node, 'audit', db => 'shop', topic => q('shop.jsonl'), options => q('{"batch_size": 5}'));
my $pool = OrderIdempotency::Sessions->new($node, 2);
my $load = $node->basedir . '/load.sql';
append_to_file($load, join '', (emit('load') . "\n") x 6000);
$pool->send($_, "\\o /dev/null\n\\i $load\n\\o\n") foreach 0, 1;

# -- done ------------------------------------------------------------------------

my $log = -s $node->logfile;
foreach my $round (1, 2)
{
	my $there = $round == 1 ? 'elsewhere' : 'pg_default';
	my $strategy = $round == 1 ? 'wal_log' : 'file_copy';

	keep_busy('shop');
	command("rename, $round", 'ALTER DATABASE shop RENAME TO store');
	keep_busy('store');
	command("rename back, $round", 'ALTER DATABASE store RENAME TO shop');
	keep_busy('shop');
	command("move, $round", "ALTER DATABASE shop SET TABLESPACE $there");
	keep_busy('shop');
	command("copy, $round", "CREATE DATABASE copy TEMPLATE shop STRATEGY $strategy");
	sql_is($node, "SELECT state, pid FROM $api.subscription_status", 'disarmed|', 'the copy is disarmed', 'copy');
	$node->safe_psql('copy', emit('copied'));
	keep_busy('shop');
	command("another owner, $round", 'ALTER DATABASE shop OWNER TO CURRENT_USER');
	whole("round $round");
	unlike(events_of($node, 'shop.jsonl'), qr/copied/, 'nothing comes from the copy');
	command("drop of the copy, $round", 'DROP DATABASE copy');
}
unlike(slurp_file($node->logfile, $log), qr/^.*(?:WARNING|PANIC|being accessed).*$/m, 'without a word');
sql_is($node, "SELECT last_error FROM $api.subscription_status", '', 'nor one in the status', 'shop');

# -- not done --------------------------------------------------------------------

$node->safe_psql('postgres', 'CREATE ROLE creator LOGIN CREATEDB; CREATE ROLE owner LOGIN');
refused('a user renames', qr/must be owner/, 'SET SESSION AUTHORIZATION creator; ALTER DATABASE shop RENAME TO mine');
refused('a user copies', qr/permission denied to copy/,
	'SET SESSION AUTHORIZATION creator; CREATE DATABASE mine TEMPLATE shop');
refused('a user moves', qr/must be owner/,
	'SET SESSION AUTHORIZATION creator; ALTER DATABASE shop SET TABLESPACE elsewhere');
refused('a user drops', qr/must be owner/, 'SET SESSION AUTHORIZATION creator; DROP DATABASE shop');
refused('no name', qr/does not exist/, 'ALTER DATABASE nowhere RENAME TO shop');
refused('in a transaction', qr/cannot run inside a transaction block/,
	'BEGIN; CREATE DATABASE mine TEMPLATE shop');
$node->safe_psql('postgres', 'ALTER DATABASE shop OWNER TO owner');
refused('an owner who may not rename', qr/permission denied to rename/,
	'SET SESSION AUTHORIZATION owner; ALTER DATABASE shop RENAME TO mine');
refused('read-only', qr/read-only transaction/,
	'BEGIN READ ONLY; ALTER DATABASE shop RENAME TO mine');

# One that fails: a client is in the way, or the name is taken.
my $client = $node->background_psql('shop');
keep_busy('shop');
my (undef, undef, $err) = $node->psql('postgres', 'ALTER DATABASE shop RENAME TO mine');
like($err, qr/being accessed by other users.*There is 1 other session/s, 'a client is in the way, and nobody else');
$client->quit;
whole('a command that failed');
$node->psql('postgres', 'ALTER DATABASE shop RENAME TO postgres');
whole('another one');

# In a transaction the database is locked until its end, however that comes.  No
# worker is there meanwhile, nor waits to be let in; others are not held up.
foreach my $end ('ROLLBACK', 'COMMIT', 'terminated', 'killed')
{
	my $session = OrderIdempotency::Sessions->new($node, 1);

	keep_busy('shop');
	$session->run(0, 'BEGIN; ALTER DATABASE shop RENAME TO store;');
	is(workers_in('shop'), 0, "$end: no worker is left");
	$node->safe_psql('postgres', "SELECT $api.create_subscription('meanwhile', 'files', topic => 'meanwhile.jsonl')");
	wait_for_worker($node, 'meanwhile');
	sql_is($node, <<~'SQL', '0', "$end: none waits for the lock");
		SELECT count(*) FROM pg_locks WHERE NOT granted AND classid = 'pg_database'::regclass
		SQL
	$node->safe_psql('postgres', "SELECT $api.drop_subscription('meanwhile')");
	if ($end eq 'terminated')
	{
		$node->safe_psql('postgres', "SELECT pg_terminate_backend(@{[ $session->pid(0) ]}, 10000)");
	}
	elsif ($end eq 'killed')
	{
		kill 'KILL', $session->pid(0);
	}
	else
	{
		$session->run(0, "$end;");
	}
	$session->quit;
	wait_until_up($node);
	$node->safe_psql('postgres', 'ALTER DATABASE store RENAME TO shop') if $end eq 'COMMIT';
	whole($end);
}

# -- databases that come and go ----------------------------------------------------

# Each takes a slot; those left behind would soon be too many.
foreach my $n (1 .. 5)
{
	$node->safe_psql('postgres', "CREATE DATABASE passing");
	create_extension($node, 'passing');
	create_sink($node, 'passing');
	subscribe($node, 'passing', db => 'passing', topic => "'passing-$n.jsonl'");
	subscribe($node, 'beside', db => 'passing', topic => "'beside-$n.jsonl'");
	$node->safe_psql('passing', emit("event-$n"));
	drained($node, $_, 'passing') foreach qw(passing beside);
	is(events_of($node, "passing-$n.jsonl"), "event-$n", "database $n has its workers");
	if ($n % 2 == 1)
	{
		command("drop $n", 'DROP DATABASE passing');
		next;
	}

	# one that takes no connections any more
	$node->safe_psql('postgres', 'ALTER DATABASE passing ALLOW_CONNECTIONS false');
	$node->safe_psql('postgres', <<~'SQL');
		SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'order_idempotency worker'
		SQL
	poll($node, 'postgres', <<~'SQL') or die;
		SELECT count(*) = 0 FROM pg_stat_activity a JOIN pg_database d ON d.oid = a.datid WHERE d.datname = 'passing'
		SQL
	command("drop $n", 'DROP DATABASE passing');
}
unlike(slurp_file($node->logfile), qr/not currently accepting connections/,
	'nobody knocks where no connections are allowed');
unlike(slurp_file($node->logfile), qr/have no worker/, 'no slot was left behind');
wait_for_worker($node, 'main');
whole('at the end');

$pool->collect($_) foreach 0, 1;
$pool->quit;
drained($node, 'main');
all_once($node, 'main.jsonl', 'the database beside it');
unlike(slurp_file($node->logfile), qr/TRAP|PANIC|terminated by signal (?!9)/, 'nothing crashed');
done_testing();
