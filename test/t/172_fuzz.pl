# Promises 2, 3, 6 and 9 under random and hostile arguments: whatever a function is given, it answers, or
# refuses with an error of the documented kind.  No crash, no internal error, no state broken.
#
# The arguments are those of test/fuzz/arguments.sql, for every function that the catalog has.  And
# sqlsmith, where it is installed, makes queries of everything that a role with little
# privilege can see.
#
#	FUZZ_CALLS		calls of functions; a statement of sqlsmith for each fifty of them (30000)
#	FUZZ_SECONDS	go on with other seeds until so much time is over (0)
#	FUZZ_SESSIONS	sessions at once; with one the run is the same each time (1)
#	SEED			(1)

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use IPC::Run qw(start);
use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $api = 'order_idempotency';
my $calls = $ENV{FUZZ_CALLS} || 30_000;
my $seconds = $ENV{FUZZ_SECONDS} || 0;
my $sessions = $ENV{FUZZ_SESSIONS} || 1;
my $seed = $ENV{SEED} || 1;
my @levels = ('read committed', 'repeatable read', 'serializable');

# what a call may end with: success; what docs/reference.md has; the validators' errors
my $documented = join ', ', map { "'$_'" } qw(00000 OI001 OI002 OI003 OI004 OI005 22004 22001 22023 22008 54000
  42501 42704 42710 42809 25001 55000 40001 40P01 55P03 23505 23514 HV002 HV00D HV024 22P02 2202E);

my $node = new_drain_node('fuzz', encoding => 'UTF8', conf => <<~'CONF');
	max_wal_size = 8GB
	log_line_prefix = '%m [%p] %e %q%u %a: '
	log_min_error_statement = panic
	CONF
my $dir = sink_dir($node);
my $begun = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');
note "SEED=$seed FUZZ_CALLS=$calls FUZZ_SECONDS=$seconds FUZZ_SESSIONS=$sessions";

# -- every function --------------------------------------------------------------------------------

$node->safe_psql('postgres', slurp_file("$FindBin::RealBin/../fuzz/arguments.sql"));
$node->safe_psql('postgres', <<~SQL);
	CREATE EXTENSION amcheck;
	CREATE SERVER fuzz_files FOREIGN DATA WRAPPER order_idempotency_file OPTIONS (path '$dir');
	GRANT USAGE ON FOREIGN SERVER fuzz_files TO fuzz_operator;
	SQL
my $targets = $node->safe_psql('postgres', 'SELECT fuzz.prepare()');
is($targets, $node->safe_psql('postgres', "SELECT 3 * count(*) FROM pg_proc WHERE pronamespace = '$api'::regnamespace AND prorettype <> 'trigger'::regtype"),
	"each function as each of three roles: $targets");

