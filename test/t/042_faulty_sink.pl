# Promises 4, 6 and 7 with a sink that does wrong whatever a sink can do wrong:
# every event arrives, under the same id at each attempt; repeated are only those
# that were delivered when the worker could not know or record it; an event
# never arrives before an earlier one of its key; and nobody has to wait for the
# worker.
#
# Bugs that this catches: an outcome taken over as it is; an order that trusts the
# sink; an error, a lock, a transaction, a signal mask or memory that a callback
# leaves behind; a callback that holds up DROP DATABASE or a shutdown; a reason that
# forges a line of the log, tells a secret, or cannot be read from the view.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

srand(42);
my $node = new_node('faulty', conf => "max_worker_processes = 24\n");
my $api = 'order_idempotency';
my $canary = 'canary-6d1f0e';

plan skip_all => 'the sink of test/modules is not installed'
  if !-e $node->config_data('--pkglibdir') . '/order_idempotency_faulty.so';
plan skip_all => 'a server with assertions ends the process in which a sink does what none may do'
  if $node->safe_psql('postgres', 'SHOW debug_assertions') eq 'on';

# how long something may take that must not wait for a sink, whose deadline is 30 s;
# five seconds, but the machine may be busy
my $at_once = 15;

# A server of the sink and a subscription to it, both of that name.  Options: db,
# and options of the server and of the subscription.
sub create_faulty
{
	my ($name, %opt) = @_;
	my $db = $opt{db} // 'postgres';
	my $log = log_of($name);
	my $more = $opt{server} ? ", $opt{server}" : '';
	my $options = $opt{options} // '{"batch_size": 1}';

	$node->safe_psql($db, <<~"SQL");
		DO \$\$
		BEGIN
			CREATE FOREIGN DATA WRAPPER order_idempotency_faulty;
		EXCEPTION WHEN duplicate_object THEN NULL;
		END \$\$;
		CREATE SERVER $name FOREIGN DATA WRAPPER order_idempotency_faulty OPTIONS (log '$log'$more);
		CREATE USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS (secret '$canary');
		SELECT $api.create_subscription('$name', '$name', ARRAY['$name.event'], options => '$options');
		SQL
	wait_for_worker($node, $name, $db) if !$opt{no_wait};
	return;
}

# The file in which a sink notes what it does.
sub log_of
{
	my ($name) = @_;

	return $node->basedir . "/$name.log";
}

# An event that makes the sink of that name do those words, one an attempt.
sub event
{
	my ($name, $key, $words) = @_;

	return "SELECT $api.emit_event('$name.event', '$key', '{\"do\": \"$words\"}');\n";
}

# The attempts in a sink's log, in their order.
sub attempts
{
	my ($name) = @_;
	my @attempts;

	return () if !-e log_of($name);
	foreach my $line (split /\n/, slurp_file(log_of($name)))
	{
		my ($n, $what, $id, $position, $version, $key, $delivered) = split /\t/, $line;

		push @attempts, {
			n => $n, what => $what, key => $key, position => $position,
			id => $what eq 'delivered' ? $delivered : $id };
	}
	return @attempts;
}

# The attempts at a key, as words.
sub story
{
	my ($name, $key) = @_;

	return join ' ', map { $_->{what} } grep { $_->{key} eq $key } attempts($name);
}

# The keys delivered, in their order.
sub delivered_keys
{
	my ($name) = @_;

	return join ' ', map { $_->{key} } grep { $_->{what} eq 'delivered' } attempts($name);
}

