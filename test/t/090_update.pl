# Promise 10: ALTER EXTENSION UPDATE.  A server that ran 1.0 in earnest gets the
# files of the present version, is restarted, and is updated; at every one of these
# steps what was done is known, what was begun goes on, no event is lost and none
# is sent twice, and what cannot be done says what to do.  In the end the catalogs
# say the same as those of a new database.
#
# Bugs that this catches: an upgrade script that forgets a comment, a privilege, a
# mark for dumps, or puts a column elsewhere; one that can be run with a library
# that lacks its functions; a library that does not know 1.0's objects; cached plans
# that do not survive the update.
#
# 1.0 is the real one, built from what was released.  It knows PostgreSQL 15 only; on
# another one the test compares the catalogs alone.

use strict;
use warnings;

use File::Basename qw(basename dirname);
use File::Copy qw(copy);
use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Catalog;
use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::Released;
use OrderIdempotency::Sessions;
use OrderIdempotency::Usage;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = dirname(dirname($FindBin::RealBin));
my $api = 'order_idempotency';
my ($version) = slurp_file("$top/order_idempotency.control") =~ /default_version = '(.*)'/;
my ($major) = `pg_config --version` =~ /^PostgreSQL ([0-9]+)/;
my $new_lib = pg_config('pg_config', '--pkglibdir');
my $new_share = pg_config('pg_config', '--sharedir');

# What a pg_config says.
sub pg_config
{
	my ($program, $what) = @_;

	chomp(my $path = `$program $what`);
	return $path;
}

# Installs the present files over those of 1.0, as "make install" does: a file that
# a server has open stays what it is.
sub install_new
{
	my ($install_path) = @_;
	my $config = "$install_path/bin/pg_config";
	my %to = (
		pg_config($config, '--pkglibdir') => [ glob "$new_lib/order_idempotency*.so" ],
		pg_config($config, '--sharedir') . '/extension' =>
		  [ glob "$new_share/extension/order_idempotency*" ]);

	foreach my $dir (sort keys %to)
	{
		foreach my $file (@{ $to{$dir} })
		{
			my $target = "$dir/" . basename($file);

			unlink $target;
			copy($file, $target) or die "could not copy $file: $!";
			chmod 0755, $target;
		}
	}
	return;
}

# Checks that a statement is refused with this and this in its message.
sub refused
{
	my ($node, $db, $sql, $what, @patterns) = @_;
	my ($status, $out, $err) = $node->psql($db, $sql);

	isnt($status, 0, "$what: refused");
	like($err, $_, "$what: says so") foreach @patterns;
	return;
}

# Checks which version of its objects a database has.
sub version_is
{
	my ($node, $expected, $what) = @_;

	sql_is($node, "SELECT extversion FROM pg_extension WHERE extname = '$api'", $expected, $what);
	return;
}

# -- 1.0, in use --------------------------------------------------------------

# A server that runs 1.0, and a database that it is used in.
sub old_server
{
	my ($install_path) = @_;
	my $node = new_drain_node('update', install_path => $install_path, version => '1.0');
	my $usage = OrderIdempotency::Usage->new($node, two_phase => 1);

	version_is($node, '1.0', 'this is 1.0');
	$usage->replays('1.0');
	$usage->go_on('1.0');
	$usage->roles_work('1.0');
	return ($node, $usage);
}

# -- the files of the present version under a server that runs 1.0 --------------

