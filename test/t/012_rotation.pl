# Promises 1, 8 and 10: what a rotation of the key store has to wait for and what not,
# where the isolation specs cannot look: a claim that is stopped inside the gate,
# prepared transactions across a crash, crashes between the steps; and that
# expiry neither reads nor deletes rows.
#
# Bugs that this catches: rotating without the gate, or leaving the gate before the
# row is stored (two winners); queueing for the gate for as long as it takes (claims
# stand still); reading a generation to see whether it may go; DELETE.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

my $api = 'order_idempotency';
my $node = new_node('rotation', conf => "autovacuum = off\n");
my $rotate = "CALL $api.rotate_keys('0')";

$node->safe_psql('postgres', 'CREATE EXTENSION pgstattuple');

# The generations that are listed, and which of them have ended.
sub generations
{
	return $node->safe_psql('postgres', <<~"SQL");
		SELECT string_agg(generation || ':' || slot || CASE WHEN ended_at IS NULL THEN '' ELSE 'e' END, ' '
			ORDER BY generation)
		FROM $api.generations WHERE store = 'claims'
		SQL
}

# How many keys are on the list twice.
sub doubles
{
	return $node->safe_psql('postgres', <<~"SQL");
		SELECT count(*) FROM (SELECT FROM $api.claims GROUP BY key_hash HAVING count(*) > 1) d
		SQL
}

#----------------------------------------------------------------------------
# A restored database is left alone until it is written to.

sql_is($node, $rotate, '|0', 'nothing is begun before the first claim');
is(generations(), '', 'and nothing noted');

#----------------------------------------------------------------------------
# A claim that stops inside the gate, in a trigger of the owner's, with the list
# in its hands and its row not stored.

my $pool = OrderIdempotency::Sessions->new($node, 4,
	setup => 'SET order_idempotency.in_flight_wait = -1; SET order_idempotency_test.stop = off;');

$node->safe_psql('postgres', <<~"SQL");
	SELECT $api.complete_key('none');
	CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS \$\$
	BEGIN
		IF current_setting('order_idempotency_test.stop', true) = 'on' THEN
			PERFORM pg_advisory_xact_lock_shared(1);
		END IF;
		RETURN NEW;
	END \$\$;
	CREATE TRIGGER stop BEFORE INSERT ON $api.claims_0 FOR EACH ROW EXECUTE FUNCTION stop();
	SQL

$pool->run(0, 'SELECT pg_advisory_lock(1);');
$pool->send(1, <<~"SQL");
	SET order_idempotency_test.stop = on;
	SELECT outcome FROM $api.claim_key('gate');
	SET order_idempotency_test.stop = off;
	SQL
$pool->wait_blocked(1);

