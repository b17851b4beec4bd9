# A RabbitMQ of the test's own, read by pika, which shares no code with the sink.

package OrderIdempotency::RabbitMQ;

use strict;
use warnings;

use parent -norequire, 'OrderIdempotency::Broker';

use FindBin;
use IO::Socket::INET;
use IPC::Run qw(run);
use JSON::PP;
use OrderIdempotency::Broker;
use PostgreSQL::Test::Utils;

my $client = "$FindBin::RealBin/../lib/amqp_client.py";

# The broker's program; the one in the PATH wants to be another user.
sub _program { return '/usr/lib/rabbitmq/bin/rabbitmq-server' }

# What require_broker() is to be given.
sub requirements
{
	return ([ 'rabbitmq-server', -x _program() ],
		[ 'python3-pika', run([ 'python3', '-c', 'import pika' ], '>', '/dev/null', '2>', '/dev/null') ]);
}

# A broker, not started, with its files below a directory.  Options: conf, more lines
# for its configuration; plugins, a list.
sub new
{
	my ($class, $dir, %opt) = @_;
	my $name = "oi$$\@localhost";
	my ($port, $epmd, $dist) = map { free_port() } 1 .. 3;
	my $plugins = join ',', @{ $opt{plugins} // [] };
	my $self = OrderIdempotency::Broker::new($class,
		name => 'rabbitmq', dir => $dir, command => [ _program() ], port => $port, epmd => $epmd,
		env => {
			HOME => $dir, RABBITMQ_NODENAME => $name, RABBITMQ_CONF_ENV_FILE => "$dir/none",
			RABBITMQ_CONFIG_FILE => "$dir/rabbitmq.conf", RABBITMQ_MNESIA_BASE => "$dir/mnesia",
			RABBITMQ_LOG_BASE => $dir, RABBITMQ_LOGS => '-', RABBITMQ_NODE_PORT => $port,
			RABBITMQ_NODE_IP_ADDRESS => '127.0.0.1', RABBITMQ_DIST_PORT => $dist,
			RABBITMQ_ENABLED_PLUGINS_FILE => "$dir/plugins", RABBITMQ_PID_FILE => "$dir/pid",
			ERL_EPMD_PORT => $epmd, ERL_EPMD_ADDRESS => '127.0.0.1',
			RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS => '+S 1:1 +A 4 -kernel inet_dist_use_interface {127,0,0,1}'
		});

	append_to_file("$dir/plugins", "[$plugins].\n");
	append_to_file("$dir/rabbitmq.conf", <<~"CONF" . ($opt{conf} // ''));
		disk_free_limit.absolute = 1MB
		collect_statistics_interval = 60000
		CONF
	$self->{ready} = sub { $self->_is_up };

	# the port mapper of Erlang, which the broker would else leave running
	$self->{mapper} = OrderIdempotency::Broker->new(
		name => 'epmd', dir => "$dir/epmd", command => [ 'epmd', '-port', $epmd, '-address', '127.0.0.1' ],
		ready => sub { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $epmd) });
	$self->{mapper}->start;
	return $self;
}

sub port { return $_[0]->{port} }

# Does it take connections, since it was started?
sub _is_up
{
	my ($self) = @_;
	my $log = -e $self->log_file ? slurp_file($self->log_file, $self->{logged} // 0) : '';

	return $log =~ /Server startup complete/
	  && IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->port);
}

sub start
{
	my ($self) = @_;

	$self->{logged} = -e $self->log_file ? -s $self->log_file : 0;
	return $self->SUPER::start;
}

# Runs a command of rabbitmqctl, and returns its output.
sub ctl
{
	my ($self, @command) = @_;
	my $out = '';
	local %ENV = (%ENV, %{ $self->{env} });

	run([ '/usr/lib/rabbitmq/bin/rabbitmqctl', '-q', '-n', $self->{env}{RABBITMQ_NODENAME}, @command ],
		'<', '/dev/null', '>&', \$out)
	  or die "rabbitmqctl @command: $out";
	return $out;
}

# Has the client do something, and returns what it says, decoded.  Options: of the
# connection, as amqp_client.py has them.
sub client
{
	my ($self, $command, $argument, %opt) = @_;
	my ($out, $err) = ('', '');

	run([ 'python3', $client, encode_json({ port => $self->port + 0, %opt }), $command, encode_json($argument) ],
		'<', '/dev/null', '>', \$out, '2>', \$err)
	  or die "amqp_client.py $command: $err";
	return map { decode_json($_) } split /\n/, $out;
}

# Declares exchanges, queues and bindings. A quorum queue is there when its name is on disk, which
# takes a second more: a broker that is killed before does not know whose the log is that it finds
# then, and has a new one, of which nobody ever becomes the leader, so that nothing is confirmed.
sub declare
{
	my ($self, %what) = @_;
	my @quorum = map { $_->[0] } grep { ($_->[1]{'x-queue-type'} // '') eq 'quorum' } @{ $what{queues} // [] };

	$self->client('declare', \%what);
	wait_for('queues to be on disk', sub { $self->_on_disk(@quorum) }) if @quorum;
	return;
}

# Are quorum queues of the virtual host "/" among those that a broker that starts would find?
sub _on_disk
{
	my ($self, @names) = @_;
	my $node = $self->{env}{RABBITMQ_NODENAME};
	my $known = slurp_file("$self->{dir}/mnesia/$node/quorum/$node/names.dets");

	# each begins with its length, in one byte
	return !grep { index($known, pack 'C/a', "%2F_$_") < 0 } @names;
}

# Takes all messages out of a queue that nobody writes to any more, into a file, as the client writes them.
sub drain_to_file
{
	my ($self, $queue, $file) = @_;
	my $err = '';

	run([ 'python3', $client, encode_json({ port => $self->port + 0 }), 'drain', encode_json({ queue => $queue }) ],
		'<', '/dev/null', '>', $file, '2>', \$err)
	  or die "amqp_client.py drain: $err";
	return;
}

# Takes all messages out of a queue.
sub take_all
{
	my ($self, $queue) = @_;

	return $self->client('take', { queue => $queue });
}

1;
