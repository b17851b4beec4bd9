# Promise 10: roles, servers, user mappings, subscriptions and the extension come and go while
# clients write and workers deliver: at once, without a crash, and without a word repeated over and
# over in the log; what is still there afterwards goes on where it was.  A standby is silent, and at work
# as soon as it is promoted.
#
# Bugs that this catches: a worker that goes on for a role that was dropped, or is started
# for it again and again; a subscription whose place is lost with its owner or its server; a command
# that waits for a delivery; a worker in a standby, or none after its promotion.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = new_drain_node('objects', streaming => 1);
my $api = 'order_idempotency';
my $dir = sink_dir($node);

# how long a command may take; five seconds, but the machine may be busy
my $at_once = 15;

# Runs a command, and says how long it took.
sub command
{
	my ($what, $sql, $db) = @_;
	my $began = time;
	my ($ret, $out, $err) = $node->psql($db // 'postgres', $sql);
	my $took = time - $began;

	is($ret, 0, $what) or diag $err;
	cmp_ok($took, '<', $at_once, "$what: at once");
	note sprintf '%s: %.2f s', $what, $took;
	return;
}

# Waits until the status of a subscription is like this.
sub status_is
{
	my ($name, $condition, $what) = @_;

	ok(poll($node, 'postgres', "SELECT $condition FROM $api.subscription_status WHERE name = '$name'"), $what);
	return;
}

# What the server said of itself since then: statements, and what they were answered, left out.
sub own_words
{
	my ($from) = @_;

	return grep { /^[-0-9]+ \S+ UTC \[\d+\] (?!\S+\.pl )/ && !/checkpoint|statement:/ }
	  split /\n/, slurp_file($node->logfile, $from);
}

# -- what is there ------------------------------------------------------------------

$node->safe_psql('postgres', <<~SQL);
	CREATE ROLE owner LOGIN;
	SELECT $api.grant_operator('owner');
	GRANT USAGE ON FOREIGN SERVER files TO owner;
	SET SESSION AUTHORIZATION owner;
	SELECT $api.create_subscription('theirs', 'files');
	SQL
subscribe($node, 'main');
$node->safe_psql('postgres', <<~SQL);
	CREATE SERVER mapped FOREIGN DATA WRAPPER order_idempotency_file OPTIONS (path '$dir');
	CREATE USER MAPPING FOR PUBLIC SERVER mapped;
	SELECT $api.create_subscription('mapped', 'mapped');
	SQL
wait_for_worker($node, $_) foreach qw(theirs mapped);
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
symlink $dir, sink_dir($standby) or die;
$standby->start;

# clients write all the time, here and in another database
$node->safe_psql('postgres', 'CREATE DATABASE shop');
create_extension($node, 'shop');
my $load = $node->basedir . '/load.sql';
append_to_file($load, join '', (emit('load') . "\n") x 3000);
my $pool = OrderIdempotency::Sessions->new($node, 1);
my $clients = OrderIdempotency::Sessions->new($node, 1, db => 'shop');
$_->send(0, "\\o /dev/null\n\\i $load\n\\o\n") foreach $pool, $clients;

# -- the extension --------------------------------------------------------------------

foreach my $round (1 .. 3)
{
	create_sink($node, 'shop');
	$node->safe_psql('shop', "SELECT $api.create_subscription('there', 'files', topic => 'there-$round.jsonl')");
	wait_for_worker($node, 'there', 'shop') if $round < 3;
	$node->safe_psql('shop', emit("round-$round")) if $round == 3;
	drained($node, 'there', 'shop') if $round == 3;
	command("DROP EXTENSION, $round", 'DROP EXTENSION order_idempotency CASCADE', 'shop');
	command("CREATE EXTENSION, $round", 'CREATE EXTENSION order_idempotency', 'shop');
}
like(events_of($node, 'there-3.jsonl'), qr/round-3/, 'the new one works');

# -- the owner --------------------------------------------------------------------------

my (undef, undef, $err) = $node->psql('postgres', 'DROP ROLE owner');
like($err, qr/cannot be dropped because some objects depend on it.*privileges for (?:foreign )?server files/s,
	'an owner is not dropped while he may use the server');
command('DROP ROLE', 'DROP OWNED BY owner; DROP ROLE owner');
status_is('theirs', q(state = 'stopped' AND pid IS NULL AND detail ~ 'owner was dropped'), 'his subscription has no worker');
my $log = -s $node->logfile;

# -- the server -------------------------------------------------------------------------

(undef, undef, $err) = $node->psql('postgres', 'DROP SERVER mapped');
like($err, qr/user mapping/, 'a server is not dropped while there are user mappings');
command('DROP USER MAPPING', 'DROP USER MAPPING FOR PUBLIC SERVER mapped');
$node->safe_psql('postgres', emit('unmapped'));
drained($node, 'mapped');
like(events_of($node, 'mapped.jsonl'), qr/unmapped/, 'goes on');
$node->safe_psql('postgres', 'CREATE USER MAPPING FOR PUBLIC SERVER mapped');
command('DROP SERVER', 'DROP SERVER mapped CASCADE');
$node->safe_psql('postgres', emit('unserved'));
status_is('mapped', q(state = 'retrying' AND last_error ~ 'server "mapped" does not exist' AND detail ~ 'last_error'),
	'a subscription without a server says so');

# -- quiet ------------------------------------------------------------------------------

# with all of this as it is, the server has nothing to say
my $words = own_words($log);
$node->safe_psql('postgres', 'SELECT pg_sleep(10)');
my @more = own_words($log);
cmp_ok(@more - $words, '<=', 2, sprintf '%d lines a minute in the log', (@more - $words) * 6)
  or diag join "\n", @more;
sql_is($node, <<~'SQL', '0', 'no worker is started for who is gone');
	SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'order_idempotency worker' AND usename IS DISTINCT FROM current_user
	SQL

# -- back again --------------------------------------------------------------------------

$node->safe_psql('postgres', "CREATE SERVER mapped FOREIGN DATA WRAPPER order_idempotency_file OPTIONS (path '$dir')");
$node->safe_psql('postgres', "CREATE ROLE other LOGIN; SELECT $api.grant_operator('other')");
(undef, undef, $err) = $node->psql('postgres',
	"SET SESSION AUTHORIZATION other; SELECT $api.resume_subscription('theirs')");
like($err, qr/must be owner/, 'not anybody takes it over');
command('resume_subscription', "SELECT $api.resume_subscription('theirs')");
foreach my $round (1 .. 3)
{
	command("drop_subscription, $round", "SELECT $api.drop_subscription('main')");
	$node->safe_psql('postgres', "SELECT $api.create_subscription('main', 'files', options => '{\"from\": \"start\"}')");
}
$pool->collect(0);
$clients->collect(0);
$_->quit foreach $pool, $clients;
drained($node, $_) foreach qw(main mapped theirs);
all_once($node, "$_.jsonl", $_) foreach qw(main mapped theirs);

# -- a standby -----------------------------------------------------------------------------

sql_is($standby, q(SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'order_idempotency%'), '0',
	'a standby has no process of ours');
$node->wait_for_catchup($standby);
$node->stop('fast');
$standby->promote;
my $began = time;
$standby->safe_psql('postgres', emit('promoted'));
usleep(20_000) until events_of($standby, 'main.jsonl') =~ /promoted$/ || time > $began + 180;
cmp_ok(time - $began, '<', $at_once, 'at work as soon as it is promoted');
note sprintf 'promoted: at work after %.2f s', time - $began;
drained($standby, $_) foreach qw(main mapped theirs);
all_once($standby, "$_.jsonl", "promoted, $_") foreach qw(main mapped theirs);
unlike(slurp_file($_->logfile), qr/TRAP|PANIC|terminated by signal/, 'nothing crashed') foreach $node, $standby;
$standby->stop;
done_testing();