sub files_first
{
	my ($node, $usage, $install_path) = @_;
	my @says = (qr/the server runs an older library/, qr/HINT: .*restart the server/i);

	# workers that run have all that they need, and go on
	$usage->publish('on');
	$usage->under_way;
	install_new($install_path);
	$usage->drains('new files, old server');

	$usage->replays('new files, old server');
	$usage->go_on('new files, old server');
	$usage->roles_work('new files, old server');

	# one that starts now finds a sink that is not for this server, and waits
	my $pid = worker_pid($node, 'audit');
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 180000)");
	$usage->go_on('new files, a new worker');
	ok( $node->poll_query_until('postgres', <<~"SQL"), 'a sink for another version is not used');
		SELECT last_error LIKE 'could not load library %order_idempotency_file%'
			OR last_error LIKE '%order_idempotency_file% is for another version of $api%'
		FROM $api.subscription_status WHERE name = 'audit'
		SQL
	$usage->publish('off');

	my $before = $usage->data;
	refused($node, 'postgres', "ALTER EXTENSION $api UPDATE", 'update before the restart', @says);
	version_is($node, '1.0', 'it is still 1.0');
	is($usage->data, $before, 'nothing was changed by the attempt');
	$node->safe_psql('postgres', 'CREATE DATABASE early');
	refused($node, 'early', "CREATE EXTENSION $api", 'a new database before the restart', @says);
	$usage->go_on('after the refusal');
	return;
}

# -- the present library with the objects of 1.0 --------------------------------

sub restarted
{
	my ($node, $usage) = @_;
	my $before = $usage->data;

	$node->restart;
	version_is($node, '1.0', 'restarted with the objects of 1.0');
	is($usage->data, $before, 'the restart changed nothing');
	$usage->replays('new library, old objects');
	$usage->go_on('new library, old objects');
	$usage->roles_work('new library, old objects', no_subscriptions => 1);
	refused($node, 'postgres', "SELECT $api.$_", $_, qr/extension $api must be updated/,
		qr/HINT: .*ALTER EXTENSION $api UPDATE/)
	  foreach "create_subscription('other', 'files')", "drop_subscription('slow')";

	$usage->publish('on');
	$usage->drains('new library, old objects');
	$node->safe_psql('postgres', "COMMIT PREPARED 'late'");
	$usage->drains('a transaction that was prepared in 1.0');
	$usage->publish('off');
	$usage->go_on('before the update');
	return;
}

# -- the update ------------------------------------------------------------------

# A session that has prepared what it uses, as a driver does, and its next calls.
sub prepare_session
{
	my ($node) = @_;
	my $session =
	  OrderIdempotency::Sessions->new($node, 1, setup => 'SET SESSION AUTHORIZATION app;');

	$session->run(0, <<~"SQL");
		PREPARE make(text) AS SELECT outcome FROM $api.create_order(\$1, 1, 'EUR', 'gwen');
		PREPARE pay(text) AS SELECT outcome FROM $api.transition_order(\$1, 'paid');
		PREPARE claim(text) AS SELECT outcome FROM $api.claim_key(\$1);
		PREPARE emit(text) AS SELECT $api.emit_event('test.event', \$1) IS NOT NULL;
		SQL
	return $session;
}

sub calls_of_session
{
	my ($session, $key, $what) = @_;

	is( join(' ', map { $session->run(0, "EXECUTE $_('$key');") } qw(make pay claim emit)),
		'created applied claimed t', "a session that stays, $what");
	return;
}

sub update
{
	my ($node, $usage) = @_;
	my $session = prepare_session($node);

	calls_of_session($session, 'before', 'before');
	my $before = $usage->data;
	$node->safe_psql('postgres', "ALTER EXTENSION $api UPDATE");
	version_is($node, $version, "updated to $version");
	is($usage->data, $before, 'the update changed nothing of the data');
	calls_of_session($session, 'after', 'after');
	$session->quit;

	$usage->replays('updated');
	$usage->go_on('updated');
	$usage->roles_work('updated');
	$usage->publish('on');
	$usage->drains('updated');
	return;
}

my ($node, $usage);
SKIP:
{
	if (!release_builds())
	{
		$node = new_node('catalogs');
		skip "1.0 does not build with PostgreSQL $major", 1;
	}
	my $install_path = install_release();

	($node, $usage) = old_server($install_path);
	files_first($node, $usage, $install_path);
	restarted($node, $usage);
	update($node, $usage);
}

# -- the catalogs -------------------------------------------------------------------

