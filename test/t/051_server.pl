# What depends on the server's release.  pg_stat_activity shows by name what our
# processes wait for, where the server has a place for such names (17).  Promise 1, at
# SERIALIZABLE: a minor release in which the server misses conflicts is told of when
# the library is loaded, and no other one is.  Where the server shows versions of libraries
# (18), it shows ours.
#
# Bugs that this catches: a visit that wakes itself, and so does not wait at all but
# looks for deadlines over and over, which was there; and, planted, a wait that is
# reported as before, a warning that comes with every release, or with none;
# a library without a version.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

my $api = 'order_idempotency';
my ($major) = `pg_config --version` =~ /^PostgreSQL ([0-9]+)/;
my $named = $major >= 17;

# Waits until one of our processes waits for something of that name.
sub waits_for
{
	my ($node, $type, $event, $what) = @_;
	my $expected = $named ? $event : 'Extension';

	ok( $node->poll_query_until('postgres', <<~"SQL"), "$what: $expected");
		SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'order_idempotency $type'
			AND wait_event_type = 'Extension' AND wait_event = '$expected'
		SQL
	return;
}

# -- what our processes wait for --------------------------------------------------

my $node = new_drain_node('named');

waits_for($node, 'launcher', 'OrderIdempotencyLauncher', 'the launcher has nothing to do');
subscribe($node, 'audit');
waits_for($node, 'worker', 'OrderIdempotencyIdle', 'a worker has nothing to do');

# a visit that has had one deadline waits for the next one if that is near
$node->safe_psql('postgres', <<~"SQL");
	SELECT $api.create_order('deadline ' || i, 1, 'EUR', pay_within => i * interval '3 s')
	FROM generate_series(1, 60) i
	SQL
waits_for($node, 'maintenance', 'OrderIdempotencyMaintenance', 'a visit waits for a deadline');

# a file that cannot be written to
rename sink_dir($node), sink_dir($node) . '_away' or die;
$node->safe_psql('postgres', emit('away'));
waits_for($node, 'worker', 'OrderIdempotencyRetry', 'a worker waits to try again');
rename sink_dir($node) . '_away', sink_dir($node) or die;
drained($node, 'audit');

# the gate of rotation is shut; each call knocks for two seconds
my $pool = OrderIdempotency::Sessions->new($node, 2);

$node->safe_psql('postgres', "SELECT $api.claim_key('k')");
$pool->run(0, "BEGIN; LOCK TABLE $api.generations IN ROW EXCLUSIVE MODE;");
$pool->send(1, "CALL $api.rotate_keys('0');\n" x 8);
my $expected = $named ? 'OrderIdempotencyRotation' : 'Extension';
ok( $node->poll_query_until('postgres', <<~"SQL"), "a rotation waits for the gate: $expected");
	SELECT wait_event_type = 'Extension' AND wait_event = '$expected' FROM pg_stat_activity
	WHERE pid = ${\ $pool->pid(1)}
	SQL
$pool->run(0, 'COMMIT;');
$pool->collect(1);
$pool->quit;
$node->stop;

# -- releases of the server ---------------------------------------------------------

# What a server says of itself in its log when it starts as that minor release.
sub says_as
{
	my ($minor) = @_;
	my $from = -s $node->logfile;

	local $ENV{TEST_MINOR_RELEASE} = $minor;
	$node->start;
	is($node->safe_psql('postgres', 'SHOW server_version_num'),
		$major * 10000 + $minor, "a server that takes itself for $major.$minor");
	is($node->psql('postgres', "SELECT $api.claim_key('minor-$minor')"), 0, 'works');
	$node->stop;
	return substr slurp_file($node->logfile), $from;
}

$node->append_conf('postgresql.conf',
	"shared_preload_libraries = 'test_minor_release, order_idempotency'");
my $warning = qr/WARNING: .*misses conflicts of serializable transactions/;

foreach my $minor (0, 3)
{
	my $log = says_as($minor);

	if ($major == 15)
	{
		is(scalar(() = $log =~ /$warning/g), 1, "15.$minor: one warning");
		like($log, qr/HINT: .*15\.4 or later/, 'with the release that has the fix');
	}
	else
	{
		unlike($log, $warning, "$major.$minor: no warning");
	}
}
unlike(says_as(4), $warning, "$major.4: no warning");

# -- which library it is, for who looks at the server and not into a database ------------

if ($major >= 18)
{
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'order_idempotency'");
	$node->start;
	sql_is($node, "SELECT version = $api.library_version() FROM pg_get_loaded_modules()"
		  . " WHERE module_name = '$api'", 't', 'the server shows the version of the library');
	$node->stop;
}
done_testing();
