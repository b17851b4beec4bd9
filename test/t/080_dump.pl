# Promises 4 and 10: a restored dump has everything, goes on where the original
# was, publishes nothing before it is told to, and then what was left, once.
#
# Four ways to dump, into servers whose transaction numbers are lower than the
# original's, or higher.  At the time of the dump there are events that nobody has
# sent, a batch in progress among late rows, an open transaction, and a
# prepared one.
#
# Bugs that this catches, each of which was planted: a cursor whose transaction
# numbers are taken for the new server's (all events below them are skipped); late
# rows of the old log sent again for a transaction of the same number; a batch
# in progress that takes in rows of the new log; a restored subscription with a
# worker; a table that is not dumped.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Copy;
use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

my $api = 'order_idempotency';
my $conf = "order_idempotency.environment = 'test'\n";
my $db = 'shop';

# Dumps a database and restores it into a new server.
sub copy_database
{
	my ($source, $target, $format) = @_;
	my $dump = $target->basedir . '/dump';
	my $restore = [ 'pg_restore', '--exit-on-error', '--dbname', $db ];
	my $psql = [ 'psql', '-Xq', '--set=ON_ERROR_STOP=1', '--dbname', $db, '--file' ];

	$source->command_ok(
		[ 'pg_dump', "--file=$dump", @{ $format->{dump} }, $db ],
		"$format->{name}: dumped");
	$source->command_ok([ 'pg_dump', '--schema-only', "--file=$dump.schema", $db ],
		"$format->{name}: its schema dumped")
	  if $format->{name} eq 'data only';
	$target->safe_psql('postgres',
		"CREATE ROLE publisher LOGIN; CREATE DATABASE $db");
	$target->command_ok([ @$psql, "$dump.schema" ], "$format->{name}: its schema restored")
	  if $format->{name} eq 'data only';
	$target->command_ok(
		$format->{restore} ? [ @$restore, @{ $format->{restore} }, $dump ] : [ @$psql, $dump ],
		"$format->{name}: restored");
	return;
}

# Transactions of the copy that have the numbers of the original's, and commit
# late: they are looked for by number, and the original's rows are there.
sub have_old_numbers
{
	my ($target, $what) = @_;
	my $pool = OrderIdempotency::Sessions->new($target, 12, db => $db);
	my $old = "SELECT xid FROM $api.outbox WHERE position >> 44 = 0";

	$target->safe_psql($db, <<~SQL);
		DO \$\$ BEGIN
			WHILE pg_current_xact_id()::text::bigint < (SELECT max(xid) FROM ($old) o)::text::bigint - 6 LOOP
				COMMIT;
			END LOOP;
		END \$\$
		SQL
	$pool->run($_, 'BEGIN;' . emit('number')) foreach 0 .. 11;
	$target->safe_psql($db, emit("$what beside them"));
	drained($target, $_, $db) foreach qw(whole pairs orders);
	$pool->run($_, 'COMMIT;') foreach 0 .. 11;
	sql_is($target, <<~SQL, 't', "$what: some have the numbers of old ones", $db);
		SELECT count(*) > 0 FROM $api.outbox WHERE key = 'number' AND xid IN ($old)
		SQL
	$pool->quit;
	return;
}

# What a restored database does, from before its first write on.
sub check_copy
{
	my ($target, $what, $before, %opt) = @_;

	is_disarmed($target, $db, 'dump', $what);
	goes_on($target, $db, $what, %opt);
	$target->safe_psql($db, emit("$what before"));
	redirect_sink($target, $db);
	is_disarmed($target, $db, 'dump', "$what, written to");
	is(join(' ', glob sink_dir($target) . "/$db*"), '', "$what: nothing is published");

	# a transaction of the copy's own that is open when it is resumed
	my $pool = OrderIdempotency::Sessions->new($target, 1, db => $db);

	$pool->run(0, 'BEGIN;' . emit('own'));
	resume($target, $db);
	$target->safe_psql($db, emit("$what after"));
	publishes_the_rest($target, $db, $before, "$what, resumed");
	$pool->run(0, 'COMMIT;');
	have_old_numbers($target, $what) if $opt{source_burns};
	$target->restart;
	$target->safe_psql($db, emit("$what restarted"));
	publishes_the_rest($target, $db, $before, "$what, restarted");
	sql_is($target, <<~"SQL", "0|t\n1|t", "$what: two incarnations of the log", $db);
		SELECT position >> 44, count(*) > 5 FROM $api.outbox GROUP BY 1 ORDER BY 1
		SQL
	$pool->quit;
	return;
}

# Makes a source, and a copy of it by each of these formats.
sub check_formats
{
	my ($name, %opt) = @_;
	my $source = new_drain_node($name =~ s/\W+/_/gr . "_source", conf => $conf);

	burn_xids($source, 5000) if $opt{source_burns};
	$source->safe_psql('postgres', 'CREATE ROLE publisher LOGIN');
	fill_database($source, $db, %opt);
	leave_batch_open($source, $db);

	my $pool = OrderIdempotency::Sessions->new($source, 1, db => $db);
	my $before = sent_ids($source, $db);
	my $contents = contents($source, $db);

	$pool->run(0, 'BEGIN;' . emit('prepared') . "PREPARE TRANSACTION 'one';");
	$pool->run(0, 'BEGIN;' . emit('open'));
	foreach my $format (@{ $opt{formats} })
	{
		my $what = "$name, $format->{name}";
		my $target = new_node($what =~ s/\W+/_/gr, conf => "max_worker_processes = 24\n$conf");

		mkdir sink_dir($target) or die;
		create_sink($target, 'postgres');
		burn_xids($target, 5000) if $opt{target_burns};
		copy_database($source, $target, $format);

		# positions that open transactions drew are not in the log
		my $position = $contents =~ s/(?<=^outbox_position\n)(\d+)/$1 + 2/mer;
		same_contents(contents($target, $db), $position, $what);
		check_copy($target, $what, $before, %opt);
		unlike(slurp_file($target->logfile), qr/TRAP|PANIC|terminated by signal/,
			"$what: nothing crashed");
		$target->stop;
	}

	# the original has not noticed
	is_deeply(sent_ids($source, $db), $before, "$name: nothing went out from a copy");
	$pool->run(0, 'COMMIT;');
	$source->safe_psql($db, "COMMIT PREPARED 'one'");
	set_publish($source, 'on');
	drained($source, $_, $db) foreach qw(whole pairs orders);
	all_once($source, "$db-$_.jsonl", "$name: the original, $_", $db) foreach qw(whole pairs);
	$source->stop;
	return;
}

check_formats(
	'from above',
	source_burns => 1,
	formats => [
		{ name => 'plain', dump => [] },
		{
			name => 'data only',
			dump => [ '--data-only', '--disable-triggers' ]
		}
	]);
check_formats(
	'from below',
	target_burns => 1,
	lifecycle => 1,
	formats => [
		{ name => 'custom', dump => ['--format=custom'], restore => ['--single-transaction'] },
		{
			name => 'directory',
			dump => [ '--format=directory', '--jobs=2' ],
			restore => ['--jobs=2']
		}
	]);
done_testing();