$node->safe_psql('postgres', "CREATE DATABASE $_") foreach 'fresh', 'unused';
create_extension($node, 'fresh');
create_extension($node, 'unused', '1.0');
$node->safe_psql('unused', "ALTER EXTENSION $api UPDATE");
my $fresh = catalog_of($node, 'fresh');
cmp_ok(scalar(keys %$fresh), '>', 5000, 'the catalogs have much to say');
same_catalog($fresh, catalog_of($node, 'unused'), 'updated, never used');

# what grant_* of 1.0 gave, and of what the roles need for the rest, that of
# the present version
if ($usage)
{
	create_sink($node, 'fresh');
	$usage->grant($_) foreach 'postgres', 'fresh';
	same_catalog(catalog_of($node, 'fresh'), catalog_of($node, 'postgres'),
		'updated, in use, granted again');
}

# Would a difference be found?  One planted at a time, and what must tell of it.
my @planted = (
	[ "COMMENT ON COLUMN $api.orders.state IS 'other'", qr/column state of table .*orders: comment/ ],
	[ "ALTER TABLE $api.orders ALTER state SET DEFAULT 'x'", qr/orders, column state: atthasdef/ ],
	[ "ALTER TABLE $api.orders ALTER version SET DEFAULT 2", qr/default value .*orders: definition/ ],
	[ "ALTER TABLE $api.ledger ALTER effect DROP NOT NULL", qr/ledger, column effect: attnotnull/ ],
	[ "ALTER TABLE $api.ledger ADD extra int", qr/ledger: columns in order/ ],
	[   "ALTER TABLE $api.payment_deadlines ALTER order_key TYPE text COLLATE \"POSIX\"",
		qr/payment_deadlines, column order_key: attcollation/ ],
	[ "ALTER TABLE $api.orders SET (fillfactor = 70)", qr/table .*orders: reloptions/ ],
	[ "ALTER TABLE $api.orders SET (toast.autovacuum_enabled = off)", qr/orders: reltoastrelid/ ],
	[ "ALTER TABLE $api.orders DROP CONSTRAINT guard_amount", qr/guard_amount on .*kind/ ],
	[ "ALTER INDEX $api.outbox_0_xid RENAME TO outbox_xid", qr/outbox_0_xid: kind/ ],
	[ "ALTER TABLE $api.orders DISABLE TRIGGER guard_change", qr/guard_change .*tgenabled/ ],
	[ "ALTER FUNCTION $api.get_order COST 7", qr/get_order.*: procost/ ],
	[ "ALTER FUNCTION $api.copy_default_lifecycle RESET ALL", qr/copy_default_lifecycle.*: proconfig/ ],
	[ "GRANT EXECUTE ON FUNCTION $api.claim_key TO PUBLIC", qr/claim_key.*: proacl/ ],
	[ "GRANT SELECT (key) ON $api.orders TO PUBLIC", qr/orders, column key: attacl/ ],
	[ "GRANT USAGE ON TYPE $api.orders TO PUBLIC", qr/type .*orders: typacl/ ],
	[ "ALTER FUNCTION $api.claim_key OWNER TO pg_monitor", qr/claim_key.*: proowner/ ],
	[ "ALTER SEQUENCE $api.outbox_position CACHE 2", qr/outbox_position \(pg_sequence\): seqcache/ ],
	[ "CREATE OR REPLACE VIEW $api.outbox AS SELECT * FROM $api.outbox_0", qr/outbox: definition/ ],
	[ "ALTER FOREIGN DATA WRAPPER order_idempotency_file NO VALIDATOR", qr/_file: fdwvalidator/ ],
	[ "ALTER EXTENSION $api DROP VIEW $api.claims", qr/view .*claims: kind/ ],
	[   "UPDATE pg_extension SET extconfig = extconfig[2:], extcondition = extcondition[2:]"
		  . " WHERE extname = '$api'", qr/extension $api: dumps what is in/ ]);
foreach my $plant (@planted)
{
	my ($sql, $pattern) = @$plant;
	my @lines = catalog_differences($fresh, catalog_of($node, 'unused', after => "$sql;"));

	ok((grep { /$pattern/ } @lines), "found: $sql") or diag(join "\n", @lines);
}

$node->stop;
done_testing();
