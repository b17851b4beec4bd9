# Promise 10: a dump of version 1.0 that is restored where the present one is has
# everything, is disarmed as any copy, and goes on where it was once it is resumed.
# Its transaction numbers are higher than the new server's.  A lifecycle is checked
# as a whole, so a dump with an INSERT a row is restored in one transaction.
#
# Bugs that this catches, each of which was planted: a subscription without an
# installation that counts as armed; a column that 1.0's rows must have.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Copy;
use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::Released;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => '1.0 does not build with this PostgreSQL' if !release_builds();

my $api = 'order_idempotency';
my $db = 'shop';
my $old = new_drain_node('old', install_path => install_release());
my $new = new_drain_node('new', conf => "order_idempotency.environment = 'test'\n");

burn_xids($old, 3000);
$_->safe_psql('postgres', 'CREATE ROLE publisher LOGIN') foreach $old, $new;
fill_database($old, $db, lifecycle => 1);
leave_batch_open($old, $db);

my $before = sent_ids($old, $db);

foreach my $format ([ '--format=plain', '--inserts' ], ['--format=custom'])
{
	my $dump = $new->basedir . '/dump';
	my $what = "a dump of 1.0, @$format";

	$old->command_ok([ 'pg_dump', @$format, "--file=$dump", $db ], "$what: dumped");
	$new->safe_psql('postgres', "CREATE DATABASE $db");
	$new->command_ok(
		$format->[0] =~ /plain/
		? [
			'psql', '-Xq', '--set=ON_ERROR_STOP=1', '--single-transaction', '--dbname', $db,
			'--file', $dump
		  ]
		: [ 'pg_restore', '--exit-on-error', '--dbname', $db, $dump ],
		"$what: restored");
	sql_is($new, "SELECT extversion FROM pg_extension WHERE extname = '$api'",
		$new->safe_psql('postgres',
			"SELECT default_version FROM pg_available_extensions WHERE name = '$api'"),
		"$what: under the present version", $db);
	redirect_sink($new, $db);
	is_disarmed($new, $db, 'dump', $what);
	goes_on($new, $db, $what, lifecycle => 1);

	# a dump brings privileges along, those of 1.0
	$new->safe_psql($db, "SELECT $api.grant_operator('publisher')");
	resume($new, $db);
	$new->safe_psql($db, emit('resumed'));
	publishes_the_rest($new, $db, $before, $what);
	sql_is($new, "SELECT count(DISTINCT position >> 44) FROM $api.outbox", '2',
		"$what: two incarnations of the log", $db);
	$new->safe_psql('postgres', "DROP DATABASE $db");
	unlink glob sink_dir($new) . "/$db*";
}
set_publish($old, 'on');
drained($old, $_, $db) foreach qw(whole pairs orders);
all_once($old, "$db-$_.jsonl", "the original, $_", $db) foreach qw(whole pairs);
unlike(slurp_file($_->logfile), qr/TRAP|PANIC|terminated by signal/, 'nothing crashed')
  foreach $old, $new;
done_testing();
