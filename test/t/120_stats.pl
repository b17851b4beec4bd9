# Statistics of calls: every outcome counts where it was answered, in its own
# database, whether the transaction commits or not, and from every session;
# they survive a clean restart, and what is not certainly whole is not believed.
#
# Bugs that this catches: a session's numbers lost when it ends, or counted
# twice; another database's; outcomes that raise an error left out; numbers of
# before a crash, of a torn file or of another library shown as if they were true;
# a reset that another session's numbers survive.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('stats');
my $api = 'order_idempotency';
my $file = $node->data_dir . '/pg_stat/order_idempotency.stat';

my @claims = qw(claimed taken_over replayed in_progress mismatch completed completed_again
  extended released stale unknown);
my @orders = qw(created applied cancelled tombstoned replayed ignored mismatch in_progress
  illegal missing refused);

# The statistics of a database that are not zero, as "claims: name=n ... orders:
# name=n ...".
sub counted
{
	my ($db) = @_;
	my @found;

	foreach my $view ([ 'claim_stats', @claims ], [ 'order_stats', @orders ])
	{
		my ($name, @columns) = @$view;
		my @values = split /\|/,
		  $node->safe_psql($db // 'postgres', "SELECT " . join(', ', @columns) . " FROM $api.$name");

		push @found, map { $values[$_] ? "$columns[$_]=$values[$_]" : () } 0 .. $#columns;
		push @found, '/' if $name eq 'claim_stats';
	}
	return join ' ', @found;
}

# -- every outcome -------------------------------------------------------------

is(counted(), '/', 'nothing at first');
sql_is($node, "SELECT since IS NULL FROM $api.claim_stats", 't', 'and no time from when on');

# one session for all, so that what it has not yet handed over is read, too
my $session = $node->background_psql('postgres', on_error_stop => 0);
my $holder = $node->background_psql('postgres');

$holder->query_safe("BEGIN; SELECT FROM $api.claim_key('held'); SELECT FROM $api.create_order('held', 1, 'EUR')");
$session->query_safe(<<~"SQL");
	SET order_idempotency.in_flight_wait = 0;
	SELECT FROM $api.claim_key('a', '1');
	SELECT FROM $api.claim_key('a', '1');
	SELECT FROM $api.claim_key('a', '1');
	SELECT FROM $api.claim_key('a', '2');
	SELECT FROM $api.claim_key('held');
	SELECT FROM $api.claim_key('l', lease => '1 hour');
	SELECT $api.extend_key('l', '2 hours', 'default', 1);
	SELECT $api.complete_key('l', attempt => 2);
	SELECT $api.release_key('l', attempt => 1);
	SELECT FROM $api.claim_key('l', lease => '1 hour');
	SELECT $api.complete_key('l', attempt => 2);
	SELECT $api.complete_key('l', attempt => 2);
	SELECT $api.complete_key('nobody''s');
	SQL
is(counted(),
	'claimed=4 taken_over=1 replayed=2 in_progress=1 mismatch=1 completed=1 completed_again=1 '
	  . 'extended=1 released=1 stale=1 unknown=1 / created=1',
	'claims by outcome');
sql_is($node, "SELECT since <= now() AND since > now() - interval '1 hour' FROM $api.claim_stats", 't',
	'since then');

# it shows errors, as it should
$session->query(<<~"SQL");
	SELECT FROM $api.create_order('o', 1, 'EUR');
	SELECT FROM $api.create_order('o', 1, 'EUR');
	SELECT FROM $api.create_order('o', 2, 'EUR');
	SELECT FROM $api.create_order('held', 1, 'EUR');
	SELECT FROM $api.transition_order('o', 'paid');
	SELECT FROM $api.transition_order('o', 'paid');
	SELECT FROM $api.transition_order('o', 'created', 'never seen');
	SELECT FROM $api.transition_order('nobody''s', 'paid');
	SELECT FROM $api.cancel_order('o');
	SELECT FROM $api.create_order('c', 1, 'EUR');
	SELECT FROM $api.cancel_order('c');
	SELECT FROM $api.cancel_order('t', if_missing => 'tombstone');
	SELECT FROM $api.create_order('t', 1, 'EUR');
	SELECT FROM $api.create_order('t', 1, 'EUR', on_conflict => 'report');
	SQL
$session->{stderr} = '';
my $all = counted();
like($all,
	qr{/ created=3 applied=1 cancelled=1 tombstoned=1 replayed=2 ignored=1 mismatch=1 in_progress=1 illegal=1 missing=1 refused=2$},
	'orders by outcome, those that raise an error, too');

# -- sessions, rollback, databases -----------------------------------------------

$holder->query_safe('ROLLBACK');
is(counted(), $all, 'what was rolled back had been answered all the same');
$holder->quit;
is(counted(), $all, 'what a session counted stays when it ends');
sql_is($node, "SELECT count(*) FROM (SELECT ($api.claim_key('one statement')).*) s", '1', 'one call, by column');
is(counted(), $all =~ s/claimed=4/claimed=5/r, 'counts once');

$node->safe_psql('postgres', 'CREATE DATABASE other');
create_extension($node, 'other');
is(counted('other'), '/', 'another database has its own');
$node->safe_psql('other', "SELECT FROM $api.claim_key('a')");
is(counted('other'), 'claimed=1 /', 'which count what is called there');

# many sessions at once, each of which ends
my $clients = 10;
my $calls = 200;
my $before = $node->safe_psql('other', "SELECT claimed + replayed + in_progress FROM $api.claim_stats");
$node->pgbench("--no-vacuum --client=$clients --transactions=$calls --jobs=2", 0,
	[qr/processed: ${\($clients * $calls)}/], [qr/^$/], 'many sessions', { '120_claims' => <<~"SQL" }, 'other');
	\\set n random(1, 50)
	SELECT FROM $api.claim_key(:n\:\:text);
	SQL
is($node->safe_psql('other', "SELECT claimed + replayed + in_progress FROM $api.claim_stats") - $before,
	$clients * $calls, 'no call is lost or counted twice');

# -- reset -----------------------------------------------------------------------

$all = counted('other');
$node->safe_psql('postgres', "SELECT $api.reset_stats()");
is(counted(), '/', 'a reset takes what another session has counted');
is(counted('other'), $all, 'in one database');
$session->query_safe("SELECT FROM $api.claim_key('b'); SELECT FROM $api.create_order('b', 1, 'EUR')");
is(counted(), 'claimed=1 / created=1', 'whose counting goes on');
$session->quit;
is(counted(), 'claimed=1 / created=1', 'and is not what it was before, when it ends');

# -- restarts ----------------------------------------------------------------------

# A session is open while the server stops.
$session = $node->background_psql('postgres');
$session->query_safe("SELECT FROM $api.claim_key('b')");
my $since = $node->safe_psql('postgres', "SELECT since FROM $api.claim_stats");
$node->stop('fast');
ok(-e $file, 'a stopped server leaves a file');
my $content = slurp_file($file);
$node->start;
ok(!-e $file, 'which is gone when it runs');
is(counted(), 'claimed=1 replayed=1 / created=1', 'a clean restart keeps all');
is(counted('other'), $all, 'of each database');
is($node->safe_psql('postgres', "SELECT since FROM $api.claim_stats"), $since, 'and since when');
$node->safe_psql('postgres', "SELECT FROM $api.claim_key('b')");
is(counted(), 'claimed=1 replayed=2 / created=1', 'and goes on from there');

$node->stop('immediate');
$node->start;
is(counted(), '/', 'after an immediate shutdown they begin anew');
ok(!-e $file, 'without a file');
$node->safe_psql('postgres', "SELECT FROM $api.claim_key('b')");
kill_server($node);
open my $stale, '>:raw', $file or die;
print $stale $content;
close $stale or die;
$node->start;
is(counted(), '/', 'after a crash, too, even if an old file is there');
ok(!-e $file, 'which is removed');

# A backend crashes, and the postmaster makes its shared memory anew.
$session = $node->background_psql('postgres');
$session->query_safe("SELECT FROM $api.claim_key('b')");
is(counted(), 'replayed=1 /', 'a call');
kill 'KILL', $session->query_safe('SELECT pg_backend_pid()');
eval { $session->quit };
$node->wait_for_log(qr/all server processes terminated; reinitializing/);
wait_until_up($node);
is(counted(), '/', 'so does one of whose processes one crashes');

# Writes a file for the stopped server and starts it; returns what it counted.
sub start_with
{
	my ($bytes) = @_;

	$node->stop;
	open my $out, '>:raw', $file or die;
	print $out $bytes;
	close $out or die;
	$node->start;
	return counted();
}

is(start_with($content), 'claimed=1 replayed=1 / created=1', 'the file as it was is believed');
my $middle = length($content) / 3;
my %spoiled = (
	'cut' => substr($content, 0, -1),
	'cut within the header' => substr($content, 0, 10),
	'empty' => '',
	'longer' => "$content\0",
	'with one bit changed' => do { my $c = $content; substr($c, $middle, 1) ^= "\1"; $c },
	'of which the end was not written' => do { my $c = $content; substr($c, 100) = "\0" x (length($c) - 100); $c },
	'of another server version' => do { my $c = $content; substr($c, 8, 1) ^= "\1"; $c },
	'of another format' => do { my $c = $content; substr($c, 12, 1) ^= "\1"; $c },
	'without its magic' => 'x' . substr($content, 1));
foreach my $what (sort keys %spoiled)
{
	my $log = -s $node->logfile;

	is(start_with($spoiled{$what}), '/', "a file $what is not");
	ok($node->log_contains(qr/ignoring invalid statistics in file/, $log), 'and the log says so');
}

# -- without preloading ----------------------------------------------------------

$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
$node->safe_psql('postgres', "SELECT FROM $api.claim_key('n'); SELECT FROM $api.create_order('n', 1, 'EUR')");
sql_is($node, "SELECT (SELECT count(*) FROM $api.claim_stats), (SELECT count(*) FROM $api.order_stats)", '0|0',
	'without preloading the views are empty, and calls work');
sql_is($node, "SELECT $api.reset_stats()", '', 'so does reset_stats');

$node->stop;
done_testing();
