# Promises 4 and 10: of the other ways to copy a database none publishes what is
# the original's, and each goes on where the original was, once it is told to.
#
# A chain of two restores, of which the first was written to or not, and
# resumed or not; a database made from another as its template; a copy of the data
# directory, in another environment and in the same one; a promoted standby.
#
# Bugs that this catches, each of which was planted: incarnations of the log that
# are told apart by whether somebody wrote to it (a chain whose first log was
# empty); a chain that jumps over an incarnation; a copy that is not told by the
# database, or by the environment; a worker that goes on after the setting has
# changed, or that does not come when it is changed back; a resume that goes
# back to the start.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Copy;
use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $api = 'order_idempotency';
my $db = 'shop';

# A server for databases that come from elsewhere.
sub new_target
{
	my ($name, $environment, %opt) = @_;
	my $node = new_drain_node($name, %opt,
		conf => "order_idempotency.environment = '$environment'\n");

	$node->safe_psql('postgres', 'CREATE ROLE publisher LOGIN');
	return $node;
}

# Copies a database by a dump, under another name or to another server.
sub restore
{
	my ($from, $to, %opt) = @_;
	my $dump = $to->basedir . '/dump';

	$from->command_ok([ 'pg_dump', "--file=$dump", $opt{from} // $db ], 'dumped');
	$to->safe_psql('postgres', "CREATE DATABASE @{[ $opt{to} // $db ]}");
	$to->command_ok(
		[
			'psql', '-Xq', '--set=ON_ERROR_STOP=1', '--dbname', $opt{to} // $db,
			'--file', $dump
		],
		'restored');
	redirect_sink($to, $opt{to} // $db);
	return;
}

# Makes a database from another one as its template, for which nobody may be
# connected to that; its workers come back.
sub copy_as_template
{
	my ($node, $copy) = @_;

	$node->safe_psql('postgres', $_) foreach
	  "ALTER DATABASE $db ALLOW_CONNECTIONS false",
	  "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '$db'",
	  "CREATE DATABASE $copy TEMPLATE $db",
	  "ALTER DATABASE $db ALLOW_CONNECTIONS true";
	return;
}

# What two files together have sent.
sub sum
{
	my ($a, $b) = @_;

	return { map { $_ => [ @{ $a->{$_} }, @{ $b->{$_} } ] } keys %$a };
}

# Removes the last copy from a server.
sub discard
{
	my ($node) = @_;

	$node->safe_psql('postgres', "DROP DATABASE $db");
	unlink glob sink_dir($node) . '/*';
	return;
}

# -- dumps of dumps ----------------------------------------------------------

# The first copy is written to and not resumed.  Its own events have the numbers
# of its server, those of the original are much higher.
my $source = new_target('source', 'test', streaming => 1);
my $middle = new_target('middle', 'test');
my $last = new_target('last', 'test');

burn_xids($source, 3000);
burn_xids($last, 1000);
fill_database($source, $db);
leave_batch_open($source, $db);

my $before = sent_ids($source, $db);

restore($source, $middle);
$middle->safe_psql($db, emit('middle') x 3);
restore($middle, $last);
is_disarmed($last, $db, 'dump', 'a chain');
goes_on($last, $db, 'a chain');
resume($last, $db);
$last->safe_psql($db, emit('last'));
publishes_the_rest($last, $db, $before, 'a chain');
sql_is($last, <<~SQL, "0|t\n1|t\n2|t", 'a chain: three incarnations of the log', $db);
	SELECT position >> 44, count(*) > 0 FROM $api.outbox GROUP BY 1 ORDER BY 1
	SQL
discard($last);

# The first copy is resumed, and sends all but its last events.
resume($middle, $db);
publishes_the_rest($middle, $db, $before, 'the middle of a chain');
set_publish($middle, 'off');
$middle->safe_psql($db, emit('left') x 2 . "SELECT FROM $api.create_order('left', 1, 'EUR');");
restore($middle, $last);
is_disarmed($last, $db, 'dump', 'a chain with a resume');
resume($last, $db);
$last->safe_psql($db, emit('last'));
publishes_the_rest($last, $db, sum($before, sent_ids($middle, $db)), 'a chain with a resume');
discard($last);

# The first copy is not even written to.
discard($middle);
restore($source, $middle);
restore($middle, $last);
is_disarmed($last, $db, 'dump', 'a chain without a write');
resume($last, $db);
$last->safe_psql($db, emit('last'));
publishes_the_rest($last, $db, $before, 'a chain without a write');
discard($_) foreach $middle, $last;
set_publish($middle, 'on');

# The original's log is empty, but it has cursors.
my $empty = new_target('empty', 'test');
my %nothing = map { $_ => [] } qw(whole pairs orders);

burn_xids($empty, 5000);
$empty->safe_psql('postgres', "CREATE DATABASE $db");
create_extension($empty, $db);
create_sink($empty, $db);
make_subscriptions($empty, $db, 'now');
restore($empty, $middle);
$middle->safe_psql($db, emit('middle') x 3 . "SELECT FROM $api.create_order('o', 1, 'EUR');");
restore($middle, $last);
resume($last, $db);
$last->safe_psql($db, emit('last'));
publishes_the_rest($last, $db, \%nothing, 'a chain from an empty log');
resume($middle, $db);
$middle->safe_psql($db, emit('resumed'));
publishes_the_rest($middle, $db, \%nothing, 'an empty log');
$_->stop foreach $empty, $middle;
discard($last);

# A database that was in use before: what has been delivered cannot be told.
$last->safe_psql('postgres', "CREATE DATABASE $db");
create_extension($last, $db);
$last->safe_psql($db, "SELECT FROM $api.claim_key('a')");
$last->safe_psql($db, <<~SQL);
	INSERT INTO $api.subscriptions (id, name, server, owner)
		VALUES (1, 'mixed', 'files', 'publisher');
	INSERT INTO $api.subscription_cursors VALUES (1, '1000:1000:', 7, '1000', NULL, NULL, NULL, 0, 0);
	SELECT setval('$api.outbox_position', 9);
	SQL
my ($status, undef, $error) =
  $last->psql($db, "\\set VERBOSITY sqlstate\nSELECT $api.resume_subscription('mixed')");
is($status, 3, 'a subscription restored into a database in use is not resumed');
like($error, qr/ERROR:  55000/, 'with this error');
$last->stop;

# -- a database as a template --------------------------------------------------

set_publish($source, 'on');
drained($source, $_, $db) foreach qw(whole pairs orders);
leave_batch_open($source, $db);
$before = sent_ids($source, $db);

copy_as_template($source, 'copy');
set_publish($source, 'on');
redirect_sink($source, 'copy', 'template');
is_disarmed($source, 'copy', 'a copy of', 'a template');
$source->safe_psql('copy', emit('copied'));

my $pool = OrderIdempotency::Sessions->new($source, 1, db => 'copy');

$pool->run(0, 'BEGIN;' . emit('own'));
resume($source, 'copy');
$source->safe_psql('copy', emit('resumed'));
publishes_the_rest($source, 'copy', $before, 'a template', files => "template/$db");
$pool->run(0, 'COMMIT;');
publishes_the_rest($source, 'copy', $before, 'a template, later', files => "template/$db");
sql_is($source, "SELECT count(DISTINCT position >> 44) FROM $api.outbox", '1',
	'a template: one incarnation, as the numbers are of one server', 'copy');
$pool->quit;

drained($source, $_, $db) foreach qw(whole pairs orders);
all_once($source, "$db-$_.jsonl", "the template, $_", $db) foreach qw(whole pairs);

# -- another environment -------------------------------------------------------

set_environment($source, 'other');
$source->poll_query_until($db, <<~SQL) or die;
	SELECT bool_and(state = 'disarmed' AND pid IS NULL) FROM $api.subscription_status
	SQL
$source->safe_psql($db, emit('other') x 2);
is_disarmed($source, $db, 'environment "test"', 'another environment');
sql_is($source, "SELECT lag_events FROM $api.subscription_status WHERE name = 'whole'", '2',
	'another environment: two are waiting', $db);
set_environment($source, 'test');
wait_for_worker($source, $_, $db) foreach qw(whole pairs orders);
drained($source, $_, $db) foreach qw(whole pairs orders);
all_once($source, "$db-$_.jsonl", "the environment of before, $_", $db) foreach qw(whole pairs);

# Resumed there, and no longer armed where it was.
set_environment($source, 'other');
$source->poll_query_until($db, <<~SQL) or die;
	SELECT bool_and(state = 'disarmed' AND pid IS NULL) FROM $api.subscription_status
	SQL
$source->safe_psql($db, emit('moved'));
resume($source, $db);
drained($source, $_, $db) foreach qw(whole pairs orders);
all_once($source, "$db-$_.jsonl", "resumed in another environment, $_", $db)
  foreach qw(whole pairs);

# -- the data directory --------------------------------------------------------

leave_batch_open($source, $db);
$pool = OrderIdempotency::Sessions->new($source, 1, db => $db);
$pool->run(0, 'BEGIN;' . emit('prepared') . "PREPARE TRANSACTION 'one';");
$pool->run(0, 'BEGIN;' . emit('open'));
$before = sent_ids($source, $db);
$source->backup('copy');

my $clone = PostgreSQL::Test::Cluster->new('clone');

$clone->init_from_backup($source, 'copy');
$clone->append_conf('postgresql.auto.conf', "order_idempotency.environment = 'clone'\n");
$clone->start;
redirect_sink($clone, $_) foreach 'postgres', $db;
set_publish($clone, 'on');
is_disarmed($clone, $db, 'environment "other"', 'a clone');
$clone->safe_psql($db, emit('clone') . "COMMIT PREPARED 'one'");
resume($clone, $db);
publishes_the_rest($clone, $db, $before, 'a clone');
$clone->stop;
is_deeply(sent_ids($source, $db), $before, 'nothing of it where the original delivers');

# A standby has the original's environment, and takes over by itself.
my $standby = PostgreSQL::Test::Cluster->new('standby');

$standby->init_from_backup($source, 'copy', has_streaming => 1);
symlink sink_dir($source), sink_dir($standby) or die;
$standby->start;
$pool->run(0, 'COMMIT;');
$source->safe_psql($db, emit('streamed') . "COMMIT PREPARED 'one'");
set_publish($source, 'on');
drained($source, 'pairs', $db);
set_publish($source, 'off');
$source->safe_psql($db, emit('not sent'));
$source->wait_for_catchup($standby);
$pool->quit;
$source->stop('immediate');
$standby->promote;
$standby->safe_psql($db, emit('promoted'));
set_publish($standby, 'on');
drained($standby, $_, $db) foreach qw(whole pairs orders);
all_once($standby, "$db-$_.jsonl", "a promoted standby, $_", $db) foreach qw(whole pairs);
unlike(slurp_file($_->logfile), qr/TRAP|PANIC|terminated by signal/, 'nothing crashed')
  foreach $source, $clone, $standby;
$standby->stop;
done_testing();