my ($status, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$rotate");
like($err, qr/ERROR:  55P03: could not rotate the key store/, 'a claim in the gate keeps it open');
is(generations(), '1:0', 'no generation begins');

# one who rotates knocks at the gate for seconds; claims go on
$pool->send(2, $rotate);
my ($slowest, $claims) = (0, 0);
my $knocking = 1;
while ($knocking)
{
	my $start = Time::HiRes::time();

	$pool->run(3, "SELECT outcome FROM $api.claim_key('knock ' || $claims);");
	my $took = Time::HiRes::time() - $start;
	$slowest = $took if $took > $slowest;
	$claims++;
	$knocking = $node->safe_psql('postgres',
		'SELECT count(*) FROM pg_stat_activity WHERE state <> \'idle\' AND pid = ' . $pool->pid(2));
}
like($pool->collect(2), qr/55P03/, 'who rotates gives up in the end');
cmp_ok($claims, '>', 3, "$claims claims were made meanwhile");
cmp_ok($slowest, '<', 1, 'none took a second');
diag("slowest claim beside somebody at the gate: $slowest s");

# somebody else claims the key; then the first one goes on
is($pool->run(3, "SELECT outcome FROM $api.claim_key('gate');"), 'claimed', 'another session claims the key');
$pool->run(0, 'SELECT pg_advisory_unlock(1);');
like($pool->collect(1), qr/^replayed$/m, 'the one in the gate then does not');
is($node->safe_psql('postgres', $rotate), '2|0', 'and now the gate can be shut');
is(doubles(), '0', 'one winner');
$node->safe_psql('postgres', "DROP TRIGGER stop ON $api.claims_0");

#----------------------------------------------------------------------------
# Who else may not shut the gate: another who rotates.

$pool->run(0, "BEGIN; LOCK TABLE $api.generations IN SHARE ROW EXCLUSIVE MODE;");
$pool->send(1, "SELECT outcome FROM $api.claim_key('shut');");
$pool->wait_blocked(1);
($status, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$rotate");
like($err, qr/ERROR:  55P03/, 'one rotates at a time');
$pool->run(0, 'COMMIT;');
is($pool->collect(1), "claimed\n", 'claims wait for that one to commit');

#----------------------------------------------------------------------------
# A prepared transaction keeps its generation, through a crash.

$pool->run(0, <<~"SQL");
	BEGIN;
	SELECT outcome FROM $api.claim_key('prepared');
	SELECT $api.complete_key('prepared', '"answer"');
	PREPARE TRANSACTION 'rotation';
	SQL
my ($held) = generations() =~ /([0-9]+:[0-9])$/;
$node->safe_psql('postgres', $rotate) for 1 .. 3;
like(generations(), qr/^$held [0-9]+:[0-9]e [0-9]+:[0-9]$/, 'a prepared transaction keeps its generation');
kill_server($node);
$node->start;
$node->safe_psql('postgres', $rotate) for 1 .. 3;
like(generations(), qr/^$held [0-9]+:[0-9]e [0-9]+:[0-9]$/, 'after a crash as well');
$pool->reconnect;
$pool->send(1, "SELECT outcome, response FROM $api.claim_key('prepared');");
$pool->wait_blocked(1);
$node->safe_psql('postgres', $rotate);
$node->safe_psql('postgres', "COMMIT PREPARED 'rotation'");
is($pool->collect(1), "replayed|\"answer\"\n", 'who waited finds what it did');
$node->safe_psql('postgres', $rotate) for 1 .. 2;
unlike(generations(), qr/$held/, 'then the generation goes');
is($node->safe_psql('postgres', "SELECT outcome FROM $api.claim_key('prepared')"), 'claimed', 'with the claim in it');

#----------------------------------------------------------------------------
# Crashes, whatever step the rotation is in.

$pool->reconnect;
foreach my $round (1 .. 4)
{
	$pool->send(0, "$rotate;\n" x 400);
	$pool->send($_, join '', map { "SELECT outcome FROM $api.claim_key('crash $round' || $_ / 3);\n" } 1 .. 400)
	  for 1 .. 3;
	$pool->wait_for_output(1, qr/(?:[a-z]+\n){$round}/);
	kill_server($node);
	$pool->collect_all;
	$node->start;
	is(doubles(), '0', "crash $round: no key twice");
	$node->safe_psql('postgres', $rotate) for 1 .. 2;
	is($node->safe_psql('postgres', "SELECT count(*) FROM $api.key_store WHERE generation IS NULL"),
		'0', "crash $round: what is off the list gets emptied");
	$pool->reconnect;
}

#----------------------------------------------------------------------------
# 200,000 keys go at once: nothing is read, nothing is deleted.

my $keys = $ENV{OI_TEST_KEYS} // 200000;

$node->safe_psql('postgres', $rotate) for 1 .. 2;
my $slot = $node->safe_psql('postgres', "SELECT slot FROM $api.generations WHERE store = 'claims' ORDER BY generation DESC LIMIT 1");
my $table = "$api.claims_$slot";

is($node->safe_psql('postgres', "SELECT outcome FROM $api.claim_key('leased', lease => '1 ms')"), 'claimed', 'a lease of a ms');
$node->safe_psql('postgres', <<~"SQL");
	INSERT INTO $table (key_hash, claimed_at, attempt, request_hash)
	SELECT md5(i::text)::uuid, now(), 1, sha256(i::text::bytea) FROM generate_series(1, $keys) i
	SQL
$node->safe_psql('postgres', 'SELECT pg_stat_force_next_flush()');
$node->safe_psql('postgres', $rotate);
$node->poll_query_until('postgres', "SELECT keys >= $keys FROM $api.key_store WHERE slot = $slot")
  or die 'no statistics';
cmp_ok($node->safe_psql('postgres', "SELECT bytes FROM $api.key_store WHERE slot = $slot"), '>', $keys * 60,
	'the store has them');

# what was called the longest lease is over a second after the generation's end
$node->poll_query_until('postgres', <<~"SQL") or die 'time stands still';
	SELECT ended_at + (SELECT last_value FROM $api.longest_lease) * interval '1 s' < clock_timestamp()
	FROM $api.generations WHERE store = 'claims' AND slot = $slot
	SQL
my ($read, $lsn) = split /\|/, $node->safe_psql('postgres', <<~"SQL");
	SELECT seq_tup_read, pg_current_wal_lsn() FROM pg_stat_user_tables
	WHERE relid = '$table'::regclass
	SQL
my $start = Time::HiRes::time();
like($node->safe_psql('postgres', $rotate), qr/^[0-9]+\|1$/, 'they expire');
my $took = Time::HiRes::time() - $start;
diag("expiry of $keys keys: $took s");
cmp_ok($took, '<', 1, "$keys keys expire in less than a second");
cmp_ok($node->safe_psql('postgres', "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '$lsn')"), '<', 1000000,
	'with little WAL');
$node->safe_psql('postgres', 'SELECT pg_stat_force_next_flush()');
sql_is($node, "SELECT seq_tup_read - $read, n_live_tup, n_dead_tup FROM pg_stat_user_tables WHERE relid = '$table'::regclass",
	'0|0|0', 'without being read, and no dead row is counted');
sql_is($node, "SELECT table_len, tuple_count, dead_tuple_count FROM pgstattuple('$table')", '0|0|0', 'nor is there one');
sql_is($node, "SELECT pg_relation_size('${table}_pkey')", '8192', 'the index is as new');

#----------------------------------------------------------------------------
# A lease keeps its generation; one that cannot be running is not looked for.

$node->safe_psql('postgres', "SELECT $api.claim_key('working', lease => '1 hour')");
$held = (split / /, generations())[-1];
$node->safe_psql('postgres', $rotate) for 1 .. 3;
like(generations(), qr/^${held}e /, 'a lease that runs keeps its generation');
is($node->safe_psql('postgres', "SELECT outcome FROM $api.claim_key('working', lease => '1 hour')"), 'in_progress', 'and itself');
is($node->safe_psql('postgres', "SELECT $api.complete_key('working', attempt => 1)"), 'completed', 'it is completed');
$node->safe_psql('postgres', $rotate);
unlike(generations(), qr/^${held}e /, 'then the generation goes');
is($node->safe_psql('postgres', "SELECT outcome FROM $api.claim_key('working', lease => '1 hour')"), 'replayed', 'but not the claim, which has moved');

#----------------------------------------------------------------------------
# Every backend hears of it, whatever the session that rotates has switched off.

$pool->run(0, "SELECT outcome FROM $api.claim_key('before');");
$node->safe_psql('postgres', "SET session_replication_role = replica; $rotate");
$slot = $node->safe_psql('postgres', "SELECT slot FROM $api.generations WHERE store = 'claims' ORDER BY generation DESC LIMIT 1");
is($pool->run(0, "SELECT outcome FROM $api.claim_key('after');"), 'claimed', 'a session that knew the generations before');
sql_is($node, "SELECT count(*) FROM $api.claims_$slot", '1', 'claims in the new one');

#----------------------------------------------------------------------------
# The maintenance process does all this by itself.

$node->append_conf('postgresql.conf', "order_idempotency.key_retention = 1s\n");
$node->restart;
$pool->reconnect;
$pool->run(0, "BEGIN; SELECT outcome FROM $api.claim_key('open');");
$held = (split / /, generations())[-1];
my ($reached) = $held =~ /^([0-9]+)/;
$node->poll_query_until('postgres', <<~"SQL") or die 'nobody rotates';
	SELECT max(generation) > $reached + 3 AND count(*) <= 4
		AND count(*) FILTER (WHERE generation < $reached) = 0
	FROM $api.generations WHERE store = 'claims'
	SQL
like(generations(), qr/^$held /, 'a process rotates, beside a claim that is open');
is($pool->run(0, 'COMMIT;'), '', 'which is committed');
$node->poll_query_until('postgres', "SELECT min(generation) > $reached FROM $api.generations WHERE store = 'claims'")
  or die 'the generation stays';
$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM $api.key_store WHERE generation IS NULL")
  or die 'a table is not emptied';
pass('and then expires');

$pool->quit;
done_testing();
