# The consumer of examples/pipeline between two brokers, or two parts of one, with kills
# of everything in the way, and whether what was sent came out as it should.
#
# A consumer stops itself when it has committed a message in the database and not yet
# acknowledged it; then something is killed. What is sent, and what must come of it, is
# pipeline_model.py's to say.

package OrderIdempotency::Pipeline;

use strict;
use warnings;

use FindBin;
use IPC::Run qw(run);
use JSON::PP;
use OrderIdempotency::Broker;
use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

my $api = 'order_idempotency';
my $examples = "$FindBin::RealBin/../../examples/pipeline";
my $built = ($ENV{OI_CLIENTS} // "$FindBin::RealBin/../../build/clients") . '/pipeline';
my $model = "$FindBin::RealBin/../lib/pipeline_model.py";

# Whom to kill, in turn: while a message is committed and not acknowledged, or at any time.
my @plan = ('consumer', 'broker', 'server', 'consumer at any time', 'server at any time', 'broker at any time');

# How many seconds without a message are the end.
my $patience = 100;

# What require_broker() is to be given. Without Go there is nothing to be tested.
sub requirements
{
	my $why = -e "$built/left-out" ? slurp_file("$built/left-out") : '';

	plan skip_all => $why =~ s/\n//r if $why =~ /^there is no /;
	return [ 'the consumer of examples/pipeline (see scripts/setup-clients)', -x "$built/pipeline" ];
}

# How much there is to be done, and how many processes share it. OI_PIPELINE is full, or MESSAGES:KILLS.
sub size
{
	my ($messages, $kills) = split /:/, ($ENV{OI_PIPELINE} || '10000:9') =~ s/^full$/100000:50/r;

	return (messages => $messages, kills => $kills, consumers => 2, seed => $ENV{OI_SEED} || 160);
}

# A pipeline that is set up: server, broker, feeder and consumers. Options: node; broker; kind, kafka or
# rabbitmq; env, of the program; variables, of the example's SQL.
sub new
{
	my ($class, %opt) = @_;
	my $self = bless { %opt, size() }, $class;

	$self->{dir} = $self->{node}->basedir . '/pipeline';
	mkdir $self->{dir} or die "could not create directory: $!";
	note "seed $self->{seed}, $self->{messages} messages, $self->{kills} kills";
	$self->{sent} = decode_json($self->_model('generate', $self->{kind}, $self->{seed}, $self->{messages}, map { $self->_file($_) } qw(feed expected)));
	$self->_psql('schema.sql');
	$self->_psql("$self->{kind}.sql", %{ $self->{variables} });
	$self->{node}->safe_psql('postgres', <<~"SQL");
		SELECT $api.alter_subscription(name, options => '{"backoff_min": 50, "backoff_max": 500, "max_attempts": 100000}')
		FROM $api.subscriptions
		SQL
	return $self;
}

# A file of a name.
sub _file { return "$_[0]->{dir}/$_[1]" }

# Runs the model, and returns what it says.
sub _model
{
	my ($self, @args) = @_;
	my ($out, $err) = ('', '');

	run([ 'python3', $model, @args ], '>', \$out, '2>', \$err) or die "pipeline_model.py: $err";
	return $out;
}

# Runs a script of the example.
sub _psql
{
	my ($self, $file, %variables) = @_;
	my ($out, $err) = run_command([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $self->{node}->connstr('postgres'),
		(map { ('-v', "$_=$variables{$_}") } sort keys %variables), '-f', "$examples/$file" ]);

	die "$file: $err" if $?;
	return;
}

# A process of the program, started.
sub _start
{
	my ($self, $name, $what, %env) = @_;
	my $node = $self->{node};
	my $url = 'postgres://pipeline@/postgres?host=' . $node->host . '&port=' . $node->port . '&pool_max_conns=8';
	my $input = $what =~ /^send/ ? $self->_file('feed') : '/dev/null';
	my $log = $self->_file("$name.log");
	my $logged = -s $log // 0;

	# before it says so it knows nothing of signals
	return OrderIdempotency::Broker->new(
		name => $name, dir => $self->{dir},
		ready => sub { $what =~ /^send/ || ((-s $log // 0) > $logged && slurp_file($log, $logged) =~ /at work/) },
		command => [ 'sh', '-c', 'exec "$0" "$1" <"$2"', "$built/pipeline", $what, $input ],
		env => { DATABASE_URL => $url, PATIENCE => '600s', %{ $self->{env} }, %env })->start;
}

# A consumer, which stops often enough for all kills to be made before it is done.
sub _consumer
{
	my ($self, $number) = @_;
	my $every = int($self->{messages} / (1.3 * $self->{kills} + 4));

	return $self->_start("consumer-$number", $self->{kind}, STOP_EVERY => $every);
}

# Is a process stopped by a signal?
sub _stopped
{
	my ($process) = @_;

	return slurp_file("/proc/$process->{pid}/stat") =~ /\) T /;
}

# Kills what is to be killed next, while a consumer is stopped, or a little later.
sub _kill
{
	my ($self, $number) = @_;
	my $what = $plan[ $self->{killed}++ % @plan ];
	my $consumers = $self->{running};

	$self->{done}{$what}++;
	if ($what =~ / at any time/)
	{
		$consumers->[$number]->thaw;
		sleep rand 0.3;
	}
	if ($what =~ /^consumer/)
	{
		$consumers->[$number]->kill9;
		$consumers->[$number] = $self->_consumer($number);
		return;
	}
	if ($what =~ /^broker/)
	{
		$self->{broker}->kill9;
		$self->{broker}->start;
	}
	else
	{
		kill_server($self->{node});
		$self->{node}->start;
	}
	$consumers->[$number]->thaw;
	return;
}

# Ends a consumer as an operator does, and checks that it ends well.
sub _end_consumer
{
	my ($self, $number) = @_;
	my $consumer = $self->{running}[$number];
	my $begin = time;

	$consumer->stop;
	ok($consumer->status == 0 && time - $begin < 15, 'a consumer that is told to end does so')
	  or diag($consumer->status . "\n" . slurp_file($consumer->log_file));
	return;
}

# Feeds, consumes and kills until all is consumed.
sub run_all
{
	my ($self) = @_;
	my $begin = time;
	my $consumers = $self->{running} = [ map { $self->_consumer($_) } 0 .. $self->{consumers} - 1 ];
	my $ended = 0;

	$self->{feeder} = $self->_start('feeder', "send-$self->{kind}");
	$self->{killed} = 0;
	my ($looked, $most, $since) = (time, 0, time);
	while (1)
	{
		foreach my $number (0 .. $#$consumers)
		{
			die "a consumer ended by itself:\n" . slurp_file($consumers->[$number]->log_file)
			  if !$consumers->[$number]->is_running;
			next if !_stopped($consumers->[$number]);
			$self->{killed} < $self->{kills} ? $self->_kill($number) : $consumers->[$number]->thaw;
			$since = time;
		}

		# one is told to end in the middle, and comes back
		if (!$ended && $self->{killed} > $self->{kills} / 2)
		{
			$ended = 1;
			$self->_end_consumer(0);
			$consumers->[0] = $self->_consumer(0);
		}
		sleep 0.02;
		next if time - $looked < 0.5;
		my $claimed = $self->_claimed;

		$looked = time;
		($most, $since) = ($claimed, time) if $claimed > $most;

		# where no more come, some are lost, which will be seen
		last if !$self->{feeder}->is_running && ($claimed >= $self->{sent}{distinct} || time - $since > $patience);
	}
	$self->{seconds} = time - $begin;
	is($self->{feeder}->status, 0, 'everything was sent');
	is($self->{killed}, $self->{kills}, "$self->{kills} kills");
	return;
}

# How many messages are claimed.
sub _claimed
{
	my ($self) = @_;

	return $self->{node}->safe_psql('postgres', "SELECT count(*) FROM $api.claims");
}

# Waits until a function says that nothing is left to be consumed, and lets no consumer stand still meanwhile.
sub wait_consumed
{
	my ($self, $check) = @_;

	ok( eval {
			wait_for('all messages to be consumed', sub {
				$_->thaw foreach grep { _stopped($_) } @{ $self->{running} };
				return $check->();
			}, 200);
		}, 'all messages are consumed');
	return;
}

# Ends the consumers, and waits until all events are delivered.
sub finish
{
	my ($self) = @_;

	$self->_end_consumer($_) foreach 0 .. $self->{consumers} - 1;
	wait_for('all events to be delivered', sub {
		$self->{node}->safe_psql('postgres', <<~"SQL") eq 't' }, 300);
		SELECT count($api.resume_subscription(name)) FILTER (WHERE state = 'retrying') >= 0
		   AND bool_and(lag_events = 0 AND parked = 0 AND dead = 0) FROM $api.subscription_status
		SQL
	return;
}

# Checks what came out, given functions that write the events, and those of rejected messages, into a file.
sub compare
{
	my ($self, $read) = @_;

	$read->('events', $self->_file('events'));
	$read->('commands.rejected', $self->_file('rejected'));
	append_to_file($self->_file('database'), $self->{node}->safe_psql('postgres', <<~"SQL"));
		SELECT jsonb_build_object(
			'orders', (SELECT jsonb_object_agg(key, jsonb_build_object('state', state, 'version', version,
					'amount', amount, 'currency', currency, 'account', account)) FROM $api.orders),
			'taken', (SELECT jsonb_object_agg(sku, 1000000 - count) FROM stock),
			'balance', (SELECT jsonb_object_agg(account || ' ' || currency, balance) FROM $api.account_balance))
		SQL
	my $found = decode_json($self->_model('check', $self->_file('expected'), $self->{kind},
		map { $self->_file($_) } qw(events rejected database)));
	my $sent = $self->{sent};

	is($found->{wrong}{$_}, 0, "$_: none") foreach sort keys %{ $found->{wrong} };
	diag(join "\n", map { ref $_ ? encode_json($_) : $_ } @{ $found->{examples} }) if @{ $found->{examples} };
	is($found->{events}, $sent->{events}, "$sent->{events} events of $sent->{distinct} messages");
	is($found->{rejected}, $sent->{rejected}, "$sent->{rejected} messages were rejected");
	cmp_ok($sent->{repeats}, '>', $sent->{messages} * 0.17, "$sent->{repeats} of $sent->{messages} were repeats");
	consistent($self->{node}, 'at the end');
	note sprintf '%d messages in %.1f s; kills: %s; %d events came again under their ids', $sent->{messages}, $self->{seconds},
	  join(', ', map { "$self->{done}{$_} $_" } sort keys %{ $self->{done} }), $found->{repeated};
	return;
}

1;
