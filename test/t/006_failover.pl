# Promise 1 across failover, and promise 10's standbys: on a standby the
# functions give the server's own error; after promotion everything goes on, and
# keys taken before are taken.  With a synchronous standby nothing that was
# acknowledged is lost, also where a session runs with synchronous_commit = off.
#
# Bugs that this catches: raising synchronous_commit only to local durability (or
# by forcing a flush), which does not wait for the standby; answering by a commit that the
# standby does not have, and two-phase commits that do not wait (found by test/torture); writing during recovery; keeping in the
# primary's memory who holds a key.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $api = 'order_idempotency';
my $primary = new_node('primary', streaming => 1);
my $standby = PostgreSQL::Test::Cluster->new('standby');

$primary->backup('base');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
$primary->safe_psql('postgres', <<~"SQL");
	SELECT $api.claim_key('k', '[1]'), $api.complete_key('k', '"done"');
	SELECT $api.claim_key('l', lease => '1 hour');
	SELECT $api.create_order('o', 100, 'EUR', 'alice');
	SELECT $api.create_order('p', 100, 'EUR', 'alice');
	SELECT $api.transition_order('p', 'paid', 'r1');
	SELECT $api.cancel_order('t', if_missing => 'tombstone');
	SQL
$primary->wait_for_catchup($standby);

# What reads works on a standby.
is( $standby->safe_psql('postgres', <<~"SQL"),
	SELECT state, version FROM $api.get_order('p');
	SELECT version, state FROM $api.order_history('p');
	SELECT count(*) FROM $api.outbox;
	SELECT account, balance FROM $api.account_balance ORDER BY account;
	SELECT count(*) FROM $api.abandoned_claims;
	SELECT count(*) FROM $api.subscription_status;
	SQL
	"paid|2\n1|created\n2|paid\n3\nalice|-200\nescrow|100\nrevenue|100\n0\n0",
	'a standby shows orders, history, log and balances');

# What may write does not, whether or not it would have had to.
my @writing = (
	"claim_key('new')", "claim_key('k', '[1]')", "claim_key('l')",
	"complete_key('l', attempt => 1)",
	"extend_key('l', '1 hour', 'default', 1)",
	"release_key('l', attempt => 1)",
	"create_order('new', 1, 'EUR')",
	"create_order('o', 100, 'EUR', 'alice')",
	"transition_order('o', 'paid')",
	"transition_order('p', 'paid')",
	"cancel_order('o')",
	"cancel_order('new', if_missing => 'tombstone')",
	"emit_event('parcel.sent', 'p')");

foreach my $call (@writing)
{
	my ($status, $out, $err) = $standby->psql('postgres',
		"\\set VERBOSITY sqlstate\nSELECT $api.$call;");

	like($err, qr/ERROR:\s+25006/, "on a standby $call is refused");
}

# A synchronous standby that is away keeps commits waiting, whatever the session
# says; then it comes, and they are done.
$primary->append_conf('postgresql.conf', "synchronous_standby_names = '*'");
$primary->reload;
$primary->safe_psql('postgres',
	"BEGIN; SELECT $api.create_order('before', 1, 'EUR', 'alice'); PREPARE TRANSACTION 'before'");
$standby->stop;
my $pool = OrderIdempotency::Sessions->new($primary, 6,
	setup => "SET synchronous_commit = off;\n"
	  . 'SET order_idempotency.in_flight_wait = -1;');
$pool->send(0, "SELECT outcome FROM $api.claim_key('sync', '[1]');");
$pool->send(1, "SELECT outcome FROM $api.create_order('sync', 1, 'EUR');");
$pool->send(2, "SELECT outcome FROM $api.transition_order('o', 'paid', 'r1');");
$pool->send(3, 'BEGIN;'
	  . " SELECT order_idempotency.emit_event('parcel.sent', 'sync') \\gset\n"
	  . 'SET LOCAL synchronous_commit = local; COMMIT; SELECT 1;');
$pool->send(4, "BEGIN; SELECT outcome FROM $api.create_order('during', 1, 'EUR', 'alice'); PREPARE TRANSACTION 'during';");
$pool->send(5, "SET synchronous_commit = local; COMMIT PREPARED 'before'; SELECT 2;");
my $pids = $pool->pids;
ok( $primary->poll_query_until('postgres',
		"SELECT count(*) = 6 FROM pg_stat_activity"
		  . " WHERE pid IN ($pids) AND wait_event = 'SyncRep'"),
	'commits wait for the synchronous standby');