# Waits until a word is in a sink's log, that many times.
sub wait_for_word
{
	my ($name, $word, $times) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	until ((grep { $_->{what} eq $word } attempts($name)) >= ($times // 1))
	{
		die "no $word in the log of $name" if time > $deadline;
		usleep(5000);
	}
	return;
}

# Waits until the subscription's last error is like this.
sub fails
{
	my ($name, $pattern, $what, $db) = @_;

	ok($node->poll_query_until($db // 'postgres',
			"SELECT last_error ~ '$pattern' FROM $api.subscription_status WHERE name = '$name'"),
		$what);
	return;
}

# Checks that all events of a subscription were delivered, that no event came
# before an earlier one of its key, and that none came twice but those of keys that
# were to.
sub all_came
{
	my ($name, $twice, $what, $db) = @_;
	my @logged = map { [ split /\|/ ] } split /\n/, $node->safe_psql($db // 'postgres',
		"SELECT event_id, key FROM $api.outbox WHERE type = '$name.event' ORDER BY position");
	my %place = map { $logged[$_][0] => $_ } 0 .. $#logged;
	my (%times, %due, @wrong);

	push @{ $due{ $_->[1] } }, $_->[0] foreach @logged;
	foreach my $attempt (grep { $_->{what} eq 'delivered' } attempts($name))
	{
		my ($id, $key) = @$attempt{ 'id', 'key' };

		push @wrong, "$key: ghost" if !exists $place{$id};
		next if $times{$id}++;
		push @wrong, "$key: too early" if shift @{ $due{$key} } ne $id;
	}
	push @wrong, map { "$_->[1]: lost" } grep { !$times{ $_->[0] } } @logged;
	push @wrong, map { "$_->[1]: repeated" }
	  grep { ($times{ $_->[0] } // 0) > 1 && $_->[1] !~ $twice } @logged;
	is(join(', ', sort @wrong), '', "$what: all " . @logged . ' came, each key in order, none twice');
	return;
}

# What the server's log says, its statements left out.
sub messages
{
	my ($from) = @_;

	return map { "$_\n" } grep { /^[-0-9]+ [:.0-9]+ \S+ \[\d+\] .*?(?:LOG|WARNING|ERROR|FATAL|PANIC):  (?!statement)/ }
	  split /\n/, slurp_file($node->logfile, $from // 0);
}

# How long something takes.
sub seconds
{
	my ($do) = @_;
	my $began = time;

	$do->();
	return time - $began;
}

# -- outcomes ------------------------------------------------------------------

create_faulty('alone');
my %stories = (
	'retry retry:50 retry' => 'retry retry retry deliver delivered',
	'forget' => 'forget deliver delivered',
	'error error' => 'error error deliver delivered',
	'after' => 'after delivered deliver delivered',
	'outcome:42 outcome:-1' => 'outcome outcome deliver delivered',
	'retry:-5 retry:0' => 'retry retry deliver delivered',
	'slow:300' => 'slow delivered',
	'say:nothing' => 'say deliver delivered');
my @words = sort keys %stories;
my $pid = wait_for_worker($node, 'alone');

$node->safe_psql('postgres', join '', map { event('alone', "story-$_", $words[$_]) } 0 .. $#words);
drained($node, 'alone');
is(story('alone', "story-$_"), $stories{ $words[$_] }, "an event that wants $words[$_]")
  foreach 0 .. $#words;
all_came('alone', qr/^story-0$/, 'outcomes');
is($words[0], 'after', 'where that is the one');
is(worker_pid($node, 'alone'), $pid, 'by one worker');
my %ids;
$ids{ $_->{key} }{ $_->{id} } = 1 foreach attempts('alone');
is(scalar(grep { keys %$_ != 1 } values %ids), 0, 'the same id at each attempt');

# An event that counts as delivered for the sink, behind one of its key that does
# not; and one of another key.
create_faulty('batch', options => '{"batch_size": 100}');
$node->safe_psql('postgres', 'BEGIN;' . event('batch', 'a', 'skip') . event('batch', 'a', 'deliver')
	  . event('batch', 'b', 'deliver') . event('batch', 'a', 'deliver') . 'COMMIT');
drained($node, 'batch');
is(delivered_keys('batch'), 'a b a a a a', 'nothing of a key is done before what is before it');
my @of_a = grep { $_->{key} eq 'a' && $_->{what} eq 'delivered' } attempts('batch');
is(join(' ', map { $_->{position} - $of_a[2]{position} } @of_a), '1 3 0 1 3',
	'so those behind it are sent again');
sql_is($node, "SELECT delivered FROM $api.subscription_status WHERE name = 'batch'", '4',
	'and counted once');

# Random words for many keys, in batches of many sizes.
my @quick = ('retry', 'retry:5', 'forget', 'error', 'after', 'outcome:7', 'slow:3', 'mangle', 'say:bytes',
	'transaction', 'lwlock', 'lock', 'owner', 'stack', 'block', 'context', 'user', 'broken');
create_faulty('random', options => '{"batch_size": 7}');
$node->safe_psql('postgres', join '', map {
	event('random', 'key-' . int(rand 12),
		join ' ', map { rand() < 0.15 ? $quick[ rand @quick ] : 'deliver' } 1 .. 1 + rand 2)
} 1 .. 250);
drained($node, 'random');
all_came('random', qr/./, 'random words');
my $random_left = () = join('', messages()) =~ /WARNING:  sink library .* left /g;

# -- ends of the process --------------------------------------------------------

# The words, whether the event is delivered before, and what the log says.
foreach my $case (
	[ 'fatal', 0, qr/FATAL:  the event wants a fatal error/ ],
	[ 'exit:0', 0, qr/./ ],
	[ 'exit:1', 0, qr/exited with exit code 1/ ],
	[ 'exit:3', 0, qr/exited with exit code 3/ ],
	[ 'crash', 0, qr/was terminated by signal 9/ ],
	[ 'gone', 1, qr/was terminated by signal 9/ ])
{
	my ($word, $delivered, $said) = @$case;
	my $key = $word =~ tr/a-z//cdr;
	my $log = -s $node->logfile;

	$pid = wait_for_worker($node, 'alone');
	$node->psql('postgres', 'BEGIN;' . event('alone', $key, $word)
		  . event('alone', $key, 'deliver') . 'COMMIT');
	drained($node, 'alone');
	isnt(worker_pid($node, 'alone'), $pid, "$word: another worker");
	like(slurp_file($node->logfile, $log), $said, "$word: the log says it");
}
is(story('alone', 'fatal'), 'fatal deliver delivered deliver delivered', 'sent again after a FATAL error');
is(story('alone', 'crash'), 'crash deliver delivered deliver delivered', 'and after a crash');
is(story('alone', 'gone'), 'gone delivered deliver delivered deliver delivered',
	'what was delivered and not recorded is repeated');
all_came('alone', qr/^(story-0|gone)$/, 'ends of the process');

# -- what callbacks leave behind -------------------------------------------------

foreach my $word (
	qw(transaction broken lwlock lock hold critical context owner user stack block ignore wait mangle))
{
	my $name = "left_$word";

	create_faulty($name);
	$pid = wait_for_worker($node, $name);
	$node->safe_psql('postgres', event($name, 'a', "$word error $word") . event($name, 'a', $word)
		  . event($name, 'b', "error deliver"));
	drained($node, $name);
	all_came($name, qr/^$/, $word);
	is(worker_pid($node, $name), $pid, "$word: the worker goes on");
	sql_is($node, <<~"SQL", '', "$word: nothing of it is left");
		SELECT 'a lock' FROM pg_locks WHERE pid = $pid AND locktype <> 'virtualxid'
		UNION ALL SELECT 'a transaction' FROM pg_stat_activity WHERE pid = $pid AND xact_start IS NOT NULL
		SQL
	sql_is($node, "SELECT pg_terminate_backend($pid, 15000)", 't', "$word: it can be terminated");
	$node->safe_psql('postgres', "SELECT $api.drop_subscription('$name')");
}
my $said = join '', messages();
like($said, qr/WARNING:  sink library "order_idempotency_faulty" left $_/, "the log says: left $_")
  foreach 'a transaction open', 'lightweight locks held, or interrupts held off',
  'signals blocked or handled in another way', 'another user set';
is(scalar(() = $said =~ /WARNING:  sink library "order_idempotency_faulty" left/g), 8 + $random_left,
	'and nothing of those that left nothing');

# Memory, its own and other: neither grows for ever.
create_faulty('leaky');
$pid = wait_for_worker($node, 'leaky');
$node->safe_psql('postgres', join '', map { event('leaky', 'leak', 'leak:25') } 1 .. 12);
drained($node, 'leaky');
is(worker_pid($node, 'leaky'), $pid, 'a sink that leaks into its own memory');
is(scalar(() = join('', messages()) =~ /is started anew, since it holds 75 MB/g), 4,
	'is started anew, again and again');
$node->safe_psql('postgres', join '', map { event('leaky', 'spill', 'spill:50') } 1 .. 5);
drained($node, 'leaky');
like(join('', messages()), qr/FATAL:  sink library "order_idempotency_faulty" leaked 15\d MB/,
	'one that leaks elsewhere ends');
isnt(worker_pid($node, 'leaky'), $pid, 'with its worker');
all_came('leaky', qr/^$/, 'leaks');

# -- reasons ---------------------------------------------------------------------

$node->safe_psql('postgres', "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'");
create_extension($node, 'latin');
create_faulty('told', db => 'latin');
create_faulty('said');
my $log = -s $node->logfile;
foreach my $at ([ 'said', 'postgres' ], [ 'told', 'latin' ])
{
	my ($name, $db) = @$at;

	foreach my $how (qw(say shout))
	{
		foreach my $kind (qw(lines bytes secret long))
		{
			$node->safe_psql($db, event($name, $how, "$how:$kind $how:$kind"));
			fails($name, "^$kind: ", "$db: $how:$kind", $db);
			drained($node, $name, $db);
			sql_is($node, <<~"SQL", 't|t|t', "$db: it is short, one line, without the secret", $db);
				SELECT octet_length(last_error) < 512, last_error !~ '[\\x01-\\x1f\\x7f]',
					last_error !~ '$canary'
				FROM $api.subscription_status WHERE name = '$name'
				SQL
		}
	}
}
$said = join '', messages($log);
unlike($said, qr/$canary/, 'the log has no secret');
unlike(slurp_file($node->logfile, $log), qr/^LOG:  second/m, 'nor a line that the sink made up');
like($said, qr/lines: first LOG:  second third/, 'but what was said');
like($said, qr/secret: login by "\*\*\*" failed, \*\*\*/, 'with asterisks for the secret');

# -- startup, shutdown, library --------------------------------------------------

# Has the server of the subscription "said" changed, and an event sent.
sub with_option
{
	my ($change, $key) = @_;

	$node->safe_psql('postgres', "ALTER SERVER said OPTIONS ($change);" . event('said', $key, 'deliver'));
	return;
}

with_option("ADD missing 'the coin'", 'configured');
fails('said', 'server "said" is not configured: the coin', 'something is missing');
with_option("DROP missing, ADD startup 'error'", 'started');
fails('said', 'the option wants an error in startup', 'an error at the start');
foreach my $word (qw(transaction lwlock block overrun deaf))
{
	$node->safe_psql('postgres', "ALTER SERVER said OPTIONS (SET startup '$word')");
	next if $word ne 'overrun';
	fails('said', 'sink did not return by its deadline', 'a start that takes no end');
}
$node->safe_psql('postgres', 'ALTER SERVER said OPTIONS (DROP startup)');
drained($node, 'said');
like(delivered_keys('said'), qr/ configured started$/, 'a good start at last');
$log = -s $node->logfile;
with_option("ADD shutdown 'error'", 'shutdown-1');
drained($node, 'said');
with_option("SET shutdown 'deaf'", 'shutdown-2');
drained($node, 'said');
like(slurp_file($node->logfile, $log), qr/failed to shut down: the option wants an error in shutdown/,
	'an error at the end');
with_option('DROP shutdown', 'shutdown-3');
drained($node, 'said');
like(slurp_file($node->logfile, $log), qr/FATAL:  sink library "order_idempotency_faulty" does not return/,
	'an end that takes no end');
like(delivered_keys('said'), qr/ shutdown-1 shutdown-2 shutdown-3$/, 'and all came');

foreach my $case (
	[ 'nothing', 'returned no sink' ],
	[ 'magic', 'is for another version of order_idempotency \(The sink has magic number' ],
	[ 'deliver', 'has no callback to deliver with' ],
	[ 'error', 'the file wants an error' ])
{
	append_to_file($node->data_dir . '/faulty_init', $case->[0]);
	with_option("SET log '@{[ log_of('said') ]}'", "init-$case->[0]");
	fails('said', $case->[1], "a library that returns: $case->[0]");
	unlink $node->data_dir . '/faulty_init';
	drained($node, 'said');
}
$node->safe_psql('postgres', <<~"SQL");
	CREATE FOREIGN DATA WRAPPER order_idempotency_nowhere;
	CREATE SERVER nowhere FOREIGN DATA WRAPPER order_idempotency_nowhere;
	SELECT $api.create_subscription('nowhere', 'nowhere', options => '{"from": "start"}');
	SQL
fails('nowhere', 'could not access file', 'a library that is not there');
$node->safe_psql('postgres', "SELECT $api.drop_subscription('nowhere')");

# -- time ------------------------------------------------------------------------

# Beyond its deadline: with interrupts looked at it is canceled there; or, if it
# makes nothing of that, it ends.
create_faulty($_) foreach qw(late stubborn);
$node->safe_psql('postgres', event('late', 'late', 'overrun') . event('stubborn', 'stubborn', 'swallow'));
fails('late', 'sink did not return by its deadline', 'a delivery that takes no end');
drained($node, $_) foreach qw(late stubborn);
is(story($_, $_) =~ s/^\w+ //r, 'deliver delivered', "$_: the next attempt does it") foreach qw(late stubborn);

# Nobody has to wait for one, looking at interrupts or not.
foreach my $word (qw(hang overrun deaf busy swallow))
{
	my $db = "hung_$word";

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	create_extension($node, $db);
	create_faulty("one_$word", db => $db);
	create_faulty("two_$word", db => $db);
	$node->safe_psql($db, event("one_$word", 'hung', $word) . event("two_$word", 'hung', "$word $word"));
	wait_for_word("${_}_$word", $word) foreach qw(one two);
	cmp_ok(seconds(sub { $node->safe_psql($db, "SELECT $api.drop_subscription('one_$word')") }),
		'<', $at_once, "$word: drop_subscription does not wait");
	cmp_ok(seconds(sub { $node->safe_psql('postgres', "CREATE DATABASE other; DROP DATABASE other") }),
		'<', $at_once, "$word: nor does DROP DATABASE of another one");
	cmp_ok(seconds(sub { $node->safe_psql('postgres', "ALTER DATABASE $db RENAME TO renamed") }),
		'<', $at_once, "$word: nor a new name of its own");
	wait_for_word("two_$word", $word, 2);
	cmp_ok(seconds(sub { $node->safe_psql('postgres', "DROP DATABASE renamed") }),
		'<', $at_once, "$word: nor DROP DATABASE of its own");
}
foreach my $word (qw(hang overrun deaf busy swallow))
{
	$node->safe_psql('postgres', event('alone', "stop-$word", $word));
	wait_for_word('alone', $word);
	cmp_ok(seconds(sub { $node->stop('fast') }), '<', $at_once, "$word: nor does a shutdown");
	$node->start;
	drained($node, 'alone');
}
wait_for_worker($node, 'said');
with_option("ADD shutdown 'deaf'", 'stop');
drained($node, 'said');
cmp_ok(seconds(sub { $node->stop('fast') }), '<', $at_once, 'nor where the callback shutdown takes no end');
$said = join '', messages();
like($said, qr/"order_idempotency_faulty" did not shut down in time/, 'the log says it');
$node->start;
drained($node, 'said');
all_came('alone', qr/^(story-0|gone|stop-\w+)$/, 'at the end of all');
all_came('said', qr/^$/, 'at the end of all');

# No crash but those that were wanted.
my @crashes = $said =~ /(?:terminated by signal|exit code (?!0\b|1\b)|PANIC|TRAP).*/g;
is(scalar @crashes, 3, 'nothing else crashed') or diag(join "\n", @crashes);
done_testing();
