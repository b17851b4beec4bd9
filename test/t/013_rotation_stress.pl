# Promise 1 under load: ten rotations a second while a dozen clients claim keys that
# collide, at all isolation levels, with and without a lease, some rolling back and
# some to a savepoint; first beside a transaction that holds a claim open, then beside
# a pg_dump that does not get on.  No key is won twice within the retention, no claim
# takes a second; beside the claim rotation goes on, beside the dump it stops
# for want of a free slot, and it resumes.
#
# In how many seconds each of the two is held: OI_STRESS_SECONDS, 60 for a full run.
#
# Bugs that this catches: a rotation without the gate, or a gate that is left too
# early; expiry while a claim is uncommitted, or while a lease runs; locks that are
# kept on tables that a call merely looked at (rotation stops); locks that are
# waited for (claims stand still).

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use IPC::Run;
use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;

my $api = 'order_idempotency';
my $full = ($ENV{OI_STRESS_SECONDS} // '') ne '';
my $seconds = $full ? $ENV{OI_STRESS_SECONDS} : 6;
my $retention = '90 ms';
my $clients = 12;

# when a commit was made is what the judgement is based on
my $node = new_node('rotation_stress', conf => "track_commit_timestamp = on\nlog_statement = none\n");

$node->safe_psql('postgres', <<~"SQL");
	SELECT $api.complete_key('none');

	-- who won which key, and who said that the work is done
	CREATE TABLE wins (key text, claimed_at timestamptz, attempt int, lease_until timestamptz);
	CREATE TABLE completions (key text, attempt int);
	CREATE TABLE latencies (key text, at timestamptz DEFAULT clock_timestamp(), took interval);

	-- one claim; a winner writes that down
	CREATE FUNCTION win(k text, duration interval = NULL) RETURNS int LANGUAGE plpgsql AS \$\$
	DECLARE
		began timestamptz := clock_timestamp();
		r record;
	BEGIN
		SELECT * INTO r FROM $api.claim_key(k, lease => duration);
		INSERT INTO latencies (key, took) VALUES (k, clock_timestamp() - began);
		IF r.outcome = 'claimed' THEN
			INSERT INTO wins VALUES (k, r.claimed_at, r.attempt, r.lease_until);
			RETURN r.attempt;
		END IF;
		RETURN 0;
	END \$\$;

	-- a claim, sometimes after one that a savepoint takes back; some do not commit
	CREATE FUNCTION plain(k text, dice int) RETURNS void LANGUAGE plpgsql AS \$\$
	BEGIN
		IF dice < 20 THEN
			BEGIN
				PERFORM win(k);
				RAISE division_by_zero;
			EXCEPTION WHEN division_by_zero THEN
			END;
		END IF;
		PERFORM win(k);
		IF dice % 4 = 0 THEN
			PERFORM pg_sleep(random() * 0.01);
		END IF;
		IF dice % 7 = 0 THEN
			RAISE division_by_zero;
		END IF;
	EXCEPTION WHEN division_by_zero THEN
	END \$\$;

	CREATE FUNCTION complete(k text, attempt int) RETURNS void LANGUAGE plpgsql AS \$\$
	BEGIN
		IF $api.complete_key(k, attempt => attempt) = 'completed' THEN
			INSERT INTO completions VALUES (k, attempt);
		END IF;
	END \$\$;
	SQL

# A file with a script of pgbench's.
sub script
{
	my ($name, $text) = @_;
	my $path = $node->basedir . "/$name.sql";

	append_to_file($path, $text);
	return $path;
}

# each level has keys of its own and all of them the same ones
my $level = '\set dice random(0, 99)' . "\n" . '\set k random(1, 200)' . "\n";
my @scripts = (
	script('committed', $level . "SELECT plain('k' || :k, :dice);\n") . '@6',
	script('repeatable', $level . "BEGIN ISOLATION LEVEL REPEATABLE READ;\nSELECT plain('k' || :k, :dice);\nCOMMIT;\n") . '@2',
	script('serializable', $level . "BEGIN ISOLATION LEVEL SERIALIZABLE;\nSELECT plain('k' || :k, :dice);\nCOMMIT;\n") . '@2',
	script('leased', $level . <<~'SQL') . '@4');
		SELECT win('l' || :k % 50, CASE WHEN :dice < 30 THEN '20 ms' ELSE '300 ms' END::interval) AS attempt \gset
		\if :attempt > 0
		\if :dice < 60
		SELECT pg_sleep(random() * 0.1);
		SELECT complete('l' || :k % 50, :attempt);
		\endif
		\endif
		SQL

# Starts pgbench.
sub start
{
	my ($run_for, @options) = @_;
	my $bench = { out => '', err => '' };

	$bench->{handle} = IPC::Run::start(
		[ $node->installed_command('pgbench'), '-n', '-T', $run_for, @options, $node->connstr('postgres') ],
		'>', \$bench->{out}, '2>', \$bench->{err});
	return $bench;
}

# Waits for its end.
sub finish
{
	my ($bench, $what) = @_;

	ok($bench->{handle}->finish, "$what came to its end")
	  or diag($bench->{out}, $bench->{err});
	return;
}

# Claims for some seconds, and two sessions that rotate.
sub storm
{
	my ($what, $run_for) = @_;
	my $claims = start($run_for, '-c', $clients, '-j', 2, '--max-tries=1', map { ('-f', $_) } @scripts);
	my $rotations = start($run_for, '-c', 2, '-f', $node->basedir . '/rotate.sql');

	finish($claims, "$what: claims");
	unlike($claims->{err}, qr/ERROR(?!.*(?:serialize|deadlock))/, "$what: no error but serialization failures");
	finish($rotations, "$what: rotations");
	is($rotations->{err}, '', "$what: rotations had no complaint");
	return;
}

# How many generations have begun so far.
sub generation
{
	return $node->safe_psql('postgres', "SELECT max(generation) FROM $api.generations WHERE store = 'claims'");
}

script('rotate', "\\sleep 10 ms\nCALL $api.rotate_keys('$retention');\n");

my $pool = OrderIdempotency::Sessions->new($node, 2, setup => 'SET order_idempotency.in_flight_wait = -1;');

#----------------------------------------------------------------------------
# Beside a claim that is held open

$pool->run(0, "BEGIN; SELECT win('held');");
$pool->send(1, "SELECT win('held');");
$pool->wait_blocked(1);
my $before = generation() || 1;
storm('a claim is open', $seconds);
my $begun = generation() - $before;
cmp_ok($begun, '>', $seconds, "a claim is open: generations come and go ($begun)");
cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM $api.key_store"), '<=', 4, 'in four slots');
is($pool->run(0, 'COMMIT;'), '', 'the open claim is committed');
is($pool->collect(1), "0\n", 'who waited for it all the time did not win');

#----------------------------------------------------------------------------
# Beside a pg_dump that has read all claims and gets nothing out of its hands any
# more.  (It locks the tables of an extension when it comes to read them.)

$node->safe_psql('postgres', <<~"SQL");
	CREATE TABLE filler AS SELECT repeat(i::text, 1000) AS t FROM generate_series(1, 5000) i;
	SQL
pipe(my $dumped, my $dump_out) or die "could not create pipe: $!";
my $dump = fork // die "could not fork: $!";
if ($dump == 0)
{
	open STDOUT, '>&', $dump_out or die;
	close $dumped;
	$ENV{PGAPPNAME} = 'pg_dump';
	exec $node->installed_command('pg_dump'), '-d', $node->connstr('postgres')
	  or POSIX::_exit(127);
}
close $dump_out;
my $length = 0;
until ($node->safe_psql('postgres', <<~"SQL") eq '4')
	SELECT count(DISTINCT l.relation) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
	WHERE a.application_name = 'pg_dump' AND l.granted
	  AND l.relation IN ('$api.claims_0'::regclass, '$api.claims_1'::regclass,
						 '$api.claims_2'::regclass, '$api.claims_3'::regclass)
	SQL
{
	my $n = sysread $dumped, my $buffer, 1 << 16;

	die 'pg_dump ended' if !$n;
	$length += $n;
}
$before = generation();
storm('a dump is open', $seconds);
$begun = generation() - $before;
cmp_ok($begun, '<', 4, "a dump is open: rotation stops when no slot is free ($begun)");
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_dump'"),
	'1', 'the dump is still open');