$standby->start;
is(join('', $pool->collect_all), "claimed\ncreated\napplied\n1\ncreated\n2\n",
	'and are acknowledged when it has them');

$pool->run(4, "COMMIT PREPARED 'during';");

# A commit whose session is terminated while it waits is visible, and the standby does not
# have it.  Who asks again is not answered before it has, or the answer could turn out
# to be untrue: a repeat, an illegal change, a claim that is replayed.  No two of them may wait for
# the same place in the WAL: a server with assertions (make sanitized) sees that.
$standby->stop;
$pool->send(0, "BEGIN; SELECT outcome FROM $api.create_order('seen', 1, 'EUR', 'alice');"
	  . " SELECT outcome FROM $api.claim_key('seen', '[1]'); COMMIT;");
my $first = $pool->pid(0);
ok($primary->poll_query_until('postgres',
		"SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $first"),
	'a commit waits for the standby');
$primary->psql('postgres', "SELECT pg_terminate_backend($first)");
ok($primary->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM $api.orders WHERE key = 'seen'"),
	'and is visible when its session is terminated');
my @asking = (
	"SELECT outcome FROM $api.create_order('seen', 1, 'EUR', 'alice');",
	"SELECT outcome FROM $api.claim_key('seen', '[1]');",
	"SELECT outcome FROM $api.transition_order('seen', 'completed', on_conflict => 'report');");
my $again = OrderIdempotency::Sessions->new($primary, scalar @asking, setup => 'SET synchronous_commit = off;');
$again->send($_, $asking[$_]) foreach 0 .. $#asking;
my $asking = $again->pids;
ok($primary->poll_query_until('postgres', "SELECT count(*) = " . @asking . " FROM pg_stat_activity"
		  . " WHERE pid IN ($asking) AND wait_event = 'SyncRep'"),
	'whoever is answered by it waits, too');
$standby->start;
is(join('', $again->collect_all), "replayed\nreplayed\nillegal\n", 'and is answered when the standby has it');
$pool = OrderIdempotency::Sessions->new($primary, 2, setup => 'SET order_idempotency.in_flight_wait = -1;');

# The primary dies.  One request had its answer, one had not.
is($pool->run(0, "SELECT outcome FROM $api.claim_key('acknowledged', '[1]');"),
	'claimed', 'an acknowledged claim');
is( $pool->run(1, "BEGIN; SELECT outcome FROM $api.claim_key('open', '[1]');"),
	'claimed', 'a claim whose transaction is open');
kill_server($primary);
$pool->collect_all;
$standby->promote;
$standby->append_conf('postgresql.conf', "synchronous_standby_names = ''");
$standby->reload;

is( $standby->safe_psql('postgres', <<~"SQL"),
	SELECT outcome FROM $api.claim_key('acknowledged', '[1]');
	SELECT outcome FROM $api.claim_key('open', '[1]');
	SELECT outcome, response FROM $api.claim_key('k', '[1]');
	SELECT outcome FROM $api.claim_key('k', '[2]');
	SELECT outcome FROM $api.claim_key('l');
	SELECT $api.complete_key('l', '1', attempt => 1);
	SELECT outcome FROM $api.claim_key('sync', '[1]');
	SELECT outcome FROM $api.create_order('sync', 1, 'EUR');
	SELECT outcome FROM $api.transition_order('o', 'paid', 'r1');
	SELECT outcome FROM $api.create_order('t', 1, 'EUR', on_conflict => 'report');
	SQL
	join("\n",
		qw(replayed claimed replayed|"done" mismatch in_progress completed
		  replayed replayed replayed refused)),
	'after promotion keys that were taken are taken, the open one is free');
is( $standby->safe_psql('postgres', <<~"SQL"),
	SELECT outcome FROM $api.create_order('after', 1, 'EUR', 'alice');
	SELECT outcome FROM $api.transition_order('after', 'paid');
	SELECT outcome FROM $api.transition_order('o', 'completed');
	SELECT outcome FROM $api.cancel_order('p');
	SQL
	"created\napplied\napplied\nignored", 'and orders go on');
sql_is($standby, "SELECT count(*) FROM $api.outbox WHERE key = 'sync'", '2',
	'the log has what was acknowledged');
consistent($standby, 'after promotion');
done_testing();
