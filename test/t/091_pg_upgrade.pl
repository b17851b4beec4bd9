# Promise 10: pg_upgrade, to the same major version and to a newer one.  A database
# with a history, leases, two generations of claims, deadlines, and subscriptions of
# which one is in the middle of a batch, is the same afterwards: everything is known,
# what was begun goes on, and the workers go on by themselves where they were.
# Nothing is delivered while it is upgraded.
#
# Bugs that this catches: workers that start while pg_upgrade runs the servers, which
# was planted; a cursor that is not valid under the new server; a subscription that
# takes the upgraded server for a copy; a generation or a position that begins anew; a
# part of the extension that pg_upgrade does not take along.
#
# The newer PostgreSQL is what scripts/other-major made.  Where it could not the
# test says why, and in CI that is a failure.  The newest one that we know is
# upgraded to itself only.

use strict;
use warnings;

use File::Basename qw(basename dirname);
use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Catalog;
use OrderIdempotency::Copy;
use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = dirname(dirname($FindBin::RealBin));
my $api = 'order_idempotency';
my $db = 'shop';
my $newer = newer_version();
my $conf = "max_worker_processes = 24\norder_idempotency.environment = 'shop'\n";

# The newer major version, undef where there is none.
sub newer_version
{
	my $dir = $ENV{OI_OTHER_MAJOR} // '';
	my @found = $dir eq '' ? () : glob "$dir/usr/lib/postgresql/[0-9]*";

	return @found ? basename($found[0]) : undef;
}

# The directory above the programs that a PATH has, or that are below a directory.
sub installation
{
	my ($below) = @_;

	return "$below/usr/lib/postgresql/$newer" if defined $below;
	chomp(my $bindir = `pg_config --bindir`);
	return dirname($bindir);
}

# Why there is no newer PostgreSQL; undef if there is.
sub why_not
{
	my $dir = $ENV{OI_OTHER_MAJOR};

	return 'no newer PostgreSQL: "make test" would have made one' if !defined $dir;
	chomp(my $reason = -e "$dir/left-out" ? slurp_file("$dir/left-out") : '');
	return $reason if $reason ne '';
	return defined $newer && -x installation($dir) . '/bin/postgres' ? undef : "nothing is in $dir";
}

# Builds the extension with the newer PostgreSQL, and installs it there.  The sources
# are copied, since these ones may have been built, with another PostgreSQL.
sub install_newer
{
	my $dir = "$PostgreSQL::Test::Utils::tmp_check/newer";
	my $config = installation($ENV{OI_OTHER_MAJOR}) . '/bin/pg_config';

	mkdir $dir or die "could not create $dir: $!";
	system_or_bail('sh', '-c', 'cd "$1" && tar --exclude="*.o" --exclude="*.so" -cf - Makefile'
		  . ' *.control *.sql scripts src | tar -C "$2" -xf -', 'sh', $top, $dir);
	command_ok([ 'make', '-s', '-j2', '-C', $dir, "PG_CONFIG=$config", 'install' ],
		"built with PostgreSQL $newer");
	return;
}

# A server in the middle of its work, which is stopped then.  Returns it with
# what its database has and what its subscriptions have sent.
sub old_server
{
	my ($name) = @_;
	my $node = new_drain_node($name, conf => $conf);

	# so that its transactions have numbers that a new server has not reached
	burn_xids($node, 2000);
	$node->safe_psql('postgres', 'CREATE ROLE publisher LOGIN');
	fill_database($node, $db, lifecycle => 1);

	# only a superuser's worker could connect while pg_upgrade runs the server
	subscribe($node, 'own', db => $db, event_types => "'{test.own}'", topic => "'$db-own.jsonl'");
	leave_batch_open($node, $db);
	$node->safe_psql($db, emit('own', 'test.own') x 10);

	my $contents = contents($node, $db);
	my $sent = sent_ids($node, $db);

	# had it workers from now on, they would deliver
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET order_idempotency.publish');
	$node->stop;
	return ($node, $contents, $sent);
}