my $round = 0;
my $since = time;
do
{
	my @runs;

	foreach my $session (1 .. $sessions)
	{
		my $random = (($seed * 7919 + $round * 104729 + $session * 613) % 100_003) / 100_003;
		my $level = $levels[ ($session - 1) % @levels ];
		my ($out, $in) = ('', <<~SQL);
			SET order_idempotency.in_flight_wait = 10;
			SET default_transaction_isolation = '$level';
			CALL fuzz.run($random, @{[ int($calls / $sessions) ]});
			SQL

		push @runs, [ start([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$out, '2>&1'), \$out ];
	}
	foreach my $run (@runs)
	{
		$run->[0]->finish;
		like(${ $run->[1] } =~ s/^.*could not serialize access.*\n(?:CONTEXT.*\n)*//mr, qr/^(?:(?:WARNING|NOTICE|DETAIL|HINT|CONTEXT).*\n|PL.*\n|SQL.*\n)*\z/,
			"round $round: a session came to its end");
	}
	$round++;
} while (time - $since < $seconds);
my $made = $node->safe_psql('postgres', 'SELECT sum(n) FROM fuzz.outcome');
note sprintf '%d calls in %.1f s', $made, time - $since;
cmp_ok($made, '>=', 0.9 * $calls, "$made calls");
sql_is($node, <<~SQL, '', 'each ended as it is documented');
	SELECT name, role, code, sum(n), min(example) FROM fuzz.outcome
	WHERE code NOT IN ($documented) AND NOT (name LIKE '%validator' AND code = '42601') GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
	SQL
sql_is($node, "SELECT name, role, sum(n) FROM fuzz.outcome WHERE role = 'fuzz_app' AND code = '00000' AND name !~
	'^(claim_key|complete_key|extend_key|release_key|create_order|transition_order|cancel_order|get_order|order_history|emit_event)\$' GROUP BY 1, 2",
	'', 'an application calls nothing that is not its own');
cmp_ok($node->safe_psql('postgres', "SELECT count(DISTINCT name) FROM fuzz.outcome WHERE role = 'fuzz_app' AND code = '00000'"), '>=', 8,
	'and much of that with success');
note $node->safe_psql('postgres', "SELECT string_agg(code || ' ' || n, ', ' ORDER BY n DESC) FROM (SELECT code, sum(n) AS n FROM fuzz.outcome GROUP BY 1) x");

# -- sqlsmith --------------------------------------------------------------------------------------

SKIP:
{
	skip 'sqlsmith is not installed', 1 if system 'command -v sqlsmith >/dev/null';

	my $queries = int($calls / 50);
	my ($out, $err) = ('', '');

	$node->safe_psql('postgres', <<~SQL);
		CREATE ROLE smith LOGIN IN ROLE fuzz_app;
		CREATE SCHEMA smith AUTHORIZATION smith;
		SET SESSION AUTHORIZATION smith;
		CREATE TABLE smith.t AS SELECT 'k' || i AS key, i::bigint AS amount, 'EUR' AS currency, 'alice'::text AS account,
			jsonb_build_object('a', i) AS payload, 'paid'::text AS to_state, '1 h'::interval AS pay_within, now() AS at FROM generate_series(1, 20) i;
		SQL
	$node->safe_psql('postgres', "ALTER ROLE smith SET statement_timeout = '1s'");
	IPC::Run::run([ 'sqlsmith', '--target=' . $node->connstr('postgres') . ' user=smith', "--seed=$seed", "--max-queries=$queries" ],
		'<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(30 + $queries));
	like("$out$err", qr/queries: \d+|Generating|Loading/, "sqlsmith ran, $queries queries at most") or diag "$out$err";
}

# -- what became of it -------------------------------------------------------------------------------

sql_is($node, 'SELECT pg_postmaster_start_time()', $begun, 'the server was not restarted');
unlike(slurp_file($node->logfile), qr/TRAP|PANIC|terminated by signal|server process/, 'no process crashed');
# sqlsmith meets internal errors of the server's own functions, too
my @internal = grep { /\] XX\d{3} / && !/ smith .*ERROR:  invalid INTERVAL typmod/ } split /\n/, slurp_file($node->logfile);
is(join("\n", @internal), '', 'no internal error');
consistent($node, 'after all');
sql_is($node, <<~SQL, 't', 'indexes and tables agree');
	WITH i AS MATERIALIZED (SELECT c.oid FROM pg_class c JOIN pg_am a ON a.oid = c.relam
		WHERE c.relnamespace = '$api'::regnamespace AND c.relkind = 'i' AND a.amname = 'btree')
	SELECT count(bt_index_parent_check(i.oid, true)::text) > 20 FROM i
	SQL
sql_is($node, <<~SQL, '', 'one claim for each key');
	SELECT key_hash FROM $api.claims GROUP BY 1 HAVING count(*) > 1
	SQL
$node->safe_psql('postgres', "SELECT $api.drop_subscription(name) FROM $api.subscriptions");
cmp_ok(scalar(map { read_events($node, s{.*/}{}r) } grep { -f } glob "$dir/*"), '>=', 0, 'what was delivered is whole');

# and it goes on as ever
subscribe($node, 'after');
$node->safe_psql('postgres', <<~SQL);
	SELECT $api.create_order('after-' || i, 100, 'EUR', 'alice') FROM generate_series(1, 100) i;
	SELECT $api.transition_order('after-' || i, 'paid') FROM generate_series(1, 100) i;
	SQL
drained($node, 'after');
is(scalar(read_events($node, 'after.jsonl')), 200, 'orders and their events go on');
consistent($node, 'in the end');
$node->stop('fast');
done_testing();