while (my $n = sysread $dumped, my $buffer, 1 << 20) { $length += $n; }
waitpid $dump, 0;
is($?, 0, 'it ends well when its output is read');
cmp_ok($length, '>', 1000000, 'and has all that it should');

#----------------------------------------------------------------------------
# Alone again

$before = generation();
storm('nothing is open', 3);
cmp_ok(generation() - $before, '>', 3, 'rotation has resumed');
$node->safe_psql('postgres', "SELECT pg_sleep(0.5)");
$node->safe_psql('postgres', "CALL $api.rotate_keys('$retention')") for 1 .. 2;
is($node->safe_psql('postgres', "SELECT count(*) FROM $api.key_store WHERE generation IS NULL"), '0',
	'what is off the list is empty');

#----------------------------------------------------------------------------
# The judgement.  A win lasts until its commit, and the retention from there; with a
# lease until its end, or if the work was completed, for the retention from there.

$node->safe_psql('postgres', <<~"SQL");
	CREATE INDEX ON wins (key, claimed_at);
	CREATE INDEX ON completions (key, attempt);
	ANALYZE;
	SQL
my $wins = $node->safe_psql('postgres', 'SELECT count(*) FROM wins');
my $doubles = $node->safe_psql('postgres', <<~"SQL");
	WITH w AS (
		SELECT w.key, w.claimed_at, w.attempt,
			   CASE WHEN c.key IS NOT NULL THEN pg_xact_commit_timestamp(c.xmin) + '$retention'
					WHEN w.lease_until IS NOT NULL THEN w.lease_until
					ELSE pg_xact_commit_timestamp(w.xmin) + '$retention' END AS taken_until,
			   lead(w.claimed_at) OVER (PARTITION BY w.key ORDER BY w.claimed_at) AS next
		FROM wins w LEFT JOIN LATERAL (
			SELECT c.key, c.xmin FROM completions c
			WHERE c.key = w.key AND c.attempt = w.attempt AND w.lease_until IS NOT NULL
			  AND pg_xact_commit_timestamp(c.xmin) > w.claimed_at
			  AND NOT EXISTS (SELECT FROM wins later
							  WHERE later.key = w.key AND later.claimed_at > w.claimed_at
								AND later.claimed_at < pg_xact_commit_timestamp(c.xmin))
			LIMIT 1) c ON true)
	SELECT key, claimed_at, taken_until, next FROM w WHERE next < taken_until
	SQL
cmp_ok($wins, '>', 100 * $seconds, "$wins wins");
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM completions'), '>', 0, 'some of leases that were completed');
cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM (SELECT FROM wins GROUP BY key HAVING count(*) > 1) t"),
	'>', 0, 'and of keys that were won again later');
is($doubles, '', 'no key was won twice within its retention');
is($node->safe_psql('postgres', "SELECT count(*) FROM (SELECT FROM $api.claims GROUP BY key_hash HAVING count(*) > 1) d"),
	'0', 'no key is there twice');

my ($n, $p50, $p99, $slowest) = split /\|/, $node->safe_psql('postgres', <<~"SQL");
	SELECT count(*), percentile_disc(0.5) WITHIN GROUP (ORDER BY took),
		   percentile_disc(0.99) WITHIN GROUP (ORDER BY took), max(took)
	FROM latencies WHERE key <> 'held'
	SQL
diag("$n claims beside " . generation() . " rotations: p50 $p50, p99 $p99, slowest $slowest");
my $limit = $full ? '1 s' : '10 s';
is($node->safe_psql('postgres', "SELECT '$slowest'::interval < '$limit'"), 't', "no claim took $limit");

$pool->quit;
done_testing();