# Where a server's programs are.
my $bindir_of = sub { ($_[0]->{_install_path} // installation()) . '/bin' };

# Runs pg_upgrade of the new server's version.
sub pg_upgrade
{
	my ($old, $new, $what) = @_;
	chdir $new->basedir or die;
	$new->command_ok(
		[
			$new->installed_command('pg_upgrade'), '--no-sync',
			'-b', $bindir_of->($old), '-B', $bindir_of->($new),
			'-d', $old->data_dir, '-D', $new->data_dir,
			'-s', $new->host, '-p', $old->port, '-P', $new->port
		],
		"$what: pg_upgrade");
	return;
}

# All of it, to the version of that installation.
sub upgrade_to
{
	my ($what, $suffix, $install_path) = @_;
	my ($old, $contents, $before) = old_server("old_$suffix");
	my $new = init_node("new_$suffix", install_path => $install_path, conf => $conf);

	pg_upgrade($old, $new, $what);
	symlink sink_dir($old), sink_dir($new) or die;
	is_deeply(sent_ids($new, $db), $before, "$what: nothing was delivered meanwhile");
	is(events_of($new, "$db-own.jsonl"), '', "$what: by a superuser's worker neither");

	# as it is before anything happens, and then by itself
	$new->append_conf('postgresql.conf', 'order_idempotency.publish = off');
	$new->start;
	foreach my $file (glob $bindir_of->($new) . '/../lib/order_idempotency_*.so')
	{
		my ($library) = $file =~ m{([^/]*)\.so$};

		is($new->psql($db, "LOAD '\$libdir/$library'"), 0, "$what: $library can be loaded");
	}
	same_contents(contents($new, $db), $contents, $what);
	$new->append_conf('postgresql.conf', 'order_idempotency.publish = on');
	$new->reload;
	wait_for_worker($new, $_, $db) foreach qw(whole pairs orders own);
	drained($new, $_, $db) foreach qw(whole pairs orders own);
	is(events_of($new, "$db-own.jsonl"), join(' ', ('own') x 10), "$what: it delivers now");

	goes_on($new, $db, $what, lifecycle => 1);
	drained($new, $_, $db) foreach qw(whole pairs orders);
	all_once($new, "$db-$_.jsonl", "$what, $_", $db) foreach qw(whole pairs);
	positions_grow($new, "$db-$_.jsonl", "$what, $_") foreach qw(whole pairs orders);
	in_key_order($new, "$db-$_.jsonl", "$what, $_") foreach qw(whole pairs);
	sql_is($new, "SELECT count(DISTINCT position >> 44) FROM $api.outbox", '1',
		"$what: still the same log", $db);

	# What pg_upgrade brought along is what the extension is made of, but for
	# privileges on the row types of tables, which pg_dump does not know of: PUBLIC
	# has USAGE on these then, as for any table.
	$new->safe_psql('postgres', 'CREATE DATABASE fresh');
	create_extension($new, 'fresh');
	create_sink($new, 'fresh');
	$new->safe_psql('fresh', "SELECT $api.grant_operator('publisher')");
	same_catalog(catalog_of($new, 'fresh'), catalog_of($new, $db),
		$what, except => qr/^type \S+: typacl$/);
	$new->stop;
	unlike(slurp_file($_->logfile), qr/TRAP|PANIC|terminated by signal/, "$what: nothing crashed")
	  foreach $old, $new;
	return;
}

upgrade_to('the same version', 'same', undef);

# scripts/private names no newer version for this one
my $newest = defined $ENV{OI_OTHER_MAJOR} && $ENV{OI_OTHER_MAJOR} eq '';
my $reason = $newest ? 'upgraded to its own version only, none that is newer being certain to be had' : why_not();
if (!$newest && defined $reason && ($ENV{CI} // '') eq 'true')
{
	fail("a newer PostgreSQL is there: $reason");
}
SKIP:
{
	skip $reason, 1 if defined $reason;
	install_newer();
	upgrade_to("version $newer", 'newer', installation($ENV{OI_OTHER_MAJOR}));
}
done_testing();
